"""Errors of the memory and of its services: one class per gRPC status code in use.

Every error says what went wrong and what to do. `code` is the gRPC status code
number, `reason` a word for programs. Anything that is not listed here is a bug.
"""

from __future__ import annotations


class LarimarError(Exception):
    """Base of all; also what an unexpected failure becomes at a socket (INTERNAL).

    Attributes:
        code: gRPC status code, as a number.
        reason: a stable word for programs, such as ``CONFLICT``.
        retry_safe: whether the same call may simply be made again.
        retry_after_s: seconds after which it may succeed; None when nobody can say.
    """

    code = 13
    default_reason = "INTERNAL"
    retry_safe = False

    def __init__(
        self, message: str, reason: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.retry_after_s = retry_after_s

    def __reduce__(self):
        return (type(self), (self.message, self.reason, self.retry_after_s))


class InvalidArgument(LarimarError):
    """The request is malformed or past a stated limit. Nothing was changed."""

    code = 3
    default_reason = "INVALID_ARGUMENT"


class DeadlineExceeded(LarimarError):
    """The caller's time ran out. Whether an edit was made is unknown: retry with its event id."""

    code = 4
    default_reason = "DEADLINE_EXCEEDED"
    retry_safe = True


class NotFound(LarimarError):
    """The bank or the fact does not exist. Nothing was changed."""

    code = 5
    default_reason = "NOT_FOUND"


class Conflict(LarimarError):
    """The name or the event id is taken by something else. Nothing was changed."""

    code = 6
    default_reason = "CONFLICT"


class PermissionDenied(LarimarError):
    """The API key lacks the scope that the call needs. Nothing was changed."""

    code = 7
    default_reason = "PERMISSION_DENIED"


class ResourceExhausted(LarimarError):
    """A queue is full or a quota is spent. Nothing was changed; retry later."""

    code = 8
    default_reason = "RESOURCE_EXHAUSTED"
    retry_safe = True


class FailedPrecondition(LarimarError):
    """The state does not allow it now (fact already forgotten, version not yet written)."""

    code = 9
    default_reason = "FAILED_PRECONDITION"


class Unavailable(LarimarError):
    """A service or the store is down. Retry; an edit under the same event id."""

    code = 14
    default_reason = "UNAVAILABLE"
    retry_safe = True


class DataLoss(LarimarError):
    """The bank's log is damaged: a gap, a wrong digest, a missing payload. The bank is stopped."""

    code = 15
    default_reason = "DATA_LOSS"


class Unauthenticated(LarimarError):
    """The call came without an API key, or with one that does not count. Nothing was changed."""

    code = 16
    default_reason = "UNAUTHENTICATED"


class Cancelled(LarimarError):
    """The caller went away."""

    code = 1
    default_reason = "CANCELLED"
    retry_safe = True


_CLASSES: tuple[type[LarimarError], ...] = (
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    Conflict,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Unavailable,
    DataLoss,
    Unauthenticated,
    Cancelled,
)
BY_CODE: dict[int, type[LarimarError]] = {cls.code: cls for cls in _CLASSES}


def from_code(
    code: int, message: str, reason: str | None = None, retry_after_s: float | None = None
) -> LarimarError:
    """The error of a gRPC status code; codes that are not in use become `LarimarError`."""
    return BY_CODE.get(code, LarimarError)(message, reason or None, retry_after_s)
