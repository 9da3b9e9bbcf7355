"""Exact products: bytes and float64 give the same whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from larimar.payload import Payload
from larimar.products import LEAST_HALVED_ROWS, MAX_HALVED, Products, gathered

SLOTS, VALUE_SIZE = 24, 40


def payloads(limit: int, count: int = 90) -> list[Payload]:
    rng = np.random.default_rng(limit)
    found = []
    for number in range(count):
        rephrasings = tuple(f"r{n}" for n in range(number % 3))
        shape = (1 + len(rephrasings), SLOTS)
        address = rng.integers(-limit, limit + 1, shape, np.int32)
        address[0, 0], address[0, 1] = limit, -limit
        value = rng.integers(-limit, limit + 1, VALUE_SIZE, np.int32)
        scope = np.ones((len(address), 3), np.int32)
        found.append(Payload(f"fact-{number}", "p", "a", rephrasings, address, value, scope))
    return found


def expected(facts: Sequence[Payload]) -> tuple[np.ndarray, np.ndarray]:
    a_RK = np.concatenate([fact.addresses for fact in facts]).astype(np.int64)
    v_RC = np.concatenate([np.repeat(fact.value[None], fact.rows, 0) for fact in facts])
    return a_RK.T @ a_RK, a_RK.T @ v_RC.astype(np.int64)


@pytest.mark.parametrize("by_bytes", [True, False])
@pytest.mark.parametrize("limit", [1, 128, MAX_HALVED, MAX_HALVED + 1, 2**15 - 1, 2**20])
def test_products_are_exact_at_every_size_of_number(limit, by_bytes):
    facts = payloads(limit)
    assert sum(fact.rows for fact in facts) > LEAST_HALVED_ROWS
    found = Products(SLOTS, VALUE_SIZE, by_bytes).of(gathered(facts))
    for total, wanted in zip(found, expected(facts), strict=True):
        assert total.dtype == np.int64
        np.testing.assert_array_equal(total, wanted)


def test_room_is_kept_and_a_smaller_product_after_a_larger_one_is_exact():
    products = Products(SLOTS, VALUE_SIZE, by_bytes=True)
    facts = payloads(1000)
    products.of(gathered(facts))
    held = products.nbytes
    for some in (facts[:50], facts[:1], facts):
        for total, wanted in zip(products.of(gathered(some)), expected(some), strict=True):
            np.testing.assert_array_equal(total, wanted)
    few = Products(SLOTS, VALUE_SIZE, by_bytes=True)
    few.of(gathered(facts[:1]))
    assert products.nbytes > held > few.nbytes > 0
