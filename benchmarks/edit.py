"""Seconds of an edit and of the question about it, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.measure import Report, Shape
from benchmarks.shapes import Parts, prepared, synchronize
from benchmarks.texts import made_up_facts
from larimar.decoder import Sampling
from larimar.defaults import bank_config
from larimar.encoder import Text
from larimar.local_memory import LocalMemory
from larimar.memory import make_payload

FACTS, QUICK_FACTS = 64, 3
TOKENS = 8
"""Tokens of the answer to the question."""
EDIT_STAGES = ("encode", "embed", "append and fold")
STAGES = (*EDIT_STAGES, "scope and read", f"decode {TOKENS} tokens")


def run(
    quick: bool,
    use_ray: bool,
    told: Callable[[str], None],
    shape: str = Shape.small,
    device: str = "cpu",
    gb_per_s: float = 0.0,
) -> Report:
    """Milliseconds of every stage in one process, a fact at a time; no pipeline is needed.

    Args:
        gb_per_s: of no use here: an edit decodes nothing.
    """
    parts = prepared(Shape(shape), device)
    facts = made_up_facts(QUICK_FACTS if quick else FACTS)
    staged(parts, facts[:2], device)
    told(f"{len(facts)} facts")
    seconds = staged(parts, facts, device)
    report = Report(
        {
            "shape": str(shape),
            "device": device,
            "dtype": str(parts.stock.dtype),
            "facts": len(facts),
        }
    )
    for stage in STAGES:
        report.measure(stage, "ms", [1000 * one for one in seconds[stage]])
    edits = [sum(each) for each in zip(*(seconds[stage] for stage in EDIT_STAGES), strict=True)]
    report.measure("an edit in all", "ms", [1000 * one for one in edits])
    report.compare("an edit", report.measured["an edit in all"]["median"], unit="ms")
    return report


def staged(parts: Parts, facts: list[dict[str, str]], device: str) -> dict[str, list[float]]:
    """Seconds of each stage for each fact, written one after another and asked for at once."""
    memory = empty_memory(parts)
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for number, fact in enumerate(facts):
        prompt, answer = fact["prompt"], fact["answer"]
        clock = Clock(seconds, device)
        value, prompt_latent = parts.encoder.encode(
            [Text(prompt, answer), Text(prompt)], [True, False]
        )
        clock.stage("encode")
        scope_1S = parts.embedder.embed([prompt])
        clock.stage("embed")
        payload = make_payload(
            memory.state.config,
            str(number),
            prompt,
            answer,
            (),
            prompt_latent[None],
            value,
            scope_1S,
        )
        memory.write([payload])
        clock.stage("append and fold")
        memory.state.detect(scope_1S)
        read = memory.state.read(prompt_latent[None])[0]
        clock.stage("scope and read")
        parts.decoder.texts(
            [prompt], [Sampling(max_tokens=TOKENS)], [torch.from_numpy(read.value.copy())]
        )
        clock.stage(STAGES[-1])
    return seconds


def empty_memory(parts: Parts) -> LocalMemory:
    """A slots bank for the parts' latents."""
    fixed = parts.config.fixed_point
    return LocalMemory(
        bank_config(
            "slots",
            0,
            prompt_size=parts.encoder.prompt_size,
            value_size=parts.encoder.value_size,
            scope_size=parts.embedder.size,
            prompt_bits=fixed.prompt_bits,
            value_bits=fixed.value_bits,
            scope_bits=fixed.scope_bits,
            encoder_digest="benchmark",
            scope_digest="benchmark",
        )
    )


class Clock:
    """Adds the seconds since the last stage to a stage's list."""

    def __init__(self, seconds: dict[str, list[float]], device: str) -> None:
        self._seconds = seconds
        self._device = device
        self._last_s = time.perf_counter()

    def stage(self, name: str) -> None:
        """Ends a stage."""
        synchronize(self._device)
        now_s = time.perf_counter()
        self._seconds[name].append(now_s - self._last_s)
        self._last_s = now_s
