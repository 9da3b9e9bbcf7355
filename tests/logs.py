"""What tests of the log share: items, and the whole of a log read in pages."""

from __future__ import annotations

from larimar.errors import Unavailable
from larimar.memory import BankConfig, Event, Kind, request_body
from services.log import Append, Appended, Log
from services.redis_log import RedisLog
from services.redis_scripts import Script

CONFIG = BankConfig(prompt_size=4, value_size=4, scope_size=4)
OTHER_CONFIG = BankConfig(prompt_size=4, value_size=4, scope_size=5)
T, B = "acme", "default"
PATIENCE_S = 60.0
"""How long a call of a store may take on a busy machine."""


def write(
    event_id: str,
    fact_id: str,
    answer: str = "a",
    payload: bytes | None = None,
    expected: int | None = None,
) -> Append:
    body = request_body(Kind.WRITE, fact_id, "p", answer)
    if payload is None:
        payload = f"payload of {event_id}: {answer}".encode()
    return Append(Kind.WRITE, event_id, fact_id, body, payload, expected)


def forget(event_id: str, fact_id: str, expected: int | None = None) -> Append:
    body = request_body(Kind.FORGET, fact_id)
    return Append(Kind.FORGET, event_id, fact_id, body, expected=expected)


def erase(event_id: str, fact_id: str, expected: int | None = None) -> Append:
    body = request_body(Kind.ERASE, fact_id)
    return Append(Kind.ERASE, event_id, fact_id, body, expected=expected)


def outcome(result: Appended) -> tuple[int, bool, str | None]:
    return result.version, result.duplicate, result.error.reason if result.error else None


async def appended(log: Log, *items: Append, bank: str = B) -> list[tuple[int, bool, str | None]]:
    return [outcome(result) for result in await log.append(T, bank, items)]


async def erased(log: Log, *items: Append, bank: str = B) -> list[tuple[int, bool, str | None]]:
    return [outcome(result) for result in await log.erase(T, bank, items)]


async def whole_tail(
    log: Log, page: int = 1000, tenant: str = T, bank: str = B
) -> list[tuple[Event, bytes | None]]:
    found: list[tuple[Event, bytes | None]] = []
    while entries := (
        await log.tail(tenant, bank, len(found), page, found[-1][0].chain if found else "")
    ).entries:
        found += entries
    return found


async def whole_archive(log: Log, bank: str = B, page: int = 1000) -> list:
    found: list = []
    while stored := await log.stored(T, bank, len(found), page):
        found += stored
    return found


def cut_off(log: RedisLog, script: Script, nth: int) -> None:
    """From the nth call of a script on, that one included, no answer of the store arrives."""
    run, calls = log.run, 0

    async def lost(called, *arguments):
        nonlocal calls
        calls += called is script
        if calls > nth:
            raise Unavailable("the store does not answer", "STORE_DOWN")
        answer = await run(called, *arguments)
        if calls == nth:
            calls += 1
            raise Unavailable("the store does not answer", "STORE_DOWN")
        return answer

    log.run = lost
