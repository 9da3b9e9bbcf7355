"""Whether a pipeline of this machine answers: `python -m services.probe DATA_DIR`, for probes.

Exit status 0 when every service is ready; else 1, with a line that names those that are not.
"""

from __future__ import annotations

import contextlib
import sys

import grpc

from larimar.v1 import larimar_pb2, larimar_pb2_grpc
from services.private import probe_sockets

ASK_TIMEOUT_S = 5.0
"""Time that a gateway has to say how every service is."""


def ask_status(data_dir: str) -> list[larimar_pb2.ServiceInfo] | None:
    """What a gateway of the pipeline says of every service; None when none answers.

    Asked on its private socket, where TLS and keys stand in nobody's way.
    """
    for path in probe_sockets(data_dir):
        with grpc.insecure_channel(f"unix:{path}") as channel:
            stub = larimar_pb2_grpc.LarimarStub(channel)
            with contextlib.suppress(grpc.RpcError):
                request = larimar_pb2.GetStatusRequest()
                return list(stub.GetStatus(request, timeout=ASK_TIMEOUT_S).services)
    return None


def main() -> int:
    """Asks once."""
    services = ask_status(sys.argv[1])
    missing = (
        ["the gateway"] if services is None else [one.name for one in services if not one.ready]
    )
    if missing:
        print(f"not ready: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
