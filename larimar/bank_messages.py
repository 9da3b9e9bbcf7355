"""Batches, erasures, merges and archives on the wire: `larimar.messages` for whole banks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from larimar import archive, messages, results
from larimar.calls import MAX_MESSAGE_BYTES, Budget
from larimar.errors import DeadlineExceeded, InvalidArgument, LarimarError, from_code
from larimar.memory import Event, Kind
from larimar.v1 import common_pb2, larimar_pb2, memory_pb2
from larimar.wire import config_from_proto, config_to_proto

# A message of records stays far below what one may hold; a record is some kilobytes.
RECORDS_BYTES = MAX_MESSAGE_BYTES // 4

_POLICIES = {
    "fail": common_pb2.MERGE_POLICY_FAIL,
    "ours": common_pb2.MERGE_POLICY_OURS,
    "theirs": common_pb2.MERGE_POLICY_THEIRS,
}
_KINDS = {
    common_pb2.EVENT_KIND_WRITE: Kind.WRITE,
    common_pb2.EVENT_KIND_FORGET: Kind.FORGET,
    common_pb2.EVENT_KIND_ERASE: Kind.ERASE,
}
_KIND_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_FORGET_FIELDS = ("fact_id", "event_id")
_CENSOR_FIELDS = ("prompt", "fact_id", "event_id", "rephrasings")


# Edits


def censor_request(
    prompt: str,
    bank: str,
    fact_id: str | None,
    event_id: str | None,
    rephrasings: Sequence[str],
) -> larimar_pb2.CensorRequest:
    """A censor; an event id is made when there is none."""
    return messages.build(
        larimar_pb2.CensorRequest,
        bank=bank,
        prompt=prompt,
        fact_id=fact_id,
        event_id=event_id or messages.new_event_id(),
        rephrasings=rephrasings,
    )


def edit_request(items: Sequence[Mapping[str, Any]], bank: str) -> larimar_pb2.EditRequest:
    """A batch of edits, each with an event id.

    Raises:
        InvalidArgument: naming the first item that is malformed.
    """
    made = []
    for place, item in enumerate(items):
        try:
            made.append(edit_item(item, bank))
        except InvalidArgument as error:
            raise InvalidArgument(f"item {place}: {error.message}", error.reason) from None
    return messages.build(larimar_pb2.EditRequest, bank=bank, items=made)


def edit_item(item: Mapping[str, Any], bank: str) -> larimar_pb2.EditItem:
    """One edit of a batch. Raises: InvalidArgument, naming the field that is wrong."""
    kinds = ("write", "forget", "censor")
    if not isinstance(item, Mapping) or len(item) != 1 or not set(item) <= set(kinds):
        raise InvalidArgument('an edit is {"write": {...}}, {"forget": {...}} or {"censor": {...}}')
    ((kind, given),) = item.items()
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"{kind} takes its fields by name, such as {{'fact_id': ...}}")
    if kind == "write":
        more = {name: given.get(name) for name in ("encoder_digest", "expected_version")}
        fact = {name: value for name, value in given.items() if name not in more}
        request = messages.write_request_of(fact, bank, None)
        request.MergeFrom(messages.build(larimar_pb2.WriteRequest, **more))
        return larimar_pb2.EditItem(write=request)
    given = {"event_id": messages.new_event_id(), **_renamed(given)}
    allowed = _FORGET_FIELDS if kind == "forget" else _CENSOR_FIELDS
    for name in sorted(given.keys() - set(allowed)):
        raise InvalidArgument(f"{kind} has no field {name!r}; known: {', '.join(allowed)}")
    if given.get(allowed[0]) is None:
        raise InvalidArgument(f"{kind} needs a field {allowed[0]!r}")
    if kind == "forget":
        return larimar_pb2.EditItem(forget=messages.build(larimar_pb2.ForgetRequest, **given))
    return larimar_pb2.EditItem(censor=messages.build(larimar_pb2.CensorRequest, **given))


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with the short name ``id`` in full; without those that are None."""
    return {
        "fact_id" if name == "id" else str(name): value
        for name, value in given.items()
        if value is not None
    }


def edit_results(
    items: Sequence[Mapping[str, Any]], response: larimar_pb2.EditResponse
) -> list[results.Edit | results.FailedEdit]:
    """A result for each item, in order. Raises: LarimarError, when there are not as many."""
    if len(items) != len(response.results):
        raise LarimarError(f"{len(items)} edits were sent, {len(response.results)} answered")
    made: list[results.Edit | results.FailedEdit] = []
    for place, (item, one) in enumerate(zip(items, response.results, strict=True)):
        if one.status.code:
            error = from_code(one.status.code, one.status.message, one.status.reason)
            made.append(results.FailedEdit(place, one.fact_id, one.event_id, response.bank, error))
            continue
        (given,) = item.values()
        duplicate = one.duplicate and bool(given.get("event_id"))
        made.append(results.Edit(one.fact_id, one.event_id, one.version, response.bank, duplicate))
    return made


