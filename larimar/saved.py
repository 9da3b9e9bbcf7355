"""A state as tensors for a checkpoint, and back; its folded bytes. Pure: no I/O.

F live facts in order of fact id, R rows of all of them, A address size, C value size, S scope size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

from larimar.errors import DataLoss, LarimarError
from larimar.memory import BankConfig
from larimar.payload import narrowest

if TYPE_CHECKING:
    from larimar.state import BankState

FORMAT = "larimar-state-2"
HASHED_FACTS = 1024
"""Facts whose folded bytes are put together and hashed at a time."""
Tensors = Mapping[str, np.ndarray]


def save(state: BankState) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a state.

    fact_ids (bytes of all of them), fact_id_sizes (F), versions (F), payload_sha256 (F, 32), rows
    (F, how many each has); slots: addresses (R, A) and values (F, C); pinv and gaussian: C and B;
    with the scope part: scope (R, S). Addresses, values and scope are int16 where all fit.
    """
    ids = sorted(state.facts)
    slots = state.facts.slots_of(ids)
    names = [fact_id.encode() for fact_id in ids]
    versions, sha256, rows = state.facts.columns(slots)
    tensors = {
        "fact_ids": np.frombuffer(b"".join(names), np.uint8),
        "fact_id_sizes": np.array([len(name) for name in names], "<i4"),
        "payload_sha256": sha256,
        "versions": versions.astype("<i8", copy=False),
        "rows": rows.astype("<i4", copy=False),
    }
    if state.sums is not None:
        tensors |= {"C": state.sums.c_KK.numpy().copy(), "B": state.sums.b_KC.numpy().copy()}
    if state.addresses is not None and state.values is not None:
        tensors |= {
            "addresses": narrowest(state.addresses.rows_of(slots)),
            "values": narrowest(state.values.take(slots)),
        }
    if state.scope is not None:
        tensors["scope"] = narrowest(state.scope.rows_of(slots))
    metadata = {
        "format": FORMAT,
        "config": state.config.to_json(),
        "parts": ",".join(state.parts),
        "version": str(state.version),
        "chain": state.chain,
        "erase_count": str(state.erase_count),
        "digest": state.digest(),
    }
    return tensors, metadata | {"sha256": _sha256_of(tensors, metadata)}


def restore(
    cls: type[BankState], tensors: Tensors, metadata: Mapping[str, str], check: bool = True
) -> BankState:
    """The state that `save` saved.

    Args:
        check: whether the tensors' own hash is compared; not where the file's has been.

    Raises:
        DataLoss: damaged, or saved in another format.
    """
    rest = {key: text for key, text in metadata.items() if key != "sha256"}
    if check and metadata.get("sha256") != _sha256_of(tensors, rest):
        raise DataLoss("a checkpoint is not what was saved", "BAD_CHECKPOINT")
    try:
        if metadata["format"] != FORMAT:
            raise ValueError(f"format {metadata['format']!r} in place of {FORMAT!r}")
        state = cls(BankConfig.from_json(metadata["config"]), metadata["parts"].split(","))
        state.version, state.chain = int(metadata["version"]), metadata["chain"]
        state.erase_count = int(metadata["erase_count"])
        _fill(state, tensors, metadata["digest"])
    except DataLoss:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, LarimarError) as error:
        raise DataLoss(f"a checkpoint cannot be read: {error}", "BAD_CHECKPOINT") from error
    return state


def _fill(state: BankState, tensors: Tensors, digest: str) -> None:
    """Puts a checkpoint's facts into a new state.

    The digest is compared before the rows are put, which starts an index that wants the processor.

    Raises:
        DataLoss: the facts have another digest.
    """
    counts = tensors["rows"]
    names = tensors["fact_ids"].tobytes()
    edges = accumulate(tensors["fact_id_sizes"].tolist(), initial=0)
    ids = [names[low:high].decode() for low, high in pairwise(edges)]
    slots = state.facts.add(ids, tensors["versions"], tensors["payload_sha256"], counts)
    state.row_count = int(counts.sum())
    if state.digest() != digest:
        raise DataLoss("a checkpoint does not give its digest", "BAD_CHECKPOINT")
    if state.sums is not None:
        state.sums.load(tensors["C"], tensors["B"])
    if state.addresses is not None and state.values is not None:
        state.addresses.put(slots, counts, tensors["addresses"])
        state.values.reserve(len(slots))
        state.values.put(slots, tensors["values"])
    if state.scope is not None:
        state.scope.put(slots, counts, tensors["scope"])


def hash_folded(state: BankState, part: str, hasher: hashlib._Hash) -> None:
    """Feeds a part's folded bytes, as `BankState.folded_sha256` states them."""
    if part == "memory" and state.sums is not None:
        for total in (state.sums.c_KK, state.sums.b_KC):
            hasher.update(total.numpy().astype("<i8", copy=False).tobytes())
        return
    ids = sorted(state.facts)
    for low in range(0, len(ids), HASHED_FACTS):
        slots = state.facts.slots_of(ids[low : low + HASHED_FACTS])
        if part == "scope" and state.scope is not None:
            hasher.update(state.scope.rows_of(slots).tobytes())
        elif state.addresses is not None and state.values is not None:
            counts = state.facts.rows[slots].astype("<i8")
            rows, values = state.addresses.rows_of(slots), state.values.take(slots)
            record, row = bytearray(), 0
            for number, count in enumerate(counts.tolist()):
                record += rows[row : row + count].data
                record += counts[number : number + 1].data
                record += values[number].data
                row += count
            hasher.update(record)


def _sha256_of(tensors: Tensors, metadata: Mapping[str, str]) -> str:
    hasher = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        hasher.update(f"{name} {array.dtype.str} {array.shape}".encode())
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()
