"""Random programs over a log and what lives on it, held against the plain twin step by step.

A step is a name and a few random numbers, whose meaning is looked up in the twin's state when the
step runs: any step may be left out of a program and the rest still runs, so a failing program is
made smaller by leaving steps out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from services.log import Log, MemoryLog
from services.redis_log import RedisLog
from services.store import EmbeddedStore
from tests.program_data import Program, random_program
from tests.program_run import Run

STEPS = 12
"""Steps of a program, on average."""
_TENANTS = itertools.count()


class Failure(NamedTuple):
    """A program after which bank and twin do not agree."""

    seed: int
    error: str
    program: Program
    """With every step left out that it does not take."""

    def __str__(self) -> str:
        steps = "\n".join(f"  {step.name} {step.numbers}" for step in self.program.steps)
        return f"seed {self.seed}, {self.program.addressing}: {self.error}\n{steps}"


async def check_programs(
    log: Log, seeds: Iterable[int], told: Callable[[int], None] = lambda done: None
) -> tuple[Counter[str], list[Failure]]:
    """Runs the programs of these seeds over one log; what was done, and which failed.

    Args:
        told: hears how many programs are done, after each.
    """
    counts: Counter[str] = Counter()
    failures = []
    for done, seed in enumerate(seeds, start=1):
        program = random_program(seed, STEPS)
        error = await failure_of(log, program, counts)
        if error is not None:
            smaller = await minimised(log, program)
            failures.append(Failure(seed, f"{type(error).__name__}: {error}", smaller))
        counts["programs"] += 1
        told(done)
    return counts, failures


async def failure_of(log: Log, program: Program, counts: Counter[str]) -> Exception | None:
    """What goes wrong when a program runs, for a tenant of its own; None if nothing does."""
    try:
        await Run(log, f"tenant-{next(_TENANTS)}", program, counts).run()
    except Exception as error:
        return error
    return None


async def minimised(log: Log, program: Program) -> Program:
    """A program that fails too, with as many steps left out, one at a time, as it can spare."""
    place = 0
    while place < len(program.steps):
        steps = program.steps[:place] + program.steps[place + 1 :]
        fewer = program._replace(steps=steps)
        if steps and await failure_of(log, fewer, Counter()) is not None:
            program = fewer
        else:
            place += 1
    return program


async def in_this_process(
    seeds: Iterable[int], told: Callable[[int], None] = lambda done: None
) -> tuple[Counter[str], list[Failure]]:
    """`check_programs` over a `MemoryLog`."""
    return await check_programs(MemoryLog(), seeds, told)


async def in_the_store(
    data_dir: Path, seeds: Iterable[int], told: Callable[[int], None] = lambda done: None
) -> tuple[Counter[str], list[Failure]]:
    """`check_programs` over a `RedisLog` and an embedded store of their own."""
    with EmbeddedStore(data_dir) as store:
        log = RedisLog(store.url)
        try:
            return await check_programs(log, seeds, told)
        finally:
            await log.close()
