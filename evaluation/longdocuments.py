"""Questions about the documents of a file, each document by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import metrics
from evaluation.data_files import read_text
from evaluation.documents import Document, read_documents
from evaluation.long_readers import observed, readers
from evaluation.long_texts import Hidden, LongText
from evaluation.options import IN_PROCESS, progress_bar
from evaluation.records import Records
from evaluation.report import Report, metric_table, provenance

NAME = "longcontext"
METRICS = ("recall", "provenance_hit", "seconds_per_query", "ingest_seconds")


def holds_documents(path: Path) -> bool:
    """Whether a file is of documents with questions, told by its first object."""
    text, _ = read_text(path)
    try:
        first, _ = json.JSONDecoder().raw_decode(text.lstrip("\ufeff \t\r\n["))
    except ValueError:
        return False
    return isinstance(first, dict) and "document" in first


def run_documents(
    data: Path,
    limit: int | None,
    out: Path,
    model: str,
    target: str,
    passage_words: int,
    max_tokens: int,
    seed: int,
    fresh: bool,
    as_json: bool,
) -> Report:
    """Recall from the documents of a file, by every reader; a row for each reader."""
    read = read_documents(data, limit)
    settings = {
        "passage_words": passage_words,
        "max_tokens": max_tokens,
        "target": IN_PROCESS if target == IN_PROCESS else "pipeline",
    }
    with readers(target, model, passage_words, max_tokens) as (digest, count, found):
        run_of = {"name": NAME, "data_sha256": read.sha256, "model_digest": digest}
        kept = Records(out, run_of | settings | {"documents": len(read.records)}, fresh)
        keys = [f"{name}-{one.document_id}" for name in found for one in read.records]
        done = sum(key in kept for key in keys)
        with progress_bar(NAME, len(keys), done, hidden=as_json) as advance:
            for one in read.records:
                text = asked_of(one, count(one.text))
                for name, reader in found.items():
                    key = f"{name}-{one.document_id}"
                    if key not in kept:
                        kept.add(key, observed(reader, text))
                        advance(1)
        rows = [
            _row(name, [kept[f"{name}-{one.document_id}"] for one in read.records], seed)
            for name in found
        ]
    questions = sum(len(one.questions) for one in read.records)
    body = provenance(
        NAME, data=read.to_json(), model_digest=digest, n=questions, seed=seed, **settings
    ) | {"rows": rows}
    return Report(
        NAME,
        "Recall from long documents",
        out,
        body,
        [metric_table(rows, METRICS)],
        [
            f"{questions} questions about {len(read.records)} documents, each by itself.",
            "recall: the answer stands in the generated text. A passage hits where it overlaps the "
            "answer's first place in the document.",
        ],
    )


def asked_of(document: Document, tokens: int) -> LongText:
    """A document with its questions; an answer that does not stand in it lies nowhere."""
    hidden = []
    for one in document.questions:
        begin = document.text.casefold().find(one.answer.casefold())
        end = begin + len(one.answer) if begin >= 0 else begin
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
