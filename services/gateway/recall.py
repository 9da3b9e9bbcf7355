"""Documents: passages with their place, recursive reading, and what a memory generates."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from larimar.defaults import DEFAULT_DREAMS, DREAM_PROMPT
from larimar.errors import FailedPrecondition, InvalidArgument, from_code
from larimar.passages import (
    MAX_OFFSET,
    PASSAGE_WORDS,
    Passage,
    check_document,
    halves,
    parse_passage_id,
    passage_id,
    passage_prefix,
    split_passages,
)
from larimar.v1 import common_pb2, encoder_pb2, larimar_pb2, memory_pb2
from larimar.wire import vector_to_bytes
from services.gateway.calls import Calls, Latent, named_bank, together
from services.limits import MAX_APPEND_ITEMS, check_text

MAX_INGEST_CHARS = 1 << 16
"""Text of one call: 400 to 800 sentences, ten seconds of encoding and more. Longer documents come
in pieces."""
BATCH_PASSAGES = 64
"""Passages encoded and appended together: a call's deadline is looked at between batches."""
PAGE_FACTS = 256
"""Passages looked up at a time."""
MAX_DREAMS = 64
"""Texts of one call."""
DREAMS_AT_ONCE = 8
"""Texts decoded together: one batch of the decoder, so that questions get their turn."""
CHANGED_BY_OTHERS = frozenset({"FACT_CHANGED", "ALREADY_FORGOTTEN", "UNKNOWN_FACT", "ERASED"})
"""Reasons why a passage of an older text need not, or must not, be forgotten any more."""


@dataclass(frozen=True)
class _Place:
    """Where passages go, and what was live there when the call began."""

    bank: str
    document: str
    context: common_pb2.CallContext
    live: dict[str, tuple[str, int]]
    """Text and version of each live passage, by fact id."""
    version: int
    """Of the bank, when `live` was read."""

    def holds(self, fact_id: str, text: str) -> bool:
        return self.live.get(fact_id, ("", 0))[0] == text


