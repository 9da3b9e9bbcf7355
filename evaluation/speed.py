"""Speed: seconds of an edit and of a question about it, alone and in batches, stage by stage.

Facts are written in batches of each size into a bank of its own, and asked by their own prompts in
batches of the same size. The first batch of all warms up and is not counted. In one process the
parts of the model are timed one by one; a pipeline gives the whole only.

Source: [L] (arXiv 2403.11901) Tables 1 and 7.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Annotated, Any

import typer

from evaluation import metrics
from evaluation.alone import alone
from evaluation.baselines.beside import Baselines, wanted
from evaluation.data import EditRecord, read_records
from evaluation.edits import fact_of
from evaluation.frame import Frame, experiment
from evaluation.grids import SLOTS, Addressing, Slots, addressings, counts, grid_table, slots_of
from evaluation.options import IN_PROCESS
from evaluation.plans import Instead, Plan
from evaluation.plots import COLORS
from evaluation.report import Report
from evaluation.systems import BASE, LARIMAR, InProcess, Query, Remembering, View, opened
from larimar.errors import InvalidArgument

NAME = "speed"
EDIT_STAGES = ("encode", "scope", "fold")
QUERY_STAGES = ("scope", "find", "encode", "read", "decode")
OTHER = "other"
_COLORS = dict(zip(dict.fromkeys((*EDIT_STAGES, *QUERY_STAGES, OTHER)), COLORS, strict=True))
METRICS = (
    "seconds_per_edit",
    *(f"edit_{stage}_seconds" for stage in (*EDIT_STAGES, OTHER)),
    "seconds_per_query",
    *(f"query_{stage}_seconds" for stage in (*QUERY_STAGES, OTHER)),
)
SIZES, FACTS = "1,16,256", 256
PLAN = Plan(
    files={"data": "counterfact_original_form_2000.jsonl"},
    quick={"limit": 8, "sizes": "1,4", "max_tokens": 8},
    full={"limit": FACTS, "baselines": "prompt:64,rag,ft:64,ft_l:64"},
    instead={"data": Instead("counterfact.json")},
)

Sizes = Annotated[str, typer.Option(help="Facts of a batch, rising, with commas.")]
Seconds = dict[str, float]
"""By stage; "total" is the whole."""


@experiment(NAME, limit=FACTS)
def run(
    frame: Frame,
    sizes: Sizes = SIZES,
    addressing: Addressing = "slots",
    slots: Slots = SLOTS,
    baselines: Baselines = "",
) -> Report:
    """Seconds an edit and a question, single and batched, by stage (Tables 1 and 7).

    Example: larimar eval speed --data FILE --sizes 1,16,256
    """
    read = read_records(frame.data, frame.limit)
    numbers = counts("--sizes", sizes)
    if numbers[-1] > len(read.records):
        raise InvalidArgument(
            f"{len(read.records)} facts for batches of {numbers[-1]}: give a higher --limit or "
            "smaller --sizes"
        )
    chosen = wanted(baselines, read, frame.data)
    settings: dict[str, Any] = {
        "sizes": sizes,
        "addressing": addressing,
        "slots": slots,
        "detector": frame.detector,
        "max_tokens": frame.max_tokens,
        "baselines": list(chosen.names),
        **chosen.settings(),
    }
    grid = [(name, size) for name in addressings(addressing) for size in numbers]
    facts = {name: read.records[: chosen.most(name, len(read.records))] for name in chosen.names}
    others = [(name, size) for name in facts for size in numbers if size <= len(facts[name])]
    with opened(frame.target, frame.model, frame.detector, dtype=chosen.dtype) as system:
        run = frame.started(read, system.digest, settings | system.setup, facts=len(read.records))
        ask = partial(timed, max_tokens=frame.max_tokens)
        for key, (name, size) in run.missing("Speed", {_key(*cell): cell for cell in grid}):
            with system.new_bank(name, slots_of(name, slots)) as bank:
                run.kept.add(key, ask(bank, read.records, size))
        for name, baseline in alone(system, chosen):
            cells = {_key(name, size): size for other, size in others if other == name}
            for key, size in run.missing(name, cells):
                run.kept.add(key, ask(baseline, facts[name], size))
    kept, seed = run.kept, frame.seed
    rows = [
        _row(LARIMAR.name, kept[_key(name, size)], seed)
        | {"addressing": name, "slots": slots_of(name, slots), "facts": size}
        for name, size in grid
    ]
    base = [(size, kept[_key(grid[0][0], size)]["base"]) for size in numbers]
    rows += [_row(name, kept[_key(name, size)], seed) | {"facts": size} for name, size in others]
    rows += [
        _row(BASE.name, {"edits": [], "queries": found}, seed) | {"facts": size}
        for size, found in base
    ]
    heads = [f"{one.get('addressing', one['system'])}, {one['facts']} at once" for one in rows]
    return run.report(
        "Seconds of an edit and of a question",
        rows,
        [grid_table(rows, METRICS, heads, "batch")],
        [
            f"Means over batches of {len(read.records)} facts, divided by the facts of a batch; in "
            f"brackets the 95 % bootstrap interval over batches. A question is answered with up to "
            f"{frame.max_tokens} tokens.",
            "Edit: encode makes the latents of prompt and answer, scope the sentence embedding, "
            "fold the event and the new state. Question: scope embeds and find looks for the "
            "nearest prompt, encode makes its latent, read takes z out of memory, decode answers.",
            *chosen.limits_note("the first facts"),
        ],
        partial(_draw, rows=rows) if frame.where == IN_PROCESS else None,
        n=len(read.records),
    )


class Stopwatch:
    """Seconds spent in named stages since the last `lap`."""

    def __init__(self) -> None:
        self._seconds: Seconds = defaultdict(float)
        self._started = time.perf_counter()

    @contextmanager
    def on(self, owner: Any, method: str, stage: str) -> Iterator[None]:
        """Times one object's method as a stage, until the context ends."""
        setattr(owner, method, self._timed(getattr(owner, method), stage))
        try:
            yield
        finally:
            delattr(owner, method)

    def lap(self, number: int) -> Seconds:
        """The stages and the total since the last lap, each divided by `number`; starts anew."""
        now = time.perf_counter()
        found = dict(self._seconds) | {"total": now - self._started}
        self._seconds.clear()
        self._started = time.perf_counter()
        return {stage: seconds / number for stage, seconds in found.items()}

    def _timed(self, call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self._seconds[stage] += time.perf_counter() - started

        return timed


@contextmanager
def staged(system: Remembering, watch: Stopwatch) -> Iterator[None]:
    """Times the parts of a model of this process; a pipeline's are out of reach."""
    with ExitStack() as stack:
        if isinstance(system, InProcess):
            model = system.model
            for owner, method, stage in (
                (model.encoder, "encode_tokens", "encode"),
                (model.embedder, "embed", "scope"),
                (model.memory, "write", "fold"),
                (model.state, "detect", "find"),
                (model.state, "read", "read"),
                (model.decoder, "texts", "decode"),
            ):
                stack.enter_context(watch.on(owner, method, stage))
        yield


def timed(
    bank: Remembering, records: Sequence[EditRecord], size: int, max_tokens: int
) -> dict[str, list[Seconds]]:
    """Seconds of each batch of edits, of the questions about them, and of the base's answers."""
    batches = [
        records[low : low + size] for low in range(0, len(records) - len(records) % size, size)
    ]
    found: dict[str, list[Seconds]] = {"edits": [], "queries": [], "base": []}
    watch = Stopwatch()
    with staged(bank, watch):
        for place, batch in enumerate([batches[0], *batches]):
            queries = [Query(record.prompt, (), max_tokens) for record in batch]
            facts = [fact_of(record) for record in batch]
            for name, call in (
                ("edits", partial(bank.write, facts)),
                ("queries", partial(_answered, bank, queries, LARIMAR)),
                ("base", partial(_answered, bank, queries, BASE)),
            ):
                watch.lap(1)
                call()
                lap = watch.lap(len(batch))
                if place:
                    found[name].append(lap)
            if not place:
                bank.forget([fact.fact_id for fact in facts])
    bank.forget([fact_of(record).fact_id for batch in batches for record in batch])
    return found


def _answered(bank: Remembering, queries: Sequence[Query], view: View) -> None:
    bank.decode(bank.read(queries, view))


def _row(system: str, found: Mapping[str, Sequence[Seconds]], seed: int) -> dict[str, Any]:
    edits, queries = found["edits"], found["queries"]
    whole = {
        "seconds_per_edit": [one["total"] for one in edits],
        "seconds_per_query": [one["total"] for one in queries],
    }
    parts = _parts("edit", edits, EDIT_STAGES) | _parts("query", queries, QUERY_STAGES)
    summaries = {
        name: metrics.mean(values, seed).to_json()
        for name, values in (whole | parts).items()
        if values
    }
    return {"system": system, "metrics": summaries}


def _parts(kind: str, laps: Sequence[Seconds], stages: Sequence[str]) -> dict[str, list[float]]:
    """Each stage's seconds, and what no stage accounts for; nothing where no stage was timed."""
    known = [stage for stage in stages if any(stage in one for one in laps)]
    if not known:
        return {}
    parts = {f"{kind}_{stage}_seconds": [one.get(stage, 0.0) for one in laps] for stage in known}
    rest = [one["total"] - sum(one.get(stage, 0.0) for stage in known) for one in laps]
    return parts | {f"{kind}_{OTHER}_seconds": rest}


def _key(addressing: str, size: int) -> str:
    return f"{addressing}-{size}"


def _draw(figure: Any, *, rows: Sequence[Mapping[str, Any]]) -> None:
    """Stacked bars of milliseconds, edits above questions."""
    panels = figure.subplots(2, 1)
    for axes, kind, title, stages in zip(
        panels,
        ("edit", "query"),
        ("an edit", "a question"),
        (EDIT_STAGES, QUERY_STAGES),
        strict=True,
    ):
        some = [one for one in rows if f"{kind}_{OTHER}_seconds" in one["metrics"]]
        heads = [f"{one.get('addressing', one['system'])}, {one['facts']} at once" for one in some]
        left = [0.0] * len(some)
        for stage in (*stages, OTHER):
            none = {"value": 0.0}
            widths = [
                1000 * one["metrics"].get(f"{kind}_{stage}_seconds", none)["value"] for one in some
            ]
            axes.barh(heads, widths, left=left, label=stage, color=_COLORS[stage])
            left = [at + width for at, width in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"milliseconds of {title}")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, fontsize=8)
