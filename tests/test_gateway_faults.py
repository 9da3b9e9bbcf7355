"""The gateway among services that are down, late, or moving on under it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from larimar.errors import (
    DeadlineExceeded,
    LarimarError,
    Unavailable,
)
from larimar.v1 import larimar_pb2 as pb
from tests.gateway_calls import (
    ANSWER,
    FACTS,
    PROMPT,
    ask,
    digest,
    forget,
    write,
)
from tests.in_process import Door, Pipeline


def failing(times: int, error: LarimarError) -> Callable:
    """A call that fails some times before it is made."""
    left = [error] * times

    async def changed(request, call):
        if left:
            raise left.pop()
        return await call(request)

    return changed


async def test_a_service_that_is_down_is_tried_again(pipeline: Pipeline, bank: str) -> None:
    down = Unavailable("the service does not answer: retry", "SERVICE_DOWN")
    gateway = pipeline.gateway(
        memory=Door(pipeline.doors["memory"], Append=failing(2, down)),
        encoder=Door(pipeline.doors["encoder"], Encode=failing(1, down)),
    )
    assert (await write(gateway, bank, PROMPT, ANSWER)).version == 1
    assert (await digest(gateway, bank)).version == 1


async def test_an_append_whose_reply_was_lost_is_made_once(pipeline: Pipeline, bank: str) -> None:
    lost = [True]

    async def losing(request, call):
        reply = await call(request)
        if lost:
            lost.pop()
            raise Unavailable("the memory service does not answer: retry", "SERVICE_DOWN")
        return reply

    gateway = pipeline.gateway(memory=Door(pipeline.doors["memory"], Append=losing))
    written = await write(gateway, bank, PROMPT, ANSWER)
    assert (written.version, written.duplicate) == (1, True)
    assert (await digest(gateway, bank)).version == 1


async def test_facts_are_forgotten_while_encoder_and_scope_are_down(
    pipeline: Pipeline, gateway, bank: str
) -> None:
    async def down(request, call):
        raise Unavailable("the service does not answer", "DOWN")

    written = await write(gateway, bank, PROMPT, ANSWER)
    alone = pipeline.gateway(
        encoder=Door(pipeline.doors["encoder"], DescribeEncoder=down, Encode=down),
        scope=Door(pipeline.doors["scope"], DescribeScope=down, Embed=down),
    )
    assert (await forget(alone, bank, written.fact_id)).version == 2


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("Write", {"prompt": PROMPT, "answer": ANSWER}),
        ("Ask", {"prompt": PROMPT}),
        ("Score", {"prompt": PROMPT, "candidates": [" a"]}),
        ("Digest", {}),
    ],
)
async def test_a_call_ends_at_its_deadline(
    pipeline: Pipeline, bank: str, method: str, fields: dict
) -> None:
    async def never(request, call):
        await asyncio.sleep(3600)

    async def stuck(request, call):
        await asyncio.sleep(3600)
        yield

    class Caller:
        """What gRPC tells of a caller who waits for half a second."""

        def time_remaining(self) -> float:
            return 0.5

    gateway = pipeline.gateway(
        memory=Door(pipeline.doors["memory"], Append=never, ComputeDigest=never),
        decoder=Door(pipeline.doors["decoder"], Generate=stuck, ScoreCandidates=never),
    )
    request = getattr(pb, f"{method}Request")(bank=bank, **fields)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        reply = getattr(gateway._servicer, method)(request, Caller())
        if hasattr(reply, "__aiter__"):
            async for _ in reply:
                pass
        else:
            await reply
    assert time.monotonic() - started < 20


async def test_a_caller_who_leaves_a_stream_ends_the_decoders_part(
    pipeline: Pipeline, bank: str
) -> None:
    ended = asyncio.Event()

    async def noted(request, call):
        try:
            async for reply in call(request):
                yield reply
        finally:
            ended.set()

    gateway = pipeline.gateway(decoder=Door(pipeline.doors["decoder"], Generate=noted))
    request = pb.AskRequest(
        bank=bank, prompt=PROMPT, sampling={"max_tokens": 60, "temperature": 10}
    )
    stream = gateway.Ask(request)
    assert (await anext(stream)) is not None
    await stream.aclose()
    assert ended.is_set()


@pytest.mark.parametrize("others", [0, 1])
async def test_a_fact_forgotten_while_it_is_asked_for_is_not_answered_from(
    pipeline: Pipeline, gateway, bank: str, others: int
) -> None:
    """Between scope and memory: scope is asked once more. The bank is empty then, or is not."""
    for prompt, answer in FACTS[:others]:
        await write(gateway, bank, prompt, answer)
    written = await write(gateway, bank, PROMPT, ANSWER)
    left = [written.fact_id]

    async def meanwhile(request, call):
        reply = await call(request)
        if left:
            await forget(gateway, bank, left.pop())
        return reply

    slow = pipeline.gateway(scope=Door(pipeline.doors["scope"], Detect=meanwhile))
    text, last = await ask(slow, bank, PROMPT)
    assert not last.provenance.in_scope
    assert last.provenance.version == written.version + 1
    assert text == (await ask(gateway, bank, PROMPT, no_memory=True))[0]


async def test_a_fact_replaced_while_it_is_asked_for_is_answered_at_one_version(
    pipeline: Pipeline, gateway, bank: str
) -> None:
    await write(gateway, bank, PROMPT, ANSWER, fact_id="capital")
    answers = ["Ostrel"]

    async def meanwhile(request, call):
        reply = await call(request)
        if answers:
            await write(gateway, bank, PROMPT, answers.pop(), fact_id="capital")
        return reply

    slow = pipeline.gateway(scope=Door(pipeline.doors["scope"], Detect=meanwhile))
    text, last = await ask(slow, bank, PROMPT)
    assert (last.provenance.fact_id, last.provenance.version) == ("capital", 2)
    assert text == (await ask(gateway, bank, PROMPT))[0]
