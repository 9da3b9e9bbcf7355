"""`larimar redeploy`, on the side of the pipeline that runs.

The command leaves a request in the data directory; a thread of the supervisor takes it up,
replaces every process or replica by one that is ready, and leaves an answer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from larimar.cli import processes
from larimar.errors import InvalidArgument, LarimarError
from services.local import Pipeline
from services.settings import Settings, with_store

LOOK_S = 0.5
"""Time between two looks for a request."""
FIXED = ("data_dir", "host", "port", "http_port", "redis_url", "redis_server")
"""Settings that a running pipeline keeps: its log, and where it is called."""


class Redeployer:
    """Takes up the requests of one data directory.

    Args:
        settings: by which the pipeline runs.
        chosen: what the command line chose: it goes before a file, as it did then.
        settle: settings with what was chosen, checked, as those of `larimar up`.
        say: told what happens, a line at a time.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        chosen: dict[str, Any],
        settle: Callable[[Settings, dict[str, Any]], Settings],
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._chosen = dict(chosen)
        self._settle = settle
        self._say = say
        self._folder = Path(settings.data_dir)

    def run(self, stopping: threading.Event) -> None:
        """Looks for requests until told to stop; the thread of it starts the new processes."""
        request = self._folder / processes.REDEPLOY_FILE
        while not stopping.wait(LOOK_S):
            with contextlib.suppress(OSError, ValueError):
                asked = json.loads(request.read_text(encoding="utf-8"))
                request.unlink()
                self._answer(asked)

    def _answer(self, asked: dict[str, Any]) -> None:
        began = time.monotonic()
        error = None
        try:
            settings = self._wanted(asked)
            self._say(f"redeploys (model {settings.model})")
            self._pipeline.redeploy(settings)
            self._settings = settings
            if asked.get("model"):
                self._chosen["model"] = asked["model"]
        except LarimarError as failure:
            error = [failure.code, failure.message, failure.reason]
            self._say(f"not redeployed: {failure.message}")
        else:
            self._say("redeployed")
        answer = {
            "id": asked.get("id"),
            "error": error,
            "model": self._settings.model,
            "seconds": round(time.monotonic() - began, 3),
            "pids": self._pipeline.pids,
        }
        processes.leave(self._folder / processes.REDEPLOYED_FILE, answer)

    def _wanted(self, asked: dict[str, Any]) -> Settings:
        settings = self._settings
        if asked.get("settings"):
            settings = with_store(Settings.read(asked["settings"]))
        model = {"model": asked["model"]} if asked.get("model") else {}
        settings = self._settle(settings, {**self._chosen, **model})
        settings = dataclasses.replace(
            settings,
            redis_url=settings.redis_url or self._settings.redis_url,
            redis_server=settings.redis_server or self._settings.redis_server,
        )
        for name in FIXED:
            now, then = getattr(self._settings, name), getattr(settings, name)
            if now != then:
                raise InvalidArgument(
                    f"{name} is {now!r} while the pipeline runs, not {then!r}: stop it, and start "
                    "it with that",
                    "BAD_SETTINGS",
                )
        return settings
