"""What `GatewayDouble` knows of batches, erasures, forks and archives."""

from __future__ import annotations

import asyncio
from collections import deque

import grpc

from larimar import bank_messages
from larimar.errors import Conflict, LarimarError, NotFound
from larimar.v1 import common_pb2, larimar_pb2, memory_pb2
from tests.archives import log_of

STEPS = ("APPENDED", "CHECKPOINTED", "REMOVED", "REWRITTEN", "DONE")


class BankCallsDouble:
    """Mixed into `GatewayDouble`, whose banks and faults it uses."""

    def __init__(self) -> None:
        self.receipts: dict[str, common_pb2.EraseReceipt] = {}
        self.erasures_last = 5  # looks after which an erasure is done
        self.archive = log_of(4)
        self.imported: list = []
        self.reencoded = 0
        self.watch_dies_after: deque[int] = deque()
        self.conflicts = 0
        self.left_behind = 0
        self.replay_after_erasure = True

    async def Edit(self, request, context):
        await self._begin("Edit", request, context)
        bank = await self._bank(request.bank, context)
        results = []
        for item in request.items:
            edit = getattr(item, item.WhichOneof("edit"))
            kind = common_pb2.EVENT_KIND_WRITE
            if item.HasField("forget"):
                kind = common_pb2.EVENT_KIND_FORGET
            elif item.HasField("censor"):
                edit = larimar_pb2.WriteRequest(
                    prompt=edit.prompt,
                    answer="unknown",
                    fact_id=edit.fact_id,
                    event_id=edit.event_id,
                )
            try:
                made = self._append(bank, kind, request.bank, edit)
                del made["bank"]
                results.append(larimar_pb2.EditResult(**made))
            except LarimarError as error:
                status = common_pb2.Status(
                    code=error.code, reason=error.reason, message=error.message
                )
                results.append(
                    larimar_pb2.EditResult(
                        status=status, fact_id=edit.fact_id, event_id=edit.event_id
                    )
                )
        return larimar_pb2.EditResponse(bank=request.bank or "default", results=results)

    async def Censor(self, request, context):
        await self._begin("Censor", request, context)
        bank = await self._bank(request.bank, context)
        write = larimar_pb2.WriteRequest(
            prompt=request.prompt,
            answer="unknown",
            fact_id=request.fact_id,
            event_id=request.event_id,
        )
        result = self._append(bank, common_pb2.EVENT_KIND_WRITE, request.bank, write)
        return larimar_pb2.CensorResponse(**result)

    async def Erase(self, request, context):
        await self._begin("Erase", request, context)
        bank = await self._bank(request.bank, context)
        for fact_id in request.fact_ids:
            if fact_id not in bank["facts"]:
                await self._abort(context, NotFound(f"no fact {fact_id!r}", "UNKNOWN_FACT"))
        for fact_id in request.fact_ids:
            del bank["facts"][fact_id]
        self.receipts[request.event_id] = common_pb2.EraseReceipt(
            event_id=request.event_id,
            bank=request.bank or "default",
            step=common_pb2.ERASE_STEP_APPENDED,
            fact_id_sha256=["f" * 64 for _ in request.fact_ids],
            banks=[
                common_pb2.EraseReceipt.BankResult(
                    bank="default", versions=[3], version=3, erase_count=1, digest="d1"
                )
            ],
            started_ms=1_700_000_000_000,
        )
        return larimar_pb2.EraseResponse(receipt=self.receipts[request.event_id])

    async def GetErase(self, request, context):
        await self._begin("GetErase", request, context)
        receipt = self.receipts.get(request.event_id)
        if receipt is None:
            await self._abort(context, NotFound("no such erasure", "UNKNOWN_ERASURE"))
        if receipt.step < self.erasures_last:
            receipt.step += 1
        if receipt.step == common_pb2.ERASE_STEP_DONE:
            receipt.banks[0].replay_matches = self.replay_after_erasure
            receipt.payloads_removed = 1
            receipt.finished_ms = receipt.started_ms + 1500
            receipt.scan.CopyFrom(
                common_pb2.EraseReceipt.Scan(
                    keys=9, files=2, bytes=4096, found_before=3, found=self.left_behind
                )
            )
        return larimar_pb2.GetEraseResponse(receipt=receipt)

    async def ForkBank(self, request, context):
        await self._begin("ForkBank", request, context)
        bank = await self._bank(request.bank, context)
        if request.new_bank in self.banks:
            await self._abort(context, Conflict(f"bank {request.new_bank!r} exists", "BANK_EXISTS"))
        version = request.at_version or len(bank["events"])
        self.banks[request.new_bank] = {
            **{name: dict(bank[name]) for name in ("facts", "bodies")},
            "events": bank["events"][:version],
            "origin": common_pb2.Origin(bank=request.bank, version=version, chain="c"),
        }
        return larimar_pb2.ForkBankResponse(info=self._info(request.new_bank), created=True)

    async def MergeBank(self, request, context):
        await self._begin("MergeBank", request, context)
        conflict = common_pb2.MergeConflict(fact_id="f1", target_version=2, source_version=3)
        return larimar_pb2.MergeBankResponse(
            merge=memory_pb2.CombineBanksResponse(
                merge_id=request.merge_id,
                base_version=1,
                source_version=3,
                target_version=2,
                written=4,
                forgotten=1,
                conflicts=[conflict] * self.conflicts,
                conflict_count=self.conflicts,
                overtaken=["f9"],
                version=7,
            )
        )

    async def DiffBank(self, request, context):
        await self._begin("DiffBank", request, context)
        before = common_pb2.Fact(fact_id="b", prompt="p", answer="old", version=1)
        after = common_pb2.Fact(fact_id="b", prompt="p", answer="new", version=4)
        changes = [
            common_pb2.FactChange(kind=1, fact_id="a", after=after),
            common_pb2.FactChange(kind=3, fact_id="b", before=before, after=after),
            common_pb2.FactChange(kind=2, fact_id="c", before=before),
        ]
        left = [change for change in changes if change.fact_id > request.after]
        return larimar_pb2.DiffBankResponse(
            diff=memory_pb2.CompareVersionsResponse(
                changes=left[:2],
                from_version=request.from_version,
                to_version=request.to_version or 6,
                added=1,
                removed=1,
                changed=1,
                next_after=left[1].fact_id if len(left) > 2 else "",
            )
        )

    async def ExportBank(self, request, context):
        await self._begin("ExportBank", request, context)
        header, records = self.archive
        yield larimar_pb2.ExportBankResponse(
            header=bank_messages.header_message(header, request.bank)
        )
        for place, record in enumerate(records):
            if place == 2 and self.faults["ExportMidway"]:
                fault = self.faults["ExportMidway"].popleft()
                if isinstance(fault, LarimarError):
                    await self._abort(context, fault)
                await context.abort(fault, "the gateway went down")
            yield larimar_pb2.ExportBankResponse(records=[bank_messages.record_message(record)])

    async def ReencodeBank(self, request, context):
        """Three entries a try: it goes on where the try before broke."""
        await self._begin("ReencodeBank", request, context)
        for version in range(self.reencoded + 1, 5):
            self.reencoded = version
            yield larimar_pb2.ReencodeBankResponse(version=version, total=5)
            if self.faults["ReencodeMidway"]:
                fault = self.faults["ReencodeMidway"].popleft()
                if isinstance(fault, LarimarError):
                    await self._abort(context, fault)
                await context.abort(fault, "the gateway went down")
        config = common_pb2.BankConfig(bank=request.new_bank, encoder_digest=request.encoder_digest)
        yield larimar_pb2.ReencodeBankResponse(
            version=4,
            total=5,
            info=memory_pb2.BankInfo(config=config, version=4, facts=3),
            digest="d",
            facts=3,
        )

    async def ImportBank(self, request_iterator, context):
        self.imported.append([])
        async for request in request_iterator:
            self.imported[-1].append(request)
            if request.records and self.faults["ImportMidway"]:
                fault = self.faults["ImportMidway"].popleft()
                if isinstance(fault, LarimarError):
                    await self._abort(context, fault)
                await context.abort(fault, "the gateway went down")
        header = self.imported[-1][0].header
        count = sum(len(request.records) for request in self.imported[-1])
        return larimar_pb2.ImportBankResponse(
            info=memory_pb2.BankInfo(config=header.config, version=count),
            digest=header.digest,
            erased_again=2,
        )

    async def Watch(self, request, context):
        await self._begin("Watch", request, context)
        bank = await self._bank(request.bank, context)
        after, left = request.after_version, None
        if self.watch_dies_after:
            left = self.watch_dies_after.popleft()
        while True:
            for event in bank["events"][after:]:
                if left == 0:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway went down")
                left = None if left is None else left - 1
                yield larimar_pb2.WatchResponse(event=event)
                after = event.version
            await asyncio.sleep(0.01)
