"""Scope: how well a detector tells rephrasings of written facts from questions about others.

Each record's prompt is written; its paraphrases should be taken for it, its neighbours not. Once
with one fact written at a time, once with many: then a neighbour is compared with the nearest of
all. Detectors see prompts only. Nothing is decoded, so a thousand records take minutes.

Source: [L] (arXiv 2403.11901) section 4: equal error rate, F1 and ROC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from evaluation.data import EditRecord, read_records, with_fewer_probes, without_edited_neighbors
from evaluation.options import (
    DEFAULT_MODEL,
    AsJson,
    Data,
    Limit,
    ModelPath,
    progress_bar,
)
from evaluation.report import Report, Table, provenance
from larimar import isd
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.errors import InvalidArgument
from larimar.payload import fixed_point
from larimar.rows import Rows
from larimar.scope import ScopeDetector, SentenceEmbedder, query_sentences

EMBEDDED_AT_ONCE = 256
"""Texts between two steps of the bar."""
CURVE_POINTS = 200
"""Points of a ROC curve that the report keeps."""


class Detector(StrEnum):
    """What decides."""

    esd = "esd"
    isd = "isd"


@dataclass(frozen=True)
class Queries:
    """Queries with the number of the fact that each belongs to."""

    inside: list[tuple[str, int]]
    outside: list[tuple[str, int]]


def run(
    data: Data,
    limit: Limit = None,
    facts: Annotated[int, typer.Option(help="Facts written at once.", min=2)] = 1500,
    detector: Annotated[
        Detector | None, typer.Option(help="That one only. [default: all the model has]")
    ] = None,
    without: Annotated[
        Path | None,
        typer.Option(help="File of records to leave out, by case id.", exists=True, dir_okay=False),
    ] = None,
    probes: Annotated[
        int | None, typer.Option(help="At most N paraphrases and N neighbours a record.", min=1)
    ] = None,
    as_given: Annotated[
        bool, typer.Option("--as-given", help="Paraphrases with their unrelated sentence.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out/scope"),
    model: ModelPath = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> Report:
    """Scope detection: equal error rate, F1 and ROC, one and many facts written.

    Example: python -m evaluation scope --data FILE --facts 1500
    """
    read = read_records(data)
    left_out = {one.case_id for one in read_records(without).records} if without else set()
    records = [one for one in read.records if one.case_id not in left_out][:limit]
    if probes:
        records = with_fewer_probes(records, probes)
    folder = ModelFolder.open(model)
    embedder = SentenceEmbedder(folder.config.scope.package, serving_dtype())
    chosen = [detector.value] if detector else _known(folder)
    detectors = {name: ScopeDetector.open(folder, embedder, name) for name in chosen}
    bench = Bench(embedder, folder.config.fixed_point.scope_bits)

    singly = queries_of(records, as_given)
    many = without_edited_neighbors(records[:facts])
    together = queries_of(many, as_given)
    if not (singly.inside and singly.outside and together.inside and together.outside):
        raise InvalidArgument(f"{data} has no paraphrases or no neighbours to ask with", "NO_DATA")
    prompts = [record.prompt for record in records]
    bench.embed([*prompts, *(text for text, _ in singly.inside + singly.outside)], hidden=as_json)
    rows = []
    for name, one in detectors.items():
        for count, queries in ((1, singly), (len(many), together)):
            written = prompts if count == 1 else prompts[:count]
            inside = bench.scores(one, written, queries.inside, alone=count == 1)
            outside = bench.scores(one, written, queries.outside, alone=count == 1)
            found = summary(inside, outside, one.threshold)
            rows.append({"detector": name, "facts": count, **found})
    sha256 = {"without_sha256": _sha256(without)} if without else {}
    body = provenance(
        "scope",
        data={"file": read.file, "form": read.form, "sha256": read.sha256, **sha256},
        model_digest=folder.model_digest,
        n=len(records),
        seed=0,
        as_given=as_given,
        probes=probes,
    ) | {"rows": rows}
    return Report(
        "scope", "Scope detection", out, body, [table(rows)], notes=_notes(rows), draw=_drawer(rows)
    )


def queries_of(records: Sequence[EditRecord], as_given: bool = False) -> Queries:
    """Paraphrases, clean ones where there are any, and neighbours, with their fact's number."""
    inside, outside = [], []
    for number, record in enumerate(records):
        texts = record.paraphrases_raw if as_given else record.paraphrases or record.paraphrases_raw
        inside += [(text, number) for text in texts]
        outside += [(text, number) for text in record.neighbors]
    return Queries(inside, outside)


