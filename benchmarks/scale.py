"""One slots bank as it grows: cost of a write and of a read, bytes of a fact, recall, by size.

Through the embedded store, the log and a follower, in this process; the vectors are synthetic. A
fact's rows are random unit vectors. A query is its fact's row with noise, at a cosine drawn from
those that the shipped encoder and sentence embedder give to CounterFact prompts and their
rephrasings. ``python -m benchmarks.scale --facts 1000000`` is the long one: it takes half an
hour or more, 18 GB of memory and up to 16 GB of disk.

C value size, D prompt-latent size, S scope size.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.measure import Aim, Report, prepare_process, ratio_of_medians
from larimar.cli.console import note, say
from larimar.cli.processes import checkout_root
from larimar.errors import LarimarError
from larimar.memory import BankConfig, BankState, Kind, make_payload, request_body

FACTS, QUICK_FACTS = 10_000, 300
FIRST_SIZE, QUICK_FIRST_SIZE = 1_000, 100
"""The smallest size measured; the others are ten times the one before."""
VALUE_SIZE, PROMPT_SIZE, SCOPE_SIZE = 768, 384, 384
COSINES = (
    (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0),
    (0.66, 0.68, 0.72, 0.845, 0.90, 0.945, 1.0),
)
"""Quantiles of the cosine of a prompt's latent to its rephrasing's, 200 CounterFact edits: measured
from 0.01 to 0.75, drawn out at the ends. Those of the sentence embeddings are within 0.03 above."""
BATCH = 500
"""Writes of one append while the bank grows."""
TIMED_BATCH, TIMED_BATCHES = 100, 20
SINGLE_WRITES = 50
QUERIES, QUICK_QUERIES = 200, 20
SETTLE_S = 1800.0
POLL_S = 0.2
MAX_WRITE_RATIO, MAX_READ_RATIO = 1.2, 1.5
"""Most that a write and a read may cost at the largest size, against the smallest."""
MIN_RECALL = 0.99
TENANT, BANK = "default", "scale"
PROMPT = "The capital of the country that was founded last is"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Size:
    """What was measured when the bank held so many facts; seconds, a number a batch or query."""

    append_s: list[float] = field(default_factory=list)
    bare_s: list[float] = field(default_factory=list)
    """Plain SETs of as many payloads, in one pipeline, right after each append."""
    single_s: list[float] = field(default_factory=list)
    """One write as a user makes it: the passes of its texts, an append of one event, the fold."""
    fold_s: list[float] = field(default_factory=list)
    passes_s: list[float] = field(default_factory=list)
    detect_s: list[float] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)
    by_address: list[bool] = field(default_factory=list)
    by_scope: list[bool] = field(default_factory=list)

    @property
    def write_s(self) -> float:
        """Median cost of a write: its share of an append and of the fold of it."""
        batches = [sum(pair) for pair in zip(self.append_s, self.fold_s, strict=True)]
        return statistics.median(batches) / TIMED_BATCH

    @property
    def searches_s(self) -> list[float]:
        """Each query's search of scope rows and read of the memory."""
        return [sum(pair) for pair in zip(self.detect_s, self.read_s, strict=True)]


def run(quick: bool, use_ray: bool, told: Callable[[str], None], facts: int = FACTS) -> Report:
    """Grows a bank to so many facts and measures it at every power of ten on the way.

    Ray has no part in it.

    Raises:
        LarimarError: a write was refused.
    """
    prepare_process()
    facts = QUICK_FACTS if quick else facts
    sizes = [QUICK_FIRST_SIZE if quick else FIRST_SIZE]
    while sizes[-1] * 10 <= facts:
        sizes.append(sizes[-1] * 10)
    if sizes[-1] < facts:
        sizes.append(facts)
    with tempfile.TemporaryDirectory(prefix="larimar-scale-") as folder:
        return asyncio.run(_grow(Path(folder), sizes, QUICK_QUERIES if quick else QUERIES, told))


