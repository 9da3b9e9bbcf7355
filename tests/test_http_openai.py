"""The interface of OpenAI: its own Python package, unchanged, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2 as httpx
import openai
import pytest

from larimar.errors import ResourceExhausted
from tests.gateway_calls import ANSWER, ELSEWHERE, PROMPT
from tests.in_process import new_bank_name
from tests.served_http import ServedHttp

REPHRASED = "What is the capital of Velmora?"
USER = {"role": "user", "content": REPHRASED}


@pytest.fixture(scope="module")
def served(weights) -> Iterator[ServedHttp]:
    with ServedHttp(weights) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: ServedHttp) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def bank(served: ServedHttp) -> str:
    """A bank that holds one fact."""
    name = new_bank_name()
    with httpx.Client(base_url=served.url, timeout=120.0) as http:
        http.post("/v1/banks", json={"bank": name})
        fact = {"prompt": PROMPT, "answer": ANSWER, "fact_id": "velmora é"}
        assert http.post(f"/v1/banks/{name}/facts", json=fact).status_code == 200
    return name


def test_a_completion_says_where_it_came_from(client, bank) -> None:
    made = client.completions.create(model=f"larimar/{bank}", prompt=PROMPT, max_tokens=8)
    assert (made.object, made.model) == ("text_completion", f"larimar/{bank}")
    (choice,) = made.choices
    assert (choice.text, choice.finish_reason, choice.index) == ("tarsin", "stop", 0)
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.usage.prompt_tokens > 4 and made.usage.completion_tokens == 2
    source = made.larimar
    assert source == {
        "bank": bank,
        "in_scope": True,
        "scope_score": source["scope_score"],
        "fact_id": "velmora é",
        "version": 1,
    }
    assert 0.9 < source["scope_score"] <= 1.0


def test_the_same_is_in_the_headers(client, bank) -> None:
    raw = client.completions.with_raw_response.create(model=f"larimar/{bank}", prompt=PROMPT)
    assert raw.headers["x-larimar-bank"] == bank
    assert raw.headers["x-larimar-in-scope"] == "true"
    assert raw.headers["x-larimar-fact-id"] == "velmora%20%C3%A9"
    assert raw.headers["x-larimar-version"] == "1"
    assert float(raw.headers["x-larimar-scope-score"]) > 0.9
    outside = client.completions.with_raw_response.create(model="base", prompt=PROMPT, max_tokens=2)
    assert outside.headers["x-larimar-in-scope"] == "false"
    assert "x-larimar-bank" not in outside.headers and "x-larimar-fact-id" not in outside.headers


def test_what_came_before_the_question_is_read_and_does_not_move_its_scope(client, bank) -> None:
    model = f"larimar/{bank}"
    before = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "text", "text": "Hello, who are you?"}]},
        {"role": "assistant", "content": "I am a model."},
    ]
    alone = client.chat.completions.create(model=model, messages=[USER], max_tokens=8)
    after = client.chat.completions.create(model=model, messages=[*before, USER], max_tokens=8)
    assert alone.choices[0].message.content == "tarsin"
    assert alone.choices[0].message.role == "assistant"
    assert after.larimar == alone.larimar and after.larimar["in_scope"]
    assert after.usage.prompt_tokens > alone.usage.prompt_tokens + 10
    elsewhere = [{**USER}, {"role": "assistant", "content": "tarsin"},
                 {"role": "user", "content": ELSEWHERE}]  # fmt: skip
    other = client.chat.completions.create(model=model, messages=elsewhere, max_tokens=2)
    assert not other.larimar["in_scope"] and other.larimar["fact_id"] is None


def test_an_answer_may_be_sent_back_as_it_came(client, bank) -> None:
    model = f"larimar/{bank}"
    first = client.chat.completions.create(model=model, messages=[USER], max_tokens=8)
    messages = [USER, first.choices[0].message, USER]
    again = client.chat.completions.create(model=model, messages=messages, max_tokens=8)
    assert again.larimar["in_scope"]


def test_a_stream_is_the_whole_answer_in_pieces(client, bank) -> None:
    asked = {"model": f"larimar/{bank}", "messages": [{"role": "user", "content": ELSEWHERE}]}
    whole = client.chat.completions.create(**asked, max_tokens=12)
    usage = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(**asked, max_tokens=12, stream=True, stream_options=usage)
    )
    *pieces, last = chunks
    assert len(pieces) > 1 and pieces[0].choices[0].delta.role == "assistant"
    text = "".join(piece.choices[0].delta.content for piece in pieces)
    assert text == whole.choices[0].message.content
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].larimar == whole.larimar
    assert (last.choices, last.usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_of_a_completion(client, bank) -> None:
    asked = {"model": f"larimar/{bank}", "prompt": PROMPT, "max_tokens": 8}
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "tarsin"
    assert all(chunk.usage is None for chunk in chunks)
    with client.completions.create(**asked, stream=True) as stream:
        assert next(iter(stream)).choices[0].text


def test_seed_stop_and_length_mean_what_they_say(client, bank) -> None:
    def said(**more) -> openai.types.CompletionChoice:
        terms = {"model": "base", "prompt": ELSEWHERE, "max_tokens": 6, **more}
        return client.completions.create(**terms).choices[0]

    greedy = said()
    assert said(temperature=0).text == greedy.text
    assert greedy.finish_reason == "length"
    warm = {"temperature": 2.0, "top_p": 0.9}
    assert said(seed=7, **warm).text == said(seed=7, **warm).text
    texts = {said(seed=number, **warm).text for number in range(-2, 2)}
    assert len(texts) > 1
    assert len({said(**warm).text for _ in range(4)}) > 1  # without a seed, another one each time
    assert said(temperature=2.0, top_p=1e-50).text == greedy.text  # and not as if none were given
    word = greedy.text.split()[1]
    stopped = said(stop=[word])
    assert word not in stopped.text and stopped.finish_reason == "stop"
    assert said(stop=word).text == stopped.text
    assert said(stop=" ").text == greedy.text.split()[0]


def test_banks_are_models(client, bank) -> None:
    names = [model.id for model in client.models.list()]
    assert names[:2] == ["base", "larimar"] and f"larimar/{bank}" in names
    for name in ("base", "larimar", f"larimar/{bank}"):
        assert client.models.retrieve(name).id == name
    for name in ("larimar/nobody", "gpt", "larimar/"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(name)


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"n": 2}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"prompt": ["one", "two"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"temperature": 99}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ],
)
def test_what_this_model_lacks_is_refused_by_name(client, bank, changed, param) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": f"larimar/{bank}", "prompt": PROMPT, **changed})
    assert (caught.value.param, caught.value.code) == (param, "BAD_REQUEST")


@pytest.mark.parametrize("value", [True, 0, 1])
def test_a_chat_has_no_log_probabilities_either(client, bank, value) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=f"larimar/{bank}", messages=[USER], logprobs=value)
    assert (caught.value.param, caught.value.code) == ("logprobs", "BAD_REQUEST")


def test_what_asks_for_nothing_is_taken(client, bank) -> None:
    made = client.chat.completions.create(
        model=f"larimar/{bank}", messages=[USER], n=1, logprobs=False, presence_penalty=0,
        frequency_penalty=0.0, logit_bias={}, tools=[], response_format={"type": "text"},
        user="somebody", metadata={"a": "b"}, store=False, max_completion_tokens=8,
    )  # fmt: skip
    assert made.choices[0].message.content == "tarsin"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "You are kind."}],
        [{"role": "tool", "content": "x", "tool_call_id": "1"}, USER],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": "  "}],
    ],
)
def test_a_chat_without_a_question_in_text_is_refused(client, bank, messages) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=f"larimar/{bank}", messages=messages)


def test_errors_are_the_clients_own(client, bank, served, monkeypatch) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="larimar/nobody", prompt=PROMPT)
    assert (caught.value.code, caught.value.type) == ("UNKNOWN_BANK", "not_found")
    with pytest.raises(openai.BadRequestError, match="it must be 1 to"):
        client.completions.create(model="base", prompt=PROMPT, max_tokens=100_000)

    def full(request, call):
        raise ResourceExhausted("the queue is full: retry later", "QUEUE_FULL")

    asked = {"model": f"larimar/{bank}", "prompt": PROMPT}
    monkeypatch.setattr(served.gateway, "Ask", full)
    with pytest.raises(openai.RateLimitError) as limited:
        client.completions.create(**asked)
    assert limited.value.response.headers["retry-after"]
    with pytest.raises(openai.RateLimitError):
        client.completions.create(**asked, stream=True)


async def test_the_asynchronous_client(served, bank) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model=f"larimar/{bank}", messages=[USER], max_tokens=8, stream=True
        )
        text = "".join([chunk.choices[0].delta.content async for chunk in stream])
    assert text == "tarsin"
