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
from services.needles import Needles
from services.redis_store import Keys, RedisStore
from services.redis_upkeep_scripts import (
    PUT_RECORD,
    RECORD,
    REMOVE_RECORD,
)

JOBS = "larimar:jobs"
"""The key of all unfinished work."""
SCAN_KEYS = 500
"""Keys that one step of a search looks at: about 1 ms of the store's one thread, if small."""
SEARCH_BYTES = 8 * 2**20
"""Bytes of values that one step of a search asks for, one value at least: 2 ms of the store's one
thread."""
SEARCH_ELEMENTS = 1_000
"""Elements of a hash, set, list or stream that one step asks for, where they are small."""
FEW_ELEMENTS = 20
"""The same where they are not."""
SMALL_BYTES = 2**20
"""Bytes of a step's elements from which on they are not small."""
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
        """See Log. Cost: all of the family is read out of the store, once for all needles."""
        if not needles or not all(needles):
            raise InvalidArgument("give at least one byte string to look for, none of them empty")

        async def everywhere(keys: Keys) -> Found:
            if not await self.call("EXISTS", keys.config):
                raise unknown_bank(bank)
            wanted = Needles(needles)
            seen: set[bytes] = set()
            found: set[bytes] = set()
            cursor = None
            while cursor != 0:
                cursor, names = await self.call(
                    "SCAN", cursor or 0, "MATCH", keys.base + "*", "COUNT", SCAN_KEYS
                )
                found |= await self._search(names, wanted)
                seen |= set(names)
            for queue in ("inbox", "dead"):
                name = f"{{{tenant}}}:{queue}".encode()
                if await self.call("EXISTS", name):
                    found |= await self._search([name], wanted)
                    seen.add(name)
            return Found(len(seen), len(found))

        return await self._on_bank(tenant, bank, everywhere)

    async def _search(self, names: list[bytes], wanted: Needles) -> set[bytes]:
        """Which of these keys hold a needle."""
        kinds = await self.calls([("TYPE", name) for name in names]) if names else []
        strings = [name for name, kind in zip(names, kinds, strict=True) if kind == b"string"]
        sizes = await self.calls([("STRLEN", name) for name in strings]) if strings else []
        found: set[bytes] = set()
        step: list[bytes] = []
        bytes_left = SEARCH_BYTES
        for name, size in zip(strings, sizes, strict=True):
            if step and size > bytes_left:
                found |= await self._search_strings(step, wanted)
                step, bytes_left = [], SEARCH_BYTES
            step.append(name)
            bytes_left -= size
        found |= await self._search_strings(step, wanted)
        for name, kind in zip(names, kinds, strict=True):
            if kind not in (b"string", b"none") and await self._search_large(name, kind, wanted):
                found.add(name)
        return found

    async def _search_strings(self, names: list[bytes], wanted: Needles) -> set[bytes]:
        if not names:
            return set()
        values = await self.calls([("GET", name) for name in names])
        hits = await asyncio.to_thread(wanted.hits, [value or b"" for value in values])
        return {names[hit] for hit in hits}

    async def _search_large(self, name: bytes, kind: bytes, wanted: Needles) -> bool:
        at, count = b"", FEW_ELEMENTS
        while True:
            at, values = await self._elements(name, kind, at, count)
            if await asyncio.to_thread(wanted.hits, values):
                return True
            if not at:
                return False
            small = sum(map(len, values)) < SMALL_BYTES
            count = SEARCH_ELEMENTS if small else FEW_ELEMENTS

    async def _elements(
        self, name: bytes, kind: bytes, at: bytes, count: int
    ) -> tuple[bytes, list[bytes]]:
        """Some elements of a key, and where to go on; nowhere at the end."""
        if kind == b"list":
            start = int(at or 0)
            values = await self.call("LRANGE", name, start, start + count - 1)
            return (b"%d" % (start + count) if len(values) == count else b""), values
        if kind == b"stream":
            after = b"(" + at if at else b"-"
            entries = await self.call("XRANGE", name, after, "+", "COUNT", count)
            values = [b"\0".join((*fields, *fields.values())) for _, fields in entries]
            return (entries[-1][0] if len(entries) == count else b""), values
        scan = {b"hash": "HSCAN", b"set": "SSCAN", b"zset": "ZSCAN"}[kind]
        cursor, found = await self.call(scan, name, at or 0, "COUNT", count)
        values = list(found)
        if kind == b"hash":
            values += found.values()
        elif kind == b"zset":
            values = [member for member, _ in found]
        return (b"%d" % cursor if cursor else b""), values

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
