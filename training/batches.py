"""Rows of text as token ids of a step, with the weight of every token, in parts.

A step's rows are the same however many parts they are computed in: a token's weight
comes from the counts of the whole batch, so the parts' losses add up to the whole's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from larimar.errors import InvalidArgument
from training.rows import Row

Stored = tuple[list[int], int]
"""Ids of a text with its special tokens, and the index of the first answer token, or the end."""


@dataclasses.dataclass(frozen=True)
class Markers:
    """The special tokens around a text."""

    start_id: int | None
    stop_id: int
    pad_id: int

    @classmethod
    def of(cls, tokenizer: Any) -> Markers:
        """The tokenizer's own: [CLS] and [SEP], else the begin and end tokens."""
        start, stop = tokenizer.cls_token_id, tokenizer.sep_token_id
        start = tokenizer.bos_token_id if start is None else start
        stop = tokenizer.eos_token_id if stop is None else stop
        if stop is None:
            raise InvalidArgument("the tokenizer has no end token: add one before training")
        pad = tokenizer.pad_token_id
        return cls(start, stop, stop if pad is None else pad)

    def begun(self, ids: list[int]) -> list[int]:
        """The ids after the start token, where there is one."""
        return ids if self.start_id is None else [self.start_id, *ids]


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One row of the decoder.

    Attributes:
        ids: what it is given.
        labels: what it must say at the last len(labels) of these places.
        weight: weight of each label; the weights of a term add up to 1.
    """

    ids: list[int]
    labels: list[int]
    weight: float


@dataclasses.dataclass(frozen=True)
class Batch:
    """The tokenized rows of a step, or of a part of one.

    Attributes:
        stored: what is encoded, rows that are read from a memory first.
        prompts: the prompts alone of the rows that are read, whole episodes.
        decoded: what is decoded from the latents of `stored`.
        blocks: running text, int64 (rows, length + 1).
        share: share of the step that this is.
        first_episode: number of the step's first episode that is here.
    """

    stored: Sequence[Stored]
    prompts: Sequence[Stored]
    decoded: Sequence[Decoded]
    blocks: np.ndarray
    share: float = 1.0
    first_episode: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that are learned."""
        return sum(len(row.labels) for row in self.decoded) + self.blocks[:, 1:].size

    def part(self, index: int, parts: int, episode: int) -> Batch:
        """One of equal parts, in whole episodes.

        Raises:
            InvalidArgument: the rows cannot be parted so.
        """
        read = len(self.prompts)
        counts = (read // episode, len(self.stored) - read, len(self.blocks))
        if any(count % parts for count in counts):
            raise InvalidArgument(
                f"a step of {counts[0]} episodes, {counts[1]} direct rows and {counts[2]} blocks "
                f"does not fall into {parts} equal parts: change --workers or --accumulate"
            )
        mine = _slice(0, read, index, parts)
        direct = _slice(read, len(self.stored), index, parts)
        return Batch(
            [*self.stored[mine], *self.stored[direct]],
            self.prompts[mine],
            [*self.decoded[mine], *self.decoded[direct]],
            self.blocks[_slice(0, len(self.blocks), index, parts)],
            self.share / parts,
            self.first_episode + mine.start // episode,
        )


class RowTokenizer:
    """Tokenizes rows: what is stored for the encoder, what is said for the decoder."""

    def __init__(self, encoder_tokenizer: Any, decoder_tokenizer: Any) -> None:
        self.encoder_tokenizer = encoder_tokenizer
        self.decoder_tokenizer = decoder_tokenizer
        self.encoder = Markers.of(encoder_tokenizer)
        self.decoder = Markers.of(decoder_tokenizer)

    def batch(self, read: Sequence[Row], direct: Sequence[Row], blocks: np.ndarray) -> Batch:
        """The batch of a step."""
        rows = [*read, *direct]
        prompts = _ids(self.encoder_tokenizer, [row.prompt for row in rows])
        answers = _ids(self.encoder_tokenizer, [_led(row.answer) for row in rows])
        decoded = self._decoded(rows)
        weights = [*_weights(rows[: len(read)], decoded), *_weights(direct, decoded[len(read) :])]
        return Batch(
            [self._stored(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)],
            [self._stored(prompt, []) for prompt in prompts[: len(read)]],
            [Decoded(ids, labels, w) for (ids, labels), w in zip(decoded, weights, strict=True)],
            blocks,
        )

    def _stored(self, prompt: list[int], answer: list[int]) -> Stored:
        ids = [*self.encoder.begun([*prompt, *answer]), self.encoder.stop_id]
        end = len(ids) - 1
        return ids, end - len(answer)

    def _decoded(self, rows: Sequence[Row]) -> list[tuple[list[int], list[int]]]:
        answered = [row for row in rows if not row.learn_query]
        queries = iter(_ids(self.decoder_tokenizer, [row.query for row in answered]))
        targets = iter(_ids(self.decoder_tokenizer, [_led(row.target) for row in answered]))
        copied = iter(self._copied([row for row in rows if row.learn_query]))
        found = []
        for row in rows:
            if row.learn_query:
                given, target = next(copied)
                ids = self.decoder.begun(given)
                labels = [*target, self.decoder.stop_id]
                labels = labels[len(labels) - len(ids) :]
            else:
                target = next(targets)
                ids = [*self.decoder.begun(next(queries)), *target]
                labels = [*target, self.decoder.stop_id]
            found.append((ids, labels))
        return found

    def _copied(self, rows: Sequence[Row]) -> list[tuple[list[int], list[int]]]:
        """Ids that are given and ids that are learned, of one length, for each row.

        A word of the query that is another than the target's is cut or repeated to as
        many tokens as the target's word has.
        """
        if not rows:
            return []
        encoded = self.decoder_tokenizer(
            [row.target for row in rows], add_special_tokens=False, return_offsets_mapping=True
        )
        spoilt = [
            [
                (place, _led(given) if place else given)
                for place, (given, said) in enumerate(
                    zip(row.query.split(), row.target.split(), strict=True)
                )
                if given != said
            ]
            for row in rows
        ]
        noise = iter(_ids(self.decoder_tokenizer, [word for _, word in chain(*spoilt)]))
        found = []
        for row, places, ids, spans in zip(
            rows, spoilt, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            blanks = np.cumsum([letter == " " for letter in row.target])
            word_of = [int(blanks[high - 1]) for _, high in spans]
            given = list(ids)
            for place, _ in places:
                other = next(noise)
                at = [k for k, word in enumerate(word_of) if word == place]
                for count, k in enumerate(at if other else []):
                    given[k] = other[count % len(other)]
            found.append((given, list(ids)))
        return found


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def _led(text: str) -> str:
    """The text as it follows another: byte-level tokens begin with their blank."""
    return " " + text if text else ""


def _weights(rows: Sequence[Row], decoded: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Weights of a term's tokens: copy rows and answer rows are half of it each."""
    counts = {True: 0, False: 0}
    for row, (_, labels) in zip(rows, decoded):
        counts[row.learn_query] += len(labels)
    return [0.5 / counts[row.learn_query] for row in rows]


def _slice(low: int, high: int, index: int, parts: int) -> slice:
    size = (high - low) // parts
    return slice(low + index * size, low + (index + 1) * size)
