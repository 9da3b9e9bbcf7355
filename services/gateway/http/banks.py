"""Banks as resources: made, forked, merged, compared, and the log that each is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Header, Response

from larimar.v1 import larimar_pb2 as pb
from services.gateway.http.bodies import (
    LARGEST,
    AfterQuery,
    BankBody,
    BankPath,
    BankQuery,
    ForkBody,
    IdQuery,
    MergeBody,
    PageSize,
    PageToken,
    VersionQuery,
    addressing_of,
)
from services.gateway.http.rendering import plain
from services.gateway.http.routes import (
    ERROR_BY_REFERENCE,
    Call,
    CallRoute,
    HttpCall,
    calls,
)
from services.gateway.http.sse import STREAM, EventStream, event

PATIENCE_S = 0.5
"""How long a watch waits for its first event before it answers that it watches: an error comes
sooner."""

router = APIRouter(prefix="/v1", route_class=CallRoute, tags=["banks"])


@router.get("/banks", **calls("ListBanks"))
async def list_banks(call: Call) -> Response:
    """All banks."""
    return await call.answer("ListBanks", pb.ListBanksRequest())


@router.post("/banks", **calls("CreateBank"))
async def create_bank(body: BankBody, call: Call) -> Response:
    """Makes a bank. Safe to retry."""
    request = pb.CreateBankRequest(bank=body.bank, addressing=addressing_of(body), slots=body.slots)
    return await call.answer("CreateBank", request)


@router.get("/banks/{bank}", **calls("GetBank"))
async def get_bank(bank: BankPath, call: Call) -> Response:
    """A bank's configuration and size."""
    return await call.answer("GetBank", pb.GetBankRequest(bank=bank))


@router.delete("/banks/{bank}", **calls("DeleteBank"))
async def delete_bank(bank: BankPath, call: Call) -> Response:
    """Removes a bank and all it holds."""
    return await call.answer("DeleteBank", pb.DeleteBankRequest(bank=bank))


@router.get("/banks/{bank}/events", **calls("ListEvents"))
async def list_events(
    bank: BankPath,
    call: Call,
    after: AfterQuery = 0,
    page_size: PageSize = 0,
    fact_id: IdQuery = "",
) -> Response:
    """Entries of the log, a page at a time; those of one fact newest first."""
    request = pb.ListEventsRequest(
        bank=bank, after_version=after, page_size=page_size, fact_id=fact_id
    )
    return await call.answer("ListEvents", request)


@router.get(
    "/banks/{bank}/events/stream",
    response_class=Response,
    **calls("Watch", {**STREAM, "default": ERROR_BY_REFERENCE}, response_model=None),
)
async def watch(
    bank: BankPath,
    call: Call,
    after: AfterQuery = 0,
    last_event_id: Annotated[int, Header(ge=0, le=LARGEST)] = 0,
) -> Response:
    """Entries of the log as they come, as server-sent events whose ids are versions."""
    request = pb.WatchRequest(bank=bank, after_version=max(after, last_event_id))
    return await EventStream(_events(call, request)).begun(PATIENCE_S)


async def _events(call: HttpCall, request: pb.WatchRequest) -> AsyncGenerator[str, None]:
    async for reply in call.replies("Watch", request):
        yield event(plain(reply.event), str(reply.event.version))


@router.get("/banks/{bank}/digest", **calls("Digest"))
async def digest(bank: BankPath, call: Call, at_version: VersionQuery = 0) -> Response:
    """The digest of a bank at a version."""
    return await call.answer("Digest", pb.DigestRequest(bank=bank, at_version=at_version))


@router.get("/banks/{bank}/diff", **calls("DiffBank"))
async def diff(
    bank: BankPath,
    call: Call,
    from_version: VersionQuery = 0,
    to_version: VersionQuery = 0,
    to_bank: BankQuery = "",
    page_size: PageSize = 0,
    page_token: PageToken = "",
) -> Response:
    """Facts added, removed and changed between two versions, or up to a version of a bank."""
    request = pb.DiffBankRequest(
        bank=bank,
        from_version=from_version,
        to_version=to_version,
        to_bank=to_bank,
        page_size=page_size,
        after=page_token,
    )
    return await call.answer("DiffBank", request)


@router.post("/banks/{bank}/forks", **calls("ForkBank"))
async def fork(bank: BankPath, body: ForkBody, call: Call) -> Response:
    """Makes a bank that shares this one's history up to a version. Safe to retry."""
    return await call.answer("ForkBank", body.fill(pb.ForkBankRequest, bank=bank))


@router.post("/banks/{bank}/merges", **calls("MergeBank"))
async def merge(bank: BankPath, body: MergeBody, call: Call) -> Response:
    """Applies to this bank what another of its family has changed since they parted."""
    request = pb.MergeBankRequest(
        source=body.source,
        target=bank,
        policy=body.kind(),
        merge_id=body.merge_id,
        dry_run=body.dry_run,
    )
    return await call.answer("MergeBank", request)


@router.post("/banks/{bank}/checkpoints", **calls("Checkpoint"))
async def checkpoint(bank: BankPath, call: Call) -> Response:
    """Saves a checkpoint of a bank."""
    return await call.answer("Checkpoint", pb.CheckpointRequest(bank=bank))


@router.post("/banks/{bank}/replay", **calls("Replay"))
async def replay(bank: BankPath, call: Call) -> Response:
    """Rebuilds a bank from the log alone and compares."""
    return await call.answer("Replay", pb.ReplayRequest(bank=bank))
