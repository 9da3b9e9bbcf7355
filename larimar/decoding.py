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

from larimar.cache import RowsCache, positions_for
from larimar.drafts import DraftPasses, Drafts
from larimar.lean import LeanSteps, Pass
from larimar.packing import is_packed
from larimar.sampling import Chooser, Piece, Tail
from larimar.steady import MAX_ROWS, PROMPTS_TOGETHER, steady_prompt_counts

__all__ = ["MAX_ROWS", "Batch", "Reads", "Row", "fill_slots", "read"]

if TYPE_CHECKING:
    from larimar.decoder import DecoderNetwork

LEAST_PROMPT_TOKENS = 8
"""Tokens of the shortest pass over a prompt."""


@dataclasses.dataclass(eq=False)
class Row:
    """A prompt and what is said after it.

    Attributes:
        z_1C: the latent, or None for the plain decoder.
        used: positions of its cache that are filled, slots included.
        chosen: tokens chosen so far, the end among them.
        error: what ended it before its text did.
    """

    prompt_ids: list[int]
    z_1C: torch.Tensor | None
    chooser: Chooser
    tail: Tail
    used: int = 0
    slots: int = 0
    chosen: int = 0
    added_11E: torch.Tensor | None = None
    error: Exception | None = None
    drafts: Drafts | None = None

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

    def follow(self, logits_QV: torch.Tensor, likeliest: list[int], draft: list[int]) -> None:
        """Adds its next token, and those after it as long as the draft has what was chosen.

        Args:
            logits_QV: of the next token, and of the token after each of the draft's.
            likeliest: the largest logit of each.
        """
        right = 0
        for place, logits_V in enumerate(logits_QV):
            self._choose(logits_V, likeliest[place])
            if self.finished or draft[place : place + 1] != [self.next_id]:
                break
            right += 1
        if self.drafts is not None and draft:
            self.drafts.learn(len(draft), right)

    def draft(self, passes: DraftPasses, positions: int) -> tuple[list[int], int]:
        """A guess at the tokens after the next one that it reads, and R of the pass that reads
        them; nothing and 0 where there is none."""
        if self.drafts is None:
            self.drafts = Drafts()
        self.drafts.read(self.prompt_ids, self.tail.ids)
        guess = self.drafts.guess(min(passes.longest(self.drafts.level), self.tail.room - 1))
        count = passes.rows(positions, positions - self.used, len(guess)) if guess else 0
        return (guess[: count - 1], count) if count else ([], 0)

    def _choose(self, logits_V: torch.Tensor, likeliest: int) -> None:
        """Adds a token; what goes wrong in that ends this row, and none beside it."""
        self.used += 1
        self.chosen += 1
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

    def __init__(
        self,
        steps: LeanSteps,
        positions: int,
        row_counts: tuple[int, ...],
        drafts: DraftPasses | None,
    ) -> None:
        network = steps.network
        self.positions = positions
        self.rows: list[Row] = []
        self._steps = steps
        self.cache = network.rows_cache(row_counts[0], positions)
        self._network = network
        self._row_counts = row_counts
        self._drafts = drafts
        self._views: dict[int, RowsCache] = {}
        self._shared: dict[int, RowsCache] = {}

    def place(self, row: Row) -> int:
        """Makes room for a row after the others: its place in the cache, which holds zeros.

        What a former row left there would be masked, but a NaN is one behind any mask.
        """
        self.rows.append(row)
        place = len(self.rows) - 1
        if place < self.cache.row_count:
            self.cache.clear_row(place)
        else:
            self.cache = self.cache.widened(self._count(len(self.rows)))
            self._views, self._shared = {}, {}
        return place

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

    def step(self) -> tuple[torch.Tensor, list[int]]:
        """Logits of each row's next token, (R, V); of a row alone that is read with a draft, of
        its next token and of the one after each of the draft's, and the draft."""
        if len(self.rows) == 1 and self._drafts is not None:
            draft, count = self.rows[0].draft(self._drafts, self.positions)
            if draft:
                return self._drafted(self.rows[0], draft, count), draft
        count = self._count(len(self.rows))
        filled = self.rows + self.rows[:1] * (count - len(self.rows))
        if count not in self._views:
            self._views[count] = self.cache_of(0, count)
        ids = [[row.next_id] for row in filled]
        logits_R1V = self._steps.logits(_pass(self._network, filled, ids, self._views[count]))
        return logits_R1V[: len(self.rows), -1], []

    def _drafted(self, row: Row, draft: list[int], count: int) -> torch.Tensor:
        """Logits, (1 + tokens of the draft, V), of a row whose tokens are rows of one pass."""
        if count not in self._shared:
            self._shared[count] = self.cache.shared(0, count)
        ids = [row.next_id, *draft]
        one = _pass(self._network, [row], [ids], self._shared[count], count)
        tokens = dataclasses.replace(
            one,
            ids_RQ=one.ids_RQ.T,
            positions_RQ=one.positions_RQ.T,
            visible_RQK=one.visible_RQK.transpose(0, 1),
        )
        return self._steps.logits(tokens)[: len(ids), -1]

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


def _pass(
    network: DecoderNetwork,
    rows: list[Row],
    ids: list[list[int]],
    cache: RowsCache,
    width: int = 0,
) -> Pass:
    width = width or padded(len(ids[0]), cache.positions - rows[0].used)
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

    Cost: a step is a pass for each cache length of its rows: of one token a row, or of a draft
    where a row is the only one of its length. Rows that join add passes over their prompts.
    """

    def __init__(
        self,
        steps: LeanSteps,
        row_counts: tuple[int, ...],
        reads: Reads,
        drafts: DraftPasses | None,
    ) -> None:
        self._steps = steps
        self._network = steps.network
        self._row_counts = row_counts
        self._reads = reads
        self._drafts = drafts
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
        """A token or more for every row: the rows, of which those that ended have left."""
        self._join()
        stepped = []
        for lane in list(self._lanes.values()):
            logits_NV, draft = lane.step()
            for place, row in enumerate(lane.rows):
                if row.must_speak:
                    logits_NV[place, row.tail.stop_id] = -torch.inf
            likeliest = logits_NV.argmax(-1).tolist()
            each = 1 + len(draft)
            for place, row in enumerate(lane.rows):
                its = slice(place * each, (place + 1) * each)
                row.follow(logits_NV[its], likeliest[its], draft)
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
            self._lanes[positions] = Lane(self._steps, positions, self._row_counts, self._drafts)
        return self._lanes[positions]
