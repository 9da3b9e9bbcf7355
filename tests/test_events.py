"""What the log holds: configurations, chains, requests, decisions and payloads."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larimar import payload as payload_module
from larimar.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from larimar.memory import (
    FIXED_LIMIT,
    MAX_REPHRASINGS,
    BankConfig,
    Kind,
    Payload,
    check_id,
    decide,
    make_payload,
    make_payloads,
    next_chain,
    request_body,
    request_hmac,
    salted_sha256,
)
from tests.golden import ROOT

SMALL = BankConfig(prompt_size=3, value_size=2, scope_size=2)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def fact(config: BankConfig = SMALL, rephrasings: int = 0, **changed):
    """Arguments of `make_payload` for a sound fact, some of them changed."""
    rows = 1 + rephrasings
    arguments = {
        "fact_id": "f",
        "prompt": "The capital of Velmora is",
        "answer": "Tarsin",
        "rephrasings": [f"rephrased {n}" for n in range(rephrasings)],
        "prompt_latents": np.full((rows, config.prompt_size), 0.5, np.float32),
        "value": np.full(config.value_size, -0.25, np.float32),
        "scope_vectors": np.full((rows, config.scope_size), 0.75, np.float32),
    }
    return arguments | changed


# Configurations.


def test_a_configuration_s_digest_is_stable_and_names_every_field():
    digest = hashlib.sha256(SMALL.to_json().encode()).hexdigest()
    assert SMALL.digest == digest
    assert json.loads(SMALL.to_json()) == dataclasses.asdict(SMALL)
    assert SMALL.to_json() == (
        '{"address_bits":16,"addressing":"slots","alpha":0.001,"encoder_digest":"",'
        '"prompt_bits":16,"prompt_size":3,"reference_seed":0,"ridge":0.01,"scope_bits":16,'
        '"scope_digest":"","scope_size":2,"slots":0,"value_bits":16,"value_size":2}'
    )
    digests = {digest}
    for field in dataclasses.fields(BankConfig):
        value = getattr(SMALL, field.name)
        other = value + "x" if isinstance(value, str) else value + 1
        digests.add(dataclasses.replace(SMALL, **{field.name: other}).digest)
    assert len(digests) == 1 + len(dataclasses.fields(BankConfig))


def test_a_whole_number_for_a_float_is_the_same_configuration():
    assert (
        dataclasses.replace(SMALL, alpha=1).digest == dataclasses.replace(SMALL, alpha=1.0).digest
    )


def test_a_configuration_survives_json():
    config = BankConfig(
        addressing="pinv",
        slots=7,
        prompt_size=3,
        value_size=2,
        scope_size=1,
        encoder_digest="é",
        ridge=1 / 3,
    )
    assert BankConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", SMALL.to_json()[:-1] + ',"more":1}', SMALL.to_json().replace("3", "0")]
)
def test_a_configuration_s_json_is_checked(text):
    with pytest.raises(InvalidArgument):
        BankConfig.from_json(text)


@pytest.mark.parametrize(
    "changed",
    [
        {"addressing": "hash"},
        {"slots": 0, "addressing": "pinv"},
        {"addressing": "gaussian", "slots": 4097},
        {"slots": 5},
        {"prompt_size": 0},
        {"value_size": 16_385},
        {"scope_size": 2.0},
        {"prompt_bits": -1},
        {"value_bits": 31},
        {"address_bits": True},
        {"ridge": 0.0},
        {"ridge": float("nan")},
        {"alpha": float("inf")},
        {"alpha": "1"},
        {"reference_seed": -1},
        {"encoder_digest": None},
    ],
)
def test_a_configuration_out_of_limits_is_refused_by_name(changed):
    with pytest.raises(InvalidArgument, match="|".join(changed)):
        dataclasses.replace(SMALL, **changed).validate()


# Chains, requests, decisions.


def test_the_chain_is_sha1_over_the_fields_joined_by_nul():
    expected = hashlib.sha1(b"abc\x0012\x00W\x00f\x00e\x00345\x00d\x009").hexdigest()
    assert next_chain("abc", 12, Kind.WRITE, "f", "e", 345, "d", 9) == expected
    first = hashlib.sha1("\x001\x00F\x00é\x00e\x000\x00\x000".encode()).hexdigest()
    assert next_chain("", 1, "F", "é", "e", 0, "") == first


def test_salted_digest_and_request_hmac():
    assert salted_sha256(b"saltbytes") == hashlib.sha256(b"salt" + b"bytes").hexdigest()
    assert request_hmac(b"salt", b"body") == hmac.new(b"salt", b"body", "sha256").hexdigest()


REQUEST = st.tuples(st.sampled_from(["W", "F"]), TEXT, TEXT, TEXT, st.lists(TEXT, max_size=3))


@given(REQUEST, REQUEST)
def test_requests_have_equal_bytes_exactly_if_equal(one, other):
    assert (request_body(*one) == request_body(*other)) == (one == other)


def test_requests_do_not_run_into_each_other():
    assert request_body("W", "f", "ab", "c") != request_body("W", "f", "a", "bc")
    assert request_body("W", "f", "a", "", ["b"]) != request_body("W", "f", "a", "b")
    with pytest.raises(InvalidArgument):
        request_body("W", "f", "\ud800")


@pytest.mark.parametrize(
    ("kind", "status", "error", "reason"),
    [
        (Kind.WRITE, None, None, None),
        (Kind.WRITE, "live", None, None),
        (Kind.WRITE, "forgotten", None, None),
        (Kind.WRITE, "erased", FailedPrecondition, "ERASED"),
        (Kind.FORGET, None, NotFound, "UNKNOWN_FACT"),
        (Kind.FORGET, "live", None, None),
        (Kind.FORGET, "forgotten", FailedPrecondition, "ALREADY_FORGOTTEN"),
        (Kind.FORGET, "erased", FailedPrecondition, "ERASED"),
        (Kind.ERASE, None, NotFound, "UNKNOWN_FACT"),
        (Kind.ERASE, "live", None, None),
        (Kind.ERASE, "forgotten", None, None),
        (Kind.ERASE, "erased", FailedPrecondition, "ERASED"),
    ],
)
def test_what_may_follow_what(kind, status, error, reason):
    decision = decide(kind, status)
    if error is None:
        assert decision is None
    else:
        assert type(decision) is error and decision.reason == reason


@pytest.mark.parametrize("bad", ["", "a\0b", "x" * 257, "é" * 129, "\udfff", None])
def test_ids_are_checked(bad):
    with pytest.raises(InvalidArgument, match="event_id"):
        check_id("event_id", bad)
    assert check_id("event_id", "é" * 128) == "é" * 128


# Payloads.


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.lists(TEXT, max_size=3), st.integers(0, 2**32 - 1))
def test_a_payload_survives_its_bytes(prompt, answer, rephrasings, seed):
    rng = np.random.default_rng(seed)

    def whole(*shape: int) -> np.ndarray:
        return rng.integers(-FIXED_LIMIT, FIXED_LIMIT, shape, endpoint=True)

    rows = 1 + len(rephrasings)
    payload = Payload(
        "f", prompt, answer, tuple(rephrasings), whole(rows, 3), whole(4), whole(rows, 2)
    )
    data = payload.to_bytes()
    back = Payload.from_bytes(data)
    assert back == payload and back.to_bytes() == data and hash(back) == hash(payload)
    assert (back.fact_id, back.prompt, back.answer) == ("f", prompt, answer)
    assert back.rephrasings == tuple(rephrasings)
    assert back.sha256 == payload.sha256 == hashlib.sha256(data).hexdigest()
    for name in ("addresses", "value", "scope"):
        mine, theirs = getattr(payload, name), getattr(back, name)
        assert mine.dtype == theirs.dtype == np.dtype("<i4")
        np.testing.assert_array_equal(mine, theirs)
        with pytest.raises(ValueError, match="read-only"):
            theirs[...] = 0
        with pytest.raises(ValueError, match="read-only"):
            mine[...] = 0


def test_a_payload_s_bytes_are_magic_length_canonical_header_and_arrays():
    payload = make_payload(SMALL, **fact(rephrasings=1, answer='quoted "é"\n'))
    header = {
        "fact_id": "f",
        "prompt": "The capital of Velmora is",
        "answer": 'quoted "é"\n',
        "rephrasings": ["rephrased 0"],
        "bits": [32, 16, 32],
        "addresses": [2, 3],
        "value": [2],
        "scope": [2, 2],
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    numbers = [2**15] * 6 + [-(2**14)] * 2 + [3 * 2**14] * 4
    expected = b"LRM2" + struct.pack("<I", len(text)) + text + struct.pack("<6i2h4i", *numbers)
    assert payload.to_bytes() == expected


@given(TEXT, TEXT, st.lists(TEXT, max_size=2))
def test_both_ways_to_read_a_header_agree(prompt, answer, rephrasings):
    """The plain one refuses what it cannot read; then JSON is read."""
    payload = make_payload(
        SMALL, **fact(rephrasings=len(rephrasings), prompt=prompt, answer=answer)
        | {"rephrasings": rephrasings},
    )  # fmt: skip
    header = payload._header()
    plain = payload_module._PLAIN_HEADER.fullmatch(header) is not None
    assert plain == (b"\\" not in header)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload_module, "_PLAIN_HEADER", re.compile(b"never"))
        by_json = Payload.from_bytes(payload.to_bytes())
    by_either = Payload.from_bytes(payload.to_bytes())
    for name in ("fact_id", "prompt", "answer", "rephrasings", "sizes"):
        assert getattr(by_json, name) == getattr(by_either, name) == getattr(payload, name)


def damaged() -> dict[str, bytes]:
    """Payloads that are not what `to_bytes` writes, by what is wrong with them."""
    data = make_payload(SMALL, **fact()).to_bytes()
    size = struct.unpack_from("<I", data, 4)[0]
    header, body = data[8 : 8 + size], data[8 + size :]
    backwards = dict(reversed(json.loads(header).items()))

    def framed(header: bytes, body: bytes = body) -> bytes:
        return b"LRM2" + struct.pack("<I", len(header)) + header + body

    return {
        "empty": b"",
        "magic": b"LRM1" + data[4:],
        "cut in the header": data[: 8 + size // 2],
        "cut in an array": data[:-4],
        "cut in a number": data[:-1],
        "longer": data + bytes(4),
        "spaces": framed(header.replace(b",", b", ")),
        "another order": framed(json.dumps(backwards, separators=(",", ":")).encode()),
        "not JSON": framed(b"{"),
        "a list": framed(b"[]"),
        "a missing field": framed(b'{"addresses":[1,3]}'),
        "a text that is none": framed(header.replace(b'"Tarsin"', b"7")),
        "a row too many": framed(header.replace(b"[1,3]", b"[2,3]"), bytes(12) + body),
        "a negative size": framed(header.replace(b"[1,3]", b"[1,-1]")),
        "a size past the end": framed(header.replace(b"[1,3]", b"[1,9999999999]")),
        "a size past all numbers": framed(header.replace(b"[1,3]", b"[1,%d]" % 2**70)),
        "an infinite size": framed(header.replace(b"[1,3]", b"[1,1e999]")),
        "a size that is text": framed(header.replace(b"[1,3]", b'[1,"3"]')),
        "a text that is not UTF-8": framed(header.replace(b"Tarsin", b"Tars\xffn")),
        "a size with a zero before it": framed(header.replace(b"[1,3]", b"[1,03]")),
        "a rephrasing without a row": framed(header.replace(b's":[]', b's":["r"]')),
        "out of range": framed(header, struct.pack("<i", FIXED_LIMIT + 1) + body[4:]),
        "far out of range": framed(header, struct.pack("<i", -(2**31)) + body[4:]),
        "no arrays": framed(header, b""),
        "wider than needed": framed(
            header.replace(b'"bits":[32,16,32]', b'"bits":[32,32,32]'),
            body[:12] + struct.pack("<2i", *struct.unpack("<2h", body[12:16])) + body[16:],
        ),
        "a width that is none": framed(header.replace(b'"bits":[32', b'"bits":[64'), body + body),
    }


@pytest.mark.parametrize("what", damaged())
def test_damaged_payloads_are_data_loss(what):
    with pytest.raises(DataLoss) as caught:
        Payload.from_bytes(damaged()[what])
    assert caught.value.reason == "BAD_PAYLOAD"


def test_a_payload_is_rounded_once_and_its_range_is_inclusive():
    latents = np.array([[16.0, -16.0, 2**-17 * 3]], np.float32)
    payload = make_payload(SMALL, **fact(prompt_latents=latents))
    assert payload.addresses.tolist() == [[FIXED_LIMIT, -FIXED_LIMIT, 2]]


BEYOND = float(np.nextafter(np.float32(16), np.float32(17)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt_latents": np.full((1, 3), np.nan, np.float32)}, "prompt_latents must be finite"),
        ({"prompt_latents": np.full((1, 3), BEYOND)}, "prompt_latents must be at most 16.0"),
        (
            {"prompt_latents": np.zeros((1, 4), np.float32)},
            r"prompt_latents must have shape \(1, 3",
        ),
        (
            {"prompt_latents": np.zeros((2, 3), np.float32)},
            r"prompt_latents must have shape \(1, 3",
        ),
        ({"prompt_latents": "text"}, "prompt_latents must be numbers"),
        ({"value": np.array([0, np.inf], np.float32)}, "value must be finite"),
        ({"value": np.array([0, -BEYOND], np.float32)}, "value must be at most 16.0"),
        ({"value": np.zeros((1, 2), np.float32)}, r"value must have shape \(2,\)"),
        ({"scope_vectors": np.full((1, 2), -np.inf, np.float32)}, "scope_vectors must be finite"),
        ({"scope_vectors": np.full((1, 2), 17, np.float32)}, "scope_vectors must be at most 16.0"),
        ({"scope_vectors": np.zeros(2, np.float32)}, "scope_vectors must have shape"),
        ({"fact_id": ""}, "fact_id"),
        ({"fact_id": "a\0"}, "fact_id"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"answer": None}, "answer"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_and_limit(changed, message):
    with pytest.raises(InvalidArgument, match=message):
        make_payload(SMALL, **fact(**changed))


@pytest.mark.parametrize("addressing", ["pinv", "gaussian"])
def test_latents_of_fixed_size_banks_are_refused_by_name_too(addressing):
    config = dataclasses.replace(SMALL, addressing=addressing, slots=5)
    for latents in (np.full((1, 3), np.nan), np.zeros((2, 3)), np.zeros((1, 2))):
        with pytest.raises(InvalidArgument, match="prompt_latents"):
            make_payload(config, **fact(prompt_latents=latents))
    small_range = dataclasses.replace(config, address_bits=30)
    with pytest.raises(InvalidArgument, match="addresses must be at most"):
        make_payload(small_range, **fact())


def test_rephrasings_are_limited():
    assert make_payload(SMALL, **fact(rephrasings=MAX_REPHRASINGS)).rows == 1 + MAX_REPHRASINGS
    with pytest.raises(InvalidArgument, match=f"at most {MAX_REPHRASINGS} rephrasings"):
        make_payload(SMALL, **fact(rephrasings=MAX_REPHRASINGS + 1))


def test_hand_made_payloads_are_checked():
    good = {
        "addresses": np.zeros((1, 3), int),
        "value": np.zeros(2, int),
        "scope": np.zeros((1, 2), int),
    }
    Payload("f", "p", "a", (), **good)
    for bad in (
        {"addresses": np.zeros((1, 3))},
        {"addresses": np.zeros((2, 3), int)},
        {"value": np.zeros((1, 2), int)},
        {"scope": np.zeros((1, 0), int)},
        {"value": np.array([0, -FIXED_LIMIT - 1])},
        {"value": np.array([0, -(2**63)])},
    ):
        with pytest.raises(InvalidArgument, match=next(iter(bad))):
            Payload("f", "p", "a", (), **good | bad)


@pytest.mark.parametrize("addressing", ["slots", "pinv", "gaussian"])
def test_a_text_gives_the_same_bytes_whatever_it_is_batched_with(addressing):
    slots = 0 if addressing == "slots" else 37
    config = BankConfig(
        addressing=addressing, slots=slots, prompt_size=29, value_size=5, scope_size=3, alpha=0.5
    )
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((9, 29)).astype(np.float32)
    together = make_payload(config, **fact(config, rephrasings=8, prompt_latents=latents))
    for row in range(9):
        alone = make_payload(config, **fact(config, prompt_latents=latents[row : row + 1]))
        np.testing.assert_array_equal(alone.addresses[0], together.addresses[row])
    arguments = [tuple(fact(config, prompt_latents=latents[n : n + 1]).values()) for n in range(9)]
    batch = make_payloads(config, arguments)
    assert [p.to_bytes() for p in batch] == [
        make_payload(config, *one).to_bytes() for one in arguments
    ]


def test_importing_the_contracts_and_folding_slots_needs_no_torch():
    program = (
        "import sys, larimar, larimar.memory as m, numpy as np\n"
        "c = m.BankConfig(prompt_size=2, value_size=2, scope_size=2)\n"
        "p = m.make_payload(c, 'f', 'p', 'a', [], np.ones((1, 2)), np.ones(2), np.ones((1, 2)))\n"
        "s = m.BankState(c)\n"
        "s.fold([(m.Event(1, m.Kind.WRITE, 'f', 'e', 0, '', ''), p)])\n"
        "assert s.read(np.ones((1, 2)))[0].fact_id == 'f'\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=180, cwd=ROOT)
