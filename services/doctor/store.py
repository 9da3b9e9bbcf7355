"""What the doctor asks the store: its settings, memory and files, its clock, what waits in it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from larimar.errors import LarimarError
from services.doctor.findings import FAIL, OK, WARN, Finding, graded, not_checked
from services.inbox import WARN_LENGTH
from services.redis_inbox import RedisInbox
from services.redis_keys import RedisKeys
from services.redis_log import RedisLog
from services.settings import Settings
from services.store_server import STORE_OPTIONS

LEAST_VALKEY, LEAST_REDIS = 8, 7
"""Major versions of the oldest servers that do."""
SKEW_WARN_S, SKEW_FAIL_S = 2.0, 300.0
"""Difference between the store's clock and this machine's: past the first, times in the log and in
the audit log do not fit; past the second, certificates and leases suffer too."""
FULL_WARN, FULL_FAIL = 0.8, 0.95
"""Share of the store's memory limit that is used."""
MACHINE_WARN, MACHINE_FAIL = 0.6, 0.85
"""The same of the machine's memory, for a store without a limit: rewriting its file may take as
much again for a while."""
GRAVE = frozenset({"appendonly", "appendfsync", "maxmemory-policy"})
"""Settings without which acknowledged events are lost."""


async def check_store(url: str, settings: Settings) -> list[Finding]:
    """Everything that can be asked of a store; one finding where it does not answer."""
    log = RedisLog(url)
    try:
        return [finding async for finding in _found(log, url, settings)]
    except LarimarError as error:
        return [
            Finding(
                "store.reachable",
                FAIL,
                error.message,
                "look at its process, its log (store.log in the data directory) and the network",
            )
        ]
    finally:
        await log.close()


async def _found(log: RedisLog, url: str, settings: Settings) -> AsyncIterator[Finding]:
    started = time.monotonic()
    await log.ping()
    yield Finding("store.reachable", OK, f"answers in {1000 * (time.monotonic() - started):.1f} ms")
    info = await log.call("INFO")
    yield _version(info)
    try:
        held = _pairs(await log.call("CONFIG", "GET", *STORE_OPTIONS))
    except LarimarError:
        held = None
    for finding in _settings(held, info):
        yield finding
    yield _memory(info)
    for finding in _files(info):
        yield finding
    yield _replication(info, settings.redis_replicas)
    yield await _clock(log)
    for finding in await _jobs(log):
        yield finding
    async for finding in _queues(log, url, settings):
        yield finding
    yield await _keys(url, settings)


def _version(info: Mapping[str, Any]) -> Finding:
    name, version, least = "Redis", str(info.get("redis_version", "0")), LEAST_REDIS
    if "valkey_version" in info:
        name, version, least = "Valkey", str(info["valkey_version"]), LEAST_VALKEY
    if int(version.partition(".")[0]) >= least:
        return Finding("store.version", OK, f"{name} {version}")
    return Finding("store.version", FAIL, f"{name} {version}", f"serve {name} {least} or later")


def _settings(held: Mapping[str, str] | None, info: Mapping[str, Any]) -> list[Finding]:
    """What the store is set to, against what the promises rest on."""
    if held is None:
        known = {"appendonly": "yes" if info.get("aof_enabled") else "no"}
        known["maxmemory-policy"] = str(info.get("maxmemory_policy", ""))
        hidden = sorted(STORE_OPTIONS.keys() - known.keys())
        findings = [
            not_checked(
                "store.settings",
                f"the store forbids CONFIG GET, so {', '.join(hidden)} cannot be seen",
                "ask whoever runs it; docs/operations.md says what they must be",
            )
        ]
    else:
        known, findings = dict(held), []
    for name, wanted in STORE_OPTIONS.items():
        if name not in known:
            continue
        shown = f'"{known[name]}"' if not known[name] else known[name]
        if known[name] == wanted:
            findings.append(Finding(f"store.{name}", OK, shown))
            continue
        findings.append(
            Finding(
                f"store.{name}",
                FAIL if name in GRAVE else WARN,
                f"{shown}, and must be {wanted or 'empty'}",
                f"CONFIG SET {name} {wanted or repr('')}, and the same in the store's own file; "
                "docs/operations.md says what goes wrong without",
            )
        )
    return findings