async def _grow(
    folder: Path, sizes: Sequence[int], queries: int, told: Callable[[str], None]
) -> Report:
    from services.follower import Follower
    from services.redis_log import RedisLog
    from services.store import EmbeddedStore

    report = Report({"facts": sizes[-1], "C": VALUE_SIZE, "D": PROMPT_SIZE, "S": SCOPE_SIZE})
    config = BankConfig(
        prompt_size=PROMPT_SIZE, value_size=VALUE_SIZE, scope_size=SCOPE_SIZE
    ).validate()
    passes = encoder_passes()
    with EmbeddedStore(folder) as store:
        log = RedisLog(store.url, timeout_s=60.0)
        follower = Follower(log, ("memory", "scope"), state_budget_bytes=1 << 40)
        try:
            await log.make_bank(TENANT, BANK, config)
            async with follower.state(TENANT, BANK):
                pass
            store_bytes, own_bytes = store_memory(store.url), resident_bytes()
            found: list[Size] = []
            held = 0
            for size in sizes:
                singles = min(SINGLE_WRITES, size // 10)
                timed = min(TIMED_BATCH * TIMED_BATCHES, size // 2) + singles
                grown = time.perf_counter()
                while held < size - timed:
                    step = min(BATCH, size - timed - held)
                    await _append(log, config, range(held, held + step))
                    held += step
                    async with follower.state(TENANT, BANK):
                        pass
                    if held % 50_000 < BATCH:
                        told(f"{held} facts, {time.perf_counter() - grown:.0f} s")
                now = Size()
                async with follower.state(TENANT, BANK) as state:
                    settled_s = await asyncio.to_thread(settle, state)
                await asyncio.to_thread(wait_for_rewrite, store.url)
                while held < size - singles:
                    step = min(TIMED_BATCH, size - singles - held)
                    batch = range(held, held + step)
                    now.append_s.append(await _append(log, config, batch))
                    now.bare_s.append(await asyncio.to_thread(bare_sets, store.url, config, batch))
                    held += step
                    started = time.perf_counter()
                    async with follower.state(TENANT, BANK):
                        now.fold_s.append(time.perf_counter() - started)
                while held < size:
                    started = time.perf_counter()
                    await asyncio.to_thread(passes)
                    spent = time.perf_counter() - started
                    spent += await _append(log, config, range(held, held + 1))
                    started = time.perf_counter()
                    async with follower.state(TENANT, BANK):
                        now.single_s.append(spent + time.perf_counter() - started)
                    held += 1
                async with follower.state(TENANT, BANK) as state:
                    await asyncio.to_thread(settle, state)
                    if len(state) != size:
                        raise LarimarError(f"{len(state)} of {size} facts", "BAD_MEASUREMENT")
                    await asyncio.to_thread(measure_reads, state, size, queries, passes, now)
                found.append(now)
                _report_size(report, size, now, settled_s)
                report.compare(
                    f"{size} facts: bytes a fact in the store",
                    (store_memory(store.url) - store_bytes) / size,
                    unit="B",
                )
                report.compare(
                    f"{size} facts: bytes a fact in the store's files",
                    sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / size,
                    unit="B",
                )
                report.compare(
                    f"{size} facts: bytes a fact in the follower",
                    (resident_bytes() - own_bytes) / size,
                    unit="B",
                )
                told(f"measured {size} facts")
        finally:
            await follower.close()
            await log.close()
    _compare(report, sizes, found)
    return report


def _report_size(report: Report, size: int, now: Size, settled_s: float) -> None:
    per_second = [TIMED_BATCH / seconds for seconds in now.append_s]
    report.measure(f"{size} facts: append", "writes/s", per_second)
    report.measure(
        f"{size} facts: one write with its passes", "ms", [1e3 * one for one in now.single_s]
    )
    report.compare(
        f"{size} facts: append over plain SETs of the same bytes",
        ratio_of_medians(now.append_s, now.bare_s),
    )
    report.measure(
        f"{size} facts: fold", "events/s", [TIMED_BATCH / seconds for seconds in now.fold_s]
    )
    for what, seconds in (
        ("passes of encoder and embedder", now.passes_s),
        ("search of scope rows", now.detect_s),
        ("read of the memory", now.read_s),
    ):
        milliseconds = [1e3 * one for one in seconds]
        report.measure(f"{size} facts: {what}", "ms", milliseconds)
        report.compare(
            f"{size} facts: {what}, p95", float(np.percentile(milliseconds, 95)), unit="ms"
        )
    report.compare(
        f"{size} facts: recall by address", statistics.mean(now.by_address), _recall_aim()
    )
    report.compare(f"{size} facts: recall by scope", statistics.mean(now.by_scope), _recall_aim())
    report.compare(f"{size} facts: index settled after the last write", settled_s, unit="s")


def _recall_aim() -> Aim:
    return Aim(MIN_RECALL, at_least=True)


def _compare(report: Report, sizes: Sequence[int], found: Sequence[Size]) -> None:
    """The largest size against the smallest. The passes are the same work at every size: all of
    them together give the median that is added to both sides of the comparison of reads."""
    first, last = found[0], found[-1]
    passes_s = statistics.median(one for size in found for one in size.passes_s)
    report.compare(
        f"search and read alone, {sizes[-1]} against {sizes[0]} facts",
        statistics.median(last.searches_s) / statistics.median(first.searches_s),
    )
    report.compare(
        f"cost of a write in batches, {sizes[-1]} against {sizes[0]} facts",
        last.write_s / first.write_s,
        Aim(MAX_WRITE_RATIO, at_least=False),
    )
    report.compare(
        f"one write with its passes, {sizes[-1]} against {sizes[0]} facts",
        ratio_of_medians(last.single_s, first.single_s),
        Aim(MAX_WRITE_RATIO, at_least=False),
    )
    report.compare(
        f"plain SETs of the same bytes, {sizes[-1]} against {sizes[0]} facts",
        ratio_of_medians(last.bare_s, first.bare_s),
    )
    report.compare(
        f"read with its passes, {sizes[-1]} against {sizes[0]} facts",
        (passes_s + statistics.median(last.searches_s))
        / (passes_s + statistics.median(first.searches_s)),
        Aim(MAX_READ_RATIO, at_least=False),
    )


async def _append(log: Any, config: BankConfig, numbers: range) -> float:
    """Writes these facts; the seconds that the log took."""
    from services.log import Append

    items = [
        Append(Kind.WRITE, f"event-{n}", payload.fact_id, body, payload.to_bytes())
        for n, payload, body in synthetic_facts(config, numbers)
    ]
    started = time.perf_counter()
    results = await log.append(TENANT, BANK, items)
    seconds = time.perf_counter() - started
    refused = next((one.error for one in results if one.error is not None), None)
    if refused is not None:
        raise refused
    return seconds


def synthetic_facts(config: BankConfig, numbers: range) -> Iterator[tuple[int, Any, bytes]]:
    """(number, payload, request body) of each of these facts, each of its own seed."""
    for number in numbers:
        address_D, scope_S, value_C = vectors_of(number)
        fact_id, prompt, answer = fact_id_of(number), f"Prompt {number} is", f"answer {number}"
        payload = make_payload(
            config, fact_id, prompt, answer, (), address_D[None], value_C, scope_S[None]
        )
        yield number, payload, request_body(Kind.WRITE, fact_id, prompt, answer)


def vectors_of(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A fact's address row and scope row, of length 1, and its value."""
    rng = np.random.default_rng([0, number])
    rows = rng.standard_normal(PROMPT_SIZE + SCOPE_SIZE, np.float32)
    address_D, scope_S = rows[:PROMPT_SIZE], rows[PROMPT_SIZE:]
    value_C = 0.1 * rng.standard_normal(VALUE_SIZE, np.float32)
    return address_D / np.linalg.norm(address_D), scope_S / np.linalg.norm(scope_S), value_C


def fact_id_of(number: int) -> str:
    """Fact ids that sort by number."""
    return f"fact-{number:08d}"


def rephrased(row: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    """A vector of length 1 at this cosine to a row of length 1."""
    noise = rng.standard_normal(len(row))
    noise -= (noise @ row) * row
    noise *= math.sqrt(max(0.0, 1 - cosine**2)) / np.linalg.norm(noise)
    return (cosine * row + noise).astype(np.float32)


def measure_reads(
    state: BankState, size: int, queries: int, passes: Callable[[], None], now: Size
) -> None:
    """Queries for facts drawn at random, each timed in its three parts."""
    rng = np.random.default_rng([1, size])
    for number in rng.integers(0, size, queries).tolist():
        address_D, scope_S, _ = vectors_of(number)
        cosine = float(np.interp(rng.random(), *COSINES))
        address_D, scope_S = rephrased(address_D, cosine, rng), rephrased(scope_S, cosine, rng)
        at = [time.perf_counter()]
        passes()
        at.append(time.perf_counter())
        ((_, detected),) = state.detect(scope_S[None])
        at.append(time.perf_counter())
        (out,) = state.read(address_D[None])
        at.append(time.perf_counter())
        for times, low, high in zip(
            (now.passes_s, now.detect_s, now.read_s), at, at[1:], strict=False
        ):
            times.append(high - low)
        now.by_scope.append(detected == fact_id_of(number))
        now.by_address.append(out.fact_id == fact_id_of(number))


def settle(state: BankState) -> float:
    """Waits for the indexes; the seconds it took.

    Raises:
        LarimarError: they did not come to an end.
    """
    started = time.perf_counter()
    for rows in (state.addresses, state.scope):
        if rows is not None and not rows.settle(SETTLE_S):
            raise LarimarError("an index was not made in time", "BAD_MEASUREMENT")
    return time.perf_counter() - started


def encoder_passes() -> Callable[[], None]:
    """What a read costs before the memory is asked: the shipped encoder's and embedder's pass."""
    from larimar.checkpoint import ModelFolder, serving_dtype
    from larimar.scope import SentenceEmbedder

    folder = ModelFolder.open(checkout_root() / "models" / "larimar-small")
    encoder = folder.encoder(serving_dtype())
    embedder = SentenceEmbedder(folder.config.scope.package, serving_dtype())

    def passes() -> None:
        encoder.prompt_latents([PROMPT])
        embedder.embed([PROMPT])

    passes()
    return passes


def bare_sets(url: str, config: BankConfig, numbers: range) -> float:
    """Seconds of plain SETs of these facts' payloads: what the disk and the server take anyway."""
    from redis import Redis

    payloads = [payload.to_bytes() for _, payload, _ in synthetic_facts(config, numbers)]
    with Redis.from_url(url) as redis, redis.pipeline(transaction=False) as pipe:
        redis.ping()
        for place, payload in enumerate(payloads):
            pipe.set(f"bare:{place}", payload)
        started = time.perf_counter()
        pipe.execute()
        return time.perf_counter() - started


def store_memory(url: str) -> int:
    """Bytes that the store has in use, by its own account."""
    from redis import Redis

    with Redis.from_url(url) as redis:
        return int(redis.info("memory")["used_memory"])


def wait_for_rewrite(url: str) -> None:
    """Waits until the store is not rewriting its append-only file, which it does at every doubling.

    A rewrite takes a core for itself: at any size writes are timed while there is none.
    """
    from redis import Redis

    with Redis.from_url(url) as redis:
        while redis.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(POLL_S)


def resident_bytes() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def main(
    facts: Annotated[int, typer.Option(min=FIRST_SIZE, help="Facts to grow to.")] = FACTS,
    out: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = Path("out"),
) -> None:
    """Grows one slots bank to so many facts, and writes scale-FACTS.json."""
    from benchmarks import __main__ as command

    os.environ.update(command.QUIET_ENVIRONMENT)
    report = run(False, False, lambda line: note(f"scale: {line}"), facts)
    load = os.getloadavg()[0]
    document = {
        "name": "scale",
        "machine": command.machine(),
        "versions": command.versions(),
        "commit": command.commit(),
        "results": report.results() | {"load_average": {"before": load, "after": load}},
    }
    path = out / f"scale-{facts}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    command.show(document)
    say(f"wrote {path}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog="Example: python -m benchmarks.scale --facts 1000000")(main)
    app(prog_name="python -m benchmarks.scale")
