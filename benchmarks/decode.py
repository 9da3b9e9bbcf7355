"""Decoding against `transformers` generate, alone and sixteen at once, and with a latent or not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import Aim, Report, Shape, in_turns, ratio_of_medians, turned
from benchmarks.shapes import Parts, bandwidth, prepared, synchronize
from benchmarks.texts import made_up_facts
from larimar.decoder import Decoder, Piece, Sampling
from larimar.decoding import MAX_ROWS
from larimar.drafts import MOST_DRAFTED
from larimar.encoder import Text
from larimar.errors import LarimarError

STEPS, ROUNDS = 64, 7
ALONE = 4
"""Prompts that are decoded one after another: some texts repeat themselves more than others."""
QUICK_STEPS, QUICK_ROUNDS = 4, 2
SINGLE_AIM = Aim(1.5, at_least=True)
CONCURRENT_AIM = Aim(3.0, at_least=True)
LATENT_AIM = Aim(1.05, at_least=False)
SIDES = ("with a latent", "without")

OURS, UNDRAFTED, LOOKUP, GENERATE, PADDED, FLOAT = (
    "larimar",
    "larimar without drafts",
    "transformers with prompt lookup",
    "transformers, one after another",
    "transformers, one padded batch",
    "transformers in float32, one after another",
)


def run(
    quick: bool,
    use_ray: bool,
    told: Callable[[str], None],
    shape: str = Shape.small,
    device: str = "cpu",
    gb_per_s: float = 0.0,
) -> Report:
    """Tokens a second of both, on the same prompts; no pipeline is needed.

    Args:
        gb_per_s: memory bandwidth of the device; 0 measures it.
    """
    steps, rounds = (QUICK_STEPS, QUICK_ROUNDS) if quick else (STEPS, ROUNDS)
    parts = prepared(Shape(shape), device)
    facts = made_up_facts(MAX_ROWS)
    prompts = [fact["prompt"] for fact in facts]
    report = Report(
        {
            "shape": str(shape),
            "device": device,
            "dtype": str(parts.stock.dtype),
            "steps": steps,
            "rounds": rounds,
            "rows at once": MAX_ROWS,
        }
    )
    for at_once, several in ((1, prompts[:ALONE]), (MAX_ROWS, prompts)):
        told(f"{at_once} at once")
        sides = sides_of(parts, several, steps, device, at_once)
        for side in sides.values():
            side()
        seconds = in_turns(
            {name: _timed(side, device) for name, side in sides.items()}, rounds, told
        )
        add_speeds(report, seconds, at_once, len(several) * steps)
    add_bound(report, parts, gb_per_s * 1e9 or bandwidth(device))
    z_BC = latents_of(parts, facts)
    add_latent_sides(report, parts.decoder, prompts, steps, z_BC, rounds, told)
    return report


def sides_of(
    parts: Parts, prompts: list[str], steps: int, device: str, at_once: int
) -> dict[str, Callable]:
    """What makes `steps` tokens after each prompt, by its name: one prompt at a time, or all.

    `transformers` has no queue: callers at the same time are served one after another, or wait
    for one another in a batch that somebody pads.
    """
    rows = [parts.decoder.tokenize(prompt) for prompt in prompts]
    groups = [prompts] if at_once > 1 else [[prompt] for prompt in prompts]
    sides: dict[str, Callable] = {
        OURS: lambda: [texts(parts.decoder, some, steps, drafts=True) for some in groups],
        GENERATE: lambda: [generated(parts.stock, [row], steps, device) for row in rows],
    }
    if at_once == 1:
        sides[UNDRAFTED] = lambda: [
            texts(parts.decoder, some, steps, drafts=False) for some in groups
        ]
        sides[LOOKUP] = lambda: [
            generated(parts.stock, [row], steps, device, lookup=MOST_DRAFTED - 1) for row in rows
        ]
    else:
        sides[PADDED] = lambda: generated(parts.stock, rows, steps, device)
    if parts.stock.dtype != torch.float32 and device == "cpu":
        stock = prepared(parts.shape, device, torch.float32).stock
        sides[FLOAT] = lambda: [generated(stock, [row], steps, device) for row in rows]
    return sides


def texts(decoder: Decoder, prompts: list[str], steps: int, drafts: bool) -> list[Piece]:
    """What Larimar's decoder says after some prompts at once, with drafts or without."""
    decoder.drafts = drafts
    return decoder.texts(prompts, [Sampling(max_tokens=steps)] * len(prompts))


