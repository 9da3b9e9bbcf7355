"""What the tests of faults share: facts with vectors, a memory node, invariants, and a scan."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import redis

from larimar.errors import Unavailable
from larimar.memory import BankConfig, Event, Kind, Payload, make_payload, request_body
from larimar.v1 import common_pb2, memory_pb2
from larimar.wire import vector_to_bytes
from services.follower import Follower
from services.inbox import Inbox
from services.log import Append, Log
from services.memory.erasure import Eraser
from services.memory.ledger import EraseLedger
from services.memory.service import MemoryService
from services.redis_inbox import RedisInbox
from services.redis_log import RedisLog
from services.rpc import ObjectStub
from services.store import EmbeddedStore

T, B = "acme", "bank"
SIZE = 24
"""D, C and S of the banks here: a vector is long enough to be searched for."""
STATE_BUDGET = 1 << 28
PATIENCE_S = 120.0
"""How long an edit may take, or a retried one while the store comes back."""
ROUNDS = os.environ.get("LARIMAR_CHAOS_ROUNDS")
DRAWN = str(random.SystemRandom().randrange(10**6)) if ROUNDS else "1"
SEED = int(os.environ.get("LARIMAR_CHAOS_SEED", DRAWN))
"""Of this run, drawn where there are many rounds; set the variable to repeat one."""

Answer = TypeVar("Answer")


def rounds(few: int) -> int:
    """How often a test repeats its fault: LARIMAR_CHAOS_ROUNDS, or these few."""
    return int(ROUNDS or few)


def seeded(name: str) -> random.Random:
    """The random numbers of one test; prints how to have the same again."""
    print(f"{name}: LARIMAR_CHAOS_SEED={SEED}")
    return random.Random(f"{SEED} {name}")


def config_of(addressing: str = "slots") -> BankConfig:
    """A small bank of any addressing."""
    slots = 0 if addressing == "slots" else SIZE
    return BankConfig(
        addressing=addressing,
        slots=slots,
        prompt_size=SIZE,
        value_size=SIZE,
        scope_size=SIZE,
        encoder_digest="encoder-1",
        scope_digest="scope-1",
    )


def vector_of(*texts: str) -> np.ndarray:
    """Made from texts alone, as an encoder does: (SIZE,) float32."""
    seed = int.from_bytes(hashlib.sha256("\0".join(texts).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


def payload_of(config: BankConfig, fact_id: str, prompt: str, answer: str) -> Payload:
    """A fact as the memory service stores it."""
    return make_payload(
        config,
        fact_id,
        prompt,
        answer,
        (),
        vector_of("prompt", prompt)[None],
        vector_of("value", prompt, answer),
        vector_of("scope", prompt)[None],
    )


def write(
    event_id: str,
    fact_id: str,
    prompt: str = "",
    answer: str = "",
    config: BankConfig | None = None,
) -> Append:
    """A WRITE of a fact; its texts follow from its id where none are given."""
    prompt = prompt or f"The keeper of lighthouse {fact_id} is"
    answer = answer or f"Marlo of {event_id}"
    payload = payload_of(config or config_of(), fact_id, prompt, answer)
    body = request_body(Kind.WRITE, fact_id, prompt, answer)
    return Append(Kind.WRITE, event_id, fact_id, body, payload.to_bytes())


def forget(event_id: str, fact_id: str) -> Append:
    """A FORGET of a fact."""
    return Append(Kind.FORGET, event_id, fact_id, request_body(Kind.FORGET, fact_id))


def append_item(event: str, fact: str, **changed: Any) -> memory_pb2.AppendItem:
    """A WRITE as the gateway sends it to the memory service, with some fields changed."""
    prompt, answer = f"The keeper of lighthouse {fact} is", f"Marlo of {event}"
    fields: dict[str, Any] = {
        "kind": common_pb2.EVENT_KIND_WRITE,
        "event_id": event,
        "fact_id": fact,
        "prompt": prompt,
        "answer": answer,
        "prompt_latents": [vector_to_bytes(vector_of("prompt", prompt))],
        "value": vector_to_bytes(vector_of("value", prompt, answer)),
        "scope_vectors": [vector_to_bytes(vector_of("scope", prompt))],
    }
    return memory_pb2.AppendItem(**{**fields, **changed})


def append_request(*items: memory_pb2.AppendItem, tenant: str = T) -> memory_pb2.AppendRequest:
    """As the gateway sends it, with the digests of this bank's models."""
    config = config_of()
    return memory_pb2.AppendRequest(
        bank=B,
        items=items,
        encoder_digest=config.encoder_digest,
        scope_digest=config.scope_digest,
        context=common_pb2.CallContext(tenant=tenant),
    )


class Node:
    """A memory service, and what a scope service follows, over one store."""

    def __init__(self, url: str, ledger: Path | None = None, **options: Any) -> None:
        self.log: Log = RedisLog(url, **{"timeout_s": PATIENCE_S} | options)
        self.inbox: Inbox = RedisInbox(url, timeout_s=PATIENCE_S)
        self.follower = Follower(self.log, ("memory",), STATE_BUDGET)
        self.scope = Follower(self.log, ("scope",), STATE_BUDGET)
        self.ledger = EraseLedger(ledger)
        self.service = MemoryService(self.log, self.follower, self.inbox, self.ledger)

    async def append(self, *items: Append, bank: str = B) -> list[int]:
        """Versions of edits, none of which may be refused."""
        results = await self.log.append(T, bank, items)
        for result in results:
            if result.error is not None:
                raise result.error
        return [result.version for result in results]

    def eraser(self, on_step: Callable[[Any], Awaitable[None]] | None = None) -> Eraser:
        """A worker for erasures."""
        return Eraser(self.log, self.follower, self.inbox, self.ledger, on_step)

    async def erased(self, *fact_ids: str, bank: str = B, event_id: str = "erase-1") -> Any:
        """Erases facts through the service; the receipt, once it is finished."""
        door = ObjectStub(self.service)
        context = common_pb2.CallContext(tenant=T)
        await door.EraseFacts(
            memory_pb2.EraseFactsRequest(
                bank=bank, fact_ids=fact_ids, event_id=event_id, context=context
            )
        )
        ask = memory_pb2.DescribeEraseRequest(bank=bank, event_id=event_id, context=context)
        return await finished(lambda: door.DescribeErase(ask), lambda answer: answer.receipt)

    async def close(self) -> None:
        """Lets go of the store."""
        await self.service._eraser.close()
        await self.follower.close()
        await self.scope.close()
        await self.inbox.close()
        await self.log.close()