def _memory(info: Mapping[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if limit:
        return graded(
            "store.memory", used / limit, FULL_WARN, FULL_FAIL,
            f"{_mib(used)} of maxmemory {_mib(limit)}",
            "raise maxmemory or delete banks: at the limit every edit is refused (STORE_FULL)",
        )  # fmt: skip
    machine = int(info.get("total_system_memory", 0))
    if not machine:
        return not_checked("store.memory", "the store does not say", "watch it where it runs")
    return graded(
        "store.memory", used / machine, MACHINE_WARN, MACHINE_FAIL,
        f"{_mib(used)} of the machine's {_mib(machine)}, without maxmemory",
        "set maxmemory below what the machine has, so that edits are refused and no process killed",
    )  # fmt: skip


def _files(info: Mapping[str, Any]) -> list[Finding]:
    """How the store's last writes to its file ended."""
    if not info.get("aof_enabled"):
        return [
            Finding(
                "store.file", FAIL, "nothing is written to a file",
                "CONFIG SET appendonly yes: what is acknowledged now is lost with the process",
            )
        ]  # fmt: skip
    findings = []
    for name, what, level in (
        ("aof_last_write_status", "the last write", FAIL),
        ("aof_last_bgrewrite_status", "the last rewrite", WARN),
    ):
        status = str(info.get(name, "?"))
        check = "store.file" if level == FAIL else "store.rewrite"
        if status == "ok":
            findings.append(Finding(check, OK, f"{what} ended well"))
        else:
            findings.append(
                Finding(
                    check, level, f"{what} of the append-only file ended with {status}",
                    "look at the space on its disk and at its log; erasures wait for a rewrite",
                )
            )  # fmt: skip
    return findings


def _replication(info: Mapping[str, Any], wanted: int) -> Finding:
    role, replicas = str(info.get("role", "?")), int(info.get("connected_slaves", 0))
    if role != "master":
        return Finding(
            "store.role", FAIL, f"this server is a {role}",
            "give the pipeline the address of the primary: here every edit is refused",
        )  # fmt: skip
    if replicas < wanted:
        return Finding(
            "store.role", FAIL, f"{replicas} replicas, and redis_replicas asks for {wanted}",
            "bring replicas back, or lower redis_replicas: every edit answers NOT_CONFIRMED",
        )  # fmt: skip
    return Finding("store.role", OK, f"primary with {replicas} replicas")


async def _clock(log: RedisLog) -> Finding:
    before = time.time()
    seconds, micros = (int(part) for part in await log.call("TIME"))
    after = time.time()
    there = seconds + micros / 1e6
    skew = max(0.0, before - there, there - after)
    return graded(
        "store.clock", skew, SKEW_WARN_S, SKEW_FAIL_S,
        f"{skew:.2f} s apart from this machine's",
        "set both clocks by NTP: order is by version, but times of events are the store's",
    )  # fmt: skip


async def _jobs(log: RedisLog) -> list[Finding]:
    jobs = await log.jobs()
    if not jobs:
        return [Finding("store.erasures", OK, "none waits")]
    banks = sorted({f"{tenant}/{bank}" for tenant, bank, _ in jobs})
    return [
        Finding(
            "store.erasures", WARN, f"{len(jobs)} are not done, in {', '.join(banks[:5])}",
            "`larimar erase --receipt EVENT_ID` says what each waits for: a memory replica, or a "
            "store that can rewrite its file",
        )
    ]  # fmt: skip


async def _queues(log: RedisLog, url: str, settings: Settings) -> AsyncIterator[Finding]:
    inbox = RedisInbox(url)
    try:
        tenants = sorted({*settings.inbox_tenants, *await log.tenants()})
        dead, waiting = {}, {}
        for tenant in tenants:
            _, dead[tenant] = await inbox.letters(tenant, "", 1)
            waiting[tenant] = await inbox.length(tenant)
    finally:
        await inbox.close()
    shown = ", ".join(f"{tenant}: {count}" for tenant, count in dead.items() if count)
    yield Finding(
        "store.dead-letters",
        WARN if shown else OK,
        shown or "none",
        "`larimar dead list` says why; requeue or drop them" if shown else "",
    )
    unheard = [
        tenant
        for tenant, count in waiting.items()
        if count and tenant not in settings.inbox_tenants
    ]
    if unheard:
        yield Finding(
            "store.inbox", WARN, f"events wait, and nobody consumes: {', '.join(unheard)}",
            "name these tenants in inbox_tenants of the settings",
        )  # fmt: skip
        return
    longest = max(waiting.values(), default=0)
    yield graded(
        "store.inbox", longest, WARN_LENGTH, 10 * WARN_LENGTH, f"at most {longest} wait",
        "producers are faster than the consumer: more encoder replicas, or slower producers",
    )  # fmt: skip


async def _keys(url: str, settings: Settings) -> Finding:
    keys = RedisKeys(url)
    try:
        good = sum(not key.revoked_ms for key in await keys.all())
    finally:
        await keys.close()
    if settings.require_keys and not good:
        return Finding(
            "store.keys", WARN, "keys are asked for, and there is none", "`larimar key create`"
        )
    return Finding("store.keys", OK, f"{good} API keys")


def _pairs(found: Any) -> dict[str, str]:
    """What CONFIG GET answers, as text."""
    if not isinstance(found, dict):
        found = dict(zip(found[::2], found[1::2], strict=True))
    return {_text(name): _text(value) for name, value in found.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
