"""The guided demo: a language model learns facts, answers, forgets, and survives kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from larimar.cli import processes
from larimar.cli.console import AsJson, connect, emit, note, print_table, say, working
from larimar.errors import LarimarError, NotFound, Unavailable
from larimar.results import Edit, FailedWrite

if TYPE_CHECKING:
    from larimar.client import Client

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""How a target names this machine, where alone a process may be killed."""
SHOWN_FACTS = 12
"""Facts whose answers are printed one by one."""
MEASURED_FACTS = 60
"""Facts whose recall goes into the summary."""
CRASH_FACTS = 150
"""Facts written while processes are killed."""
ANSWER_TOKENS = 10
CALLERS = 8
"""Questions asked at once, where latency is not what is measured."""
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Example:
    """One line of examples/facts.jsonl."""

    id: str
    prompt: str
    answer: str
    relation: str
    rephrasings: list[str]
    neighbors: list[str]


@dataclass(frozen=True)
class Banks:
    """The banks of one demo."""

    main: str
    crash: str
    """Written while processes are killed."""
    twin: str
    """Written undisturbed with what is in `crash`."""

    @classmethod
    def called(cls, name: str) -> Banks:
        """Banks whose names begin alike."""
        return cls(name, f"{name}-crash", f"{name}-twin")

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return self.main, self.crash, self.twin


