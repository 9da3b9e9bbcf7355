"""Erasure is complete: our own scan finds a fact everywhere before, and nowhere after.

The scan reads every file below the data directory and every key of the store. What it looks for is
made from the texts and vectors that were written, and not by what erases them.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from larimar.errors import FailedPrecondition
from larimar.v1 import common_pb2
from tests.erasures import (
    ANSWERS,
    FORKS,
    PROMPT,
    SECRET,
    SHARED,
    Home,
    assert_as_if_never_written,
    assert_everywhere,
    assert_nowhere,
    fill,
    needles,
    new_home,
    queue,
    save,
)
from tests.events import eventually
from tests.faults import (
    B,
    Node,
    T,
    config_of,
    found_in_files,
    found_in_keys,
    write,
)


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as made:
        yield made


@pytest_asyncio.fixture
async def memory(home: Home) -> AsyncIterator[Node]:
    made = Node(home.store.url, home.ledger)
    yield made
    await made.close()


@pytest.mark.parametrize("addressing", ["slots", "pinv"])
async def test_an_erased_fact_is_nowhere_in_a_family(home, memory, addressing: str) -> None:
    wanted = needles(config_of(addressing))
    shared = {"shared answer": SHARED.encode()}
    await fill(memory, addressing)
    await queue(memory)
    assert_everywhere(home, wanted)
    shared_before = found_in_keys(home.store.url, shared)["shared answer"]
    receipt = await memory.erased(SECRET)
    assert_nowhere(home, wanted)
    await assert_as_if_never_written(home, memory, addressing)

    assert (receipt.step, receipt.failure) == (common_pb2.ERASE_STEP_DONE, "")
    assert receipt.scan.found_before > 0 and receipt.scan.found == 0
    assert receipt.scan.not_searched == "" and receipt.scan.files >= 3 and receipt.scan.keys > 40
    assert [bank.bank for bank in receipt.banks] == sorted([B, *FORKS])
    assert all(bank.replay_matches and len(bank.versions) == 1 for bank in receipt.banks)
    assert receipt.payloads_removed == 5 and receipt.queue_entries_removed == 2
    assert receipt.checkpoints_removed >= 6
    shared_after = found_in_keys(home.store.url, shared)["shared answer"]
    assert len(shared_before) > len(shared_after) > 0, "the neighbour keeps its answer"
    assert found_in_files(home.folder, shared)["shared answer"]
    assert await memory.inbox.length(T) == 1
    assert (await memory.inbox.letters(T, "", 10))[1] == 1

    await asyncio.to_thread(home.store.restart)
    assert_nowhere(home, wanted)
    again = await memory.log.append(T, B, [write("s9", SECRET, PROMPT, "x", config_of(addressing))])
    assert isinstance(again[0].error, FailedPrecondition) and again[0].error.reason == "ERASED"
    await save(memory, B)
    assert_nowhere(home, wanted)


@pytest.mark.parametrize("addressing", ["slots", "pinv"])
async def test_a_backup_from_before_the_erase_is_restored(
    home, memory, addressing: str, caplog
) -> None:
    wanted = needles(config_of(addressing))
    await fill(memory, addressing)
    await queue(memory)
    backup = home.ledger.parent / "backup"
    shutil.copytree(home.folder / "appendonlydir", backup)
    await memory.append(write("late", "late", config=config_of(addressing)))
    await memory.erased(SECRET)
    await memory.close()
    await asyncio.to_thread(home.store.stop)
    shutil.rmtree(home.folder / "appendonlydir")
    backup.rename(home.folder / "appendonlydir")
    await asyncio.to_thread(home.store.start)
    assert_everywhere(home, wanted)

    restored = Node(home.store.url, home.ledger)
    with caplog.at_level(logging.WARNING):
        restored.service._eraser.keep()

        async def done() -> bool:
            return SECRET in await restored.log.erased(T, B) and not await restored.log.jobs()

        await eventually(done)
    assert "what came after is gone" in caplog.text
    assert "erased facts were back" in caplog.text
    assert SECRET not in caplog.text and PROMPT not in caplog.text
    assert_nowhere(home, wanted)
    await assert_as_if_never_written(home, restored, addressing)
    await restored.close()


# What a live fact holds in its own right


@pytest.mark.parametrize("where", ["bank", "replaced", "other bank", "other tenant"])
async def test_a_receipt_does_not_cry_wolf(home, memory, where: str) -> None:
    """Another fact holds the erased fact's very texts, and goes on holding them."""
    tenant, bank = ("other" if where == "other tenant" else T), B
    await memory.log.make_bank(T, B, config_of())
    if where in ("other bank", "other tenant"):
        bank = "elsewhere"
        await memory.log.make_bank(tenant, bank, config_of())
    await memory.append(write("s1", SECRET, PROMPT, ANSWERS[0]), write("o1", "other"))
    await memory.log.append(tenant, bank, [write("t1", "twin", PROMPT, ANSWERS[0])])
    if where == "replaced":
        await memory.append(write("t2", "twin", "Quite another prompt is", "new"))
    receipt = await memory.erased(SECRET)
    assert receipt.scan.found_before > 0
    assert found_in_keys(home.store.url, {"prompt": PROMPT.encode()})["prompt"]
    own = found_in_keys(home.store.url, {"id": b'"fact_id":"secret-fact"'})["id"]
    assert not {key for key in own if "payload" in key}
    assert receipt.scan.found == 0


async def test_a_receipt_says_what_is_left(home, memory) -> None:
    """A file that nobody rewrites still holds the text."""
    await memory.log.make_bank(T, B, config_of())
    await memory.append(write("s1", SECRET, PROMPT, ANSWERS[0]))
    (home.folder / "copy-of-an-old-file.aof").write_bytes(b"\r\n" + PROMPT.encode())
    receipt = await memory.erased(SECRET)
    assert receipt.scan.found == 1
    assert found_in_keys(home.store.url, {"prompt": PROMPT.encode()}) == {"prompt": set()}
