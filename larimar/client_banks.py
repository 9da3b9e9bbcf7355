"""The calls of `larimar.client.Client` on whole banks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from larimar import bank_messages, calls, messages, streams
from larimar.archive import Archive
from larimar.calls import DEFAULT_BANK, LONG_TIMEOUT_S
from larimar.results import (
    BankInfo,
    CheckpointResult,
    DigestResult,
    EraseReceipt,
    Event,
    ExportResult,
    Fact,
    FactChange,
    ImportResult,
    MergeResult,
    ReencodeResult,
    ReplayResult,
)
from larimar.transport import Connection
from larimar.v1 import larimar_pb2 as pb


class BankMethods:
    """Banks, what they hold, their forks and archives; `Client` connects."""

    _connection: Connection

    # Banks

    def create_bank(
        self,
        bank: str,
        *,
        addressing: str = "slots",
        slots: int = 0,
        timeout_s: float | None = None,
    ) -> BankInfo:
        """Makes a bank; the same configuration again is the same bank.

        `addressing` is ``slots``, ``pinv`` or ``gaussian``; `slots` is K of the latter two.

        Raises:
            Conflict: the name is taken by another configuration.
        """
        request = messages.build(
            pb.CreateBankRequest,
            bank=bank,
            addressing=messages.addressing_number(addressing),
            slots=slots,
        )
        response = self._connection.call("CreateBank", request, timeout_s)
        return messages.bank_info(response.info, response.created)

    def list_banks(self, *, timeout_s: float | None = None) -> list[BankInfo]:
        """All banks, by name."""
        response = self._connection.call("ListBanks", pb.ListBanksRequest(), timeout_s)
        return [messages.bank_info(one) for one in response.banks]

    def get_bank(self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None) -> BankInfo:
        """One bank; raises NotFound for an unknown one."""
        request = messages.build(pb.GetBankRequest, bank=bank)
        return messages.bank_info(self._connection.call("GetBank", request, timeout_s).info)

    def delete_bank(self, bank: str, *, timeout_s: float | None = None) -> None:
        """Removes a bank and all it holds; raises NotFound for an unknown one."""
        request = messages.build(pb.DeleteBankRequest, bank=bank)
        self._connection.call("DeleteBank", request, timeout_s)

    # What a bank holds

    def facts(
        self, bank: str = DEFAULT_BANK, *, at: int = 0, timeout_s: float | None = None
    ) -> Iterator[Fact]:
        """Live facts at a version, 0 the newest, by fact id; fetched a page at a time."""
        after = None
        while after != "":
            request = messages.build(
                pb.ListFactsRequest,
                bank=bank,
                after=after,
                page_size=calls.PAGE_SIZE,
                at_version=at,
            )
            page = self._connection.call("ListFacts", request, timeout_s)
            yield from map(messages.fact, page.facts)
            after = page.next_after

    def fact(
        self,
        fact_id: str,
        *,
        bank: str = DEFAULT_BANK,
        at: int = 0,
        timeout_s: float | None = None,
    ) -> Fact:
        """One live fact; raises NotFound when there is none of this id."""
        request = messages.build(pb.ListFactsRequest, bank=bank, fact_id=fact_id, at_version=at)
        response = self._connection.call("ListFacts", request, timeout_s)
        return messages.one_fact(response, fact_id, bank)

    def events(
        self, bank: str = DEFAULT_BANK, *, after: int = 0, timeout_s: float | None = None
    ) -> Iterator[Event]:
        """Entries of the log past version `after`, in order, fetched a page at a time."""
        while True:
            request = messages.build(
                pb.ListEventsRequest, bank=bank, after_version=after, page_size=calls.PAGE_SIZE
            )
            page = self._connection.call("ListEvents", request, timeout_s)
            yield from map(messages.event, page.events)
            if not page.events or page.events[-1].version >= page.version:
                return
            after = page.events[-1].version

    def history(
        self, fact_id: str, *, bank: str = DEFAULT_BANK, timeout_s: float | None = None
    ) -> list[Event]:
        """Every event of a fact, newest first; empty when there is none."""
        request = messages.build(
            pb.ListEventsRequest, bank=bank, fact_id=fact_id, page_size=calls.HISTORY_SIZE
        )
        page = self._connection.call("ListEvents", request, timeout_s)
        return [messages.event(one) for one in page.events]

    def watch(
        self, bank: str = DEFAULT_BANK, *, after: int = 0, timeout_s: float | None = None
    ) -> Iterator[Event]:
        """Entries of the log past version `after`, then every later one as it comes, without end.

        A stream that breaks is opened again from the last version that was seen; `timeout_s` is
        the longest time that this may take.

        Raises:
            FailedPrecondition: `after` is not written yet.
        """
        return streams.watch(self._connection, bank, after, timeout_s)

    def digest(
        self, bank: str = DEFAULT_BANK, *, at: int = 0, timeout_s: float | None = None
    ) -> DigestResult:
        """The digest of a bank at a version; 0 is the newest."""
        request = messages.build(pb.DigestRequest, bank=bank, at_version=at)
        return messages.plain(DigestResult, self._connection.call("Digest", request, timeout_s))

    def replay(self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None) -> ReplayResult:
        """Rebuilds a bank, memory and scope, from its log alone and compares with what serves."""
        request = messages.build(pb.ReplayRequest, bank=bank)
        return messages.plain(ReplayResult, self._connection.call("Replay", request, timeout_s))

    def checkpoint(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> CheckpointResult:
        """Saves checkpoints of a bank's memory and scope."""
        request = messages.build(pb.CheckpointRequest, bank=bank)
        return messages.plain(
            CheckpointResult, self._connection.call("Checkpoint", request, timeout_s)
        )

    # Erasure

    def erase(
        self,
        fact_ids: str | Sequence[str],
        *,
        bank: str = DEFAULT_BANK,
        event_id: str | None = None,
        wait: bool = True,
        progress: Callable[[EraseReceipt], None] | None = None,
        timeout_s: float | None = None,
    ) -> EraseReceipt:
        """Erases facts from a bank and all its forks, bytes and all, and returns the receipt.

        From the first step on nobody reads the facts. With `wait` this returns when all steps are
        done, an hour at most; else after the first, and `erase_receipt` tells of the rest.
        `progress` is told of each step.

        Raises:
            NotFound: no such fact. FailedPrecondition: it is already erased.
            DeadlineExceeded: some steps are not done; they go on.
        """
        request = bank_messages.erase_request(fact_ids, bank, event_id)
        budget = self._connection.budget(
            LONG_TIMEOUT_S if wait and timeout_s is None else timeout_s
        )
        response = self._connection.call("Erase", request, budget.timeout_s, request.event_id)
        waiting = bank_messages.EraseWait(response.receipt, budget, progress)
        while wait and not waiting.receipt.done:
            time.sleep(waiting.pause_s())
            waiting.see(self.erase_receipt(request.event_id, bank=bank))
        return waiting.receipt

    def erase_receipt(
        self, event_id: str, *, bank: str = DEFAULT_BANK, timeout_s: float | None = None
    ) -> EraseReceipt:
        """How far an erasure has come; raises NotFound for an unknown one."""
        request = messages.build(pb.GetEraseRequest, bank=bank, event_id=event_id)
        return bank_messages.receipt(self._connection.call("GetErase", request, timeout_s).receipt)

    # Forks

    def fork(
        self, bank: str, new_bank: str, *, at: int = 0, timeout_s: float | None = None
    ) -> BankInfo:
        """Makes a bank that shares another's history up to version `at`; 0 is the newest.

        Raises:
            Conflict: the name is taken. FailedPrecondition: the version is not written yet.
        """
        request = messages.build(pb.ForkBankRequest, bank=bank, new_bank=new_bank, at_version=at)
        response = self._connection.call("ForkBank", request, timeout_s)
        return messages.bank_info(response.info, response.created)

    def merge(
        self,
        source: str,
        target: str,
        *,
        policy: str = "fail",
        dry_run: bool = False,
        merge_id: str | None = None,
        timeout_s: float | None = None,
    ) -> MergeResult:
        """Applies to `target` what `source` has changed since the two parted.

        Args:
            policy: what becomes of a fact that both have changed: ``fail`` refuses the merge,
                ``ours`` keeps the target's side, ``theirs`` takes the source's.
            dry_run: says what would happen, and changes nothing.
            merge_id: idempotency key; made when not given.

        Raises:
            FailedPrecondition: MERGE_CONFLICT, and nothing was changed; or banks of two families.
        """
        request = bank_messages.merge_request(source, target, policy, merge_id, dry_run)
        response = self._connection.call(
            "MergeBank",
            request,
            LONG_TIMEOUT_S if timeout_s is None else timeout_s,
            request.merge_id,
        )
        return bank_messages.merge_result(request, response.merge)

    def diff(
        self,
        bank: str,
        from_version: int,
        to_version: int = 0,
        *,
        to_bank: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[FactChange]:
        """Facts added, removed and changed between two states, by fact id, a page at a time.

        Version 0 is the empty bank as `from_version`, and the newest as `to_version`, which is of
        `to_bank` where that is given.
        """
        after = None
        while after != "":
            request = messages.build(
                pb.DiffBankRequest,
                bank=bank,
                from_version=from_version,
                to_version=to_version,
                to_bank=to_bank,
                page_size=calls.PAGE_SIZE,
                after=after,
            )
            page = self._connection.call("DiffBank", request, timeout_s).diff
            yield from map(bank_messages.change, page.changes)
            to_version, after = page.to_version, page.next_after

    # Archives

    def export_bank(
        self,
        folder: str | Path,
        *,
        bank: str = DEFAULT_BANK,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float | None = None,
    ) -> ExportResult:
        """Writes a bank's whole log with its payloads to a folder (larimar/archive.py).

        `progress` is told how many events of how many are written.

        Raises:
            Conflict: ARCHIVE_EXISTS, there is such a folder. Nothing is left behind by an error.
        """
        made = streams.export(self._connection, bank, folder, timeout_s, progress)
        return bank_messages.export_result(made)

    def import_bank(
        self,
        folder: str | Path,
        *,
        bank: str | None = None,
        replaces: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float | None = None,
    ) -> ImportResult:
        """Makes a bank of an archive, entry for entry, under its own name or another.

        What was erased here since the archive was made is erased from it again.

        Args:
            replaces: version of the bank of that name. The archive's takes its place in one step:
                every call finds one or the other, and what the old one held is removed.

        Raises:
            DataLoss: BAD_ARCHIVE, naming the file that is not what was written; nothing was sent.
            Conflict: the name is taken by another bank.
            FailedPrecondition: BANK_EDITED, the bank to replace is at another version by now;
                HAS_FORKS, it has forks. It serves as before.
        """
        response = streams.import_(
            self._connection, Archive(folder), bank, replaces, timeout_s, progress
        )
        return bank_messages.import_result(response)

    def reencode(
        self,
        bank: str,
        new_bank: str,
        *,
        encoder_digest: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float | None = None,
    ) -> ReencodeResult:
        """Makes a bank with another's whole log, encoded by the models that serve now, or brings
        it up to the other's newest event. Called again, it goes on where it was left.

        Args:
            encoder_digest: refused unless this encoder serves.
            progress: told which version of how many is reached.

        Raises:
            Conflict: BANK_EXISTS, `new_bank` is something else.
            FailedPrecondition: OTHER_HISTORY, somebody else has edited `new_bank`.
        """
        request = messages.build(
            pb.ReencodeBankRequest, bank=bank, new_bank=new_bank, encoder_digest=encoder_digest
        )
        last = streams.reencode(self._connection, request, timeout_s, progress)
        return bank_messages.reencode_result(last)
