"""Checkpoints in Redis: uploaded in parts, then published whole."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import Any

from larimar.errors import DataLoss
from services.log_rules import (
    KEEP_CHECKPOINTS,
    check_checkpoint,
    check_part,
    unknown_bank,
    unknown_checkpoint,
)
from services.redis_store import Keys, RedisStore
from services.redis_upkeep_scripts import PUBLISH, PUT_PART, REMOVE_CHECKPOINTS

PART_BYTES = 8 * 2**20
"""Bytes of one part of a checkpoint: an fsync of it holds up appends for some 50 ms."""
ABANDONED_UPLOAD_S = 3600
"""Seconds after which an upload that nobody published is removed."""


class RedisCheckpoints(RedisStore):
    """The part of `RedisLog` that keeps checkpoints."""

    _part_bytes = PART_BYTES

    async def put_checkpoint(
        self,
        tenant: str,
        bank: str,
        part: str,
        version: int,
        blob: bytes,
        meta: dict[str, str],
        erase_count: int,
    ) -> bool:
        """See Log. The parts go first; the index names them once they are all there.

        No part is taken after an erase, so nothing old comes back behind `remove_checkpoints`, and
        none is published in a bank made anew under the name.
        """
        check_checkpoint(part, version, blob)
        record = {
            "bytes": len(blob),
            "meta": dict(meta),
            "sha256": await asyncio.to_thread(_sha256, blob),
        }

        async def upload(keys: Keys) -> bool:
            name = f"{version}-{os.urandom(8).hex()}"
            starts = range(0, max(len(blob), 1), self._part_bytes)
            for n, start in enumerate(starts):
                piece = blob[start : start + self._part_bytes]
                put = (name, len(starts), n, piece, erase_count)
                if await self._ask_at(keys, PUT_PART, *put) < 0:
                    return False
            text = json.dumps(record | {"parts": len(starts)}, sort_keys=True)
            kept = (KEEP_CHECKPOINTS, ABANDONED_UPLOAD_S, erase_count, meta.get("chain", ""))
            return await self._ask_at(keys, PUBLISH, name, part, version, text, *kept) > 0

        return await self._on_bank(tenant, bank, upload)

    async def checkpoints(
        self, tenant: str, bank: str, part: str
    ) -> list[tuple[int, dict[str, str]]]:
        """See Log."""
        check_part(part)

        async def read(keys: Keys) -> list[tuple[int, dict[str, str]]]:
            await self._check_there(keys)
            listed = []
            for name, text in (await self.call("HGETALL", keys.checkpoints)).items():
                owner, _, version = name.decode().rpartition(":")
                named = _record(text)
                if owner == part and named:
                    listed.append((int(version), named[1]["meta"]))
            return sorted(listed, key=lambda one: one[0], reverse=True)

        return await self._on_bank(tenant, bank, read)

    async def get_checkpoint(self, tenant: str, bank: str, part: str, version: int) -> bytes:
        """See Log."""
        check_part(part)
        field = f"{part}:{version}"

        async def read(keys: Keys) -> bytes:
            await self._check_there(keys)
            found = await self.call("HGET", keys.checkpoints, field)
            if found is None:
                raise unknown_checkpoint(bank, version)
            blob = await self._blob(keys, found)
            if blob is not None:
                return blob
            if await self.call("HGET", keys.checkpoints, field) != found:
                raise unknown_checkpoint(bank, version)
            raise DataLoss(
                f"the checkpoint of bank {bank!r} at version {version} is damaged: use an older "
                "one, or replay the log",
                "CHECKPOINT_DAMAGED",
            )

        return await self._on_bank(tenant, bank, read)

    async def remove_checkpoints(self, tenant: str, bank: str, before: int) -> int:
        """See Log."""
        return (await self._ask(tenant, bank, REMOVE_CHECKPOINTS, before))[0]

    async def _check_there(self, keys: Keys) -> None:
        if not await self.call("EXISTS", keys.config):
            raise unknown_bank(keys.bank)

    async def _blob(self, keys: Keys, text: bytes) -> bytes | None:
        """The bytes that an index entry names; None when they are not what it says."""
        read = _record(text)
        if read is None:
            return None
        upload, record = read
        hasher, parts = hashlib.sha256(), []
        coming = None
        try:
            for n in range(record["parts"]):  # the next part comes while one is hashed
                part = await (coming or self.call("GET", keys.part(upload, n))) or b""
                coming = asyncio.ensure_future(self.call("GET", keys.part(upload, n + 1)))
                await asyncio.to_thread(hasher.update, part)
                parts.append(part)
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        return b"".join(parts) if hasher.hexdigest() == record["sha256"] else None


def _record(text: bytes) -> tuple[str, dict[str, Any]] | None:
    """A checkpoint's upload and record; None when the index entry is damaged."""
    try:
        upload, _, record = text.decode().partition(":")
        fields = json.loads(record)
        if fields.keys() == {"bytes", "meta", "parts", "sha256"}:
            return upload, fields
    except (ValueError, AttributeError):
        pass
    return None


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
