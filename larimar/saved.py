"""A state as tensors for a checkpoint, and back. Pure: what is done with them is the caller's.

F live facts in order of fact id, R rows of all of them, A address size, C value size, S scope size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from larimar.errors import DataLoss, LarimarError
from larimar.memory import BankConfig

if TYPE_CHECKING:
    from larimar.state import BankState, LiveFact

FORMAT = "larimar-state-1"
Tensors = Mapping[str, np.ndarray]


def save(state: BankState) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a state.

    fact_ids (bytes of all of them), fact_id_sizes (F), versions (F), payload_sha256 (F, 32), rows
    (F, how many each has); slots: addresses (R, A) and values (F, C); pinv and gaussian: C and B;
    with the scope part: scope (R, S).
    """
    config, facts = state.config, list(state.live())
    names = [fact.fact_id.encode() for fact in facts]
    hashes = b"".join(fact.sha256 for fact in facts)
    tensors = {
        "fact_ids": np.frombuffer(b"".join(names), np.uint8),
        "fact_id_sizes": np.array([len(name) for name in names], "<i4"),
        "payload_sha256": np.frombuffer(hashes, np.uint8).reshape(-1, 32),
        "versions": np.array([fact.version for fact in facts], "<i8"),
        "rows": np.array([fact.rows for fact in facts], "<i4"),
    }
    if state.sums is not None:
        tensors |= {"C": state.sums.c_KK.numpy().copy(), "B": state.sums.b_KC.numpy().copy()}
    elif "memory" in state.parts:
        addresses = [np.zeros((0, config.prompt_size), "<i4"), *(fact.addresses for fact in facts)]
        values = [np.zeros((0, config.value_size), "<i4"), *(fact.value[None] for fact in facts)]
        tensors |= {"addresses": np.concatenate(addresses), "values": np.concatenate(values)}
    if "scope" in state.parts:
        scope = [np.zeros((0, config.scope_size), "<i4"), *(fact.scope for fact in facts)]
        tensors["scope"] = np.concatenate(scope)
    metadata = {
        "format": FORMAT,
        "config": config.to_json(),
        "parts": ",".join(state.parts),
        "version": str(state.version),
        "chain": state.chain,
        "erase_count": str(state.erase_count),
        "digest": state.digest(),
    }
    return tensors, metadata | {"sha256": _sha256_of(tensors, metadata)}


def restore(cls: type[BankState], tensors: Tensors, metadata: Mapping[str, str]) -> BankState:
    """The state that `save` saved.

    Raises:
        DataLoss: damaged, or saved in another format.
    """
    rest = {key: text for key, text in metadata.items() if key != "sha256"}
    if metadata.get("sha256") != _sha256_of(tensors, rest):
        raise DataLoss("a checkpoint is not what was saved", "BAD_CHECKPOINT")
    try:
        if metadata["format"] != FORMAT:
            raise ValueError(f"format {metadata['format']!r} in place of {FORMAT!r}")
        state = cls(BankConfig.from_json(metadata["config"]), metadata["parts"].split(","))
        state.version, state.chain = int(metadata["version"]), metadata["chain"]
        state.erase_count = int(metadata["erase_count"])
        state.place(_facts_of(tensors))
        if state.sums is not None:
            state.sums.load(tensors["C"], tensors["B"])
    except (KeyError, ValueError, TypeError, AttributeError, LarimarError) as error:
        raise DataLoss(f"a checkpoint cannot be read: {error}", "BAD_CHECKPOINT") from error
    if state.digest() != metadata["digest"]:
        raise DataLoss("a checkpoint does not give its digest", "BAD_CHECKPOINT")
    return state


def _facts_of(tensors: Tensors) -> Iterator[LiveFact]:
    from larimar.state import NO_VECTOR, LiveFact

    rows = tensors["rows"].tolist()
    if not rows:
        return
    absent = [NO_VECTOR] * len(rows)
    columns = [
        [name.tobytes().decode() for name in _split(tensors["fact_ids"], tensors["fact_id_sizes"])],
        tensors["versions"].tolist(),
        [row.tobytes() for row in tensors["payload_sha256"]],
        rows,
        _split(tensors["addresses"], rows) if "addresses" in tensors else absent,
        tensors.get("values", absent),
        _split(tensors["scope"], rows) if "scope" in tensors else absent,
    ]
    for fact in zip(*columns, strict=True):
        yield LiveFact(*fact)


def _split(array: np.ndarray, sizes: np.ndarray | list[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(sizes)[:-1])


def _sha256_of(tensors: Tensors, metadata: Mapping[str, str]) -> str:
    hasher = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        hasher.update(f"{name} {array.dtype.str} {array.shape}".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()
