"""Between vectors and what crosses a wire: raw little-endian float32, and bank configurations."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from larimar.errors import InvalidArgument
from larimar.memory import BankConfig
from larimar.v1 import common_pb2

_ADDRESSINGS: dict[str, Any] = {
    "slots": common_pb2.ADDRESSING_SLOTS,
    "pinv": common_pb2.ADDRESSING_PINV,
    "gaussian": common_pb2.ADDRESSING_GAUSSIAN,
}
_BY_NUMBER: dict[int, str] = {int(number): name for name, number in _ADDRESSINGS.items()}


def vector_to_bytes(vector: np.ndarray) -> bytes:
    """A float vector as little-endian float32."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def bytes_to_vector(raw: bytes, size: int, name: str) -> np.ndarray:
    """The vector of `vector_to_bytes`.

    Raises:
        InvalidArgument: `raw` does not hold `size` float32 numbers, or one is not finite.
    """
    if len(raw) != 4 * size:
        raise InvalidArgument(
            f"{name} has {len(raw)} bytes, {size} float32 numbers take {4 * size}: "
            "send the vector of the serving model",
            "WRONG_SHAPE",
        )
    vector = np.frombuffer(raw, dtype="<f4")
    if not np.isfinite(vector).all():
        raise InvalidArgument(f"{name} has a number that is not finite", "NOT_FINITE")
    return vector


def addressing_name(number: int) -> str:
    """The addressing of an enum value; unspecified means slots."""
    if number == common_pb2.ADDRESSING_UNSPECIFIED:
        return "slots"
    try:
        return _BY_NUMBER[number]
    except KeyError:
        raise InvalidArgument(
            f"unknown addressing {number}: use slots, pinv or gaussian", "BAD_ADDRESSING"
        ) from None


def config_to_proto(bank: str, config: BankConfig) -> common_pb2.BankConfig:
    """A bank's configuration as it crosses a wire."""
    fields: dict[str, Any] = dataclasses.asdict(config)
    fields["addressing"] = _ADDRESSINGS[config.addressing]
    return common_pb2.BankConfig(bank=bank, config_digest=config.digest, **fields)


def config_from_proto(message: common_pb2.BankConfig) -> BankConfig:
    """The configuration of `config_to_proto`. Raises: InvalidArgument."""
    names = [field.name for field in dataclasses.fields(BankConfig)]
    fields = {name: getattr(message, name) for name in names}
    fields["addressing"] = addressing_name(message.addressing)
    return BankConfig(**fields).validate()
