"""Bulk writing through the pipeline against the bare encoder and scope passes it needs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import larimar
from benchmarks.measure import Aim, Report, in_turns, prepare_process, ratio_of_medians, seconds_of
from benchmarks.texts import made_up_facts
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.cli.demo import own_pipeline
from larimar.cli.processes import checkout_root
from larimar.client import Client
from larimar.encoder import Encoder, Text
from larimar.results import FailedWrite
from larimar.scope import SentenceEmbedder

FACTS, ROUNDS = 1000, 5
QUICK_FACTS, QUICK_ROUNDS = 24, 2
BATCH_FACTS = 128
"""Facts that the gateway encodes together."""
WARM_FACTS = 16
TIMEOUT_S = 300.0
AIM = Aim(0.8, at_least=True)

Facts = Sequence[dict[str, str]]


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> Report:
    """Facts a second, durable in the log, beside facts a second merely encoded and embedded."""
    facts = made_up_facts(QUICK_FACTS if quick else FACTS)
    rounds = QUICK_ROUNDS if quick else ROUNDS
    encoder, embedder = models()
    with (
        own_pipeline(no_ray=not use_ray) as (target, _),
        larimar.connect(target, timeout_s=TIMEOUT_S) as client,
    ):
        pipeline_seconds(client, facts[:WARM_FACTS])
        bare_pass(encoder, embedder, facts[:WARM_FACTS])
        seconds = in_turns(
            {
                "pipeline": lambda: pipeline_seconds(client, facts),
                "bare": lambda: seconds_of(lambda: bare_pass(encoder, embedder, facts)),
            },
            rounds,
            told,
        )
    report = Report({"facts": len(facts), "rounds": rounds, "ray": use_ray})
    for what, side in (("written through the pipeline", "pipeline"), ("bare passes", "bare")):
        report.measure(what, "facts/s", [len(facts) / one for one in seconds[side]])
    report.compare(
        "throughput against bare", ratio_of_medians(seconds["bare"], seconds["pipeline"]), AIM
    )
    return report


def models() -> tuple[Encoder, SentenceEmbedder]:
    """Encoder and sentence embedder as their services load them."""
    prepare_process()
    folder = ModelFolder.open(checkout_root() / "models" / "larimar-small")
    dtype = serving_dtype()
    return folder.encoder(dtype), SentenceEmbedder(folder.config.scope.package, dtype)


def bare_pass(encoder: Encoder, embedder: SentenceEmbedder, facts: Facts) -> None:
    """Prompt latent, value and sentence embedding of each fact, in the service's batches."""
    for low in range(0, len(facts), BATCH_FACTS):
        batch = facts[low : low + BATCH_FACTS]
        texts, with_value = [], []
        for fact in batch:
            texts += [Text(fact["prompt"]), Text(fact["prompt"], fact["answer"])]
            with_value += [False, True]
        encoder.encode(texts, with_value)
        embedder.embed([fact["prompt"] for fact in batch])


def pipeline_seconds(client: Client, facts: Facts) -> float:
    """Seconds until every fact is acknowledged, in a bank of its own that is deleted afterwards.

    Raises:
        LarimarError: a fact was not written.
    """
    bank = f"bench-{uuid.uuid4().hex[:12]}"
    client.create_bank(bank)
    try:
        return seconds_of(lambda: _write_all(client, facts, bank))
    finally:
        client.delete_bank(bank)


def _write_all(client: Any, facts: Facts, bank: str) -> None:
    for result in client.write_many(facts, bank=bank):
        if isinstance(result, FailedWrite):
            raise result.error
