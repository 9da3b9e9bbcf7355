"""Edits written, asked about and forgotten: what the tables of single and batched edits share.

For each record: write prompt and new target, then score and generate at the edit prompt,
at its paraphrases and at its neighbours; then forget the fact. Several views of one
system answer the same prompts: with memory and scope, without scope, and the plain
decoder. Scope sees the prompt only: candidates are scored after a prompt, they are
never part of it.

Source: [L] (arXiv 2403.11901) section 5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from evaluation import metrics
from evaluation.data import EditRecord, without_edited_neighbors
from evaluation.systems import (
    BASE,
    LARIMAR,
    Candidate,
    NewFact,
    Query,
    Remembering,
    Seen,
    System,
    View,
)
from larimar.errors import InvalidArgument

Item = TypeVar("Item")
# The longest target is a name of a few words; the rest is room for the sentence to end.
MAX_TOKENS = 16
NEIGHBOR_TEXTS = 2
"""Neighbours of a record, its first ones, that are continued too, and not scored only."""
DECODED_TOGETHER = 16
"""Records whose prompts are decoded together: a few hundred rows fill the decoder's batches."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt asked: the new and the true target scored, and a greedy continuation."""

    new: Candidate
    true: Candidate
    target: str
    """The new target."""
    answer: str
    """The true target."""
    text: str | None
    """None where nothing was generated."""
    in_scope: bool


@dataclass(frozen=True, slots=True)
class Observation:
    """All that one view of a system said to the prompts of one record."""

    edit: Probe
    paraphrases: tuple[Probe, ...]
    paraphrases_raw: tuple[Probe, ...]
    neighbors: tuple[Probe, ...]


Observations = Mapping[str, Observation]
"""By the name of the view."""
Measure = Callable[[Observation, Observation | None], dict[str, float | None]]
"""The metrics of one record, from what a view and the base said; each a fraction."""


def fact_of(record: EditRecord, rephrasings: Sequence[str] = ()) -> NewFact:
    """The fact that a record writes."""
    fact_id = f"evaluation-{record.case_id}"
    return NewFact(fact_id, record.prompt, record.target_new, tuple(rephrasings))


def queries_of(record: EditRecord, max_tokens: int) -> list[Query]:
    """Every prompt of a record; candidates are a space and the target."""
    true = [record.target_true] * (1 + len(record.paraphrases) + len(record.paraphrases_raw))
    prompts = [record.prompt, *record.paraphrases, *record.paraphrases_raw, *record.neighbors]
    continued = len(true) + NEIGHBOR_TEXTS
    return [
        Query(
            prompt,
            (f" {record.target_new}", f" {answer}"),
            max_tokens if place < continued else 0,
        )
        for place, (prompt, answer) in enumerate(
            zip(prompts, [*true, *record.neighbor_answers], strict=True)
        )
    ]


def observation_of(record: EditRecord, seen: Sequence[Seen]) -> Observation:
    """What was seen after `queries_of`, in its order."""
    clean, raw = len(record.paraphrases), len(record.paraphrases_raw)
    answers = [record.target_true] * (1 + clean + raw) + [*record.neighbor_answers]
    probes = [
        Probe(
            one.candidates[0], one.candidates[1], record.target_new, answer, one.text, one.in_scope
        )
        for one, answer in zip(seen, answers, strict=True)
    ]
    return Observation(
        edit=probes[0],
        paraphrases=tuple(probes[1 : 1 + clean]),
        paraphrases_raw=tuple(probes[1 + clean : 1 + clean + raw]),
        neighbors=tuple(probes[1 + clean + raw :]),
    )


def observed(
    system: System,
    records: Sequence[EditRecord],
    views: Sequence[View],
    *,
    batch: int | None = None,
    max_tokens: int = MAX_TOKENS,
    done: Callable[[EditRecord], bool] = lambda record: False,
    decode: Callable[[Sequence[Any]], list[Seen]] | None = None,
    fact: Callable[[EditRecord], NewFact] = fact_of,
) -> Iterator[tuple[EditRecord, Observations]]:
    """What each view says to each record that is not done, in order.

    Args:
        batch: facts that are written at once, in order of the records; None writes one at a
            time. Neighbours that another fact of their batch edits are left out.
        decode: in the place of the system's own.
        fact: what a record writes.

    Raises:
        InvalidArgument: no records, or a case id twice.
        LarimarError: from the system; what was written is forgotten if it still answers.
    """
    if not records or not views or max_tokens < 1 or (batch is not None and batch < 1):
        raise InvalidArgument("give at least one record, one row, one token and a batch of one")
    if len({record.case_id for record in records}) < len(records):
        raise InvalidArgument("two records have one case id: their facts would replace each other")
    size = batch or DECODED_TOGETHER
    for low in range(0, len(records), size):
        group = records[low : low + size]
        if batch is not None:
            group = without_edited_neighbors(group)
        wanted = [record for record in group if not done(record)]
        if not wanted:
            continue
        held = []
        if batch is None:
            for record in wanted:
                with written(system, [fact(record)]):
                    held.append(_read(system, record, views, max_tokens))
        else:
            with written(system, [fact(record) for record in group]):
                held = [_read(system, record, views, max_tokens) for record in wanted]
        for start in range(0, len(wanted), DECODED_TOGETHER):
            some = slice(start, start + DECODED_TOGETHER)
            yield from _decoded(decode or system.decode, wanted[some], held[some], views)


