"""ISD: a small classifier decides whether a query and its nearest written prompt are one question.

Two prompts of one relation differ in the subject only, which a cosine hardly sees. So beside
the cosine of the two sentence embeddings this detector looks at the words: how much of either
text, weighed by how rare its words are, is found in the other; and the same for names alone,
words that are capitalised or hold a digit. A logistic regression weighs these features. It is
trained on made-up facts around generic text (`python -m training.scope`).

Nothing but the query and the written prompts is looked at, never an answer. Pure: the same
texts give the same bits, whatever else is asked or written.

F features. Source: Das et al., arXiv 2403.11901, section 4, internal scope detection. There a
classifier sees the encodings of the pair alone, which misses a changed subject (docs/scope.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from larimar.errors import InvalidArgument

FILE = "scope.safetensors"
"""The classifier's file in a model folder."""
FORMAT = "larimar-isd/1"
MOST_WEIGHT = 12.0
"""Largest weight of a word, in nats: a word once in 160,000 sentences, or one never seen."""
RARE = 6.0
"""Weight from which the first word of a text, always capitalised, counts as a name."""
FEATURES = (
    "cosine",
    "prompt_found",
    "query_found",
    "prompt_names_found",
    "query_names_found",
    "prompt_has_names",
    "query_has_names",
    "query_rarest_missing",
    "query_log_words",
)
"""What the classifier weighs, in the order of its weights; `features` says what each is."""


@dataclass(frozen=True)
class Words:
    """The words of a text, without punctuation.

    Attributes:
        keys: what two equal words have in common: their word pieces, small letters.
        weights: inverse document frequency in nats, summed over a word's pieces, at most 12.
        names: whether a word is capitalised or holds a digit.
    """

    keys: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]
    names: tuple[bool, ...]


def features(cosine: float, query: Words, prompt: Words) -> np.ndarray:
    """FEATURES of a pair, float64 (F,).

    `found` is the share of a text's weight whose words the other text has, 1 where the text has
    no such words; `rarest_missing` is the largest weight of a word that it has not, of 12.
    """
    in_query, in_prompt = set(query.keys), set(prompt.keys)
    prompt_there = [key in in_query for key in prompt.keys]
    query_there = [key in in_prompt for key in query.keys]
    missing = [w for w, there in zip(query.weights, query_there, strict=True) if not there]
    every_prompt, every_query = [True] * len(prompt.keys), [True] * len(query.keys)
    return np.array(
        [
            cosine,
            _found(prompt.weights, prompt_there, every_prompt),
            _found(query.weights, query_there, every_query),
            _found(prompt.weights, prompt_there, prompt.names),
            _found(query.weights, query_there, query.names),
            float(any(prompt.names)),
            float(any(query.names)),
            max(missing, default=0.0) / MOST_WEIGHT,
            math.log(1 + len(query.keys)),
        ]
    )


def _found(weights: Sequence[float], there: Sequence[bool], counted: Sequence[bool]) -> float:
    whole = sum(w for w, counts in zip(weights, counted, strict=True) if counts)
    part = sum(w for w, is_, counts in zip(weights, there, counted, strict=True) if is_ and counts)
    return part / whole if whole else 1.0


class WordReader:
    """Takes texts apart into weighed words.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        idf_V: inverse document frequency of each of its tokens, in nats.
    """

    def __init__(self, tokenizer: Any, idf_V: np.ndarray) -> None:
        self._tokenizer = tokenizer
        self.idf_V = idf_V

    def read(self, text: str) -> Words:
        """The words of a text."""
        encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = encoding["input_ids"], encoding["offset_mapping"]
        places: dict[int, list[int]] = {}
        for place, word in enumerate(encoding.word_ids()):
            places.setdefault(word, []).append(place)
        keys, weights, names = [], [], []
        for pieces in places.values():
            written = text[spans[pieces[0]][0] : spans[pieces[-1]][1]]
            if not any(letter.isalnum() for letter in written):
                continue
            key = tuple(ids[piece] for piece in pieces)
            weight = min(MOST_WEIGHT, sum(float(self.idf_V[token]) for token in key))
            capital = written[0].isupper() and (bool(keys) or weight > RARE)
            keys.append(key)
            weights.append(weight)
            names.append(capital or any(letter.isdigit() for letter in written))
        return Words(tuple(keys), tuple(weights), tuple(names))


class Isd:
    """Internal scope detection: the probability that a query asks for what a prompt asks for."""

    def __init__(
        self, reader: WordReader, weight_F: np.ndarray, bias: float, embedder_digest: str
    ) -> None:
        self.reader = reader
        self.weight_F = np.asarray(weight_F, np.float64)
        self.bias = float(bias)
        self.embedder_digest = embedder_digest

    def score(self, query: str, cosine: float, prompts: Sequence[str]) -> float:
        """The largest probability over a fact's written prompts; 1 for a written prompt itself.

        Args:
            cosine: of the query's sentence embedding to the nearest of these prompts'.
        """
        if query.strip() in {prompt.strip() for prompt in prompts}:
            return 1.0
        asked = self.reader.read(query)
        return max(self.probability(cosine, asked, self.reader.read(text)) for text in prompts)

    def probability(self, cosine: float, query: Words, prompt: Words) -> float:
        """Of one pair that is already taken apart."""
        terms = (self.weight_F * features(cosine, query, prompt)).tolist()
        logit = math.fsum((self.bias, *terms))
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0

    def to_bytes(self) -> bytes:
        """As a safetensors file, 62 kB; equal detectors give equal bytes."""
        tensors = {
            "weight": self.weight_F,
            "bias": np.array([self.bias]),
            "idf": self.reader.idf_V.astype(np.float16),
        }
        about = {"features": FEATURES, "format": FORMAT, "embedder_digest": self.embedder_digest}
        return save(tensors, {"isd": json.dumps(about)})

    @classmethod
    def from_bytes(cls, data: bytes, tokenizer: Any, embedder_digest: str) -> Isd:
        """The detector of `to_bytes`.

        Raises:
            InvalidArgument: damaged, of another version, or trained with another embedder.
        """
        try:
            tensors, size = load(data), int.from_bytes(data[:8], "little")
            about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["isd"])
            known = (about["format"], about["features"]) == (FORMAT, list(FEATURES))
            trained_with = about["embedder_digest"]
            weight_F, bias, idf_V = tensors["weight"], tensors["bias"][0], tensors["idf"]
            known = known and weight_F.shape == (len(FEATURES),) and len(idf_V) >= len(tokenizer)
        except (SafetensorError, KeyError, ValueError, IndexError) as error:
            raise InvalidArgument(f"{FILE} is damaged: {error}", "BAD_MODEL") from error
        if not known:
            raise InvalidArgument(
                f"{FILE} is of another version: train it with `python -m training.scope`",
                "BAD_MODEL",
            )
        if trained_with != embedder_digest:
            raise InvalidArgument(
                f"{FILE} was trained with another sentence-embedding model: train it with "
                "`python -m training.scope`",
                "BAD_MODEL",
            )
        return cls(WordReader(tokenizer, idf_V.astype(np.float64)), weight_F, bias, trained_with)
