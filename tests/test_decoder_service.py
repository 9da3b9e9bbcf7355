"""The decoder service: queues, streams, callers who wait, leave or are late, and scores."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import pytest
import torch

from larimar.decoder import Decoder, Sampling
from larimar.decoding import MAX_ROWS, Batch, Row
from larimar.errors import DeadlineExceeded, InvalidArgument, LarimarError, ResourceExhausted
from larimar.v1 import decoder_pb2
from services.contracts import channel_stub
from services.decoder.running import MAX_QUEUE
from services.decoder.service import DecoderService
from services.observability.metrics import TOKENS
from services.rpc import ObjectStub
from tests.decoding import PROMPTS, whole
from tests.events import eventually
from tests.in_process import Gate, Weights, served


class Turnstile:
    """Lets as many steps through as it is told to."""

    def __init__(self) -> None:
        self._left = threading.Semaphore(0)

    def __call__(self) -> None:
        assert self._left.acquire(timeout=180)

    def let(self, steps: int) -> None:
        """Lets so many more steps through."""
        self._left.release(steps)


class NotedDecoder:
    """The decoder, each of its steps held at a gate and noted: the rows that it has."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.gate: Any = Gate()
        self.steps: list[list[Row]] = []

    def __getattr__(self, name: str):
        return getattr(self._decoder, name)

    def batch(self) -> Batch:
        batch = self._decoder.batch()
        step = batch.step

        def noted_step() -> list[Row]:
            self.steps.append(list(batch.rows))
            self.gate()
            return step()

        batch.step = noted_step
        return batch

    @property
    def prompts(self) -> set[str]:
        """Prompts of the rows of all steps, without their special tokens."""
        ids = {tuple(row.prompt_ids[1:]) for rows in self.steps for row in rows}
        return {self._decoder.tokenizer.decode(one) for one in ids}


@pytest.fixture
def noted(decoder) -> NotedDecoder:
    return NotedDecoder(decoder)


@pytest.fixture
def service(weights: Weights, noted: NotedDecoder) -> DecoderService:
    return DecoderService(weights.folder, noted)


@pytest.fixture
async def door(service: DecoderService):
    """A channel to the decoder service."""
    async with served("decoder", service) as address:
        yield channel_stub("decoder", address)


def queued(service: DecoderService) -> int:
    """Calls that no step has taken in yet."""
    return len(service._runner._rows)


def request_of(prompt: str, z_C=None, deadline: float = 0.0, **sampling):
    latent = b"" if z_C is None else z_C.float().numpy().astype("<f4").tobytes()
    sampling = decoder_pb2.Sampling(**{"max_tokens": 4} | sampling)
    request = decoder_pb2.GenerateRequest(prompt=prompt, latent=latent, sampling=sampling)
    request.context.deadline_unix_s = deadline
    return request


async def said(door, request) -> tuple[str, str, int]:
    replies = [reply async for reply in door.Generate(request)]
    assert not any(reply.finish_reason for reply in replies[:-1])
    last = replies[-1]
    return "".join(reply.text for reply in replies), last.finish_reason, last.tokens


async def completed(door, request) -> tuple[str, str, int]:
    request = decoder_pb2.CompleteRequest.FromString(request.SerializeToString())
    reply = await door.Complete(request)
    return reply.text, reply.finish_reason, reply.tokens


async def test_calls_of_all_kinds_share_steps_and_are_answered_as_alone(
    door, service, noted, decoder, latents
) -> None:
    long = "river " * 70
    first = asyncio.create_task(said(door, request_of("first")))
    await noted.gate.reached()
    calls = []
    for place, prompt in enumerate(PROMPTS):
        for z_C in (None, latents[place]):
            for how in ({"seed": 5, "temperature": 10.0}, {"max_tokens": 2}):
                calls.append((prompt, z_C, how))
    calls += [(long, None, {}), (long, latents[0], {})]
    answers = [
        asyncio.create_task((said, completed)[place % 2](door, request_of(p, z, **how)))
        for place, (p, z, how) in enumerate(calls)
    ]
    await eventually(lambda: queued(service) == len(calls))
    noted.gate.open()
    await first
    for (prompt, z_C, how), answer in zip(calls, answers, strict=True):
        sampling = Sampling(**{"max_tokens": 4} | how)
        alone = whole(decoder, prompt, sampling, None if z_C is None else z_C[None])
        assert await answer == alone
    assert max(len(rows) for rows in noted.steps) == MAX_ROWS
    mixed = noted.steps[1]
    assert {row.z_1C is None for row in mixed} == {True, False}
    assert len({len(row.prompt_ids) for row in mixed}) > 1


