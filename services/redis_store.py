"""Where a bank's keys are in Redis or Valkey.

What the keys hold is said in services/redis_log.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from larimar.errors import NotFound
from services.log_rules import check_names, unknown_bank
from services.redis_calls import RedisCalls
from services.redis_scripts import NO_BANK, Script

ROOTS_HELD = 10_000
"""Most banks whose root a process remembers: a megabyte; beyond it, it asks again."""

T = TypeVar("T")


OWN = ("log", "facts", "events", "checkpoints", "uploads", "building", "loaded_s")
"""Names of a bank's keys beside its configuration, by which its payloads and parts are found."""
SHARED = ("family", "erased", "records")
"""Names of a family's keys, which its root owns."""
SECOND = "@"
"""Ends the root of a bank's second place; no bank's name has it."""


class Keys:
    """Where the keys of a bank are. The root names the family that it belongs to: by the bank that
    the family began with, and by SECOND where that bank took the place of an earlier one.
    """

    def __init__(self, tenant: str, bank: str, root: str) -> None:
        self.tenant = tenant
        self.bank = bank
        self.root = root
        self.base = f"{{{tenant}:{root}}}:"
        self.family = self.base + "family"
        self.erased = self.base + "erased"
        self._own = f"{self.base}{bank}:"
        self.config = self._own + "config"
        self.checkpoints = self._own + "checkpoints"
        self.events = self._own + "events"
        self.building = self._own + "building"

    def of(self, bank: str) -> Keys:
        """The keys of another bank of the family."""
        return Keys(self.tenant, bank, self.root)

    @property
    def leftovers(self) -> list[str]:
        """The keys that may be there beside the configuration; a root's are its family's too."""
        shared = SHARED if self.bank == self.founder else ()
        return [self._own + name for name in OWN] + [self.base + name for name in shared]

    @property
    def founder(self) -> str:
        """The bank that the family began with."""
        return self.root.removesuffix(SECOND)

    def elsewhere(self) -> Keys:
        """Where a bank is loaded that is to take this one's place: as a family of its own."""
        second = self.root == self.bank
        return Keys(self.tenant, self.bank, self.bank + SECOND if second else self.bank)

    def payload(self, version: int) -> str:
        """The key of a payload of the bank's own stream."""
        return f"{self._own}payload:{version}"

    def part(self, upload: str, number: int) -> str:
        """The key of a part of a checkpoint."""
        return f"{self._own}part:{upload}:{number}"


def registry(tenant: str) -> str:
    """The key of the tenant's banks and their roots."""
    return f"{{{tenant}}}:banks"


class RedisStore(RedisCalls):
    """One server, and the roots of the banks on it."""

    def __init__(self, url: str, timeout_s: float, replicas: int = 0) -> None:
        super().__init__(url, timeout_s, replicas)
        self._roots: dict[tuple[str, str], str] = {}

    async def ping(self) -> None:
        """See Log."""
        await self.call("PING")

    async def _keys(self, tenant: str, bank: str) -> Keys:
        """The keys of a bank, by the root that was seen last."""
        check_names(tenant, bank)
        root = self._roots.get((tenant, bank))
        return Keys(tenant, bank, root) if root else await self._fresh_keys(tenant, bank)

    async def _fresh_keys(self, tenant: str, bank: str) -> Keys:
        """The keys of a bank, by the root that the registry has; itself when it has none."""
        check_names(tenant, bank)
        held = await self.call("HGET", registry(tenant), bank)
        root = held.decode() if held else bank
        if len(self._roots) >= ROOTS_HELD:
            self._roots.clear()
        self._roots[tenant, bank] = root
        return Keys(tenant, bank, root)

    async def _on_bank(
        self, tenant: str, bank: str, operation: Callable[[Keys], Awaitable[T]]
    ) -> T:
        """Does something with a bank's keys; again when the bank has another root by now."""
        keys = await self._keys(tenant, bank)
        try:
            return await operation(keys)
        except NotFound as error:
            if error.reason != "UNKNOWN_BANK":
                raise
            fresh = await self._fresh_keys(tenant, bank)
            if fresh.root == keys.root:
                raise
        return await operation(fresh)

    async def _ask(self, tenant: str, bank: str, script: Script, *arguments: Any) -> Any:
        """The answer of a script about a bank. Raises NotFound UNKNOWN_BANK."""
        return await self._on_bank(
            tenant, bank, lambda keys: self._ask_at(keys, script, *arguments)
        )

    async def _ask_at(self, keys: Keys, script: Script, *arguments: Any) -> Any:
        answer = await self._run(script, keys, *arguments)
        if answer == NO_BANK:
            raise unknown_bank(keys.bank)
        return answer

    async def _run(self, script: Script, keys: Keys, *arguments: Any) -> Any:
        """The answer of a script, whatever it is."""
        return await self.run(script, (keys.config,), (keys.base, keys.bank, *arguments))
