"""How the gateway calls the services: deadlines, retries, the default bank on first use."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from larimar.defaults import DEFAULT_BANK, bank_config
from larimar.errors import NotFound
from larimar.v1 import common_pb2, encoder_pb2, memory_pb2, scope_pb2
from larimar.wire import addressing_name, config_to_proto
from services.rpc import retried, until

DEFAULT_DEADLINE_S = 30.0
"""Time of a call whose caller set no deadline."""


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
        self._described: tuple[Any, Any] | None = None

    async def _models(self, context) -> tuple[Any, Any]:
        found = self._described
        if found is None:
            encoder = encoder_pb2.DescribeEncoderRequest(context=context)
            scope = scope_pb2.DescribeScopeRequest(context=context)
            found = await together(
                self._call(lambda: self._encoder.DescribeEncoder(encoder), context),
                self._call(lambda: self._scope.DescribeScope(scope), context),
            )
            self._described = found
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

    async def _describe_bank(self, bank: str, context):
        call = memory_pb2.DescribeBankRequest(bank=bank, context=context)
        return await self._on_bank(bank, lambda: self._memory.DescribeBank(call), context)

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
            tenant=self._tenant,
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


def unknown_bank(bank: str) -> NotFound:
    return NotFound(f"no bank {bank!r}: make it with `larimar bank create {bank}`", "UNKNOWN_BANK")