async def finished(ask: Callable[[], Awaitable[Any]], receipt_in: Callable[[Any], Any]) -> Any:
    """The receipt of an erasure, once it is finished."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        receipt = receipt_in(await ask())
        if receipt.finished_ms:
            return receipt
        assert time.monotonic() < deadline, f"the erasure does not end: {receipt}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def node(url: str, *banks: str, ledger: Path | None = None, **options: Any) -> AsyncIterator:
    """A node, with these banks made."""
    made = Node(url, ledger, **options)
    try:
        for bank in banks:
            await made.log.make_bank(T, bank, config_of())
        yield made
    finally:
        await made.close()


@contextlib.contextmanager
def data_directory() -> Iterator[Path]:
    """A short path, as a user's is: pytest's own may not hold a unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def supervised_store(folder: Path) -> Iterator[EmbeddedStore]:
    """A store that comes back whenever it dies."""
    with EmbeddedStore(folder) as store:
        store.supervise()
        yield store


def kill_store(store: EmbeddedStore) -> None:
    """SIGKILL for the server, if it runs just now."""
    pid = store.pid
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def retried(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """The answer of a call that is repeated for as long as the store is away."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await call()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)


async def events_of(log: Log, bank: str = B, tenant: str = T) -> list[Event]:
    """The whole log of a bank."""
    found: list[Event] = []
    while page := await log.events(tenant, bank, found[-1].version if found else 0, 1000):
        found += page
    return found


async def check_bank(
    url: str, acknowledged: Mapping[str, int], bank: str = B, tenant: str = T
) -> list[Event]:
    """Asserts what holds after every fault, with a node that knows nothing yet.

    Every acknowledged event is in the log at its version; an event id has one entry; versions are
    dense; checkpoint and tail give the bytes of a full replay; what is live is what the log says.

    Args:
        acknowledged: event id -> version.
    """
    fresh = Node(url)
    try:
        events = await events_of(fresh.log, bank, tenant)
        assert [event.version for event in events] == list(range(1, len(events) + 1))
        by_id = {event.event_id: event.version for event in events}
        assert len(by_id) == len(events), "one entry for each event id"
        lost = {name: at for name, at in acknowledged.items() if by_id.get(name) != at}
        assert not lost, f"acknowledged and not in the log: {lost}"
        erased = await fresh.log.erased(tenant, bank)
        live: dict[str, int] = {}
        for event in events:
            live.pop(event.fact_id, None)
            if event.kind == Kind.WRITE and event.fact_id not in erased:
                live[event.fact_id] = event.version
        for follower in (fresh.follower, fresh.scope):
            async with follower.state(tenant, bank) as state:
                assert {name: at for name, (at, _) in state.facts.items()} == live
            assert (await follower.verified(tenant, bank)).matches
        return events
    finally:
        await fresh.close()


def found_in_files(folder: Path, needles: Mapping[str, bytes]) -> dict[str, set[str]]:
    """Where each of some byte strings lies in the files below a folder: name -> paths."""
    found: dict[str, set[str]] = {name: set() for name in needles}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            for name, needle in needles.items():
                if needle in content:
                    found[name].add(str(path.relative_to(folder)))
    return found


def found_in_keys(url: str, needles: Mapping[str, bytes]) -> dict[str, set[str]]:
    """Which keys of the whole store hold each of some byte strings, in their name or value."""
    found: dict[str, set[str]] = {name: set() for name in needles}
    with redis.Redis.from_url(url) as raw:
        for key in raw.scan_iter(count=1000):
            content = b"\0".join([key, *_flat(_value_of(raw, key))])
            for name, needle in needles.items():
                if needle in content:
                    found[name].add(key.decode())
    return found


def _value_of(raw: Any, key: bytes) -> Any:
    kind = raw.type(key)
    if kind == b"string":
        return raw.get(key)
    if kind == b"stream":
        return raw.xrange(key)
    if kind == b"hash":
        return raw.hgetall(key)
    if kind == b"set":
        return raw.smembers(key)
    if kind == b"zset":
        return raw.zrange(key, 0, -1)
    assert kind == b"list", f"{key!r} is a {kind!r}: teach this scan to read it"
    return raw.lrange(key, 0, -1)


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _flat(name)
            yield from _flat(one)
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from _flat(one)


def payload_keys(raw: Any, bank: str = B) -> dict[int, bytes]:
    """The keys of a bank's own payloads, by version."""
    keys = raw.keys(f"*:{bank}:payload:*")
    return {int(key.rpartition(b":")[2]): key for key in keys}


def flip(raw: Any, key: bytes, position: int) -> None:
    """Flips one bit of a value, as a failing disk would; the same call again repairs it."""
    value = bytearray(raw.get(key))
    value[position] ^= 1
    raw.set(key, bytes(value))
