"""Guesses at the tokens that come next: what followed the same ones before in the row's own text.

A row alone is read as two rows anyway (larimar/packing.py), so that one guess costs nothing. What
a guess changes is how many tokens a step makes, never which. No guess is kept for another
row: how long a text takes tells nothing of what anybody else asked.

Source: speculative decoding of Leviathan et al. (arXiv 2211.17192) with the drafts of
Saxena's prompt lookup decoding (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

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
