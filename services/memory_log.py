"""`MemoryLog`: the log of many banks in one process, same semantics, nothing durable."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from larimar.errors import InvalidArgument
from larimar.memory import BankConfig, Event, Kind, check_id
from services.log import Append, Appended, Found, Origin, Page, Stored
from services.log_rules import (
    KEEP_CHECKPOINTS,
    MAX_BANKS,
    MAX_EVENTS,
    MAX_FAMILY,
    SALT_BYTES,
    bank_edited,
    bank_exists,
    bank_full,
    bank_switched,
    check_checkpoint,
    check_items,
    check_loaded,
    check_names,
    check_page,
    check_part,
    damaged,
    has_forks,
    id_taken,
    name_taken,
    not_erased,
    payload_erased,
    too_many_banks,
    too_many_forks,
    unknown_bank,
    unknown_checkpoint,
    version_not_written,
)
from services.memory_bank import (
    Bank,
    Entry,
    Family,
    check_stored,
    history,
    known,
    payload_page,
    refusal,
)


class MemoryLog:
    """The log in this process.

    Args:
        max_events: most events of one bank.
    """

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._banks: dict[tuple[str, str], Bank] = {}
        self._loading: dict[tuple[str, str], Bank] = {}
        self._sources: dict[tuple[str, str], str] = {}
        self._loaded_s: dict[tuple[str, str], float] = {}
        self._jobs: set[tuple[str, str, str]] = set()
        self._max_events = max_events

    async def make_bank(
        self, tenant: str, bank: str, config: BankConfig
    ) -> tuple[BankConfig, bool]:
        """See Log."""
        check_names(tenant, bank)
        config.validate()
        held = self._banks.get((tenant, bank))
        if held is not None:
            if held.config != config:
                raise bank_exists(bank)
            return held.config, False
        self._check_room(tenant)
        self._loading.pop((tenant, bank), None)
        self._show(tenant, Bank(bank, config, Family()))
        return config, True

    async def bank_config(self, tenant: str, bank: str) -> BankConfig:
        """See Log."""
        return self._bank(tenant, bank).config

    async def tenants(self) -> list[str]:
        """See Log."""
        return sorted({tenant for tenant, _ in self._banks})

    async def banks(self, tenant: str) -> list[str]:
        """See Log."""
        check_names(tenant)
        return sorted(bank for owner, bank in self._banks if owner == tenant)

    async def drop_bank(self, tenant: str, bank: str, head: tuple[int, str] | None = None) -> bool:
        """See Log."""
        check_names(tenant, bank)
        held = self._banks.get((tenant, bank))
        if held is not None and head not in (None, held.head):
            raise bank_edited(bank)
        self._loading.pop((tenant, bank), None)
        if held is None:
            return False
        self._remove(tenant, held)
        return True

    def _remove(self, tenant: str, held: Bank) -> None:
        """Takes a bank away. Raises: FailedPrecondition, HAS_FORKS."""
        others = held.family.banks.values()
        forks = [one.name for one in others if one.origin and one.origin.bank == held.name]
        if forks:
            raise has_forks(held.name, forks)
        del self._banks[tenant, held.name], held.family.banks[held.name]

    async def append(
        self,
        tenant: str,
        bank: str,
        items: Sequence[Append],
        config: BankConfig | None = None,
    ) -> list[Appended]:
        """See Log."""
        held = self._bank(tenant, bank)
        if config is not None and config != held.config:
            raise bank_switched(bank)
        errors = check_items(items, (Kind.WRITE, Kind.FORGET))
        return [
            self._append_one(held, item) if error is None else Appended(0, error=error)
            for item, error in zip(items, errors, strict=True)
        ]

    def _append_one(self, held: Bank, item: Append) -> Appended:
        if (duplicate := known(held, item)) is not None:
            return duplicate
        error = refusal(held, item)
        if error is None and len(held.entries) >= self._max_events:
            error = bank_full(held.name, self._max_events)
        if error is not None:
            return Appended(0, error=error)
        return Appended(held.put(item, item.event_id))

    async def erase(self, tenant: str, bank: str, items: Sequence[Append]) -> list[Appended]:
        """See Log."""
        held = self._bank(tenant, bank)
        errors = check_items(items, (Kind.ERASE,))
        good = [item for item, error in zip(items, errors, strict=True) if error is None]
        used = [(item.event_id, known(held, item)) for item in good]
        taken = [event_id for event_id, found in used if found is not None and found.error]
        return [
            self._erase_one(held, item, taken) if error is None else Appended(0, error=error)
            for item, error in zip(items, errors, strict=True)
        ]

    def _erase_one(self, held: Bank, item: Append, taken: list[str]) -> Appended:
        if (duplicate := known(held, item)) is not None:
            return duplicate
        if taken:
            return Appended(0, error=id_taken(taken[0]))
        error = refusal(held, item)
        if error is not None:
            return Appended(0, error=error)
        version = held.put(item, item.event_id)
        for _, other in sorted(held.family.banks.items()):
            if other is not held and item.fact_id in other.facts:
                other.put(item, other.free_id(item.event_id))
        held.family.erased.add(item.fact_id)
        return Appended(version)

    async def erased(self, tenant: str, bank: str) -> frozenset[str]:
        """See Log."""
        return frozenset(self._bank(tenant, bank).family.erased)

    async def head(self, tenant: str, bank: str) -> tuple[int, str, int]:
        """See Log."""
        held = self._bank(tenant, bank)
        return *held.head, len(held.family.erased)

    async def tail(
        self, tenant: str, bank: str, after: int, limit: int, chain: str | None = None
    ) -> Page:
        """See Log."""
        held = self._bank(tenant, bank)
        page = payload_page(held, after, limit, chain)
        return Page(
            [(entry.event, salted and salted[SALT_BYTES:]) for entry, salted in page],
            len(held.family.erased),
        )

    async def events(self, tenant: str, bank: str, after: int, limit: int) -> list[Event]:
        """See Log."""
        held = self._bank(tenant, bank)
        return [entry.event for entry in held.page(after, check_page(after, limit))]

    async def fact_events(self, tenant: str, bank: str, fact_id: str) -> list[Event]:
        """See Log."""
        held = self._bank(tenant, bank)
        return [entry.event for entry in history(held, fact_id)]

    async def payloads(self, tenant: str, bank: str, versions: Sequence[int]) -> list[bytes]:
        """See Log."""
        held = self._bank(tenant, bank)
        found = []
        for version in versions:
            entry = held.entries[version - 1] if 1 <= version <= len(held.entries) else None
            if entry is None or entry.event.kind != Kind.WRITE:
                raise damaged(bank, version, "the payload is missing")
            if entry.event.fact_id in held.family.erased:
                raise payload_erased(bank, version)
            if entry.salted is None:
                raise damaged(bank, version, "the payload is missing")
            found.append(entry.salted[SALT_BYTES:])
        return found

    async def remove_payloads(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> int:
        """See Log."""
        family = self._bank(tenant, bank).family
        for fact_id in fact_ids:
            if fact_id not in family.erased:
                raise not_erased(fact_id)
        removed = 0
        for fact_id in fact_ids:
            for held in family.banks.values():
                for entry in history(held, fact_id):
                    removed += entry.salted is not None
                    entry.salted = None
        return removed

    async def fork(self, tenant: str, source: str, new: str, version: int) -> bool:
        """See Log."""
        check_names(tenant, new)
        check_page(version, 1)
        held = self._bank(tenant, source)
        if version > len(held.entries):
            raise version_not_written(source, len(held.entries), version)
        owner = held
        while owner.origin is not None and version < owner.origin.version:
            owner = held.family.banks[owner.origin.bank]
        chain = held.entries[version - 1].event.chain if version else ""
        origin = Origin(owner.name, version, chain)
        taken = self._banks.get((tenant, new))
        if taken is not None:
            if taken.family is held.family and taken.origin == origin:
                return False
            raise name_taken(new)
        if len(held.family.banks) >= MAX_FAMILY:
            raise too_many_forks(source)
        self._check_room(tenant)
        self._loading.pop((tenant, new), None)
        segments = [point for point in owner.segments if point < version] + [version]
        fork = Bank(new, held.config, held.family, origin, segments)
        for entry in held.entries[:version]:
            fork.add(entry)
        self._show(tenant, fork)
        return True

    async def family(self, tenant: str, bank: str) -> dict[str, Origin | None]:
        """See Log."""
        banks = self._bank(tenant, bank).family.banks
        return {name: banks[name].origin for name in sorted(banks)}

    async def load(
        self,
        tenant: str,
        bank: str,
        entries: Sequence[Stored],
        source: str = "",
        replaces: bool = False,
    ) -> tuple[int, str]:
        """See Log."""
        check_names(tenant, bank)
        check_loaded(bank, entries)
        held = self._loaded(tenant, bank, source, replaces)
        for stored in entries:
            event = stored.event
            if event.version <= len(held.entries):
                if held.entries[event.version - 1].event.chain == event.chain:
                    continue
                held = self._loading[tenant, bank] = Bank(bank, held.config, Family())
            check_stored(bank, held, stored)
            held.add(Entry(event, stored.salted, stored.request_hmac))
        return len(held.entries), held.entries[-1].event.chain if held.entries else ""

    async def sweep_loads(
        self, tenant: str, chains: Collection[str] = (), older_s: float | None = None
    ) -> list[str]:
        """See Log."""
        check_names(tenant)
        swept = []
        for key, held in list(self._loading.items()):
            first = held.entries[0].event.chain if held.entries else ""
            age_s = time.monotonic() - self._loaded_s[key]
            given_up = first in chains or (older_s is not None and age_s > older_s)
            if key[0] == tenant and given_up:
                del self._loading[key]
                swept.append(first)
        return swept

    async def publish(
        self,
        tenant: str,
        bank: str,
        config: BankConfig,
        erased: Sequence[str],
        version: int,
        source: str = "",
        replaces: tuple[int, str] | None = None,
    ) -> None:
        """See Log."""
        config.validate()
        for fact_id in erased:
            check_id("fact_id", fact_id)
        held = self._loaded(tenant, bank, source, replaces is not None)
        if len(held.entries) != version:
            raise damaged(bank, len(held.entries), f"what is loaded must end at {version}")
        if replaces is not None:
            old = self._banks.get((tenant, bank))
            if old is None or old.head != replaces:
                raise bank_edited(bank)
            self._remove(tenant, old)
        held.config = config
        held.family.erased = set(erased)
        del self._loading[tenant, bank]
        self._show(tenant, held)

    async def stored(self, tenant: str, bank: str, after: int, limit: int) -> list[Stored]:
        """See Log."""
        page = payload_page(self._bank(tenant, bank), after, limit, None)
        return [Stored(entry.event, salted, entry.request_hmac) for entry, salted in page]

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
        """See Log."""
        held = self._bank(tenant, bank)
        check_checkpoint(part, version, blob)
        if len(held.family.erased) != erase_count:
            return False
        if meta.get("chain") and (
            version > len(held.entries) or held.entries[version - 1].event.chain != meta["chain"]
        ):
            return False
        held.checkpoints[part, version] = (bytes(blob), dict(meta))
        kept = sorted(key for key in held.checkpoints if key[0] == part)
        for old in kept[:-KEEP_CHECKPOINTS]:
            del held.checkpoints[old]
        return True

    async def checkpoints(
        self, tenant: str, bank: str, part: str
    ) -> list[tuple[int, dict[str, str]]]:
        """See Log."""
        found = self._bank(tenant, bank).checkpoints
        check_part(part)
        kept = sorted((key for key in found if key[0] == part), reverse=True)
        return [(key[1], dict(found[key][1])) for key in kept]

    async def get_checkpoint(self, tenant: str, bank: str, part: str, version: int) -> bytes:
        """See Log."""
        found = self._bank(tenant, bank).checkpoints.get((part, version))
        check_part(part)
        if found is None:
            raise unknown_checkpoint(bank, version)
        return found[0]

    async def remove_checkpoints(self, tenant: str, bank: str, before: int) -> int:
        """See Log."""
        found = self._bank(tenant, bank).checkpoints
        old = [key for key in found if key[1] < before]
        for key in old:
            del found[key]
        return len(old)

    async def put_record(self, tenant: str, bank: str, name: str, text: str, new: bool) -> str:
        """See Log."""
        records = self._bank(tenant, bank).family.records
        if not new or name not in records:
            records[name] = text
        return records[name]

    async def record(self, tenant: str, bank: str, name: str) -> str | None:
        """See Log."""
        return self._bank(tenant, bank).family.records.get(name)

    async def remove_record(self, tenant: str, bank: str, name: str) -> None:
        """See Log."""
        self._bank(tenant, bank).family.records.pop(name, None)

    async def put_job(self, tenant: str, bank: str, name: str) -> None:
        """See Log."""
        check_names(tenant, bank)
        self._jobs.add((tenant, bank, name))

    async def jobs(self) -> list[tuple[str, str, str]]:
        """See Log."""
        return sorted(self._jobs)

    async def end_job(self, tenant: str, bank: str, name: str) -> None:
        """See Log."""
        check_names(tenant, bank)
        self._jobs.discard((tenant, bank, name))

    async def search(self, tenant: str, bank: str, needles: Sequence[bytes]) -> Found:
        """See Log. Every entry, payload, checkpoint and record counts as a key."""
        if not needles or not all(needles):
            raise InvalidArgument("give at least one byte string to look for, none of them empty")
        family = self._bank(tenant, bank).family
        values = [text.encode() for text in family.records.values()]
        for held in family.banks.values():
            values += [blob for blob, _ in held.checkpoints.values()]
            own = held.origin.version if held.origin else 0
            for entry in held.entries[own:]:
                values.append(f"{entry.event.fact_id}\0{entry.event.event_id}".encode())
                values += [entry.salted] if entry.salted is not None else []
        found = sum(any(needle in value for needle in needles) for value in values)
        return Found(len(values), found)

    async def rewrite_files(self) -> list[str] | None:
        """See Log."""
        return []

    async def files(self) -> list[str] | None:
        """See Log."""
        return []

    async def ping(self) -> None:
        """See Log."""

    async def close(self) -> None:
        """See Log."""

    def _bank(self, tenant: str, bank: str) -> Bank:
        check_names(tenant, bank)
        held = self._banks.get((tenant, bank))
        if held is None:
            raise unknown_bank(bank)
        return held

    def _check_room(self, tenant: str) -> None:
        if sum(owner == tenant for owner, _ in self._banks) >= MAX_BANKS:
            raise too_many_banks()

    def _show(self, tenant: str, bank: Bank) -> None:
        self._banks[tenant, bank.name] = bank.family.banks[bank.name] = bank

    def _loaded(self, tenant: str, bank: str, source: str, replaces: bool) -> Bank:
        """The bank that is being restored under a name, from a source."""
        check_names(tenant, bank)
        if not replaces and (tenant, bank) in self._banks:
            raise name_taken(bank)
        self._loaded_s[tenant, bank] = time.monotonic()
        held = self._loading.get((tenant, bank))
        if held is None or self._sources[tenant, bank] != source:
            self._check_room(tenant)
            unset = BankConfig(prompt_size=1, value_size=1, scope_size=1)
            held = self._loading[tenant, bank] = Bank(bank, unset, Family())
            self._sources[tenant, bank] = source
        return held
