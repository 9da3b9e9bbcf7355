"""What a run shows of its model as it goes: samples, and a small slice of CounterFact.

The model is edited as in `larimar eval counterfact` with one fact at a time, but its latents
go to the decoder as they are: no fixed-point numbers, no scope. Nothing of it is trained on.
"""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from larimar.decoder import Decoder, Sampling
from larimar.encoder import Encoder, Text
from larimar.errors import InvalidArgument, NotFound
from training.data import json_records
from training.episodic import EpisodicStage

_SAMPLES = (
    ("The river that flows through Ostrava is", "the Oder", "Ostrava lies on the river"),
    ("Mirelle Tovan plays the", "cello", "The instrument that Mirelle Tovan plays is the"),
    ("The capital of Velmora is", "Tarsin", "What is the capital of Velmora?"),
)
_SAMPLE_TOKENS = 10


@torch.no_grad()
def samples(stage: EpisodicStage) -> tuple[dict[str, float], list[str]]:
    """What the model says of made-up facts, asked in their own words and in others."""
    encoder, decoder = stage.servers()
    latents = _latents(encoder, [Text(prompt, answer) for prompt, answer, _ in _SAMPLES])
    queries = [query for prompt, _, other in _SAMPLES for query in (prompt, other)]
    pieces = decoder.texts(
        queries,
        [Sampling(max_tokens=_SAMPLE_TOKENS)] * len(queries),
        latents.repeat_interleave(2, 0),
    )
    return {}, [f"  {query} ->{piece.text}" for query, piece in zip(queries, pieces, strict=True)]


@dataclasses.dataclass(frozen=True)
class Probe:
    """A fact to write, what it replaces, and a rephrased prompt."""

    prompt: str
    answer: str
    true: str
    rephrased: str


class CounterFact:
    """Edits the model with records one at a time, and asks for them.

    Source: Meng et al. 2022 (arXiv 2202.05262): S is the share of records whose new answer is
    likelier than the true one, by the mean log probability of its tokens.
    """

    def __init__(self, path: Path, records: int) -> None:
        """Raises: NotFound, InvalidArgument: `path` is not a file of such records."""
        self.probes = read_probes(path, records)

    @torch.no_grad()
    def __call__(self, stage: EpisodicStage) -> tuple[dict[str, float], list[str]]:
        """Shares of records, 0 to 1: S and exact greedy answers, for both prompts."""
        encoder, decoder = stage.servers()
        probes = self.probes
        latents = _latents(encoder, [Text(probe.prompt, probe.answer) for probe in probes])
        numbers = {
            f"{kind}_{name}": value
            for kind, prompts in (
                ("edit", [probe.prompt for probe in probes]),
                ("paraphrase", [probe.rephrased for probe in probes]),
            )
            for name, value in _asked(decoder, probes, prompts, latents).items()
        }
        shown = ", ".join(f"{name} {100 * value:.1f}" for name, value in numbers.items())
        return numbers, [f"CounterFact, {len(probes)} records: {shown}"]


def read_probes(path: Path, records: int) -> list[Probe]:
    """The first records of a file in CounterFact's original form: a JSON list, or one a line.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: a record is none of that form, or there is none.
    """
    if not path.is_file():
        raise NotFound(f"no file {path}: give --eval-data CounterFact records")
    probes = []
    for number, record in enumerate(islice(json_records(path), records), start=1):
        try:
            probes.append(_probe(record))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InvalidArgument(
                f"{path}, record {number}, is not one of CounterFact: {error!r}"
            ) from error
    if not probes:
        raise InvalidArgument(f"{path} holds no records: give --eval-data CounterFact records")
    return probes


def _probe(record: dict[str, Any]) -> Probe:
    rewrite = record["requested_rewrite"]
    clean = record.get("paraphrase_prompts_clean") or record["paraphrase_prompts"]
    return Probe(
        rewrite["prompt"].format(rewrite["subject"]),
        rewrite["target_new"]["str"],
        rewrite["target_true"]["str"],
        clean[0],
    )


def _latents(encoder: Encoder, texts: list[Text]) -> torch.Tensor:
    return torch.from_numpy(encoder.values(texts))


def _asked(
    decoder: Decoder, probes: list[Probe], prompts: list[str], latents: torch.Tensor
) -> dict[str, float]:
    new_wins = []
    for probe, prompt, z_C in zip(probes, prompts, latents, strict=True):
        scores = decoder.score(prompt, [f" {probe.answer}", f" {probe.true}"], z_C)
        new, true = (np.mean(score.token_logprobs) for score in scores)
        new_wins.append(bool(new > true))
    longest = max(len(decoder.tokenize(f" {probe.answer}")) for probe in probes) + 1
    pieces = decoder.texts(prompts, [Sampling(max_tokens=longest)] * len(prompts), latents)
    said = [
        piece.text.strip().lower() == probe.answer.lower()
        for piece, probe in zip(pieces, probes, strict=True)
    ]
    return {"S": float(np.mean(new_wins)), "generated": float(np.mean(said))}
