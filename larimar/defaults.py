"""What nobody should have to ask for: the defaults of banks and facts."""

from __future__ import annotations

import hashlib

from larimar.errors import InvalidArgument
from larimar.memory import BankConfig

DEFAULT_BANK = "default"
"""The bank of a request that names none; it is made when it is first used."""
DEFAULT_SLOTS = 512
"""K of a pinv or gaussian bank that does not say."""
RIDGE = 1e-2
"""Ridge of the solve, relative to trace(C) / K."""
ALPHA = 1e-3
"""Width of equations 7-8, relative to the nearest squared distance."""
REFERENCE_SEED = 0
"""Seed of the fixed reference memory."""
CENSORED_ANSWER = "unknown"
"""What a censored prompt answers."""
DREAM_PROMPT = "The"
"""What a dream begins with when the caller does not say; a decoder needs a token to begin with."""
DEFAULT_DREAMS = 5
"""Dreams of a call that does not say how many."""
ADDRESS_BITS = 16
"""Fixed point of the addresses of a pinv or gaussian bank."""


def default_fact_id(prompt: str) -> str:
    """The fact id of a prompt that comes without one: a truncated SHA-256 of it."""
    return hashlib.sha256(prompt.strip().encode()).hexdigest()[:24]


def bank_config(
    addressing: str,
    slots: int,
    *,
    prompt_size: int,
    value_size: int,
    scope_size: int,
    prompt_bits: int,
    value_bits: int,
    scope_bits: int,
    encoder_digest: str,
    scope_digest: str,
) -> BankConfig:
    """The configuration of a new bank for a model.

    Args:
        slots: K of a pinv or gaussian bank; 0 takes the default.

    Raises:
        InvalidArgument: a slots bank was given a K, or a value is out of range.
    """
    if addressing == "slots" and slots:
        raise InvalidArgument(
            "a slots bank grows with its facts: give slots only with pinv or gaussian", "BAD_SLOTS"
        )
    return BankConfig(
        addressing=addressing,
        slots=0 if addressing == "slots" else slots or DEFAULT_SLOTS,
        prompt_size=prompt_size,
        value_size=value_size,
        scope_size=scope_size,
        prompt_bits=prompt_bits,
        address_bits=ADDRESS_BITS,
        value_bits=value_bits,
        scope_bits=scope_bits,
        ridge=RIDGE,
        alpha=ALPHA,
        reference_seed=REFERENCE_SEED,
        encoder_digest=encoder_digest,
        scope_digest=scope_digest,
    ).validate()
