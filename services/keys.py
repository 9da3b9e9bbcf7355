"""API keys: what one is, the port to where they are kept, and `MemoryKeys`, the twin.

A key reads ``lk_<id>_<secret>``. The secret is 256 random bits and is shown once; the store
keeps its SHA-256, which no guessing turns back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from larimar.errors import InvalidArgument, LarimarError, NotFound
from services.log_rules import check_names

SCOPES = ("read", "edit", "admin")
"""What a key may be for: asking, editing, and making or removing banks. None includes another."""
MAX_NAME_BYTES = 128
"""Bytes of a key's name, which is for people."""
MAX_KEYS = 10_000
"""Keys of one store: all of them are listed at once."""

_ID_BYTES, _SECRET_BYTES = 8, 32
_KEY = re.compile(r"lk_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: without its secret."""

    key_id: str
    sha256: str
    """SHA-256 of the secret, in hex."""
    tenant: str
    scopes: tuple[str, ...]
    name: str
    created_ms: int
    revoked_ms: int = 0
    """0 while it counts."""

    def to_json(self) -> str:
        """As one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> ApiKey:
        """The key of `to_json`. Raises: LarimarError, when the record is damaged."""
        try:
            fields = json.loads(text)
            return cls(**{**fields, "scopes": tuple(fields["scopes"])})
        except (ValueError, TypeError, KeyError):
            raise LarimarError("the record of an API key is damaged: revoke it") from None

    def opens(self, secret: str) -> bool:
        """Whether a secret is this key's, in constant time, and the key counts."""
        return hmac.compare_digest(digest_of(secret), self.sha256) and not self.revoked_ms


def digest_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def split_key(shown: str) -> tuple[str, str] | None:
    """Id and secret of a key as it is shown; None when it is no key."""
    match = _KEY.fullmatch(shown)
    return (match[1], match[2]) if match else None


def new_key(tenant: str, scopes: Sequence[str], name: str) -> tuple[ApiKey, str]:
    """A new key, and how it is shown, once.

    Raises:
        InvalidArgument: no tenant name, an unknown scope, or too long a name.
    """
    check_names(tenant)
    if not scopes or not set(scopes) <= set(SCOPES):
        raise InvalidArgument(f"scopes are one or more of {', '.join(SCOPES)}", "BAD_SCOPE")
    if len(name.encode()) > MAX_NAME_BYTES or not name.isprintable():
        raise InvalidArgument(
            f"a key's name has at most {MAX_NAME_BYTES} bytes and no control characters", "BAD_NAME"
        )
    key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    kept = tuple(scope for scope in SCOPES if scope in scopes)
    key = ApiKey(key_id, digest_of(secret), tenant, kept, name, int(time.time() * 1000))
    return key, f"lk_{key_id}_{secret}"


def unknown_key() -> NotFound:
    """What revoke raises for an id that no key has."""
    return NotFound("no such API key: see `larimar key list`", "UNKNOWN_KEY")


class Keys(Protocol):
    """Where API keys are kept. Every call is safe to retry."""

    async def add(self, key: ApiKey) -> None:
        """Keeps a key. Raises: ResourceExhausted, TOO_MANY_KEYS."""
        ...

    async def find(self, key_id: str) -> ApiKey | None:
        """The key of an id, revoked or not."""
        ...

    async def all(self) -> list[ApiKey]:
        """All keys, oldest first."""
        ...

    async def revoke(self, key_id: str) -> ApiKey:
        """Ends a key; the first time it was ended stays. Raises: NotFound."""
        ...

    async def close(self) -> None:
        """Ends all connections."""
        ...


class MemoryKeys:
    """Keys in this process."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}

    async def add(self, key: ApiKey) -> None:
        """See Keys."""
        self._keys[key.key_id] = key

    async def find(self, key_id: str) -> ApiKey | None:
        """See Keys."""
        return self._keys.get(key_id)

    async def all(self) -> list[ApiKey]:
        """See Keys."""
        return sorted(self._keys.values(), key=lambda key: (key.created_ms, key.key_id))

    async def revoke(self, key_id: str) -> ApiKey:
        """See Keys."""
        key = self._keys.get(key_id)
        if key is None:
            raise unknown_key()
        if not key.revoked_ms:
            key = dataclasses.replace(key, revoked_ms=int(time.time() * 1000))
            self._keys[key_id] = key
        return key

    async def close(self) -> None:
        """See Keys."""
