"""A deterministic simulation: clients, faults and invariants over the real services.

`simulate(seed)` runs one and returns what identifies it: the same seed always gives the same. It
raises `Broken`, with the seed, as soon as an invariant does not hold.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from larimar.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    LarimarError,
    NotFound,
    Unavailable,
)
from larimar.memory import Event, Kind, next_chain
from larimar.v1 import common_pb2, larimar_pb2, memory_pb2
from services.follower import Follower
from tests.simulated_world import STATE_BUDGET, SimulatedLoop, World, simulated

TENANT = "default"
CLIENTS, STEPS, FACTS = 3, 14, 5
MAX_TRIES = 80
"""Tries of a call that must end: faults are shorter than that."""
HEALED_S = 400.0
"""Time in which everything that was interrupted must be finished after the last fault."""
ACTIONS = {"write": 30, "forget": 8, "erase": 6, "ask": 36, "look_back": 10, "list": 8, "fork": 4}


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Seen:
    """What a read answered."""

    bank: str
    version: int
    facts: dict[str, int | None]
    """Facts that were looked for: the number of the answer; -1 unknown, None where not live."""


@dataclass
class Known:
    """What clients know that was acknowledged."""

    edits: dict[tuple[str, str], tuple[int, Kind, str]] = field(default_factory=dict)
    """(bank, event id) -> version, kind and fact id."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Event id of a write -> number of its answer."""
    newest: dict[str, int] = field(default_factory=dict)
    """Bank -> the newest version that anybody was told of."""
    erased: set[str] = field(default_factory=set)
    erasures: list[tuple[str, str]] = field(default_factory=list)
    reads: list[Seen] = field(default_factory=list)

    def tell(self, bank: str, version: int) -> None:
        """Somebody was told of this version."""
        self.newest[bank] = max(version, self.newest.get(bank, 0))


def simulate(seed: int, steps: int = STEPS) -> str:
    """Runs the simulation of a seed; the SHA-256 of all that happened in it. Raises: Broken."""
    rng = random.Random(seed)
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner, simulated(rng):
        return runner.run(_Simulation(seed, rng, steps).run())


