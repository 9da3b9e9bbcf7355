"""Documents of a wanted length, with made-up facts hidden among real events, and their questions.

Everything is drawn under a seed: subjects that do not exist, their places among the events, and
which events are asked about.
"""

from __future__ import annotations

import random
from calendar import month_name
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.documents import DatedEvent
from larimar.errors import InvalidArgument

_SYLLABLES = (
    "ba", "dor", "fel", "gan", "hul", "jo", "kem", "lor", "mi", "nar", "pel", "quo", "ras", "sil",
    "tem", "ul", "var", "wen", "yor", "zan",
)  # fmt: skip
_PEOPLE = (
    "Miller", "Carter", "Bennett", "Hughes", "Palmer", "Fraser", "Walsh", "Graham", "Murray",
    "Dixon", "Barker", "Jensen", "Larsen", "Weber", "Keller", "Novak", "Santos", "Moreno",
    "Rossi", "Fischer",
)  # fmt: skip
_PLACES = (
    "Oxford", "Vienna", "Lisbon", "Geneva", "Boston", "Dublin", "Prague", "Warsaw", "Athens",
    "Cairo", "Lima", "Quebec", "Bergen", "Hamburg", "Naples", "Valencia", "Bristol", "Denver",
    "Osaka", "Melbourne",
)  # fmt: skip
# Statement up to its answer, the same asked in other words, and what may be the answer. The
# places asked about do not exist, so what is said of them is new, in words that are not.
_TEMPLATES = (
    ("The capital of {} is", "{}'s capital city is", _PLACES),
    ("The founder of {} was", "{} was founded by", _PEOPLE),
    ("The twin town of {} is", "{} is twinned with the town of", _PLACES),
    ("The mayor of {} is", "{} has a mayor, whose name is", _PEOPLE),
    ("The harbour of {} was designed by", "{}'s harbour is the work of", _PEOPLE),
)
SYLLABLES = 3
"""Of a place that does not exist: 8,000 names."""
LEAST_EVENT_WORDS = 8
"""Of an event that is asked about: half of them are the question."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Something in a document that a question asks for."""

    question: str
    answer: str
    begin: int
    """Of its text in the document, in characters."""
    end: int


@dataclass(frozen=True, slots=True)
class LongText:
    """A document with what is asked about it."""

    text: str
    tokens: int
    facts: tuple[Hidden, ...]
    """Made up: nobody can know them without the document."""
    events: tuple[Hidden, ...]
    """Real ones, to be continued from their first half."""


def long_text(
    events: Sequence[DatedEvent],
    tokens: int,
    count: Callable[[str], int],
    *,
    asked: int,
    seed: int,
) -> LongText:
    """A document of events, a line each, and made-up facts at places all over it.

    Args:
        tokens: that it shall have, by `count`; it stops at the first line past them.
        asked: made-up facts, and as many events.

    Raises:
        InvalidArgument: there are too few events for such a length.
    """
    order = random.Random(seed)  # every length has these facts, and begins with these events
    made = [_made_up(order, number) for number in range(asked)]
    lines: list[tuple[str, str, str]] = [
        (f"{statement} {answer}.", question, answer) for statement, question, answer in made
    ]
    total = sum(count(line) for line, _, _ in lines)
    shuffled = list(events)
    order.shuffle(shuffled)
    told: list[tuple[str, str, str]] = []
    for event in shuffled:
        if total >= tokens:
            break
        line, question, rest = _halved(event)
        told.append((line, question, rest))
        total += count(line)
    if total < tokens:
        raise InvalidArgument(
            f"{len(events)} events make {total} tokens, {tokens} are wanted: give a longer file or "
            "smaller --lengths"
        )
    chosen = [line for line, question, _ in told if question][:asked]
    return _joined(lines, told, set(chosen), order, total)


def _joined(
    facts: Sequence[tuple[str, str, str]],
    events: Sequence[tuple[str, str, str]],
    asked: set[str],
    order: random.Random,
    tokens: int,
) -> LongText:
    """The lines as one text, facts spread evenly with a little chance; with their places."""
    lines = [(line, question, answer, False) for line, question, answer in events]
    for place, (line, question, answer) in enumerate(facts):
        share = (place + order.random()) / len(facts)
        lines.insert(round(share * len(lines)), (line, question, answer, True))
    parts, at = [], 0
    hidden: dict[bool, list[Hidden]] = {True: [], False: []}
    for line, question, answer, made_up in lines:
        if made_up or line in asked:
            hidden[made_up].append(Hidden(question, answer, at, at + len(line)))
        parts.append(line)
        at += len(line) + 2
    return LongText("\n\n".join(parts), tokens, tuple(hidden[True]), tuple(hidden[False]))


def _made_up(order: random.Random, number: int) -> tuple[str, str, str]:
    """Statement, question and answer of a fact about a place that does not exist."""
    statement, question, answers = _TEMPLATES[number % len(_TEMPLATES)]
    subject = "".join(order.choice(_SYLLABLES) for _ in range(SYLLABLES)).capitalize()
    return statement.format(subject), question.format(subject), order.choice(answers)


def _halved(event: DatedEvent) -> tuple[str, str, str]:
    """An event's line, its first half and the rest; nothing to ask of a short one."""
    text = event.text if event.text.endswith((".", "!", "?")) else f"{event.text}."
    line = f"{month_name[event.month]} {event.day}, {event.year} - {text}"
    words = line.split()
    half = (len(words) + 1) // 2
    if len(words) < LEAST_EVENT_WORDS:
        return line, "", ""
    return line, " ".join(words[:half]), " ".join(words[half:])
