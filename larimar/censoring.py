"""A censor that names no fact, where a live fact of another id has its prompt.

Both would be found at the same place, and a read would weigh the secret beside what hides it.
"""

from __future__ import annotations

from collections.abc import Iterable

from larimar.errors import FailedPrecondition

SAME_TEXT = 0.999
"""Cosine from which a written prompt may be a text itself: other machines round its embedding
otherwise, by far less. The texts decide."""


def is_among(prompt: str, texts: Iterable[str]) -> bool:
    """Whether a prompt is one of these, letter for letter; as in its fact id, the blanks around it
    do not count."""
    return prompt.strip() in (text.strip() for text in texts)


def fact_has_id(fact_id: str) -> FailedPrecondition:
    """The error of a censor without a fact id, of a prompt that is one of this live fact's."""
    return FailedPrecondition(
        f"the live fact {fact_id!r} has this prompt, and its answer would still be read: censor "
        f"it with fact_id={fact_id!r}, or forget it",
        "FACT_HAS_ID",
    )
