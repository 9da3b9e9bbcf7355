"""Reads of the log in Redis: pages of entries, payloads, the history of a fact."""

from __future__ import annotations

from collections.abc import Sequence

from larimar.memory import Event, Kind
from services.log import Page, Stored
from services.log_rules import (
    MAX_PAGE_BYTES,
    SALT_BYTES,
    check_page,
    damaged,
    log_changed,
    not_erased,
    payload_erased,
)
from services.redis_entries import RawPage, check_salted, read_event, read_page
from services.redis_scripts import ERASED, HEAD, HISTORY, PAGE, PAYLOADS
from services.redis_store import Keys, RedisStore

PAYLOADS_A_CALL = 100
"""Payloads that one call of a script returns."""
HISTORY_ENTRIES = 1_000
"""Entries of a fact that one call of a script walks: about 3 ms of the store's one thread."""


class RedisReads(RedisStore):
    """The part of `RedisLog` that reads events."""

    async def head(self, tenant: str, bank: str) -> tuple[int, str, int]:
        """See Log."""
        version, chain, erase_count = await self._ask(tenant, bank, HEAD)
        return int(version), chain.decode(), erase_count

    async def erased(self, tenant: str, bank: str) -> frozenset[str]:
        """See Log."""
        return frozenset(name.decode() for name in await self._ask(tenant, bank, ERASED))

    async def tail(
        self, tenant: str, bank: str, after: int, limit: int, chain: str | None = None
    ) -> Page:
        """See Log. Cost: two PINGs when there is nothing new; 20 us an event of 5 KB, checked, and
        as much of the store's one thread."""
        limit = check_page(after, limit)
        page, salted = await self._on_bank(
            tenant, bank, lambda keys: self._salted_page(keys, after, limit, chain)
        )
        return Page(
            [
                (event, blob and blob[SALT_BYTES:])
                for event, blob in zip(page.events, salted, strict=True)
            ],
            page.erase_count,
        )

    async def events(self, tenant: str, bank: str, after: int, limit: int) -> list[Event]:
        """See Log."""
        limit = check_page(after, limit)
        page = await self._on_bank(tenant, bank, lambda keys: self._page(keys, after, limit))
        return page.events

    async def stored(self, tenant: str, bank: str, after: int, limit: int) -> list[Stored]:
        """See Log."""
        limit = check_page(after, limit)

        async def read(keys: Keys) -> list[Stored]:
            page, salted = await self._salted_page(keys, after, limit, None)
            if not page.events:
                return []
            names = [event.event_id for event in page.events]
            known = await self.call("HMGET", keys.of(page.owner).events, *names)
            found = []
            for event, blob, text in zip(page.events, salted, known, strict=True):
                version, _, hmac = (text or b"").decode().partition(":")
                if version != str(event.version):
                    raise damaged(bank, event.version, "its event id is not in the index")
                found.append(Stored(event, blob, hmac))
            return found

        return await self._on_bank(tenant, bank, read)

    async def fact_events(self, tenant: str, bank: str, fact_id: str) -> list[Event]:
        """See Log."""
        found: list[Event] = []
        at = b""
        while at != b"0":
            at, *entries = await self._ask(tenant, bank, HISTORY, fact_id, at, HISTORY_ENTRIES)
            if at == b"damaged":
                raise damaged(bank, int(entries[0]), f"no entry of fact {fact_id!r} is there")
            for entry in entries:
                fields = entry.decode(errors="replace").split("\0")
                found.append(read_event(bank, int(fields[0]), fields))
        return found

    async def payloads(self, tenant: str, bank: str, versions: Sequence[int]) -> list[bytes]:
        """See Log."""
        found: list[bytes] = []
        for start in range(0, max(len(versions), 1), PAYLOADS_A_CALL):
            asked = versions[start : start + PAYLOADS_A_CALL]
            answer = await self._ask(tenant, bank, PAYLOADS, *asked)
            triples = zip(asked, answer[::3], answer[1::3], answer[2::3], strict=True)
            for version, sha256, salted, gone in triples:
                if gone:
                    raise payload_erased(bank, version)
                sha256 = sha256.decode(errors="replace")
                found.append(check_salted(bank, version, sha256, salted)[SALT_BYTES:])
        return found

    async def _page(
        self, keys: Keys, after: int, limit: int, with_payloads: bool = False
    ) -> RawPage:
        """Checked entries after a version, all of one moment."""
        answer = await self._ask_at(keys, PAGE, after, limit, int(with_payloads), MAX_PAGE_BYTES)
        return read_page(keys.bank, answer, after)

    async def _salted_page(
        self, keys: Keys, after: int, limit: int, chain: str | None
    ) -> tuple[RawPage, list[bytes | None]]:
        """Entries after a version with salt and payload, checked; None where there is none."""
        page = await self._page(keys, after, limit, with_payloads=True)
        if page.at_after is None or (chain is not None and chain != page.at_after):
            raise log_changed(keys.bank, after)
        salted = [
            None
            if event.kind != Kind.WRITE or gone
            else check_salted(keys.bank, event.version, event.payload_sha256, blob)
            for event, gone, blob in zip(page.events, page.erased, page.payloads, strict=True)
        ]
        return page, salted

    async def _check_erased(self, keys: Keys, fact_ids: Sequence[str]) -> None:
        """Raises FailedPrecondition when one of them is not erased."""
        if fact_ids:
            found = await self.call("SMISMEMBER", keys.erased, *fact_ids)
            for fact_id, is_erased in zip(fact_ids, found, strict=True):
                if not is_erased:
                    raise not_erased(fact_id)
