"""A Prometheus server beside a pipeline, and what it answers."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from larimar.errors import FailedPrecondition, Unavailable

SCRAPE_S = 5
START_S = 30.0
ANSWER_S = 30.0


@dataclass(frozen=True)
class Prometheus:
    """A server that is there, at a URL such as http://127.0.0.1:9090."""

    url: str

    def series(self, query: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """Every series of a query, as `/api/v1/query_range` gives it.

        Args:
            query: PromQL.
            begin, end: seconds since 1970.
            step: seconds between two points.

        Raises:
            FailedPrecondition: BAD_QUERY, the server does not take it.
            Unavailable: NO_PROMETHEUS, nothing answers there.
        """
        asked = {"query": query, "start": begin, "end": end, "step": step}
        return self._get("query_range", asked)["result"]

    def now(self, query: str) -> list[dict[str, Any]]:
        """Every series of a query as it is now. Raises: as `series`."""
        return self._get("query", {"query": query})["result"]

    def _get(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            shown = error.read().decode(errors="replace")
            raise FailedPrecondition(f"Prometheus says {shown}", "BAD_QUERY") from None
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"no Prometheus at {self.url}: {type(error).__name__}", "NO_PROMETHEUS"
            ) from None


@contextlib.contextmanager
def scraping(http_port: int, folder: Path, every_s: int = SCRAPE_S) -> Iterator[Prometheus]:
    """A server of its own that scrapes a pipeline's HTTP port, until the end of the block.

    Args:
        http_port: of the pipeline's gateway on this machine.
        folder: for the server's files; made, and left to the caller.
        every_s: seconds between two scrapes, and the longest that one may take.

    Raises:
        FailedPrecondition: NO_PROMETHEUS, it is not installed.
        Unavailable: NO_PROMETHEUS, it does not come up.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise FailedPrecondition(
            "prometheus is not installed; Debian: apt-get install prometheus", "NO_PROMETHEUS"
        )
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        {"job_name": "larimar", "static_configs": [{"targets": [f"127.0.0.1:{http_port}"]}]},
    ]
    every = {"scrape_interval": f"{every_s}s", "scrape_timeout": f"{every_s}s"}
    # Prometheus reads YAML, of which JSON is a part.
    (folder / "prometheus.yml").write_text(json.dumps({"global": every, "scrape_configs": jobs}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_ready(server, f"http://{address}/-/ready", folder / "prometheus.log")
        yield Prometheus(f"http://{address}")
    finally:
        server.terminate()
        server.wait()


def _wait_ready(server: subprocess.Popen, url: str, log: Path) -> None:
    late = time.monotonic() + START_S
    while time.monotonic() < late and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1.0):
            return
        time.sleep(0.1)
    said = log.read_text(errors="replace").splitlines()[-1:]
    raise Unavailable(f"Prometheus does not come up: {' '.join(said)}", "NO_PROMETHEUS")
