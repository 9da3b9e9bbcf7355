"""Latents of CounterFact edits by the shipped encoder, and memories of them as banks make them.

N facts, K slots, C value size, D prompt-latent size, Q queries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.cli.processes import checkout_root
from larimar.defaults import bank_config
from larimar.encoder import Text
from larimar.errors import NotFound
from larimar.memory import BankConfig, BankState, Event, Kind, Payload, make_payload

RECORDS = Path("counterfact") / "counterfact_original_form_2000.jsonl"
"""Within the folder of the evaluation data: edits with paraphrases of their prompts."""
SCOPE_SIZE = 1
"""Scope takes no part in what is measured here."""
BATCH_TEXTS = 256


@dataclass(frozen=True)
class EditText:
    """An edit, and another way to ask for it."""

    prompt: str
    answer: str
    rephrased: str


@dataclass(frozen=True)
class Latents:
    """What the encoder makes of edits, and how banks round it."""

    prompts_ND: np.ndarray
    rephrased_ND: np.ndarray
    values_NC: np.ndarray
    prompt_bits: int
    value_bits: int

    def config(self, addressing: str, slots: int) -> BankConfig:
        """The configuration of a bank for this encoder, with its defaults."""
        return bank_config(
            addressing,
            slots,
            prompt_size=self.prompts_ND.shape[1],
            value_size=self.values_NC.shape[1],
            scope_size=SCOPE_SIZE,
            prompt_bits=self.prompt_bits,
            value_bits=self.value_bits,
            scope_bits=0,
            encoder_digest="",
            scope_digest="",
        )


def edit_texts(count: int) -> list[EditText]:
    """The first edits of the file; the folder of the evaluation data is named by LARIMAR_DATA.

    Raises:
        NotFound: there is no such file.
    """
    folder = Path(os.environ.get("LARIMAR_DATA") or "")
    if not (folder / RECORDS).is_file():
        raise NotFound(
            f"no {RECORDS}: set LARIMAR_DATA to the folder of the evaluation data", "NO_DATA"
        )
    with (folder / RECORDS).open(encoding="utf-8") as lines:
        return [edit_text(json.loads(line)) for line, _ in zip(lines, range(count), strict=False)]


def edit_text(record: dict) -> EditText:
    """An edit of a record in CounterFact's original layout."""
    edit = record["requested_rewrite"]
    return EditText(
        prompt=edit["prompt"].format(edit["subject"]),
        answer=edit["target_new"]["str"],
        rephrased=record["paraphrase_prompts_clean"][0],
    )


def encoded(texts: Sequence[EditText], told: Callable[[str], None]) -> Latents:
    """Latents of edits, by the shipped encoder.

    Cost: 3 passes a fact, about 4 ms in all on 2 cores.
    """
    folder = ModelFolder.open(checkout_root() / "models" / "larimar-small")
    encoder = folder.encoder(serving_dtype())
    rows: list[list[np.ndarray]] = [[], [], []]
    for low in range(0, len(texts), BATCH_TEXTS):
        told(f"encoded {low} of {len(texts)} edits")
        batch = texts[low : low + BATCH_TEXTS]
        rows[0].append(encoder.prompt_latents([one.prompt for one in batch]))
        rows[1].append(encoder.prompt_latents([one.rephrased for one in batch]))
        rows[2].append(encoder.values([Text(one.prompt, one.answer) for one in batch]))
    fixed = folder.config.fixed_point
    parts = [np.concatenate(part) for part in rows]
    return Latents(*parts, prompt_bits=fixed.prompt_bits, value_bits=fixed.value_bits)


def payloads(config: BankConfig, latents: Latents, count: int) -> list[Payload]:
    """The first facts as a bank's log holds them."""
    scope = np.zeros((1, SCOPE_SIZE), np.float32)
    return [
        make_payload(
            config, fact_id(n), "", "", (), latents.prompts_ND[n : n + 1], latents.values_NC[n],
            scope,
        )
        for n in range(count)
    ]  # fmt: skip


def fact_id(number: int) -> str:
    """Fact ids that sort by number."""
    return f"fact-{number:06d}"


def written(state: BankState, facts: Sequence[Payload]) -> None:
    """Folds WRITEs of these facts."""
    events = [
        (Event(state.version + n, Kind.WRITE, fact.fact_id, "", 0, fact.sha256, ""), fact)
        for n, fact in enumerate(facts, start=1)
    ]
    state.fold(events)


def forgotten(state: BankState, facts: Sequence[Payload]) -> None:
    """Folds FORGETs of these facts."""
    events = [
        (Event(state.version + n, Kind.FORGET, fact.fact_id, "", 0, "", ""), None)
        for n, fact in enumerate(facts, start=1)
    ]
    state.fold(events, {state.facts[fact.fact_id][0]: fact for fact in facts})


def nearest_values(readouts_QC: np.ndarray, values_NC: np.ndarray) -> np.ndarray:
    """Index of the stored value with the largest cosine to each read-out; -1 for a read-out of 0.

    Cosine, because a ridge shortens read-outs without turning them.
    """
    lengths_N = np.linalg.norm(values_NC, axis=1)
    nearest = (readouts_QC @ values_NC.T / lengths_N).argmax(1)
    return np.where(np.abs(readouts_QC).max(1) > 0, nearest, -1)
