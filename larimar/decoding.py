"""Continuous batching: rows join a running batch between two steps, and leave when they end.

Shapes: R rows, Q tokens of a pass, K positions of a row, C value size, E decoder width,
V vocabulary.
A row's answer, to the bit, does not depend on the rows beside it, nor on when it joined:
its cache is laid out by itself, and passes take only numbers of rows for which this machine's
kernels round each row alike, prompts as if each were read alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from larimar.cache import LEAST_POSITIONS, RowsCache, positions_for
from larimar.lean import LeanSteps, Pass
from larimar.packing import is_packed
from larimar.sampling import Chooser, Piece, Tail

if TYPE_CHECKING:
    from larimar.decoder import DecoderNetwork

MAX_ROWS = 16
"""Rows of a step: more than a machine's matrix instructions take at once bring little."""
LEAST_PROMPT_TOKENS = 8
"""Tokens of the shortest pass over a prompt."""
PROMPTS_TOGETHER = (4, 2)
"""Prompts of one pass: of a 6-layer decoder four cost less than twice as much as one."""


@dataclasses.dataclass(eq=False)
class Row:
    """A prompt and what is said after it.

    Attributes:
        z_1C: the latent, or None for the plain decoder.
        used: positions of its cache that are filled, slots included.
        error: what ended it before its text did.
    """

    prompt_ids: list[int]
    z_1C: torch.Tensor | None
    chooser: Chooser
    tail: Tail
    used: int = 0
    slots: int = 0
    added_11E: torch.Tensor | None = None
    error: Exception | None = None

    @property
    def finished(self) -> bool:
        """Whether its text has ended, or an error has ended it."""
        return bool(self.tail.finish_reason) or self.error is not None

    @property
    def next_id(self) -> int:
        """The token that its next step reads."""
        return self.tail.ids[-1] if self.tail.ids else self.prompt_ids[-1]

    @property
    def must_speak(self) -> bool:
        """Whether its next token may not be the end: a fact's answer is never empty."""
        can_end = self.tail.stop_id is not None
        return can_end and self.z_1C is not None and not self.tail.ids

    def choose(self, logits_V: torch.Tensor, likeliest: int) -> None:
        """Adds its next token; what goes wrong in that ends this row, and none beside it."""
        try:
            greedy = self.chooser.greedy
            self.tail.push(likeliest if greedy else self.chooser.choose(logits_V.float().cpu()))
        except Exception as error:
            self.error = error

    def take(self) -> Piece:
        """What its text gained since the last piece was taken. Raises: what ended the row."""
        if self.error is not None:
            raise self.error
        return self.tail.take()