class Bench:
    """Banks of prompts to look queries up in; embeds each text once."""

    def __init__(self, embedder: SentenceEmbedder, scope_bits: int) -> None:
        self._embedder = embedder
        self._bits = scope_bits
        self._fixed: dict[str, np.ndarray] = {}

    def embed(self, texts: Iterable[str], hidden: bool = True) -> None:
        """Takes in texts, queries with their sentences."""
        parts = [part for text in texts for part in query_sentences(text)]
        new = [text for text in dict.fromkeys(parts) if text not in self._fixed]
        with progress_bar("embed", len(new), hidden=hidden) as advance:
            for low in range(0, len(new), EMBEDDED_AT_ONCE):
                some = new[low : low + EMBEDDED_AT_ONCE]
                shape = (len(some), self._embedder.size)
                vectors = self._embedder.embed(some)
                fixed = fixed_point("scope_vectors", vectors, self._bits, shape)
                self._fixed.update(zip(some, fixed, strict=True))
                advance(len(some))

    def scores(
        self,
        detector: ScopeDetector,
        prompts: Sequence[str],
        queries: Sequence[tuple[str, int]],
        alone: bool,
    ) -> np.ndarray:
        """The detector's score of each query, float64.

        Args:
            prompts: the written ones.
            alone: whether a query meets its own fact's prompt only.
        """
        bank = None if alone else self._bank(prompts)
        ids = [str(place) for place in range(len(prompts))]
        found = []
        for text, number in queries:
            parts = query_sentences(text)
            rows, first = (self._bank([prompts[number]]), number) if bank is None else (bank, 0)
            vectors = np.stack([self._fixed[part] for part in parts]).astype(np.int64)
            nearest = [(c, str(first + slot)) for c, slot in rows.most_similar(vectors, ids)]
            texts = {fact_id: (prompts[int(fact_id)],) for _, fact_id in nearest}
            found.append(detector.decide(parts, nearest, texts).score)
        return np.array(found)

    def _bank(self, prompts: Sequence[str]) -> Rows:
        rows = Rows(self._embedder.size, by_cosine=True)
        fixed = np.stack([self._fixed[prompt] for prompt in prompts])
        rows.put(np.arange(len(prompts)), np.ones(len(prompts), np.int32), fixed)
        return rows


def summary(inside: np.ndarray, outside: np.ndarray, threshold: float) -> dict[str, Any]:
    """Error rates of scores: at the model's threshold, and at that of the equal error rate.

    A query is taken in from the threshold on. `missed` is the share of inside queries that are
    not, `taken` that of outside queries that are, in percent; EER is their mean where they are
    closest. AUC is the share of pairs that are in order, ties half.
    """
    levels = np.unique(np.concatenate([inside, outside]))
    missed = np.searchsorted(np.sort(inside), levels) / len(inside)
    taken = 1 - np.searchsorted(np.sort(outside), levels) / len(outside)
    best = int(np.argmin(np.abs(missed - taken)))
    kept = np.unique(np.linspace(0, len(levels) - 1, CURVE_POINTS).astype(int))
    order = np.searchsorted(np.sort(outside), inside) + np.searchsorted(
        np.sort(outside), inside, side="right"
    )
    return {
        "inside": len(inside),
        "outside": len(outside),
        "eer": 50 * float(missed[best] + taken[best]),
        "eer_threshold": float(levels[best]),
        "auc": float(order.mean() / 2 / len(outside)),
        "threshold": threshold,
        **at(inside, outside, threshold),
        "f1_at_eer": at(inside, outside, float(levels[best]))["f1"],
        "roc": [[float(taken[n]), float(1 - missed[n])] for n in kept],
    }


def at(inside: np.ndarray, outside: np.ndarray, threshold: float) -> dict[str, float]:
    """Missed and taken, in percent, and F1 of taking queries in, at a threshold."""
    right, wrong = int((inside >= threshold).sum()), int((outside >= threshold).sum())
    return {
        "missed": 100 * (1 - right / len(inside)),
        "taken": 100 * wrong / len(outside),
        "f1": 2 * right / (right + wrong + len(inside)),
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The report's table."""
    columns = ["detector", "facts", "EER %", "at", "F1 there", "AUC", "threshold", "missed %",
               "taken %", "F1"]  # fmt: skip
    texts = [
        [row["detector"], str(row["facts"]), f"{row['eer']:.1f}", f"{row['eer_threshold']:.3f}",
         f"{row['f1_at_eer']:.3f}", f"{row['auc']:.4f}", f"{row['threshold']:.3f}",
         f"{row['missed']:.1f}", f"{row['taken']:.1f}", f"{row['f1']:.3f}"]
        for row in rows
    ]  # fmt: skip
    return Table(columns, texts)


def _known(folder: ModelFolder) -> list[str]:
    return ["esd", "isd"] if isd.FILE in folder.sha256 else ["esd"]


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    counts = "; ".join(
        f"{row['inside']} rephrasings and {row['outside']} neighbours with {row['facts']} written"
        for row in {row["facts"]: row for row in rows}.values()
    )
    return [
        f"{counts}. Left of the threshold: what the data would choose; right: the model's own.",
        "[L] reports 2.9 % EER and F1 0.974 on 3,800 EasyEdit samples, of another detector.",
    ]


def _drawer(rows: Sequence[dict[str, Any]]) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for row in rows:
            taken, found = zip(*row["roc"], strict=True)
            label = f"{row['detector']}, {row['facts']} written: EER {row['eer']:.1f} %"
            axes.plot(taken, found, label=label)
        axes.set_xlim(0, 0.3)
        axes.set_ylim(0.7, 1.0)
        axes.set_xlabel("neighbours taken in")
        axes.set_ylabel("rephrasings found")
        axes.legend()

    return draw


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
