"""A key/value cache that is allocated once: rows of one length, each filled at its own place.

Shapes: R rows, K positions of a row, Q tokens of a pass, H key/value heads, d head width.
A row holds its latent's slots first, where it has a latent, then its tokens. What lies
beyond them is masked out, so a row's layout, and with it every rounding, follows from the
row alone.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

LEAST_POSITIONS = 64
"""Positions of the shortest rows: most prompts with their answers fit."""


def positions_for(used: int) -> int:
    """K of the rows that hold `used` positions: a power of two."""
    return max(LEAST_POSITIONS, 1 << (used - 1).bit_length())


class RowsLayer(CacheLayerMixin):
    """One layer of the cache: keys and values of R rows, written in place."""

    keys: torch.Tensor
    values: torch.Tensor
    places: torch.Tensor

    def __init__(
        self, keys_RKHd: torch.Tensor, values_RKHd: torch.Tensor, readers: int = 1
    ) -> None:
        super().__init__()
        self.stored = (keys_RKHd, values_RKHd)
        self.keys, self.values = (
            (stored if readers == 1 else stored.expand(readers, -1, -1, -1)).transpose(1, 2)
            for stored in self.stored
        )
        self.flat = tuple(stored.view(-1, *stored.shape[2:]) for stored in self.stored)
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to do: memory was allocated with the rows."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new keys and values, (R, H, Q, d), at `places`; returns all of the rows'."""
        for flat, new_RHQd in zip(self.flat, (key_states, value_states), strict=True):
            flat.index_copy_(0, self.places, new_RHQd.transpose(1, 2).flatten(0, 1))
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a query sees, masked ones included, and the first of them."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """0: positions and masks are given with every pass."""
        return 0

    def get_max_length(self) -> int:
        """K."""
        return self.keys.shape[2]


class RowsCache(Cache):
    """Keys and values of up to R rows of K positions in every layer.

    Args:
        stored: by layer, keys and values, (R, K, H, d) each.
        readers: rows of a pass that all see the one row that is stored, each a later token of it.
    """

    layers: list[RowsLayer]

    def __init__(self, stored: list[tuple[torch.Tensor, torch.Tensor]], readers: int = 1) -> None:
        super().__init__(layers=[RowsLayer(keys, values, readers) for keys, values in stored])
        self.readers = readers

    @classmethod
    def empty(
        cls, layers: int, rows: int, positions: int, heads: int, width: int, like: torch.Tensor
    ) -> RowsCache:
        """A cache of zeros with the dtype and the device of `like`."""
        shape = (rows, positions, heads, width)
        return cls([(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(layers)])

    @property
    def row_count(self) -> int:
        """R."""
        return len(self.layers[0].stored[0])

    @property
    def positions(self) -> int:
        """K."""
        return self.layers[0].stored[0].shape[1]

    def rows(self, first: int, count: int) -> RowsCache:
        """Some of the rows, as a cache over the same memory."""
        some = slice(first, first + count)
        return RowsCache([(k[some], v[some]) for k, v in self.stored()])

    def shared(self, row: int, readers: int) -> RowsCache:
        """One row, over the same memory, as so many rows of a pass see it."""
        return RowsCache([(k[row : row + 1], v[row : row + 1]) for k, v in self.stored()], readers)

    def write_at(self, places: torch.Tensor) -> None:
        """Says where the next pass writes: for each of its R * Q tokens, row * K + position."""
        for layer in self.layers:
            layer.places = places

    def put_slots(self, row: int, slots: Cache) -> None:
        """Copies the latent's slots of a one-row cache to the beginning of a row."""
        for mine, given in zip(self.layers, slots.layers, strict=True):
            latent: tuple[Any, Any] = (given.keys, given.values)
            for stored, given_1HSd in zip(mine.stored, latent, strict=True):
                stored[row, : given_1HSd.shape[2]] = given_1HSd[0].transpose(0, 1)

    def clear_row(self, row: int) -> None:
        """Fills a row with zeros."""
        for stored in self.stored():
            for one in stored:
                one[row] = 0

    def copy_row(self, row: int, source: RowsCache, place: int) -> None:
        """Copies a row of a cache whose rows are no longer than these."""
        for mine, given in zip(self.layers, source.layers, strict=True):
            for stored, other in zip(mine.stored, given.stored, strict=True):
                stored[row, : other.shape[1]] = other[place]

    def widened(self, rows: int) -> RowsCache:
        """The same rows, with memory for more after them."""
        stored = []
        for pair in self.stored():
            keys, values = (one.new_zeros((rows, *one.shape[1:])) for one in pair)
            keys[: len(pair[0])], values[: len(pair[1])] = pair
            stored.append((keys, values))
        return RowsCache(stored)

    def taken(self, places: list[int]) -> RowsCache:
        """Copies of the rows at these places."""
        return RowsCache([(keys[places], values[places]) for keys, values in self.stored()])

    def stored(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """By layer, keys and values, (R, K, H, d) each."""
        return [layer.stored for layer in self.layers]
