"""The encoder: latents that depend on the text alone, limits, and the service behind a socket."""

from __future__ import annotations

import asyncio
import time
from fractions import Fraction

import grpc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from larimar.encoder import (
    BUCKET_ROWS,
    BUCKET_TOKENS,
    Encoder,
    Text,
    TokenizedTexts,
    ordered_parts,
    padded_rows,
    row_counts,
)
from larimar.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
)
from larimar.passages import stated
from larimar.v1 import encoder_pb2, encoder_pb2_grpc
from services.contracts import channel_stub
from services.encoder.service import MAX_ITEMS, MAX_QUEUE, EncoderService
from services.rpc import REASON_KEY, ObjectStub
from tests.in_process import Gate, Weights, served

WORD = "river"
MOST_TEXTS = 20
POOL = [
    Text("The capital of Velmora is"),
    Text("The capital of Velmora is", "Tarsin"),
    Text("The capital of Velmora is", "a town that no map of the coast has ever shown"),
    Text("Danielle Darrieux, a native", "English"),
    Text("Zoë’s café in 東京"),
    Text("a"),
    Text("a", "b"),
    *(Text(" ".join([WORD] * words)) for words in (14, 15, 30, 40, 62, 100, 126, 200, 254)),
    *(Text(" ".join([WORD] * words), "a long road") for words in (9, 27, 60, 251)),
]


@pytest.fixture(scope="module")
def encoder(weights: Weights) -> Encoder:
    return weights.encoder


@pytest.fixture(scope="module")
def alone(encoder: Encoder) -> list[tuple[bytes, bytes]]:
    """Prompt latent and value of each text of the pool, encoded with nothing beside it."""
    return [
        (encoder.encode([text], [False])[0].tobytes(), encoder.encode([text], [True])[0].tobytes())
        for text in POOL
    ]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(POOL) - 1), st.booleans()), min_size=1, max_size=MOST_TEXTS
    )
)
def test_latents_do_not_depend_on_what_they_are_encoded_with(encoder, alone, picks) -> None:
    latents = encoder.encode([POOL[text] for text, _ in picks], [value for _, value in picks])
    for (text, value), latent in zip(picks, latents, strict=True):
        assert latent.tobytes() == alone[text][value]


def test_the_pool_reaches_every_bucket_and_more_than_one_pass(encoder: Encoder) -> None:
    """Else the property above would say little."""
    lengths = [len(encoder.tokenize(text)[0]) for text in POOL]
    assert {next(size for size in BUCKET_TOKENS if n <= size) for n in lengths} == set(
        BUCKET_TOKENS
    )
    assert MOST_TEXTS > 2 * BUCKET_ROWS


def test_smaller_passes_are_taken_where_the_bits_are_those_of_a_whole_one() -> None:
    shapes: list[int] = []

    def passed(rows: list[list[int]]) -> torch.Tensor:
        shapes.append(len(rows))
        sums = torch.tensor([[float(sum(row))] for row in rows])
        return sums + (len(rows) < steady_from)  # what a kernel of small shapes rounds otherwise

    steady_from = 0
    assert row_counts(passed, 16, 100, "cpu") == (1, 2, 4, BUCKET_ROWS)
    assert shapes == [BUCKET_ROWS, 1, 2, 4]
    steady_from = 3
    assert row_counts(passed, 32, 100, "cpu") == (4, BUCKET_ROWS)
    assert row_counts(lambda rows: passed(rows[::-1]), 16, 100, "cpu") == (BUCKET_ROWS,)
    shapes.clear()
    assert row_counts(passed, 64, 100, "cpu") == row_counts(passed, 16, 100, "cuda") == (8,)
    assert not shapes
    assert padded_rows("abc", (1, 2, 4, 8)) == list("abca")
    assert padded_rows("abcde", (4, 8)) == list("abcdeaaa")


def test_different_texts_have_different_latents(alone) -> None:
    assert len({value for _, value in alone}) == len(POOL)