class RecallCalls(Calls):
    """Ingest, Recall and Dream."""

    async def Ingest(self, request, grpc_context):
        """Writes a document as passages with their place in it.

        The passages take the place of those that began within this stretch of the document. An
        empty text ends the document: what it held from `offset` on is forgotten.
        """
        context = self._context(grpc_context)
        bank, document = named_bank(request.bank), check_document(request.document)
        text, low = request.text, request.offset
        if len(text) > MAX_INGEST_CHARS:
            raise InvalidArgument(
                f"{len(text)} characters in a call, the limit is {MAX_INGEST_CHARS}: send the "
                "document in pieces, each with its offset",
                "TEXT_TOO_LONG",
            )
        passage_id(document, low)
        passage_id(document, low + len(text))
        found = split_passages(text, request.passage_words or PASSAGE_WORDS)
        described = await self._describe_bank(bank, context)
        if described.info.config.addressing != common_pb2.ADDRESSING_SLOTS:
            raise FailedPrecondition(
                f"bank {bank!r} has no slots, and documents are read slot by slot: ingest into a "
                "slots bank",
                "NOT_A_SLOTS_BANK",
            )
        high = low + len(text) if text else MAX_OFFSET + 1
        place = await self._place(bank, document, low, high, context)
        moved = [Passage(low + passage.offset, passage.text) for passage in found]
        known = [p for p in moved if place.holds(passage_id(document, p.offset), p.text)]
        new = [p for p in moved if not place.holds(passage_id(document, p.offset), p.text)]
        kept = {passage_id(document, passage.offset) for passage in known}
        duplicates, version = len(known), place.version
        for start in range(0, len(new), BATCH_PASSAGES):
            results = await self._write_passages(place, new[start : start + BATCH_PASSAGES])
            kept |= {result.fact_id for result in results}
            duplicates += sum(result.duplicate for result in results)
            version = max([version, *(result.version for result in results)])
        gone = {fact_id: place.live[fact_id][1] for fact_id in place.live.keys() - kept}
        version = max(version, await self._forget_passages(place, gone))
        return larimar_pb2.IngestResponse(
            bank=bank,
            document=document,
            passages=len(kept),
            duplicates=duplicates,
            version=version,
        )

    async def Recall(self, request, grpc_context):
        """Answers from passages by recursive reading, without scope."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        check_text("prompt", request.prompt)
        document = check_document(request.document) if request.document else ""
        self.admission.asks(context.tenant)
        encode = encoder_pb2.EncodeRequest(
            items=[encoder_pb2.EncodeItem(prompt=request.prompt)], context=context
        )
        encoded = await self._call(lambda: self._encoder.Encode(encode), context)
        read = memory_pb2.ReadRecursivelyRequest(
            bank=bank,
            prompt_latent=encoded.latents[0].prompt_latent,
            fact_id_prefix=passage_prefix(document) if document else "",
            at_version=request.at_version,
            encoder_digest=encoded.encoder_digest,
            context=context,
        )
        reply = await self._on_bank(bank, lambda: self._memory.ReadRecursively(read), context)
        latent = Latent(reply.value, encoded.encoder_digest)
        text, passages = await together(
            self._decoded(request.prompt, latent, request.sampling, context),
            self._passages(bank, reply, context),
        )
        return larimar_pb2.RecallResponse(
            text=text.lstrip(),
            passages=passages,
            levels=reply.levels,
            version=reply.version,
            bank=bank,
        )

    async def Dream(self, request, grpc_context):
        """Texts decoded from latents of random addresses; each begins with the prompt."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        count = request.count or DEFAULT_DREAMS
        if not 1 <= count <= MAX_DREAMS:
            raise InvalidArgument(
                f"{count} dreams in a call, it gives 1 to {MAX_DREAMS}: split it", "TOO_MANY_ITEMS"
            )
        prompt = check_text("prompt", request.prompt) if request.prompt else DREAM_PROMPT
        self.admission.asks(context.tenant, count)
        sample = memory_pb2.SampleLatentsRequest(
            bank=bank,
            count=count,
            seed=request.seed,
            at_version=request.at_version,
            context=context,
        )
        drawn = await self._on_bank(bank, lambda: self._memory.SampleLatents(sample), context)
        texts = []
        for start in range(0, count, DREAMS_AT_ONCE):
            texts += await together(
                *(
                    self._decoded(
                        prompt, Latent(latent, drawn.encoder_digest), request.sampling, context
                    )
                    for latent in drawn.values[start : start + DREAMS_AT_ONCE]
                )
            )
        return larimar_pb2.DreamResponse(
            texts=[prompt + text for text in texts], version=drawn.version, bank=bank
        )

    async def _place(self, bank: str, document: str, low: int, high: int, context) -> _Place:
        """What a stretch of a document holds now."""
        live: dict[str, tuple[str, int]] = {}
        prefix, version = passage_prefix(document), 0
        after = passage_id(document, low - 1) if low else prefix
        while after:
            call = memory_pb2.EnumerateFactsRequest(
                bank=bank, after=after, page_size=PAGE_FACTS, context=context
            )
            page = await self._call(lambda: self._memory.EnumerateFacts(call), context)  # noqa: B023
            version, after = version or page.version, page.next_after
            for fact in page.facts:
                named = parse_passage_id(fact.fact_id)
                if not fact.fact_id.startswith(prefix) or (named and named[1] >= high):
                    after = ""
                    break
                if named:
                    live[fact.fact_id] = fact.prompt, fact.version
        return _Place(bank, document, context, live, version)

    async def _write_passages(
        self, place: _Place, passages: Sequence[Passage]
    ) -> list[memory_pb2.AppendResult]:
        """Writes passages, cut further where the encoder takes less, but for those without tokens.

        The event id is made of place and text, so a repeated call is one event. Where that event is
        history, because another text or nothing stood there since, the next id names its version.

        Raises: the first error of a passage; those before it may be written, and a retry is safe.
        """
        written = [passage_id(place.document, one.offset) for one in passages]
        await self._admit_edits(place.bank, len(passages), written, place.context)
        encoder_digest, scope_digest, items = await self._passage_items(place, passages)
        results = []
        while items:
            answers = await self._append(
                place.bank, items, place.context, encoder_digest, scope_digest
            )
            again = []
            for item, result in zip(items, answers, strict=True):
                status = result.status
                if status.code:
                    raise from_code(status.code, status.message, status.reason)
                past = result.duplicate and result.version <= place.version
                if past and not place.holds(item.fact_id, item.prompt):
                    item.event_id = f"{passage_event(item.fact_id, item.prompt)}:{result.version}"
                    again.append(item)
                else:
                    results.append(result)
            items = again
        return results

    async def _passage_items(
        self, place: _Place, passages: Sequence[Passage]
    ) -> tuple[str, str, list[memory_pb2.AppendItem]]:
        """The digests of encoder and scope model, and a WRITE item for each passage with tokens.

        A passage is a fact without an answer, whose value is of what its text states. Its scope
        vector is 0, so its cosine to any question is 0: an ordinary question never meets it.
        """
        context = place.context
        encoder, scope = await self._models(context)
        nothing = vector_to_bytes(np.zeros(scope.scope_size, np.float32))
        encode = encoder_pb2.EncodeRequest(
            items=[encoder_pb2.EncodeItem(prompt=one.text, with_value=True) for one in passages],
            context=context,
        )
        try:
            encoded = await self._call(lambda: self._encoder.Encode(encode), context)
        except InvalidArgument as error:
            if error.reason not in ("TEXT_TOO_LONG", "EMPTY_TEXT"):
                raise
            if len(passages) == 1 and error.reason == "EMPTY_TEXT":
                return encoder.encoder_digest, scope.scope_digest, []
            if len(passages) == 1:
                parts = [[part] for part in halves(passages[0])]
            else:
                middle = len(passages) // 2
                parts = [list(passages[:middle]), list(passages[middle:])]
            made = [await self._passage_items(place, part) for part in parts]
            return *made[0][:2], [item for _, _, items in made for item in items]
        items = []
        for one, latents in zip(passages, encoded.latents, strict=True):
            fact_id = passage_id(place.document, one.offset)
            items.append(
                memory_pb2.AppendItem(
                    kind=common_pb2.EVENT_KIND_WRITE,
                    event_id=passage_event(fact_id, one.text),
                    fact_id=fact_id,
                    prompt=one.text,
                    prompt_latents=[latents.prompt_latent],
                    value=latents.value,
                    scope_vectors=[nothing],
                )
            )
        return encoded.encoder_digest, scope.scope_digest, items

    async def _forget_passages(self, place: _Place, gone: dict[str, int]) -> int:
        """Forgets passages that still have these versions; gives the version of the last event."""
        version = 0
        fact_ids = sorted(gone)
        for start in range(0, len(fact_ids), MAX_APPEND_ITEMS):
            items = [
                memory_pb2.AppendItem(
                    kind=common_pb2.EVENT_KIND_FORGET,
                    event_id=f"{fact_id}:forget:{gone[fact_id]}",
                    fact_id=fact_id,
                    expected_version=gone[fact_id],
                )
                for fact_id in fact_ids[start : start + MAX_APPEND_ITEMS]
            ]
            await self._admit_edits(place.bank, len(items), (), place.context)
            for result in await self._append(place.bank, items, place.context):
                status = result.status
                if status.code and status.reason not in CHANGED_BY_OTHERS:
                    raise from_code(status.code, status.message, status.reason)
                version = max(version, result.version)
        return version

    async def _passages(self, bank: str, reply, context) -> list[larimar_pb2.Passage]:
        """The passages of a read-out with their texts, in its order."""
        found = await asyncio.gather(
            *(self._passage(bank, weight, reply.version, context) for weight in reply.weights)
        )
        return [passage for passage in found if passage is not None]

    async def _passage(
        self, bank: str, weight, version: int, context
    ) -> larimar_pb2.Passage | None:
        """A fact of a read-out, as it was at that version; None if it has been erased since.

        A fact that is no passage has no document, and its prompt and answer as text.
        """
        call = memory_pb2.EnumerateFactsRequest(bank=bank, fact_id=weight.fact_id, context=context)
        page = await self._call(lambda: self._memory.EnumerateFacts(call), context)
        if not page.facts or page.facts[0].version > version:  # changed since it was read
            call.at_version = version
            page = await self._call(lambda: self._memory.EnumerateFacts(call), context)
        if not page.facts:
            return None
        fact = page.facts[0]
        document, offset = parse_passage_id(weight.fact_id) or ("", 0)
        text = fact.prompt if document else f"{fact.prompt} {fact.answer}".strip()
        return larimar_pb2.Passage(
            document=document, offset=offset, length=len(text), text=text, weight=weight.weight
        )

    async def _decoded(self, prompt: str, latent: Latent, sampling, context) -> str:
        """The whole text that the decoder makes of a latent."""
        return (await self._completed(prompt, latent, sampling, context)).text


def passage_event(fact_id: str, text: str) -> str:
    """The event id of a passage: its place, and a truncated SHA-256 of its text."""
    return f"{fact_id}:{hashlib.sha256(text.encode()).hexdigest()[:24]}"
