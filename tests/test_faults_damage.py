"""Damage, refusals, no room, and a past that returns: one bank stops, the others go on.

As tests/test_faults_store.py, on a real store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import redis

from benchmarks import powercut
from larimar.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LarimarError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from larimar.v1 import common_pb2, memory_pb2
from larimar.wire import vector_to_bytes
from services import follower as follower_module
from services.rpc import ObjectStub
from services.store import EmbeddedStore
from tests.faults import (
    SIZE,
    B,
    Node,
    T,
    append_item,
    append_request,
    check_bank,
    config_of,
    data_directory,
    events_of,
    flip,
    forget,
    node,
    payload_keys,
    retried,
    rounds,
    seeded,
    supervised_store,
    vector_of,
    write,
)


@pytest.fixture(scope="module")
def store() -> Iterator[EmbeddedStore]:
    with data_directory() as folder, supervised_store(folder) as running:
        yield running


@pytest.fixture
def raw(store: EmbeddedStore) -> Iterator[redis.Redis]:
    """A client that does what no service may; leaves an empty store."""
    with redis.Redis.from_url(store.url) as client:
        yield client
        client.flushall()


@pytest_asyncio.fixture
async def memory(store: EmbeddedStore, raw: redis.Redis) -> AsyncIterator[Node]:
    """A node with a bank; nothing else is in the store."""
    async with node(store.url, B) as made:
        yield made


# Damage


async def test_a_flipped_bit_in_a_payload_stops_its_bank_alone(
    store, memory, raw, monkeypatch
) -> None:
    monkeypatch.setattr(follower_module, "STOPPED_S", 0.2)
    rng = seeded("bit flip")
    await memory.log.make_bank(T, "other", config_of())
    for bank in (B, "other"):
        await memory.append(*(write(f"e{n}", f"f{n}") for n in range(1, 31)), bank=bank)
    service = ObjectStub(memory.service)
    version = rng.randrange(1, 31)
    key = payload_keys(raw)[version]
    position = rng.randrange(raw.strlen(key))
    flip(raw, key, position)
    ask = memory_pb2.ComputeDigestRequest
    context = common_pb2.CallContext(tenant=T)
    with pytest.raises(DataLoss, match=f"version {version}:"):
        await service.ComputeDigest(ask(bank=B, context=context))
    with pytest.raises(DataLoss, match=f"version {version}:"):
        await service.Append(
            append_request(append_item("late", "late"), append_item("later", "later"))
        )
    assert (await memory.log.head(T, B))[0] == 30
    other = await service.ComputeDigest(ask(bank="other", context=context))
    assert other.version == 30
    assert await memory.append(write("e31", "f31"), bank="other") == [31]
    flip(raw, key, position)
    await asyncio.sleep(0.25)
    assert (await service.ComputeDigest(ask(bank=B, context=context))).digest == other.digest
    assert (await service.Append(append_request(append_item("late", "late")))).results[0].version
    await check_bank(store.url, {"late": 31})


async def test_a_flipped_bit_in_the_stores_file_is_noticed(raw) -> None:
    """The store itself serves it silently: only our own digest can tell."""
    with data_directory() as folder:
        with EmbeddedStore(folder) as own:
            async with node(own.url, B) as before:
                await before.append(write("e1", "f"), write("e2", "g", answer="Wendeline Orrin"))
        (file,) = folder.glob("appendonlydir/*.incr.aof")
        content = file.read_bytes()
        assert content.count(b"Wendeline") == 1
        file.write_bytes(content.replace(b"Wendeline", b"Wendelyne"))
        with EmbeddedStore(folder) as own:
            async with node(own.url) as after:
                with pytest.raises(DataLoss, match="version 2:"):
                    async with after.follower.state(T, B):
                        pass


async def test_damaged_checkpoints_are_skipped(store, memory, raw, caplog) -> None:
    rng = seeded("damaged checkpoints")
    for start in (0, 20):
        await memory.append(*(write(f"e{n}", f"f{n}") for n in range(start, start + 20)))
        await memory.follower.save_checkpoint(T, B)
    await memory.append(write("last", "last"))

    def part_of(version: int) -> bytes:
        (key,) = raw.keys(f"*:{B}:part:*{version}-*:0")
        return key

    newest, older = part_of(40), part_of(20)
    held = raw.get(newest)
    damages = {
        "bit flip": lambda: flip(raw, newest, rng.randrange(len(held))),
        "truncated": lambda: raw.set(newest, held[: rng.randrange(len(held))]),
        "empty": lambda: raw.set(newest, b""),
        "gone": lambda: raw.delete(newest),
    }
    for damage in damages.values():
        damage()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            await check_bank(store.url, {"last": 41})
        assert "checkpoint 40 of bank bank is skipped" in caplog.text
        assert "checkpoint 20" not in caplog.text
        raw.set(newest, held)
    flip(raw, newest, 3)
    raw.set(older, raw.get(older)[:-1])
    with caplog.at_level(logging.WARNING):
        await check_bank(store.url, {"last": 41})
    assert "checkpoint 20 of bank bank is skipped" in caplog.text


# Events that no bank takes


async def test_bad_vectors_are_refused_one_by_one(store, memory) -> None:
    service = ObjectStub(memory.service)
    nan, huge = np.full(SIZE, np.nan, np.float32), np.full(SIZE, 1e9, np.float32)
    bad = {
        "nan": {"value": vector_to_bytes(nan)},
        "infinite": {"prompt_latents": [vector_to_bytes(nan * np.inf)]},
        "past the range": {"value": vector_to_bytes(huge)},
        "short": {"value": vector_to_bytes(vector_of("x")[:-1])},
        "half a number": {"value": vector_to_bytes(vector_of("x"))[:-2]},
        "long": {"scope_vectors": [vector_to_bytes(np.ones(SIZE + 1, np.float32))]},
        "no rows": {"prompt_latents": []},
        "a row too few": {"rephrasings": ["Said otherwise"]},
        "too many rephrasings": {"rephrasings": ["Said otherwise"] * 1000},
        "oversize": {"prompt": "x" * (9 * 2**20)},
        "unknown kind": {"kind": 99},
        "no event id": {"event_id": ""},
        "long fact id": {"fact_id": "f" * 100_000},
        "a cut id": {"fact_id": "a\0b"},
    }
    items = [append_item(f"e {name}", "f", **changed) for name, changed in bad.items()]
    results = (
        await service.Append(append_request(append_item("e1", "f"), *items, append_item("e2", "f")))
    ).results
    assert [results[0].version, results[-1].version] == [1, 2]
    for name, result in zip(bad, results[1:-1], strict=True):
        assert result.status.code == InvalidArgument.code, f"{name}: {result}"
        assert "x" * 100 not in result.status.message
    await check_bank(store.url, {"e1": 1, "e2": 2})
    assert (await memory.log.head(T, B))[0] == 2


async def test_a_write_of_another_encoder_is_refused(store, memory) -> None:
    service = ObjectStub(memory.service)
    for wrong, reason in (("encoder_digest", "WRONG_ENCODER"), ("scope_digest", "WRONG_SCOPE")):
        request = append_request(append_item("e1", "f"))
        setattr(request, wrong, "another")
        with pytest.raises(FailedPrecondition) as caught:
            await service.Append(request)
        assert caught.value.reason == reason
    assert (await memory.log.head(T, B))[0] == 0


async def test_another_tenants_bank_of_the_same_name(store, memory) -> None:
    service = ObjectStub(memory.service)
    await memory.append(write("e1", "f"))
    spy = common_pb2.CallContext(tenant="spy")
    for call in (
        service.ComputeDigest(memory_pb2.ComputeDigestRequest(bank=B, context=spy)),
        service.EnumerateFacts(memory_pb2.EnumerateFactsRequest(bank=B, context=spy)),
        service.Append(append_request(append_item("e2", "f"), tenant="spy")),
        service.EraseFacts(
            memory_pb2.EraseFactsRequest(bank=B, fact_ids=["f"], event_id="e2", context=spy)
        ),
        service.BranchBank(memory_pb2.BranchBankRequest(bank=B, new_bank="copy", context=spy)),
    ):
        with pytest.raises(NotFound):
            await call
    await memory.log.make_bank("spy", B, config_of())
    (own,) = await memory.log.append("spy", B, [write("e1", "g")])
    assert (own.version, own.duplicate) == (1, False)
    await memory.log.drop_bank("spy", B)
    events = await check_bank(store.url, {"e1": 1})
    assert [event.fact_id for event in events] == ["f"]


# No room


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own; skips the test where none can be mounted."""
    with data_directory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs (root)")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_the_disk_is_full() -> None:
    """The server ends, tries again until there is room, and has all that it acknowledged."""
    with small_disk(8) as folder, supervised_store(folder) as own:
        async with node(own.url, B) as memory:
            acknowledged: dict[str, int] = {}

            async def append(event_id: str, fact_id: str) -> None:
                edit = write(event_id, fact_id, answer="long " * 100)
                (acknowledged[event_id],) = await memory.append(edit)

            await append("first", "f")
            ballast = folder / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(b"\0" * 4096) == 4096:
                    pass
            number = 0
            with pytest.raises(Unavailable):
                while True:
                    number += 1
                    assert number < 10_000, "the disk does not fill up"
                    await append(f"e{number}", f"f{number % 9}")
            for _ in range(3):
                await asyncio.sleep(0.2)
                with pytest.raises(Unavailable):
                    await memory.append(write("while full", "g", answer="long " * 100_000))
            ballast.unlink()
            await retried(lambda: append(f"e{number}", f"f{number % 9}"))
            await retried(lambda: append("after", "g"))
            await check_bank(own.url, acknowledged)