def test_vectors_have_the_stated_sizes_and_many_at_once_are_as_one(encoder, alone) -> None:
    prompts = [text.prompt for text in POOL[:3]]
    latents, values = encoder.prompt_latents(prompts), encoder.values(POOL[:3])
    assert latents.shape == (3, encoder.prompt_size) and latents.dtype == np.float32
    assert values.shape == (3, encoder.value_size) and values.dtype == np.float32
    assert [value.tobytes() for value in values] == [value for _, value in alone[:3]]
    assert latents[0].tobytes() == latents[1].tobytes() == alone[0][0]


def slow_parts(mask: list[bool], parts: int) -> list[list[Fraction]]:
    """The weights by their definition, one token after another, in fractions."""
    marked = [place for place, inside in enumerate(mask) if inside]
    weights = [[Fraction(0)] * len(mask) for _ in range(parts)]
    if not marked:
        return weights
    for part in range(parts):
        low = min(len(marked) * part // parts, len(marked) - 1)
        high = max(len(marked) * (part + 1) // parts, low + 1)
        for place in marked[low:high]:
            weights[part][place] = Fraction(1, high - low)
    return weights


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=4), st.data())
def test_ordered_parts_are_what_they_are_defined_to_be(masks, data) -> None:
    parts = data.draw(st.integers(1, 6))
    weights = ordered_parts(torch.tensor(masks), parts)
    assert weights.shape == (len(masks), parts, 9)
    for row, mask in zip(weights.double().tolist(), masks, strict=True):
        for ours, wanted in zip(row, slow_parts(mask, parts), strict=True):
            assert ours == pytest.approx([float(weight) for weight in wanted], abs=1e-7)


def test_every_marked_token_is_in_a_part_and_parts_keep_their_order() -> None:
    weights = ordered_parts(torch.tensor([[True] * 8]), 3)[0]
    assert (weights.sum(0) > 0).all()
    centres = (weights * torch.arange(8)).sum(1)
    assert (centres.diff() > 0).all()


def test_answer_tokens_are_marked_and_nothing_else(encoder: Encoder) -> None:
    prompt = encoder.tokenizer("The capital of Velmora is", add_special_tokens=False)["input_ids"]
    answer = encoder.tokenizer(" Tarsin by the sea", add_special_tokens=False)["input_ids"]
    row = encoder.tokenize(Text("The capital of Velmora is", "Tarsin by the sea"))
    ids, start = row
    ends = encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id
    assert ids == [ends[0], *prompt, *answer, ends[1]]
    assert ids[start:-1] == answer
    texts = TokenizedTexts([row, encoder.tokenize(Text("Hello"))], pad_id=0, length=32)
    assert texts.answer_BT[0].tolist() == [start <= at < len(ids) - 1 for at in range(32)]
    assert texts.mask_BT[0].tolist() == [at < len(ids) for at in range(32)]
    assert not texts.answer_BT[1].any()


def test_a_value_is_the_mean_then_ordered_parts_of_prompt_and_answer(weights: Weights) -> None:
    """A slow twin: plain loops over the states of one text."""
    encoder = weights.folder.encoder(torch.float32)
    layout, network = encoder.network.layout, encoder.network
    row = encoder.tokenize(Text("The lighthouse of Marn was lit by", "a keeper named Odd Sten"))
    texts = TokenizedTexts([row], pad_id=0, length=32)
    with torch.inference_mode():
        states_TD = network.states(texts)[0].double()
        value = network.value(network.states(texts), texts)[0]
    ids, start = row
    spans = [(range(len(ids)), 1), (range(1, start), layout.prompt_parts)]
    spans.append((range(start, len(ids) - 1), layout.answer_parts))
    means = []
    for span, parts in spans:
        for weight in slow_parts([at in span for at in range(32)], parts):
            means.append(sum(float(w) * state for w, state in zip(weight, states_TD, strict=True)))
    wanted = torch.cat([mean @ part for mean, part in zip(means, network.to_part.double())])
    assert len(means) == layout.slots and wanted.shape == value.shape
    assert torch.allclose(value.double(), wanted, atol=1e-4)


