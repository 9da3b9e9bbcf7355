"""Folding a bank's log into a state, page by page, with what was erased left out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

from larimar.errors import DataLoss
from larimar.memory import BankState, Payload
from larimar.state import Entry
from services.log import Log, Page
from services.threads import finished

TAIL_EVENTS = 1000
"""Events fetched and folded at once; between two such steps other calls get their turn."""
INLINE_EVENTS = 32
"""Up to here a page is folded in place: a thread would cost more than it frees."""


class Outdated(Exception):
    """A state cannot be brought up to date event by event; it is made anew."""


async def fold_tail(
    log: Log,
    state: BankState,
    tenant: str,
    bank: str,
    at_version: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Folds what the log has after a state, up to its end or to a version.

    While a long page is folded, the next one is parsed and the one after it fetched. What was
    erased since the state was folded is taken out of it, also when no event came.

    Args:
        at_version: the last version to fold; 0 for the newest.
        progress: called with the version reached after each page.

    Raises:
        Outdated: an erased fact cannot be subtracted, since its vectors are gone already, or
            one is erased no more; the state is as it was at its version and is of no more use.
        DataLoss, ChainBroken, Unavailable: as Log.tail.
    """

    async def fetch(after: int, chain: str) -> Page:
        return await _page(log, tenant, bank, after, chain, at_version)

    async def fold(page: Page, entries: Sequence[Entry]) -> None:
        if page.erase_count != state.erase_count:
            await _erase(log, state, tenant, bank)
        if entries:
            await _fold(log, state, entries, tenant, bank)
            if progress is not None:
                progress(state.version)

    page = await fetch(state.version, state.chain)
    while len(page.entries) <= INLINE_EVENTS:
        await fold(page, _parsed(page))
        if not page.entries:
            return
        page = await fetch(state.version, state.chain)
    async with contextlib.aclosing(_ahead(page, fetch)) as pages:
        async for page, entries in pages:
            await fold(page, entries)


async def _ahead(
    page: Page, fetch: Callable[[int, str], Awaitable[Page]]
) -> AsyncGenerator[tuple[Page, list[Entry]]]:
    """A page and all after it, parsed, the last one empty; two are on their way at a time."""
    ready: asyncio.Queue[Page | Exception] = asyncio.Queue(1)

    async def fetch_all() -> None:
        try:
            coming = page
            while True:
                await ready.put(coming)
                if not coming.entries:
                    return
                last, _ = coming.entries[-1]
                coming = await fetch(last.version, last.chain)
        except Exception as error:
            await ready.put(error)

    async def parse_next() -> tuple[Page, list[Entry]]:
        found = await ready.get()
        if isinstance(found, Exception):
            raise found
        return found, await asyncio.to_thread(_parsed, found)

    fetching = asyncio.ensure_future(fetch_all())
    parsing = asyncio.ensure_future(parse_next())
    try:
        while True:
            found, entries = await parsing
            if found.entries:
                parsing = asyncio.ensure_future(parse_next())
            yield found, entries
            if not found.entries:
                return
    finally:
        fetching.cancel()
        parsing.cancel()
        await asyncio.gather(fetching, parsing, return_exceptions=True)


async def _page(log: Log, tenant: str, bank: str, after: int, chain: str, at_version: int) -> Page:
    limit = min(TAIL_EVENTS, at_version - after) if at_version else TAIL_EVENTS
    if limit <= 0:
        # For the chain to be compared; what comes after it is not wanted.
        return Page([], (await log.tail(tenant, bank, after, 1, chain)).erase_count)
    return await log.tail(tenant, bank, after, limit, chain)


async def _fold(
    log: Log, state: BankState, entries: Sequence[Entry], tenant: str, bank: str
) -> None:
    needed = state.needs(entries)
    old = await _payloads(log, tenant, bank, needed)
    if len(entries) <= INLINE_EVENTS:
        _change(state, entries, old)
        await asyncio.sleep(0)
    else:
        await finished(_change, state, entries, old)


def _parsed(page: Page) -> list[Entry]:
    """The page's entries, their payloads' digests taken too: folding then waits for no hash."""
    with _uncollected():
        entries = [
            (event, None if raw is None else Payload.from_bytes(raw)) for event, raw in page.entries
        ]
        for _, payload in entries:
            if payload is not None:
                _ = payload.digest
        return entries


def _change(state: BankState, entries: Sequence[Entry], old: dict[int, bytes]) -> None:
    with _uncollected():
        state.fold(entries, {version: Payload.from_bytes(raw) for version, raw in old.items()})


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A page makes thousands of objects and no cycles: the collector would halve the speed."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


async def _erase(log: Log, state: BankState, tenant: str, bank: str) -> None:
    erased = await log.erased(tenant, bank)
    if not state.erased <= erased:
        raise Outdated("facts that were erased are back: the store was restored from a backup")
    new = sorted(erased - state.erased)
    old = await _payloads(log, tenant, bank, state.needs_of(new))
    state.erase(new, {version: Payload.from_bytes(raw) for version, raw in old.items()})


async def _payloads(log: Log, tenant: str, bank: str, versions: Sequence[int]) -> dict[int, bytes]:
    if not versions:
        return {}
    try:
        found = await log.payloads(tenant, bank, versions)
    except DataLoss as error:
        if error.reason == "PAYLOAD_ERASED":
            raise Outdated(error.message) from error
        raise
    return dict(zip(versions, found, strict=True))
