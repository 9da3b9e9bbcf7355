"""A run that is asked to stop: it ends between two steps, with what it has done saved."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from larimar.errors import LarimarError

Asked = Callable[[], int]
"""The number of the signal that asked to stop; 0 while none has come."""
INTERRUPTED = "stopped at once: the same command goes on from the last saved step, if there is one"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A run ended because it was asked to; what it has done is saved.

    Attributes:
        status: exit status of the command, as a shell has it for the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


def status_of(run: Callable[[], object]) -> int:
    """Runs what a command does: its exit status, with a line on standard error where it failed or
    was asked to stop."""
    try:
        run()
    except (LarimarError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Notes the first SIGINT or SIGTERM in the place of ending at once; a second one ends at once.

    Outside of the main thread, where no signal arrives, nothing ever asks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        came.append(number)
        restore()

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else 0
    finally:
        restore()
