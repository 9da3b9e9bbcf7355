"""A copy of the decoder that knows some facts, for evaluations only.

It is fine-tuned here, kept in the evaluation's own folder, and never part of a model folder.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model

from evaluation.baselines.fine_tuning import FACTS_TOGETHER, AnswerBatch
from evaluation.baselines.plain import trainable_decoder
from evaluation.data import EditRecord
from evaluation.systems import NewFact
from larimar.checkpoint import ModelFolder
from larimar.decoder import Decoder

FILE = "taught-decoder.safetensors"
PASSES = 20
"""Over the facts, at most."""
LEARNING_RATE = 5e-5
KNOWN_LOSS = 0.1
"""Mean NLL of an answer's tokens over a pass, at which the facts count as known."""


def taught_decoder(
    folder: ModelFolder, records: Sequence[EditRecord], out: Path, seed: int
) -> Decoder:
    """The decoder, all of it fine-tuned to say each record's true target after its prompt.

    What a run before taught is taken from OUT/taught-decoder.safetensors, if it was the same.
    The connector is left as it is.
    """
    decoder = trainable_decoder(folder)
    lm, path = decoder.network.lm, out / FILE
    facts = [NewFact(one.case_id, one.prompt, one.target_true) for one in records]
    made_of = _sha256(folder, facts, seed)
    if path.is_file() and _made_of(path) == made_of:
        load_model(lm, path)
        return decoder
    teach(decoder, facts, seed)
    save_model(lm, str(path), {"made_of": made_of})
    return decoder


def teach(decoder: Decoder, facts: Sequence[NewFact], seed: int) -> None:
    """Trains the language model, in place, until the facts are known or PASSES are done."""
    lm, order = decoder.network.lm, random.Random(seed)
    decoder.network.requires_grad_(False)
    lm.requires_grad_(True)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    shuffled = list(facts)
    for _ in range(PASSES):
        order.shuffle(shuffled)
        losses = []
        for low in range(0, len(shuffled), FACTS_TOGETHER):
            batch = AnswerBatch(decoder, shuffled[low : low + FACTS_TOGETHER])
            loss = batch.loss(decoder)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * batch.facts)
        if sum(losses) / len(shuffled) < KNOWN_LOSS:
            break
    lm.requires_grad_(False)


def _sha256(folder: ModelFolder, facts: Sequence[NewFact], seed: int) -> str:
    told = [[fact.prompt, fact.answer] for fact in facts]
    settings = [PASSES, LEARNING_RATE, KNOWN_LOSS]
    whole = json.dumps([folder.model_digest, told, seed, settings])
    return hashlib.sha256(whole.encode()).hexdigest()


def _made_of(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("made_of", "")