class Lane:
    """The rows of a batch whose caches have one length, K."""

    def __init__(self, steps: LeanSteps, positions: int, row_counts: tuple[int, ...]) -> None:
        network = steps.network
        self.positions = positions
        self.rows: list[Row] = []
        self._steps = steps
        self.cache = network.rows_cache(row_counts[0], positions)
        self._network = network
        self._row_counts = row_counts
        self._views: dict[int, RowsCache] = {}

    def place(self, row: Row) -> int:
        """Makes room for a row after the others: its place in the cache."""
        self.rows.append(row)
        if len(self.rows) > self.cache.row_count:
            self.cache = self.cache.widened(self._count(len(self.rows)))
            self._views = {}
        return len(self.rows) - 1

    def take_over(self, row: Row, lane: Lane) -> None:
        """Moves a row here from a lane of shorter rows."""
        place = self.place(row)
        self.cache.copy_row(place, lane.cache, lane.rows.index(row))
        lane.remove(row)

    def remove(self, row: Row) -> None:
        """Takes a row out; the last one moves into its place."""
        place, last = self.rows.index(row), len(self.rows) - 1
        if place != last:
            self.cache.copy_row(place, self.cache, last)
            self.rows[place] = self.rows[last]
        self.rows.pop()

    def join(self, rows: list[Row]) -> None:
        """Takes rows in that may be read together: each one's slots, and its prompt but for the
        last token."""
        places = [self.place(row) for row in rows]
        cache = self.cache_of(places[0], len(rows))
        for place, row in enumerate(rows):
            fill_slots(self._network, row, cache, place)
        ids = [row.prompt_ids[:-1] for row in rows]
        if ids[0]:
            read(self._network, rows, ids, cache)
        for row, one in zip(rows, ids, strict=True):
            row.used += len(one)

    def step(self) -> torch.Tensor:
        """Logits of each row's next token, (R, V)."""
        count = self._count(len(self.rows))
        filled = self.rows + self.rows[:1] * (count - len(self.rows))
        if count not in self._views:
            self._views[count] = self.cache_of(0, count)
        ids = [[row.next_id] for row in filled]
        logits_R1V = self._steps.logits(_pass(self._network, filled, ids, self._views[count]))
        for row in self.rows:
            row.used += 1
        return logits_R1V[: len(self.rows), -1]

    def cache_of(self, first: int, count: int) -> RowsCache:
        """The cache of some rows, over the same memory."""
        return self.cache.rows(first, count)

    def _count(self, rows: int) -> int:
        return next(count for count in self._row_counts if rows <= count)


def fill_slots(network: DecoderNetwork, row: Row, cache: RowsCache, place: int = 0) -> None:
    """Puts a row's latent, if it has one, at the beginning of its place in a cache."""
    if row.z_1C is not None:
        cache.put_slots(place, network.connector.cache(row.z_1C))
        row.slots = network.connector.layout.slots
        row.added_11E = network.connector.embedding(row.z_1C)
    row.used = row.slots


def read(
    network: DecoderNetwork, rows: list[Row], ids: list[list[int]], cache: RowsCache
) -> torch.Tensor:
    """Hidden states, (R, Q, E), of tokens that follow what each row's cache holds.

    Q is what `padded` says, of all rows the same; more than one token is padded at the end,
    where nothing is written that a later token would see.
    """
    return network.step(_pass(network, rows, ids, cache))


def padded(tokens: int, room: int) -> int:
    """Q of a pass over so many tokens: a power of two, or what the cache has room for."""
    if tokens < 2:
        return tokens
    return min(max(LEAST_PROMPT_TOKENS, 1 << (tokens - 1).bit_length()), room)


def _pass(network: DecoderNetwork, rows: list[Row], ids: list[list[int]], cache: RowsCache) -> Pass:
    width = padded(len(ids[0]), cache.positions - rows[0].used)
    ids_RQ = torch.tensor([one + one[-1:] * (width - len(one)) for one in ids])
    used_R1 = torch.tensor([[row.used] for row in rows])
    last_R1 = used_R1 + torch.tensor([[len(one) - 1] for one in ids])
    first = network.connector.layout.first_position
    before_R1 = torch.tensor([[first - row.slots if row.slots else 0] for row in rows])
    at_RQ = used_R1 + torch.arange(width)
    positions_RQ = torch.minimum(at_RQ, last_R1) + before_R1
    places_RQ = at_RQ + cache.positions * torch.arange(len(rows))[:, None]
    visible_RQK = torch.arange(cache.positions) <= at_RQ[:, :, None]
    device = network.device
    return Pass(
        ids_RQ.to(device),
        positions_RQ.to(device),
        visible_RQK.to(device),
        places_RQ.flatten().to(device),
        cache,
        _added(rows),
    )


def _added(rows: list[Row]) -> torch.Tensor | None:
    """What is added to the rows' embeddings, (R, 1, E): nothing, as zeros, to a plain one."""
    found = [row.added_11E for row in rows]
    like = next((one for one in found if one is not None), None)
    if like is None:
        return None
    return torch.cat([torch.zeros_like(like) if one is None else one for one in found])


