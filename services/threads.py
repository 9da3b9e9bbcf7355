"""Work in a thread that its caller waits for, whatever becomes of the call."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def finished(function: Callable[..., Result], *args: object) -> Result:
    """What a function returns that runs in a thread; it has ended when this returns or raises.

    `asyncio.to_thread` leaves the thread behind when its caller is cancelled, and with it what the
    thread changes: nothing that a lock guards may be used so. Cost: a cancelled call ends as late
    as the function does.
    """
    context = contextvars.copy_context()
    # A future and no task: a loop that ends cancels all tasks, and this would not wait.
    loop = asyncio.get_running_loop()
    running = loop.run_in_executor(None, lambda: context.run(function, *args))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not running.cancelled():
            running.exception()  # nobody is left to take it
        raise cancelled
    return running.result()