def _read(
    system: System, record: EditRecord, views: Sequence[View], max_tokens: int
) -> list[list[Any]]:
    """What memory has for a record's queries, for each view."""
    queries = queries_of(record, max_tokens)
    return [system.read(queries, view) for view in views]


def _decoded(
    decode: Callable[[Sequence[Any]], list[Seen]],
    records: Sequence[EditRecord],
    held: Sequence[list[list[Any]]],
    views: Sequence[View],
) -> Iterator[tuple[EditRecord, Observations]]:
    flat = [one for of_record in held for of_view in of_record for one in of_view]
    seen = iter(decode(flat))
    for record, of_record in zip(records, held, strict=True):
        yield (
            record,
            {
                view.name: observation_of(record, [next(seen) for _ in of_view])
                for view, of_view in zip(views, of_record, strict=True)
            },
        )


def probes_at(
    system: Remembering,
    asked: Sequence[tuple[EditRecord, str]],
    view: View = LARIMAR,
    max_tokens: int = MAX_TOKENS,
) -> list[Probe]:
    """What a system says to each record's prompt: both targets scored, an answer generated.

    What was decoded before with the same latent is not decoded again.
    """
    queries = [
        Query(prompt, (f" {record.target_new}", f" {record.target_true}"), max_tokens)
        for record, prompt in asked
    ]
    seen = system.decode(system.read(queries, view), remember=True)
    return [
        Probe(
            one.candidates[0],
            one.candidates[1],
            record.target_new,
            record.target_true,
            one.text,
            one.in_scope,
        )
        for (record, _), one in zip(asked, seen, strict=True)
    ]


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly spaced, from the first on."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


@contextmanager
def written(system: System, facts: Sequence[NewFact]) -> Iterator[None]:
    """Holds facts in memory; forgets them, come what may."""
    system.write(facts)
    try:
        yield
    finally:
        system.forget([fact.fact_id for fact in facts])


def measured(
    system: System, record: EditRecord, seen: Observations, measure: Measure
) -> dict[str, Any]:
    """What is kept of a record: the metrics of each view, and the check of the plain decoder."""
    base = seen.get(BASE.name)
    kept: dict[str, Any] = {
        "rows": {name: measure(one, base) for name, one in seen.items()},
    }
    if LARIMAR.name in seen and base is not None:
        kept["plain"] = _plain_check(system, record, seen[LARIMAR.name], base)
    return kept


def _plain_check(
    system: System, record: EditRecord, ours: Observation, base: Observation
) -> dict[str, Any]:
    """How far out-of-scope neighbours are from the plain decoder: 0 where nothing differs."""
    pairs = zip(record.neighbors, ours.neighbors, base.neighbors, strict=True)
    outside = [(prompt, mine, plain) for prompt, mine, plain in pairs if not mine.in_scope]
    differences = [
        abs(one - other)
        for _, mine, plain in outside
        for mine_c, plain_c in ((mine.new, plain.new), (mine.true, plain.true))
        for one, other in zip(mine_c.token_logprobs, plain_c.token_logprobs, strict=True)
    ]
    return {
        "queries": len(outside),
        "logprob_difference": max(differences, default=0.0),
        "texts": sum(mine.text is not None for _, mine, _ in outside),
        "texts_differ": sum(mine.text != plain.text for _, mine, plain in outside),
        "stock_logit_difference": system.plain_difference([prompt for prompt, _, _ in outside]),
    }


def plain_summary(kept: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The checks of all records together; None where none was made."""
    checks = [one["plain"] for one in kept if "plain" in one]
    if not checks:
        return None
    stock = [c["stock_logit_difference"] for c in checks if c["stock_logit_difference"] is not None]
    return {
        "queries": sum(check["queries"] for check in checks),
        "logprob_difference": max(check["logprob_difference"] for check in checks),
        "texts": sum(check["texts"] for check in checks),
        "texts_differ": sum(check["texts_differ"] for check in checks),
        "stock_logit_difference": max(stock, default=None),
    }


def plain_note(summary: Mapping[str, Any]) -> str:
    """The check of the plain decoder as a sentence."""
    stock = summary["stock_logit_difference"]
    logits = "" if stock is None else f"; to the stock model's logits: {stock:g}"
    return (
        f"{summary['queries']} neighbourhood queries were out of scope. Largest difference of "
        "their targets' log probabilities to the plain decoder: "
        f"{summary['logprob_difference']:g}; "
        f"continuations that differ from it: {summary['texts_differ']} of "
        f"{summary['texts']}{logits}."
    )


def row(
    name: str, values: Sequence[Mapping[str, float | None]], names: Sequence[str], seed: int
) -> dict[str, Any]:
    """One system's row: each metric with its interval over records."""
    summaries = {
        metric: metrics.summarise((one[metric] for one in values), seed).to_json()
        for metric in names
    }
    return {"system": name, "metrics": summaries}