async def test_a_short_answer_does_not_wait_for_a_long_one(door, service, noted) -> None:
    """Nor does one that comes later wait for its turn."""
    noted.gate = steps = Turnstile()
    long = asyncio.create_task(
        said(door, request_of("a", max_tokens=120, temperature=10.0, seed=1))
    )
    for done in (0, 4):
        await eventually(lambda done=done: len(noted.steps) == done + 1)  # which waits at the gate
        short = asyncio.create_task(completed(door, request_of("The", max_tokens=2)))
        await eventually(lambda: queued(service) == 1)
        steps.let(4)
        assert (await short)[2] <= 2
    assert not long.done()
    steps.let(120)
    assert (await long)[1:] == ("length", 120)


async def test_who_leaves_a_stream_leaves_the_batch_at_the_next_step(service, noted) -> None:
    noted.gate = steps = Turnstile()
    door = ObjectStub(service)
    request = request_of("a", max_tokens=120, temperature=10.0, seed=1)
    stream = door.Generate(request)
    steps.let(1)
    await anext(stream)
    await eventually(lambda: len(noted.steps) == 2)
    await stream.aclose()
    waiting = asyncio.create_task(completed(door, request))
    await eventually(lambda: queued(service) == 1)
    steps.let(1)
    await eventually(lambda: len(noted.steps) == 3)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    steps.let(120)
    await completed(door, request_of("The", max_tokens=3))
    assert [len(rows) for rows in noted.steps[:3]] == [1, 1, 1]
    assert len(noted.steps) <= 6 and len(noted.steps[-1]) == 1


async def test_what_a_step_raises_reaches_its_callers_and_nobody_else(weights, noted) -> None:
    door = ObjectStub(DecoderService(weights.folder, noted))
    noted.gate = failing = Failing()
    with pytest.raises(RuntimeError, match="broken"):
        await said(door, request_of("a"))
    failing.mended = True
    assert (await said(door, request_of("a")))[2] == 4


async def test_a_row_of_which_no_token_can_be_chosen_ends_alone(
    door, service, noted, decoder
) -> None:
    """Its latent is finite, and so large that what the network makes of it is not."""
    huge = torch.full((decoder.value_size,), 3e38)
    good = request_of("The", max_tokens=6)
    broken = request_of("a", huge, max_tokens=6, temperature=1.0)
    first = asyncio.create_task(completed(door, good))
    await eventually(lambda: noted.steps)
    others = [
        asyncio.create_task(one)
        for one in (said(door, good), said(door, broken), completed(door, broken))
    ]
    await eventually(lambda: queued(service) == len(others))
    noted.gate.open()
    streamed, *refused = await asyncio.gather(*others, return_exceptions=True)
    assert await first == streamed == whole(decoder, "The", Sampling(6))
    assert all(isinstance(one, LarimarError) for one in refused)
    assert max(map(len, noted.steps)) == 4


async def test_tokens_are_counted_and_not_steps(door, noted, decoder) -> None:
    """Of a text that repeats itself a step says several."""
    noted.gate.open()
    request, before = request_of("the group of groups is a group of", max_tokens=40), counted()
    text, _, tokens = await completed(door, request)
    assert text and tokens <= counted() - before <= tokens + 1  # the end is a token that is said
    assert len(noted.steps) < tokens or not decoder.batch()._drafts.steady(64)


def counted() -> float:
    """Tokens that the decoder service says it has said."""
    return TOKENS._value.get()


class Failing:
    """A gate at which steps break until it is mended."""

    mended = False

    def __call__(self) -> None:
        if not self.mended:
            raise RuntimeError("broken")


@pytest.mark.parametrize(("every_s", "messages"), [(0.0, 6), (60.0, 2)])
async def test_a_stream_comes_in_pieces(door, noted, monkeypatch, every_s, messages) -> None:
    """The first at once, then what was said in a while together, and the end."""
    monkeypatch.setattr("services.decoder.running.PIECE_EVERY_S", every_s)
    noted.gate.open()
    replies = [
        reply
        async for reply in door.Generate(request_of("a", max_tokens=6, temperature=10.0, seed=1))
    ]
    assert replies[0].tokens == 1
    assert len(replies) == messages
    assert [reply.finish_reason for reply in replies] == [""] * (len(replies) - 1) + ["length"]
    assert replies[-1].tokens == 6


