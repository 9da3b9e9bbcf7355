"""What the processes of one machine count, for Prometheus, where no gateway tells it.

`python -m services.observability.exporter FOLDER PORT` serves /metrics; FOLDER is where those
processes keep their metrics (PROMETHEUS_MULTIPROC_DIR). It must see them as processes: in a pod of
several containers, by a process namespace that they share.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prometheus_client import start_http_server

from services.observability.scrape import registry_of


def main() -> None:
    """Serves until it is ended."""
    folder, port = sys.argv[1:]
    _, serving = start_http_server(int(port), registry=registry_of(Path(folder)))
    serving.join()


if __name__ == "__main__":
    main()
