"""Banks in Redis: made, forked, listed, removed.

The registry leads a name to a root, in whose slot the bank's keys are. It is written first and
a bank is there once it has a configuration, so a call that stopped half-way shows nothing, and
the next one of that name finishes it or sweeps it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from larimar.errors import Unavailable
from larimar.memory import BankConfig, Kind
from services.log import Origin
from services.log_rules import (
    MAX_BANKS,
    MAX_FAMILY,
    MAX_PAGE,
    bank_edited,
    bank_exists,
    check_names,
    check_page,
    damaged,
    has_forks,
    log_changed,
    name_taken,
    too_many_banks,
    too_many_forks,
    unknown_bank,
    version_not_written,
)
from services.redis_bank_scripts import BUILD, CLAIM, DROP, FAMILY, FORK, MAKE, SWEEP
from services.redis_reads import RedisReads
from services.redis_scripts import HEAD, REMOVE_PAYLOADS
from services.redis_store import Keys, registry

SWEEP_ENTRIES = 1_000
"""Entries that one step of drop_bank or remove_payloads takes: 5 ms of the store's one thread."""
FACTS_A_CALL = 200
"""Facts whose payloads one call removes."""
INDEX_FACTS = 1_000
"""Facts of a fork's index that one call uploads: about 1 ms of the store's one thread."""
FORK_ATTEMPTS = 3
"""How often a fork that another call of its name swept away begins again."""

SCAN_KEYS = 1_000
"""Keys that one step of a walk looks at: about 0.3 ms of the store's one thread."""


