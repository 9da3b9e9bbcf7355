"""The calls of `larimar.aio.AsyncClient` on whole banks: `larimar.client_banks`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
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
from larimar.transport import AsyncConnection
from larimar.v1 import larimar_pb2 as pb


class AsyncBankMethods:
    """Banks, what they hold, their forks and archives; `AsyncClient` connects."""

    _connection: AsyncConnection

    # Banks

    async def create_bank(
        self,
        bank: str,
        *,
        addressing: str = "slots",
        slots: int = 0,
        timeout_s: float | None = None,
    ) -> BankInfo:
        """Makes a bank; see `Client.create_bank`."""
        request = messages.build(
            pb.CreateBankRequest,
            bank=bank,
            addressing=messages.addressing_number(addressing),
            slots=slots,
        )
        response = await self._connection.call("CreateBank", request, timeout_s)
        return messages.bank_info(response.info, response.created)

    async def list_banks(self, *, timeout_s: float | None = None) -> list[BankInfo]:
        """All banks, by name."""
        response = await self._connection.call("ListBanks", pb.ListBanksRequest(), timeout_s)
        return [messages.bank_info(one) for one in response.banks]

    async def get_bank(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> BankInfo:
        """One bank; raises NotFound for an unknown one."""
        request = messages.build(pb.GetBankRequest, bank=bank)
        return messages.bank_info((await self._connection.call("GetBank", request, timeout_s)).info)

    async def delete_bank(self, bank: str, *, timeout_s: float | None = None) -> None:
        """Removes a bank and all it holds; raises NotFound for an unknown one."""
        request = messages.build(pb.DeleteBankRequest, bank=bank)
        await self._connection.call("DeleteBank", request, timeout_s)

    # What a bank holds

    async def facts(
        self, bank: str = DEFAULT_BANK, *, at: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Fact]:
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
            page = await self._connection.call("ListFacts", request, timeout_s)
            for one in page.facts:
                yield messages.fact(one)
            after = page.next_after

    async def fact(
        self,
        fact_id: str,
        *,
        bank: str = DEFAULT_BANK,
        at: int = 0,
        timeout_s: float | None = None,
    ) -> Fact:
        """One live fact; raises NotFound when there is none of this id."""
        request = messages.build(pb.ListFactsRequest, bank=bank, fact_id=fact_id, at_version=at)
        response = await self._connection.call("ListFacts", request, timeout_s)
        return messages.one_fact(response, fact_id, bank)

    async def events(
        self, bank: str = DEFAULT_BANK, *, after: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Event]:
        """Entries of the log past version `after`, in order, fetched a page at a time."""
        while True:
            request = messages.build(
                pb.ListEventsRequest, bank=bank, after_version=after, page_size=calls.PAGE_SIZE
            )
            page = await self._connection.call("ListEvents", request, timeout_s)
            for one in page.events:
                yield messages.event(one)
            if not page.events or page.events[-1].version >= page.version:
                return
            after = page.events[-1].version

    async def history(
        self, fact_id: str, *, bank: str = DEFAULT_BANK, timeout_s: float | None = None
    ) -> list[Event]:
        """Every event of a fact, newest first; empty when there is none."""
        request = messages.build(
            pb.ListEventsRequest, bank=bank, fact_id=fact_id, page_size=calls.HISTORY_SIZE
        )
        page = await self._connection.call("ListEvents", request, timeout_s)
        return [messages.event(one) for one in page.events]

    def watch(
        self, bank: str = DEFAULT_BANK, *, after: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Event]:
        """Entries of the log past a version, as they come, without end; see `Client.watch`."""
        return streams.watch_async(self._connection, bank, after, timeout_s)

    async def digest(
        self, bank: str = DEFAULT_BANK, *, at: int = 0, timeout_s: float | None = None
    ) -> DigestResult:
        """The digest of a bank at a version; 0 is the newest."""
        request = messages.build(pb.DigestRequest, bank=bank, at_version=at)
        return messages.plain(
            DigestResult, await self._connection.call("Digest", request, timeout_s)
        )

    async def replay(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> ReplayResult:
        """Rebuilds a bank, memory and scope, from its log alone and compares with what serves."""
        request = messages.build(pb.ReplayRequest, bank=bank)
        return messages.plain(
            ReplayResult, await self._connection.call("Replay", request, timeout_s)
        )

    async def checkpoint(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> CheckpointResult:
        """Saves checkpoints of a bank's memory and scope."""
        request = messages.build(pb.CheckpointRequest, bank=bank)
        return messages.plain(
            CheckpointResult, await self._connection.call("Checkpoint", request, timeout_s)
        )

    # Erasure

    async def erase(
        self,
        fact_ids: str | Sequence[str],
        *,
        bank: str = DEFAULT_BANK,
        event_id: str | None = None,
        wait: bool = True,
        progress: Callable[[EraseReceipt], None] | None = None,
        timeout_s: float | None = None,
    ) -> EraseReceipt:
        """Erases facts from a bank and all its forks, bytes and all; see `Client.erase`."""
        request = bank_messages.erase_request(fact_ids, bank, event_id)
        budget = self._connection.budget(
            LONG_TIMEOUT_S if wait and timeout_s is None else timeout_s
        )
        response = await self._connection.call("Erase", request, budget.timeout_s, request.event_id)
        waiting = bank_messages.EraseWait(response.receipt, budget, progress)
        while wait and not waiting.receipt.done:
            await asyncio.sleep(waiting.pause_s())
            waiting.see(await self.erase_receipt(request.event_id, bank=bank))
        return waiting.receipt

    async def erase_receipt(
        self, event_id: str, *, bank: str = DEFAULT_BANK, timeout_s: float | None = None
    ) -> EraseReceipt:
        """How far an erasure has come; raises NotFound for an unknown one."""
        request = messages.build(pb.GetEraseRequest, bank=bank, event_id=event_id)
        return bank_messages.receipt(
            (await self._connection.call("GetErase", request, timeout_s)).receipt
        )

    # Forks

    async def fork(
        self, bank: str, new_bank: str, *, at: int = 0, timeout_s: float | None = None
    ) -> BankInfo:
        """Makes a bank that shares another's history up to a version; see `Client.fork`."""
        request = messages.build(pb.ForkBankRequest, bank=bank, new_bank=new_bank, at_version=at)
        response = await self._connection.call("ForkBank", request, timeout_s)
        return messages.bank_info(response.info, response.created)

    async def merge(
        self,
        source: str,
        target: str,
        *,
        policy: str = "fail",
        dry_run: bool = False,
        merge_id: str | None = None,
        timeout_s: float | None = None,
    ) -> MergeResult:
        """Applies to `target` what `source` has changed since they parted; see `Client.merge`."""
        request = bank_messages.merge_request(source, target, policy, merge_id, dry_run)
        response = await self._connection.call(
            "MergeBank",
            request,
            LONG_TIMEOUT_S if timeout_s is None else timeout_s,
            request.merge_id,
        )
        return bank_messages.merge_result(request, response.merge)

    async def diff(
        self,
        bank: str,
        from_version: int,
        to_version: int = 0,
        *,
        to_bank: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[FactChange]:
        """Facts added, removed and changed between two states; see `Client.diff`."""
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
            page = (await self._connection.call("DiffBank", request, timeout_s)).diff
            for one in page.changes:
                yield bank_messages.change(one)
            to_version, after = page.to_version, page.next_after

    # Archives

    async def export_bank(
        self,
        folder: str | Path,
        *,
        bank: str = DEFAULT_BANK,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float | None = None,
    ) -> ExportResult:
        """Writes a bank's whole log with its payloads to a folder; see `Client.export_bank`."""
        made = await streams.export_async(self._connection, bank, folder, timeout_s, progress)
        return bank_messages.export_result(made)

    async def import_bank(
        self,
        folder: str | Path,
        *,
        bank: str | None = None,
        replaces: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float | None = None,
    ) -> ImportResult:
        """Makes a bank of an archive, entry for entry; see `Client.import_bank`."""
        archive = await asyncio.to_thread(Archive, folder)
        response = await streams.import_async(
            self._connection, archive, bank, replaces, timeout_s, progress
        )
        return bank_messages.import_result(response)

    async def reencode(
        self,
        bank: str,
        new_bank: str,
        *,
        encoder_digest: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float | None = None,
    ) -> ReencodeResult:
        """Makes a bank of another for the models that serve now; see `Client.reencode`."""
        request = messages.build(
            pb.ReencodeBankRequest, bank=bank, new_bank=new_bank, encoder_digest=encoder_digest
        )
        last = await streams.reencode_async(self._connection, request, timeout_s, progress)
        return bank_messages.reencode_result(last)