async def test_a_full_queue_refuses_one_more(door, noted) -> None:
    first = asyncio.create_task(said(door, request_of("first", max_tokens=1)))
    await noted.gate.reached()
    others = [
        asyncio.create_task(said(door, request_of("a", max_tokens=1))) for _ in range(MAX_QUEUE + 2)
    ]
    refused = 0
    for task in asyncio.as_completed(others):
        try:
            await task
        except ResourceExhausted as error:
            assert error.reason == "QUEUE_FULL"
            refused += 1
        if refused == 2:
            break
    noted.gate.open()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    assert sum(isinstance(result, Exception) for result in results) == 2


async def test_a_caller_who_leaves_gives_up_the_place_in_the_queue(weights, noted) -> None:
    door = ObjectStub(DecoderService(weights.folder, noted))
    first = asyncio.create_task(said(door, request_of("first")))
    await noted.gate.reached()
    left = asyncio.create_task(said(door, request_of("left")))
    stayed = asyncio.create_task(said(door, request_of("stayed")))
    await asyncio.sleep(0.05)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    noted.gate.open()
    await asyncio.gather(first, stayed)
    assert noted.prompts == {"first", "stayed"}


async def test_a_deadline_passes_in_the_queue(weights, noted) -> None:
    door = ObjectStub(DecoderService(weights.folder, noted))
    first = asyncio.create_task(said(door, request_of("first")))
    await noted.gate.reached()
    late = asyncio.create_task(said(door, request_of("late", deadline=time.time() + 0.1)))
    await asyncio.sleep(0.2)
    noted.gate.open()
    with pytest.raises(DeadlineExceeded):
        await late
    await first
    assert noted.prompts == {"first"}
    with pytest.raises(DeadlineExceeded):
        await said(door, request_of("late", deadline=time.time() - 1))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (request_of(""), "EMPTY_TEXT"),
        (request_of("river " * 400), "TEXT_TOO_LONG"),
        (request_of("a", torch.zeros(3)), "WRONG_SHAPE"),
        (request_of("a", max_tokens=1000), "BAD_SAMPLING"),
        (request_of("a", max_tokens=-1), "BAD_SAMPLING"),
        (request_of("a", top_p=2.0), "BAD_SAMPLING"),
    ],
)
async def test_a_bad_request_is_named(door, noted, request_, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await said(door, request_)
    assert caught.value.reason == reason
    assert noted.steps == []


async def test_a_latent_with_a_number_that_is_not_finite_is_refused(door, latents) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await said(door, request_of("a", latents[0] * math.inf))
    assert caught.value.reason == "NOT_FINITE"


async def test_settings_left_out_have_their_defaults(door, noted, decoder) -> None:
    noted.gate.open()
    assert await said(door, request_of("a", max_tokens=0)) == whole(decoder, "a", Sampling(32))


async def test_scores_through_the_service_are_the_decoders(door, decoder, latents) -> None:
    candidates = [" Tarsin", " a town by the sea"]

    async def score(prompt, z_C, candidates=candidates):
        latent = b"" if z_C is None else z_C.float().numpy().astype("<f4").tobytes()
        reply = await door.ScoreCandidates(
            decoder_pb2.ScoreCandidatesRequest(prompt=prompt, candidates=candidates, latent=latent)
        )
        return [(tuple(one.token_logprobs), tuple(one.token_is_argmax)) for one in reply.scores]

    calls = [(prompt, z) for place, prompt in enumerate(PROMPTS) for z in (None, latents[place])]
    answers = await asyncio.gather(*(score(prompt, z_C) for prompt, z_C in calls))
    for (prompt, z_C), answer in zip(calls, answers, strict=True):
        wanted = decoder.score(prompt, candidates, z_C)
        assert answer == [(one.token_logprobs, one.token_is_argmax) for one in wanted]
    results = await asyncio.gather(
        score("", None), score("a", None), score("a", None, [" x"] * 65), return_exceptions=True
    )
    assert [getattr(result, "reason", "") for result in results] == [
        "EMPTY_TEXT",
        "",
        "TOO_MANY_ITEMS",
    ]


async def test_a_score_that_goes_wrong_stops_nobody_else(door, noted, decoder, monkeypatch) -> None:
    def fails(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(decoder, "score", fails)
    ask = decoder_pb2.ScoreCandidatesRequest(prompt="a", candidates=[" b"])
    with pytest.raises(LarimarError, match="unexpected RuntimeError"):
        await door.ScoreCandidates(ask)
    monkeypatch.undo()
    reply = await asyncio.wait_for(door.ScoreCandidates(ask), 120)
    assert len(reply.scores) == 1
    noted.gate.open()
    assert await said(door, request_of("a")) == whole(decoder, "a", Sampling(4))
