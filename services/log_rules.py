"""What a log refuses, whichever store it lives in: limits with their reasons, checks, errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from larimar.errors import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LarimarError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from larimar.memory import MAX_ID_BYTES, Kind, check_id

if TYPE_CHECKING:
    from services.log import Append, Stored

MAX_NAME_CHARS = 63
"""Longest tenant or bank name: it stands in every key of the bank."""
MAX_ERASE_ID_BYTES = 2 * MAX_ID_BYTES
"""Longest event id of an ERASE that is loaded: in a fork `@` and the fork's name may follow it."""
MAX_BATCH = 1_000
"""Most items of one append: one script call, which holds the store for about 15 ms."""
MAX_BATCH_BYTES = 32 * 2**20
"""Most payload bytes of one append: what one fsync should have to carry."""
MAX_PAYLOAD_BYTES = 8 * 2**20
"""Most bytes of one payload: what one message between services carries."""
MAX_PAGE = 1_000
"""Most entries that one tail() or events() returns: about 3 ms of the store's one thread."""
MAX_PAGE_BYTES = 16 * 2**20
"""Payload bytes after which a tail() ends its page, so that big facts cannot fill a reader."""
MAX_EVENTS = 10_000_000
"""Most events of one bank: beside its payload an event takes 0.65 KB of the store's memory."""
MAX_BANKS = 10_000
"""Most banks of one tenant: a list of them still fits one message."""
MAX_FAMILY = 1_000
"""Most banks of a family, a bank and its forks: one script erases a fact from all of them, which
holds the store for about 100 ms."""
MAX_CHECKPOINT_BYTES = 8 * 2**30
"""Most bytes of one checkpoint: it stays in the store's memory, twice."""
KEEP_CHECKPOINTS = 2
"""Checkpoints kept: a damaged newest one leaves another to start from."""
SWITCHED = "BANK_SWITCHED"
"""Reason of an append to a bank that has another configuration by now."""
SALT_BYTES = 16
"""Random bytes before each payload: its digests say nothing once it is gone."""

_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_CHARS - 1}}}")


class ChainBroken(FailedPrecondition):
    """The log has another history than the one that a follower has folded."""

    default_reason = "LOG_CHANGED"


def check_names(tenant: str, bank: str = "default") -> None:
    """Refuses a name that could stand for another key of the store.

    Raises:
        InvalidArgument: names the rule.
    """
    for what, name in (("tenant", tenant), ("bank", bank)):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidArgument(
                f"{what} name {name!r:.80} must be 1 to {MAX_NAME_CHARS} letters, digits, "
                "'.', '_' or '-', and begin with a letter or digit"
            )


def check_items(items: Sequence[Append], kinds: tuple[Kind, ...]) -> list[LarimarError | None]:
    """For each item of a batch, why it can never be appended, if so.

    Args:
        kinds: the kinds of event that the caller appends.

    Raises:
        InvalidArgument: the batch is past a limit.
    """
    if len(items) > MAX_BATCH:
        raise InvalidArgument(f"{len(items)} items in a batch; send at most {MAX_BATCH}")
    size = sum(len(item.payload or b"") for item in items)
    if size > MAX_BATCH_BYTES:
        raise InvalidArgument(f"{size} bytes of payload in a batch; send at most {MAX_BATCH_BYTES}")
    return [_item_error(item, kinds) for item in items]


def _item_error(item: Append, kinds: tuple[Kind, ...]) -> LarimarError | None:
    try:
        check_id("event_id", item.event_id)
        check_id("fact_id", item.fact_id)
    except InvalidArgument as error:
        return error
    if item.kind not in kinds:
        known = " and ".join(kind.name for kind in kinds)
        return InvalidArgument(f"kind {item.kind!r:.20} cannot go this way: only {known} can")
    if (item.kind == Kind.WRITE) != (item.payload is not None):
        return InvalidArgument("a WRITE has a payload, a FORGET or ERASE has none")
    if item.expected is not None and item.expected < 0:
        return InvalidArgument("expected must be a version, or 0 for a fact without events")
    if item.payload is not None and len(item.payload) > MAX_PAYLOAD_BYTES:
        return InvalidArgument(
            f"the payload has {len(item.payload)} bytes; at most {MAX_PAYLOAD_BYTES} are "
            "stored: give fewer rephrasings or shorter texts"
        )
    return None


def check_loaded(bank: str, entries: Sequence[Stored]) -> None:
    """Refuses entries of an archive that no append could have made: the store holds and joins them.

    Raises:
        InvalidArgument: a fact id or event id that the log cannot hold.
        DataLoss: a digest that is none.
    """
    for stored in entries:
        event = stored.event
        check_id("fact_id", event.fact_id)
        if event.kind != Kind.ERASE:
            check_id("event_id", event.event_id)
        elif not 1 <= len(event.event_id.encode()) <= MAX_ERASE_ID_BYTES or "\0" in event.event_id:
            raise InvalidArgument(
                f"the event id of an ERASE must be 1 to {MAX_ERASE_ID_BYTES} bytes of UTF-8 "
                "without NUL"
            )
        if not _DIGEST.fullmatch(event.payload_sha256) or not _DIGEST.fullmatch(
            stored.request_hmac
        ):
            raise damaged(bank, event.version, "a digest is not 64 hexadecimal digits")


def check_page(after: int, limit: int) -> int:
    """The limit, at most MAX_PAGE. Raises InvalidArgument for a negative version or no limit."""
    if after < 0 or limit < 1:
        raise InvalidArgument("after must be a version (0 or more) and limit 1 or more")
    return min(limit, MAX_PAGE)


