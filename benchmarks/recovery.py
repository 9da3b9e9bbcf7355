"""How soon a bank is back in service: from a checkpoint and the tail behind it, and from nothing.

A pinv bank of the paper's size, its log in the embedded store, vectors synthetic. The memory's and
the scope's follower each start anew, as after a restart, and are asked for the state.

K slots, C value size, D prompt-latent size, S scope size.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.measure import Aim, Report
from larimar.cli.console import note, say
from larimar.errors import LarimarError
from larimar.memory import BankConfig, Kind, Payload, request_body
from services.follower import Follower
from services.log import Append
from services.redis_log import RedisLog
from services.store import EmbeddedStore

EVENTS, TAIL = 20_000, 2_000
QUICK_EVENTS, QUICK_TAIL = 600, 100
FULL_EVENTS, FULL_TAIL = 1_000_000, 10_000
SLOTS, VALUE_SIZE, PROMPT_SIZE, SCOPE_SIZE = 512, 768, 384, 384
BATCH = 500
"""Events of one append."""
MAX_RECOVERY_S = 10.0
"""Longest way back from checkpoint and tail, for a million events."""
MIN_EVENTS_A_SECOND = 20_000
TOLD_EVENTS = 50_000
TENANT, BANK = "default", "recovery"


def run(
    quick: bool,
    use_ray: bool,
    told: Callable[[str], None],
    events: int = EVENTS,
    tail: int = TAIL,
) -> Report:
    """Writes a log, starts followers on it, and times them. Ray has no part in it.

    Raises:
        LarimarError: a write was refused, or a follower came to another state.
    """
    if quick:
        events, tail = QUICK_EVENTS, QUICK_TAIL
    with tempfile.TemporaryDirectory(prefix="larimar-recovery-") as folder:
        return asyncio.run(_recover(Path(folder), events, tail, told))


async def _recover(folder: Path, events: int, tail: int, told: Callable[[str], None]) -> Report:
    report = Report({"events": events, "tail": tail, "K": SLOTS, "C": VALUE_SIZE, "S": SCOPE_SIZE})
    config = BankConfig(
        addressing="pinv",
        slots=SLOTS,
        prompt_size=PROMPT_SIZE,
        value_size=VALUE_SIZE,
        scope_size=SCOPE_SIZE,
    ).validate()
    digests = set()
    with EmbeddedStore(folder) as store:
        log = RedisLog(store.url, timeout_s=60.0)
        try:
            await log.make_bank(TENANT, BANK, config)
            await _write(log, range(events - tail), told)
            for part in ("memory", "scope"):
                follower = Follower(log, (part,), 1 << 40)
                started = time.perf_counter()
                version, _, size = await follower.save_checkpoint(TENANT, BANK)
                told(f"checkpoint of {part} at {version}: {size / 2**20:.0f} MiB")
                report.compare(f"checkpoint of the {part} part", size / 2**20, unit="MiB")
                report.compare(
                    f"fold from nothing and save, {part}", time.perf_counter() - started, unit="s"
                )
            await _write(log, range(events - tail, events), told)
            for part in ("memory", "scope"):
                seconds = await _served_s(log, part, events, digests)
                report.compare(
                    f"{part} in service from checkpoint and tail",
                    seconds,
                    Aim(MAX_RECOVERY_S, at_least=False),
                    unit="s",
                )
                told(f"{part} from checkpoint and tail: {seconds:.1f} s")
            for part in ("memory", "scope"):
                follower = Follower(log, (part,), 1 << 40)
                started = time.perf_counter()
                state = await follower.rebuilt(TENANT, BANK, progress=_progress(part, told))
                seconds = time.perf_counter() - started
                digests.add(state.digest())
                aim = Aim(MIN_EVENTS_A_SECOND, at_least=True) if part == "memory" else None
                report.compare(
                    f"{part} replayed from nothing", events / seconds, aim, unit="events/s"
                )
                report.compare(f"{part} in service from nothing", seconds, unit="s")
            if len(digests) != 1:
                raise LarimarError("followers came to different digests", "BAD_MEASUREMENT")
        finally:
            await log.close()
    return report


async def _served_s(log: RedisLog, part: str, events: int, digests: set[str]) -> float:
    """Seconds until a new follower gives the state, for a read of it."""
    started = time.perf_counter()
    async with Follower(log, (part,), 1 << 40).state(TENANT, BANK) as state:
        seconds = time.perf_counter() - started
        if state.version != events:
            raise LarimarError(f"version {state.version}, not {events}", "BAD_MEASUREMENT")
        digests.add(state.digest())
    return seconds


def _progress(part: str, told: Callable[[str], None]) -> Callable[[int], None]:
    def progress(version: int) -> None:
        if version % TOLD_EVENTS == 0:
            told(f"{part}: {version} events folded")

    return progress


async def _write(log: RedisLog, numbers: range, told: Callable[[str], None]) -> None:
    for low in range(numbers.start, numbers.stop, BATCH):
        batch = range(low, min(low + BATCH, numbers.stop))
        results = await log.append(TENANT, BANK, _items(batch))
        refused = next((one.error for one in results if one.error is not None), None)
        if refused is not None:
            raise refused
        if batch.stop % TOLD_EVENTS == 0:
            told(f"{batch.stop} events written")


def _items(numbers: range) -> list[Append]:
    rng = np.random.default_rng(numbers.start)
    addresses = rng.integers(-(1 << 14), 1 << 14, (len(numbers), 1, SLOTS), np.int32)
    values = rng.integers(-(1 << 14), 1 << 14, (len(numbers), VALUE_SIZE), np.int32)
    scopes = rng.integers(-(1 << 14), 1 << 14, (len(numbers), 1, SCOPE_SIZE), np.int32)
    items = []
    for n, address, value, scope in zip(numbers, addresses, values, scopes, strict=True):
        fact_id, prompt, answer = f"fact-{n:08d}", f"Prompt {n} is", f"answer {n}"
        payload = Payload(fact_id, prompt, answer, (), address, value, scope)
        body = request_body(Kind.WRITE, fact_id, prompt, answer)
        items.append(Append(Kind.WRITE, f"event-{n}", fact_id, body, payload.to_bytes()))
    return items


def main(
    events: Annotated[int, typer.Option(min=1000, help="Events of the log.")] = FULL_EVENTS,
    tail: Annotated[int, typer.Option(min=1, help="Events behind the checkpoint.")] = FULL_TAIL,
    out: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = Path("out"),
) -> None:
    """Writes a log of so many events, and writes recovery-EVENTS.json."""
    from benchmarks import __main__ as command

    os.environ.update(command.QUIET_ENVIRONMENT)
    before = os.getloadavg()[0]
    report = run(False, False, lambda line: note(f"recovery: {line}"), events, tail)
    document = {
        "name": "recovery",
        "machine": command.machine(),
        "versions": command.versions(),
        "commit": command.commit(),
        "results": report.results()
        | {"load_average": {"before": before, "after": os.getloadavg()[0]}},
    }
    path = out / f"recovery-{events}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    command.show(document)
    say(f"wrote {path}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog="Example: python -m benchmarks.recovery --events 1000000")(main)
    app(prog_name="python -m benchmarks.recovery")
