"""A disaster drill: backed up while it serves, a fact erased, the machine lost, restored elsewhere.

What it proves: every bank of the backup is back with its digest, what was erased after the
backup stays gone, from files too, and what was written after it is named, and can be sent again.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import larimar
from benchmarks.chaos import RECOVERY_S, OwnPipeline, settings_file
from benchmarks.measure import Aim, Report, seconds_of
from benchmarks.texts import made_up_facts
from larimar.cli.admin import perform
from larimar.cli.backups import MODULE
from larimar.cli.keys import ADMIN_MODULE

FACTS, QUICK_FACTS = 1000, 24
LATER = 8
"""Facts that are written after the backup, and are lost with the machine."""
BANK, TRIAL, OTHER = "drill", "drill-trial", "drill-other"
SECRET_ID = "drill-secret"
SECRET = ("The word that opens the vault of Oskelund is", "quennavere")
NONE = Aim(0, at_least=False)


@dataclass
class Drill:
    """What one drill found; all but the first three must be 0."""

    banks: int = 0
    lost: int = 0
    """Edits that were acknowledged after the backup, and are gone with the machine."""
    seconds: dict[str, float] = field(default_factory=dict)
    digests_differ: int = 0
    replays_differ: int = 0
    edits_missing: int = 0
    """Acknowledged before the backup began, and not there."""
    erased_found: int = 0
    """Places of the restored pipeline in which the erased fact is."""
    keys_missing: int = 0
    not_taken_again: int = 0
    """Lost edits that a second sending did not bring back, each once."""


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> Report:
    """One drill; every difference is to be 0."""
    facts = made_up_facts(QUICK_FACTS if quick else FACTS)
    with _folder() as folder, settings_file(folder, erase_ledger=str(folder / "ledger.jsonl")):
        found = drill(folder, facts, not use_ray, told)
    report = Report({"facts": len(facts), "banks": found.banks, "ray": use_ray})
    for what, seconds in found.seconds.items():
        report.measure(what, "s", [seconds])
    report.compare("edits since the backup, lost and named", found.lost)
    for what, count in (
        ("edits of before the backup missing", found.edits_missing),
        ("banks with another digest", found.digests_differ),
        ("replays that differ", found.replays_differ),
        ("places that hold the erased fact", found.erased_found),
        ("API keys missing", found.keys_missing),
        ("lost edits not taken again", found.not_taken_again),
    ):
        report.compare(what, count, NONE)
    return report


def drill(
    folder: Path, facts: list[dict[str, str]], no_ray: bool, told: Callable[[str], None]
) -> Drill:
    """Backs up, loses and restores a pipeline below a folder that outlives it."""
    first, second = folder / "first", folder / "second"
    found = Drill()
    before, later, backup, key = _lost_machine(first, folder, facts, no_ray, found, told)
    told("the machine is gone; restoring elsewhere")
    restored: dict[str, Any] = {}
    job = _job("restore", folder, ledgers=[], replace=False)
    found.seconds["restore"] = seconds_of(
        lambda: restored.update(perform(MODULE, second, told, **job)[0])
    )
    pipeline = OwnPipeline(second, no_ray)
    found.seconds["start on the restored store"] = seconds_of(pipeline.start)
    try:
        with larimar.connect(pipeline.target, timeout_s=RECOVERY_S) as client:
            _compare(client, backup, before, found)
            _look_for_secret(client, second, found)
            _send_again(client, later, found)
    finally:
        pipeline.stop()
    (listed,) = perform(ADMIN_MODULE, second, action="list")
    keys = listed["keys"]
    found.keys_missing = int(key not in [one["id"] for one in keys])
    found.banks = len(backup["banks"])
    told(f"{found.lost} edits since the backup were lost, and sent again")
    return found


def _lost_machine(
    data_dir: Path,
    folder: Path,
    facts: list[dict[str, str]],
    no_ray: bool,
    found: Drill,
    told: Callable[[str], None],
) -> tuple[dict[str, int], list[dict[str, str]], dict[str, Any], str]:
    """Versions of the edits before the backup, those after it, the backup, and an API key's id."""
    pipeline = OwnPipeline(data_dir, no_ray)
    pipeline.start()
    try:
        with larimar.connect(pipeline.target, timeout_s=RECOVERY_S) as client:
            for bank in (BANK, OTHER):
                client.create_bank(bank)
            before = _written(client, BANK, facts)
            client.write(*SECRET, bank=BANK, fact_id=SECRET_ID)
            client.fork(BANK, TRIAL)
            made = _made_key(data_dir)
            backup: dict[str, Any] = {}
            job = _job("back_up", folder)
            with _writing(client, OTHER):
                found.seconds["backup while it serves"] = seconds_of(
                    lambda: backup.update(perform(MODULE, data_dir, told, **job)[0])
                )
            later = [
                {**fact, "fact_id": f"later-{n}", "event_id": f"later-{n}"}
                for n, fact in enumerate(facts[:LATER])
            ]
            _written(client, BANK, later)
            receipt = client.erase(SECRET_ID, bank=BANK)
            told(f"erased after the backup: {receipt.step}")
        pipeline.kill_tree()
    finally:
        pipeline.stop()
    shutil.rmtree(data_dir)
    return before, later, backup, made


