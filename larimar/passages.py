"""Passages: the sentences of a text, each with its place in the document. Pure.

Offsets and lengths are in characters (Unicode code points) of the text as it was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from larimar.errors import InvalidArgument
from larimar.sentences import sentences

PASSAGE_WORDS = 32
"""Most words of a passage where nobody says: most sentences are shorter."""
MAX_PASSAGE_WORDS = 512
"""Most that may be asked for; far past any encoder's limit, which cuts a passage anyway."""
PIECE_CHARS = 1 << 14
"""Characters of a long document that a client sends at a time: 100 to 200 passages, seconds."""
MAX_WORD = 64
"""Characters after which an unbroken word counts as the next one: it bounds a passage's length."""
MAX_DOCUMENT_NAME = 120
"""Longest name of a document: with an offset it is a fact id, which is a key in the store."""
OFFSET_DIGITS = 12
"""Digits of an offset in a passage's id: equal lengths sort by offset."""
MAX_OFFSET = 10**OFFSET_DIGITS - 1

_WORD = re.compile(rf"\S{{1,{MAX_WORD}}}")
DOCUMENT_NAME = rf"[A-Za-z0-9._-]{{1,{MAX_DOCUMENT_NAME}}}"
"""What a document may be called, as a regular expression."""
_PASSAGE_ID = re.compile(rf"({DOCUMENT_NAME})#([0-9]{{{OFFSET_DIGITS}}})")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a text, without the white space around it."""

    offset: int
    text: str

    @property
    def length(self) -> int:
        """In characters."""
        return len(self.text)


def check_document(name: str) -> str:
    """The name of a document, if its passages can be named after it. Raises: InvalidArgument."""
    if not re.fullmatch(DOCUMENT_NAME, name):
        raise InvalidArgument(
            f"{name[:80]!r} is no document name: use 1 to {MAX_DOCUMENT_NAME} letters, digits, "
            "dots, dashes and underscores",
            "BAD_DOCUMENT",
        )
    return name


def document_name(text: str) -> str:
    """A document's name from any text, a file's name say: what may not be in it becomes `_`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:MAX_DOCUMENT_NAME] or "_"


def passage_prefix(document: str) -> str:
    """What the ids of a document's passages begin with."""
    return f"{document}#"


def passage_id(document: str, offset: int) -> str:
    """The fact id of a document's passage; ids of one document sort by offset.

    Raises:
        InvalidArgument: a bad name, or an offset that is negative or past 10^12.
    """
    check_document(document)
    if not 0 <= offset <= MAX_OFFSET:
        raise InvalidArgument(f"offset is {offset}, it must be 0 to {MAX_OFFSET}", "BAD_OFFSET")
    return f"{passage_prefix(document)}{offset:0{OFFSET_DIGITS}d}"


def parse_passage_id(fact_id: str) -> tuple[str, int] | None:
    """Document and offset of a passage's fact id; None for any other fact's."""
    found = _PASSAGE_ID.fullmatch(fact_id)
    return (found[1], int(found[2])) if found else None


def split_passages(text: str, most_words: int = PASSAGE_WORDS) -> list[Passage]:
    """The text as passages, a sentence each, in order.

    `text[p.offset : p.offset + p.length]` is `p.text`; only white space lies between passages. A
    sentence of more than `most_words` words is cut between words into parts of about one length,
    and a word only after 64 characters. Two sentences in one passage would hide what the first
    says (decision 32).

    Raises:
        InvalidArgument: `most_words` is not 1 to 512.

    Cost: O(length of the text).
    """
    if not 1 <= most_words <= MAX_PASSAGE_WORDS:
        raise InvalidArgument(
            f"a passage has 1 to {MAX_PASSAGE_WORDS} words, not {most_words}", "BAD_PASSAGE_WORDS"
        )
    passages: list[Passage] = []
    for low, high in sentences(text):
        spans = [match.span() for match in _WORD.finditer(text, low, high)]
        count = -(-len(spans) // most_words)
        cuts = [place * len(spans) // count for place in range(count + 1)]
        for first, last in pairwise(cuts):
            start = spans[first][0]
            passages.append(Passage(start, text[start : spans[last - 1][1]]))
    return passages


def stated(text: str) -> tuple[str, str]:
    """What a passage is about, and what it says of it: its last third, by words.

    Its value is that of a fact with this prompt and answer. The second is empty for a single word.
    """
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    if len(spans) < 2:
        return text, ""
    begin, _ = spans[len(spans) - max(1, len(spans) // 3)]
    return text[:begin].rstrip(), text[begin:]


def halves(passage: Passage) -> tuple[Passage, Passage]:
    """A passage in two: between the words nearest its middle, or within a single word.

    Raises:
        InvalidArgument: it is one character long.
    """
    text, middle = passage.text, len(passage.text) // 2
    if not middle:
        raise InvalidArgument("a single character cannot be cut in two", "TEXT_TOO_LONG")
    gaps = [match.span() for match in re.finditer(r"\s+", text)]
    low, high = min(gaps, key=lambda gap: abs(gap[0] - middle), default=(middle, middle))
    return Passage(passage.offset, text[:low]), Passage(passage.offset + high, text[high:])


def pieces(text: str, most_chars: int) -> Iterator[Passage]:
    """The text in consecutive pieces of at most `most_chars` characters, cut at sentence ends.

    Every character is in exactly one piece. A longer sentence is cut wherever the limit falls.
    """
    start = end = 0
    for _, high in [*sentences(text), (0, len(text))]:
        if high - start > most_chars and end > start:
            yield Passage(start, text[start:end])
            start = end
        while high - start > most_chars:
            yield Passage(start, text[start : start + most_chars])
            start += most_chars
        end = high
    if end > start:
        yield Passage(start, text[start:end])