class RedisBanks(RedisReads):
    """The part of `RedisLog` that makes and removes banks."""

    async def make_bank(
        self, tenant: str, bank: str, config: BankConfig
    ) -> tuple[BankConfig, bool]:
        """See Log."""
        check_names(tenant, bank)
        text = config.validate().to_json()
        state, held, keys = 0, [], Keys(tenant, bank, bank)
        while state != 1 and not held:
            fork = await self._claim(tenant, bank, bank)
            if fork is not None:
                held = [await self._config_text(fork)]
            else:
                state, *held = await self._run(MAKE, keys, text)
            if state < 0:
                await self._sweep(keys)
            elif state == 1 and not await self._is_listed(keys):
                state = 0
        if held and BankConfig.from_json(held[0]) != config:
            raise bank_exists(bank)
        return config, state == 1

    async def bank_config(self, tenant: str, bank: str) -> BankConfig:
        """See Log."""
        return BankConfig.from_json(await self._on_bank(tenant, bank, self._config_text))

    async def tenants(self) -> list[str]:
        """See Log."""
        found: set[str] = set()
        cursor = None
        while cursor != 0:
            cursor, names = await self.call(
                "SCAN", cursor or 0, "MATCH", registry("*"), "COUNT", SCAN_KEYS
            )
            found |= {name.decode()[1:].partition("}")[0] for name in names}
        return sorted(found)

    async def banks(self, tenant: str) -> list[str]:
        """See Log."""
        check_names(tenant)
        roots = {
            name.decode(): root.decode()
            for name, root in (await self.call("HGETALL", registry(tenant))).items()
        }
        names = sorted(roots)
        configs = [Keys(tenant, name, roots[name]).config for name in names]
        found = await self.calls([("EXISTS", config) for config in configs]) if names else []
        return [name for name, exists in zip(names, found, strict=True) if exists]

    async def drop_bank(self, tenant: str, bank: str, head: tuple[int, str] | None = None) -> bool:
        """See Log. Stopped half-way, the next drop_bank, make_bank or sweep_loads finishes it."""
        keys = await self._fresh_keys(tenant, bank)
        await self._finish_drops(keys)
        state, *forks = await self._run(DROP, keys, *(head or ("", "")))
        if state == -2:
            raise bank_edited(bank)
        if state < 0:
            raise has_forks(bank, [fork.decode() for fork in forks])
        await self._sweep(keys)
        await self._sweep(keys.elsewhere())
        was_listed = await self.run(CLAIM, (registry(tenant),), (bank, keys.root, ""))
        if await self.call("EXISTS", keys.config):
            # Somebody has made it again meanwhile, and found the name on the list.
            await self.run(CLAIM, (registry(tenant),), (bank, "", keys.root))
        self._roots.pop((tenant, bank), None)
        return state == 1 or (state == 2 and bool(was_listed))

    async def family(self, tenant: str, bank: str) -> dict[str, Origin | None]:
        """See Log."""
        found = await self._ask(tenant, bank, FAMILY)
        members = zip(found[::2], found[1::2], strict=True)
        return dict(sorted((name.decode(), _origin(text)) for name, text in members))

    async def remove_payloads(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> int:
        """See Log. Cost: a call for every 200 facts or 1,000 of their entries, in each bank."""

        async def everywhere(keys: Keys) -> int:
            await self._config_text(keys)
            await self._check_erased(keys, fact_ids)
            await self._finish_drops(keys)
            members = await self.call("HKEYS", keys.family) or [keys.founder.encode()]
            removed = 0
            for member in members:
                for start in range(0, len(fact_ids), FACTS_A_CALL):
                    step = fact_ids[start : start + FACTS_A_CALL]
                    removed += await self._remove_payloads(keys.of(member.decode()), step)
            return removed

        return await self._on_bank(tenant, bank, everywhere)

    async def _remove_payloads(self, keys: Keys, fact_ids: Sequence[str]) -> int:
        places: dict[str, bytes] = dict.fromkeys(fact_ids, b"")
        removed = 0
        while places:
            pairs = [part for pair in places.items() for part in pair]
            count, *found = await self._ask_at(keys, REMOVE_PAYLOADS, SWEEP_ENTRIES, *pairs)
            if count < 0:
                what = f"no entry of fact {found[0].decode()!r} is there"
                raise damaged(keys.bank, int(found[1]), what)
            removed += count
            places = {fact_id: at for fact_id, at in zip(places, found, strict=True) if at != b"0"}
        return removed

    async def fork(self, tenant: str, source: str, new: str, version: int) -> bool:
        """See Log. Cost: reads the source's events; about 20 s for a million."""
        check_names(tenant, new)
        check_page(version, 1)
        return await self._on_bank(tenant, source, lambda keys: self._fork(keys, new, version))

    async def _fork(self, source: Keys, new: str, version: int) -> bool:
        config = await self._config_text(source)
        head = int((await self._ask_at(source, HEAD))[0])
        if version > head:
            raise version_not_written(source.bank, head, version)
        origin = json.dumps(asdict(await self._origin_at(source, version)), sort_keys=True)
        target = source.of(new)
        await self._check_family(source, new)
        for _ in range(FORK_ATTEMPTS):
            if await self._claim(source.tenant, new, source.root) is not None:
                raise name_taken(new)
            state, *held = await self._build(source, target, version, origin, config)
            if state == 0 and held[0].decode() != origin:
                raise name_taken(new)
            if state == -2:
                raise log_changed(source.bank, version)
            if state == 1 and not await self._is_listed(target):
                raise name_taken(new)
            if state >= 0:
                self._roots[source.tenant, new] = source.root
                return state == 1
            await self._sweep(target)
        raise Unavailable(
            f"another call makes bank {new!r} at this moment: look what it made, then try again",
            "BANK_BUSY",
        )

    async def _check_family(self, source: Keys, new: str) -> None:
        """Refuses a fork of a family that is full; makers at the same moment may pass it."""
        members = {name.decode() for name in await self.call("HKEYS", source.family)}
        if new not in members and len(members) >= MAX_FAMILY:
            await self._finish_drops(source)
            if await self.call("HLEN", source.family) >= MAX_FAMILY:
                raise too_many_forks(source.bank)

    async def _build(
        self, source: Keys, target: Keys, version: int, origin: str, config: bytes
    ) -> list:
        """Uploads a fork's fact index in steps and publishes it; the state it came to."""
        state = await self._run(BUILD, target, origin)
        if state != [1]:
            return state
        facts: dict[str, int] = {}
        after = 0
        while after < version:
            page = await self._page(source, after, min(MAX_PAGE, version - after))
            if not page.events:
                return [-2]
            for event in page.events:
                is_write = event.kind == Kind.WRITE
                facts[event.fact_id] = event.version if is_write else -event.version
            after = page.events[-1].version
        index = list(facts.items())
        for start in range(0, len(index), INDEX_FACTS):
            step = [part for fact in index[start : start + INDEX_FACTS] for part in fact]
            state = await self._run(BUILD, target, origin, *step)
            if state != [1]:
                return state
        return await self._run(FORK, target, origin, source.founder, len(facts), config)

    async def _origin_at(self, source: Keys, version: int) -> Origin:
        """The origin of a fork of a bank; an older bank's before the source's own fork point."""
        members = await self.call("HGETALL", source.family)
        owner = source.bank
        while (origin := _origin(members.get(owner.encode(), b""))) and version < origin.version:
            owner = origin.bank
        if not version:
            return Origin(owner, 0, "")
        page = await self._page(source, version - 1, 1)
        if not page.events:
            raise log_changed(source.bank, version)
        return Origin(owner, version, page.events[0].chain)

    async def _claim(self, tenant: str, bank: str, root: str) -> Keys | None:
        """Leads a name to a root; the keys of the bank that has it under another root, if any."""
        while True:
            held = (await self.call("HGET", registry(tenant), bank) or b"").decode()
            if held == root:
                return None
            if held:
                keys = Keys(tenant, bank, held)
                if await self.call("EXISTS", keys.config):
                    return keys
                await self._sweep(keys)
            # Makers at the same moment may pass it by their number; it only has to bound.
            elif await self.call("HLEN", registry(tenant)) >= MAX_BANKS:
                raise too_many_banks()
            await self.run(CLAIM, (registry(tenant),), (bank, held, root))

    async def _is_listed(self, keys: Keys) -> bool:
        """Whether a bank that was just made has its name; it is gone again where another has.

        A call that removed an earlier bank of the name may have taken that off the list meanwhile.
        """
        names = registry(keys.tenant)
        while True:
            held = (await self.call("HGET", names, keys.bank) or b"").decode()
            if held == keys.root:
                return True
            if held and await self.call("EXISTS", Keys(keys.tenant, keys.bank, held).config):
                await self._run(DROP, keys, "", "")
                await self._sweep(keys)
                return False
            await self.run(CLAIM, (names,), (keys.bank, held, keys.root))

    async def _config_text(self, keys: Keys) -> bytes:
        text = await self.call("GET", keys.config)
        if text is None:
            raise unknown_bank(keys.bank)
        return text

    async def _finish_drops(self, keys: Keys) -> None:
        """Sweeps the members of a family that were removed half-way."""
        members = [keys.of(name.decode()) for name in await self.call("HKEYS", keys.family)]
        if members:
            found = await self.calls([("EXISTS", member.config) for member in members])
            for member, exists in zip(members, found, strict=True):
                if not exists:
                    await self._sweep(member)

    async def _sweep(self, keys: Keys, *building: bytes) -> None:
        """Removes what is left where no bank is.

        Args:
            building: what is being made there, if not just anything; else it is left alone.
        """
        is_root = int(keys.bank == keys.founder)
        while await self._run(SWEEP, keys, SWEEP_ENTRIES, is_root, *building):
            pass


def _origin(text: bytes) -> Origin | None:
    return Origin(**json.loads(text)) if text else None
