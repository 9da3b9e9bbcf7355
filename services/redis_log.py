"""The log in Redis: what an event is once it is acknowledged.

All keys of a bank and of its forks, its family, carry one hash tag, so that one script touches
one slot. Below ``{tenant:root}:`` are, of the family and of each of its banks,

| key | type | holds |
|---|---|---|
| family | hash | bank -> origin of a fork as JSON (bank, chain, version), "" of the root; absent before the first fork |
| erased | set | fact ids that are erased |
| records | hash | name -> text: receipts and the like |
| <bank>:config | string | configuration, canonical JSON; without it there is no bank |
| <bank>:log | stream | entry v-0 of each version v: kind, fact, event, time_ms, sha256, chain, prev |
| <bank>:payload:<v> | string | 16 random bytes of salt and the payload, raw |
| <bank>:facts | hash | fact id -> version of its newest event, negative when that is no WRITE |
| <bank>:events | hash | event id -> "version:HMAC of the request under the payload's salt" |
| <bank>:checkpoints | hash | part:version -> "upload:JSON" |
| <bank>:uploads | hash | upload -> "time:parts", published or not |
| <bank>:part:<upload>:<n> | string | the bytes of a checkpoint |
| <bank>:building | string | a fork's origin, or "load:source", while nobody can see the bank |
| <bank>:loaded_s | string | when something was loaded last into a bank that nobody can see yet |

A fork's stream, payloads and event ids are those behind its fork point; for what is before, its
origin's serve, and its origin's origin's. Its facts are all of its own. In `prev` stands the
version of the fact's event before, 0 for none.

A bank that is to take another's place is loaded in the place that the name does not have: the root
NAME@ where it is NAME, else NAME. Below its root it is a family of its own, and the registry leads
to it from one moment on (REPLACE, the one script that touches two families).

``{tenant}:banks`` is a hash of the tenant's banks and their roots, ``larimar:jobs`` a hash of the
store's unfinished work, [tenant, bank, name] as JSON. Needs Redis 7 or Valkey 8.
"""  # noqa: E501

from __future__ import annotations

from services.log_rules import MAX_EVENTS
from services.redis_appends import RedisAppends
from services.redis_archives import RedisArchives
from services.redis_checkpoints import PART_BYTES, RedisCheckpoints
from services.redis_upkeep import RedisUpkeep

TIMEOUT_S = 2.0
"""Longest round trip, seconds, connecting included: a batch takes 20 ms, so the store is gone."""


class RedisLog(RedisAppends, RedisArchives, RedisCheckpoints, RedisUpkeep):
    """The log of many banks in one Redis or Valkey server; bound to one event loop.

    Args:
        url: unix:///path/to/redis.sock, redis://host:port or rediss://host:port.
        timeout_s: longest round trip, seconds.
        max_events: most events of one bank.
        part_bytes: bytes of one part of a checkpoint.
        replicas: replicas of the server that must confirm every write before it is acknowledged.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        max_events: int = MAX_EVENTS,
        part_bytes: int = PART_BYTES,
        replicas: int = 0,
    ) -> None:
        super().__init__(url, timeout_s, max_events, replicas)
        self._part_bytes = part_bytes