@torch.inference_mode()
def generated(
    stock: Any, rows: list[list[int]], steps: int, device: str, lookup: int = 0
) -> torch.Tensor:
    """Greedy tokens, (B, steps), by `transformers`; rows are padded on the left.

    Args:
        lookup: tokens of its own drafts, `prompt_lookup_num_tokens`; 0 for none.

    Raises:
        LarimarError: it made another number of tokens.
    """
    length = max(map(len, rows))
    ids_BT = torch.tensor([[0] * (length - len(row)) + row for row in rows], device=device)
    mask_BT = torch.tensor(
        [[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device
    )
    found = stock.generate(
        ids_BT,
        attention_mask=mask_BT,
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **({"prompt_lookup_num_tokens": lookup} if lookup else {}),
    )[:, length:]
    if found.shape[1] != steps:
        raise LarimarError(f"generate made {found.shape[1]} tokens", "BAD_MEASUREMENT")
    return found


def add_speeds(report: Report, seconds: dict[str, list[float]], at_once: int, tokens: int) -> None:
    """Adds tokens a second of each side, which made so many, and the ratios to ours."""
    name = "1 at a time" if at_once == 1 else f"{at_once} at once"
    for side, found in seconds.items():
        report.measure(f"{name}, {side}", "tokens/s", [tokens / one for one in found])
    stepped = seconds.get(UNDRAFTED, seconds[OURS])
    steps = tokens / at_once
    report.measure(f"{name}, {OURS}, a step", "ms", [1000 * one / steps for one in stepped])
    if UNDRAFTED in seconds:
        report.compare(
            f"{name}, {OURS} against without drafts",
            ratio_of_medians(seconds[UNDRAFTED], seconds[OURS]),
        )
    for side in (GENERATE, LOOKUP, PADDED, FLOAT):
        if side in seconds:
            aim = SINGLE_AIM if at_once == 1 else CONCURRENT_AIM
            if side == LOOKUP:
                aim = None  # the aim is against plain generate
            report.compare(
                f"{name}, {OURS} against {side}",
                ratio_of_medians(seconds[side], seconds[OURS]),
                aim,
            )


def add_bound(report: Report, parts: Parts, bytes_per_s: float) -> None:
    """Adds what memory bandwidth alone allows, and our step beside it."""
    bound_ms = 1000 * parts.token_bytes() / bytes_per_s
    report.compare("weights read a step", parts.token_bytes() / 1e6, unit="MB")
    report.compare("memory bandwidth", bytes_per_s / 1e9, unit="GB/s")
    report.compare("bound by memory bandwidth, a step", bound_ms, unit="ms")
    step_ms = report.measured[f"1 at a time, {OURS}, a step"]["median"]
    report.compare("a step alone against the bound", step_ms / bound_ms)


def latents_of(parts: Parts, facts: list[dict[str, str]]) -> torch.Tensor:
    """A latent for each fact, (B, C)."""
    values_BC = parts.encoder.values([Text(fact["prompt"], fact["answer"]) for fact in facts])
    return torch.from_numpy(values_BC).to(parts.decoder.network.dtype)


def add_latent_sides(
    report: Report,
    decoder: Decoder,
    prompts: list[str],
    steps: int,
    z_BC: torch.Tensor,
    rounds: int,
    told: Callable[[str], None],
) -> None:
    """Adds the time of a step with a latent and without."""
    every: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        told(f"with a latent and without, round {number + 1} of {rounds}")
        for side, seconds in step_seconds(decoder, prompts, steps, z_BC, number).items():
            every[side] += seconds
    for side in SIDES:
        report.measure(f"{side}, a step", "ms", [1000 * one for one in every[side]])
    report.compare(
        "step time with a latent against without",
        ratio_of_medians(*(every[side] for side in SIDES)),
        LATENT_AIM,
    )


def step_seconds(
    decoder: Decoder, prompts: list[str], steps: int, z_BC: torch.Tensor, turn: int = 0
) -> dict[str, list[float]]:
    """Seconds of each decoding step, by side; the sides take turns at every step.

    The first step reads the prompts.

    Raises:
        LarimarError: a side did not decode for exactly this number of steps.
    """
    samplings = [Sampling(max_tokens=steps)] * len(prompts)
    decoder.drafts = False
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


def _timed(side: Callable, device: str) -> Callable[[], float]:
    def seconds() -> float:
        synchronize(device)
        started = time.perf_counter()
        side()
        synchronize(device)
        return time.perf_counter() - started

    return seconds
