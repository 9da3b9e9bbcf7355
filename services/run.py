"""One service in its own process, without Ray: `python -m services.run NAME`.

Settings and addresses come as one JSON line on standard input. When the service listens,
it prints one JSON line, {"service", "pid", "port"}; it ends when its parent does. Its port may
be shared with the process whose place it takes; services/local.py keeps it for the pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Any

from larimar.errors import LarimarError
from services.settings import Settings

_PR_SET_PDEATHSIG = 1
DRAIN_S = 10.0
"""Time that calls in progress have when a service stops; the gateway's end cuts its own."""


def die_with_parent() -> None:
    """Asks the kernel to end this process when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def serve(name: str, settings: Settings, address: str, peers: dict[str, str]) -> None:
    """Serves one service until SIGTERM."""
    from services.build import build_edge, build_service, prepare_process
    from services.contracts import add_servicer, channel_stub
    from services.rpc import start_server

    stack = contextlib.AsyncExitStack()
    prepare_process(name, settings)
    if name == "gateway":
        doors: dict[str, Any] = {peer: channel_stub(peer, at) for peer, at in peers.items()}
        edge = build_edge(settings, doors)
        stack.push_async_callback(edge.stop)
        port = await edge.start(address, share_port=True)
    else:
        add = add_servicer(name, build_service(name, settings))
        server, port = await start_server(address, add, share_port=True)
        stack.push_async_callback(server.stop, DRAIN_S)
    print(json.dumps({"service": name, "pid": os.getpid(), "port": port}), flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await stack.aclose()


def main() -> int:
    """Reads standard input, serves, and says in one line why it could not."""
    die_with_parent()
    job = json.loads(sys.stdin.readline())
    try:
        asyncio.run(
            serve(sys.argv[1], Settings.from_json(job["settings"]), job["address"], job["peers"])
        )
    except LarimarError as error:
        print(f"error: {sys.argv[1]}: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