class Reads:
    """Which prompts are read in one pass: those of one shape, as many as give each its own bits.

    Whether that is so is looked for when two prompts of a shape first come together.
    """

    def __init__(self, network: DecoderNetwork) -> None:
        self._network = network
        self._counts: dict[tuple[int, int], tuple[int, ...]] = {}

    def together(self, rows: list[Row]) -> list[tuple[int, list[Row]]]:
        """The rows by passes, with K of their caches."""
        shapes: dict[tuple[int, int], list[Row]] = {}
        for row in rows:
            slots = 0 if row.z_1C is None else self._network.connector.layout.slots
            positions = positions_for(len(row.prompt_ids) + slots)
            width = padded(len(row.prompt_ids) - 1, positions - slots)
            shapes.setdefault((positions, width), []).append(row)
        passes = []
        for (positions, width), alike in shapes.items():
            while alike:
                count = self._most(len(alike), positions, width)
                passes.append((positions, alike[:count]))
                alike = alike[count:]
        return passes

    def _most(self, rows: int, positions: int, width: int) -> int:
        if rows < min(PROMPTS_TOGETHER) or not is_packed(self._network.lm):
            return 1
        if (positions, width) not in self._counts:
            found = steady_prompt_counts(self._network, positions, width)
            self._counts[positions, width] = found
        return next((count for count in self._counts[positions, width] if count <= rows), 1)


