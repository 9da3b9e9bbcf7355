"""A baseline by itself: how experiments on many edits run one beside Larimar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from evaluation.baselines.beside import Baseline, Beside, Wanted, beside
from evaluation.systems import NewFact, Query, Remembering, Seen, View


class Alone:
    """A system whose facts go to one baseline; a view without memory is the plain decoder's."""

    def __init__(self, system: Remembering, baseline: Baseline) -> None:
        self._system, self._baseline = system, baseline
        self.digest = system.digest
        self.setup = system.setup

    def write(self, facts: Sequence[NewFact]) -> None:
        """Writes facts to the baseline only."""
        self._baseline.write(facts)

    def forget(self, fact_ids: Sequence[str]) -> None:
        """Has the baseline forget facts."""
        self._baseline.forget(fact_ids)

    def read(self, queries: Sequence[Query], view: View) -> list[Any]:
        """What the baseline, or the plain decoder, has for each query now."""
        if view.memory:
            return [(True, one) for one in self._baseline.read(queries)]
        return [(False, one) for one in self._system.read(queries, view)]

    def decode(self, held: Sequence[Any], remember: bool = False) -> list[Seen]:
        """Decodes what was read; only the plain decoder's answers are remembered."""
        ours = iter(self._baseline.decode([one for is_ours, one in held if is_ours]))
        plain = [one for is_ours, one in held if not is_ours]
        theirs = iter(self._system.decode(plain, remember))
        return [next(ours if is_ours else theirs) for is_ours, _ in held]

    def plain_difference(self, prompts: Sequence[str]) -> float | None:
        """The system's own."""
        return self._system.plain_difference(prompts)


def alone(system: Remembering, chosen: Wanted) -> Iterator[tuple[str, Alone]]:
    """Each baseline that is wanted, with its name.

    Raises:
        InvalidArgument: the system is a pipeline, whose decoder is out of reach.
    """
    made = beside(system, chosen)
    if isinstance(made, Beside):
        for name, baseline in made.baselines.items():
            yield name, Alone(system, baseline)
