"""Ways to answer questions about a long document, and what each makes of one."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import larimar
from evaluation import metrics
from evaluation.leakage import leaks
from evaluation.long_texts import Hidden, LongText
from evaluation.options import IN_PROCESS
from larimar.errors import InvalidArgument
from larimar.passages import Passage, halves, split_passages

LARIMAR, BASE, RAG = "larimar", "base", "rag"
DOCUMENT = "long"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and where the heaviest passage that it rests on stands; None without passages."""

    text: str
    begin: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Reader:
    """A way to answer questions about a document."""

    ingest: Callable[[str], None]
    ask: Callable[[str], Said]
    forget: Callable[[], None]


def observed(reader: Reader, text: LongText) -> dict[str, Any]:
    """What a reader makes of a document: an answer a question, and its times."""
    begun = time.perf_counter()
    reader.ingest(text.text)
    ingested = time.perf_counter() - begun
    try:
        facts = [_timed(reader, one) for one in text.facts]
        events = [_timed(reader, one) for one in text.events]
    finally:
        reader.forget()
    return {
        "tokens": text.tokens,
        "ingest_seconds": ingested,
        "seconds": [seconds for _, seconds in facts + events],
        "recall": [
            float(leaks(said.text, one.answer))
            for one, (said, _) in zip(text.facts, facts, strict=True)
        ],
        "event_f1": [
            metrics.token_f1(said.text, one.answer)
            for one, (said, _) in zip(text.events, events, strict=True)
        ],
        "provenance_hit": _hits(text.facts, [said for said, _ in facts]),
        "event_provenance_hit": _hits(text.events, [said for said, _ in events]),
    }


@contextmanager
def readers(
    target: str, model: str, passage_words: int, max_tokens: int
) -> Iterator[tuple[str, Callable[[str], int], dict[str, Reader]]]:
    """The model's digest, what counts a text's tokens, and the readers that are compared.

    At a pipeline, Larimar's alone, in a bank of its own.
    """
    if target == IN_PROCESS:
        loaded = larimar.load(model)
        made = {
            LARIMAR: _in_process(loaded, passage_words, max_tokens),
            BASE: _last_window(loaded, max_tokens),
            RAG: _nearest_passage(loaded, passage_words, max_tokens),
        }
        yield loaded.folder.model_digest, _counting(loaded.encoder.tokenizer), made
        return
    from larimar.checkpoint import ModelFolder

    tokenizer = ModelFolder.open(model).encoder_tokenizer()
    bank = f"evaluation-{uuid.uuid4().hex[:12]}"
    with larimar.connect(target) as client:
        client.create_bank(bank)
        try:
            made = {LARIMAR: _remote(client, bank, passage_words, max_tokens)}
            yield client.status().model_digest, _counting(tokenizer), made
        finally:
            client.delete_bank(bank)


def _in_process(model: Any, passage_words: int, max_tokens: int) -> Reader:
    from larimar.local_documents import ingest, recall

    def write(text: str) -> None:
        ingest(model, text, DOCUMENT, passage_words)

    def ask(question: str) -> Said:
        return _said(recall(model, question, document=DOCUMENT, max_tokens=max_tokens))

    def forget() -> None:
        model.forget_many([fact.fact_id for fact in model.facts()])

    return Reader(write, ask, forget)


def _remote(client: Any, bank: str, passage_words: int, max_tokens: int) -> Reader:
    def ingest(text: str) -> None:
        client.ingest(text, DOCUMENT, bank=bank, passage_words=passage_words)

    def ask(question: str) -> Said:
        return _said(client.recall(question, bank=bank, document=DOCUMENT, max_tokens=max_tokens))

    # The next document has the same name and takes this one's place.
    return Reader(ingest, ask, lambda: None)


def _last_window(model: Any, max_tokens: int) -> Reader:
    """The plain decoder with the document's end, as much as fits, and the question."""
    from evaluation.baselines.in_context import Fitting

    fitting, held = Fitting(model.decoder), list[str]()

    def ingest(text: str) -> None:
        held[:] = text.split("\n\n")

    def ask(question: str) -> Said:
        [answer] = model.ask_many([fitting.fitted(held, question)], max_tokens, memory=False)
        return Said(answer.text)

    return Reader(ingest, ask, held.clear)


def _nearest_passage(model: Any, passage_words: int, max_tokens: int) -> Reader:
    """The plain decoder with the passage of the largest cosine, and the question."""
    from evaluation.baselines.in_context import Fitting, unit_embeddings

    fitting = Fitting(model.decoder)
    passages: list[Any] = []
    vectors: list[np.ndarray] = []

    def ingest(text: str) -> None:
        split = split_passages(text, passage_words)
        passages[:] = [part for one in split for part in _embeddable(model.embedder, one)]
        vectors[:] = [unit_embeddings(model.embedder, [passage.text for passage in passages])]

    def ask(question: str) -> Said:
        cosines_N = vectors[0] @ unit_embeddings(model.embedder, [question])[0]
        best = passages[int(cosines_N.argmax())]
        [answer] = model.ask_many([fitting.fitted([best.text], question)], max_tokens, memory=False)
        return Said(answer.text, best.offset, best.offset + best.length)

    return Reader(ingest, ask, passages.clear)


def _embeddable(embedder: Any, passage: Passage) -> list[Passage]:
    """A passage, cut further where it is longer than the sentence embedder takes."""
    try:
        embedder.tokenize(passage.text)
    except InvalidArgument as error:
        if error.reason != "TEXT_TOO_LONG":
            raise
        return [part for half in halves(passage) for part in _embeddable(embedder, half)]
    return [passage]


def _said(result: Any) -> Said:
    if not result.passages:
        return Said(result.text)
    best = result.passages[0]
    return Said(result.text, best.offset, best.offset + best.length)


def _timed(reader: Reader, hidden: Hidden) -> tuple[Said, float]:
    begun = time.perf_counter()
    said = reader.ask(hidden.question)
    return said, time.perf_counter() - begun


def _hits(hidden: Sequence[Hidden], said: Sequence[Said]) -> list[float | None]:
    """1 where the heaviest passage overlaps what was asked for; None where none was named."""
    return [
        None
        if found.begin is None or found.end is None
        else float(found.begin < one.end and one.begin < found.end)
        for one, found in zip(hidden, said, strict=True)
    ]


def _counting(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
