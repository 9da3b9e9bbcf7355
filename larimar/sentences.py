"""Where sentences end: the library `sentencex`, which knows abbreviations. Pure, and no download.

Places are in characters (Unicode code points) of the text as it was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from sentencex import get_sentence_boundaries

LANGUAGE = "en"
"""Whose abbreviations are known; full stops of other scripts end a sentence all the same."""
_BLANK_LINE = re.compile(r"\n[^\S\n]*(?=\n)")


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each sentence: white space before it included, none after it.

    A full stop ends none after a title, an initial or an abbreviation, or within a number. A
    blank line always does.

    Cost: linear in the text, 3 microseconds for a query.
    """
    start = 0
    blank_lines = (match.start() for match in _BLANK_LINE.finditer(text))
    for low, high in pairwise((0, *blank_lines, len(text))):
        for found in get_sentence_boundaries(LANGUAGE, text[low:high]):
            end = start + len(text[start : low + found["end_index"]].rstrip())
            if text[start:end].strip():
                yield start, end
                start = end