def event_ids(request: larimar_pb2.EditRequest) -> str:
    """The event ids of a batch, as an error names them."""
    ids = [getattr(item, item.WhichOneof("edit")).event_id for item in request.items]
    return ids[0] if len(ids) == 1 else f"of each item ({', '.join(ids[:2])} ...)"


def erase_request(
    fact_ids: str | Sequence[str], bank: str, event_id: str | None
) -> larimar_pb2.EraseRequest:
    """An erasure of one fact or of several; an event id is made when there is none."""
    return messages.build(
        larimar_pb2.EraseRequest,
        bank=bank,
        fact_ids=[fact_ids] if isinstance(fact_ids, str) else fact_ids,
        event_id=event_id or messages.new_event_id(),
    )


def receipt(message: common_pb2.EraseReceipt) -> results.EraseReceipt:
    """How far an erasure has come."""
    plain = {
        name: getattr(message, name)
        for name in (
            "event_id",
            "bank",
            "payloads_removed",
            "checkpoints_removed",
            "queue_entries_removed",
            "started_ms",
            "finished_ms",
            "failure",
        )
    }
    return results.EraseReceipt(
        step=_short_name(common_pb2.EraseStep, message.step, "ERASE_STEP_"),
        fact_id_sha256=tuple(message.fact_id_sha256),
        banks=tuple(
            results.ErasedBank(
                bank=one.bank,
                versions=tuple(one.versions),
                version=one.version,
                erase_count=one.erase_count,
                digest=one.digest,
                replay_matches=one.replay_matches,
            )
            for one in message.banks
        ),
        scan=messages.plain(results.EraseScan, message.scan) if message.HasField("scan") else None,
        **plain,
    )


# Pauses between two looks at an erasure: it takes from part of a second to minutes.
FIRST_LOOK_S, LONGEST_LOOK_S = 0.1, 2.0


class EraseWait:
    """Waits for an erasure: what is known of it, and when to look again."""

    def __init__(
        self,
        first: common_pb2.EraseReceipt,
        budget: Budget,
        progress: Callable[[results.EraseReceipt], None] | None,
    ) -> None:
        self._budget = budget
        self._progress = progress
        self._pause_s = FIRST_LOOK_S
        self.see(receipt(first))

    def see(self, found: results.EraseReceipt) -> None:
        """Takes what the erasure has come to."""
        self.receipt = found
        if self._progress is not None:
            self._progress(found)

    def pause_s(self) -> float:
        """Seconds until the next look. Raises: DeadlineExceeded."""
        if self._budget.remaining_s() <= self._pause_s:
            found = self.receipt
            raise DeadlineExceeded(
                f"nobody reads the facts any more, but their erasure came only to {found.step} "
                f"within {self._budget.timeout_s:g} s"
                + (f" ({found.failure})" if found.failure else "")
                + f"; it goes on: ask for the receipt of {found.event_id}"
            )
        pause, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_LOOK_S)
        return pause


# Forks


def merge_request(
    source: str, target: str, policy: str, merge_id: str | None, dry_run: bool
) -> larimar_pb2.MergeBankRequest:
    """A merge; an id is made when there is none. Raises: InvalidArgument, for another policy."""
    if policy not in _POLICIES:
        raise InvalidArgument(f"policy {policy!r} is unknown; one of {', '.join(_POLICIES)}")
    return messages.build(
        larimar_pb2.MergeBankRequest,
        source=source,
        target=target,
        policy=_POLICIES[policy],
        merge_id=merge_id or messages.new_event_id(),
        dry_run=dry_run,
    )


def merge_result(
    request: larimar_pb2.MergeBankRequest, message: memory_pb2.CombineBanksResponse
) -> results.MergeResult:
    """What a merge did, or would do."""
    return results.MergeResult(
        merge_id=message.merge_id,
        source=request.source,
        target=request.target,
        base_version=message.base_version,
        source_version=message.source_version,
        target_version=message.target_version,
        written=message.written,
        forgotten=message.forgotten,
        conflicts=tuple(messages.plain(results.MergeConflict, one) for one in message.conflicts),
        conflict_count=message.conflict_count,
        overtaken=tuple(message.overtaken),
        version=message.version,
        dry_run=request.dry_run,
    )


