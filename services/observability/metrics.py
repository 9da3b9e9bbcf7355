"""What is counted and timed: every metric of the pipeline, `larimar_*`, in Prometheus' terms.

With PROMETHEUS_MULTIPROC_DIR set before this module is imported (services/settings.py sets it for
the processes of a pipeline), each process keeps its numbers in files of that folder, and
services/observability/scrape.py adds them up. Elsewhere they are in the process.

Labels take values that the code knows: services, methods, stages, codes. Never a tenant, a bank,
a fact or a text.
"""

from __future__ import annotations

import functools
import time

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Buckets of times: a look at an idle log takes 0.1 ms, a call has 30 s unless its caller says."""
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Buckets of batches, whose limits are powers of two."""
VERSIONS = (0, 1, 2, 5, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
"""Buckets of how far a follower was behind; a bank may have ten million events."""

CALLS = Counter(
    "larimar_calls",
    "Calls of a service's methods that have ended, by gRPC status code.",
    ["service", "method", "code"],
)
INTERNAL_ERRORS = Counter(
    "larimar_internal_errors",
    "Calls that met something that nobody expected, or a damaged log.",
    ["service"],
)
CALL_SECONDS = Histogram(
    "larimar_call_seconds",
    "Time of a call within the service; of a stream until its end.",
    ["service", "method"],
    buckets=SECONDS,
)
HOP_SECONDS = Histogram(
    "larimar_hop_seconds",
    "Time of a call of a service as its caller sees it, with queue and transport.",
    ["service", "method"],
    buckets=SECONDS,
)
CALLS_IN_PROGRESS = Gauge(
    "larimar_calls_in_progress",
    "Calls that a service works on.",
    ["service"],
    multiprocess_mode="livesum",
)
REFUSED_CALLS = Counter(
    "larimar_refused_calls",
    "Calls of the gRPC port that were refused for their API key, by reason.",
    ["reason"],
)
HTTP_RESPONSES = Counter(
    "larimar_http_responses", "Answers of the HTTP port.", ["method", "route", "status"]
)
HTTP_SECONDS = Histogram(
    "larimar_http_seconds",
    "Time of a request over HTTP; of a stream until its end.",
    ["method", "route"],
    buckets=SECONDS,
)
EDITS = Counter(
    "larimar_edits",
    "Edits that were settled, each item of a batch counted, by kind and gRPC status code.",
    ["kind", "code"],
)
DUPLICATE_EDITS = Counter(
    "larimar_duplicate_edits", "Edits that were in the log already, by their event id."
)
SCOPE_DECISIONS = Counter(
    "larimar_scope_decisions",
    "Questions that scope decided: in (answered from memory) or out.",
    ["decision"],
)
STAGE_SECONDS = Histogram(
    "larimar_stage_seconds",
    "Time that a call spends in a stage; what waits for a batch is in the stage's _queue.",
    ["stage"],
    buckets=SECONDS,
)
QUEUE_LENGTH = Gauge(
    "larimar_queue_length",
    "Calls that wait for a stage's next batch.",
    ["stage"],
    multiprocess_mode="livesum",
)
BATCH_SIZE = Histogram(
    "larimar_batch_size",
    "Texts of an encoder's or embedder's batch, rows of a decoder's step, events of an append.",
    ["stage"],
    buckets=COUNTS,
)
TOKENS = Counter("larimar_decoded_tokens", "Tokens that the decoder has said.")

FOLLOWER_LAG = Histogram(
    "larimar_follower_lag_versions",
    "Versions that a follower was behind the log when it looked.",
    ["service"],
    buckets=VERSIONS,
)
BANKS_HELD = Gauge(
    "larimar_banks_held", "Banks with a state in memory.", ["service"], multiprocess_mode="livesum"
)
BANKS_STOPPED = Gauge(
    "larimar_banks_stopped",
    "Banks that are stopped for a damaged log, as the replica with most of them sees it.",
    ["service"],
    multiprocess_mode="livemax",
)
STATE_BYTES = Gauge(
    "larimar_state_bytes", "Bytes of folded state.", ["service"], multiprocess_mode="livesum"
)
STATE_BUDGET_BYTES = Gauge(
    "larimar_state_budget_bytes",
    "Bytes of folded state past which idle banks are dropped.",
    ["service"],
    multiprocess_mode="livesum",
)
BANK_FILL = Gauge(
    "larimar_bank_fill_max_ratio",
    "Fill of the fullest bank in memory: of its K slots, or of the events that a bank may have.",
    ["of"],
    multiprocess_mode="livemax",
)
DIGEST_MISMATCHES = Counter(
    "larimar_digest_mismatches",
    "Bytes that are not what their digest or chain says: of a log, a checkpoint or a replay.",
    ["where"],
)
OTHER_HISTORIES = Counter(
    "larimar_other_histories",
    "Times a follower found a log with another history than it had folded.",
    ["service"],
)
CHECKPOINTS = Counter(
    "larimar_checkpoints",
    "Checkpoints that were saved, could not be saved (failed), or were not used when loaded: "
    "damaged (skipped), or sound and of another state than the log's (outdated), as after an "
    "erasure.",
    ["service", "outcome"],
)

STORE_SECONDS = Histogram(
    "larimar_store_call_seconds",
    "Round trips to the store, by script or command.",
    ["call"],
    buckets=SECONDS,
)
STORE_ERRORS = Counter(
    "larimar_store_errors", "Calls of the store that failed, by reason.", ["reason"]
)
INBOX_EVENTS = Counter(
    "larimar_inbox_events",
    "Inbox events that were applied, died, or are tried again.",
    ["outcome"],
)
ERASE_JOBS = Gauge("larimar_erase_jobs", "Erasures that are not done.", multiprocess_mode="livemax")
ERASE_STEPS = Counter("larimar_erase_steps", "Steps of erasures that were reached.", ["step"])
ERASE_FAILURES = Counter(
    "larimar_erase_failures", "Times an erasure could not go on; it is tried again."
)
ERASE_INCOMPLETE = Counter(
    "larimar_erase_incomplete",
    "Erasures that ended with something still found, or with a replay that differs.",
)

PROCESS_STARTS = Counter(
    "larimar_process_starts", "Processes that were started since the pipeline was.", ["service"]
)
PROCESS_START_TIME = Gauge(
    "larimar_process_start_time_seconds",
    "When the service's newest process started, seconds since 1970.",
    ["service"],
    multiprocess_mode="liveall",
)
INFO = Gauge("larimar_info", "1; which version runs.", ["version"], multiprocess_mode="livemax")
MODEL_INFO = Gauge(
    "larimar_model_info",
    "1; the digest of the model that a service serves.",
    ["service", "digest"],
    multiprocess_mode="livemax",
)


_KNOWN: dict[Counter, tuple[str, ...]] = {
    DIGEST_MISMATCHES: ("log", "checkpoint", "replay"),
    STORE_ERRORS: ("STORE_DOWN", "STORE_REFUSES", "STORE_FULL", "NOT_CONFIRMED"),
    INBOX_EVENTS: ("applied", "died", "retried"),
    SCOPE_DECISIONS: ("in", "out"),
    REFUSED_CALLS: ("NO_KEY", "BAD_KEY", "MISSING_SCOPE", "UNKNOWN_METHOD"),
}
"""What these begin at 0 for: of a series that begins at 1 Prometheus sees no increase."""
for _counter, _labels in _KNOWN.items():
    for _label in _labels:
        _counter.labels(_label)


def process_started(service: str, version: str) -> None:
    """Notes that this process serves."""
    PROCESS_STARTS.labels(service).inc()
    PROCESS_START_TIME.labels(service).set(time.time())
    INFO.labels(version).set(1)


def serves_model(service: str, digest: str) -> None:
    """Notes which model this process serves."""
    MODEL_INFO.labels(service, digest).set(1)


@functools.cache
def _stage(name: str) -> Histogram:
    return STAGE_SECONDS.labels(name)


def observe_stage(name: str, seconds: float) -> None:
    """Notes that a call has spent this long in a stage."""
    _stage(name).observe(seconds)
