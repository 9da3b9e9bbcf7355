"""Edits: facts are encoded and appended to the log, alone, in batches or as a stream."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

from larimar.errors import FailedPrecondition, InvalidArgument, from_code
from larimar.v1 import common_pb2, encoder_pb2, larimar_pb2, memory_pb2, scope_pb2
from services.gateway.bulk import BulkWriter
from services.gateway.calls import Calls, counted_when_they_fail, named_bank, together
from services.gateway.censoring import held_back
from services.gateway.requests import (
    prepared_censor,
    prepared_edit,
    prepared_forget,
    prepared_write,
)
from services.limits import MAX_APPEND_ITEMS, MAX_EDIT_TEXTS, MAX_ERASE_FACTS, check_id
from services.observability.metrics import EDITS


class EditCalls(Calls):
    """Write, WriteMany, Forget, Edit, Censor, Erase and GetErase."""

    async def is_erased(self, bank: str, fact_id: str, context) -> bool:
        """Whether a fact is erased from a bank's family. Raises: NotFound, without the bank."""
        call = memory_pb2.EnumerateEventsRequest(
            bank=bank, fact_id=fact_id, page_size=1, context=context
        )
        return (await self._call(lambda: self._memory.EnumerateEvents(call), context)).erased

    async def Write(self, request, grpc_context):
        """Writes a fact."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        item = prepared_write(request)
        appended = await self.write_prepared(bank, [item], context, request.encoder_digest)
        return larimar_pb2.WriteResponse(bank=bank, **_accepted(appended[0]))

    async def WriteMany(self, request_iterator, grpc_context) -> AsyncIterator:
        """Writes many facts; a result streams back for each, in order."""
        writer = BulkWriter(self, lambda: self._context(None))
        async for response in writer.run(request_iterator):
            yield response

    async def Forget(self, request, grpc_context):
        """Removes a fact's contribution exactly."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        appended = await self.write_prepared(bank, [prepared_forget(request)], context)
        return larimar_pb2.ForgetResponse(bank=bank, **_accepted(appended[0]))

    async def Censor(self, request, grpc_context):
        """Writes "unknown" as the answer of a prompt."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        nameless = () if request.fact_id else (0,)
        appended = await self.write_prepared(
            bank, [prepared_censor(request)], context, nameless=nameless
        )
        return larimar_pb2.CensorResponse(bank=bank, **_accepted(appended[0]))

    async def Edit(self, request, grpc_context):
        """Writes, forgets and censors in one append, with a result for each."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        if not 1 <= len(request.items) <= MAX_APPEND_ITEMS:
            raise InvalidArgument(
                f"{len(request.items)} items in one edit, it takes 1 to {MAX_APPEND_ITEMS}: "
                "split it, or use WriteMany where it need not be atomic",
                "TOO_MANY_ITEMS" if request.items else "EMPTY_EDIT",
            )
        items = []
        for place, edit in enumerate(request.items):
            try:
                items.append(prepared_edit(edit, bank))
            except InvalidArgument as error:
                raise InvalidArgument(f"item {place}: {error.message}", error.reason) from None
        texts = sum(1 + len(item.rephrasings) for item in items if _is_write(item))
        if texts > MAX_EDIT_TEXTS:
            raise InvalidArgument(
                f"{texts} prompts and rephrasings in one edit, the limit is {MAX_EDIT_TEXTS}: "
                "split it",
                "TOO_MANY_ITEMS",
            )
        digests = {edit.write.encoder_digest for edit in request.items} - {""}
        if len(digests) > 1:
            raise FailedPrecondition(
                "the items name several encoders, and one serves: make all for that one",
                "WRONG_ENCODER",
            )
        nameless = [
            place
            for place, edit in enumerate(request.items)
            if edit.HasField("censor") and not edit.censor.fact_id
        ]
        results = await self.write_prepared(
            bank, items, context, "".join(digests), nameless=nameless
        )
        return larimar_pb2.EditResponse(
            bank=bank,
            results=[larimar_pb2.EditResult(status=one.status, **_ids(one)) for one in results],
        )

    async def Erase(self, request, grpc_context):
        """Erases facts from a bank and all its forks."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        if not request.fact_ids or not all(request.fact_ids):
            raise InvalidArgument("erase needs fact ids: see `larimar facts`", "EMPTY_ID")
        if len(request.fact_ids) > MAX_ERASE_FACTS:
            raise InvalidArgument(
                f"{len(request.fact_ids)} facts in one erasure, the limit is {MAX_ERASE_FACTS}: "
                "split it",
                "TOO_MANY_ITEMS",
            )
        call = memory_pb2.EraseFactsRequest(
            bank=bank,
            fact_ids=[check_id("fact id", fact_id) for fact_id in request.fact_ids],
            event_id=check_id("event id", request.event_id) or uuid.uuid4().hex,
            context=context,
        )
        await self._admit_edits(bank, len(call.fact_ids), (), context)
        async with self.auditor.recorded(
            context.tenant,
            "erase",
            bank=bank,
            fact_ids=list(call.fact_ids),
            event_id=call.event_id,
        ) as entry:
            with counted_when_they_fail(["erase"] * len(call.fact_ids)):
                reply = await self._on_bank(bank, lambda: self._memory.EraseFacts(call), context)
            entry["versions"] = {one.bank: list(one.versions) for one in reply.receipt.banks}
        EDITS.labels("erase", "OK").inc(len(call.fact_ids))
        return larimar_pb2.EraseResponse(receipt=reply.receipt)

    async def GetErase(self, request, grpc_context):
        """The receipt of an erasure."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        if not request.event_id:
            raise InvalidArgument("name an erasure by its event id", "EMPTY_ID")
        call = memory_pb2.DescribeEraseRequest(
            bank=bank, event_id=check_id("event id", request.event_id), context=context
        )
        reply = await self._on_bank(bank, lambda: self._memory.DescribeErase(call), context)
        return larimar_pb2.GetEraseResponse(receipt=reply.receipt)

    async def write_prepared(
        self,
        bank: str,
        items: list[memory_pb2.AppendItem],
        context: common_pb2.CallContext,
        encoder_digest: str = "",
        turn: Callable[[], Awaitable[None]] | None = None,
        admitted: bool = False,
        nameless: Collection[int] = (),
    ) -> list[memory_pb2.AppendResult]:
        """Appends items atomically; the texts of WRITEs are encoded and embedded, in parallel.

        Args:
            encoder_digest: the only encoder that may make the latents; empty for any.
            turn: awaited before the append, so that a stream's order is the log's; what it raises
                is raised, and nothing is appended.
            admitted: the items were let in before, in a batch of which a text was refused.
            nameless: places of censors that name no fact.

        Raises: any domain error that concerns all items; a text that the encoder refuses is one.
        """
        writes = [item for item in items if _is_write(item)]
        if not admitted:
            await self._admit_edits(bank, len(items), (item.fact_id for item in writes), context)
        digests = ("", "")
        if writes:
            digests = await self._add_vectors(writes, context, encoder_digest)
        if turn is not None:
            await turn()
        found = await self._facts_of(bank, items, nameless, context)
        return await self._append(bank, items, context, *digests, held_back(items, found))

    async def _facts_of(
        self, bank: str, items: list[memory_pb2.AppendItem], places: Collection[int], context
    ) -> dict[int, list[str]]:
        """The live facts that have the prompts of the items at these places, by place."""
        if not places:
            return {}
        call = scope_pb2.FindFactsRequest(
            bank=bank, texts=[items[place].prompt for place in places], context=context
        )
        reply = await self._on_bank(bank, lambda: self._scope.FindFacts(call), context)
        return {place: list(one.fact_ids) for place, one in zip(places, reply.found, strict=True)}

    async def _add_vectors(
        self, items: list[memory_pb2.AppendItem], context, encoder_digest: str
    ) -> tuple[str, str]:
        """Puts latents and scope vectors into WRITE items; the digests of what made them."""
        texts, encodes = [], []
        for item in items:
            encodes.append(
                encoder_pb2.EncodeItem(prompt=item.prompt, answer=item.answer, with_value=True)
            )
            encodes += [encoder_pb2.EncodeItem(prompt=text) for text in item.rephrasings]
            texts += [item.prompt, *item.rephrasings]
        encode = encoder_pb2.EncodeRequest(items=encodes, context=context)
        embed = scope_pb2.EmbedRequest(texts=texts, context=context)
        encoded, embedded = await together(
            self._call(lambda: self._encoder.Encode(encode), context),
            self._call(lambda: self._scope.Embed(embed), context),
        )
        if encoder_digest and encoder_digest != encoded.encoder_digest:
            raise FailedPrecondition(
                f"this write names encoder {encoder_digest[:12]}, the serving one is "
                f"{encoded.encoder_digest[:12]}: make the event for the serving model",
                "WRONG_ENCODER",
            )
        place = 0
        for item in items:
            rows = 1 + len(item.rephrasings)
            del item.prompt_latents[:], item.scope_vectors[:]
            item.prompt_latents.extend(
                latents.prompt_latent for latents in encoded.latents[place : place + rows]
            )
            item.value = encoded.latents[place].value
            item.scope_vectors.extend(embedded.embeddings[place : place + rows])
            place += rows
        return encoded.encoder_digest, embedded.scope_digest


def _is_write(item: memory_pb2.AppendItem) -> bool:
    return item.kind == common_pb2.EVENT_KIND_WRITE


def _ids(result: memory_pb2.AppendResult) -> dict:
    return {
        "fact_id": result.fact_id,
        "event_id": result.event_id,
        "version": result.version,
        "duplicate": result.duplicate,
    }


def _accepted(result: memory_pb2.AppendResult) -> dict:
    if result.status.code:
        raise from_code(result.status.code, result.status.message, result.status.reason)
    return _ids(result)
