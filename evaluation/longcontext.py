"""Long context: facts recalled from documents of growing length, with the passage they stand in.

A document is ingested as passages, a question read from all of them, and the answer decoded from
what is left; nothing of the document is in the decoder's own context. The base has the question
after as much of the document's end as its context holds; `rag` has it after the passage that is
nearest by sentence embedding. Made-up facts are asked in other words than they are written in;
real events are continued from their first half.

Source: [L] (arXiv 2403.11901) section 5.5 and Table 6.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import larimar
from evaluation import metrics
from evaluation.documents import read_events
from evaluation.leakage import leaks
from evaluation.long_texts import Hidden, LongText, long_text
from evaluation.metric_names import METRICS as METRIC_NAMES
from evaluation.options import (
    DEFAULT_MODEL,
    IN_PROCESS,
    AsJson,
    Data,
    Fresh,
    Limit,
    ModelPath,
    Out,
    Seed,
    Target,
    progress_bar,
)
from evaluation.plans import Plan
from evaluation.plots import Curve, draw_curves
from evaluation.records import Records
from evaluation.report import Report, metric_table, provenance
from larimar.errors import InvalidArgument
from larimar.passages import split_passages

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
LARIMAR, BASE, RAG = "larimar", "base", "rag"
DOCUMENT = "long"
SENTENCE_WORDS = 16
"""Most words of a passage here: about a sentence. A latent of more says less of each of them."""

Lengths = Annotated[str, typer.Option(help="Lengths of documents in tokens, with commas.")]
Asked = Annotated[int, typer.Option(help="Made-up facts asked for a length, and events.", min=1)]
Words = Annotated[int, typer.Option("--passage-words", help="Most words of a passage.", min=1)]
Tokens = Annotated[int, typer.Option("--max-tokens", help="Generated tokens an answer.", min=1)]


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


def run(
    data: Data,
    limit: Limit = None,
    out: Out = None,
    model: ModelPath = DEFAULT_MODEL,
    target: Target = IN_PROCESS,
    lengths: Lengths = LENGTHS,
    asked: Asked = 30,
    passage_words: Words = SENTENCE_WORDS,
    max_tokens: Tokens = 12,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> Report:
    """Recall from documents of 1.5 k to 100 k tokens against their length (Table 6).

    Example: larimar eval longcontext --data FILE --lengths 1500,6000
    """
    sizes = _sizes(lengths)
    read = read_events(data, limit)
    out = out or Path("out") / NAME
    settings = {
        "lengths": sizes,
        "asked": asked,
        "passage_words": passage_words,
        "max_tokens": max_tokens,
        "target": IN_PROCESS if target == IN_PROCESS else "pipeline",
    }
    with readers(target, model, passage_words, max_tokens) as (digest, count, found):
        run_of = {"name": NAME, "data_sha256": read.sha256, "model_digest": digest, "seed": seed}
        kept = Records(out, run_of | settings | {"events": len(read.records)}, fresh)
        done = sum(f"{name}-{size}" in kept for name in found for size in sizes)
        with progress_bar(NAME, len(sizes) * len(found), done, hidden=as_json) as advance:
            for size in sizes:
                text = long_text(read.records, size, count, asked=asked, seed=seed)
                for name, reader in found.items():
                    if f"{name}-{size}" not in kept:
                        kept.add(f"{name}-{size}", observed(reader, text))
                        advance(1)
        rows = [_row(name, kept[f"{name}-{size}"], size, seed) for name in found for size in sizes]
    body = provenance(
        NAME, data=read.to_json(), model_digest=digest, n=2 * asked, seed=seed, **settings
    ) | {"rows": rows}
    return Report(
        NAME,
        "Recall from long documents",
        out,
        body,
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
            f"{asked} made-up facts and as many events asked for each length; lengths in the "
            "model's own word pieces.",
            "recall: the made-up answer stands in the generated text. In brackets the 95 % "
            "bootstrap interval over questions. The base sees the end of the document only.",
        ],
        lambda figure: _draw(figure, rows, "recall", "made-up facts recalled, percent"),
        {
            "longcontext-time": lambda figure: _draw(
                figure, rows, "seconds_per_query", "seconds a question"
            )
        },
    )


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
        passages[:] = split_passages(text, passage_words)
        vectors[:] = [unit_embeddings(model.embedder, [passage.text for passage in passages])]

    def ask(question: str) -> Said:
        cosines_N = vectors[0] @ unit_embeddings(model.embedder, [question])[0]
        best = passages[int(cosines_N.argmax())]
        [answer] = model.ask_many([fitting.fitted([best.text], question)], max_tokens, memory=False)
        return Said(answer.text, best.offset, best.offset + best.length)

    return Reader(ingest, ask, passages.clear)


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


def _counting(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _sizes(lengths: str) -> list[int]:
    try:
        sizes = [int(part) for part in lengths.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise InvalidArgument(f"lengths are {lengths!r}: give numbers of tokens with commas")
    return sizes