def _written(client: larimar.Client, bank: str, facts: list[dict[str, str]]) -> dict[str, int]:
    versions = {}
    for result in client.write_many(facts, bank=bank):
        if isinstance(result, larimar.FailedWrite):
            raise result.error
        versions[result.event_id] = result.version
    return versions


@contextlib.contextmanager
def _writing(client: larimar.Client, bank: str) -> Iterator[None]:
    """Somebody writes all the while."""
    stopping = threading.Event()

    def write() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            client.write(f"The toll of gate {number} is", f"{number} groats", bank=bank)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield
    finally:
        stopping.set()
        writer.join(RECOVERY_S)


def _compare(
    client: larimar.Client, backup: dict[str, Any], before: dict[str, int], found: Drill
) -> None:
    """Banks without the erased fact have the digest that the backup names; all replay."""
    for one in backup["banks"]:
        now = client.digest(one["bank"])
        if now.erase_count == one["erase_count"]:
            same = (now.version, now.digest) == (one["version"], one["digest"])
            found.digests_differ += not same
        found.replays_differ += not client.replay(one["bank"]).matches
    events = {event.event_id: event.version for event in client.events(BANK)}
    found.edits_missing = sum(events.get(name) != version for name, version in before.items())


def _look_for_secret(client: larimar.Client, data_dir: Path, found: Drill) -> None:
    prompt, answer = SECRET
    for bank in (BANK, TRIAL):
        found.erased_found += sum(fact.fact_id == SECRET_ID for fact in client.facts(bank))
        found.erased_found += answer in client.ask(prompt, bank=bank, max_tokens=8).text
    for path in (data_dir / "appendonlydir").iterdir():
        content = path.read_bytes()
        found.erased_found += prompt.encode() in content or answer.encode() in content


def _send_again(client: larimar.Client, later: list[dict[str, str]], found: Drill) -> None:
    """Publishers send what they sent since the backup under the same event ids, twice."""
    there = {event.event_id for event in client.events(BANK)}
    found.lost = sum(fact["event_id"] not in there for fact in later)
    first = _written(client, BANK, later)
    found.not_taken_again = sum(
        first[name] != version for name, version in _written(client, BANK, later).items()
    )


def _made_key(data_dir: Path) -> str:
    job = {"action": "create", "tenant": "default", "name": "drill", "scopes": ["read"]}
    (made,) = perform(ADMIN_MODULE, data_dir, **job)
    return made["id"]


def _job(action: str, folder: Path, **more: Any) -> dict[str, Any]:
    return {"action": action, "folder": str(folder / "backup"), **more}


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="larimar-drill-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