class Batch:
    """Rows that decode together. Not thread-safe.

    Cost: a step is one pass of one token a row; rows that join add passes over their prompts.
    """

    def __init__(self, steps: LeanSteps, row_counts: tuple[int, ...], reads: Reads) -> None:
        self._steps = steps
        self._network = steps.network
        self._row_counts = row_counts
        self._reads = reads
        self._joining: list[Row] = []
        self._lanes: dict[int, Lane] = {}

    @property
    def rows(self) -> list[Row]:
        """Rows that have not ended, those that are about to join among them."""
        return [row for lane in self._lanes.values() for row in lane.rows] + self._joining

    @property
    def free(self) -> int:
        """Rows that may still be added."""
        return self._row_counts[-1] - len(self.rows)

    def add(self, row: Row) -> None:
        """Lets a row join at the next step; the caller sees that there is a free one."""
        self._joining.append(row)

    @torch.inference_mode()
    def drop(self, row: Row) -> None:
        """Takes a row out before its end; one that has ended is gone already."""
        if row in self._joining:
            self._joining.remove(row)
        for lane in self._lanes.values():
            if row in lane.rows:
                lane.remove(row)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One token for every row: the rows, of which those that ended have left."""
        self._join()
        stepped = []
        for lane in list(self._lanes.values()):
            logits_RV = lane.step()
            for place, row in enumerate(lane.rows):
                if row.must_speak:
                    logits_RV[place, row.tail.stop_id] = -torch.inf
            greedy = logits_RV.argmax(-1).tolist()
            for row, logits_V, likeliest in zip(list(lane.rows), logits_RV, greedy, strict=True):
                row.choose(logits_V, likeliest)
                stepped.append(row)
        for row in stepped:
            if row.finished:
                self.drop(row)
        return stepped

    def _join(self) -> None:
        for positions, lane in list(self._lanes.items()):
            for row in [row for row in lane.rows if row.used == positions]:
                self._lane(positions_for(positions + 1)).take_over(row, lane)
        joining, self._joining = self._joining, []
        for positions, rows in self._reads.together(joining):
            self._lane(positions).join(rows)
        self._lanes = {k: lane for k, lane in self._lanes.items() if lane.rows}

    def _lane(self, positions: int) -> Lane:
        if positions not in self._lanes:
            self._lanes[positions] = Lane(self._steps, positions, self._row_counts)
        return self._lanes[positions]


@torch.inference_mode()
def steady_row_counts(network: DecoderNetwork) -> tuple[int, ...]:
    """Numbers of rows of a step at which each row's hidden state and logits are the same bits.

    Looked for by steps of random rows, in other places and other company: what a kernel adds
    up in which order depends on shapes, not on the numbers. Where rows are not independent, or
    where the weights are not packed, every step has MAX_ROWS rows.
    """
    if not is_packed(network.lm):
        return (MAX_ROWS,)
    counts = [1 << bits for bits in range(1, MAX_ROWS.bit_length())]
    for positions in (LEAST_POSITIONS, 4 * LEAST_POSITIONS):
        cache = network.rows_cache(MAX_ROWS, positions)
        for layer in cache.layers:
            for stored in layer.stored:
                stored.normal_(generator=torch.Generator().manual_seed(len(stored)))
        wanted_RV = _probed(network, cache, list(range(MAX_ROWS)))
        backwards = list(range(MAX_ROWS - 1, -1, -1))
        counts = [
            count
            for count in counts
            if torch.equal(_probed(network, cache, backwards[:count]), wanted_RV[backwards[:count]])
        ]
    return tuple(counts) if MAX_ROWS in counts else (MAX_ROWS,)


def _probed(network: DecoderNetwork, cache: RowsCache, places: list[int]) -> torch.Tensor:
    """Logits, (R, V), of some of a cache's rows after a token of each, in a step of their own."""
    some = cache.taken(places)
    at_R1 = torch.tensor([[cache.positions // 2 + place] for place in places])
    places_R = at_R1[:, 0] + cache.positions * torch.arange(len(places))
    visible_R1K = (torch.arange(cache.positions) <= at_R1)[:, None]
    ids_R1 = torch.tensor([[place + 1] for place in places])
    positions_R1 = at_R1.clamp(max=network.positions - 1)
    hidden_R1E = network.step(Pass(ids_R1, positions_R1, visible_R1K, places_R, some))
    return network.logits(hidden_R1E)[:, -1]


@torch.inference_mode()
def steady_prompt_counts(network: DecoderNetwork, positions: int, width: int) -> tuple[int, ...]:
    """Those of PROMPTS_TOGETHER at which each prompt leaves the bits in its cache that it leaves
    when it is read alone.

    Looked for as `steady_row_counts` does. Cost: a pass for each of the most rows, and for each of
    the numbers.

    Args:
        positions: K of the rows' caches.
        width: Q of the passes.
    """
    if not width:
        return PROMPTS_TOGETHER
    drawn = torch.Generator().manual_seed(width)
    vocabulary = network.lm.get_input_embeddings().weight.shape[0]
    ids_RQ = torch.randint(vocabulary, (PROMPTS_TOGETHER[0], width), generator=drawn)
    alone = [_left_in_cache(network, ids_1Q[None], positions) for ids_1Q in ids_RQ]
    found = []
    for count in PROMPTS_TOGETHER:
        left = _left_in_cache(network, ids_RQ.flip(0)[:count], positions)
        wanted = [torch.cat(rows) for rows in zip(*alone[::-1][:count], strict=True)]
        if all(map(torch.equal, left, wanted)):
            found.append(count)
    return tuple(found)


def _left_in_cache(
    network: DecoderNetwork, ids_RQ: torch.Tensor, positions: int
) -> list[torch.Tensor]:
    """What a pass over whole prompts leaves: keys and values of every layer, (R, K, H, d)."""
    rows, width = ids_RQ.shape
    cache = network.rows_cache(rows, positions)
    at_RQ = torch.arange(width).expand(rows, -1)
    counted_RQ = at_RQ.clamp(max=network.positions - 1)
    places_RQ = at_RQ + positions * torch.arange(rows)[:, None]
    visible_RQK = torch.arange(positions) <= at_RQ[:, :, None]
    network.step(Pass(ids_RQ, counted_RQ, visible_RQK, places_RQ.flatten(), cache))
    return [one for pair in cache.stored() for one in pair]
