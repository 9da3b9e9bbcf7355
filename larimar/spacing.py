"""The blanks of decoded text, for tokenizers that forget where they were.

A WordPiece tokenizer splits at every mark and does not keep whether a blank stood there: it decodes
"the X-Files (1993)" as "the x - files ( 1993 )". `Spacing` closes the gaps that written English
does not have. Byte-level tokenizers keep their blanks; their texts it leaves as they are.

A text comes token by token, and what was said cannot be taken back. So a gap is closed by what
stands to its left and by one character to its right; where that does not decide, the end of the
text is `unsettled` until the word is whole.
"""

from __future__ import annotations

import re
from typing import Any

_PROBE, _FORGOTTEN = "a-b", "a - b"
_RULES = tuple(
    (re.compile(pattern), closed)
    for pattern, closed in (
        (r" ([)\]};:”…])", r"\1"),
        (r"(?<=\d) %", "%"),
        (r"([(\[{“$£€]) (?=[\w\"'])", r"\1"),
        (r" — ?", "—"),
        (r"(?<=\d) – (?=\d)", "–"),
        (r"(?<=\w) ([-/_'])", r"\1"),
        (r"(?<=\w)([-/_]) (?=\w)", r"\1"),
        (r"(?<=\w)' (?=(?:s|t|d|m|re|ve|ll)\b)", "'"),
        (r"(?<!\w)(\w{1,2})' (?=\w)", r"\1'"),  # O'Brien, d'Ivoire
        (r"(?<=\d), (?=\d{3}(?!\w))", ","),
        (r"(?<![\w.,])(\d{1,3})([.:]) (?=\d)", r"\1\2"),
        (r"(?<![\w'])([a-z])\. (?=[a-z]\.)", r"\1."),  # u.s., a.m.
    )
)
_UNSETTLED = re.compile(r"(?<=')\s?\w{1,2}$|(?<=\d,)\s?\d{1,3}$|(?<=\b[a-z]\.)\s?[a-z]$|\s–$")


class Spacing:
    """How a tokenizer's decoded texts are written.

    Args:
        tokenizer: of `transformers`; whether it forgets blanks is tried out on it.
    """

    def __init__(self, tokenizer: Any) -> None:
        ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
        self._forgets = tokenizer.decode(ids) == _FORGOTTEN

    def written(self, text: str, quotes: int = 0) -> str:
        """A decoded text with its gaps closed.

        Args:
            quotes: how many straight double quotes stand before it; after an odd number one is
                open.
        """
        if not self._forgets:
            return text
        for pattern, closed in _RULES:
            text = pattern.sub(closed, text)
        return _quoted(text, quotes) if '"' in text else text

    def unsettled(self, text: str) -> int:
        """How many characters at the end of a written text may yet be written otherwise."""
        found = _UNSETTLED.search(text) if self._forgets else None
        return len(text) - found.start() if found else 0


def _quoted(text: str, quotes: int) -> str:
    """No blank behind a quote that opens, and none before one that closes."""
    parts = text.split('"')
    for place in range(1, len(parts)):
        if (quotes + place) % 2:
            parts[place] = parts[place].removeprefix(" ")
        else:
            parts[place - 1] = parts[place - 1].removesuffix(" ")
    return '"'.join(parts)
