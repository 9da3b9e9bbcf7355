"""Text of a corpus folder, streamed from compressed shards: lines and sentences.

A corpus folder holds train_*.txt or train_*.txt.xz and val.txt: documents separated by an
empty line, the first line of each its title, then a paragraph a line.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from larimar.errors import InvalidArgument, NotFound

SENTENCE_WORDS = (5, 40)
"""Words of a training sentence, from and to."""
SENTENCE_CHARACTERS = 250
"""Longest training sentence: about 56 tokens; longer ones are left out."""
COMMON_WORDS = 20_000
"""Most frequent words that stand in for others where a prompt is spoilt."""
_COUNTED_SENTENCES = 100_000
_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9\"'(])")


def training_shards(corpus: Path) -> list[Path]:
    """The training shards of a corpus folder.

    Raises:
        NotFound: there is none.
    """
    found = sorted(corpus.glob("train_*.txt")) + sorted(corpus.glob("train_*.txt.xz"))
    if not found:
        raise NotFound(
            f"no train_*.txt or train_*.txt.xz in {corpus}: give --corpus a folder that has them"
        )
    return found


def validation_file(corpus: Path) -> Path:
    """The held-out text of a corpus folder.

    Raises:
        NotFound: there is none.
    """
    path = corpus / "val.txt"
    if not path.is_file():
        raise NotFound(f"no val.txt in {corpus}: put held-out text there")
    return path


def read_lines(paths: Iterable[Path]) -> Iterator[str]:
    """Lines of text files, plain or .xz, streamed."""
    for path in paths:
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            yield from file


def json_records(path: Path) -> Iterator[Any]:
    """The elements of a file that is a JSON list, or holds one JSON value a line.

    Raises:
        InvalidArgument: it is neither; the message names the record.
    """
    number = 0
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("["):
            yield from json.loads(text)
            return
        for line in text.split("\n"):
            if line.strip():
                number += 1
                yield json.loads(line)
    except (OSError, ValueError) as error:
        where = f"{path}, record {number}," if number else path
        raise InvalidArgument(f"{where} is not JSON: {error}") from error


def sentences(lines: Iterable[str]) -> Iterator[str]:
    """Sentences of SENTENCE_WORDS words; lines without a full stop are titles and left out."""
    low, high = SENTENCE_WORDS
    for line in lines:
        line = line.strip()
        if not line or line[-1] not in ".!?\"')":
            continue
        for sentence in _BOUNDARY.split(line):
            words = sentence.split()
            if low <= len(words) <= high and len(sentence) <= SENTENCE_CHARACTERS:
                yield " ".join(words)


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Sentences of a corpus, and its frequent words."""

    texts: list[str]
    common_words: list[str]

    @classmethod
    def read(cls, paths: Sequence[Path], limit: int) -> Sentences:
        """Reads up to `limit` sentences; 0 reads all.

        Raises:
            NotFound: the files hold none.
        """
        texts = []
        for text in sentences(read_lines(paths)):
            texts.append(text)
            if len(texts) == limit:
                break
        if not texts:
            raise NotFound(f"no sentence of {SENTENCE_WORDS} words in {[str(p) for p in paths]}")
        return cls(texts, frequent_words(texts))

    def __len__(self) -> int:
        return len(self.texts)

    def lengths(self) -> np.ndarray:
        """Characters of each sentence."""
        return np.array([len(text) for text in self.texts])


def frequent_words(texts: Sequence[str]) -> list[str]:
    """The COMMON_WORDS most frequent words of the first texts, the most frequent first."""
    counts: Counter[str] = Counter()
    for text in texts[:_COUNTED_SENTENCES]:
        counts.update(text.split())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, _ in ranked[:COMMON_WORDS]]