class _Simulation:
    def __init__(self, seed: int, rng: random.Random, steps: int) -> None:
        self._seed = seed
        self._rng = rng
        self._steps = steps
        self._known = Known()
        self._numbers = itertools.count(1)
        self._storm = True
        self._banks = ["main"]
        self._forked = False
        self._exact = seed % 4 != 3  # a fixed-size bank reads approximately
        self._world: World

    async def run(self) -> str:
        """Clients among faults, then peace, then everything that must hold."""
        self._world = world = World(self._rng)
        try:
            await self._make_bank()
            storm = [asyncio.ensure_future(fault()) for fault in self._faults()]
            await asyncio.gather(*(self._client() for _ in range(CLIENTS)))
            self._storm = world.faulty = False
            await asyncio.gather(*storm)
            await self._finished()
            await self._check()
            return world.trace
        except LarimarError as error:
            raise Broken(f"seed {self._seed}: {error!r}\n{world.last_events}") from error
        except Broken as error:
            raise Broken(f"seed {self._seed}: {error}\n{world.last_events}") from error
        finally:
            await world.close()

    async def _make_bank(self) -> None:
        slots = {"addressing": common_pb2.ADDRESSING_PINV, "slots": 6}
        request = larimar_pb2.CreateBankRequest(bank="main", **({} if self._exact else slots))
        await self._settled(lambda: self._world.gateway.CreateBank(request))

    async def _settled(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a call, repeated for as long as its outcome is not known."""
        for _ in range(MAX_TRIES):
            try:
                return await call()
            except LarimarError as error:
                if not isinstance(error, Unavailable | DeadlineExceeded):
                    raise
                await asyncio.sleep(self._rng.uniform(0.1, 1.5))
        raise Broken("a call was never answered")

    # clients

    async def _client(self) -> None:
        names, weights = list(ACTIONS), list(ACTIONS.values())
        for _ in range(self._steps):
            await asyncio.sleep(self._rng.uniform(0.0, 0.8))
            (name,) = self._rng.choices(names, weights)
            bank, fact = self._rng.choice(self._banks), self._rng.randrange(FACTS)
            await getattr(self, f"_{name}")(bank, fact)

    async def _write(self, bank: str, fact: int) -> None:
        number = next(self._numbers)
        request = larimar_pb2.WriteRequest(
            bank=bank,
            prompt=_prompt(fact),
            answer=_answer(number),
            fact_id=_fact_id(fact),
            event_id=f"write-{number}",
        )
        self._known.numbers[request.event_id] = number
        await self._edit(Kind.WRITE, self._world.gateway.Write, request)

    async def _forget(self, bank: str, fact: int) -> None:
        request = larimar_pb2.ForgetRequest(
            bank=bank, fact_id=_fact_id(fact), event_id=f"forget-{next(self._numbers)}"
        )
        await self._edit(Kind.FORGET, self._world.gateway.Forget, request)

    async def _edit(self, kind: Kind, call: Callable[[Any], Awaitable[Any]], request: Any) -> None:
        try:
            done = await self._settled(lambda: call(request))
        except (NotFound, FailedPrecondition) as error:
            self._world.note(f"{request.event_id} refused: {error.reason}")
            return
        self._world.note(f"{request.event_id} is version {done.version} of {request.bank}")
        edit = (done.version, kind, request.fact_id)
        self._known.edits[request.bank, request.event_id] = edit
        self._known.tell(request.bank, done.version)

    async def _erase(self, bank: str, fact: int) -> None:
        ids = sorted({_fact_id(fact), _fact_id(self._rng.randrange(FACTS))})
        ids = ids[: self._rng.randint(1, 2)]
        request = larimar_pb2.EraseRequest(
            bank=bank, fact_ids=ids, event_id=f"erase-{next(self._numbers)}"
        )
        try:
            receipt = (await self._settled(lambda: self._world.gateway.Erase(request))).receipt
        except (NotFound, FailedPrecondition) as error:
            self._world.note(f"{request.event_id} refused: {error.reason}")
            return
        self._world.note(f"{request.event_id} acknowledged")
        if receipt.step == common_pb2.ERASE_STEP_UNSPECIFIED:
            raise Broken(f"{request.event_id} was acknowledged before it was in the log")
        self._known.erased.update(ids)
        self._known.erasures.append((bank, request.event_id))
        for one in receipt.banks:
            self._known.tell(one.bank, max(one.versions, default=0))

    async def _ask(self, bank: str, fact: int) -> None:
        stale, least = self._rng.random() < 0.15, self._rng.random() < 0.3
        floor = self._known.newest.get(bank, 0)
        request = larimar_pb2.ScoreRequest(
            bank=bank,
            prompt=_prompt(fact),
            candidates=["x"],
            allow_stale=stale,
            min_version=floor if least else 0,
        )
        await self._read(request, fact, 0 if stale and not least else floor)

    async def _look_back(self, bank: str, fact: int) -> None:
        newest = self._known.newest.get(bank, 0)
        if newest:
            at = self._rng.randint(1, newest)
            request = larimar_pb2.ScoreRequest(
                bank=bank, prompt=_prompt(fact), candidates=["x"], at_version=at
            )
            await self._read(request, fact, at)

    async def _read(self, request: Any, fact: int, floor: int) -> None:
        """Asks, and holds the answer to all that was acknowledged before."""
        erased, known = set(self._known.erased), self._known.newest.get(request.bank, 0)
        answer = await self._settled(lambda: self._world.gateway.Score(request))
        source = answer.provenance
        number = round(answer.scores[0].token_logprobs[0]) if source.in_scope else None
        version = source.version
        self._world.note(
            f"asked {request.bank} for {fact}: {number} at {version}, floor {floor}"
            + ", stale" * source.stale
        )
        if not source.stale:
            floor = request.at_version or max(floor, known)
            if source.fact_id in erased:
                raise Broken(f"{source.fact_id} was read after it was erased")
            if not request.at_version:
                self._known.tell(request.bank, version)
        if version < floor:
            raise Broken(f"a read saw version {version}, {floor} was acknowledged before it")
        if request.at_version not in (0, version):
            raise Broken(f"a read of version {request.at_version} saw {version}")
        if number is not None and source.fact_id != _fact_id(fact):
            raise Broken(f"{source.fact_id} answered for {_fact_id(fact)}")
        shown = number if self._exact or number is None else -1
        self._known.reads.append(Seen(request.bank, version, {_fact_id(fact): shown}))

    async def _list(self, bank: str, _: int) -> None:
        erased, floor = set(self._known.erased), self._known.newest.get(bank, 0)
        request = larimar_pb2.ListFactsRequest(bank=bank)
        page = await self._settled(lambda: self._world.gateway.ListFacts(request))
        if page.version < floor:
            raise Broken(f"a list saw version {page.version}, {floor} was acknowledged before it")
        facts: dict[str, int | None] = dict.fromkeys(map(_fact_id, range(FACTS)))
        facts |= {fact.fact_id: int(fact.answer.split()[-1]) for fact in page.facts}
        if any(fact.fact_id in erased for fact in page.facts):
            raise Broken("an erased fact was listed")
        self._known.tell(bank, page.version)
        self._known.reads.append(Seen(bank, page.version, facts))

    async def _fork(self, bank: str, _: int) -> None:
        if not self._forked and self._known.newest.get(bank):
            self._forked = True
            request = larimar_pb2.ForkBankRequest(bank=bank, new_bank="fork")
            made = await self._settled(lambda: self._world.gateway.ForkBank(request))
            self._known.tell("fork", made.info.version)
            self._banks.append("fork")

    # faults

    def _faults(self) -> list[Callable[[], Awaitable[None]]]:
        world, rng = self._world, self._rng

        async def crash() -> None:
            await rng.choice(world.replicas).crash(rng.uniform(0.1, 2.0))

        async def pause() -> None:
            await rng.choice(world.replicas).pause(rng.uniform(0.2, 5.0))

        async def outage() -> None:
            world.note("the store is down")
            world.store_down = True
            await asyncio.sleep(rng.uniform(0.1, 2.5))
            world.store_down = False

        async def rot() -> None:
            self._damage_a_checkpoint()

        def every(seconds: float, fault: Callable[[], Awaitable[None]]):
            async def keep() -> None:
                while self._storm:
                    await asyncio.sleep(rng.expovariate(1 / seconds))
                    if self._storm:
                        await fault()

            return keep

        return [every(2.0, crash), every(4.0, pause), every(6.0, outage), every(2.0, rot)]

    def _damage_a_checkpoint(self) -> None:
        banks = [self._world.log._banks.get((TENANT, name)) for name in self._banks]
        found = [(bank, key) for bank in banks if bank for key in sorted(bank.checkpoints)]
        if not found:
            return
        bank, key = self._rng.choice(found)
        blob, meta = bank.checkpoints[key]
        place = self._rng.randrange(max(1, len(blob)))
        flipped = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :] if blob else b""
        kind = self._rng.randrange(3)
        self._world.note(f"a checkpoint of {bank.name}, {key}, is damaged")
        if kind == 2:
            del bank.checkpoints[key]
        else:
            bank.checkpoints[key] = (blob[:place] if kind else flipped, meta)

    # what must hold

    async def _finished(self) -> None:
        """Every erasure that was acknowledged comes to its end, however often it was cut short."""
        loop = asyncio.get_running_loop()
        for bank, event_id in self._known.erasures:
            request = larimar_pb2.GetEraseRequest(bank=bank, event_id=event_id)
            until = loop.time() + HEALED_S
            while True:
                receipt = (await self._world.gateway.GetErase(request)).receipt
                if receipt.step == common_pb2.ERASE_STEP_DONE:
                    break
                if loop.time() > until:
                    raise Broken(f"{event_id} stays at {receipt.step}: {receipt.failure}")
                await asyncio.sleep(5.0)
            if receipt.scan.found or not all(one.replay_matches for one in receipt.banks):
                raise Broken(f"{event_id} left something: {receipt}")

        until = loop.time() + HEALED_S  # those too that nobody was told of
        while await self._world.log.jobs():
            if loop.time() > until:
                raise Broken(f"work is left: {await self._world.log.jobs()}")
            for replica in self._world.memory:  # a replica sees to left work once it is looked at
                await replica.call("DescribeMemory", memory_pb2.DescribeMemoryRequest())
            await asyncio.sleep(5.0)

    async def _check(self) -> None:
        log = self._world.log
        family = await log.erased(TENANT, "main")
        if not self._known.erased <= family:
            raise Broken(f"erased: {sorted(family)}, acknowledged {sorted(self._known.erased)}")
        histories = {}
        for bank in self._banks:
            histories[bank] = await self._history(bank)
            self._check_log(bank, histories[bank], family)
            await self._check_states(bank, histories[bank], family)
        for read in self._known.reads:
            self._check_read(read, histories[read.bank], family)
        await self._check_bytes(family, [event for one in histories.values() for event in one])

    async def _history(self, bank: str) -> list[Event]:
        events: list[Event] = []
        while page := await self._world.log.events(TENANT, bank, len(events), 1000):
            events += page
        return events

    def _check_log(self, bank: str, events: list[Event], erased: frozenset[str]) -> None:
        """Versions dense, the chain whole, one entry an event id, and all that was acknowledged."""
        chain, by_id = "", {}
        for version, event in enumerate(events, start=1):
            chain = next_chain(
                chain, version, event.kind, event.fact_id, event.event_id, event.time_ms,
                event.payload_sha256, event.previous,
            )  # fmt: skip
            if (event.version, event.chain) != (version, chain):
                raise Broken(f"version {version} of {bank} does not follow from the one before")
            if event.event_id in by_id:
                raise Broken(f"{event.event_id} is in {bank} twice")
            by_id[event.event_id] = event
        for (name, event_id), (version, kind, fact_id) in self._known.edits.items():
            event = by_id.get(event_id)
            known = event and (event.version, event.kind, event.fact_id)
            if name == bank and known != (version, kind, fact_id):
                raise Broken(f"{event_id} was acknowledged as version {version} of {bank}: {event}")
        for fact_id in erased:
            last = [event.kind for event in events if event.fact_id == fact_id][-1:]
            if last not in ([], [Kind.ERASE]) and bank == "main":
                raise Broken(f"{fact_id} was erased, and {bank} goes on with it")

    async def _check_states(self, bank: str, events: list[Event], erased: frozenset[str]) -> None:
        """Checkpoint and tail give the bytes of a full replay, on every replica and a new one."""
        live = {fact_id: at for fact_id, at in _fold(events).items() if fact_id not in erased}
        sums: set[tuple[str, str]] = set()
        port: Any = self._world.log
        new = [Follower(port, (part,), STATE_BUDGET) for part in ("memory", "scope")]
        for follower in [*(replica.follower for replica in self._world.replicas), *new]:
            verified = await follower.verified(TENANT, bank)
            if not verified.matches:
                raise Broken(f"a follower of {bank} differs from a full replay: {verified}")
            async with follower.state(TENANT, bank) as state:
                found = {fact_id: at for fact_id, (at, _) in state.facts.items()}
                if (state.version, found) != (len(events), live):
                    raise Broken(f"{bank} at {state.version} has {found}, the log {live}")
                sums |= {(part, state.folded_sha256(part)) for part in state.parts}
                sums.add(("digest", state.digest()))
        if len(sums) != 3:
            raise Broken(f"followers of {bank} differ: {sums}")

    def _check_read(self, read: Seen, events: list[Event], erased: frozenset[str]) -> None:
        """A read saw exactly what the log says at its version, but for what was erased since."""
        live = _fold(events[: read.version])
        for fact_id, number in read.facts.items():
            at = live.get(fact_id)
            wanted = None if at is None else self._known.numbers[events[at - 1].event_id]
            gone = fact_id in erased and number is None
            if not gone and number != wanted and not (number == -1 and wanted is not None):
                raise Broken(
                    f"{fact_id} of {read.bank} at version {read.version}: {number} was read, "
                    f"the log says {wanted}"
                )

    async def _check_bytes(self, erased: frozenset[str], events: list[Event]) -> None:
        """Nothing of an erased fact's answers is left anywhere in the store."""
        needles = [
            f'"{_answer(self._known.numbers[event.event_id])}"'.encode()
            for event in events
            if event.fact_id in erased and event.event_id in self._known.numbers
        ]
        if needles and (await self._world.log.search(TENANT, "main", needles)).found:
            raise Broken("the store still holds an answer that was erased")


def _fold(events: list[Event]) -> dict[str, int]:
    """Live facts with the version of their WRITE."""
    live: dict[str, int] = {}
    for event in events:
        live.pop(event.fact_id, None)
        if event.kind == Kind.WRITE:
            live[event.fact_id] = event.version
    return live


def _fact_id(fact: int) -> str:
    return f"fact-{fact}"


def _prompt(fact: int) -> str:
    return f"the prompt of fact {fact}"


def _answer(number: int) -> str:
    return f"the answer is {number}"
