"""A payload: a fact's text and its fixed-point vectors, as bytes that never change. Numpy only.

C value size, S scope size, R = 1 + rephrasings reference rows, A address size.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from json.encoder import encode_basestring as quote
from typing import Any, NamedTuple

import numpy as np

from larimar.errors import DataLoss, InvalidArgument

FIXED_LIMIT = 1 << 20
"""Largest fixed-point magnitude: 2^13 products of two such integers add up exactly in float64."""
MAX_ID_BYTES = 256
"""Longest fact id or event id, in UTF-8 bytes: ids are keys in the store."""
MAX_REPHRASINGS = 255
"""Most rephrasings of one fact: each is a reference row of its own."""

_MAGIC = b"LRM2"
_TYPES = {16: np.dtype("<i2"), 32: np.dtype("<i4")}
_SIZE = rb"([1-9][0-9]{0,9})"
_TEXT = rb'"([^"\\\x00-\x1f]*)"'
_TEXTS = rb'((?:"[^"\\\x00-\x1f]*"(?:,"[^"\\\x00-\x1f]*")*)?)'
_PLAIN_HEADER = re.compile(
    rb'\{"addresses":\[%b,%b\],"answer":%b,"bits":\[(16|32),(16|32),(16|32)\],"fact_id":%b,'
    rb'"prompt":%b,"rephrasings":\[%b\],"scope":\[%b,%b\],"value":\[%b\]\}'
    % (_SIZE, _SIZE, _TEXT, _TEXT, _TEXT, _TEXTS, _SIZE, _SIZE, _SIZE)
)
"""A canonical header whose texts need no escapes, as most: a fifth of the time of JSON."""


class _Layout(NamedTuple):
    """Where the arrays of a payload lie behind its header."""

    rows: int
    addresses: tuple[tuple[int, int], np.dtype]
    """Shape and type."""
    value: tuple[tuple[int], np.dtype]
    value_at: int
    scope: tuple[tuple[int, int], np.dtype]
    scope_at: int
    nbytes: int
    is_narrow: bool
    """Whether all numbers have 16 bits."""


@lru_cache(maxsize=1024)
def _layout(
    rows: Any, width: Any, length: Any, scope_rows: Any, scope_width: Any, *bits: Any
) -> _Layout:
    """The layout that a header tells. Kept: the payloads of a bank have few.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: there is none such.
    """
    rows, width, length = int(rows), int(width), int(length)
    if min(rows, width, length, int(scope_width)) < 1 or int(scope_rows) != rows:
        raise ValueError("its arrays do not belong together")
    first, second, third = (_TYPES[int(wide)] for wide in bits)
    value_at = rows * width * first.itemsize
    scope_at = value_at + length * second.itemsize
    scope = (rows, int(scope_width))
    return _Layout(
        rows,
        ((rows, width), first),
        ((length,), second),
        value_at,
        (scope, third),
        scope_at,
        scope_at + rows * scope[1] * third.itemsize,
        first == second == third == _TYPES[16],
    )


def _needs_32_bits(array: np.ndarray) -> bool:
    """Whether these numbers do not all fit int16 and are all within FIXED_LIMIT."""
    low, high = int(array.min()), int(array.max())
    return (low < -(1 << 15) or high >= 1 << 15) and low >= -FIXED_LIMIT and high <= FIXED_LIMIT


def utf8(name: str, text: str) -> bytes:
    """A text as UTF-8.

    Raises:
        InvalidArgument: not text, or it holds a lone surrogate.
    """
    try:
        return text.encode()
    except (UnicodeEncodeError, AttributeError) as error:
        raise InvalidArgument(f"{name} must be valid Unicode text") from error


def several(name: str, texts: Any) -> tuple[str, ...]:
    """A list of texts; a text is not taken for the list of its characters.

    Raises:
        InvalidArgument: no list, or one of them is not text or holds a lone surrogate.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise InvalidArgument(f"{name} must be a list of texts, not {type(texts).__name__}")
    for text in texts:
        utf8(name, text)
    return tuple(texts)


