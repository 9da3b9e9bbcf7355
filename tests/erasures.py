"""A fact in every place that an erasure has to reach, and the scan that looks for it there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from larimar.v1 import common_pb2
from services.inbox import Death, Settled
from services.store import EmbeddedStore
from tests.faults import (
    PATIENCE_S,
    B,
    Node,
    T,
    check_bank,
    config_of,
    data_directory,
    forget,
    found_in_files,
    found_in_keys,
    payload_of,
    write,
)

SECRET = "secret-fact"
PROMPT = "The hidden godfather of Cordelia Ashgrove is"
ANSWERS = ("Anselm Thrupp", "Balthazar Quill", "Crispin Vantongeren", "Dorothea Winterbourne")
SHARED = "Wolfgang Amadeus Shared"
"""An answer that a neighbour has too, and keeps."""
FORKS = ("fork-1", "fork-2")


@dataclass
class Home:
    """A store with its directory, and a ledger that lies elsewhere."""

    folder: Path
    ledger: Path
    store: EmbeddedStore


@contextlib.contextmanager
def new_home() -> Iterator[Home]:
    """A store of a test's own."""
    with (
        data_directory() as folder,
        data_directory() as elsewhere,
        EmbeddedStore(folder / "data") as store,
    ):
        yield Home(folder / "data", elsewhere / "ledger.jsonl", store)


def needles(config) -> dict[str, bytes]:
    """What must vanish: the texts, and each vector of each version of the fact."""
    found = {"prompt": PROMPT.encode(), **{text: text.encode() for text in ANSWERS}}
    for answer in (*ANSWERS, SHARED):
        payload = payload_of(config, SECRET, PROMPT, answer)
        found[f"value of {answer}"] = payload.value.tobytes()
        found["address"] = payload.addresses[0].tobytes()
        found["scope vector"] = payload.scope[0].tobytes()
    return found


def event(event_id: str, answer: str) -> bytes:
    """The secret as a producer sends it."""
    data = {"prompt": PROMPT, "answer": answer, "fact_id": SECRET}
    envelope = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/tests",
        "type": "io.larimar.edit.write.v1",
        "subject": B,
        "data": data,
    }
    return json.dumps(envelope).encode()


async def fill(memory: Node, addressing: str, with_secret: bool = True) -> None:
    """A family of three banks in which the secret was written, replaced, forgotten and written."""
    config = config_of(addressing)

    async def edit(bank: str, *edits) -> None:
        wanted = [one for one in edits if with_secret or one.fact_id != SECRET]
        await memory.append(*wanted, bank=bank)

    def secret(event_id: str, answer: str):
        return write(event_id, SECRET, PROMPT, answer, config)

    await memory.log.make_bank(T, B, config)
    others = [write(f"o{n}", f"other-{n}", config=config) for n in range(20)]
    neighbour = write("n1", "neighbour", "The tutor of Jasper Lindqvist is", SHARED, config)
    await edit(B, *others[:10], secret("s1", ANSWERS[0]), neighbour)
    await save(memory, B)
    await edit(B, secret("s2", ANSWERS[1]), *others[10:])
    await memory.log.fork(T, B, FORKS[0], (await memory.log.head(T, B))[0])
    await edit(B, forget("s3", SECRET), secret("s4", ANSWERS[2]))
    await edit(FORKS[0], secret("s5", ANSWERS[3]))
    await memory.log.fork(T, FORKS[0], FORKS[1], (await memory.log.head(T, FORKS[0]))[0])
    await edit(FORKS[1], secret("s6", SHARED), forget("s7", SECRET))
    for bank in (B, *FORKS):
        await save(memory, bank)


async def save(memory: Node, bank: str) -> None:
    """Checkpoints of both parts."""
    await memory.follower.save_checkpoint(T, bank)
    await memory.scope.save_checkpoint(T, bank)


async def queue(memory: Node) -> None:
    """An event in the inbox, another among the dead letters, and one about a neighbour in each."""
    other = event("q0", "x").replace(PROMPT.encode(), b"Another prompt is")
    other = other.replace(SECRET.encode(), b"neighbour")
    for waiting in (event("q1", ANSWERS[0]), other):
        entry = await memory.inbox.append(T, waiting)
        (taken,) = await memory.inbox.take(T, 1, 100)
        death = Death(taken.event, "BAD_EVENT", "it is a test", 1)
        assert await memory.inbox.settle(T, [Settled(entry, death)]) == 1
    await memory.inbox.append(T, event("q2", ANSWERS[1]))
    await memory.inbox.append(T, other)


def assert_everywhere(home: Home, wanted: dict[str, bytes]) -> None:
    """The scan is able to find what it looks for."""
    for found in (found_in_files(home.folder, wanted), found_in_keys(home.store.url, wanted)):
        assert not [name for name, places in found.items() if not places], "nothing to find"


def assert_nowhere(home: Home, wanted: dict[str, bytes]) -> None:
    """Neither text nor vector is left, in any file or key."""
    files, keys = found_in_files(home.folder, wanted), found_in_keys(home.store.url, wanted)
    assert not {name: places for name, places in files.items() if places}
    assert not {name: places for name, places in keys.items() if places}
    ledger = found_in_files(home.ledger.parent, {**wanted, "fact id": SECRET.encode()})
    assert not any(ledger.values())


async def assert_as_if_never_written(home: Home, memory: Node, addressing: str) -> None:
    """Each bank has digest and bytes of one in which the secret was never written."""
    with data_directory() as folder, EmbeddedStore(folder) as store:
        innocent = Node(store.url)
        await fill(innocent, addressing, with_secret=False)
        for bank in (B, *FORKS):
            await check_bank(home.store.url, {}, bank)
            for ours, theirs in (
                (memory.follower, innocent.follower),
                (memory.scope, innocent.scope),
            ):
                mine, never = await ours.verified(T, bank), await theirs.verified(T, bank)
                assert mine.matches
                assert (mine.digest, mine.folded_sha256) == (never.digest, never.folded_sha256)
                assert mine.facts == 21
        await innocent.close()


async def assert_erased(home: Home, memory: Node, receipt, wanted: dict[str, bytes]) -> None:
    assert_nowhere(home, wanted)
    assert (receipt.step, receipt.failure, receipt.scan.found) == (
        common_pb2.ERASE_STEP_DONE,
        "",
        0,
    )
    assert len(receipt.banks) == 3 and all(bank.replay_matches for bank in receipt.banks)
    for bank in (B, *FORKS):
        events = await check_bank(home.store.url, {}, bank)
        assert sum(event.kind == "E" for event in events) == 1, "erased once"
    assert await memory.log.jobs() == []


async def eventually(found: Callable[[], list[Path]]) -> list[Path]:
    """What is found, once it is."""
    deadline = time.monotonic() + PATIENCE_S
    while not (paths := found()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return paths
