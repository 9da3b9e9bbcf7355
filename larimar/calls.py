"""How calls are made: limits, deadlines, back-off and errors. Nothing here waits or sends."""

from __future__ import annotations

import math
import random
import re
import time
from typing import Any

from larimar.errors import (
    BY_CODE,
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    LarimarError,
    Unavailable,
    from_code,
)

DEFAULT_TARGET = "localhost:9000"
DEFAULT_BANK = "default"
DEFAULT_TIMEOUT_S = 30.0
# Time of what may go over a whole log: a merge, an export, an import, an erasure with its proof.
LONG_TIMEOUT_S = 3600.0
# A pipeline on the same network answers a connection in milliseconds.
CONNECT_TIMEOUT_S = 5.0
# Back-off between attempts doubles from the first to the longest, each halved at random.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
# The gateway refuses larger ones; a fact is a few kilobytes.
MAX_MESSAGE_BYTES = 8 * 2**20
# Facts and events of a page stay far below the message limit.
PAGE_SIZE = 200
# Events of one fact: all that one message may list.
HISTORY_SIZE = 1000
# Facts of `write_many` that are sent and not yet acknowledged, at most.
MAX_IN_FLIGHT = 256
# Trailing metadata of an error: the reason, a word for programs.
REASON_KEY = "larimar-reason"
# The same for the milliseconds after which the call may succeed.
RETRY_AFTER_KEY = "larimar-retry-after-ms"
# What grpc.aio puts in the place of the status of a stream that ended during a write
# (grpc issue 36066): the status itself is not known then.
STATUS_LOST = "Internal error from Core"
# What grpc says of a call that this process cancelled. Any other CANCELLED without a reason is a
# call that was in progress when its server stopped.
CANCELLED_HERE = "Locally cancelled by application!"

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Retries are made here, under the call's deadline and its event id.
    ("grpc.enable_retries", 0),
    # A pipeline is reached directly, whatever the environment says of proxies.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_TARGET = re.compile(r"(?:dns:(?://[^/]*/)?)?(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")


def check_target(target: str) -> str:
    """The target, when it is ``HOST:PORT`` or ``unix:PATH``; raises InvalidArgument otherwise."""
    match = _TARGET.fullmatch(target)
    if target.startswith("unix:") or (match and 0 < int(match[1]) < 65536):
        return target
    raise InvalidArgument(f"{target!r} is no target; give HOST:PORT, such as {DEFAULT_TARGET}")


def check_timeout(timeout_s: float) -> float:
    """The timeout in seconds; raises InvalidArgument unless it is positive and finite."""
    if not 0 < timeout_s < math.inf:
        raise InvalidArgument(f"timeout_s is {timeout_s}; it must be a positive number of seconds")
    return float(timeout_s)


class Budget:
    """The time that one call has for all its attempts, and the pauses between them."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._ends = time.monotonic() + timeout_s
        self._pause_s = FIRST_PAUSE_S
        self._met: Unavailable | None = None

    def remaining_s(self) -> float:
        """Seconds until the deadline, never below 0."""
        return max(self._ends - time.monotonic(), 0.0)

    def pause_s(self, error: LarimarError) -> float | None:
        """Seconds to wait before the next attempt; None when `error` is the outcome.

        Only UNAVAILABLE is worth another attempt: every other code is an answer.
        """
        if not isinstance(error, Unavailable):
            return None
        self._met = error
        pause = self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause if pause < self.remaining_s() else None

    def outcome(self, error: LarimarError) -> LarimarError:
        """What to raise for the last attempt's error.

        A deadline that passes after UNAVAILABLE passed because of it, and that says more.
        """
        return self._met if self._met and isinstance(error, DeadlineExceeded) else error


def unreachable(target: str) -> Unavailable:
    """The error of a target where no pipeline listens; nothing was sent."""
    return Unavailable(f"nothing answers at {target}; start it with `larimar up`")


def to_error(raised: Any, target: str, budget: Budget, event_id: str = "") -> LarimarError:
    """The error behind a failed call: its status code, its reason and what to do.

    `raised` is a ``grpc.RpcError`` of either kind of channel. `event_id` is that of
    an edit, whose outcome is unknown after a lost connection or a missed deadline.
    """
    code, name = raised.code().value[0], raised.code().name
    details = raised.details() or ""
    trailing = raised.trailing_metadata()
    reason = _trailing(trailing, REASON_KEY)
    if details == STATUS_LOST and name == "INTERNAL":
        code = Unavailable.code
    if name == "CANCELLED" and reason is None and details != CANCELLED_HERE:
        code = Unavailable.code
    if reason is None and code == Unavailable.code:
        if "failed to connect" in details.lower():
            return unreachable(target)
        details = f"lost the connection to {target} ({details or name}); try again"
    elif reason is None and code == DeadlineExceeded.code:
        details = f"{target} did not answer within {budget.timeout_s:g} s"
    elif name == "UNIMPLEMENTED":
        details = f"{target} does not know this call; is it a pipeline of this version?"
    error = from_code(
        code,
        details or name,
        reason or (None if code in BY_CODE else name),
        retry_after_s(_trailing(trailing, RETRY_AFTER_KEY)),
    )
    if event_id and isinstance(error, (Unavailable, DeadlineExceeded, Cancelled)):
        error = type(error)(
            f"{error.message} (whether the edit was made is unknown until it is "
            f"retried with event id {event_id})",
            error.reason,
        )
    return error


def retry_after_s(milliseconds: str | None) -> float | None:
    """Seconds of what trailing metadata says; None when it says nothing that can be read."""
    return int(milliseconds) / 1000 if milliseconds and milliseconds.isdecimal() else None


def _trailing(metadata: Any, wanted: str) -> str | None:
    for key, value in metadata or ():
        if key == wanted:
            return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return None
