"""Facts on their way into a memory of this process: read, checked, encoded together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from larimar.defaults import default_fact_id
from larimar.encoder import Encoder, Text
from larimar.errors import InvalidArgument, LarimarError
from larimar.memory import BankConfig, Payload, make_payload
from larimar.payload import several, utf8
from larimar.scope import SentenceEmbedder

_FIELDS = ("prompt", "answer", "fact_id", "rephrasings")


@dataclasses.dataclass(frozen=True)
class NewFact:
    """A fact that is to be written."""

    fact_id: str
    prompt: str
    answer: str
    rephrasings: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt and its rephrasings: a reference row each."""
        return (self.prompt, *self.rephrasings)

    @classmethod
    def of(cls, given: Any) -> NewFact:
        """From a mapping, or an object with such attributes, as a client's `write_many` takes.

        Raises:
            InvalidArgument: a field is missing, unknown, or no text or list of texts.
        """
        if isinstance(given, Mapping):
            fields = {("fact_id" if name == "id" else name): one for name, one in given.items()}
            unknown = sorted(str(name) for name in fields.keys() - set(_FIELDS))
            if unknown:
                raise InvalidArgument(
                    f"a fact has no field {unknown[0]!r}; known: id, {', '.join(_FIELDS)}"
                )
        else:
            fields = {name: getattr(given, name, None) for name in _FIELDS}
        found: dict[str, Any] = {name: fields.get(name) for name in _FIELDS}
        prompt, answer, rephrasings = found["prompt"], found["answer"], found["rephrasings"]
        utf8("a fact's prompt", prompt)
        utf8("a fact's answer", answer)
        more = several("a fact's rephrasings", () if rephrasings is None else rephrasings)
        return cls(found["fact_id"] or default_fact_id(prompt), prompt, answer, more)


def payloads_of(
    config: BankConfig, encoder: Encoder, embedder: SentenceEmbedder, facts: Sequence[NewFact]
) -> list[Payload | LarimarError]:
    """The payload of each fact, or why there is none; all of them are encoded together."""
    made: list[Payload | LarimarError | None] = [None] * len(facts)
    sound, rows, prompts = [], [], []
    for place, fact in enumerate(facts):
        try:
            tokens = _tokenized(encoder, embedder, fact)
        except LarimarError as error:
            made[place] = error
        else:
            sound.append((place, len(rows), len(prompts)))
            rows += tokens
            prompts += fact.prompts
    if sound:
        valued = {row for _, row, _ in sound}
        latents = encoder.encode_tokens(rows, [row in valued for row in range(len(rows))])
        scope_NS = embedder.embed(prompts)
        for place, row, first in sound:
            count = len(facts[place].prompts)
            made[place] = _payload(
                config,
                facts[place],
                np.stack(latents[row + 1 : row + 1 + count]),
                latents[row],
                scope_NS[first : first + count],
            )
    return [one for one in made if one is not None]


def _tokenized(
    encoder: Encoder, embedder: SentenceEmbedder, fact: NewFact
) -> list[tuple[list[int], int]]:
    """A fact's texts for the encoder: prompt and answer, then each prompt alone.

    Raises:
        InvalidArgument: a text is empty, or too long for encoder or scope.
    """
    if not fact.answer.strip():
        raise InvalidArgument("the answer is empty: give it a text", "EMPTY_TEXT")
    for prompt in fact.prompts:
        embedder.tokenize(prompt)
    texts = [Text(fact.prompt, fact.answer), *(Text(prompt) for prompt in fact.prompts)]
    return [encoder.tokenize(text) for text in texts]


def _payload(
    config: BankConfig,
    fact: NewFact,
    prompt_latents: np.ndarray,
    value: np.ndarray,
    scope_vectors: np.ndarray,
) -> Payload | LarimarError:
    try:
        return make_payload(
            config,
            fact.fact_id,
            fact.prompt,
            fact.answer,
            fact.rephrasings,
            prompt_latents,
            value,
            scope_vectors,
        )
    except LarimarError as error:
        return error
