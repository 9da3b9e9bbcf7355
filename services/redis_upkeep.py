"""What surrounds a log in Redis: records, unfinished work, searches, the server's files."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence

from larimar.errors import InvalidArgument, LarimarError, Unavailable
from services.log import Found
from services.log_rules import check_names, unknown_bank
from services.redis_store import Keys, RedisStore
from services.redis_upkeep_scripts import (
    PUT_RECORD,
    RECORD,
    REMOVE_RECORD,
    SEARCH_STEP,
    SEARCH_STRINGS,
)

JOBS = "larimar:jobs"
"""The key of all unfinished work."""
SCAN_KEYS = 500
"""Keys that one step of a search looks at: about 1 ms of the store's one thread, if small."""
SEARCH_BYTES = 16 * 2**20
"""Bytes of values, once for each needle, after which a step of a search ends: about 10 ms of the
store's one thread."""
SEARCH_ELEMENTS = 1_000
"""Elements of a hash, set, list or stream, once for each needle, that one step looks at."""
SEARCH_NEEDLES = 16
"""Needles of one step: a part of a checkpoint, which is read whole, takes 80 ms with so many."""
REWRITE_PAUSE_S = 0.02
"""Seconds between two looks at a rewrite."""
REWRITE_TIMEOUT_S = 600.0
"""Seconds after which a rewrite counts as stuck: 40 GB at the 70 MB/s of a slow disk."""


class RedisUpkeep(RedisStore):
    """The part of `RedisLog` that keeps records and looks at the whole store."""

    async def put_record(self, tenant: str, bank: str, name: str, text: str, new: bool) -> str:
        """See Log."""
        kept = await self._ask(tenant, bank, PUT_RECORD, name, text, int(new))
        return kept[0].decode()

    async def record(self, tenant: str, bank: str, name: str) -> str | None:
        """See Log."""
        found = await self._ask(tenant, bank, RECORD, name)
        return found[0].decode() if found else None

    async def remove_record(self, tenant: str, bank: str, name: str) -> None:
        """See Log."""
        await self._ask(tenant, bank, REMOVE_RECORD, name)

    async def put_job(self, tenant: str, bank: str, name: str) -> None:
        """See Log."""
        check_names(tenant, bank)
        await self.call("HSET", JOBS, json.dumps([tenant, bank, name]), "")

    async def jobs(self) -> list[tuple[str, str, str]]:
        """See Log."""
        found = [json.loads(name) for name in await self.call("HKEYS", JOBS)]
        return sorted((tenant, bank, name) for tenant, bank, name in found)

    async def end_job(self, tenant: str, bank: str, name: str) -> None:
        """See Log."""
        check_names(tenant, bank)
        await self.call("HDEL", JOBS, json.dumps([tenant, bank, name]))

    async def search(self, tenant: str, bank: str, needles: Sequence[bytes]) -> Found:
        """See Log. Cost: the store reads all of the family, in steps of some 10 ms."""
        if not needles or not all(needles):
            raise InvalidArgument("give at least one byte string to look for, none of them empty")

        async def everywhere(keys: Keys) -> Found:
            if not await self.call("EXISTS", keys.config):
                raise unknown_bank(bank)
            seen: set[bytes] = set()
            found: set[bytes] = set()
            cursor = None
            while cursor != 0:
                cursor, names = await self.call(
                    "SCAN", cursor or 0, "MATCH", keys.base + "*", "COUNT", SCAN_KEYS
                )
                found |= await self._search(names, needles)
                seen |= set(names)
            for queue in ("inbox", "dead"):
                name = f"{{{tenant}}}:{queue}".encode()
                if await self.call("EXISTS", name):
                    found |= await self._search([name], needles)
                    seen.add(name)
            return Found(len(seen), len(found))

        return await self._on_bank(tenant, bank, everywhere)

    async def _search(self, names: list[bytes], needles: Sequence[bytes]) -> set[bytes]:
        """Which of these keys hold a needle."""
        found: set[bytes] = set()
        for start in range(0, len(needles), SEARCH_NEEDLES):
            some = needles[start : start + SEARCH_NEEDLES]
            left = [name for name in names if name not in found]
            while left:
                most = max(SEARCH_BYTES // len(some), 1)
                states = await self.run(SEARCH_STRINGS, left, (most, *some))
                for name, state in zip(left, states, strict=False):
                    if state == 1 or (state < 0 and await self._search_large(name, some)):
                        found.add(name)
                left = left[len(states) :]
        return found

    async def _search_large(self, name: bytes, needles: Sequence[bytes]) -> bool:
        at = b"0"
        while True:
            most = max(SEARCH_ELEMENTS // len(needles), 1)
            at, hit = await self.run(SEARCH_STEP, (name,), (at, most, *needles))
            if hit or at == b"0":
                return bool(hit)

    async def rewrite_files(self) -> list[str] | None:
        """See Log. Cost: the server writes all that it holds; about 100 MB/s.

        Raises:
            Unavailable: STORE_REFUSES, the server could not rewrite its file; ask again.
        """
        give_up = time.monotonic() + REWRITE_TIMEOUT_S
        while True:
            try:
                await self.call("BGREWRITEAOF")
                break
            except LarimarError as error:
                if "in progress" not in error.message:
                    raise
                # One that began before this call may hold what was deleted since.
                await self._wait_for_rewrite(give_up)
        await self._wait_for_rewrite(give_up)
        status = (await self.call("INFO", "persistence"))["aof_last_bgrewrite_status"]
        if status != "ok":
            raise Unavailable(
                f"the store at {self._where} could not rewrite its file: see its log, make room "
                "on its disk, then ask again",
                "STORE_REFUSES",
            )
        while self._is_local and await self._has_history():
            await self._pause(give_up)
        return await self.files()

    async def files(self) -> list[str] | None:
        """See Log. Every file in the server's folder and in that of its append-only file."""
        if not self._is_local:
            return None
        folder, append_folder, _ = await self._places()
        return sorted(
            entry.path
            for place in (folder, append_folder)
            if os.path.isdir(place)
            for entry in os.scandir(place)
            if entry.is_file(follow_symlinks=False)
        )

    async def _wait_for_rewrite(self, give_up: float) -> None:
        while True:
            state = await self.call("INFO", "persistence")
            if not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]:
                return
            await self._pause(give_up)

    async def _pause(self, give_up: float) -> None:
        if time.monotonic() > give_up:
            raise Unavailable(
                f"the store at {self._where} has been rewriting its file for over "
                f"{REWRITE_TIMEOUT_S:.0f} s: see its log, then ask again",
                "STORE_REFUSES",
            )
        await asyncio.sleep(REWRITE_PAUSE_S)

    async def _has_history(self) -> bool:
        """Whether files from before the last rewrite wait for their removal."""
        _, append_folder, name = await self._places()
        try:
            with open(os.path.join(append_folder, f"{name}.manifest"), encoding="utf-8") as text:
                return any(line.split()[-1:] == ["h"] for line in text)
        except FileNotFoundError:
            return False

    async def _places(self) -> tuple[str, str, str]:
        """The server's folder, that of its append-only file, and the name of the file."""
        found = await self.call("CONFIG GET", "dir", "appenddirname", "appendfilename")
        folder = found["dir"]
        return folder, os.path.join(folder, found["appenddirname"]), found["appendfilename"]