def demo(
    target: Annotated[
        str, typer.Option(help="A running pipeline; by default the demo starts its own.")
    ] = "",
    data_dir: Annotated[
        str, typer.Option(help="Data directory of that pipeline, for the kill -9 part.")
    ] = ".larimar",
    no_ray: Annotated[bool, typer.Option("--no-ray", help="Its own pipeline without Ray.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learns 200 made-up facts, answers and forgets them, and loses processes to kill -9.

    At a --target it works in banks of its own, removed at the end, and kills processes only where
    the pipeline of --data-dir is the target.
    """
    examples = read_examples(processes.checkout_root() / "examples" / "facts.jsonl")
    if target:
        banks, folder = Banks.called(f"demo-{secrets.token_hex(4)}"), Path(data_dir)
        spared = why_spared(target, folder)
        with connect(target, TIMEOUT_S) as client, made(client, banks):
            summary = tour(client, examples, folder, banks, quiet=as_json, spared=spared)
    else:
        banks = Banks.called("demo")
        with (
            own_pipeline(no_ray) as (address, folder),
            connect(address, TIMEOUT_S) as client,
            made(client, banks),
        ):
            summary = tour(client, examples, folder, banks, quiet=as_json)
    if as_json:
        emit(summary)
    if not summary.get("recovered", True):
        raise LarimarError("the memory did not come back as it was acknowledged", "DEMO_FAILED")


def read_examples(path: Path) -> list[Example]:
    """The made-up facts. Raises: NotFound, outside a checkout."""
    if not path.is_file():
        raise NotFound(f"no {path}: run the demo from a checkout of the project", "NO_CHECKOUT")
    return [Example(**json.loads(line)) for line in path.read_text().splitlines() if line]


@contextlib.contextmanager
def own_pipeline(no_ray: bool) -> Iterator[tuple[str, Path]]:
    """A pipeline on a free port with a new data directory, stopped and removed at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="larimar-demo-"))
    log = folder / processes.LOG_FILE
    log.touch()
    started = time.monotonic()
    options = ["--data-dir", str(folder), "--port", str(port), "--http-port", "0"]
    options += ["--no-ray"] * no_ray
    child = processes.start(options, processes.checkout_root(), log, detached=True)
    try:
        with processes.asked_to_end() as ending:
            with working("starting the pipeline: store, encoder, scope, memory, decoder, gateway"):
                running = processes.wait_until_up(child, folder, log, 0, lambda _: True, ending)
            if running is None:
                raise typer.Abort
        seconds = time.monotonic() - started
        note(f"the pipeline is up after {seconds:.0f} s: five services, one store, port {port}")
        yield f"127.0.0.1:{port}", folder
    finally:
        processes.stop(processes.Running(child.pid, port))
        child.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def made(client: Client, banks: Banks) -> Iterator[None]:
    """Makes the banks, and deletes them at the end."""
    try:
        for bank in banks.names:
            client.create_bank(bank)
        yield
    finally:
        for bank in banks.names:
            try:
                client.delete_bank(bank)
            except NotFound:
                pass  # it was not made
            except LarimarError as error:
                note(f"the bank {bank} is left: {error.message}")


def why_spared(target: str, folder: Path) -> str:
    """Why no process of a target may be killed; empty where its pipeline is that of the folder.

    Process ids that a pipeline names are those of its own machine, which need not be this one.
    """
    host, _, port = target.rpartition(":")
    running = processes.find_running(folder)
    if host in LOCAL_HOSTS and running and str(running.port) == port:
        return ""
    return f"no pipeline of the data directory {folder} is up at {target}; --data-dir names it"


def tour(
    client: Client,
    examples: list[Example],
    folder: Path,
    banks: Banks,
    quiet: bool,
    spared: str = "",
) -> dict[str, Any]:
    """Every part of the demo, in order; returns the summary.

    Args:
        banks: empty ones.
        spared: why no process is killed; empty where the pipeline of `folder` may lose some.
    """
    out: Callable[[str], None] = (lambda _: None) if quiet else say
    bank = banks.main

    def asked(prompts: Sequence[str]) -> list[str]:
        return answers(client, bank, prompts)

    shown = examples[:: max(1, len(examples) // SHOWN_FACTS)][:SHOWN_FACTS]
    measured = examples[::3][:MEASURED_FACTS]
    empty_digest = client.digest(bank).digest

    out("\n1. What the model says before anything is written")
    before = asked([fact.prompt for fact in shown])
    neighbors = [fact.neighbors[0] for fact in measured]
    neighbors_before = asked(neighbors)
    shown_neighbors_before = asked([fact.neighbors[0] for fact in shown])

    out(f"2. Writing {len(examples)} made-up facts, one event each, no gradient")
    started = time.monotonic()
    written = write_all(client, bank, examples)
    edits_per_second = len(written) / (time.monotonic() - started)
    first_digest = client.digest(bank).digest

    out("3. The same questions again, and in other words")
    after = asked([fact.prompt for fact in shown])
    reworded = asked([fact.rephrasings[0] for fact in shown])
    shown_neighbors_after = asked([fact.neighbors[0] for fact in shown])
    recall = share(measured, asked([fact.prompt for fact in measured]))
    rephrased = statistics.fmean(
        share(measured, asked([fact.rephrasings[way] for fact in measured])) for way in (0, 1)
    )
    neighbors_after = asked(neighbors)
    unchanged = statistics.fmean(
        a == b for a, b in zip(neighbors_before, neighbors_after, strict=True)
    )
    latency_ms = latency(client, bank, [fact.prompt for fact in measured[:20]])

    out("4. Forgetting the facts shown")
    for fact in shown:
        client.forget(fact.id, bank=bank)
    forgotten = asked([fact.prompt for fact in shown])
    for fact in [fact for fact in examples if fact not in shown]:
        client.forget(fact.id, bank=bank)
    all_forgotten = client.digest(bank).digest == empty_digest
    write_all(client, bank, examples[::-1])
    same_again = client.digest(bank).digest == first_digest

    out("5. kill -9 of the memory replica and of the store, while facts are written")
    if spared:
        out(f"   left out: {spared}")
        crash: dict[str, Any] = {"killed": [], "not_killed": spared}
    else:
        crash = survive(client, examples[:CRASH_FACTS], folder, banks, out)

    if not quiet:
        show(shown, before, after, reworded, forgotten)
        show_neighbors(shown, shown_neighbors_before, shown_neighbors_after)
    summary = {
        "facts": len(examples),
        "recall": recall,
        "recall_rephrased": rephrased,
        "neighbors_unchanged": unchanged,
        "forgotten_answer_is_the_answer_before": forgotten == before,
        "all_forgotten_is_never_written": all_forgotten,
        "written_in_another_order_is_equal": same_again,
        "edits_per_second": edits_per_second,
        "ask_latency_p50_ms": latency_ms,
        **crash,
    }
    if not quiet:
        show_summary(summary)
    return summary


def answers(client: Client, bank: str, prompts: Sequence[str]) -> list[str]:
    """Answers of a bank, several asked at once."""

    def answer(prompt: str) -> str:
        return client.ask(prompt, bank=bank, max_tokens=ANSWER_TOKENS).text

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(answer, prompts))


def write_all(client: Client, bank: str, examples: Sequence[Example]) -> list[Edit]:
    """Writes facts without their rephrasings. Raises: the error of the first that failed."""
    facts = [{"prompt": e.prompt, "answer": e.answer, "fact_id": e.id} for e in examples]
    edits: list[Edit] = []
    for result in client.write_many(facts, bank=bank):
        if isinstance(result, FailedWrite):
            raise result.error
        edits.append(result)
    return edits


def said(text: str, answer: str) -> bool:
    """Whether a text is the answer, case and punctuation aside."""
    return _words(text) == _words(answer)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def share(facts: Sequence[Example], answers: Sequence[str]) -> float:
    """Share of facts whose answer was said."""
    return statistics.fmean(
        said(text, fact.answer) for fact, text in zip(facts, answers, strict=True)
    )


def latency(client: Client, bank: str, prompts: Sequence[str]) -> float:
    """Median time of a whole answer, one question at a time, in milliseconds."""
    times = []
    for prompt in prompts:
        started = time.monotonic()
        client.ask(prompt, bank=bank, max_tokens=ANSWER_TOKENS)
        times.append(1000 * (time.monotonic() - started))
    return statistics.median(times)


def survive(
    client: Client,
    examples: Sequence[Example],
    folder: Path,
    banks: Banks,
    out: Callable[[str], None],
) -> dict[str, Any]:
    """Writes while memory and store are killed; compares with what was acknowledged."""
    acknowledged: list[Example] = []
    failed: list[str] = []

    def publish() -> None:
        for example in examples:
            try:
                client.write(example.prompt, example.answer, fact_id=example.id, bank=banks.crash)
                acknowledged.append(example)
            except Unavailable as error:
                failed.append(error.message)

    publisher = threading.Thread(target=publish)
    publisher.start()
    kills = []
    for wanted, name in ((len(examples) // 4, "memory replica"), (len(examples) // 2, "store")):
        while publisher.is_alive() and len(acknowledged) < wanted:
            time.sleep(0.005)
        pid = _pid_of(client, folder, name)
        if pid:
            os.kill(pid, signal.SIGKILL)
            kills.append(name)
            out(f"   kill -9 {pid} ({name}) after {len(acknowledged)} acknowledged edits")
    publisher.join()
    found = {fact.fact_id for fact in client.facts(banks.crash)}
    replay = client.replay(banks.crash)
    live = [example for example in examples if example.id in found]
    write_all(client, banks.twin, live[::-1])
    twin = client.digest(banks.twin)
    lost = [example.id for example in acknowledged if example.id not in found]
    same = replay.matches and client.digest(banks.crash).digest == twin.digest
    out(
        f"   {len(acknowledged)} acknowledged, {len(lost)} lost; replay of {replay.events} events "
        f"{'matches' if replay.matches else 'DIFFERS'}; digest "
        f"{'equals' if same else 'DIFFERS FROM'} that of an untroubled bank"
    )
    return {
        "killed": kills,
        "acknowledged": len(acknowledged),
        "acknowledged_lost": len(lost),
        "not_acknowledged": len(failed),
        "replay_matches": replay.matches,
        "digest_equals_untroubled_bank": same,
        "recovered": not lost and same and replay.matches,
    }


def _pid_of(client: Client, folder: Path, name: str) -> int:
    if name == "store":
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads((folder / processes.UP_FILE).read_text())["store_pid"] or 0)
        return 0
    for _ in range(50):
        for service in client.status().services:
            if service.name == "memory" and service.ready and service.pid:
                return service.pid
        time.sleep(0.2)
    return 0


def show(shown, before, after, reworded, forgotten) -> None:
    """The answers of a dozen facts, one line each."""
    rows = [
        (fact.prompt, fact.answer, *texts)
        for fact, *texts in zip(shown, before, after, reworded, forgotten, strict=True)
    ]
    columns = ("prompt", "written", "before", "after", "in other words", "forgotten")
    print_table(columns, rows, "Answers before, after, in other words, and after forgetting")


def show_neighbors(shown, before, after) -> None:
    """What the model says about others, before and after."""
    rows = [
        (fact.neighbors[0], a, b, "yes" if a == b else "no")
        for fact, a, b in zip(shown, before, after, strict=True)
    ]
    print_table(("neighbour", "before", "after", "unchanged"), rows, "Neighbours")


def show_summary(summary: dict[str, Any]) -> None:
    """The closing table."""
    names = {
        "facts": "facts written",
        "recall": "recall on their prompts",
        "recall_rephrased": "recall on unseen rephrasings",
        "neighbors_unchanged": "neighbours unchanged",
        "forgotten_answer_is_the_answer_before": "after forgetting: the answer before",
        "all_forgotten_is_never_written": "all forgotten: digest of never written",
        "written_in_another_order_is_equal": "written in another order: same digest",
        "edits_per_second": "edits per second",
        "ask_latency_p50_ms": "ask latency p50, ms",
        "acknowledged": "acknowledged while processes were killed",
        "acknowledged_lost": "of these lost",
        "replay_matches": "replay matches",
        "digest_equals_untroubled_bank": "digest equals an untroubled bank's",
    }
    rows = []
    for key, name in names.items():
        if key not in summary:
            continue
        value = summary[key]
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, float):
            value = f"{value:.1f}" if value > 1 else f"{value:.0%}"
        rows.append((name, value))
    print_table(("what", "measured"), rows, "Summary")
