"""Generation: what a memory dreams when nothing is asked, z = w M with w ~ N(0, I).

K slots of a fixed-size bank, F live facts, C value size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from larimar.errors import InvalidArgument

if TYPE_CHECKING:
    from larimar.state import BankState

MAX_SAMPLES = 1024
"""Most dreams of one call: each reads the whole memory."""
SUMMED_FACTS = 4096
"""Facts whose values are weighed at a time: 25 MB in float64 at C = 768."""


def normals(size: int, seed: int, number: int = 0) -> np.ndarray:
    """Standard normal float64 numbers of a seed; another stream for each number.

    Raises:
        InvalidArgument: a seed below 0.
    """
    if seed < 0:
        raise InvalidArgument(f"seed must be a whole number from 0 on, not {seed}")
    return np.random.default_rng([seed, number]).standard_normal(size)


def sample(state: BankState, count: int, seed: int) -> np.ndarray:
    """z = w M, w ~ N(0, I) from the seed, float32 (count, C); the n-th depends on seed and n only.

    In a slots bank w weighs every fact, in order of fact id. The sum of F values is sqrt(F) times
    as long as one, so it is rescaled to the root mean square norm of the values: a decoder is
    given a latent of the length that it knows.

    Cost: one pass over all values (slots), 1 us a fact and dream at C = 768; else as a read.

    Raises:
        FailedPrecondition: the bank is empty, or this state holds no memory part.
        InvalidArgument: a count out of 1 to MAX_SAMPLES, or a seed below 0.
    """
    if not 1 <= count <= MAX_SAMPLES:
        raise InvalidArgument(f"count must be from 1 to {MAX_SAMPLES}, not {count}")
    state.check_readable()
    if state.values is None:
        return state.sums.read(
            np.stack([normals(state.config.slots, seed, n) for n in range(count)])
        )
    slots = state.facts.slots_of(sorted(state.facts))
    w_NF = [normals(len(slots), seed, number) for number in range(count)]
    z_NC = np.zeros((count, state.config.value_size))
    squares = []
    for low in range(0, len(slots), SUMMED_FACTS):
        values_FC = state.values.take(slots[low : low + SUMMED_FACTS]).astype(np.float64)
        squares.append(float(np.einsum("fc,fc->", values_FC, values_FC)))
        for z_C, w_F in zip(z_NC, w_NF, strict=True):
            z_C += np.einsum("f,fc->c", w_F[low : low + SUMMED_FACTS], values_FC)
    length = math.sqrt(math.fsum(squares) / len(slots))
    for z_C in z_NC:
        norm = math.sqrt(float(np.einsum("c,c->", z_C, z_C)))
        z_C *= length / norm if norm else 0.0
    return np.ldexp(z_NC, -state.config.value_bits).astype(np.float32)
