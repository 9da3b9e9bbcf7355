"""Replay from the embedded store against the bare fold of the same events in this process.

The payloads are synthetic: random vectors, appended through the memory service's own
contract. Its RebuildBank folds the log from nothing and says how long that took; the gateway's
Replay asks memory and scope at once, who then share cores and store.

C value size, D prompt-latent size, S scope size.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import larimar
from benchmarks.measure import Aim, Report, in_turns, prepare_process, ratio_of_medians
from larimar.calls import MAX_MESSAGE_BYTES
from larimar.cli import processes
from larimar.cli.demo import own_pipeline
from larimar.client import Client
from larimar.errors import LarimarError, Unavailable, from_code
from larimar.memory import BankConfig, BankState, Event, Kind, Payload, make_payload
from larimar.v1 import common_pb2, memory_pb2, memory_pb2_grpc
from larimar.wire import config_from_proto, config_to_proto, vector_to_bytes

EVENTS, ROUNDS = 20_000, 5
QUICK_EVENTS, QUICK_ROUNDS = 120, 2
FORGET_EVERY = 10
"""Every tenth event forgets an older fact; the others each write a new one."""
APPEND_EVENTS = 250
"""Events of one append."""
FOLD_EVENTS = 1000
"""Events folded at once, as a follower does."""
SPREAD = 0.1
"""Standard deviation of the random vectors: far inside every fixed-point range."""
PAPER_SLOTS, PAPER_SIZE = 512, 768
"""K and C of the paper's memory."""
MIN_RATE = 20_000
"""Fewest events a second from the store."""
TIMEOUT_S = 600.0
_MEMORY_PORT = re.compile(r"^memory listens on port (\d+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Step:
    """One synthetic event: a write with its vectors, or without them a forget."""

    fact_id: str
    vectors: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    """Prompt latent (D,), value (C,) and sentence embedding (S,), float32."""


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> Report:
    """Events a second at the paper's C=768: of a slots memory, and of a pinv memory with K=512.

    The memory service is a process of its own here in either mode: Ray has no part in a replay.

    Raises:
        LarimarError: the two sides did not fold to the same digest.
    """
    prepare_process()
    events, rounds = (QUICK_EVENTS, QUICK_ROUNDS) if quick else (EVENTS, ROUNDS)
    report = Report({"events": events, "forget_every": FORGET_EVERY, "rounds": rounds})
    with (
        own_pipeline(no_ray=True) as (target, folder),
        larimar.connect(target, timeout_s=TIMEOUT_S) as client,
        grpc.insecure_channel(
            f"127.0.0.1:{memory_port(folder)}",
            (("grpc.max_send_message_length", MAX_MESSAGE_BYTES),),
        ) as channel,
    ):
        memory = memory_pb2_grpc.MemoryStub(channel)
        client.create_bank("slots")
        described = memory.DescribeBank(memory_pb2.DescribeBankRequest(bank="slots"))
        slots = config_from_proto(described.info.config)
        for bank in ("paper-slots", "paper-pinv"):
            config = paper_config(slots, bank.removeprefix("paper-"))
            told(f"appending {events} events to a {bank} bank")
            _measure(client, memory, bank, config, events, rounds, told, report)
    return report


def _measure(
    client: Client,
    memory: Any,
    bank: str,
    config: BankConfig,
    events: int,
    rounds: int,
    told: Callable[[str], None],
    report: Report,
) -> None:
    steps = list(synthetic_steps(config, events))
    append(memory, bank, config, steps)
    log = payload_log(config, steps)
    digests = set()

    def replayed() -> float:
        result = memory.RebuildBank(memory_pb2.RebuildBankRequest(bank=bank), timeout=TIMEOUT_S)
        digests.add(result.digest)
        return events / result.seconds

    def beside_scope() -> float:
        result = client.replay(bank)
        digests.add(result.digest)
        return events / result.seconds

    def bare() -> float:
        state, seconds = folded(config, log)
        digests.add(state.digest())
        return events / seconds

    sides = {"replayed": replayed, "beside scope": beside_scope, "bare": bare}
    found = in_turns(sides, rounds, told)
    if len(digests) > 1:
        raise LarimarError("replay and bare fold do not have one digest", "BAD_MEASUREMENT")
    size = f"{config.addressing}, C={config.value_size}, D={config.prompt_size}"
    size += f", K={config.slots}" if config.slots else ""
    report.measure(f"{size}: from the store", "events/s", found["replayed"])
    report.measure(f"{size}: beside scope's", "events/s", found["beside scope"])
    report.measure(f"{size}: bare fold", "events/s", found["bare"])
    rate = statistics.median(found["replayed"])
    report.compare(
        f"{size}: rate from the store", rate, Aim(MIN_RATE, at_least=True), unit="events/s"
    )
    report.compare(f"{size}: rate against bare", ratio_of_medians(found["replayed"], found["bare"]))


def paper_config(like: BankConfig, addressing: str = "pinv") -> BankConfig:
    """A memory with the paper's sizes of K and C, for the same model as another configuration."""
    slots = 0 if addressing == "slots" else PAPER_SLOTS
    return dataclasses.replace(like, addressing=addressing, slots=slots, value_size=PAPER_SIZE)


def memory_port(data_dir: Path) -> int:
    """Port of a pipeline's memory service, from the pipeline's log.

    Raises:
        Unavailable: the log does not tell.
    """
    found = _MEMORY_PORT.findall((data_dir / processes.LOG_FILE).read_text(encoding="utf-8"))
    if not found:
        raise Unavailable("the pipeline's log does not tell the memory service's port", "NO_PORT")
    return int(found[-1])


def synthetic_steps(config: BankConfig, events: int, seed: int = 0) -> Iterator[Step]:
    """Writes of random vectors, and forgets of what was written half the log before."""
    rng = np.random.default_rng(seed)

    def vector(size: int) -> np.ndarray:
        return (SPREAD * rng.standard_normal(size)).astype(np.float32)

    for number in range(events):
        if number % FORGET_EVERY == FORGET_EVERY - 1:
            tens, one = divmod(number // FORGET_EVERY, 2)
            yield Step(f"fact-{tens * FORGET_EVERY + one}")
        else:
            sizes = (config.prompt_size, config.value_size, config.scope_size)
            latent_D, value_C, scope_S = map(vector, sizes)
            yield Step(f"fact-{number}", (latent_D, value_C, scope_S))


def append(memory: Any, bank: str, config: BankConfig, steps: Sequence[Step]) -> None:
    """Makes the bank and appends the steps to its log.

    Raises:
        LarimarError: an event was refused.
    """
    made = memory_pb2.MakeBankRequest(config=config_to_proto(bank, config))
    memory.MakeBank(made, timeout=TIMEOUT_S)
    for low in range(0, len(steps), APPEND_EVENTS):
        request = memory_pb2.AppendRequest(
            bank=bank,
            items=[
                _item(low + place, step)
                for place, step in enumerate(steps[low : low + APPEND_EVENTS])
            ],
            encoder_digest=config.encoder_digest,
            scope_digest=config.scope_digest,
        )
        for result in memory.Append(request, timeout=TIMEOUT_S).results:
            if result.status.code:
                raise from_code(result.status.code, result.status.message, result.status.reason)


def _item(number: int, step: Step) -> memory_pb2.AppendItem:
    item = memory_pb2.AppendItem(
        kind=common_pb2.EVENT_KIND_FORGET, event_id=f"event-{number}", fact_id=step.fact_id
    )
    if step.vectors is not None:
        latent_D, value_C, scope_S = step.vectors
        item.kind = common_pb2.EVENT_KIND_WRITE
        item.prompt, item.answer = _texts(step)
        item.prompt_latents.append(vector_to_bytes(latent_D))
        item.value = vector_to_bytes(value_C)
        item.scope_vectors.append(vector_to_bytes(scope_S))
    return item


def _texts(step: Step) -> tuple[str, str]:
    return f"The prompt of {step.fact_id} is", f"answer of {step.fact_id}"


def payload_log(config: BankConfig, steps: Sequence[Step]) -> list[tuple[Event, bytes]]:
    """The same log in this process: events with the bytes of their payloads."""
    log = []
    for version, step in enumerate(steps, start=1):
        kind, sha256, data = Kind.FORGET, "", b""
        if step.vectors is not None:
            latent_D, value_C, scope_S = step.vectors
            payload = make_payload(
                config, step.fact_id, *_texts(step), (), latent_D[None], value_C, scope_S[None]
            )
            kind, sha256, data = Kind.WRITE, payload.sha256, payload.to_bytes()
        log.append((Event(version, kind, step.fact_id, f"event-{version}", 0, sha256, ""), data))
    return log


def folded(config: BankConfig, log: Sequence[tuple[Event, bytes]]) -> tuple[BankState, float]:
    """The state of a log, folded from nothing, and the seconds that decoding and folding took."""
    started = time.perf_counter()
    state = BankState(config)
    for low in range(0, len(log), FOLD_EVENTS):
        entries = [
            (event, Payload.from_bytes(data) if data else None)
            for event, data in log[low : low + FOLD_EVENTS]
        ]
        needed = state.needs(entries)
        state.fold(entries, {v: Payload.from_bytes(log[v - 1][1]) for v in needed})
    return state, time.perf_counter() - started
