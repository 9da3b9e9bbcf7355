"""A whole answer through the pipeline against the same model called in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import larimar
from benchmarks.measure import Aim, Report, prepare_process, ratio_of_medians, spread, turned
from benchmarks.texts import UNRELATED, made_up_facts
from larimar.cli.demo import own_pipeline
from larimar.cli.processes import checkout_root
from larimar.errors import LarimarError
from larimar.results import Answer, FailedWrite

FACTS, PROMPTS, ROUNDS, MAX_TOKENS = 100, 12, 5, 16
QUICK_FACTS, QUICK_PROMPTS, QUICK_ROUNDS, QUICK_MAX_TOKENS = 8, 2, 2, 4
BANK = "bench-ask"
TIMEOUT_S = 120.0
AIM = Aim(15.0, at_least=False)

Ask = Callable[[str, int], Answer]
SIDES = ("pipeline", "in process")


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> Report:
    """Milliseconds that gateway, hops and the log add to an answer, prompt by prompt."""
    facts = made_up_facts(QUICK_FACTS if quick else FACTS)
    prompts = QUICK_PROMPTS if quick else PROMPTS
    rounds = QUICK_ROUNDS if quick else ROUNDS
    max_tokens = QUICK_MAX_TOKENS if quick else MAX_TOKENS
    asked = {
        "in scope": [fact["prompt"] for fact in facts[:prompts]],
        "out of scope": list(UNRELATED[:prompts]),
    }
    model = loaded(facts)
    with (
        own_pipeline(no_ray=not use_ray) as (target, _),
        larimar.connect(target, timeout_s=TIMEOUT_S) as client,
    ):
        client.create_bank(BANK)
        for result in client.write_many(facts, bank=BANK):
            if isinstance(result, FailedWrite):
                raise result.error
        asks: dict[str, Ask] = {
            "pipeline": lambda prompt, tokens: client.ask(prompt, bank=BANK, max_tokens=tokens),
            "in process": lambda prompt, tokens: model.ask(prompt, max_tokens=tokens),
        }
        measure(asks, asked, 1, max_tokens, lambda _: None)
        found = measure(asks, asked, rounds, max_tokens, told)
    setting = {
        "facts": len(facts),
        "prompts_of_each_kind": prompts,
        "rounds": rounds,
        "max_tokens": max_tokens,
        "ray": use_ray,
    }
    return report_of(found, setting)


def loaded(facts: Sequence[dict[str, str]]) -> Any:
    """The model of the checkout in this process, with the facts written."""
    prepare_process()
    model = larimar.load(checkout_root() / "models" / "larimar-small")
    for fact in facts:
        model.write(fact["prompt"], fact["answer"])
    return model


def measure(
    asks: dict[str, Ask],
    asked: dict[str, list[str]],
    rounds: int,
    max_tokens: int,
    told: Callable[[str], None],
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each answer by kind of prompt and side, the sides in turns for each prompt.

    Raises:
        LarimarError: the sides do not do the same work: their answers differ, or a prompt is
            not of its kind.
    """
    found: dict[str, dict[str, list[float]]] = {kind: {s: [] for s in asks} for kind in asked}
    for number in range(rounds):
        told(f"round {number + 1} of {rounds}")
        for kind, prompts in asked.items():
            for place, prompt in enumerate(prompts):
                answers = []
                for side in turned(list(asks), number + place):
                    started = time.perf_counter()
                    answers.append(asks[side](prompt, max_tokens))
                    found[kind][side].append(time.perf_counter() - started)
                if len({(one.text, one.tokens, one.in_scope) for one in answers}) > 1:
                    raise LarimarError(f"the answers to {prompt!r} differ", "BAD_MEASUREMENT")
                if answers[0].in_scope != (kind == "in scope"):
                    raise LarimarError(f"{prompt!r} is not {kind}", "BAD_MEASUREMENT")
    return found


def added_ms(pipeline: Sequence[float], in_process: Sequence[float]) -> list[float]:
    """Milliseconds added to each answer, from the seconds of its two sides."""
    return [1000 * (a - b) for a, b in zip(pipeline, in_process, strict=True)]


def report_of(found: dict[str, dict[str, list[float]]], setting: dict[str, Any]) -> Report:
    """The report of what `measure` found for the two sides."""
    report = Report(setting)
    everything: list[float] = []
    for kind, seconds in found.items():
        for side in SIDES:
            report.measure(f"{kind}, {side}", "ms", [1000 * one for one in seconds[side]])
        added = added_ms(*(seconds[side] for side in SIDES))
        report.measure(f"{kind}, added", "ms", added)
        report.compare(
            f"{kind}, pipeline against in process",
            ratio_of_medians(*(seconds[side] for side in SIDES)),
        )
        everything += added
    report.compare("added at p50", spread(everything)["median"], AIM, "ms")
    return report
