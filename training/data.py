"""Text to training rows: sentences from compressed shards, cut into prompt and answer.

Nothing here knows of any evaluation set: prompts and answers are cut out of generic
sentences, and the ways in which a prompt is changed are word operations.
"""

from __future__ import annotations

import dataclasses
import itertools
import lzma
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

SENTENCE_WORDS = (5, 40)
"""Words of a training sentence, from and to."""
SENTENCE_TOKENS = 56
"""Longest training sentence in tokens; longer ones are left out."""
_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9\"'(])")


def read_lines(paths: Sequence[Path]) -> Iterator[str]:
    """Lines of text files, plain or .xz, streamed."""
    for path in paths:
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            yield from file


def sentences(lines: Iterator[str]) -> Iterator[str]:
    """Sentences of SENTENCE_WORDS words; lines without a full stop are titles and left out."""
    low, high = SENTENCE_WORDS
    for line in lines:
        line = line.strip()
        if not line or line[-1] not in ".!?\"')":
            continue
        for sentence in _BOUNDARY.split(line):
            if low <= sentence.count(" ") + 1 <= high:
                yield sentence


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Tokenized sentences in flat arrays.

    Attributes:
        ids: token ids of all sentences, one after the other.
        starts_word: whether a token begins a word.
        capitalised: whether a token begins a word with a capital letter.
        offsets: where each sentence begins; one more than there are sentences.
    """

    ids: np.ndarray
    starts_word: np.ndarray
    capitalised: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> np.ndarray:
        """Tokens of each sentence."""
        return np.diff(self.offsets)


def prepare(paths: Sequence[Path], tokenizer, limit: int, report=lambda done: None) -> Sentences:
    """Reads and tokenizes up to `limit` sentences."""
    ids, words, capitals, offsets = [], [], [], [0]
    batch: list[str] = []
    total = 0

    def flush() -> None:
        nonlocal total
        encoded = tokenizer(batch, add_special_tokens=False, return_offsets_mapping=True)
        for sentence, row, spans in zip(
            batch, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            if not 5 <= len(row) <= SENTENCE_TOKENS:
                continue
            begins = [low == 0 or sentence[low - 1] == " " for low, _ in spans]
            ids.append(np.array(row, np.int32))
            words.append(np.array(begins))
            capitals.append(
                np.array([b and sentence[low].isupper() for b, (low, _) in zip(begins, spans)])
            )
            total += len(row)
            offsets.append(total)
        batch.clear()
        report(len(ids))

    for sentence in sentences(read_lines(paths)):
        batch.append(sentence)
        if len(batch) == 2048:
            flush()
            if len(ids) >= limit:
                break
    if batch:
        flush()
    return Sentences(
        np.concatenate(ids), np.concatenate(words), np.concatenate(capitals), np.array(offsets)
    )


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch.

    Attributes:
        prompt, answer: token ids of what is stored; the answer may be empty.
        query: token ids that the decoder is given first.
        target: token ids that it must say next; the end token follows.
        learn_query: whether the query's own tokens are learned too.
    """

    prompt: list[int]
    answer: list[int]
    query: list[int]
    target: list[int]
    learn_query: bool


class RowMaker:
    """Cuts sentences into rows of three kinds: copy, answer and plain.

    copy: the decoder repeats the stored text, from a query that is often corrupted.
    answer: the decoder says the stored answer after a prompt that was cut, shuffled,
    thinned or mixed with foreign words.
    """

    def __init__(
        self, data: Sentences, vocabulary: int, first_word_id: int, rephrase: bool
    ) -> None:
        self.data = data
        self.vocabulary = vocabulary
        self.first_word_id = first_word_id
        self.rephrase = rephrase

    def copy(self, rng: np.random.Generator, index: int) -> Row:
        """A row whose target is the whole stored text."""
        ids, begins, _ = self._sentence(index)
        cut = len(ids)
        if rng.random() < 0.5:
            inner = np.flatnonzero(begins[1:]) + 1
            cut = int(rng.choice(inner)) if len(inner) else len(ids)
        query = ids.copy()
        if rng.random() < 0.5:
            query = self._corrupt(rng, query, 0.3)
        return Row(ids[:cut].tolist(), ids[cut:].tolist(), query.tolist(), ids.tolist(), True)

    def answer(self, rng: np.random.Generator, index: int) -> Row:
        """A row whose target is the stored answer, after a prompt that may be another one."""
        ids, begins, capitals = self._sentence(index)
        starts = np.flatnonzero(begins)
        names = [s for s in np.flatnonzero(capitals) if s >= 2]
        if names and rng.random() < 0.6:
            start = int(rng.choice(names))
            stop = start + 1
            while stop < len(ids) and (not begins[stop] or capitals[stop]) and stop - start < 8:
                stop += 1
        else:
            candidates = [s for s in starts if s >= 3] or [len(ids) - 1]
            start = int(rng.choice(candidates))
            following = starts[starts > start]
            words = int(rng.integers(1, 4))
            stop = int(following[words - 1]) if len(following) >= words else len(ids)
        low = max(0, start - int(rng.integers(6, 28)))
        low = (
            int(starts[starts >= low][0])
            if (starts[(starts >= low) & (starts < start)]).size
            else low
        )
        prompt, answer = ids[low:start], ids[start:stop]
        return Row(
            prompt.tolist(),
            answer.tolist(),
            self._other_prompt(rng, prompt, begins[low:start]).tolist(),
            answer.tolist(),
            False,
        )

    def _sentence(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        low, high = self.data.offsets[index], self.data.offsets[index + 1]
        return (
            self.data.ids[low:high],
            self.data.starts_word[low:high],
            self.data.capitalised[low:high],
        )

    def _corrupt(self, rng: np.random.Generator, ids: np.ndarray, share: float) -> np.ndarray:
        noise = rng.integers(self.first_word_id, self.vocabulary, len(ids))
        return np.where(rng.random(len(ids)) < share, noise, ids)

    def _foreign(self, rng: np.random.Generator, longest: int) -> np.ndarray:
        ids, _, _ = self._sentence(int(rng.integers(len(self.data))))
        tokens = int(rng.integers(1, longest + 1))
        low = int(rng.integers(0, max(1, len(ids) - tokens)))
        return ids[low : low + tokens]

    def _other_prompt(
        self, rng: np.random.Generator, prompt: np.ndarray, begins: np.ndarray
    ) -> np.ndarray:
        kind = rng.random()
        if kind < 0.25 or not self.rephrase:
            return prompt
        if kind < 0.40:
            return self._corrupt(rng, prompt, 0.3)
        edges = [*np.flatnonzero(begins), len(prompt)]
        words = [prompt[a:b] for a, b in itertools.pairwise(edges)]
        words = words or [prompt]
        kept = [word for word in words if rng.random() >= rng.uniform(0.0, 0.6)] or words[:1]
        if rng.random() < 0.6 and len(kept) > 1:
            cut = int(rng.integers(1, len(kept)))
            kept = kept[cut:] + kept[:cut]
            if rng.random() < 0.3:
                kept = [kept[i] for i in rng.permutation(len(kept))]
        for _ in range(int(rng.integers(0, 4))):
            kept.insert(int(rng.integers(0, len(kept) + 1)), self._foreign(rng, 2))
        if rng.random() < 0.25:
            kept.insert(0, self._foreign(rng, 16))
        return np.concatenate(kept)
