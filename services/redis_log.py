"""The log in Redis: what an event is once it is acknowledged. The only file that imports redis.

All keys of a bank (and of its forks, when there are any) carry one hash tag, so that one
script touches one slot: ``{tenant:root}:<bank>:`` and then

- ``config``: the bank's configuration, canonical JSON. Its absence means there is no bank.
- ``log``: stream; the entry of version v has the id ``v-0``.
- ``payload:<v>``: 16 random bytes of salt and the payload, raw.
- ``facts``: hash, fact id -> version of a live fact, -version of its FORGET, or "erased".
- ``events``: hash, event id -> "version:HMAC of the request under the payload's salt".
- ``checkpoints``: hash, version -> "upload:JSON"; ``uploads``: hash, upload -> "time:parts",
  published or not; ``part:<upload>:<n>``: the bytes.

``{tenant}:banks`` is a hash of the tenant's banks and their roots. Needs Redis 7 or Valkey 8.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from larimar.errors import DataLoss, LarimarError, ResourceExhausted, Unavailable
from larimar.memory import BankConfig, Event, decide
from services.log import Append, Appended, settle_duplicate
from services.log_rules import (
    KEEP_CHECKPOINTS,
    MAX_BANKS,
    MAX_EVENTS,
    MAX_PAGE_BYTES,
    bank_exists,
    bank_full,
    check_checkpoint,
    check_items,
    check_names,
    check_page,
    damaged,
    log_changed,
    too_many_banks,
    unknown_bank,
    unknown_checkpoint,
)
from services.redis_scripts import (
    APPEND,
    HEAD,
    MAKE,
    NO_BANK,
    PAGE,
    PAYLOADS,
    PUBLISH,
    PUT_PART,
    SWEEP,
    Script,
    append_arguments,
    read_entries,
    read_payload,
)

TIMEOUT_S = 2.0
"""Longest round trip, seconds, connecting included: a batch takes 20 ms, so the store is gone."""
MAX_CONNECTIONS = 32
"""Most connections of one process; more callers than that wait for one."""
PART_BYTES = 8 * 2**20
"""Bytes of one part of a checkpoint: an fsync of it holds up appends for some 50 ms."""
INLINE_PAYLOADS = 16
"""Payloads that come with their entries: a short tail is one round trip."""
ABANDONED_UPLOAD_S = 3600
"""Seconds after which an upload that nobody published is removed."""
SWEEP_ENTRIES = 1_000
"""Entries that one step of drop_bank removes: about 5 ms of the store's one thread."""

PAYLOADS_A_CALL = 100
"""Payloads that one call of a script returns."""

