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

from evaluation import metrics, paper
from evaluation.data import EditRecord, read_records, with_fewer_probes, without_edited_neighbors
from evaluation.frame import Frame, experiment
from evaluation.options import progress_bar
from evaluation.plans import Instead, Plan
from evaluation.report import Report, metric_table, provenance
from larimar import isd
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.errors import InvalidArgument
from larimar.payload import fixed_point
from larimar.rows import Rows
from larimar.scope import ScopeDetector, SentenceEmbedder, query_sentences

NAME = "scope"
METRICS = ("eer", "eer_threshold", "f1_at_eer", "auc", "missed", "taken", "f1")
PLAN = Plan(
    {"data": "counterfact_original_form_2000.jsonl"},
    quick={"limit": 50, "facts": 50, "probes": 2},
    instead={"data": Instead("counterfact.json", full={"limit": 2000})},
)
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


@experiment(NAME, without=("target", "max_tokens", "fresh"))
def run(
    frame: Frame,
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
) -> Report:
    """Scope detection: equal error rate, F1 and ROC, one and many facts written.

    Example: larimar eval scope --data FILE --facts 1500
    """
    read, seed = read_records(frame.data), frame.seed
    left_out = {one.case_id for one in read_records(without).records} if without else set()
    records = [one for one in read.records if one.case_id not in left_out][: frame.limit]
    if probes:
        records = with_fewer_probes(records, probes)
    folder = ModelFolder.open(frame.model)
    embedder = SentenceEmbedder(folder.config.scope.package, serving_dtype())
    chosen = [detector.value] if detector else _known(folder)
    detectors = {name: ScopeDetector.open(folder, embedder, name) for name in chosen}
    bench = Bench(embedder, folder.config.fixed_point.scope_bits)

    singly = queries_of(records, as_given)
    many = without_edited_neighbors(records[:facts])
    together = queries_of(many, as_given)
    if not (singly.inside and singly.outside and together.inside and together.outside):
        raise InvalidArgument(
            f"{frame.data} has no paraphrases or no neighbours to ask with", "NO_DATA"
        )
    prompts = [record.prompt for record in records]
    asked_texts = (text for text, _ in singly.inside + singly.outside)
    bench.embed([*prompts, *asked_texts], hidden=frame.as_json)
    rows = []
    for name, one in detectors.items():
        for count, queries in ((1, singly), (len(many), together)):
            written = prompts if count == 1 else prompts[:count]
            inside = bench.scores(one, written, queries.inside, alone=count == 1)
            outside = bench.scores(one, written, queries.outside, alone=count == 1)
            curve = Curve(inside, outside)
            numbers = [n for _, n in queries.inside], [n for _, n in queries.outside]
            asked = len(records) if count == 1 else count
            found = row(curve, one.threshold, *numbers, asked, seed)
            rows.append({"system": name, "facts": count, **found})
    sha256 = {"without_sha256": _sha256(without)} if without else {}
    body = provenance(
        NAME,
        data=read.to_json() | sha256,
        model_digest=folder.model_digest,
        n=len(records),
        seed=seed,
        as_given=as_given,
        probes=probes,
    ) | {"rows": rows}
    heads = [f"{one['system']}, {one['facts']} written" for one in rows]
    return Report(
        NAME,
        "Scope detection",
        frame.out or Path("out") / NAME,
        body,
        [metric_table(rows, METRICS, paper.SCOPE, heads=heads)],
        notes=_notes(rows),
        draw=_drawer(rows),
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


class Curve:
    """Error rates of scores: at a threshold, and where both kinds of error are equal.

    A query is taken in from the threshold on.

    Args:
        inside: scores of queries that concern a written fact, (N,) float64.
        outside: of those that do not.
    """

    def __init__(self, inside: np.ndarray, outside: np.ndarray) -> None:
        self.inside, self.outside = len(inside), len(outside)
        self.levels = np.unique(np.concatenate([inside, outside]))
        self._inside = np.searchsorted(self.levels, inside)
        self._outside = np.searchsorted(self.levels, outside)

    def rates(
        self,
        threshold: float,
        inside: np.ndarray | None = None,
        outside: np.ndarray | None = None,
    ) -> dict[str, float]:
        """The metrics, each query counted once, or as often as its weight says.

        `missed` is the share of inside queries that are not taken in, `taken` that of outside
        queries that are, in percent; EER is their mean where they are closest. AUC is the share
        of pairs that are in order, ties half.
        """
        right, wrong = self._taken(self._inside, inside), self._taken(self._outside, outside)
        best = int(np.argmin(np.abs(1 - right[:-1] / right[0] - wrong[:-1] / wrong[0])))
        at = int(np.searchsorted(self.levels, threshold))
        in_order = (right[:-1] - right[1:]) @ (wrong[0] - (wrong[:-1] + wrong[1:]) / 2)
        return {
            "eer": 50 * float(1 - right[best] / right[0] + wrong[best] / wrong[0]),
            "eer_threshold": float(self.levels[best]),
            "f1_at_eer": _f1(right, wrong, best),
            "auc": float(in_order / (right[0] * wrong[0])),
            "missed": 100 * float(1 - right[at] / right[0]),
            "taken": 100 * float(wrong[at] / wrong[0]),
            "f1": _f1(right, wrong, at),
        }

    def roc(self) -> list[list[float]]:
        """Points (share of outside queries taken in, share of inside queries), at most so many."""
        kept = np.unique(np.linspace(0, len(self.levels) - 1, CURVE_POINTS).astype(int))
        wrong = self._taken(self._outside, None) / self.outside
        right = self._taken(self._inside, None) / self.inside
        return [[float(wrong[n]), float(right[n])] for n in kept]

    def _taken(self, places: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """How many are taken in from each level on; a last one for a threshold above all."""
        counts = np.bincount(places, weights, minlength=len(self.levels) + 1)
        return np.cumsum(counts[::-1])[::-1].astype(np.float64)


def row(
    curve: Curve,
    threshold: float,
    inside: Sequence[int],
    outside: Sequence[int],
    records: int,
    seed: int,
) -> dict[str, Any]:
    """A report's row, its intervals from resampling records with all their queries.

    Args:
        inside, outside: the record's number of each query.
    """
    found = curve.rates(threshold)
    resampled = []
    rng = np.random.default_rng(seed)
    for _ in range(metrics.RESAMPLES):
        times = np.bincount(rng.integers(0, records, records), minlength=records)
        weights = times[inside], times[outside]
        if all(one.any() for one in weights):
            resampled.append(curve.rates(threshold, *weights))
    return {
        "metrics": {
            name: metrics.between(value, [one[name] for one in resampled], records).to_json()
            for name, value in found.items()
        },
        "inside": curve.inside,
        "outside": curve.outside,
        "threshold": threshold,
        "roc": curve.roc(),
    }


def _f1(right: np.ndarray, wrong: np.ndarray, at: int) -> float:
    return float(2 * right[at] / (right[at] + wrong[at] + right[0]))


def _known(folder: ModelFolder) -> list[str]:
    return ["esd", "isd"] if isd.FILE in folder.sha256 else ["esd"]


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    counts = "; ".join(
        f"{row['inside']} rephrasings and {row['outside']} neighbours with {row['facts']} written"
        for row in {row["facts"]: row for row in rows}.values()
    )
    return [
        f"{counts}.",
        "Percent, in brackets the 95 % bootstrap interval over records; f1 and auc as fractions.",
        "eer_threshold and f1_at_eer: as this data would choose; the others: as the model has it.",
        "[L] has its figures of another detector, on 3,800 samples of EasyEdit.",
    ]


def _drawer(rows: Sequence[dict[str, Any]]) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for row in rows:
            taken, found = zip(*row["roc"], strict=True)
            eer = row["metrics"]["eer"]["value"]
            label = f"{row['system']}, {row['facts']} written: EER {eer:.1f} %"
            axes.plot(taken, found, label=label)
        axes.set_xlim(0, 0.3)
        axes.set_ylim(0.7, 1.0)
        axes.set_xlabel("share of neighbours taken in")
        axes.set_ylabel("share of rephrasings taken in")
        axes.legend(loc="lower right")

    return draw


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
