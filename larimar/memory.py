"""What a bank is: its configuration, its events, and what may follow what. Pure: no I/O, no torch.

N facts, K slots, C value size, D prompt-latent size, S scope size, R = 1 + rephrasings
reference rows of a fact, A = D in a slots bank and K in a pinv or gaussian bank.

A payload is in larimar/payload.py, the fold of a log, `BankState`, in larimar/state.py; both are
importable from here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from larimar.errors import FailedPrecondition, InvalidArgument, LarimarError, NotFound
from larimar.payload import (
    FIXED_LIMIT,
    MAX_ID_BYTES,
    MAX_REPHRASINGS,
    Payload,
    check_id,
    fixed_point,
    utf8,
)

if TYPE_CHECKING:
    from larimar.state import BankState, ReadOut

__all__ = [
    "FIXED_LIMIT",
    "MAX_ID_BYTES",
    "MAX_REPHRASINGS",
    "BankConfig",
    "BankState",
    "Event",
    "Kind",
    "Payload",
    "ReadOut",
    "chain_over",
    "check_id",
    "decide",
    "fixed_point",
    "make_payload",
    "make_payloads",
    "next_chain",
    "request_body",
    "request_hmac",
    "salted_sha256",
]

MAX_VECTOR_SIZE = 16_384
"""Largest prompt, value or scope size: squared distances stay far inside int64."""
MAX_SLOTS = 4_096
"""Largest K of a pinv or gaussian bank: C is K x K int64, 128 MiB at this K."""
MAX_BITS = 30
"""Largest fixed-point scale, as a power of two."""
MIN_RIDGE = 1e-9
"""Smallest ridge: below it rounding can make C + lam I lose its positive definiteness."""
ADDRESSINGS = ("slots", "pinv", "gaussian")


class Kind(StrEnum):
    """What an event does; the letter is what the log stores."""

    WRITE = "W"
    FORGET = "F"
    ERASE = "E"


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """How a bank addresses, rounds and solves; immutable once the bank is made.

    A fixed-point integer a stands for a / 2^bits, |a| <= 2^20. Everything here enters the
    digest, and so every digest of the bank's states.
    """

    addressing: str = "slots"
    """slots (a row of the reference memory a fact), pinv or gaussian (a fixed reference)."""
    slots: int = 0
    """K of a pinv or gaussian bank; 0 in a slots bank, which grows with its facts."""
    prompt_size: int
    """D, size of a prompt's latent."""
    value_size: int
    """C, size of the latent of prompt and answer, which is what is stored."""
    scope_size: int
    """S, size of a sentence embedding."""
    prompt_bits: int = 16
    """Scale of prompt latents (slots banks): 16 leaves 16x headroom over unit range."""
    address_bits: int = 16
    """Scale of addresses w (pinv and gaussian banks)."""
    value_bits: int = 16
    """Scale of values."""
    scope_bits: int = 16
    """Scale of sentence embeddings."""
    ridge: float = 1e-2
    """lam of the solve, relative to trace(C) / K; 1e-2 removes the peak at N = rank of the keys."""
    alpha: float = 1e-3
    """Width of equations 7-8, relative to the nearest squared distance."""
    reference_seed: int = 0
    """Seed of the fixed reference memory of a pinv or gaussian bank."""
    encoder_digest: str = ""
    """Digest of the encoder whose latents the bank holds."""
    scope_digest: str = ""
    """Digest of the sentence-embedding model whose vectors the bank holds."""

    def validate(self) -> BankConfig:
        """This configuration, if a bank can be made with it.

        Raises:
            InvalidArgument: names the field and its limits.
        """
        if self.addressing not in ADDRESSINGS:
            raise InvalidArgument(f"addressing must be one of {', '.join(ADDRESSINGS)}")
        if self.addressing == "slots":
            _check_int("slots", self.slots, 0, 0)
        else:
            _check_int("slots", self.slots, 1, MAX_SLOTS)
        for name in ("prompt_size", "value_size", "scope_size"):
            _check_int(name, getattr(self, name), 1, MAX_VECTOR_SIZE)
        for name in ("prompt_bits", "address_bits", "value_bits", "scope_bits"):
            _check_int(name, getattr(self, name), 0, MAX_BITS)
        _check_float("ridge", self.ridge, MIN_RIDGE, 1e3)
        _check_float("alpha", self.alpha, 1e-9, 1e9)
        _check_int("reference_seed", self.reference_seed, 0, 2**63 - 1)
        for name in ("encoder_digest", "scope_digest"):
            if not isinstance(getattr(self, name), str):
                raise InvalidArgument(f"{name} must be text")
        return self

    @property
    def address_size(self) -> int:
        """A: D in a slots bank, K in a pinv or gaussian bank."""
        return self.prompt_size if self.addressing == "slots" else self.slots

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal configurations give equal text."""
        record = asdict(self) | {"ridge": float(self.ridge), "alpha": float(self.alpha)}
        return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> BankConfig:
        """The configuration that `to_json` wrote.

        Raises:
            InvalidArgument: not a JSON object, a field unknown or missing, or out of limits.
        """
        try:
            record = json.loads(text)
        except ValueError as error:
            raise InvalidArgument(f"a bank's configuration must be JSON: {error}") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(record, dict) or set(record) != names:
            raise InvalidArgument(
                f"a bank's configuration has the fields {', '.join(sorted(names))}"
            )
        return cls(**record).validate()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgument(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def _check_float(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise InvalidArgument(f"{name} must be a number from {low} to {high}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a bank's log, without its payload."""

    version: int
    """Dense sequence number in the bank: 1, 2, 3 ..."""
    kind: Kind
    fact_id: str
    event_id: str
    """Made by the client; the idempotency key."""
    time_ms: int
    """Milliseconds since the Unix epoch, by the store's clock."""
    payload_sha256: str
    """Salted SHA-256 of the payload, in hex; empty for FORGET and ERASE."""
    chain: str
    """`next_chain` of the entry before and this one."""
    previous: int = 0
    """Version of the event before this one that concerns the same fact; 0 for none."""


