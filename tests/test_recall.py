"""Recursive reading: against a slow twin, and what must hold whatever is read."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from larimar.algebra import gaussian_address
from larimar.errors import FailedPrecondition, InvalidArgument
from larimar.recall import read_recursively

SIZE, VALUES, ALPHA = 5, 3, 0.2


def items(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((count, SIZE)),
        rng.standard_normal((count, VALUES)),
        rng.standard_normal(SIZE),
    )


def twin(addresses, values, query, episode_size, alpha):
    """The same by recursion, with the readable algebra: value, weight of each item, levels."""
    entries = [
        (torch.tensor(a), torch.tensor(v), {n: 1.0})
        for n, (a, v) in enumerate(zip(addresses, values, strict=True))
    ]
    levels = 0
    while levels == 0 or len(entries) > 1:
        above = []
        for at in range(0, len(entries), episode_size):
            group = entries[at : at + episode_size]
            w = gaussian_address(
                torch.tensor(query)[None], torch.stack([a for a, _, _ in group]), alpha
            )[0]
            shares: dict[int, float] = {}
            for share, (_, _, below) in zip(w.tolist(), group, strict=True):
                for n, weight in below.items():
                    shares[n] = share * weight
            above.append(
                (
                    w @ torch.stack([a for a, _, _ in group]),
                    w @ torch.stack([v for _, v, _ in group]),
                    shares,
                )
            )
        entries, levels = above, levels + 1
    _, value, shares = entries[0]
    return value.numpy(), np.array([shares[n] for n in range(len(addresses))]), levels


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(2, 9), st.integers(0, 10**6))
def test_it_reads_what_the_twin_reads(count: int, episode_size: int, seed: int) -> None:
    addresses, values, query = items(count, seed)
    read = read_recursively(addresses, values, query, episode_size, ALPHA)
    value, weights, levels = twin(addresses, values, query, episode_size, ALPHA)
    assert read.levels == levels
    np.testing.assert_allclose(read.weights_n, weights, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(read.value, value, rtol=1e-9, atol=1e-12)
    assert read.weights_n.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(read.weights_n @ values, read.value, rtol=1e-9, atol=1e-12)


def test_levels_are_those_of_a_tree_with_that_many_branches() -> None:
    for count, episode_size, levels in ((1, 16, 1), (16, 16, 1), (17, 16, 2), (256, 16, 2)):
        addresses, values, query = items(count)
        read = read_recursively(addresses, values, query, episode_size, ALPHA)
        assert read.levels == levels
    addresses, values, query = items(1000)
    assert read_recursively(addresses, values, query, 2, ALPHA).levels == math.ceil(math.log2(1000))


def test_a_query_that_is_an_address_reads_its_value_whole() -> None:
    addresses, values, _ = items(100)
    for place in (0, 41, 99):
        read = read_recursively(addresses, values, addresses[place], 7, 1e-3)
        assert read.weights_n[place] == 1.0
        assert (read.value == values[place]).all()


def test_one_episode_is_an_ordinary_read_of_all() -> None:
    addresses, values, query = items(12)
    read = read_recursively(addresses, values, query, 16, ALPHA)
    w = gaussian_address(torch.tensor(query)[None], torch.tensor(addresses), ALPHA).numpy()[0]
    np.testing.assert_allclose(read.weights_n, w, rtol=1e-12)


def test_fixed_point_integers_read_as_the_numbers_they_stand_for() -> None:
    rng = np.random.default_rng(1)
    addresses = rng.integers(-(2**20), 2**20, (50, SIZE)).astype(np.int32)
    values = rng.integers(-(2**20), 2**20, (50, VALUES)).astype(np.int32)
    query = rng.integers(-(2**20), 2**20, SIZE)
    whole = read_recursively(addresses, values, query, 4, ALPHA)
    scaled = read_recursively(addresses / 2**16, values / 2**13, query / 2**16, 4, ALPHA)
    assert (whole.weights_n == scaled.weights_n).all()
    assert (whole.value == scaled.value * 2**13).all()
    exact = sum(Fraction(w) * int(v) for w, v in zip(whole.weights_n, values[:, 0], strict=True))
    assert whole.value[0] == pytest.approx(float(exact), rel=1e-12)


def test_the_same_items_give_the_same_bits_in_any_memory_layout() -> None:
    addresses, values, query = items(300)
    once = read_recursively(addresses, values, query, 16, 1e-3)
    again = read_recursively(
        np.asfortranarray(addresses), values[::-1][::-1], query.copy(), 16, 1e-3
    )
    assert once.value.tobytes() == again.value.tobytes()
    assert once.weights_n.tobytes() == again.weights_n.tobytes()


def test_what_cannot_be_read_is_refused() -> None:
    addresses, values, query = items(4)
    with pytest.raises(FailedPrecondition, match="nothing to read"):
        read_recursively(addresses[:0], values[:0], query, 16, ALPHA)
    with pytest.raises(InvalidArgument, match="episode_size is 1"):
        read_recursively(addresses, values, query, 1, ALPHA)
    with pytest.raises(InvalidArgument, match="not one a fact"):
        read_recursively(addresses, values[:3], query, 16, ALPHA)
    with pytest.raises(InvalidArgument, match="the query has shape"):
        read_recursively(addresses, values, query[:2], 16, ALPHA)
