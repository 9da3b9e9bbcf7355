"""The gateway: what users call. Holds no state; composes the four services."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator

from larimar import __version__
from larimar.defaults import DEFAULT_BANK
from larimar.errors import FailedPrecondition, InvalidArgument, from_code
from larimar.v1 import (
    common_pb2,
    decoder_pb2,
    encoder_pb2,
    larimar_pb2,
    larimar_pb2_grpc,
    memory_pb2,
    scope_pb2,
)
from services.gateway.bulk import BulkWriter
from services.gateway.calls import Calls, together, unknown_bank
from services.gateway.requests import prepared_write
from services.limits import (
    MAX_CANDIDATES,
    check_bank_name,
    check_id,
    check_text,
)
from services.rpc import domain_error, until

REPLAY_DEADLINE_S = 3600.0
"""Time of a replay or checkpoint whose caller set no deadline."""
STATUS_WAIT_S = 3.0
"""Time after which a service that does not answer is called not ready."""
MAX_RESCOPES = 3
"""Times scope is asked again because the bank moved on between scope and memory."""


class GatewayService(Calls, larimar_pb2_grpc.LarimarServicer):
    """Implements larimar.v1.Larimar over four doors."""

    async def Write(self, request, grpc_context):
        """Writes a fact."""
        context = self._context(grpc_context)
        bank = _bank(request.bank)
        item = prepared_write(request)
        appended = await self.write_prepared(bank, [item], context, request.encoder_digest)
        return _write_response(bank, item, _accepted(appended[0]))

    async def WriteMany(self, request_iterator, grpc_context) -> AsyncIterator:
        """Writes many facts; a result streams back for each, in order."""
        writer = BulkWriter(self, lambda: self._context(None))
        async for response in writer.run(request_iterator):
            yield response

    async def Forget(self, request, grpc_context):
        """Removes a fact's contribution exactly."""
        context = self._context(grpc_context)
        bank = _bank(request.bank)
        if not request.fact_id:
            raise InvalidArgument("forget needs a fact id: see `larimar facts`", "EMPTY_ID")
        item = memory_pb2.AppendItem(
            kind=common_pb2.EVENT_KIND_FORGET,
            fact_id=check_id("fact id", request.fact_id),
            event_id=check_id("event id", request.event_id) or uuid.uuid4().hex,
        )
        result = _accepted((await self._append(bank, [item], context))[0])
        return larimar_pb2.ForgetResponse(
            fact_id=item.fact_id,
            event_id=item.event_id,
            version=result.version,
            bank=bank,
            duplicate=result.duplicate,
        )

    async def Ask(self, request, grpc_context) -> AsyncIterator:
        """Answers a prompt; the last message says from where."""
        context = self._context(grpc_context)
        bank = _bank(request.bank)
        check_text("prompt", request.prompt)
        latent, provenance = await self._recollect(bank, request, context)
        call = decoder_pb2.GenerateRequest(
            prompt=request.prompt, latent=latent, sampling=request.sampling, context=context
        )
        blank, last = True, False
        async with contextlib.aclosing(self._decoder.Generate(call)) as replies:
            while not last:
                async with until(context.deadline_unix_s):
                    reply = await anext(replies)
                last = bool(reply.finish_reason)
                text = reply.text.lstrip() if blank else reply.text
                blank = blank and not text
                yield larimar_pb2.AskResponse(
                    text=text,
                    finish_reason=reply.finish_reason,
                    tokens=reply.tokens,
                    provenance=provenance if last else None,
                )

    async def Score(self, request, grpc_context):
        """Log probabilities of candidate answers, with the same scope and memory as Ask."""
        context = self._context(grpc_context)
        bank = _bank(request.bank)
        check_text("prompt", request.prompt)
        if not request.candidates:
            raise InvalidArgument("give at least one candidate to score", "EMPTY_TEXT")
        if len(request.candidates) > MAX_CANDIDATES:
            raise InvalidArgument(
                f"{len(request.candidates)} candidates, at most {MAX_CANDIDATES}: split the call",
                "TOO_MANY_ITEMS",
            )
        for candidate in request.candidates:
            check_text("candidate", candidate)
        latent, provenance = await self._recollect(bank, request, context)
        call = decoder_pb2.ScoreCandidatesRequest(
            prompt=request.prompt, candidates=request.candidates, latent=latent, context=context
        )
        scored = await self._call(lambda: self._decoder.ScoreCandidates(call), context)
        return larimar_pb2.ScoreResponse(scores=scored.scores, provenance=provenance)

    async def CreateBank(self, request, grpc_context):
        """Makes a bank."""
        context = self._context(grpc_context)
        bank = check_bank_name(request.bank or DEFAULT_BANK)
        created = await self._make_bank(bank, request.addressing, request.slots, context)
        described = await self._describe_bank(bank, context)
        return larimar_pb2.CreateBankResponse(info=described.info, created=created)

    async def GetBank(self, request, grpc_context):
        """A bank's configuration and size."""
        context = self._context(grpc_context)
        described = await self._describe_bank(_bank(request.bank), context)
        return larimar_pb2.GetBankResponse(info=described.info)

    async def ListBanks(self, request, grpc_context):
        """All banks."""
        context = self._context(grpc_context)
        call = memory_pb2.EnumerateBanksRequest(context=context)
        listed = await self._call(lambda: self._memory.EnumerateBanks(call), context)
        return larimar_pb2.ListBanksResponse(banks=listed.banks)

    async def DeleteBank(self, request, grpc_context):
        """Removes a bank and all it holds."""
        context = self._context(grpc_context)
        if not request.bank:
            raise InvalidArgument("delete needs the name of a bank", "EMPTY_ID")
        call = memory_pb2.DropBankRequest(bank=check_bank_name(request.bank), context=context)
        dropped = await self._call(lambda: self._memory.DropBank(call), context)
        if not dropped.existed:
            raise unknown_bank(request.bank)
        return larimar_pb2.DeleteBankResponse()

    async def ListFacts(self, request, grpc_context):
        """A page of live facts."""
        context = self._context(grpc_context)
        bank = _bank(request.bank)
        call = memory_pb2.EnumerateFactsRequest(
            bank=bank,
            page_size=request.page_size,
            after=request.after,
            fact_id=request.fact_id,
            context=context,
        )
        page = await self._on_bank(bank, lambda: self._memory.EnumerateFacts(call), context)
        return larimar_pb2.ListFactsResponse(
            facts=page.facts, version=page.version, total=page.total, next_after=page.next_after
        )

    async def ListEvents(self, request, grpc_context):
        """A page of the log."""
        context = self._context(grpc_context)
        bank = _bank(request.bank)
        call = memory_pb2.EnumerateEventsRequest(
            bank=bank,
            after_version=request.after_version,
            page_size=request.page_size,
            context=context,
        )
        page = await self._on_bank(bank, lambda: self._memory.EnumerateEvents(call), context)
        return larimar_pb2.ListEventsResponse(events=page.events, version=page.version)

    async def Digest(self, request, grpc_context):
        """The digest of a bank."""
        context = self._context(grpc_context)
        bank = _bank(request.bank)
        call = memory_pb2.ComputeDigestRequest(bank=bank, context=context)
        reply = await self._on_bank(bank, lambda: self._memory.ComputeDigest(call), context)
        return larimar_pb2.DigestResponse(
            bank=bank, version=reply.version, facts=reply.facts, digest=reply.digest
        )

    async def Replay(self, request, grpc_context):
        """Rebuilds a bank from the log alone and compares."""
        context = self._context(grpc_context, REPLAY_DEADLINE_S)
        bank = _bank(request.bank)
        call = memory_pb2.RebuildBankRequest(bank=bank, context=context)
        reply = await self._on_bank(bank, lambda: self._memory.RebuildBank(call), context)
        return larimar_pb2.ReplayResponse(
            bank=bank,
            version=reply.version,
            events=reply.events,
            seconds=reply.seconds,
            digest=reply.digest,
            matches=reply.matches,
            folded_sha256=reply.folded_sha256,
        )

    async def Checkpoint(self, request, grpc_context):
        """Saves a checkpoint of a bank."""
        context = self._context(grpc_context, REPLAY_DEADLINE_S)
        bank = _bank(request.bank)
        call = memory_pb2.SaveCheckpointRequest(bank=bank, context=context)
        reply = await self._on_bank(bank, lambda: self._memory.SaveCheckpoint(call), context)
        return larimar_pb2.CheckpointResponse(
            bank=bank, version=reply.version, digest=reply.digest, bytes=reply.bytes
        )

    async def GetStatus(self, request, grpc_context):
        """What is running, and of which model; a service that does not answer is not ready."""
        context = self._context(grpc_context, 5.0)
        calls = {
            "encoder": self._encoder.DescribeEncoder(
                encoder_pb2.DescribeEncoderRequest(context=context)
            ),
            "scope": self._scope.DescribeScope(scope_pb2.DescribeScopeRequest(context=context)),
            "memory": self._memory.DescribeMemory(
                memory_pb2.DescribeMemoryRequest(context=context)
            ),
            "decoder": self._decoder.DescribeDecoder(
                decoder_pb2.DescribeDecoderRequest(context=context)
            ),
        }
        replies = await asyncio.gather(
            *(asyncio.wait_for(call, STATUS_WAIT_S) for call in calls.values()),
            return_exceptions=True,
        )
        found = dict(zip(calls, replies, strict=True))
        details = {
            "encoder": lambda r: f"latents of {r.value_size}, texts to {r.max_text_tokens} tokens",
            "scope": lambda r: f"threshold {r.threshold:.3f}",
            "memory": lambda r: f"{r.banks_held} banks held, {r.state_bytes / 2**20:.1f} MiB",
            "decoder": lambda r: f"{r.architecture}, prompts to {r.max_prompt_tokens} tokens",
        }
        services = [larimar_pb2.ServiceInfo(name="gateway", ready=True, pid=os.getpid())]
        for name, reply in found.items():
            if isinstance(reply, BaseException):
                detail = domain_error(reply).message
                services.append(larimar_pb2.ServiceInfo(name=name, ready=False, detail=detail))
            else:
                services.append(
                    larimar_pb2.ServiceInfo(
                        name=name, ready=True, detail=details[name](reply), pid=reply.pid
                    )
                )
        return larimar_pb2.GetStatusResponse(
            services=services,
            model_digest=getattr(found["decoder"], "model_digest", ""),
            encoder_digest=getattr(found["encoder"], "encoder_digest", ""),
            scope_digest=getattr(found["scope"], "scope_digest", ""),
            version=__version__,
        )

    async def write_prepared(
        self,
        bank: str,
        items: list[memory_pb2.AppendItem],
        context: common_pb2.CallContext,
        encoder_digest: str = "",
        after: asyncio.Task | None = None,
    ) -> list[memory_pb2.AppendResult]:
        """Encodes and embeds the texts of WRITE items, in parallel, and appends them.

        Args:
            encoder_digest: the only encoder that may make the latents; empty for any.
            after: appends only when this is done, so that a stream's order is the log's.

        Raises: any domain error that concerns all items; a text that the encoder refuses is one.
        """
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
        if after is not None:
            await asyncio.wait({after})
        return await self._append(
            bank, items, context, encoded.encoder_digest, embedded.scope_digest
        )

    async def _append(
        self, bank: str, items, context, encoder_digest: str = "", scope_digest: str = ""
    ) -> list[memory_pb2.AppendResult]:
        call = memory_pb2.AppendRequest(
            bank=bank,
            items=items,
            encoder_digest=encoder_digest,
            scope_digest=scope_digest,
            context=context,
        )
        reply = await self._on_bank(bank, lambda: self._memory.Append(call), context)
        return list(reply.results)

    async def _recollect(self, bank: str, request, context) -> tuple[bytes, larimar_pb2.Provenance]:
        """The latent that answers a prompt (empty when out of scope), and where it came from."""
        if request.no_memory:
            return b"", larimar_pb2.Provenance(bank=bank)
        detect = scope_pb2.DetectRequest(
            bank=bank, queries=[request.prompt], min_version=request.min_version, context=context
        )
        encode = encoder_pb2.EncodeRequest(
            items=[encoder_pb2.EncodeItem(prompt=request.prompt)], context=context
        )
        detected, encoded = await together(
            self._on_bank(bank, lambda: self._scope.Detect(detect), context),
            self._call(lambda: self._encoder.Encode(encode), context),
        )
        for _ in range(MAX_RESCOPES):
            found = detected.detections[0]
            provenance = larimar_pb2.Provenance(
                in_scope=found.in_scope,
                scope_score=found.score,
                fact_id=found.fact_id if found.in_scope else "",
                version=detected.version,
                bank=bank,
            )
            if not found.in_scope:
                return b"", provenance
            read = memory_pb2.ReadRequest(
                bank=bank,
                prompt_latents=[encoded.latents[0].prompt_latent],
                min_version=detected.version,
                context=context,
            )
            try:
                reply = await self._call(lambda: self._memory.Read(read), context)  # noqa: B023
            except FailedPrecondition as error:
                if error.reason != "EMPTY_BANK":
                    raise
                reply = None
            if reply is not None and (
                reply.version == detected.version
                or reply.readouts[0].fact_id == found.fact_id  # live at both versions
            ):
                provenance.version = reply.version
                break
            detect.min_version = reply.version if reply else detected.version
            detected = await self._call(lambda: self._scope.Detect(detect), context)
        return reply.readouts[0].value if reply else b"", provenance


def _accepted(result: memory_pb2.AppendResult) -> memory_pb2.AppendResult:
    if result.status.code:
        raise from_code(result.status.code, result.status.message, result.status.reason)
    return result


def _write_response(bank: str, item, result) -> larimar_pb2.WriteResponse:
    return larimar_pb2.WriteResponse(
        fact_id=item.fact_id,
        event_id=item.event_id,
        version=result.version,
        bank=bank,
        duplicate=result.duplicate,
    )


def _bank(name: str) -> str:
    return check_bank_name(name) if name else DEFAULT_BANK
