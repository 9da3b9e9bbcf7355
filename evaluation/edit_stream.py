"""Edits in a row: which prompt is written when, and when everything is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from evaluation.data import EditRecord
from evaluation.systems import NewFact


@dataclass(frozen=True)
class Stream:
    """Edits in order, and what is asked beside their own prompts."""

    edits: tuple[tuple[EditRecord, str], ...]
    unseen: tuple[tuple[EditRecord, str], ...]

    def facts(self, low: int, high: int) -> list[NewFact]:
        """The edits from `low` up to `high`, each a fact of its own."""
        return [
            NewFact(f"evaluation-{number}", prompt, record.target_new)
            for number, (record, prompt) in enumerate(self.edits[low:high], start=low)
        ]


def stream_of(records: Sequence[EditRecord], rephrasings: int, unseen: int) -> Stream:
    """Edits in rounds: every fact by its own prompt, then every fact by its next one.

    Of the paraphrases the last `unseen` are kept for asking; at most `rephrasings` - 1 of those
    before them are written. Prompts that repeat one before are left out.
    """
    later, held = [], []
    for record in records:
        others = tuple(text for text in dict.fromkeys(record.paraphrases) if text != record.prompt)
        later.append([(record, text) for text in others[:-unseen][: rephrasings - 1]])
        held += [(record, text) for text in others[-unseen:]]
    rounds = [[(record, record.prompt) for record in records]]
    rounds += [[one for one in some if one] for some in zip_longest(*later)]
    edits: dict[str, tuple[EditRecord, str]] = {}
    for one in chain.from_iterable(rounds):
        edits.setdefault(one[1], one)
    return Stream(tuple(edits.values()), tuple(one for one in held if one[1] not in edits))


def steps_of(edits: int) -> list[int]:
    """After how many edits is asked: 1, 10, 100, then about ten times, and after the last."""
    stride = max(100, -(-edits // 1000) * 100)
    wanted = {1, 10, 100, *range(stride, edits, stride)}
    return sorted({step for step in wanted if step < edits} | {edits})
