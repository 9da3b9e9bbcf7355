"""The asynchronous client with the face of the blocking one, so that a test runs on both."""

from __future__ import annotations

import asyncio

from larimar.aio import AsyncClient


class Awaited:
    """An `AsyncClient` with the face of `Client`, so that each test runs on both."""

    def __init__(self, target: str, **terms) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(target, **terms)

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*args, **kwargs):
            made = method(*args, **kwargs)
            if hasattr(made, "__anext__"):
                return self._iterate(made)
            return self._loop.run_until_complete(made)

        return call

    def _iterate(self, made):
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(made))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(made.aclose())

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()
