"""Long context: facts recalled from documents of growing length, with the passage they stand in.

A document is ingested as passages, a question read from all of them, and the answer decoded from
what is left; nothing of the document is in the decoder's own context. The base has the question
after as much of the document's end as its context holds; `rag` has it after the passage that is
nearest by sentence embedding. Made-up facts are asked in other words than they are written in;
real events are continued from their first half.

Source: [L] (arXiv 2403.11901) section 5.5 and Table 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any

import numpy as np
import typer

from evaluation import metrics
from evaluation.documents import read_events
from evaluation.frame import Frame, experiment
from evaluation.long_readers import observed, readers
from evaluation.long_texts import long_text
from evaluation.longdocuments import holds_documents, run_documents
from evaluation.metric_names import METRICS as METRIC_NAMES
from evaluation.plans import Plan
from evaluation.plots import Curve, draw_curves
from evaluation.report import Report, metric_table
from larimar.errors import InvalidArgument
from larimar.passages import PASSAGE_WORDS

NAME = "longcontext"
METRICS = (
    "recall",
    "provenance_hit",
    "event_f1",
    "event_provenance_hit",
    "seconds_per_query",
    "ingest_seconds",
)
LENGTHS = "1500,3000,6000,12000,25000,50000,100000"
PLAN = Plan(
    {"data": "dated_events.jsonl"},
    quick={"lengths": "1500,6000", "asked": 5, "max_tokens": 8},
)

Lengths = Annotated[str, typer.Option(help="Lengths of documents in tokens, with commas.")]
Asked = Annotated[int, typer.Option(help="Made-up facts asked for a length, and events.", min=1)]
Words = Annotated[int, typer.Option("--passage-words", help="Most words of a passage.", min=1)]
Tokens = Annotated[int, typer.Option("--max-tokens", help="Generated tokens an answer.", min=1)]


@experiment(NAME, without=("detector",))
def run(
    frame: Frame,
    lengths: Lengths = LENGTHS,
    asked: Asked = 50,
    passage_words: Words = PASSAGE_WORDS,
    max_tokens: Tokens = 12,
) -> Report:
    """Recall from documents of 1.5 k to 100 k tokens against their length (Table 6).

    With a file of documents and their questions: recall from those, as long as they are.

    Example: larimar eval longcontext --data FILE --lengths 1500,6000
    """
    if holds_documents(frame.data):
        return run_documents(frame, passage_words)
    sizes, seed = _sizes(lengths), frame.seed
    read = read_events(frame.data, frame.limit)
    settings = {
        "lengths": sizes,
        "asked": asked,
        "passage_words": passage_words,
        "max_tokens": max_tokens,
    }
    with readers(frame.target, frame.model, passage_words, max_tokens) as (digest, count, found):
        run = frame.started(read, digest, settings, seed=seed, events=len(read.records))
        cells = {_key(name, size): (name, size) for size in sizes for name in found}
        missing = run.missing(NAME, cells)
        for size, some in groupby(missing, lambda one: one[1][1]):
            text = long_text(read.records, size, count, asked=asked, seed=seed)
            for key, (name, _) in some:
                run.kept.add(key, observed(found[name], text))
        rows = [
            _row(name, run.kept[_key(name, size)], size, seed) for name in found for size in sizes
        ]
    return run.report(
        "Recall from long documents",
        rows,
        [
            metric_table(
                [row for row in rows if row["system"] == name],
                METRICS,
                heads=[f"{size:,} tokens" for size in sizes],
                title=name,
            )
            for name in found
        ],
        [
            f"{asked} made-up facts, the same at each length, and up to as many events; lengths in "
            "the model's own word pieces.",
            "recall: the made-up answer stands in the generated text. In brackets the 95 % "
            "bootstrap interval over questions. The base sees the end of the document only.",
        ],
        lambda figure: _draw(figure, rows, "recall", "made-up facts recalled, percent"),
        {
            "longcontext-time": lambda figure: _draw(
                figure, rows, "seconds_per_query", "seconds a question"
            )
        },
        n=2 * asked,
    )


def _row(system: str, kept: Mapping[str, Any], length: int, seed: int) -> dict[str, Any]:
    shares = ("recall", "provenance_hit", "event_f1", "event_provenance_hit")
    seconds = kept["seconds"]
    return {
        "system": system,
        "length": length,
        "tokens": kept["tokens"],
        "metrics": {
            **{name: metrics.summarise(kept[name], seed).to_json() for name in shares},
            "seconds_per_query": metrics.exactly(float(np.median(seconds)), len(seconds)).to_json(),
            "ingest_seconds": metrics.exactly(kept["ingest_seconds"], 1).to_json(),
        },
    }


def _key(reader: str, size: int) -> str:
    return f"{reader}-{size}"


def _draw(figure: Any, rows: Sequence[Mapping[str, Any]], metric: str, label: str) -> None:
    curves = []
    for name in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == name]
        lengths = [row["length"] for row in own]
        curves.append(Curve(name, lengths, [row["metrics"][metric] for row in own]))
    draw_curves(figure, curves, "tokens of the document", label, log_x=True)
    [axes] = figure.axes
    axes.set_xticks(sorted({row["length"] for row in rows}), minor=False)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    if METRIC_NAMES[metric].unit == "%":
        axes.set_ylim(-2, 102)


def _sizes(lengths: str) -> list[int]:
    try:
        sizes = [int(part) for part in lengths.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise InvalidArgument(f"lengths are {lengths!r}: give numbers of tokens with commas")
    return sizes