_STATES = {b"none": None, b"forgotten": "forgotten", b"erased": "erased"}
_DOWN = (exceptions.ConnectionError, exceptions.TimeoutError, TimeoutError, OSError)
_REFUSES = (
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
# First words of a server's error that mean "not now", whoever asks, and have no class.
_REFUSALS = ("MISCONF", "NOREPLICAS", "BUSY")


class _Keys:
    """The keys of one bank. root is the bank a fork comes from: the bank itself for now."""

    def __init__(self, tenant: str, bank: str) -> None:
        check_names(tenant, bank)
        base = f"{{{tenant}:{bank}}}:{bank}:"
        self.config = base + "config"
        self.log = base + "log"
        self.facts = base + "facts"
        self.events = base + "events"
        self.checkpoints = base + "checkpoints"
        self.uploads = base + "uploads"
        self.payload = base + "payload:"
        self.part = base + "part:"
        self.all_but_config = (
            self.log, self.facts, self.events, self.checkpoints, self.uploads
        )  # fmt: skip


class RedisLog:
    """The log of many banks in one Redis or Valkey server; bound to one event loop.

    Args:
        url: unix:///path/to/redis.sock, redis://host:port or rediss://host:port.
        timeout_s: longest round trip, seconds.
        max_events: most events of one bank.
        part_bytes: bytes of one part of a checkpoint.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        max_events: int = MAX_EVENTS,
        part_bytes: int = PART_BYTES,
    ) -> None:
        # RESP2: the plainest protocol, and no subscription to a vendor's notices. No retries
        # and no socket timeouts below ours: one bound, and the caller decides what to repeat.
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                url,
                max_connections=MAX_CONNECTIONS,
                timeout=None,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=None,
                socket_connect_timeout=None,
                socket_read_size=2**16,
            )
        )
        self._where = _location(url)
        self._timeout_s = timeout_s
        self._max_events = max_events
        self._part_bytes = part_bytes

    async def make_bank(
        self, tenant: str, bank: str, config: BankConfig
    ) -> tuple[BankConfig, bool]:
        """See Log."""
        keys = _Keys(tenant, bank)
        text = config.validate().to_json()
        registry = _registry(tenant)
        # Makers at the same moment may pass it by their number; it only has to bound.
        is_new = not await self._call("EXISTS", keys.config)
        if is_new and await self._call("HLEN", registry) >= MAX_BANKS:
            raise too_many_banks()
        while True:
            state, *held = await self._run(MAKE, (keys.config, *keys.all_but_config), (text,))
            if state >= 0:
                break
            await self._sweep(keys)
        if held and BankConfig.from_json(held[0]) != config:
            raise bank_exists(bank)
        # After the bank itself, and on every call: a registry that missed an entry heals.
        await self._call("HSET", registry, bank, bank)
        return config, state == 1

    async def bank_config(self, tenant: str, bank: str) -> BankConfig:
        """See Log."""
        text = await self._call("GET", _Keys(tenant, bank).config)
        if text is None:
            raise unknown_bank(bank)
        return BankConfig.from_json(text)

    async def banks(self, tenant: str) -> list[str]:
        """See Log."""
        check_names(tenant)
        names = sorted(name.decode() for name in await self._call("HKEYS", _registry(tenant)))
        with self._translated():
            async with asyncio.timeout(self._timeout_s), self._redis.pipeline(False) as pipe:
                for name in names:
                    pipe.exists(_Keys(tenant, name).config)
                found = await pipe.execute()
        return [name for name, exists in zip(names, found, strict=True) if exists]

    async def drop_bank(self, tenant: str, bank: str) -> bool:
        """See Log. Stopped half-way, the next drop_bank or make_bank finishes it."""
        keys = _Keys(tenant, bank)
        await self._call("HDEL", _registry(tenant), bank)
        existed = await self._call("UNLINK", keys.config) == 1
        await self._sweep(keys)
        return existed

    async def _sweep(self, keys: _Keys) -> None:
        arguments = (keys.payload, keys.part, SWEEP_ENTRIES)
        while await self._run(SWEEP, (keys.config, *keys.all_but_config), arguments):
            pass

    async def append(self, tenant: str, bank: str, items: Sequence[Append]) -> list[Appended]:
        """See Log."""
        keys = _Keys(tenant, bank)
        results = [Appended(0, error=error) for error in check_items(items)]
        sent = [index for index, result in enumerate(results) if result.error is None]
        arguments: list[Any] = [keys.payload, self._max_events]
        for index in sent:
            arguments += append_arguments(items[index])
        answers = await self._run(
            APPEND, (keys.config, keys.log, keys.facts, keys.events), arguments
        )
        if answers == NO_BANK:
            raise unknown_bank(bank)
        for index, answer in zip(sent, answers, strict=True):
            results[index] = self._result(bank, items[index], answer)
        return results

    def _result(self, bank: str, item: Append, answer: int | bytes | list[bytes]) -> Appended:
        if isinstance(answer, int):
            return Appended(answer)
        if isinstance(answer, list):
            version, known_hmac, kind, salt = answer
            # Without its payload a WRITE can no longer be compared; a FORGET never had one.
            compared = salt or (b"" if kind == b"F" else None)
            return settle_duplicate(item, int(version), known_hmac.decode(), compared)
        if answer == b"full":
            return Appended(0, error=bank_full(bank, self._max_events))
        return Appended(0, error=decide(item.kind, _STATES[answer]))

    async def head(self, tenant: str, bank: str) -> tuple[int, str]:
        """See Log."""
        keys = _Keys(tenant, bank)
        found = await self._run(HEAD, (keys.config, keys.log))
        if found == NO_BANK:
            raise unknown_bank(bank)
        return int(found[0]), found[1].decode()

    async def tail(
        self, tenant: str, bank: str, after: int, limit: int, chain: str | None = None
    ) -> list[tuple[Event, bytes | None]]:
        """See Log. Cost: 0.15 ms when there is nothing new; 40k events/s of 1 KB."""
        limit = check_page(after, limit)
        events, at_after, salted = await self._page(tenant, bank, after, limit, INLINE_PAYLOADS)
        if at_after is None or (chain is not None and chain != at_after):
            raise log_changed(bank, after)
        rest = [event.version for event in events[len(salted) :]]
        if rest:
            prefix = _Keys(tenant, bank).payload
            salted += await self._call("MGET", *(f"{prefix}{version}" for version in rest))
        return [
            (event, read_payload(bank, event.version, event.payload_sha256, blob))
            for event, blob in zip(events, salted, strict=True)
        ]

    async def events(self, tenant: str, bank: str, after: int, limit: int) -> list[Event]:
        """See Log."""
        return (await self._page(tenant, bank, after, check_page(after, limit), -1))[0]

    async def _page(
        self, tenant: str, bank: str, after: int, limit: int, inline: int
    ) -> tuple[list[Event], str | None, list[bytes | None]]:
        """Checked entries after a version, the chain value at it, and the first payloads.

        The chain value is None when the log has no entry `after`. inline is how many payloads
        may come with the entries, -1 when none are wanted: then only `limit` ends the page.
        """
        keys = _Keys(tenant, bank)
        found = await self._run(
            PAGE, (keys.config, keys.log), (keys.payload, after, limit, inline, MAX_PAGE_BYTES)
        )
        if found == NO_BANK:
            raise unknown_bank(bank)
        events, at_after = read_entries(bank, found[0], after)
        return events, at_after, found[1:]

    async def payloads(self, tenant: str, bank: str, versions: Sequence[int]) -> list[bytes]:
        """See Log."""
        keys = _Keys(tenant, bank)
        found: list[bytes] = []
        for start in range(0, max(len(versions), 1), PAYLOADS_A_CALL):
            asked = versions[start : start + PAYLOADS_A_CALL]
            answer = await self._run(PAYLOADS, (keys.config, keys.log), (keys.payload, *asked))
            if answer == NO_BANK:
                raise unknown_bank(bank)
            for version, sha256, salted in zip(asked, answer[::2], answer[1::2], strict=True):
                payload = read_payload(bank, version, sha256.decode(errors="replace"), salted)
                if payload is None:
                    raise damaged(bank, version, "the payload is missing")
                found.append(payload)
        return found

    async def put_checkpoint(
        self, tenant: str, bank: str, version: int, blob: bytes, meta: dict[str, str]
    ) -> None:
        """See Log. The parts go first; the index names them once they are all there."""
        keys = _Keys(tenant, bank)
        check_checkpoint(version, blob)
        upload = f"{version}-{os.urandom(8).hex()}"
        starts = range(0, max(len(blob), 1), self._part_bytes)
        for n, start in enumerate(starts):
            part = blob[start : start + self._part_bytes]
            key = f"{keys.part}{upload}:{n}"
            arguments = (upload, len(starts), part)
            if not await self._run(PUT_PART, (keys.config, keys.uploads, key), arguments):
                raise unknown_bank(bank)
        record = {
            "bytes": len(blob),
            "meta": dict(meta),
            "parts": len(starts),
            "sha256": await asyncio.to_thread(_sha256, blob),
        }
        published = await self._run(
            PUBLISH,
            (keys.config, keys.checkpoints, keys.uploads),
            (keys.part, upload, version, json.dumps(record), KEEP_CHECKPOINTS, ABANDONED_UPLOAD_S),
        )
        if not published:
            raise unknown_bank(bank)

    async def checkpoints(self, tenant: str, bank: str) -> list[tuple[int, dict[str, str]]]:
        """See Log."""
        await self.bank_config(tenant, bank)
        found = await self._call("HGETALL", _Keys(tenant, bank).checkpoints)
        records = {int(version): _record(text) for version, text in found.items()}
        return sorted(
            ((version, record[1]["meta"]) for version, record in records.items() if record),
            reverse=True,
        )

    async def get_checkpoint(self, tenant: str, bank: str, version: int) -> bytes:
        """See Log."""
        await self.bank_config(tenant, bank)
        keys = _Keys(tenant, bank)
        found = await self._call("HGET", keys.checkpoints, version)
        if found is None:
            raise unknown_checkpoint(bank, version)
        blob = await self._blob(keys, found)
        if blob is not None:
            return blob
        if await self._call("HGET", keys.checkpoints, version) != found:
            raise unknown_checkpoint(bank, version)
        raise DataLoss(
            f"the checkpoint of bank {bank!r} at version {version} is damaged: use an older one, "
            "or replay the log",
            "CHECKPOINT_DAMAGED",
        )

    async def _blob(self, keys: _Keys, text: bytes) -> bytes | None:
        """The bytes that an index entry names; None when they are not what it says."""
        read = _record(text)
        if read is None:
            return None
        upload, record = read
        names = [f"{keys.part}{upload}:{n}" for n in range(record["parts"])]
        parts = [await self._call("GET", name) for name in names]
        blob = b"".join(part or b"" for part in parts)
        return blob if await asyncio.to_thread(_sha256, blob) == record["sha256"] else None

    async def ping(self) -> None:
        """See Log."""
        await self._call("PING")

    async def close(self) -> None:
        """See Log."""
        await self._redis.aclose()

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """Runs a script by its digest, or whole when the server does not hold it (any more)."""
        suffix = "_RO" if script.reads_only else ""
        try:
            return await self._call("EVALSHA" + suffix, script.sha1, len(keys), *keys, *arguments)
        except exceptions.NoScriptError:
            return await self._call("EVAL" + suffix, script.source, len(keys), *keys, *arguments)

    async def _call(self, *command: Any) -> Any:
        """One command, in bounded time, with the store's failures as our errors."""
        with self._translated():
            async with asyncio.timeout(self._timeout_s):
                return await self._redis.execute_command(*command)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exceptions.NoScriptError:
            raise
        except exceptions.OutOfMemoryError as error:
            raise ResourceExhausted(
                f"the store at {self._where} is full ({error}): nothing was appended; raise its "
                "maxmemory or delete banks",
                "STORE_FULL",
            ) from error
        except _DOWN as error:
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise Unavailable(
                f"the store at {self._where} does not answer within {self._timeout_s} s ({why}); "
                "whether an edit was made is unknown: retry it under its event id",
                "STORE_DOWN",
            ) from error
        except exceptions.RedisError as error:
            if isinstance(error, _REFUSES) or str(error).startswith(_REFUSALS):
                raise Unavailable(
                    f"the store at {self._where} refuses for now: {error}", "STORE_REFUSES"
                ) from error
            raise LarimarError(f"the store at {self._where} answers: {error}") from error


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


def _registry(tenant: str) -> str:
    return f"{{{tenant}}}:banks"


def _location(url: str) -> str:
    """The store's address for messages: never its password."""
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "unix" else parts.netloc.rpartition("@")[2]
