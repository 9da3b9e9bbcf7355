"""Exact products of whole numbers, A^T A and A^T V, as fast as the machine's kernels allow.

R rows of a product, K slots, C value size. Two ways with the same result, to the last bit:

- a float64 product, exact while no partial sum passes 2^53 (algebra.EXACT_ROWS rows);
- where the processor multiplies bytes, and every number has at most 16 bits, four products of
  signed bytes in int32: a = 256 h + l, so a b = 65536 h h' + 256 (h l' + l h') + l l'. That takes
  half the time, and leaves no thread of a BLAS waiting in a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from larimar.payload import Payload

CHUNK_ROWS = 1024
"""Rows of one product: it is as fast with more. 2^14 a byte product, it stays far inside int32."""
MAX_HALVED = 127 * 256 + 127
"""Largest number whose upper half, rounded, is a signed byte."""
LEAST_HALVED_ROWS = 64
"""Rows from which bytes are faster: what is done around their products costs the same for few."""


def multiplies_bytes() -> bool:
    """Whether this processor has instructions for products of bytes (VNNI)."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


@dataclass(frozen=True, slots=True)
class Factors:
    """What a product is made of: addresses and values of F facts, int16 where all numbers fit."""

    a_RK: np.ndarray
    """A row for each prompt of a fact."""
    v_FC: np.ndarray
    counts: list[int]
    """Rows of each fact; its value goes with all of them."""


def gathered(payloads: Sequence[Payload]) -> Factors:
    """The factors of these facts, copied."""
    a_RK = np.concatenate([payload.addresses for payload in payloads])
    v = np.concatenate([payload.value for payload in payloads])
    return Factors(a_RK, v.reshape(len(payloads), -1), [payload.rows for payload in payloads])


class Products:
    """A^T A and A^T V of the addresses and values of facts, in room that is kept.

    Memory that is asked for anew costs more than a product.

    Args:
        slots, value_size: K and C.
        by_bytes: whether numbers of 16 bits may be multiplied as bytes.
    """

    def __init__(self, slots: int, value_size: int, by_bytes: bool) -> None:
        self._slots, self._value_size, self._by_bytes = slots, value_size, by_bytes
        self._room: dict[str, np.ndarray] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that are kept; while a thread multiplies, those of that moment."""
        return sum(array.nbytes for array in list(self._room.values()))

    def of(self, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
        """(K, K) and (K, C), int64, good until the next call. It lets go of the interpreter's lock.

        Of CHUNK_ROWS rows at most, or the rows of one fact.

        Cost: 10 us a fact in batches of 1,000 by bytes, 25 by float64 (K = 512, C = 768, 2 cores);
        1.5 ms for one alone.
        """
        small = factors.a_RK.itemsize == 2 and factors.v_FC.itemsize == 2
        if self._by_bytes and small and len(factors.a_RK) >= LEAST_HALVED_ROWS:
            a_RK, v_RC = self._filled(factors, "<i2")
            if max(a_RK.max(), v_RC.max()) <= MAX_HALVED:
                return self._from_bytes(torch.from_numpy(a_RK), torch.from_numpy(v_RC))
        return self._from_floats(*self._filled(factors, "<f8"))

    def _filled(self, factors: Factors, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        rows, facts = len(factors.a_RK), len(factors.v_FC)
        a_RK = self._kept("a" + dtype, rows, self._slots, dtype)
        v_RC = self._kept("v" + dtype, rows, self._value_size, dtype)
        np.copyto(a_RK, factors.a_RK)
        v_FC = factors.v_FC
        np.copyto(v_RC, np.repeat(v_FC, factors.counts, axis=0) if rows > facts else v_FC)
        return a_RK, v_RC

    def _from_floats(self, a_RK: np.ndarray, v_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k, c = self._slots, self._value_size
        found = []
        for name, right, width in (("k", a_RK, k), ("c", v_RC, c)):
            product = self._kept("product " + name, k, width, "<f8")
            whole = self._kept("whole " + name, k, width, "<i8")
            np.matmul(a_RK.T, right, out=product)
            np.copyto(whole, product, casting="unsafe")
            found.append(whole)
        return found[0], found[1]

    def _from_bytes(self, a_RK: torch.Tensor, v_RC: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        k, c = self._slots, self._value_size
        halves = torch.from_numpy(self._kept("halves", len(a_RK), 2 * (k + c), "i1"))
        for number, place in ((a_RK, 0), (v_RC, 2 * k)):
            width = number.shape[1]
            low = number.to(torch.int8)
            halves[:, place : place + width] = number.sub_(low) >> 8
            halves[:, place + width : place + 2 * width] = low
        products = torch.ops.aten._int_mm(halves[:, : 2 * k].t().contiguous(), halves)
        whole_KK = torch.from_numpy(self._kept("whole k", k, k, "<i8"))
        whole_KC = torch.from_numpy(self._kept("whole c", k, c, "<i8"))
        for whole, place in ((whole_KK, 0), (whole_KC, 2 * k)):
            width = whole.shape[1]
            high, low = products[:, place : place + width], products[:, place + width :][:, :width]
            torch.add(high[k:], low[:k], out=(mixed := torch.empty_like(high[k:])))
            whole.copy_(high[:k]).mul_(256).add_(mixed).mul_(256).add_(low[k:])
        return whole_KK.numpy(), whole_KC.numpy()

    def _kept(self, name: str, rows: int, width: int, dtype: str) -> np.ndarray:
        """Room of at least this many rows: its first ones."""
        room = self._room.get(name)
        if room is None or len(room) < rows:
            room = np.empty((max(rows, min(CHUNK_ROWS, 2 * rows)), width), dtype)
            self._room[name] = room
        return room[:rows]