def next_chain(
    previous: str,
    version: int,
    kind: str,
    fact_id: str,
    event_id: str,
    time_ms: int,
    payload_sha256: str,
    previous_version: int = 0,
) -> str:
    """The chain value of an entry: SHA-1, in hex, over the previous value and the entry's fields.

    The fields are joined by NUL, numbers in decimal; the previous value of version 1 is "". The
    store's append script computes exactly the same.
    """
    return chain_over(
        (
            previous, str(version), kind, fact_id, event_id, str(time_ms), payload_sha256,
            str(previous_version),
        )
    )  # fmt: skip


def chain_over(fields: Iterable[str]) -> str:
    """`next_chain` of fields that are text already, in its order."""
    return hashlib.sha1("\0".join(fields).encode(), usedforsecurity=False).hexdigest()


def salted_sha256(salt_and_payload: bytes) -> str:
    """SHA-256, in hex, of the salt followed by the payload, as the store keeps them."""
    return hashlib.sha256(salt_and_payload).hexdigest()


def request_body(
    kind: str, fact_id: str, prompt: str = "", answer: str = "", rephrasings: Sequence[str] = ()
) -> bytes:
    """What the client asked for, as canonical bytes: each text after its length.

    Two requests under one event id are the same request exactly if these bytes are equal; the
    encoded vectors stay out.

    Raises:
        InvalidArgument: a text is not valid Unicode.
    """
    texts = [utf8("text", text) for text in (kind, fact_id, prompt, answer, *rephrasings)]
    return b"".join(part for text in texts for part in (struct.pack("<I", len(text)), text))


def request_hmac(salt: bytes, body: bytes) -> str:
    """HMAC-SHA256, in hex, of a request body under its payload's salt: it dies with the payload."""
    return hmac.new(salt, body, hashlib.sha256).hexdigest()


def decide(kind: str, status: str | None) -> LarimarError | None:
    """Whether an event may follow, given what its fact is now; None if it may, else the error.

    Args:
        kind: WRITE, FORGET or ERASE.
        status: None for a fact never written, else "live", "forgotten" or "erased".
    """
    if status == "erased":
        return FailedPrecondition(
            "the fact was erased and its id is retired; write under another fact id", "ERASED"
        )
    if kind == Kind.WRITE or status == "live" or (kind == Kind.ERASE and status == "forgotten"):
        return None
    if status is None:
        return NotFound("no such fact was ever written; list the bank's facts", "UNKNOWN_FACT")
    return FailedPrecondition(
        "the fact is already forgotten; write it again to bring it back", "ALREADY_FORGOTTEN"
    )


def make_payload(
    config: BankConfig,
    fact_id: str,
    prompt: str,
    answer: str,
    rephrasings: Sequence[str],
    prompt_latents: np.ndarray,
    value: np.ndarray,
    scope_vectors: np.ndarray,
) -> Payload:
    """Rounds a fact's vectors once, to fixed point; pinv and gaussian banks compute w first.

    Args:
        prompt_latents: (R, D) float32, the prompt's and one a rephrasing.
        value: (C,) float32, the latent of prompt and answer.
        scope_vectors: (R, S) float32.

    Raises:
        InvalidArgument: a wrong shape, a number that is not finite or past the bank's range, too
            many rephrasings or a bad id; names the field and the limit. Nothing was changed.
    """
    rows = 1 + len(rephrasings)
    latents = (rows, config.prompt_size)
    if config.addressing == "slots":
        addresses = fixed_point("prompt_latents", prompt_latents, config.prompt_bits, latents)
    else:
        from larimar.sums import addresses_of

        w = addresses_of(config, prompt_latents, rows)
        addresses = fixed_point("addresses", w, config.address_bits, (rows, config.slots))
    return Payload(
        fact_id=fact_id,
        prompt=prompt,
        answer=answer,
        rephrasings=tuple(rephrasings),
        addresses=addresses,
        value=fixed_point("value", value, config.value_bits, (config.value_size,)),
        scope=fixed_point(
            "scope_vectors", scope_vectors, config.scope_bits, (rows, config.scope_size)
        ),
    )


def make_payloads(config: BankConfig, facts: Iterable[tuple[Any, ...]]) -> list[Payload]:
    """`make_payload` of each tuple of its arguments: one text gives the same bytes in any batch."""
    return [make_payload(config, *fact) for fact in facts]


def __getattr__(name: str) -> Any:
    """`BankState` and `ReadOut` on first use: the fold needs more than the contracts do."""
    if name in ("BankState", "ReadOut"):
        from larimar import state

        return getattr(state, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