def check_id(name: str, value: str) -> str:
    """This fact id or event id, if the log can hold it.

    Raises:
        InvalidArgument: empty, past MAX_ID_BYTES in UTF-8, holds a NUL, or is not valid Unicode.
    """
    if not 1 <= len(utf8(name, value)) <= MAX_ID_BYTES or "\0" in value:
        raise InvalidArgument(f"{name} must be 1 to {MAX_ID_BYTES} bytes of UTF-8 without NUL")
    return value


def fixed_point(name: str, x: Any, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """round(x 2^bits), the only rounding a vector ever sees; int32, of the given shape.

    Raises:
        InvalidArgument: another shape, or a number not finite or too large; never clipped.
    """
    try:
        scaled = np.ldexp(np.asarray(x, dtype=np.float64), bits)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{name} must be numbers") from error
    if scaled.shape != shape:
        raise InvalidArgument(f"{name} must have shape {shape}, not {scaled.shape}")
    if not np.isfinite(scaled).all():
        raise InvalidArgument(f"{name} must be finite", "NOT_FINITE")
    if scaled.size and np.abs(scaled).max() > FIXED_LIMIT:
        limit = math.ldexp(FIXED_LIMIT, -bits)
        raise InvalidArgument(f"{name} must be at most {limit} in magnitude", "OUT_OF_RANGE")
    return np.rint(scaled).astype("<i4")


def narrowest(array: np.ndarray) -> np.ndarray:
    """The same whole numbers as int16 where all of them fit, as nearly always, else as int32."""
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    return array.astype("<i2" if low >= -(1 << 15) and high < 1 << 15 else "<i4", copy=False)


@dataclass(frozen=True, eq=False)
class Payload:
    """A fact's text and its fixed-point vectors; a log of them replays without any encoder.

    The arrays are little-endian, each int16 where all its numbers fit and else int32, read-only,
    with |.| <= 2^20. Two payloads are equal exactly if their bytes are.

    Raises:
        InvalidArgument: too many rephrasings, a bad text, or arrays that do not belong together
            or are out of range.
    """

    fact_id: str
    prompt: str
    answer: str
    rephrasings: tuple[str, ...]
    addresses: np.ndarray
    """(R, A): the prompt's row, then one a rephrasing. Slots banks: the fixed-point latents
    themselves, the fact's rows of the reference memory; else the addresses w."""
    value: np.ndarray
    """(C,): the latent of prompt and answer."""
    scope: np.ndarray
    """(R, S): sentence embeddings, row for row as the addresses."""

    def __post_init__(self) -> None:
        check_id("fact_id", self.fact_id)
        object.__setattr__(self, "rephrasings", tuple(self.rephrasings))
        rows = self._row_count()
        if rows > 1 + MAX_REPHRASINGS:
            raise InvalidArgument(f"at most {MAX_REPHRASINGS} rephrasings, not {rows - 1}")
        utf8("prompt", self.prompt)
        utf8("answer", self.answer)
        for text in self.rephrasings:
            utf8("rephrasings", text)
        for name, ndim in (("addresses", 2), ("value", 1), ("scope", 2)):
            array = np.array(getattr(self, name), order="C")
            if array.dtype.kind != "i" or array.ndim != ndim or array.size == 0:
                raise InvalidArgument(f"{name} must be whole numbers in {ndim} dimension(s)")
            if ndim == 2 and array.shape[0] != rows:
                raise InvalidArgument(f"{name} must have a row for each of {rows} prompts")
            if array.min() < -FIXED_LIMIT or array.max() > FIXED_LIMIT:
                raise InvalidArgument(f"{name} must be at most {FIXED_LIMIT} in magnitude")
            array = narrowest(array)
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def _row_count(self) -> int:
        return 1 + len(self.rephrasings)

    def _header(self) -> bytes:
        """Compact JSON with sorted keys, written out by hand: half the time of the json module."""
        (rows, width), (length,), (_, scope_width) = (
            self.addresses.shape,
            self.value.shape,
            self.scope.shape,
        )
        rephrasings = ",".join(map(quote, self.rephrasings))
        bits = ",".join(
            str(8 * array.itemsize) for array in (self.addresses, self.value, self.scope)
        )
        return (
            f'{{"addresses":[{rows},{width}],"answer":{quote(self.answer)},"bits":[{bits}],'
            f'"fact_id":{quote(self.fact_id)},"prompt":{quote(self.prompt)},'
            f'"rephrasings":[{rephrasings}],"scope":[{rows},{scope_width}],"value":[{length}]}}'
        ).encode()

    @cached_property
    def _bytes(self) -> bytes:
        header = self._header()
        arrays = (self.addresses.tobytes(), self.value.tobytes(), self.scope.tobytes())
        return b"".join((_MAGIC, struct.pack("<I", len(header)), header, *arrays))

    def to_bytes(self) -> bytes:
        """The payload as stored: magic, header length, canonical JSON header, then the arrays."""
        return self._bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Payload:
        """The payload that `to_bytes` wrote, its arrays views into `data`.

        Cost: about 5 us for 3.5 KB.

        Raises:
            DataLoss: not exactly what `to_bytes` writes.
        """
        try:
            payload = cls._parse(data)
        except (struct.error, ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataLoss(f"a payload cannot be read: {error}", "BAD_PAYLOAD") from error
        if payload is None:
            raise DataLoss("a payload is not what was written", "BAD_PAYLOAD")
        return payload

    @classmethod
    def _parse(cls, data: bytes) -> Payload | None:
        """None where the bytes can be read but `to_bytes` would not have written them."""
        magic, size = struct.unpack_from("<4sI", data)
        header_bytes = data[8 : 8 + size]
        plain = _PLAIN_HEADER.fullmatch(header_bytes)
        if plain is None:
            header = json.loads(header_bytes.decode())
            (rows, width), (length,) = header["addresses"], header["value"]
            layout = _layout(rows, width, length, *header["scope"], *header["bits"])
            texts = header["fact_id"], header["prompt"], header["answer"]
            rephrasings = tuple(header["rephrasings"])
        else:
            rows, width, answer, *bits, fact_id, prompt, more, scope_rows, scope_width, length = (
                plain.groups()
            )
            layout = _layout(rows, width, length, scope_rows, scope_width, *bits)
            texts = fact_id.decode(), prompt.decode(), answer.decode()
            rephrasings = tuple(more[1:-1].decode().split('","')) if more else ()
        start = 8 + size
        if magic != _MAGIC or start + layout.nbytes != len(data):
            return None
        payload = object.__new__(cls)
        payload.__dict__.update(
            fact_id=texts[0],
            prompt=texts[1],
            answer=texts[2],
            rephrasings=rephrasings,
            addresses=np.ndarray(*layout.addresses, data, start),
            value=np.ndarray(*layout.value, data, start + layout.value_at),
            scope=np.ndarray(*layout.scope, data, start + layout.scope_at),
            _bytes=data,
        )
        sound = (
            layout.rows == payload._row_count()
            and (plain is not None or header_bytes == payload._header())
            and (layout.is_narrow or payload._is_as_wide_as_needed())
        )
        return payload if sound else None

    def _is_as_wide_as_needed(self) -> bool:
        arrays = (self.addresses, self.value, self.scope)
        return all(array.itemsize == 2 or _needs_32_bits(array) for array in arrays)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload's bytes: what the digest of a state is made of."""
        digest = self.__dict__.get("_digest")  # `cached_property` would take a lock in Python 3.11
        if digest is None:
            digest = self.__dict__["_digest"] = hashlib.sha256(self._bytes).digest()
        return digest

    @property
    def sha256(self) -> str:
        """The payload's digest, in hex."""
        return self.digest.hex()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Address size A, value size C and scope size S."""
        return self.addresses.shape[1], self.value.shape[0], self.scope.shape[1]

    @property
    def rows(self) -> int:
        """R: the prompt and its rephrasings."""
        return len(self.addresses)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Payload) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)
