"""How the gateway calls the services: deadlines, retries, the default bank on first use."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

from larimar.defaults import DEFAULT_BANK, bank_config
from larimar.errors import FailedPrecondition, NotFound
from larimar.v1 import common_pb2, decoder_pb2, encoder_pb2, memory_pb2, scope_pb2
from larimar.wire import addressing_name, config_to_proto
from services.gateway.tenancy import current_tenant
from services.limits import check_bank_name
from services.rpc import retried, until

DEFAULT_DEADLINE_S = 30.0
"""Time of a call whose caller set no deadline."""
LONG_DEADLINE_S = 3600.0
"""The same of a call that may fold a whole log, such as a replay."""
DESCRIBED_FOR_S = 5.0
"""How long a model's description is taken to hold: a model may be served anew at any time."""
OTHER_MODEL = frozenset({"WRONG_ENCODER", "WRONG_SCOPE"})
"""Reasons of an append that show that another model serves than was described."""


class Latent(NamedTuple):
    """What the decoder is conditioned on: a latent, and the encoder that it belongs to."""

    raw: bytes = b""
    """Little-endian float32; empty for the plain decoder."""
    encoder_digest: str = ""


class Calls:
    """The four doors of the gateway, and what every call through them shares.

    Args:
        encoder, scope, memory, decoder: stubs of one shape (services/rpc.py).
        tenant: whose banks this gateway serves.
    """

    def __init__(
        self, encoder: Any, scope: Any, memory: Any, decoder: Any, tenant: str = "default"
    ) -> None:
        self._encoder = encoder
        self._scope = scope
        self._memory = memory
        self._decoder = decoder
        self._tenant = tenant
        self._described: tuple[float, tuple[Any, Any]] | None = None
        self._looks: set[asyncio.Task] = set()
        self._ending = False

    async def _models(self, context) -> tuple[Any, Any]:
        """Descriptions of the encoder and of the scope model that serve."""
        if self._described is not None and time.monotonic() < self._described[0]:
            return self._described[1]
        encoder = encoder_pb2.DescribeEncoderRequest(context=context)
        scope = scope_pb2.DescribeScopeRequest(context=context)
        found = await together(
            self._call(lambda: self._encoder.DescribeEncoder(encoder), context),
            self._call(lambda: self._scope.DescribeScope(scope), context),
        )
        self._described = time.monotonic() + DESCRIBED_FOR_S, found
        return found

    async def _make_bank(self, bank: str, addressing: int, slots: int, context) -> bool:
        encoder, scope = await self._models(context)
        config = bank_config(
            addressing_name(addressing),
            slots,
            prompt_size=encoder.prompt_size,
            value_size=encoder.value_size,
            scope_size=scope.scope_size,
            prompt_bits=encoder.prompt_bits,
            value_bits=encoder.value_bits,
            scope_bits=scope.scope_bits,
            encoder_digest=encoder.encoder_digest,
            scope_digest=scope.scope_digest,
        )
        call = memory_pb2.MakeBankRequest(config=config_to_proto(bank, config), context=context)
        made = await self._call(lambda: self._memory.MakeBank(call), context)
        return made.created

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
        try:
            reply = await self._on_bank(bank, lambda: self._memory.Append(call), context)
        except FailedPrecondition as error:
            if error.reason in OTHER_MODEL:
                self._described = None
            raise
        return list(reply.results)

    async def _describe_bank(self, bank: str, context):
        call = memory_pb2.DescribeBankRequest(bank=bank, context=context)
        return await self._on_bank(bank, lambda: self._memory.DescribeBank(call), context)

    async def _completed(self, prompt: str, latent: Latent, sampling, context):
        """The decoder's whole text after a prompt, with its finish reason and tokens."""
        call = decoder_pb2.CompleteRequest(
            prompt=prompt,
            latent=latent.raw,
            encoder_digest=latent.encoder_digest,
            sampling=sampling,
            context=context,
        )
        return await self._call(lambda: self._decoder.Complete(call), context)

    async def _on_bank(self, bank: str, call, context):
        """A call on a bank; the bank named `default` is made when it is first used."""
        try:
            return await self._call(call, context)
        except NotFound as error:
            if error.reason != "UNKNOWN_BANK":
                raise
            if bank != DEFAULT_BANK:
                raise unknown_bank(bank) from None
        await self._make_bank(bank, common_pb2.ADDRESSING_SLOTS, 0, context)
        return await self._call(call, context)

    async def _call(self, call, context):
        async with until(context.deadline_unix_s):
            return await retried(call, context.deadline_unix_s)

    def _context(
        self, grpc_context: Any, default_s: float = DEFAULT_DEADLINE_S
    ) -> common_pb2.CallContext:
        left = grpc_context.time_remaining() if grpc_context is not None else None
        return common_pb2.CallContext(
            tenant=current_tenant(self._tenant),
            deadline_unix_s=time.time() + (default_s if left is None else left),
        )


async def together(*calls) -> Any:
    """Both results; when one call fails, the other is cancelled and the error raised."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def named_bank(name: str) -> str:
    """The bank of a request, `default` when it names none. Raises: InvalidArgument."""
    return check_bank_name(name) if name else DEFAULT_BANK


def unknown_bank(bank: str) -> NotFound:
    """The error of a bank that is not there."""
    return NotFound(f"no bank {bank!r}: make it with `larimar bank create {bank}`", "UNKNOWN_BANK")
