"""Questions about the documents of a file, each document by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import metrics
from evaluation.data_files import read_text
from evaluation.documents import Document, read_documents
from evaluation.frame import Frame
from evaluation.long_readers import observed, readers
from evaluation.long_texts import Hidden, LongText
from evaluation.report import Report, metric_table

METRICS = ("recall", "provenance_hit", "seconds_per_query", "ingest_seconds")


def holds_documents(path: Path) -> bool:
    """Whether a file is of documents with questions, told by its first object."""
    text, _ = read_text(path)
    try:
        first, _ = json.JSONDecoder().raw_decode(text.lstrip("\ufeff \t\r\n["))
    except ValueError:
        return False
    return isinstance(first, dict) and "document" in first


def run_documents(frame: Frame, passage_words: int) -> Report:
    """Recall from the documents of a file, by every reader; a row for each reader."""
    read = read_documents(frame.data, frame.limit)
    settings = {
        "passage_words": passage_words,
        "max_tokens": frame.max_tokens,
    }
    with readers(frame.target, frame.model, passage_words, frame.max_tokens) as made:
        digest, count, found = made
        run = frame.started(read, digest, settings, documents=len(read.records))
        cells = {_key(name, one): (name, one) for one in read.records for name in found}
        for key, (name, one) in run.missing(frame.name, cells):
            run.kept.add(key, observed(found[name], asked_of(one, count(one.text))))
        rows = [
            _row(name, [run.kept[_key(name, one)] for one in read.records], frame.seed)
            for name in found
        ]
    questions = sum(len(one.questions) for one in read.records)
    return run.report(
        "Recall from long documents",
        rows,
        [metric_table(rows, METRICS)],
        [
            f"{questions} questions about {len(read.records)} documents, each by itself.",
            "recall: the answer stands in the generated text. A passage hits where it overlaps the "
            "answer's first place in the document.",
        ],
        n=questions,
    )


def _key(reader: str, document: Document) -> str:
    return f"{reader}-{document.document_id}"


def asked_of(document: Document, tokens: int) -> LongText:
    """A document with its questions; an answer that does not stand in it lies nowhere."""
    hidden = []
    for one in document.questions:
        found = re.search(re.escape(one.answer), document.text, re.IGNORECASE)
        begin, end = found.span() if found else (-1, -1)
        hidden.append(Hidden(one.question, one.answer, begin, end))
    return LongText(document.text, tokens, tuple(hidden), ())


def _row(system: str, kept: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    seconds = [value for one in kept for value in one["seconds"]]
    shares = {
        name: metrics.summarise([value for one in kept for value in one[name]], seed).to_json()
        for name in ("recall", "provenance_hit")
    }
    ingested = metrics.exactly(float(np.median([one["ingest_seconds"] for one in kept])), len(kept))
    return {
        "system": system,
        "tokens": sum(one["tokens"] for one in kept),
        "metrics": {
            **shares,
            "seconds_per_query": metrics.exactly(
                float(np.median(seconds)) if seconds else 0.0, len(seconds)
            ).to_json(),
            "ingest_seconds": ingested.to_json(),
        },
    }