async def test_the_stores_memory_is_full(store, memory, raw) -> None:
    await memory.append(write("e1", "f"))
    raw.config_set("maxmemory", 1)
    try:
        for edit in (write("e2", "g"), forget("e3", "f")):
            with pytest.raises(ResourceExhausted, match="maxmemory"):
                await memory.append(edit)
        async with memory.follower.state(T, B) as state:
            assert len(state) == 1
        with pytest.raises(LarimarError):
            await memory.follower.save_checkpoint(T, B)
    finally:
        raw.config_set("maxmemory", 0)
    assert await memory.append(write("e2", "g"), forget("e3", "f")) == [2, 3]
    await check_bank(store.url, {"e1": 1, "e2": 2, "e3": 3})


# The past


async def test_an_old_backup_is_restored(caplog) -> None:
    """What came after it is gone, and said to be gone; followers notice; ids are free again."""
    with data_directory() as folder, data_directory() as backup:
        with EmbeddedStore(folder) as own:
            async with node(own.url, B) as memory:
                await memory.append(*(write(f"e{n}", f"f{n}") for n in range(1, 11)))
                shutil.copytree(folder / "appendonlydir", backup / "appendonlydir")
                await memory.append(*(write(f"e{n}", f"f{n}") for n in range(11, 16)))
                async with memory.follower.state(T, B) as state:
                    assert state.version == 15
                await asyncio.to_thread(own.stop)
                shutil.rmtree(folder / "appendonlydir")
                shutil.copytree(backup / "appendonlydir", folder / "appendonlydir")
                await asyncio.to_thread(own.start)
                with caplog.at_level(logging.WARNING):
                    async with memory.follower.state(T, B) as state:
                        assert (state.version, len(state)) == (10, 10)
                assert "version 15 and what led to it may be gone" in caplog.text
                with pytest.raises(FailedPrecondition, match="not yet at 15"):
                    async with memory.follower.state(T, B, min_version=15):
                        pass
                assert await memory.append(write("e12", "f12")) == [11]
                assert len(await events_of(memory.log)) == 11
        with EmbeddedStore(folder) as own:
            known = {f"e{n}": n for n in range(1, 11)}
            await check_bank(own.url, known | {"e12": 11})


async def test_the_power_goes() -> None:
    """The page cache is lost; what was acknowledged before lies on the disk."""
    rng = seeded("power cut")
    for _ in range(rounds(1)):
        try:
            acknowledged, lost = await powercut.one_round(rng, "always")
        except FailedPrecondition as error:
            pytest.skip(error.message)
        assert acknowledged > 0 and lost == 0
    lost_at_all = 0  # with fsync once a second, for this cut is able to lose
    for _ in range(5):
        acknowledged, lost = await powercut.one_round(rng, "everysec")
        lost_at_all += lost
        if lost_at_all:
            break
    assert lost_at_all > 0
