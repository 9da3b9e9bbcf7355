"""Bulk writes: order, one bad fact, replacements, and streams that are slow or break."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from larimar.defaults import default_fact_id
from larimar.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    LarimarError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from larimar.v1 import larimar_pb2 as pb
from services.gateway.bulk import BATCH_FACTS
from tests.gateway_calls import (
    ANSWER,
    FACTS,
    PROMPT,
    facts,
    write,
    write_many,
)
from tests.in_process import Door, Pipeline


async def test_many_facts_have_versions_in_the_order_of_the_stream(
    pipeline: Pipeline, gateway, bank: str
) -> None:
    """Two batches, the first slow to append while the second is encoded; with replacements."""
    count, appended = BATCH_FACTS + 40, []

    async def slow_first(request, call):
        appended.append(len(request.items))
        if len(appended) == 1:
            await asyncio.sleep(0.5)
        return await call(request)

    writes = [
        pb.WriteRequest(bank=bank, prompt=f"Box {n % 100} holds", answer=f"item {n}")
        for n in range(count)
    ]
    slow = pipeline.gateway(memory=Door(pipeline.doors["memory"], Append=slow_first))
    results = await write_many(slow, writes)
    assert sum(appended) == count and 2 <= len(appended) < 10
    assert [done.result.version for done in results] == list(range(1, count + 1))
    for request, done in zip(writes, results, strict=True):
        assert done.result.fact_id == default_fact_id(request.prompt) and not done.status.code
    listed = {
        fact.prompt: fact.answer for fact in (await facts(gateway, bank, page_size=200)).facts
    }
    assert listed == {request.prompt: request.answer for request in writes}


async def test_a_bad_fact_fails_alone_with_its_status(gateway, bank: str) -> None:
    await write(gateway, bank, *FACTS[5], event_id="taken")
    good = [pb.WriteRequest(bank=bank, prompt=p, answer=a) for p, a in FACTS[:5]]
    conflict = pb.WriteRequest(bank=bank, prompt=PROMPT, answer=ANSWER, event_id="taken")
    long = pb.WriteRequest(bank=bank, prompt="word " * 300, answer=ANSWER, event_id="long")
    wrong = pb.WriteRequest(bank=bank, prompt=PROMPT, answer=ANSWER, encoder_digest="0" * 64)
    nowhere = pb.WriteRequest(bank="nowhere", prompt=PROMPT, answer=ANSWER)
    named = pb.WriteRequest(bank="No Name", prompt=PROMPT, answer=ANSWER)
    empty = pb.WriteRequest(bank=bank, prompt=PROMPT, answer="", fact_id="x", event_id="empty")
    bad = [conflict, long, wrong, nowhere, named, empty]
    mixed = [write for pair in itertools.zip_longest(bad, good) for write in pair if write]
    results = await write_many(gateway, mixed)
    codes = [(done.status.code, done.status.reason) for done in results[0:12:2]]
    assert codes == [
        (Conflict.code, "CONFLICT"),
        (InvalidArgument.code, "TEXT_TOO_LONG"),
        (FailedPrecondition.code, "WRONG_ENCODER"),
        (NotFound.code, "UNKNOWN_BANK"),
        (InvalidArgument.code, "BAD_BANK_NAME"),
        (InvalidArgument.code, "EMPTY_TEXT"),
    ]
    assert all(done.status.message for done in results[0:12:2])
    assert [done.result.version for done in results[1:11:2]] == [2, 3, 4, 5, 6]
    assert (results[2].result.event_id, results[10].result.fact_id) == ("long", "x")
    assert {fact.prompt for fact in (await facts(gateway, bank)).facts} == {p for p, _ in FACTS}


async def test_the_order_holds_where_some_facts_name_their_encoder(
    gateway, bank: str, weights
) -> None:
    digest_ = weights.folder.encoder_digest
    writes = [
        pb.WriteRequest(
            bank=bank,
            prompt=PROMPT,
            answer=f"town {number}",
            fact_id="capital",
            encoder_digest=digest_ if number % 2 else "",
        )
        for number in range(5)
    ]
    results = await write_many(gateway, writes)
    assert [done.result.version for done in results] == [1, 2, 3, 4, 5]
    assert (await facts(gateway, bank)).facts[0].answer == "town 4"


async def test_a_batch_with_nothing_to_append_lets_no_later_one_pass(
    pipeline: Pipeline, gateway, bank: str
) -> None:
    """A batch that is slow to append, one of empty texts, and one that is soon encoded."""
    later = asyncio.Event()

    async def slow_first(request, call):
        if request.items[0].prompt == "Box 0 holds":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(later.wait(), 1.0)
        else:
            later.set()
        return await call(request)

    count = 2 * BATCH_FACTS + 1
    writes = [
        pb.WriteRequest(bank=bank, prompt=f"Box {n} holds", answer="" if n else "first")
        for n in range(count - 1)
    ]
    writes.append(pb.WriteRequest(bank=bank, prompt="The last box holds", answer="last"))
    slow = pipeline.gateway(memory=Door(pipeline.doors["memory"], Append=slow_first))
    results = await write_many(slow, writes)
    assert (results[0].result.version, results[-1].result.version) == (1, 2)


@pytest.mark.parametrize("error", [Unavailable("busy", "BUSY"), ResourceExhausted("slow down")])
@pytest.mark.parametrize("at", ["encoder", "memory"])
async def test_no_fact_overtakes_one_that_is_sent_again(
    pipeline: Pipeline, gateway, bank: str, at: str, error: LarimarError
) -> None:
    """A batch meets a fault: so does the next of its bank, and none of another bank."""
    left = [error]

    async def failing(request, call):
        if left and (at == "encoder" or request.bank == bank):
            raise left.pop()
        return await call(request)

    await gateway.CreateBank(pb.CreateBankRequest(bank=f"{bank}-2"))
    method = {"encoder": "Encode", "memory": "Append"}[at]
    doors: dict[str, Any] = {at: Door(pipeline.doors[at], **{method: failing})}
    faulty = pipeline.gateway(**doors)
    writes = [
        pb.WriteRequest(bank=bank, prompt=PROMPT, answer=f"town {n}", event_id=f"e{n}")
        for n in range(BATCH_FACTS + 40)
    ]
    writes.append(pb.WriteRequest(bank=f"{bank}-2", prompt=PROMPT, answer=ANSWER))
    results = await write_many(faulty, writes)
    assert {(one.status.code, one.status.message) for one in results[:-1]} == {
        (error.code, error.message)
    }
    assert (results[-1].status.code, results[-1].result.version) == (0, 1)
    again = await write_many(faulty, writes[:-1])
    assert [one.result.version for one in again] == list(range(1, len(writes)))
    assert (await facts(gateway, bank)).facts[0].answer == writes[-2].answer


async def test_a_slow_stream_is_answered_as_it_comes(gateway, bank: str) -> None:
    answered = asyncio.Event()

    async def requests() -> AsyncIterator[pb.WriteManyRequest]:
        for place, (prompt, answer) in enumerate(FACTS[:3]):
            if place:
                await asyncio.wait_for(answered.wait(), 60)
                answered.clear()
            yield pb.WriteManyRequest(
                write=pb.WriteRequest(bank=bank, prompt=prompt, answer=answer)
            )

    versions = []
    async for done in gateway.WriteMany(requests()):
        versions.append(done.result.version)
        answered.set()
    assert versions == [1, 2, 3]


async def test_a_stream_that_breaks_is_told_after_what_came_of_it(gateway, bank: str) -> None:
    async def requests() -> AsyncIterator[pb.WriteManyRequest]:
        for prompt, answer in FACTS[:2]:
            yield pb.WriteManyRequest(
                write=pb.WriteRequest(bank=bank, prompt=prompt, answer=answer)
            )
        await asyncio.sleep(0.1)
        raise ConnectionResetError("the client went away")

    versions = []
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(60):
            async for done in gateway.WriteMany(requests()):
                versions.append(done.result.version)
    assert versions == [1, 2]


async def test_an_empty_stream_has_no_results(gateway) -> None:
    assert await write_many(gateway, []) == []
