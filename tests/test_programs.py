"""Random programs against the plain twin: no difference, and proof that one would be seen."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from larimar.state import BankState
from services import checkpoints, follower
from services.log import MemoryLog
from services.memory import branches
from tests import program_run, programs
from tests.program_data import ADDRESSINGS, WEIGHTS, random_program
from tests.programs import in_the_store, in_this_process

IN_PROCESS = range(150)
IN_THE_STORE = range(150, 160)
DETECTED_WITHIN = range(200, 280)
"""Programs among which a broken fold, follower or merge must be seen."""


def test_a_program_is_its_seed() -> None:
    assert random_program(7, 12) == random_program(7, 12) != random_program(8, 12)
    made = [random_program(seed, 12) for seed in range(300)]
    assert {program.addressing for program in made} == set(ADDRESSINGS)
    assert {step.name for program in made for step in program.steps} == set(WEIGHTS)


async def test_programs_in_this_process() -> None:
    counts, failures = await in_this_process(IN_PROCESS)
    assert not failures, "\n".join(map(str, failures))
    assert counts["programs"] == len(IN_PROCESS) and counts["comparisons"] > 1000
    for what in ("duplicate", "erasure", "fork", "merges that changed something", "drop"):
        assert counts[what] >= 5, f"the programs hardly {what}"


async def test_programs_in_the_store(tmp_path: Path) -> None:
    counts, failures = await in_the_store(tmp_path / "store", IN_THE_STORE)
    assert not failures, "\n".join(map(str, failures))
    assert counts["programs"] == len(IN_THE_STORE) and counts["comparisons"] > 50


def forget_nothing(patch) -> None:
    """The paper's forget where memory interpolates: it changes nothing."""
    fold = BankState._net

    def kept(self, entries, doomed):
        net = fold(self, entries, doomed)
        return {fact_id: change for fact_id, change in net.items() if change[1] is not None}

    patch.setattr(BankState, "_net", kept)


def erase_as_forget(patch) -> None:
    """Past versions keep what was erased since."""
    patch.setattr(MemoryLog, "erased", _none_erased)


async def _none_erased(self, tenant, bank):
    return frozenset()


def skip_the_tail(patch) -> None:
    """A follower that answers from what it holds."""
    fold_tail = follower.fold_tail

    async def lazy(log, state, *rest, **settings):
        if not state.version:
            await fold_tail(log, state, *rest, **settings)

    patch.setattr(follower, "fold_tail", lazy)


def trust_checkpoints(patch) -> None:
    """A checkpoint is taken without a look at its bytes."""
    for module in (follower, checkpoints):
        patch.setattr(module, "sha256_of", lambda blob: "")
    patch.setattr("larimar.saved._sha256_of", lambda tensors, metadata: metadata.get("sha256", ""))


def name_events_anew(patch) -> None:
    """A merge that is called again does not know its own events."""
    numbers = itertools.count()
    patch.setattr(branches, "_event_id", lambda merge_id, _: f"{merge_id}:{next(numbers)}")


def say_always_the_same(patch) -> None:
    """A client whose requests all look alike: no conflict is seen."""
    patch.setattr(program_run, "request_body", lambda *said: b"the same")


def forget_where_banks_met(patch) -> None:
    """A second merge that compares with the fork point again."""

    async def never(self, tenant, source, target):
        return None

    patch.setattr(branches.Brancher, "_met", never)


@pytest.mark.parametrize(
    "damage",
    [
        forget_nothing,
        erase_as_forget,
        skip_the_tail,
        trust_checkpoints,
        name_events_anew,
        say_always_the_same,
        forget_where_banks_met,
    ],
)
async def test_a_break_is_seen_and_its_program_made_small(monkeypatch, damage) -> None:
    with monkeypatch.context() as patch:
        damage(patch)
        for seed in DETECTED_WITHIN:
            _, failures = await in_this_process([seed])
            if failures:
                break
        else:
            pytest.fail(f"{damage.__name__} went unseen in {len(DETECTED_WITHIN)} programs")
        (failure,) = failures
        assert failure.seed == seed and str(seed) in str(failure)
        assert len(failure.program.steps) < len(random_program(seed, programs.STEPS).steps)
    assert await programs.failure_of(MemoryLog(), failure.program, Counter()) is None
