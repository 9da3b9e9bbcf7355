"""What random programs are made of: steps, banks and the few facts that they write."""

from __future__ import annotations

import functools
import random
from typing import NamedTuple

import numpy as np

from larimar.memory import BankConfig, make_payload
from tests.twin import Fact

ADDRESSINGS = ("slots", "pinv", "gaussian")
FACTS = ("a", "ä", "long id", "\U0001f600")
BANKS = ("root", "one", "two", "three")
VARIANTS = 6
"""Contents of a fact: few, so that banks often say the same."""
NUMBERS = 6
"""Random numbers of a step."""

WEIGHTS = {
    "write": 22,
    "forget": 10,
    "batch": 10,
    "resend": 6,
    "expect": 5,
    "erase": 8,
    "erase_again": 2,
    "fork": 12,
    "merge": 16,
    "merge_again": 6,
    "checkpoint": 7,
    "damage": 4,
    "restart": 6,
    "drop": 3,
    "archive": 3,
    "look": 8,
    "look_back": 8,
}


class Step(NamedTuple):
    """One step of a program."""

    name: str
    numbers: tuple[int, ...]


class Program(NamedTuple):
    """A program; its addressing is that of its first bank."""

    addressing: str
    steps: tuple[Step, ...]


def random_program(seed: int, size: int) -> Program:
    """A program of about `size` steps."""
    rng = random.Random(seed)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    chosen = rng.choices(names, weights, k=rng.randint(size // 2, size + size // 2))
    steps = [Step("write", _numbers(rng)), *(Step(name, _numbers(rng)) for name in chosen)]
    return Program(ADDRESSINGS[seed % len(ADDRESSINGS)], tuple(steps))


def _numbers(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.randrange(1 << 16) for _ in range(NUMBERS))


@functools.cache
def config_of(addressing: str) -> BankConfig:
    """The configuration of a program's banks."""
    return BankConfig(
        addressing=addressing,
        slots=0 if addressing == "slots" else 5,
        prompt_size=5,
        value_size=4,
        scope_size=6,
        alpha=0.3,
    )


@functools.cache
def written(addressing: str, fact_id: str, variant: int) -> tuple[Fact, bytes]:
    """A fact for the twin, and the payload that the store is given."""
    config, rng = config_of(addressing), random.Random(variant)
    rows = 1 + variant % 3

    def vector(size: int) -> tuple[int, ...]:
        return tuple(rng.randint(-(1 << 17), 1 << 17) for _ in range(size))

    prompts = tuple(vector(config.prompt_size) for _ in range(rows))
    value = vector(config.value_size)
    scope = tuple(vector(config.scope_size) for _ in range(rows))
    rephrasings = tuple(f"rephrasing {n} of {variant}" for n in range(rows - 1))
    prompt, answer = f'prompt {variant} é \\ "quoted"\n', f"answer {variant}"
    payload = make_payload(
        config, fact_id, prompt, answer, rephrasings,
        _floats(prompts), _floats(value), _floats(scope),
    )  # fmt: skip
    # The addresses of a fixed-size bank are floats of its reference memory, rounded once: they are
    # the twin's input as they are the log's.
    addresses = prompts if addressing == "slots" else tuple(map(tuple, payload.addresses.tolist()))
    fact = Fact(fact_id, prompt, answer, rephrasings, addresses, value, scope)
    return fact, payload.to_bytes()


def _floats(numbers: tuple) -> np.ndarray:
    return (np.array(numbers, np.float64) / 2**16).astype(np.float32)