def change(message: common_pb2.FactChange) -> results.FactChange:
    """A fact that differs between two states."""
    return results.FactChange(
        kind=_short_name(common_pb2.FactChange.Kind, message.kind, "KIND_"),
        fact_id=message.fact_id,
        before=messages.fact(message.before) if message.HasField("before") else None,
        after=messages.fact(message.after) if message.HasField("after") else None,
    )


def _short_name(enum: Any, number: int, prefix: str) -> str:
    return enum.Name(number).removeprefix(prefix) if number in enum.values() else str(number)


# Archives


def header(message: common_pb2.ArchiveHeader) -> archive.Header:
    """What an archive holds."""
    return archive.Header(
        bank=message.config.bank,
        config=config_from_proto(message.config),
        version=message.version,
        chain=message.chain,
        digest=message.digest,
        erase_count=message.erase_count,
        erased_fact_ids=tuple(message.erased_fact_ids),
        memory_sha256=message.memory_sha256,
        scope_sha256=message.scope_sha256,
    )


def header_message(header: archive.Header, bank: str) -> common_pb2.ArchiveHeader:
    """What an archive holds, to become a bank of this name."""
    return common_pb2.ArchiveHeader(
        config=config_to_proto(bank, header.config),
        version=header.version,
        chain=header.chain,
        digest=header.digest,
        erase_count=header.erase_count,
        erased_fact_ids=header.erased_fact_ids,
        memory_sha256=header.memory_sha256,
        scope_sha256=header.scope_sha256,
    )


def record(message: common_pb2.ArchiveRecord) -> archive.Record:
    """An entry of the log. Raises: LarimarError, for a kind that this version does not know."""
    event = message.event
    if event.kind not in _KINDS:
        raise LarimarError(f"the export holds an event of kind {event.kind}: update larimar")
    return archive.Record(
        event=Event(
            version=event.version,
            kind=_KINDS[event.kind],
            fact_id=event.fact_id,
            event_id=event.event_id,
            time_ms=event.time_ms,
            payload_sha256=event.payload_sha256,
            chain=event.chain,
            previous=event.previous_version,
        ),
        erased=event.erased,
        salt=message.salt,
        payload=message.payload,
        request_hmac=message.request_hmac,
    )


def record_message(record: archive.Record) -> common_pb2.ArchiveRecord:
    """An entry of the log, to be imported."""
    event = record.event
    return common_pb2.ArchiveRecord(
        event=common_pb2.Event(
            version=event.version,
            kind=_KIND_NUMBERS[event.kind],
            fact_id=event.fact_id,
            event_id=event.event_id,
            time_ms=event.time_ms,
            payload_sha256=event.payload_sha256,
            chain=event.chain,
            previous_version=event.previous,
            erased=record.erased,
        ),
        salt=record.salt,
        payload=record.payload,
        request_hmac=record.request_hmac,
    )


def import_requests(
    source: archive.Archive, bank: str | None, replaces: int | None = None
) -> Iterator[larimar_pb2.ImportBankRequest]:
    """The messages of an import: the header, then records in messages of RECORDS_BYTES."""
    name = bank or source.header.bank
    header = header_message(source.header, name)
    yield larimar_pb2.ImportBankRequest(header=header, replaces_version=replaces)
    chunk: list[common_pb2.ArchiveRecord] = []
    size = 0
    for entry in source.records():
        message = record_message(entry)
        if chunk and size + message.ByteSize() > RECORDS_BYTES:
            yield larimar_pb2.ImportBankRequest(records=chunk)
            chunk, size = [], 0
        chunk.append(message)
        size += message.ByteSize()
    if chunk:
        yield larimar_pb2.ImportBankRequest(records=chunk)


def export_result(source: archive.Archive) -> results.ExportResult:
    """An archive that was written."""
    return results.ExportResult(
        bank=source.header.bank,
        folder=str(source.folder),
        version=source.header.version,
        digest=source.header.digest,
        files=1 + len(source.files),
        bytes=source.bytes,
    )


def import_result(message: larimar_pb2.ImportBankResponse) -> results.ImportResult:
    """A bank made of an archive."""
    return results.ImportResult(
        info=messages.bank_info(message.info, created=True),
        digest=message.digest,
        erased_again=message.erased_again,
    )


def reencode_result(message: larimar_pb2.ReencodeBankResponse) -> results.ReencodeResult:
    """What a re-encoding came to, from its last message."""
    return results.ReencodeResult(
        info=messages.bank_info(message.info, False),
        digest=message.digest,
        facts=message.facts,
        behind=message.total - message.version,
    )
