"""Folding a bank's log into a state, page by page, with what was erased left out."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence

from larimar.errors import DataLoss
from larimar.memory import BankState, Event, Payload
from services.log import Log, Page

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

    The next page is fetched while one is folded. What was erased since the state was folded is
    taken out of it, also when no event came.

    Args:
        at_version: the last version to fold; 0 for the newest.
        progress: called with the version reached after each page.

    Raises:
        Outdated: an erased fact cannot be subtracted, since its vectors are gone already, or
            one is erased no more; the state is as it was at its version and is of no more use.
        DataLoss, ChainBroken, Unavailable: as Log.tail.
    """
    page = await _page(log, tenant, bank, state.version, state.chain, at_version)
    while True:
        if page.erase_count != state.erase_count:
            await _erase(log, state, tenant, bank)
        if not page.entries:
            return
        coming = None
        last, _ = page.entries[-1]
        if len(page.entries) > INLINE_EVENTS:
            coming = asyncio.ensure_future(
                _page(log, tenant, bank, last.version, last.chain, at_version)
            )
        try:
            await _fold(log, state, page.entries, tenant, bank)
        except BaseException:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            raise
        if progress is not None:
            progress(state.version)
        page = await (coming or _page(log, tenant, bank, state.version, state.chain, at_version))


async def _page(log: Log, tenant: str, bank: str, after: int, chain: str, at_version: int) -> Page:
    limit = min(TAIL_EVENTS, at_version - after) if at_version else TAIL_EVENTS
    if limit <= 0:
        _, _, erase_count = await log.head(tenant, bank)
        return Page([], erase_count)
    return await log.tail(tenant, bank, after, limit, chain)


async def _fold(
    log: Log,
    state: BankState,
    entries: Sequence[tuple[Event, bytes | None]],
    tenant: str,
    bank: str,
) -> None:
    needed = state.needs([(event, None) for event, _ in entries])
    old = await _payloads(log, tenant, bank, needed)
    if len(entries) <= INLINE_EVENTS:
        _parse_and_fold(state, entries, old)
        await asyncio.sleep(0)
    else:
        await asyncio.to_thread(_parse_and_fold, state, entries, old)


def _parse_and_fold(
    state: BankState, entries: Sequence[tuple[Event, bytes | None]], old: dict[int, bytes]
) -> None:
    collecting = gc.isenabled()
    gc.disable()  # a page makes thousands of objects and no cycles: the collector would halve it
    try:
        parsed = [
            (event, None if raw is None else Payload.from_bytes(raw)) for event, raw in entries
        ]
        state.fold(parsed, {version: Payload.from_bytes(raw) for version, raw in old.items()})
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
