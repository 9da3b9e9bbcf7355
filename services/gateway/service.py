"""The gateway: what users call. Composes the four services; questions are answered here."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import TYPE_CHECKING

from larimar import __version__
from larimar.errors import FailedPrecondition, InvalidArgument, Unavailable
from larimar.v1 import (
    decoder_pb2,
    encoder_pb2,
    larimar_pb2,
    larimar_pb2_grpc,
    memory_pb2,
    scope_pb2,
)
from services.audit import OPERATOR
from services.gateway.banks import BankCalls
from services.gateway.calls import Latent, named_bank, together
from services.gateway.edits import EditCalls
from services.gateway.maps import MapCalls
from services.gateway.publish import PublishCalls
from services.gateway.recall import RecallCalls
from services.gateway.reencode import ReencodeCalls
from services.gateway.tenancy import current_key
from services.limits import MAX_CANDIDATES, check_text, check_version
from services.observability.metrics import SCOPE_DECISIONS
from services.rpc import domain_error, until

if TYPE_CHECKING:
    from services.gateway.condition import Condition

STATUS_WAIT_S = 3.0
"""Time after which a service that does not answer is called not ready."""
MAX_RESCOPES = 3
"""Times scope is asked again because the bank moved on between scope and memory."""
MAX_NOISE = 1e6
"""Largest deviation of the noise on an address: far beyond where any answer is left."""


class GatewayService(
    EditCalls,
    BankCalls,
    PublishCalls,
    RecallCalls,
    ReencodeCalls,
    MapCalls,
    larimar_pb2_grpc.LarimarServicer,
):
    """Implements larimar.v1.Larimar over four doors."""

    condition: Condition | None = None
    """Tells the metrics of the pipeline; None where the gateway was given no store."""
    http_port: int = 0
    """Where this gateway also answers HTTP; 0 where it does not."""

    async def Ask(self, request, grpc_context) -> AsyncIterator:
        """Answers a prompt; the last message says from where."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        check_text("prompt", request.prompt)
        if request.preamble:
            check_text("preamble", request.preamble)
        self.admission.asks(context.tenant)
        latent, provenance = await self._recollect(
            bank, request, context, _checked_noise(request.noise), request.noise_seed
        )
        texts = self._whole if request.whole else self._streamed
        blank = True
        async with contextlib.aclosing(texts(request, latent, context)) as replies:
            async for reply in replies:
                text = reply.text.lstrip() if blank else reply.text
                blank = blank and not text
                yield larimar_pb2.AskResponse(
                    text=text,
                    finish_reason=reply.finish_reason,
                    tokens=reply.tokens,
                    prompt_tokens=reply.prompt_tokens,
                    provenance=provenance if reply.finish_reason else None,
                )

    async def _streamed(self, request, latent: Latent, context) -> AsyncGenerator:
        """What the decoder says, as it comes."""
        call = decoder_pb2.GenerateRequest(
            prompt=_read_text(request),
            latent=latent.raw,
            encoder_digest=latent.encoder_digest,
            sampling=request.sampling,
            context=context,
        )
        last = False
        async with contextlib.aclosing(self._decoder.Generate(call)) as replies:
            while not last:
                async with until(context.deadline_unix_s):
                    reply = await anext(replies)
                last = bool(reply.finish_reason)
                yield reply

    async def _whole(self, request, latent: Latent, context) -> AsyncGenerator:
        """What the decoder says, at once."""
        yield await self._completed(_read_text(request), latent, request.sampling, context)

    async def Score(self, request, grpc_context):
        """Log probabilities of candidate answers, with the same scope and memory as Ask."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
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
        self.admission.asks(context.tenant)
        latent, provenance = await self._recollect(bank, request, context)
        call = decoder_pb2.ScoreCandidatesRequest(
            prompt=request.prompt,
            candidates=request.candidates,
            latent=latent.raw,
            encoder_digest=latent.encoder_digest,
            context=context,
        )
        scored = await self._call(lambda: self._decoder.ScoreCandidates(call), context)
        return larimar_pb2.ScoreResponse(scores=scored.scores, provenance=provenance)

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
            "memory": lambda r: _memory_detail(r, _shown_stopped(r, context.tenant)),
            "decoder": lambda r: f"{r.architecture}, prompts to {r.max_prompt_tokens} tokens",
        }
        services = [
            larimar_pb2.ServiceInfo(
                name="gateway",
                ready=True,
                pid=os.getpid(),
                detail=f"HTTP on port {self.http_port}" if self.http_port else "",
            )
        ]
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

    async def _recollect(
        self, bank: str, request, context, noise: float = 0.0, noise_seed: int = 0
    ) -> tuple[Latent, larimar_pb2.Provenance]:
        """The latent that answers a prompt (empty when out of scope), and where it came from."""
        if request.no_memory:
            return Latent(), larimar_pb2.Provenance(bank=bank)
        latent, provenance = await self._found(bank, request, context, noise, noise_seed)
        SCOPE_DECISIONS.labels("in" if provenance.in_scope else "out").inc()
        return latent, provenance

    async def _found(
        self, bank: str, request, context, noise: float, noise_seed: int
    ) -> tuple[Latent, larimar_pb2.Provenance]:
        """The same with memory.

        Scope and memory answer at one version. Where the bank moved on between them and the fact
        is no longer what memory finds, scope is asked again.
        """
        detect = scope_pb2.DetectRequest(
            bank=bank,
            queries=[request.prompt],
            min_version=check_version("min_version", request.min_version),
            at_version=check_version("at_version", request.at_version),
            allow_stale=request.allow_stale,
            context=context,
        )
        encode = encoder_pb2.EncodeRequest(
            items=[encoder_pb2.EncodeItem(prompt=request.prompt)], context=context
        )
        detected, encoded = await together(
            self._on_bank(bank, lambda: self._scope.Detect(detect), context),
            self._call(lambda: self._encoder.Encode(encode), context),
        )
        read = memory_pb2.ReadRequest(
            bank=bank,
            prompt_latents=[encoded.latents[0].prompt_latent],
            at_version=request.at_version,
            allow_stale=request.allow_stale,
            noise=noise,
            noise_seed=noise_seed,
            encoder_digest=encoded.encoder_digest,
            context=context,
        )
        reply, stale, confirmed = None, False, ""
        for _ in range(MAX_RESCOPES):
            found = detected.detections[0]
            stale = stale or detected.stale
            provenance = larimar_pb2.Provenance(
                in_scope=found.in_scope,
                scope_score=found.score,
                fact_id=found.fact_id if found.in_scope else "",
                version=detected.version,
                bank=bank,
                stale=stale,
                nearest_fact_id=found.fact_id,
                scope_threshold=detected.threshold,
            )
            if not found.in_scope:
                return Latent(), provenance
            # A replica that cannot reach the store may be behind the one that scope asked.
            read.min_version = request.min_version if request.allow_stale else detected.version
            reply = await self._read(read, context)
            if reply is None:
                detect.min_version = detected.version
            else:
                stale = provenance.stale = stale or reply.stale
                live_at_both = reply.readouts[0].fact_id == found.fact_id
                same = reply.version == detected.version
                if request.at_version:  # one version, but an erasure may lie between the two
                    same = same and confirmed == found.fact_id
                if live_at_both or same:
                    provenance.version = reply.version
                    return Latent(reply.readouts[0].value, read.encoder_digest), provenance
                confirmed = found.fact_id
                if reply.version < detected.version:
                    detect.at_version, detect.min_version = reply.version, request.min_version
                else:
                    detect.at_version, detect.min_version = request.at_version, reply.version
            detected = await self._call(lambda: self._scope.Detect(detect), context)
        if reply is None:
            raise Unavailable(f"bank {bank!r} changes faster than it is read: retry", "BUSY")
        return Latent(reply.readouts[0].value, read.encoder_digest), provenance

    async def _read(self, read, context) -> memory_pb2.ReadResponse | None:
        """What memory reads; None from an empty bank."""
        try:
            return await self._call(lambda: self._memory.Read(read), context)
        except FailedPrecondition as error:
            if error.reason != "EMPTY_BANK":
                raise
            return None


def _read_text(request: larimar_pb2.AskRequest) -> str:
    """What the decoder reads: the prompt, after its preamble on lines of their own."""
    return f"{request.preamble}\n{request.prompt}" if request.preamble else request.prompt


def _memory_detail(reply: memory_pb2.DescribeMemoryResponse, stopped: Iterable[str]) -> str:
    held = f"{reply.banks_held} banks held, {reply.state_bytes / 2**20:.1f} MiB"
    return "; ".join([held, *(f"STOPPED {bank}" for bank in stopped)])


def _shown_stopped(reply: memory_pb2.DescribeMemoryResponse, tenant: str) -> list[str]:
    """Stopped banks that the caller may know of: a key's tenant has its own, the operator all."""
    everything = current_key() in ("", OPERATOR)
    return [one for one in reply.stopped if everything or one.startswith(f"{tenant}/")]


def _checked_noise(noise: float) -> float:
    if not 0.0 <= noise <= MAX_NOISE:
        raise InvalidArgument(f"noise is {noise}, it must be from 0 to {MAX_NOISE:g}", "BAD_NOISE")
    return noise