def test_the_answer_changes_the_value_and_not_the_address(encoder: Encoder) -> None:
    texts = [Text("The mayor of Ilk is", answer) for answer in ("Ana Bree", "Tom Varr")]
    first, second = encoder.values(texts)
    assert not np.array_equal(first, second)
    addresses = encoder.prompt_latents([text.prompt for text in texts])
    assert addresses[0].tobytes() == addresses[1].tobytes()


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_an_empty_prompt_is_refused(encoder: Encoder, prompt: str) -> None:
    with pytest.raises(InvalidArgument, match="empty: give it a text") as caught:
        encoder.encode([Text("fine"), Text(prompt, "an answer")], [False, True])
    assert caught.value.reason == "EMPTY_TEXT"


def test_a_text_may_be_exactly_as_long_as_the_limit(encoder: Encoder) -> None:
    most = encoder.max_text_tokens - 2
    assert encoder.prompt_latents([" ".join([WORD] * most)]).shape == (1, encoder.prompt_size)
    for text in (Text(" ".join([WORD] * (most + 1))), Text(" ".join([WORD] * most), WORD)):
        with pytest.raises(
            InvalidArgument, match=f"has {most + 1} tokens, the limit is {most}: shorten it"
        ) as caught:
            encoder.tokenize(text)
        assert caught.value.reason == "TEXT_TOO_LONG"


