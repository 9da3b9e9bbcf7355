"""Commands about traces: trace, which shows what a pipeline wrote to its traces file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli.console import AsJson, emit, print_table
from larimar.errors import NotFound

BAR_CHARS = 32
"""Width of the picture of when a span ran."""

Span = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: larimar trace traces.jsonl --method Ask")(trace)


def trace(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="What the field traces_file of the settings names."
        ),
    ],
    trace_id: Annotated[
        str, typer.Option("--id", metavar="TRACE_ID", help="Which trace, or how its id begins.")
    ] = "",
    method: Annotated[
        str, typer.Option(help="The newest trace that has a call of this method: Ask, Write ...")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Shows a trace: which service did what, when, and for how long; without --id the newest."""
    spans = [
        span
        for span in _read(file)
        if span["trace_id"].startswith(trace_id) and (trace_id or _belongs(span, method))
    ]
    if not spans:
        raise NotFound(f"no such trace in {file}: is traces_file set, and was it sampled?")
    newest = max(spans, key=lambda span: span["start_unix_ns"])["trace_id"]
    found = [span for span in _read(file) if span["trace_id"] == newest]
    if as_json:
        emit({"trace_id": newest, "spans": found})
        return
    first = min(span["start_unix_ns"] for span in found)
    whole_ms = max(_after_ms(span, first) + span["time_ms"] for span in found) or 1.0
    rows = [
        (
            span["service"],
            "  " * depth + _named(span),
            f"{_after_ms(span, first):.1f}",
            f"{span['time_ms']:.1f}",
            _bar(_after_ms(span, first) / whole_ms, span["time_ms"] / whole_ms),
            span["status"],
        )
        for depth, span in _in_order(found)
    ]
    print_table(("service", "span", "after ms", "ms", "when", "status"), rows, f"trace {newest}")


def _read(file: Path) -> list[Span]:
    """The spans of a file; a last line that is still being written is left for later."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.endswith("\n")]


def _belongs(span: Span, method: str) -> bool:
    return span["name"].endswith(f"/{method}") if method else not span["parent_id"]


def _in_order(spans: list[Span]) -> list[tuple[int, Span]]:
    """Each span below its parent, by time; one whose parent is not in the file stands outermost."""
    ids = {span["span_id"] for span in spans}
    below: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span["start_unix_ns"]):
        below.setdefault(span["parent_id"] if span["parent_id"] in ids else "", []).append(span)

    def under(parent: str, depth: int) -> list[tuple[int, Span]]:
        found = []
        for span in below.get(parent, []):
            found += [(depth, span), *under(span["span_id"], depth + 1)]
        return found

    return under("", 0)


def _after_ms(span: Span, first_ns: int) -> float:
    return (span["start_unix_ns"] - first_ns) / 1e6


def _named(span: Span) -> str:
    calls = {"client": "call ", "server": "serve ", "consumer": "take "}
    numbers = " ".join(f"{name}={value}" for name, value in span["attributes"].items())
    done = f"{calls.get(span['kind'], '')}{span['name'].removeprefix('larimar.v1.')}"
    return " ".join([done, numbers, *(f"see trace {one[:8]}" for one in span.get("links", ()))])


def _bar(start: float, share: float) -> str:
    low = min(BAR_CHARS - 1, int(start * BAR_CHARS))
    high = max(low + 1, round((start + share) * BAR_CHARS))
    return " " * low + "#" * (min(high, BAR_CHARS) - low)
