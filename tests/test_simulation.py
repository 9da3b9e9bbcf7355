"""The deterministic simulation: it holds, it repeats itself, and it can fail.

LARIMAR_SIMULATION_ROUNDS runs more of it; LARIMAR_SIMULATION_SEED runs one seed again.
"""

from __future__ import annotations

import dataclasses
import logging
import os

import pytest

from larimar.v1 import common_pb2
from services import checkpoints, follower, memory_log
from services.log import MemoryLog
from services.memory.erasure import Eraser
from services.memory.service import MemoryService
from services.memory_bank import Bank
from tests.simulation import Broken, simulate

ROUNDS = int(os.environ.get("LARIMAR_SIMULATION_ROUNDS", "25"))
SEED = os.environ.get("LARIMAR_SIMULATION_SEED", "")
CAUGHT_WITHIN = 150
"""Seeds among which a broken service must be caught."""


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Faults are meant here: what services say about them is left out."""
    caplog.set_level(logging.CRITICAL)


@pytest.mark.timeout(600 + 10 * ROUNDS)
def test_every_invariant_holds_in_every_run() -> None:
    seeds = [int(SEED)] if SEED else range(ROUNDS)
    for seed in seeds:
        simulate(seed)  # names its seed when an invariant does not hold


def test_a_run_is_its_seed() -> None:
    assert simulate(1) == simulate(1) != simulate(2)


def skip_the_tail(patch) -> None:
    """A follower that answers from what it holds."""
    fold_tail = follower.fold_tail

    async def lazy(log, state, *rest, **settings):
        if not state.version:
            await fold_tail(log, state, *rest, **settings)

    patch.setattr(follower, "fold_tail", lazy)


def append_twice(patch) -> None:
    """A log that does not know an event id again."""
    patch.setattr(memory_log, "known", lambda held, item: None)


def lose_an_append(patch) -> None:
    """A log that acknowledges a batch which it has not kept, now and then."""
    append, calls = MemoryLog.append, []

    async def careless(self, tenant, bank, items, config=None):
        done = await append(self, tenant, bank, items, config)
        calls.append(bank)
        held = self._banks[tenant, bank]
        if len(calls) % 7 == 0 and not done[0].error and not done[0].duplicate:
            entry = held.entries.pop()
            del held.versions[entry.event.event_id]
        return done

    patch.setattr(MemoryLog, "append", careless)


def answer_behind_scope(patch) -> None:
    """A memory that does not care from which version on it is to answer."""
    read = MemoryService.Read

    async def behind(self, request, grpc_context):
        request.at_version = max(1, request.min_version - 1)
        request.min_version = 0
        return await read(self, request, grpc_context)

    patch.setattr(MemoryService, "Read", behind)


def stop_half_way(patch) -> None:
    """An erasure that says it is done before the payloads are deleted."""

    async def nothing(self, job):
        await self._reached(job, common_pb2.ERASE_STEP_REMOVED)

    patch.setattr(Eraser, "_remove", nothing)


def trust_checkpoints(patch) -> None:
    """A checkpoint is taken without a look at its bytes."""
    for module in (follower, checkpoints):
        patch.setattr(module, "sha256_of", lambda blob: "")
    patch.setattr("larimar.saved._sha256_of", lambda tensors, metadata: metadata.get("sha256", ""))


def break_the_chain(patch) -> None:
    """A log whose entries do not hang together."""
    put = Bank.put

    def loose(self, item, event_id):
        version = put(self, item, event_id)
        entry = self.entries[-1]
        entry.event = dataclasses.replace(entry.event, time_ms=entry.event.time_ms + 1)
        return version

    patch.setattr(Bank, "put", loose)


@pytest.mark.parametrize(
    "damage",
    [
        skip_the_tail,
        append_twice,
        lose_an_append,
        answer_behind_scope,
        stop_half_way,
        trust_checkpoints,
        break_the_chain,
    ],
)
def test_a_broken_service_is_caught(monkeypatch, damage) -> None:
    with monkeypatch.context() as patch:
        damage(patch)
        for seed in range(CAUGHT_WITHIN):
            try:
                simulate(seed)
            except Broken as broken:
                assert f"seed {seed}: " in str(broken)
                break
        else:
            pytest.fail(f"{damage.__name__} went unseen in {CAUGHT_WITHIN} runs")
    simulate(seed)
