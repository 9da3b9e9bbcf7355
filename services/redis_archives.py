"""Banks that come back from an archive: loaded unseen into Redis, then shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from larimar.memory import BankConfig, check_id
from services.log import Stored
from services.log_rules import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    bank_edited,
    check_loaded,
    check_names,
    damaged,
    has_forks,
    name_taken,
)
from services.redis_bank_scripts import ABANDON, LOAD, LOAD_ERASED, REPLACE, SHOW
from services.redis_banks import RedisBanks
from services.redis_entries import check_salted, load_arguments
from services.redis_store import Keys, registry


class RedisArchives(RedisBanks):
    """The part of `RedisLog` that restores banks."""

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
        for stored in entries:
            event = stored.event
            if stored.salted is not None:
                check_salted(bank, event.version, event.payload_sha256, stored.salted)
        if replaces:
            keys = (await self._fresh_keys(tenant, bank)).elsewhere()
        elif await self._claim(tenant, bank, bank) is not None:
            raise name_taken(bank)
        else:
            keys = Keys(tenant, bank, bank)
        arguments: list[Any] = []
        count = size = 0
        for stored in entries:
            length = len(stored.salted or b"")
            if count and (count == MAX_BATCH or size + length > MAX_BATCH_BYTES):
                await self._load(keys, source, arguments)
                arguments, count, size = [], 0, 0
            arguments += load_arguments(stored)
            count, size = count + 1, size + length
        return await self._load(keys, source, arguments)

    async def _load(self, keys: Keys, source: str, arguments: list[Any]) -> tuple[int, str]:
        while True:
            state, *at = await self._run(LOAD, keys, source, *arguments)
            if state == 0:
                raise name_taken(keys.bank)
            if state == -2:
                what = "the entry does not follow from the one before (chain)"
                raise damaged(keys.bank, int(at[0]), what)
            if state == 1:
                return at[0], at[1].decode()
            await self._sweep(keys)

    async def sweep_loads(
        self, tenant: str, chains: Collection[str] = (), older_s: float | None = None
    ) -> list[str]:
        """See Log. Cost: a look at each bank of the tenant."""
        check_names(tenant)
        places = await self._all_places(tenant)
        looks = [
            look for at in places for look in (("EXISTS", at.config), ("EXISTS", *at.leftovers))
        ]
        found = await self.calls(looks) if looks else []
        age = "" if older_s is None else older_s
        swept = []
        for keys, is_bank, left in zip(places, found[::2], found[1::2], strict=True):
            if left and not is_bank:
                given_up = await self._run(ABANDON, keys, age, *chains)
                if given_up:
                    chain, building = given_up
                    await self._sweep(keys, building)
                    swept.append(chain.decode())
        return swept

    async def _all_places(self, tenant: str) -> list[Keys]:
        """Where banks of a tenant are, are loaded, or were removed half-way: the two places of each
        name, and those of its family's members, of which one may have another place by now."""
        roots = await self.call("HGETALL", registry(tenant))
        listed = [Keys(tenant, name.decode(), root.decode()) for name, root in roots.items()]
        places = [place for keys in listed for place in (keys, keys.elsewhere())]
        families = {keys.root: keys for keys in listed}
        members = [("HKEYS", keys.family) for keys in families.values()]
        found = await self.calls(members) if members else []
        for keys, names in zip(families.values(), found, strict=True):
            places += [keys.of(name.decode()) for name in names]
        return list({place.config: place for place in places}.values())

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
        text = config.validate().to_json()
        for fact_id in erased:
            check_id("fact_id", fact_id)
        await self.load(tenant, bank, (), source, replaces is not None)
        old = None if replaces is None else await self._fresh_keys(tenant, bank)
        keys = Keys(tenant, bank, bank) if old is None else old.elsewhere()
        facts = sorted(set(erased))
        for start in range(0, max(len(facts), 1), MAX_BATCH):
            step = facts[start : start + MAX_BATCH]
            if not await self._run(LOAD_ERASED, keys, int(start == 0), *step):
                raise name_taken(bank)
        shown = (text, version, len(facts))
        if old is None or replaces is None:
            state, *head = await self._run(SHOW, keys, *shown)
        else:
            state, *head = await self._replace(old, keys, shown, replaces)
        if state == 0:
            raise name_taken(bank)
        if state < 0:
            raise damaged(bank, head[0], f"what is loaded must end at {version}")
        if old is None and not await self._is_listed(keys):
            raise name_taken(bank)
        self._roots[tenant, bank] = keys.root
        if old is not None:
            await self._sweep(old)

    async def _replace(
        self, old: Keys, new: Keys, shown: tuple[Any, ...], replaces: tuple[int, str]
    ) -> list:
        """Gives a loaded bank the name of another in one step; a state as of SHOW."""
        names = registry(old.tenant)
        state, *found = await self.run(
            REPLACE,
            (old.config, new.config, names),
            (new.base, new.bank, *shown, old.base, old.root, new.root, *replaces),
        )
        if state == -2:
            raise bank_edited(old.bank)
        if state == -3:
            raise has_forks(old.bank, [fork.decode() for fork in found])
        return [state, *found]
