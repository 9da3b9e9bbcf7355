"""Decoding with a latent against decoding without, on the same prompts."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.measure import Aim, Report, prepare_process, ratio_of_medians, turned
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
SIDES = ("with a latent", "without")


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> Report:
    """Seconds of a step and tokens a second of both ways to decode; no pipeline is needed."""
    steps, rounds = (QUICK_STEPS, QUICK_ROUNDS) if quick else (STEPS, ROUNDS)
    decoder, prompts, z_BC = prepared()
    runs: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    step_seconds(decoder, prompts, steps, z_BC)
    for number in range(rounds):
        told(f"round {number + 1} of {rounds}")
        for side, seconds in step_seconds(decoder, prompts, steps, z_BC, number).items():
            runs[side].append(seconds)
    return report_of(runs, {"rows": len(prompts), "steps": steps, "rounds": rounds})


def report_of(runs: dict[str, list[list[float]]], setting: dict[str, int]) -> Report:
    """The report of the seconds of each step of each run, for both sides."""
    report = Report(setting)
    every = {side: [one for seconds in found for one in seconds] for side, found in runs.items()}
    for side, found in runs.items():
        tokens = [setting["rows"] * len(seconds) / sum(seconds) for seconds in found]
        report.measure(f"{side}, tokens", "tokens/s", tokens)
        report.measure(f"{side}, a step", "ms", [1000 * one for one in every[side]])
        first = [1000 * seconds[0] for seconds in found]
        report.measure(f"{side}, first step (the prompt)", "ms", first)
    report.compare("step time against without", ratio_of_medians(*(every[s] for s in SIDES)), AIM)
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
    decoder: Decoder, prompts: list[str], steps: int, z_BC: torch.Tensor, turn: int = 0
) -> dict[str, list[float]]:
    """Seconds of each decoding step, by side; the sides take turns at every step.

    The first step reads the prompts.

    Raises:
        LarimarError: a side did not decode for exactly this number of steps.
    """
    samplings = [Sampling(max_tokens=steps)] * len(prompts)
    decoding = {
        "with a latent": decoder.generate(prompts, samplings, z_BC),
        "without": decoder.generate(prompts, samplings),
    }
    seconds: dict[str, list[float]] = {side: [] for side in decoding}
    for step in range(steps):
        for side in turned(list(SIDES), turn + step):
            started = time.perf_counter()
            if next(decoding[side], None) is None:
                raise LarimarError(f"decoding {side} ended at step {step}", "BAD_MEASUREMENT")
            seconds[side].append(time.perf_counter() - started)
    if any(next(rest, None) is not None for rest in decoding.values()):
        raise LarimarError(f"decoding went on after {steps} steps", "BAD_MEASUREMENT")
    return seconds
