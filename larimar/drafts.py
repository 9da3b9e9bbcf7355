"""Guesses at the tokens that come next: what followed the same ones before in the row's own text.

A row alone is read as two rows anyway (larimar/packing.py), so that one guess costs nothing. What
a guess changes is how many tokens a step makes, never which. No guess is kept for another
row: how long a text takes tells nothing of what anybody else asked.

Shapes: R rows of a pass, K positions of a row's cache.

Source: speculative decoding of Leviathan et al. (arXiv 2211.17192) with the drafts of
Saxena's prompt lookup decoding (2023).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from larimar.steady import steady_draft_counts

if TYPE_CHECKING:
    from larimar.decoder import DecoderNetwork

log = logging.getLogger(__name__)

MOST_DRAFTED = 8
"""R of a pass over a draft, where a pass may have fewer rows than MAX_ROWS."""
LONGEST = 3
"""Tokens that are looked up at most; a longer run that occurred before is the better guess."""


class Drafts:
    """Where each run of one to LONGEST tokens of a text occurred last, and how guesses fared.

    Attributes:
        level: how often in a row a whole draft was right: longer ones pay then.
    """

    def __init__(self) -> None:
        self.level = 0
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def read(self, prompt_ids: Sequence[int], said_ids: Sequence[int]) -> None:
        """Takes in what a text has more than when it was read last.

        Cost: O(new tokens).
        """
        known = len(self._ids)
        new = prompt_ids[known:] if known < len(prompt_ids) else ()
        for token in (*new, *said_ids[max(0, known - len(prompt_ids)) :]):
            place = len(self._ids)
            for length in range(1, min(LONGEST, place) + 1):
                self._after[tuple(self._ids[-length:])] = place
            self._ids.append(token)

    def guess(self, tokens: int) -> list[int]:
        """What followed the last occurrence of the text's end, so many tokens; nothing where its
        last token is new. A text that goes round in circles is continued so."""
        ids, found = self._ids, None
        for length in range(min(LONGEST, len(ids)), 0, -1):
            found = self._after.get(tuple(ids[-length:]))
            if found is not None:
                break
        if found is None or tokens < 1:
            return []
        draft = ids[found : found + tokens]
        while len(draft) < tokens:
            draft.append(draft[len(draft) - (len(ids) - found)])
        return draft

    def learn(self, draft_tokens: int, right: int) -> None:
        """How many of the last draft's tokens were right."""
        self.level = self.level + 1 if right == draft_tokens else 0


class DraftPasses:
    """With how many tokens of a draft a row may be read: those that leave it its own bits.

    Whether that is so is looked for when a draft first comes to a cache of a length.
    """

    def __init__(self, network: DecoderNetwork, row_counts: tuple[int, ...]) -> None:
        self._network = network
        self._alone = row_counts[0]
        few = tuple(count for count in row_counts if count <= MOST_DRAFTED)
        self._counts = few or row_counts[:1]
        self._steady: dict[int, tuple[int, ...]] = {}

    def longest(self, level: int) -> int:
        """Tokens of a draft: one more doubling for each draft that was right before it."""
        return self._counts[min(level, len(self._counts) - 1)] - 1

    def rows(self, positions: int, free: int, tokens: int) -> int:
        """R of the pass that reads so many tokens of a draft and the one before, or of the largest
        smaller one that may be; 0 where none may.

        Args:
            positions, free: K of the row, and how many are not filled.
        """
        most = next(count for count in self._counts if tokens < count)
        fitting = [one for one in self.steady(positions) if one <= min(most, free)]
        return max(fitting, default=0)

    def steady(self, positions: int) -> tuple[int, ...]:
        """R of the passes over drafts that may be, for a cache of K positions."""
        if positions not in self._steady:
            try:
                found = steady_draft_counts(self._network, positions, self._alone, self._counts)
            except RuntimeError:  # the look takes memory, and nothing may be lost for a guess
                log.warning("no drafts for caches of %d positions", positions, exc_info=True)
                found = ()
            self._steady[positions] = found
        return self._steady[positions]
