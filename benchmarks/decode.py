"""Decoding with a latent against decoding without, on the same prompts."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.measure import Aim, Report, in_turns, prepare_process, ratio_of_medians
from benchmarks.texts import made_up_facts
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.cli.processes import checkout_root
from larimar.decoder import BUCKET_ROWS, Decoder, Sampling
from larimar.encoder import Text
from larimar.errors import LarimarError

STEPS, ROUNDS = 64, 15
QUICK_STEPS, QUICK_ROUNDS = 6, 2
CANDIDATES = 64
"""Made-up facts among which prompts of one padded length are looked for."""
NO_TOKEN = -1
"""A stop token that no decoder chooses: all rows run for the same number of steps."""
AIM = Aim(1.05, at_least=False)


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> Report:
    """Tokens a second of both ways to decode, and seconds of a step; no pipeline is needed."""
    steps, rounds = (QUICK_STEPS, QUICK_ROUNDS) if quick else (STEPS, ROUNDS)
    decoder, prompts, z_BC = prepared()
    sides = {
        "with a latent": lambda: step_seconds(decoder, prompts, steps, z_BC),
        "without": lambda: step_seconds(decoder, prompts, steps, None),
    }
    in_turns(sides, 1, lambda _: None)
    found = in_turns(sides, rounds, told)
    report = Report({"rows": len(prompts), "steps": steps, "rounds": rounds})
    whole = {side: [sum(one) / steps for one in runs] for side, runs in found.items()}
    for side, seconds in whole.items():
        report.measure(f"{side}, tokens", "tokens/s", [len(prompts) / one for one in seconds])
        report.measure(f"{side}, a step", "ms", [1000 * one for one in seconds])
        first = [1000 * one[0] for one in found[side]]
        report.measure(f"{side}, first step (the prompt)", "ms", first)
    ratio = ratio_of_medians(whole["with a latent"], whole["without"])
    report.compare("step time against without", ratio, AIM)
    return report


def prepared() -> tuple[Decoder, list[str], torch.Tensor]:
    """A decoder that never stops by itself, prompts of one padded length, and their latents.

    Raises:
        LarimarError: no padded length has enough prompts.
    """
    prepare_process()
    folder = ModelFolder.open(checkout_root() / "models" / "larimar-small")
    dtype = serving_dtype()
    decoder = folder.decoder(dtype)
    decoder.stop_id = NO_TOKEN
    by_length: dict[int, list[Text]] = {}
    for fact in made_up_facts(CANDIDATES):
        same = by_length.setdefault(decoder.bucket(fact["prompt"]), [])
        same.append(Text(fact["prompt"], fact["answer"]))
        if len(same) == BUCKET_ROWS:
            values_BC = folder.encoder(dtype).values(same)
            return decoder, [one.prompt for one in same], torch.from_numpy(values_BC).to(dtype)
    raise LarimarError(f"no {BUCKET_ROWS} prompts of one padded length", "BAD_MEASUREMENT")


def step_seconds(
    decoder: Decoder, prompts: list[str], steps: int, z_BC: torch.Tensor | None
) -> list[float]:
    """Seconds of each decoding step of the prompts together; the first one reads the prompts.

    Raises:
        LarimarError: decoding ended after another number of steps.
    """
    seconds = []
    started = time.perf_counter()
    for _ in decoder.generate(prompts, [Sampling(max_tokens=steps)] * len(prompts), z_BC):
        now = time.perf_counter()
        seconds.append(now - started)
        started = now
    if len(seconds) != steps:
        raise LarimarError(f"{len(seconds)} steps in place of {steps}", "BAD_MEASUREMENT")
    return seconds
