"""How the gateway calls the services: deadlines, retries, the default bank on first use."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from larimar.defaults import DEFAULT_BANK, bank_config
from larimar.errors import FailedPrecondition, NotFound
from larimar.v1 import common_pb2, decoder_pb2, encoder_pb2, memory_pb2, scope_pb2
from larimar.wire import addressing_name, config_to_proto
from services.audit import AuditTrail
from services.gateway.admission import Admission
from services.gateway.auditing import Auditor
from services.gateway.censoring import explain
from services.gateway.tenancy import current_tenant
from services.limits import check_bank_name
from services.observability.calls import code_name, code_of
from services.observability.metrics import DUPLICATE_EDITS, EDITS
from services.observability.traces import name_trace
from services.rpc import retried, until
from services.settings import RATED, TenantLimits

DEFAULT_DEADLINE_S = 30.0
"""Time of a call whose caller set no deadline."""
LONG_DEADLINE_S = 3600.0
"""The same of a call that may fold a whole log, such as a replay."""
DESCRIBED_FOR_S = 5.0
"""How long a model's description is taken to hold: a model may be served anew at any time."""
OTHER_MODEL = frozenset({"WRONG_ENCODER", "WRONG_SCOPE"})
"""Reasons of an append that show that another model serves than was described."""


NO_LIMITS = TenantLimits(**{f"{kind}s_per_s": 0 for kind in RATED})
"""Of a gateway that was told none, as in tests."""


class Latent(NamedTuple):
    """What the decoder is conditioned on: a latent, and the encoder that it belongs to."""

    raw: bytes = b""
    """Little-endian float32; empty for the plain decoder."""
    encoder_digest: str = ""


class Calls:
    """The four doors of the gateway, and what every call through them shares.

    Attributes:
        admission: lets a tenant's calls in.
        auditor: writes down who changed what.

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
        self.admission = Admission(lambda tenant: NO_LIMITS)
        self.auditor = Auditor(AuditTrail(None))
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
        async with self._room_for(bank, context):
            return await self._made_bank(bank, addressing, slots, context)

    async def _made_bank(self, bank: str, addressing: int, slots: int, context) -> bool:
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
        async with self.auditor.recorded(context.tenant, "create bank", bank=bank) as entry:
            made = await self._call(lambda: self._memory.MakeBank(call), context)
            entry["created"] = made.created
        return made.created

    async def _append(
        self,
        bank: str,
        items,
        context,
        encoder_digest: str = "",
        scope_digest: str = "",
        refused: Mapping[int, FailedPrecondition] | None = None,
    ) -> list[memory_pb2.AppendResult]:
        """Appends items. Args: refused: why some were held back, by their place."""
        call = memory_pb2.AppendRequest(
            bank=bank,
            items=items,
            encoder_digest=encoder_digest,
            scope_digest=scope_digest,
            context=context,
        )
        kinds = [kind_of(item.kind) for item in items]
        try:
            with counted_when_they_fail(kinds):
                reply = await self._on_bank(bank, lambda: self._memory.Append(call), context)
        except BaseException as error:
            if isinstance(error, FailedPrecondition) and error.reason in OTHER_MODEL:
                self._described = None
            self.auditor.edits(context.tenant, bank, items, error)
            raise
        explain(reply.results, refused or {})
        self.auditor.edits(context.tenant, bank, items, reply.results)
        for kind, result in zip(kinds, reply.results, strict=True):
            EDITS.labels(kind, code_name(result.status.code)).inc()
        DUPLICATE_EDITS.inc(sum(result.duplicate for result in reply.results))
        return list(reply.results)

    async def _admit_edits(self, bank: str, count: int, written: Iterable[str], context) -> None:
        """Lets edits of a bank in, before anything is computed for them.

        Args:
            written: ids of the facts among them that are written.

        Raises: ResourceExhausted.
        """
        self.admission.edits(context.tenant, count)
        await self.admission.facts(context.tenant, bank, written, _Holdings(self, bank))

    def _room_for(
        self, bank: str, context, facts: int = 0
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """Lets the block make a bank with so many facts, or find it. See Admission.making."""
        return self.admission.making(context.tenant, bank, _Holdings(self, bank), facts)

    def _counts_facts(self, context) -> bool:
        """Whether the tenant of a call has a limit of facts."""
        limits = self.admission.limits(context.tenant)
        return bool(limits.bank_facts or limits.tenant_facts)

    async def _banks(self, context) -> list[memory_pb2.BankInfo]:
        call = memory_pb2.EnumerateBanksRequest(context=context)
        listed = await self._call(lambda: self._memory.EnumerateBanks(call), context)
        return list(listed.banks)

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
        context = common_pb2.CallContext(
            tenant=current_tenant(self._tenant),
            deadline_unix_s=time.time() + (default_s if left is None else left),
        )
        return name_trace(context)


class _Holdings:
    """What the tenant of a call holds, for its admission to a bank."""

    def __init__(self, calls: Calls, bank: str) -> None:
        self._calls = calls
        self._bank = bank

    async def in_bank(self) -> int:
        """See services.gateway.admission.Holdings."""
        context = self._calls._context(None)
        return (await self._calls._describe_bank(self._bank, context)).info.facts

    async def in_tenant(self) -> int:
        """See services.gateway.admission.Holdings."""
        return sum((await self.by_bank()).values())

    async def by_bank(self) -> dict[str, int]:
        """See services.gateway.admission.Holdings."""
        listed = await self._calls._banks(self._calls._context(None))
        return {one.config.bank: one.facts for one in listed}

    async def is_live(self, fact_id: str) -> bool:
        """See services.gateway.admission.Holdings."""
        context = self._calls._context(None)
        call = memory_pb2.EnumerateFactsRequest(bank=self._bank, fact_id=fact_id, context=context)
        page = await self._calls._on_bank(
            self._bank, lambda: self._calls._memory.EnumerateFacts(call), context
        )
        return bool(page.facts)


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


def kind_of(kind: int) -> str:
    """The kind of an event as the metrics name it: write, forget or erase."""
    return common_pb2.EventKind.Name(kind).removeprefix("EVENT_KIND_").lower()


@contextlib.contextmanager
def counted_when_they_fail(kinds: Sequence[str]) -> Iterator[None]:
    """Counts edits of these kinds, all of them, when the block fails."""
    try:
        yield
    except BaseException as error:
        for kind in kinds:
            EDITS.labels(kind, code_of(error)).inc()
        raise


def named_bank(name: str) -> str:
    """The bank of a request, `default` when it names none. Raises: InvalidArgument."""
    return check_bank_name(name) if name else DEFAULT_BANK


def unknown_bank(bank: str) -> NotFound:
    """The error of a bank that is not there."""
    return NotFound(f"no bank {bank!r}: make it with `larimar bank create {bank}`", "UNKNOWN_BANK")
