"""Re-encoding: a bank's log anew, entry for entry, with the vectors of the models that serve now.

The new log has the versions, event ids, times, salts and texts of the old one; payload digests and
chain are its own. What is there already is loaded as an archive is, unseen until it is whole; what
comes to the old bank afterwards is appended as ordinary events under the same event ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from larimar.errors import Conflict, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from larimar.memory import BankConfig
from larimar.v1 import common_pb2, encoder_pb2, larimar_pb2, memory_pb2, scope_pb2
from larimar.wire import config_from_proto, config_to_proto, vector_to_bytes
from services.gateway.calls import LONG_DEADLINE_S, Calls, named_bank, together
from services.gateway.reencode_entries import (
    Entry,
    Record,
    Texts,
    Vectors,
    entry_of,
    is_full,
    item_of,
    messages,
    rewritten,
    runs,
    texts_of_item,
    with_vectors,
)
from services.gateway.tenancy import check_key_again
from services.limits import check_bank_name
from services.rpc import until

MAX_ROUNDS = 20
"""Times the new bank is brought up to the old one while others edit that."""
PAGE_FACTS = 500
"""Live facts of both banks that are compared at once."""
ERASE_PAUSE_S = 0.2
"""Between two looks at an erasure that is waited for."""


class ReencodeCalls(Calls):
    """ReencodeBank."""

    async def ReencodeBank(self, request, grpc_context) -> AsyncIterator:
        """Makes a bank of another for the models that serve, or brings it up to date."""
        context = self._context(grpc_context, LONG_DEADLINE_S)
        bank, new_bank = named_bank(request.bank), check_bank_name(request.new_bank)
        if bank == new_bank:
            raise InvalidArgument(f"bank {bank!r} is both: name a new bank", "SAME_BANK")
        self.admission.imports(context.tenant)
        work = Reencoding(self, bank, new_bank, context)
        await work.begin(request.encoder_digest)
        is_new = not await work.is_visible()
        about = {"bank": new_bank, "source": bank}
        async with contextlib.AsyncExitStack() as held:
            if is_new:
                await held.enter_async_context(self._room_for(new_bank, context, work.facts))
            entry = await held.enter_async_context(
                self.auditor.recorded(context.tenant, "reencode", **about)
            )
            if is_new:
                async for version in work.copy():
                    yield larimar_pb2.ReencodeBankResponse(version=version, total=work.total)
            for _ in range(MAX_ROUNDS):
                async for version in work.catch_up():
                    yield larimar_pb2.ReencodeBankResponse(version=version, total=work.total)
                if await work.is_caught_up():
                    break
            facts = await work.compared()
            described = await self._describe_bank(new_bank, context)
            entry["version"] = described.info.version
        digest = memory_pb2.ComputeDigestRequest(bank=new_bank, context=context)
        yield larimar_pb2.ReencodeBankResponse(
            version=described.info.version,
            total=work.total,
            info=described.info,
            digest=(await self._call(lambda: self._memory.ComputeDigest(digest), context)).digest,
            facts=facts,
        )


class Reencoding:
    """The work of one call; all of it may be done again.

    Attributes:
        total: version of the old bank, as far as it is known.
        facts: of the old bank, when the work began.
    """

    def __init__(self, gateway: Calls, bank: str, new_bank: str, context: Any) -> None:
        self.total = self.facts = 0
        self._gateway = gateway
        self._bank = bank
        self._new_bank = new_bank
        self._context = context
        self._version, self._chain = 0, ""

    async def begin(self, encoder_digest: str) -> None:
        """Looks at the old bank and at the serving models.

        Raises:
            NotFound: no such bank.
            FailedPrecondition: WRONG_ENCODER, another encoder serves than the one that is wanted.
        """
        described = await self._gateway._describe_bank(self._bank, self._context)
        encoder, scope = await self._gateway._models(self._context)
        if encoder_digest not in ("", encoder.encoder_digest):
            raise FailedPrecondition(
                f"encoder {encoder.encoder_digest[:12]} serves, not {encoder_digest[:12]}: start "
                "the pipeline with the model that the new bank is for",
                "WRONG_ENCODER",
            )
        self.total, self.facts = described.info.version, described.info.facts
        self._erase_count = described.info.erase_count
        self._old = config_from_proto(described.info.config)
        self._config = reencoded_config(self._old, encoder, scope)

    async def is_visible(self) -> bool:
        """Whether the new bank is there, as far as some version of the old one.

        Raises:
            Conflict: BANK_EXISTS, the name is another bank's.
        """
        call = memory_pb2.DescribeBankRequest(bank=self._new_bank, context=self._context)
        try:
            info = (await self._called("DescribeBank", call)).info
        except NotFound:
            return False
        self._version = info.version
        same = config_from_proto(info.config) == self._config
        if not same or await self._event_of(self._bank) != await self._event_of(self._new_bank):
            raise Conflict(
                f"bank {self._new_bank!r} exists, and is not {self._bank!r} re-encoded for the "
                "models that serve: name another",
                "BANK_EXISTS",
            )
        return True

    async def copy(self) -> AsyncIterator[int]:
        """Loads the whole log into the new bank, which is then visible; the versions it reaches.

        Raises:
            FailedPrecondition: ERASED_MEANWHILE, facts were erased on the way: begin again.
            InvalidArgument: a text is too long for the serving encoder.
        """
        reached = await self._load([])
        self._version, self._chain = reached.version, reached.chain
        header = common_pb2.ArchiveHeader()
        async for batch in self._batches(header):
            vectors = await self._vectors([entry.texts for entry in batch if entry.texts])
            records, self._chain = await asyncio.to_thread(
                rewritten, self._config, self._chain, batch, vectors
            )
            for message in messages(records):
                await self._load(message)
            self._version = records[-1].event.version
            yield self._version
        header.config.CopyFrom(config_to_proto(self._new_bank, self._config))
        header.chain, header.digest = self._chain, ""
        await self._load([], header)

    async def catch_up(self) -> AsyncIterator[int]:
        """Appends to the new bank what has come to the old one; the versions it reaches.

        Raises:
            FailedPrecondition: OTHER_HISTORY, somebody else has edited the new bank.
        """
        erasures: list[str] = []
        async for batch in self._batches():
            for run in runs(batch):
                if run[0].is_erase:
                    erasures.append(await self._erase(run[0]))
                else:
                    await self._append(run)
                yield self._version
        for event_id in erasures:
            await self._erased(event_id)

    async def is_caught_up(self) -> bool:
        """Whether the new bank is where the old one is now."""
        self.total = (await self._gateway._describe_bank(self._bank, self._context)).info.version
        return self._version == self.total

    async def compared(self) -> int:
        """How many facts are live in both banks, after comparing all of them.

        Raises:
            DataLoss: REENCODE_DIFFERS, a fact is not the same in both.
        """
        after, count = "", 0
        while True:
            old, new = await together(
                self._facts(self._bank, after), self._facts(self._new_bank, after)
            )
            if list(old.facts) != list(new.facts) or old.total != new.total:
                raise DataLoss(
                    f"bank {self._new_bank!r} has other live facts than {self._bank!r} at version "
                    f"{self._version}: delete it, and re-encode again",
                    "REENCODE_DIFFERS",
                )
            count += len(old.facts)
            after = old.next_after
            if not after:
                return count

    async def _event_of(self, bank: str) -> tuple[int, str, str]:
        """Kind, fact id and event id that a bank has at the new bank's version."""
        if not self._version:
            return (0, "", "")
        call = memory_pb2.EnumerateEventsRequest(
            bank=bank, after_version=self._version - 1, page_size=1, context=self._context
        )
        events = (await self._called("EnumerateEvents", call)).events
        return (events[0].kind, events[0].fact_id, events[0].event_id) if events else (-1, "", "")

    async def _facts(self, bank: str, after: str) -> memory_pb2.EnumerateFactsResponse:
        call = memory_pb2.EnumerateFactsRequest(
            bank=bank,
            after=after,
            page_size=PAGE_FACTS,
            at_version=self._version,
            context=self._context,
        )
        return await self._called("EnumerateFacts", call)

    async def _batches(
        self, header: common_pb2.ArchiveHeader | None = None
    ) -> AsyncIterator[list[Entry]]:
        """The old bank's entries after the new one's version, in batches.

        Args:
            header: filled in; and what is erased meanwhile then ends the work.
        """
        batch: list[Entry] = []
        async for record in self._records(header):
            entry = entry_of(record)
            if is_full(batch, entry):
                await self._turn(len(batch))
                yield batch
                batch = []
            batch.append(entry)
        if batch:
            await self._turn(len(batch))
            yield batch

    async def _turn(self, count: int) -> None:
        """Waits until the tenant's rate of imports lets so many entries be re-encoded.

        Raises: as `check_key_again`.
        """
        context = self._context
        async with until(context.deadline_unix_s):
            await self._gateway.admission.turn(context.tenant, "import", count)
            await check_key_again()

    async def _records(self, header: common_pb2.ArchiveHeader | None) -> AsyncIterator[Record]:
        call = memory_pb2.DumpBankRequest(
            bank=self._bank, after_version=self._version, context=self._context
        )
        async with contextlib.aclosing(self._gateway._memory.DumpBank(call)) as replies:
            while True:
                try:
                    async with until(self._context.deadline_unix_s):
                        reply = await anext(replies, None)
                except FailedPrecondition as error:
                    if header is not None or error.reason != "ERASED_MEANWHILE":
                        raise
                    return  # the ERASE comes with the next look
                if reply is None:
                    return
                if reply.HasField("header"):
                    self._begun(reply.header, header)
                for record in reply.records:
                    yield record

    def _begun(
        self, found: common_pb2.ArchiveHeader, wanted: common_pb2.ArchiveHeader | None
    ) -> None:
        self.total = found.version
        if wanted is None:
            return
        if found.erase_count != self._erase_count:
            raise FailedPrecondition(
                "facts were erased while the bank was re-encoded: begin again", "ERASED_MEANWHILE"
            )
        wanted.CopyFrom(found)

    async def _load(
        self, records: Sequence[Record], header: common_pb2.ArchiveHeader | None = None
    ) -> memory_pb2.LoadBankResponse:
        """Loads entries; what was made of another state of the old bank is made anew."""
        made_of = (self._bank, self._old.digest, self._config.digest, str(self._erase_count))
        call = memory_pb2.LoadBankRequest(
            bank=self._new_bank,
            header=header,
            records=records,
            last=header is not None,
            reencoded_from=self._bank,
            source=hashlib.sha256("\0".join(made_of).encode()).hexdigest(),
            context=self._context,
        )
        return await self._called("LoadBank", call)

    async def _append(self, run: list[Entry]) -> None:
        items = [item_of(entry) for entry in run]
        writes = [item for item in items if item.kind == common_pb2.EVENT_KIND_WRITE]
        vectors = await self._vectors([texts_of_item(item) for item in writes])
        for item, made in zip(writes, vectors, strict=True):
            with_vectors(item, made)
        config = self._config
        results = await self._gateway._append(
            self._new_bank, items, self._context, config.encoder_digest, config.scope_digest
        )
        for entry, result in zip(run, results, strict=True):
            self._follow(entry, result.version, result.status.message)

    async def _erase(self, entry: Entry) -> str:
        """Erases a fact from the new bank too; the event id of the erasure."""
        event = entry.record.event
        call = memory_pb2.EraseFactsRequest(
            bank=self._new_bank,
            fact_ids=[event.fact_id],
            event_id=event.event_id,
            context=self._context,
        )
        receipt = (await self._called("EraseFacts", call)).receipt
        versions = {one.bank: list(one.versions) for one in receipt.banks}
        found = versions.get(self._new_bank) or [0]
        self._follow(entry, found[0], receipt.failure)
        return event.event_id

    async def _erased(self, event_id: str) -> None:
        """Returns when an erasure from the new bank is done."""
        call = memory_pb2.DescribeEraseRequest(
            bank=self._new_bank, event_id=event_id, context=self._context
        )
        async with until(self._context.deadline_unix_s):
            while True:
                receipt = (await self._called("DescribeErase", call)).receipt
                if receipt.step == common_pb2.ERASE_STEP_DONE:
                    return
                await asyncio.sleep(ERASE_PAUSE_S)

    def _follow(self, entry: Entry, version: int, why: str) -> None:
        """Takes note of an event at its place. Raises: FailedPrecondition, OTHER_HISTORY."""
        event = entry.record.event
        if version != event.version:
            found = f"at version {version}" if version else f"refused ({why})"
            raise FailedPrecondition(
                f"event {event.event_id!r} is at version {event.version} of bank {self._bank!r} "
                f"and {found} in {self._new_bank!r}, which somebody else has edited: delete that, "
                "and re-encode again",
                "OTHER_HISTORY",
            )
        self._version = version

    async def _vectors(self, facts: Sequence[Texts]) -> list[Vectors]:
        """What the serving models make of facts and passages; all are encoded together.

        The value of a passage is of what its text states, and scope, whose vector is 0, never finds
        it.
        """
        if not facts:
            return []
        encodes, texts = [], []
        for fact in facts:
            encodes.append(
                encoder_pb2.EncodeItem(prompt=fact.prompt, answer=fact.answer, with_value=True)
            )
            encodes += [encoder_pb2.EncodeItem(prompt=text) for text in fact.rephrasings]
            texts += fact.prompts if fact.answer else ()
        encode = encoder_pb2.EncodeRequest(items=encodes, context=self._context)
        embed = scope_pb2.EmbedRequest(texts=texts, context=self._context)
        gateway = self._gateway
        encoded, embedded = await together(
            gateway._call(lambda: gateway._encoder.Encode(encode), self._context),
            gateway._call(lambda: gateway._scope.Embed(embed), self._context),
        )
        served = (encoded.encoder_digest, embedded.scope_digest)
        if served != (self._config.encoder_digest, self._config.scope_digest):
            raise FailedPrecondition(
                "another model serves than when the re-encoding began: begin again", "WRONG_ENCODER"
            )
        latents, embeddings = iter(encoded.latents), iter(embedded.embeddings)
        nothing = vector_to_bytes(np.zeros(self._config.scope_size, np.float32))
        made = []
        for fact in facts:
            rows = [next(latents) for _ in fact.prompts]
            scopes = [next(embeddings) if fact.answer else nothing for _ in rows]
            made.append(Vectors([row.prompt_latent for row in rows], rows[0].value, scopes))
        return made

    async def _called(self, method: str, call: Any) -> Any:
        memory = self._gateway._memory
        return await self._gateway._call(lambda: getattr(memory, method)(call), self._context)


def reencoded_config(old: BankConfig, encoder: Any, scope: Any) -> BankConfig:
    """A bank's configuration with the sizes, scales and digests of other models."""
    return dataclasses.replace(
        old,
        prompt_size=encoder.prompt_size,
        value_size=encoder.value_size,
        scope_size=scope.scope_size,
        prompt_bits=encoder.prompt_bits,
        value_bits=encoder.value_bits,
        scope_bits=scope.scope_bits,
        encoder_digest=encoder.encoder_digest,
        scope_digest=scope.scope_digest,
    ).validate()
