"""Folding a bank's log into a state, page by page, with what was erased left out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

from larimar.errors import DataLoss, LarimarError
from larimar.memory import BankState, Event, Kind, Payload
from larimar.state import Entry
from services.log import Log, Page
from services.threads import finished

TAIL_EVENTS = 1000
"""Events fetched and folded at once; between two such steps other calls get their turn."""
INLINE_EVENTS = 32
"""Up to here a page is settled in place: a thread would cost more than it frees."""
PARSED_EVENTS = 100
"""Events parsed at once, about 1 ms; between two such steps other calls get their turn."""


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

    While a long page is folded, the next one is parsed, what it will subtract is fetched, and the
    page after it too; the products of a fixed-size bank are made beside all that. What was erased
    since the state was folded is taken out of it, also when no event came.

    All of Python's part is done in the event loop, where other calls get their turn after some
    milliseconds: beside the loop, a thread that parses or folds waits for the interpreter's lock,
    and the loop for the thread.

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

    async def fold(page: Page, entries: Sequence[Entry], earlier: dict[int, bytes]) -> None:
        if page.erase_count != state.erase_count:
            await settling.done()
            await _erase(log, state, tenant, bank)
        if entries:
            needed = state.needs(entries)
            missing = [version for version in needed if version not in earlier]
            old = earlier | await _payloads(log, tenant, bank, missing)
            _change(state, entries, {version: old[version] for version in needed})
            await settling.begin(is_long=len(entries) > INLINE_EVENTS)
            if progress is not None:
                progress(state.version)

    async def fetch_earlier(versions: Sequence[int]) -> dict[int, bytes]:
        try:
            return await _payloads(log, tenant, bank, versions)
        except (Outdated, LarimarError):  # if it matters still, `fold` finds so
            return {}

    async with contextlib.aclosing(_Settling(state)) as settling:
        page = await fetch(state.version, state.chain)
        while len(page.entries) <= INLINE_EVENTS:
            await fold(page, await _parsed(page), {})
            if not page.entries:
                return
            page = await fetch(state.version, state.chain)
        subtracted = _Subtracted(state)
        ahead = _ahead(page, fetch, lambda found: fetch_earlier(subtracted.by(found)))
        async with contextlib.aclosing(ahead) as pages:
            async for page, entries, earlier in pages:
                await fold(page, entries, earlier)


class _Settling:
    """What a page leaves to `BankState.settle`: products are made while the next page is folded."""

    def __init__(self, state: BankState) -> None:
        self._state = state
        self._products: asyncio.Task | None = None

    async def begin(self, is_long: bool) -> None:
        """Settles what a page has left, or begins to; other calls get their turn meanwhile."""
        await self.done()
        if not is_long:
            self._state.settle()
        elif self._state.is_sparse:
            await finished(self._state.settle)
        elif self._state.sums is not None:
            self._products = asyncio.ensure_future(finished(self._state.sums.settle))
        await asyncio.sleep(0)

    async def done(self) -> None:
        """Waits for what was begun."""
        products, self._products = self._products, None
        if products is not None:
            await products

    aclose = done


class _Subtracted:
    """Versions of the payloads that a page will subtract, told before the one ahead is folded.

    They are what `BankState.needs` will say, but for what is erased meanwhile.
    """

    def __init__(self, state: BankState) -> None:
        self._state = state
        self._from_version = state.version
        self._forgotten: set[str] = set()
        """Facts whose newest event so far, of those after `from_version`, is a FORGET."""

    def by(self, page: Page) -> list[int]:
        """For the pages of a log in order."""
        if self._state.sums is None:
            return []
        return [
            event.previous
            for event, _ in page.entries
            if self._was_live(event) and event.previous < page.entries[0][0].version
        ]

    def _was_live(self, event: Event) -> bool:
        fact_id, state = event.fact_id, self._state
        if event.previous > self._from_version:
            was_live = fact_id not in self._forgotten
        else:
            was_live = event.previous > 0 and fact_id in state.facts
        if event.kind == Kind.FORGET:
            self._forgotten.add(fact_id)
        else:
            self._forgotten.discard(fact_id)
        return was_live and event.kind != Kind.ERASE and fact_id not in state.erased


async def _ahead(
    first: Page,
    fetch: Callable[[int, str], Awaitable[Page]],
    fetch_earlier: Callable[[Page], Awaitable[dict[int, bytes]]],
) -> AsyncGenerator[tuple[Page, list[Entry], dict[int, bytes]]]:
    """A page and all after it, parsed, the last one empty, each with the payloads that it will
    subtract; two pages are on their way at a time."""
    ready: asyncio.Queue[Page | Exception] = asyncio.Queue(1)

    async def fetch_all() -> None:
        try:
            coming = first
            while True:
                await ready.put(coming)
                if not coming.entries:
                    return
                last, _ = coming.entries[-1]
                coming = await fetch(last.version, last.chain)
        except Exception as error:
            await ready.put(error)

    async def parse_next() -> tuple[Page, list[Entry], dict[int, bytes]]:
        found = await ready.get()
        if isinstance(found, Exception):
            raise found
        entries, earlier = await asyncio.gather(_parsed(found), fetch_earlier(found))
        return found, entries, earlier

    fetching = asyncio.ensure_future(fetch_all())
    parsing = asyncio.ensure_future(parse_next())
    try:
        while True:
            found = await parsing
            if found[0].entries:
                parsing = asyncio.ensure_future(parse_next())
            yield found
            if not found[0].entries:
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


async def _parsed(page: Page) -> list[Entry]:
    """The page's entries, their payloads hashed: folding then has less to do at once."""
    entries: list[Entry] = []
    for low in range(0, len(page.entries), PARSED_EVENTS):
        if low:
            await asyncio.sleep(0)
        with _uncollected():
            for event, raw in page.entries[low : low + PARSED_EVENTS]:
                payload = None if raw is None else Payload.from_bytes(raw)
                if payload is not None:
                    _ = payload.digest
                entries.append((event, payload))
    return entries


def _change(state: BankState, entries: Sequence[Entry], old: dict[int, bytes]) -> None:
    with _uncollected():
        subtracted = {version: Payload.from_bytes(raw) for version, raw in old.items()}
        state.fold(entries, subtracted, settled=False)


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
