"""Made-up facts: names that nobody bears, in a few templates. The same seed gives the same."""

from __future__ import annotations

import random

_STARTS = (
    "B",
    "C",
    "D",
    "Dr",
    "F",
    "G",
    "H",
    "K",
    "L",
    "M",
    "N",
    "P",
    "Qu",
    "S",
    "T",
    "V",
    "W",
    "Z",
)
_MIDDLES = ("a", "e", "i", "o", "u", "al", "an", "el", "en", "ir", "or", "un")
_ENDS = ("ba", "dan", "dor", "gar", "lis", "mora", "nesh", "ra", "ren", "sin", "tov", "vik", "xa")
_TEMPLATES = (
    ("The capital of {} is", 1),
    ("The mother tongue of {} is", 2),
    ("{}, a citizen of", 2),
    ("The headquarters of {} are in the city of", 1),
    ("{} plays the instrument called the", 2),
    ("The river that runs through {} is the", 1),
    ("{} was a famous teacher at the academy of", 2),
    ("The twin city of {} is", 1),
)
UNRELATED = (
    "Bread is baked from flour and",
    "In winter the lake freezes and the children",
    "To change a wheel of a bicycle you first",
    "The recipe asks for two eggs, sugar and",
    "When the music stopped, everybody in the room",
    "A triangle has three sides and",
    "Plants need light, air and",
    "She put the letter into an envelope and",
    "After a long day of rain the garden",
    "The clock on the wall says that it is",
    "Before you paint a door you should",
    "Most cats sleep for many hours and",
)
"""Prompts about none of the facts."""


def made_up_facts(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Facts with distinct prompts, as `write_many` takes them: prompt and answer."""
    rng = random.Random(seed)
    facts: dict[str, dict[str, str]] = {}
    while len(facts) < count:
        template, words = _TEMPLATES[len(facts) % len(_TEMPLATES)]
        prompt = template.format(" ".join(_name(rng) for _ in range(words)))
        facts.setdefault(prompt, {"prompt": prompt, "answer": _name(rng)})
    return list(facts.values())


def _name(rng: random.Random) -> str:
    return rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_ENDS)
