"""Documents in the memory of one process: ingested as passages, read recursively.

The same steps as a pipeline's Ingest and Recall, over a `Model`. Shapes: D size of a prompt's
latent, C value size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from larimar.errors import InvalidArgument
from larimar.local_memory import BANK
from larimar.memory import Payload, make_payload
from larimar.model import Model
from larimar.passages import (
    PASSAGE_WORDS,
    Passage,
    check_document,
    halves,
    parse_passage_id,
    passage_id,
    passage_prefix,
    split_passages,
)
from larimar.payload import utf8
from larimar.recall import EPISODE_SIZE, read_recursively
from larimar.results import IngestResult, RecallResult
from larimar.results import Passage as Found
from larimar.sampling import Sampling

NAMED_PASSAGES = 16
"""Passages that a result names, as many as a pipeline's."""


def ingest(
    model: Model, text: str, document: str, passage_words: int = PASSAGE_WORDS
) -> IngestResult:
    """Writes a document as passages with their place in it, in the place of its older text.

    Args:
        document: letters, digits, dots, dashes and underscores.
        passage_words: most words of a passage.

    Raises:
        InvalidArgument: a blank text, or a bad name or number of words.
        FailedPrecondition: the memory is not one of slots.
    """
    check_document(document)
    utf8("text", text)
    model.state.items(passage_prefix(document))  # refuses what has no slots
    passages = [
        part
        for passage in split_passages(text, passage_words)
        for part in _encodable(model, passage)
    ]
    if not passages:
        raise InvalidArgument("the document is blank: give it a text", "EMPTY_TEXT")
    live = {
        fact.fact_id: fact.prompt
        for fact in model.facts()
        if fact.fact_id.startswith(passage_prefix(document))
    }
    payloads = _payloads(model, document, passages)
    new = [one for one in payloads if live.get(one.fact_id) != one.prompt]
    if new:
        model.memory.write(new)
    gone = sorted(live.keys() - {one.fact_id for one in payloads})
    if gone:
        model.memory.forget(gone)
    return IngestResult(
        bank=BANK,
        document=document,
        passages=len(payloads),
        duplicates=len(payloads) - len(new),
        version=model.state.version,
        characters=len(text),
    )


def recall(model: Model, prompt: str, *, document: str = "", max_tokens: int = 32) -> RecallResult:
    """Answers greedily from passages by recursive reading, whatever scope says.

    Args:
        document: reads only this one's passages; empty: every fact of the memory.

    Raises:
        FailedPrecondition: there is nothing to read, or the memory is not one of slots.
        InvalidArgument: an empty or too long prompt, or bad settings.
    """
    utf8("prompt", prompt)
    state = model.state
    items = state.items(passage_prefix(check_document(document)) if document else "")
    query_D = model.encoder.prompt_latents([prompt])[0].astype(np.float64)
    read = read_recursively(
        np.ldexp(items.addresses.astype(np.float64), -items.address_bits),
        np.ldexp(items.values.astype(np.float64), -items.value_bits),
        query_D,
        EPISODE_SIZE,
        state.config.alpha,
    )
    z_C = torch.from_numpy(read.value.astype(np.float32))
    [piece] = model.decoder.texts([prompt], [Sampling(max_tokens)], [z_C])
    order = sorted(range(len(items.ids)), key=lambda i: (-read.weights_n[i], items.ids[i]))
    return RecallResult(
        text=piece.text.lstrip(),
        passages=tuple(
            _found(model, items.ids[i], float(read.weights_n[i]))
            for i in order[:NAMED_PASSAGES]
            if read.weights_n[i] > 0
        ),
        levels=read.levels,
        version=state.version,
        bank=BANK,
    )


def _encodable(model: Model, passage: Passage) -> list[Passage]:
    """A passage, cut further where it is longer than the encoder takes; none without tokens."""
    try:
        model.encoder.tokenize_passage(passage.text)
    except InvalidArgument as error:
        if error.reason == "EMPTY_TEXT":
            return []
        if error.reason != "TEXT_TOO_LONG":
            raise
        return [part for half in halves(passage) for part in _encodable(model, half)]
    return [passage]


def _payloads(model: Model, document: str, passages: Sequence[Passage]) -> list[Payload]:
    """A passage is a fact without an answer, whose value is of what its text states.

    Its scope vector is 0: an ordinary question never meets it.
    """
    rows = [row for one in passages for row in model.encoder.tokenize_passage(one.text)]
    encoded = model.encoder.encode_tokens(rows, [False, True] * len(passages))
    latents, values = encoded[::2], encoded[1::2]
    nothing = np.zeros((1, model.embedder.size), np.float32)
    return [
        make_payload(
            model.state.config,
            passage_id(document, passage.offset),
            passage.text,
            "",
            (),
            latent_D[None],
            value_C,
            nothing,
        )
        for passage, latent_D, value_C in zip(passages, latents, values, strict=True)
    ]


def _found(model: Model, fact_id: str, weight: float) -> Found:
    fact = model.fact(fact_id)
    document, offset = parse_passage_id(fact_id) or ("", 0)
    text = fact.prompt if document else f"{fact.prompt} {fact.answer}".strip()
    return Found(document=document, offset=offset, length=len(text), text=text, weight=weight)