class GatedEncoder:
    """The encoder, each of its batches held at a gate and counted."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.gate = Gate()
        self.batches: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self._encoder, name)

    def encode_tokens(self, rows, with_value):
        self.batches.append(len(rows))
        self.gate()
        return self._encoder.encode_tokens(rows, with_value)


class CountingService(EncoderService):
    """The service, which says how many calls have come in."""

    calls = 0

    async def Encode(self, request, grpc_context):
        self.calls += 1
        return await super().Encode(request, grpc_context)

    async def has_got(self, calls: int) -> None:
        """Returns when so many calls have come in."""
        async with asyncio.timeout(180):
            while self.calls < calls:
                await asyncio.sleep(0.01)


@pytest.fixture
def gated(encoder: Encoder) -> GatedEncoder:
    return GatedEncoder(encoder)


@pytest.fixture
def service(weights: Weights, gated: GatedEncoder) -> CountingService:
    return CountingService(weights.folder, gated)


@pytest.fixture
async def door(service: CountingService):
    """A channel to the encoder service, whose batches are held."""
    async with served("encoder", service) as address:
        yield channel_stub("encoder", address)


def request_of(*texts: Text, with_value: bool = True, deadline: float = 0.0):
    request = encoder_pb2.EncodeRequest(
        items=[
            encoder_pb2.EncodeItem(prompt=text.prompt, answer=text.answer, with_value=with_value)
            for text in texts
        ]
    )
    request.context.deadline_unix_s = deadline
    return request


async def test_callers_share_a_batch_and_a_bad_text_fails_its_own_call(
    door, service: CountingService, gated: GatedEncoder, encoder: Encoder, alone
) -> None:
    first = asyncio.create_task(door.Encode(request_of(POOL[0])))
    await gated.gate.reached()
    good = [asyncio.create_task(door.Encode(request_of(*POOL[i : i + 3]))) for i in range(4)]
    bad = [
        asyncio.create_task(door.Encode(request_of(POOL[1], Text("word " * 300), POOL[2]))),
        asyncio.create_task(door.Encode(request_of(POOL[1], Text(" ", "empty")))),
    ]
    await service.has_got(1 + len(good) + len(bad))
    gated.gate.open()
    await first
    for i, task in enumerate(good):
        latents = (await task).latents
        assert [(one.prompt_latent, one.value) for one in latents] == alone_pairs(
            encoder, alone, range(i, i + 3)
        )
    for task, reason in zip(bad, ("TEXT_TOO_LONG", "EMPTY_TEXT"), strict=True):
        with pytest.raises(InvalidArgument) as caught:
            await task
        assert caught.value.reason == reason
    assert gated.batches == [2, 4 * 3 * 2]


def alone_pairs(encoder: Encoder, alone, places) -> list[tuple[bytes, bytes]]:
    """What the service gives for texts of the pool: the address leaves the answer out, and the
    value of a text without one is of what it states."""
    pairs = []
    for place in places:
        text = POOL[place]
        [address] = encoder.prompt_latents([text.prompt])
        stating = encoder.values([Text(*stated(text.prompt))])[0].tobytes()
        pairs.append((address.tobytes(), alone[place][1] if text.answer else stating))
    return pairs


async def test_a_value_is_given_only_where_it_is_wanted(door, gated, weights: Weights) -> None:
    gated.gate.open()
    reply = await door.Encode(request_of(POOL[1], with_value=False))
    assert len(reply.latents[0].prompt_latent) == 4 * weights.encoder.prompt_size
    assert reply.latents[0].value == b""
    assert reply.encoder_digest == weights.folder.encoder_digest
    assert not (await door.Encode(encoder_pb2.EncodeRequest())).latents


async def test_too_many_texts_are_refused_before_anything_is_computed(door, gated) -> None:
    with pytest.raises(InvalidArgument, match=f"limit is {MAX_ITEMS}: split the call") as caught:
        await door.Encode(request_of(*[Text("a")] * (MAX_ITEMS + 1)))
    assert caught.value.reason == "TOO_MANY_ITEMS"
    assert gated.batches == []


async def test_a_full_queue_refuses_one_more_and_serves_the_others(door, service, gated) -> None:
    first = asyncio.create_task(door.Encode(request_of(Text("a"))))
    await gated.gate.reached()
    others = [
        asyncio.create_task(door.Encode(request_of(Text("a"), with_value=False)))
        for _ in range(MAX_QUEUE + 3)
    ]
    await service.has_got(1 + len(others))
    gated.gate.open()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Exception)]
    assert len(refused) == 3
    for error in refused:
        assert isinstance(error, ResourceExhausted) and error.reason == "QUEUE_FULL"
        assert str(MAX_QUEUE) in error.message and "retry later" in error.message


async def test_a_deadline_that_passes_in_the_queue_costs_nothing(service, gated) -> None:
    """Over the object itself: a channel would give up by its own clock."""
    door = ObjectStub(service)
    first = asyncio.create_task(door.Encode(request_of(POOL[0])))
    await gated.gate.reached()
    late = asyncio.create_task(door.Encode(request_of(POOL[1], deadline=time.time() + 0.1)))
    patient = asyncio.create_task(door.Encode(request_of(POOL[2], deadline=time.time() + 60)))
    await asyncio.sleep(0.2)
    gated.gate.open()
    with pytest.raises(DeadlineExceeded):
        await late
    assert (await first).latents and (await patient).latents
    assert gated.batches == [2, 2]


async def test_a_deadline_that_has_passed_is_refused_at_the_socket(service, gated) -> None:
    async with (
        served("encoder", service) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = encoder_pb2_grpc.EncoderStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Encode(request_of(POOL[0], deadline=time.time() - 1))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert dict(caught.value.trailing_metadata())[REASON_KEY] == "DEADLINE_EXCEEDED"
    assert gated.batches == []


async def test_a_channel_stops_waiting_at_the_deadline(door, gated) -> None:
    """The batch is held for good: only the caller's clock can end the call."""
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await door.Encode(request_of(POOL[0], deadline=time.time() + 0.3))
    assert 0.1 < time.monotonic() - started < 30
    gated.gate.open()


async def test_the_service_says_what_model_it_is(door, gated, weights: Weights) -> None:
    described = await door.DescribeEncoder(encoder_pb2.DescribeEncoderRequest())
    config = weights.folder.config
    assert described.encoder_digest == weights.folder.encoder_digest
    assert described.prompt_size == weights.encoder.prompt_size
    assert described.value_size == config.latent.value_size
    assert described.max_text_tokens == config.max_text_tokens
    assert (described.prompt_bits, described.value_bits) == (
        config.fixed_point.prompt_bits,
        config.fixed_point.value_bits,
    )


def test_latents_stay_in_the_range_of_the_fixed_point(weights: Weights, alone) -> None:
    """Past 2^20 a write would be refused; the scales leave 16x over what is measured."""
    fixed = weights.folder.config.fixed_point
    for prompt, value in alone:
        for raw, bits in ((prompt, fixed.prompt_bits), (value, fixed.value_bits)):
            assert np.abs(np.frombuffer(raw, np.float32)).max() * 2**bits < 2**20