def check_part(part: str) -> None:
    """Refuses a part of the state whose name could stand for another. Raises InvalidArgument."""
    if not isinstance(part, str) or not _NAME.fullmatch(part):
        raise InvalidArgument(f"{part!r:.80} is no part of a state: name memory or scope")


def check_checkpoint(part: str, version: int, blob: bytes) -> None:
    """Refuses a checkpoint that no log keeps. Raises InvalidArgument."""
    check_part(part)
    if version < 0 or len(blob) > MAX_CHECKPOINT_BYTES:
        raise InvalidArgument(
            f"a checkpoint has a version of 0 or more and at most {MAX_CHECKPOINT_BYTES} bytes, "
            f"not version {version} and {len(blob)} bytes"
        )


def unknown_bank(bank: str) -> NotFound:
    """What a call on a bank that does not exist raises."""
    return NotFound(f"there is no bank {bank!r}; make it first", "UNKNOWN_BANK")


def name_taken(bank: str) -> Conflict:
    """What fork, load and publish raise for the name of a bank that is there."""
    return Conflict(
        f"bank {bank!r} exists: use another name, or delete the bank first", "BANK_EXISTS"
    )


def bank_edited(bank: str) -> FailedPrecondition:
    """What publish raises when the bank to replace has had events since, and is as it was."""
    return FailedPrecondition(
        f"bank {bank!r} was edited meanwhile, and serves as before: bring over what came to it, "
        "then again",
        "BANK_EDITED",
    )


def bank_switched(bank: str) -> Unavailable:
    """What append raises for payloads made for the bank that had this name before."""
    return Unavailable(
        f"bank {bank!r} is another model's since a moment ago; nothing was appended: repeat under "
        "the same event ids",
        SWITCHED,
    )


def has_forks(bank: str, forks: Sequence[str]) -> FailedPrecondition:
    """What drop_bank raises for a bank that others came from."""
    return FailedPrecondition(
        f"bank {bank!r} holds history of its forks {', '.join(sorted(forks))}: delete those first",
        "HAS_FORKS",
    )


def version_not_written(bank: str, head: int, version: int) -> FailedPrecondition:
    """What fork raises for a version past the log's end."""
    return FailedPrecondition(
        f"bank {bank!r} is at version {head}, not yet at {version}: name a version that a write "
        "has returned",
        "VERSION_NOT_WRITTEN",
    )


def not_erased(fact_id: str) -> FailedPrecondition:
    """What remove_payloads raises for a fact that nobody erased."""
    return FailedPrecondition(
        f"fact {fact_id!r} is not erased, and only what was erased loses its payloads: "
        "erase it first",
        "NOT_ERASED",
    )


def fact_changed(fact_id: str, newest: int, expected: int | None) -> FailedPrecondition:
    """The result of an item whose fact has another newest event than expected."""
    return FailedPrecondition(
        f"the newest event of fact {fact_id!r} has version {newest}, not {expected} (0: none): "
        "read the fact again, and repeat the edit with that version under a new event id",
        "FACT_CHANGED",
    )


def id_taken(event_id: str) -> Conflict:
    """The result of an item of an erasure of which another item's event id was used before."""
    return Conflict(
        f"event id {event_id!r} was used for another request, and nothing was erased: take a new "
        "event id"
    )


def bank_exists(bank: str) -> Conflict:
    """What make_bank raises for a name that another configuration has."""
    return Conflict(
        f"bank {bank!r} exists with another configuration, and configurations never change: "
        "use another name, or delete the bank first",
        "BANK_EXISTS",
    )


def too_many_banks() -> ResourceExhausted:
    """What make_bank raises past the limit of a tenant's banks."""
    return ResourceExhausted(
        f"a tenant has at most {MAX_BANKS} banks: delete one first", "TOO_MANY_BANKS"
    )


def too_many_forks(bank: str) -> ResourceExhausted:
    """What fork raises past the limit of a family's banks."""
    return ResourceExhausted(
        f"bank {bank!r} and its relatives are {MAX_FAMILY} banks, the most of a family: delete a "
        "fork first, or export and import the bank under another name",
        "TOO_MANY_FORKS",
    )


def bank_full(bank: str, most: int) -> ResourceExhausted:
    """The result of an item past the limit of a bank's events."""
    return ResourceExhausted(
        f"bank {bank!r} has {most} events, the most a log holds: write to another bank",
        "BANK_FULL",
    )


def log_changed(bank: str, after: int) -> ChainBroken:
    """What a follower gets that has folded entries which the log does not hold (any more)."""
    return ChainBroken(
        f"the log of bank {bank!r} has another history at version {after} (failover, restored "
        "backup or a bank made anew): fold it again from nothing"
    )


def unknown_checkpoint(bank: str, version: int) -> NotFound:
    """What get_checkpoint raises for a version that has none."""
    return NotFound(
        f"bank {bank!r} has no checkpoint at version {version}; list them again",
        "UNKNOWN_CHECKPOINT",
    )


def damaged(bank: str, version: int, what: str) -> DataLoss:
    """What stops a bank: its log is not what was appended."""
    return DataLoss(
        f"bank {bank!r}, version {version}: {what}; restore the store from a backup or a replica"
    )


def payload_erased(bank: str, version: int) -> DataLoss:
    """What a payload is, on purpose, once its fact was erased."""
    return DataLoss(
        f"bank {bank!r}, version {version}: the fact was erased, and its payload with it; nothing "
        "can bring it back: fold the bank without it",
        "PAYLOAD_ERASED",
    )
