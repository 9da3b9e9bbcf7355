"""Commands about a bank: bank, log, digest, replay, checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any

import typer

from larimar.cli.console import (
    DEFAULT_TARGET,
    LONG_TIMEOUT_S,
    AsJson,
    At,
    Bank,
    Target,
    Timeout,
    connect,
    emit,
    print_table,
    say,
    shorten,
    working,
)
from larimar.errors import DataLoss
from larimar.results import BankInfo, Event

bank_app = typer.Typer(
    help="Make, list, show and delete banks.",
    epilog="Example: larimar bank create demo; larimar bank list",
)
BankName = Annotated[str, typer.Argument(metavar="NAME", help="The bank.")]


class Addressing(StrEnum):
    """How facts are addressed in a bank."""

    slots = "slots"
    gaussian = "gaussian"
    pinv = "pinv"


def register(app: typer.Typer) -> None:
    """Adds the commands that are not under `bank`."""
    app.command(name="log", epilog="Example: larimar log --bank demo --follow")(show_log)
    app.command(epilog="Example: larimar digest --bank demo --json")(digest)
    app.command(epilog="Example: larimar replay --bank demo --verify")(replay)
    app.command(epilog="Example: larimar checkpoint --bank demo")(checkpoint)


def bank_json(info: BankInfo) -> dict[str, Any]:
    """A bank, as `bank list` and `bank show` print it."""
    shown = asdict(info)
    del shown["created"]
    return shown


@bank_app.command(epilog="Example: larimar bank create demo --addressing pinv --slots 512")
def create(
    name: BankName,
    addressing: Annotated[
        Addressing, typer.Option(help="slots grows with the facts; the others have K slots.")
    ] = Addressing.slots,
    slots: Annotated[
        int, typer.Option(min=0, help="K of a gaussian or pinv bank; 0: the service's default.")
    ] = 0,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Makes a bank; one that exists with the same configuration is left as it is."""
    with connect(target, timeout) as client:
        info = client.create_bank(name, addressing=addressing.value, slots=slots)
    if as_json:
        emit(asdict(info))
    else:
        say(f"bank {info.bank} ({info.addressing}) {'made' if info.created else 'exists'}")


@bank_app.command(name="list", epilog="Example: larimar bank list --json")
def list_banks(
    target: Target = DEFAULT_TARGET, timeout: Timeout = 30.0, as_json: AsJson = False
) -> None:
    """All banks, by name."""
    with connect(target, timeout) as client:
        banks = client.list_banks()
    if as_json:
        emit({"banks": [bank_json(info) for info in banks]})
        return
    print_table(
        ("bank", "addressing", "facts", "version", "bytes held"),
        [
            (i.bank, i.addressing, i.facts, "stopped" if i.stopped else i.version, i.state_bytes)
            for i in banks
        ],
    )


@bank_app.command(epilog="Example: larimar bank show demo")
def show(
    name: BankName = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """A bank's configuration and what it holds."""
    with connect(target, timeout) as client:
        info = client.get_bank(name)
    if as_json:
        emit(bank_json(info))
    else:
        shown = bank_json(info) | {"fill": _fill(info), "origin": _origin(info)}
        print_table(("", "value"), [(key.replace("_", " "), shown[key]) for key in shown])


def _fill(info: BankInfo) -> str:
    """N / K, which tells how well a bank of fixed size can still answer."""
    if not info.slots:
        return "- (a slots bank grows)"
    return f"{info.fill:.3f} (N/K, {round(info.fill * info.slots)} of {info.slots})"


def _origin(info: BankInfo) -> str:
    if info.origin is None:
        return "- (not a fork)"
    return f"{info.origin.bank} at version {info.origin.version}"


@bank_app.command(epilog="Example: larimar bank delete demo")
def delete(
    name: BankName,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Removes a bank and all it holds, its log too."""
    with connect(target, timeout) as client, working(f"deleting {name}"):
        client.delete_bank(name)
    if as_json:
        emit({"bank": name, "deleted": True})
    else:
        say(f"bank {name} deleted")


def show_log(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as events come.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events past this version.")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 0,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Events of a bank's log, by version. With --follow, a line each."""
    with connect(target, timeout) as client:
        if not follow:
            print_events(list(islice(client.events(bank, after=after), limit or None)), as_json)
            return
        events = client.watch(bank, after=after, timeout_s=timeout)
        for event in islice(events, limit or None):
            emit(asdict(event)) if as_json else say("  ".join(map(str, _row(event))))


def _row(event: Event) -> tuple[object, ...]:
    when = datetime.fromtimestamp(event.time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    kind = f"{event.kind} (erased)" if event.erased else event.kind
    return event.version, kind, event.fact_id, when, event.event_id


def print_events(events: list[Event], as_json: bool) -> None:
    """Entries of a log, as JSON or as a table."""
    if as_json:
        emit({"events": [asdict(event) for event in events]})
    else:
        print_table(("version", "kind", "fact id", "time", "event id"), [_row(e) for e in events])


def digest(
    at: At = 0,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """The digest of a bank: equal facts and configuration, equal digest.

    Digests of two times compare at equal version and equal erase count.
    """
    with connect(target, timeout) as client:
        result = client.digest(bank, at=at)
    if as_json:
        emit(asdict(result))
    else:
        say(
            f"{result.digest}  {result.bank} at version {result.version}, {result.facts} facts, "
            f"{result.erase_count} ever erased"
        )


def replay(
    verify: Annotated[
        bool, typer.Option("--verify", help="Exit with 1 when the rebuilt state differs.")
    ] = False,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = LONG_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Rebuilds a bank, memory and scope, from its log alone; compares digest and folded bytes."""
    with connect(target, timeout) as client, working(f"replaying {bank}"):
        result = client.replay(bank)
    if as_json:
        shown = asdict(result)
        del shown["folded_sha256"]
        emit(shown)
    else:
        verdict = "equals the served state" if result.matches else "DIFFERS from the served state"
        say(
            f"{result.digest}  {result.bank} at version {result.version}: {result.events} events "
            f"in {result.seconds:.2f} s; {verdict}"
        )
    if verify and not result.matches:
        raise DataLoss(
            f"bank {result.bank}: the state rebuilt from the log is not the one that serves",
            "REPLAY_DIFFERS",
        )


def checkpoint(
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = LONG_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Saves a checkpoint of a bank, so that the next start folds less."""
    with connect(target, timeout) as client, working(f"saving {bank}"):
        result = client.checkpoint(bank)
    if as_json:
        emit(asdict(result))
    else:
        size = f"{result.bytes} bytes"
        say(f"{shorten(result.digest)}  {result.bank} at version {result.version} saved, {size}")
