"""The decoder service: queues, streams, callers who wait, leave or are late, and scores."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
import torch

from larimar.decoder import BUCKET_ROWS, Decoder, Sampling
from larimar.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from larimar.v1 import decoder_pb2
from services.contracts import channel_stub
from services.decoder.service import MAX_QUEUE, DecoderService
from services.rpc import ObjectStub
from tests.decoding import PROMPTS, whole
from tests.in_process import Gate, Weights, served


class NotedDecoder:
    """The decoder, each of its batches held at a gate and noted: (prompts, with latents)."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.gate = Gate()
        self.batches: list[tuple[list[str], bool]] = []

    def __getattr__(self, name: str):
        return getattr(self._decoder, name)

    def generate(self, prompts, samplings, z_BC=None):
        self.batches.append((list(prompts), z_BC is not None))
        self.gate()
        return self._decoder.generate(prompts, samplings, z_BC)


@pytest.fixture
def noted(decoder) -> NotedDecoder:
    return NotedDecoder(decoder)


@pytest.fixture
async def door(weights: Weights, noted: NotedDecoder):
    """A channel to the decoder service."""
    async with served("decoder", DecoderService(weights.folder, noted)) as address:
        yield channel_stub("decoder", address)


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


async def test_rows_with_and_without_a_latent_never_share_a_batch(
    door, noted, decoder, latents
) -> None:
    """Calls of all kinds wait together; each is answered as it would be alone."""
    long = "river " * 30
    first = asyncio.create_task(said(door, request_of("first")))
    await noted.gate.reached()
    calls = []
    for place, prompt in enumerate(PROMPTS):
        for z_C in (None, latents[place]):
            for how in ({"seed": 5, "temperature": 10.0}, {"max_tokens": 2}):
                calls.append((prompt, z_C, how))
    calls += [(long, None, {}), (long, latents[0], {})]
    answers = [asyncio.create_task(said(door, request_of(p, z, **how))) for p, z, how in calls]
    await asyncio.sleep(0.3)
    noted.gate.open()
    await first
    for (prompt, z_C, how), answer in zip(calls, answers, strict=True):
        sampling = Sampling(**{"max_tokens": 4} | how)
        alone = whole(decoder, prompt, sampling, None if z_C is None else z_C[None])
        assert await answer == alone
    of_kind = {True: [], False: []}
    for prompts, conditioned in noted.batches:
        assert len(prompts) <= BUCKET_ROWS
        assert prompts == [long] or long not in prompts
        of_kind[conditioned] += prompts
    for conditioned in (False, True):
        wanted = [prompt for prompt, z_C, _ in calls if (z_C is not None) == conditioned]
        assert sorted(of_kind[conditioned]) == sorted(wanted + ["first"] * (not conditioned))
    assert len(noted.batches) < len(calls), "calls of a kind share batches"


async def test_a_stream_comes_in_pieces(door, noted) -> None:
    noted.gate.open()
    replies = [
        reply
        async for reply in door.Generate(request_of("a", max_tokens=6, temperature=10.0, seed=1))
    ]
    assert len([reply for reply in replies if reply.text]) > 2
    assert [reply.finish_reason for reply in replies] == [""] * (len(replies) - 1) + ["length"]
    assert replies[-1].tokens == 6


async def test_a_full_queue_refuses_one_more(door, noted, latents) -> None:
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
    conditioned = asyncio.create_task(said(door, request_of("b", latents[0], max_tokens=1)))
    noted.gate.open()
    results = await asyncio.gather(first, conditioned, *others, return_exceptions=True)
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
    assert [prompts for prompts, _ in noted.batches] == [["first"], ["stayed"]]


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
    assert [prompts for prompts, _ in noted.batches] == [["first"]]
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
    assert noted.batches == []


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
