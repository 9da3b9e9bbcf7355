"""Bulk writes: a stream of facts in, a stream of results out, encoded and appended in batches."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

from larimar.defaults import DEFAULT_BANK
from larimar.edit_events import is_transient
from larimar.errors import InvalidArgument, LarimarError
from larimar.v1 import common_pb2, larimar_pb2, memory_pb2
from services.gateway.requests import prepared_write, write_result
from services.gateway.tenancy import check_key_again
from services.limits import check_bank_name

BATCH_FACTS = 128
"""Most facts encoded and appended together."""
BATCH_TEXTS = 256
"""Most prompts and rephrasings of one batch."""
WAIT_S = 0.02
"""How long a batch that is not full waits for the next fact."""
AHEAD_BATCHES = 2
"""Batches in work at once: one is appended while the next is encoded."""


class BulkWriter:
    """Runs one WriteMany call.

    After a transient error the bank's later facts get that error too, so that no fact overtakes
    another that is sent again.

    Args:
        gateway: the gateway whose `write_prepared` takes the batches.
        context: makes the call context of a batch.
    """

    def __init__(self, gateway: Any, context: Callable[[], common_pb2.CallContext]) -> None:
        self._gateway = gateway
        self._context = context
        self._stopped: dict[str, LarimarError] = {}

    async def run(self, requests: AsyncIterator) -> AsyncIterator[larimar_pb2.WriteManyResponse]:
        """Results in the order of the requests; one bad fact fails alone."""
        pending: asyncio.Queue = asyncio.Queue(AHEAD_BATCHES)
        reader = asyncio.create_task(self._read(requests, pending))
        try:
            while (batch := await pending.get()) is not None:
                for response in await batch:
                    yield response
            await reader
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator, pending: asyncio.Queue) -> None:
        before: asyncio.Task | None = None
        broken: Exception | None = None
        try:
            async for batch in _batches(requests):
                await check_key_again()
                before = asyncio.create_task(self._write(batch, before))
                await pending.put(before)
        except Exception as error:  # told when what came before it is written
            broken = error
        await pending.put(None)
        if broken is not None:
            raise broken

    async def _write(self, batch: list, before: asyncio.Task | None) -> list:
        responses: list[Any] = [None] * len(batch)
        groups: list[tuple[str, str, list[tuple[int, memory_pb2.AppendItem]]]] = []
        newest: dict[str, tuple[str, list]] = {}
        for place, request in enumerate(batch):
            bank = request.write.bank or DEFAULT_BANK
            try:
                check_bank_name(bank)
                item = prepared_write(request.write)
            except LarimarError as error:
                named = memory_pb2.AppendItem(
                    fact_id=request.write.fact_id, event_id=request.write.event_id
                )
                responses[place] = write_result(bank, named, error)
                continue
            digest, members = newest.get(bank, ("", None))
            if members is None or digest != request.write.encoder_digest:
                digest, members = request.write.encoder_digest, []
                newest[bank] = digest, members
                groups.append((bank, digest, members))
            members.append((place, item))
        for bank, digest, members in groups:
            items = [item for _, item in members]
            results = await self._write_group(bank, items, digest, before)
            for (place, item), result in zip(members, results, strict=True):
                responses[place] = write_result(bank, item, result)
        await _done(before)  # also where nothing was appended: the next batch waits for this one
        return responses

    async def _write_group(
        self, bank: str, items: list, digest: str, before, admitted: bool = False
    ) -> list:
        if bank in self._stopped:
            return [self._stopped[bank]] * len(items)
        write, turn = self._gateway.write_prepared, functools.partial(self._turn, bank, before)
        try:
            return await write(bank, items, self._context(), digest, turn, admitted)
        except InvalidArgument as error:
            if len(items) == 1:
                return [error]
        except LarimarError as error:
            if is_transient(error):
                await _done(before)
                error = self._stopped.setdefault(bank, error)
            return [error] * len(items)
        half = len(items) // 2  # one text of the batch was refused: find it, write the others
        low = await self._write_group(bank, items[:half], digest, before, True)
        return low + await self._write_group(bank, items[half:], digest, before, True)

    async def _turn(self, bank: str, before: asyncio.Task | None) -> None:
        """Waits for the batch before. Raises: the error at which the bank's facts stopped."""
        await _done(before)
        if bank in self._stopped:
            raise self._stopped[bank]


async def _done(batch: asyncio.Task | None) -> None:
    """Waits for a batch. Raises: what broke it."""
    if batch is not None:
        await asyncio.wait({batch})
        batch.result()


async def _batches(requests: AsyncIterator) -> AsyncIterator[list]:
    """Groups a stream by BATCH_FACTS and BATCH_TEXTS, or by what came within WAIT_S."""
    stream = aiter(requests)
    batch: list = []
    texts = 0
    coming = asyncio.ensure_future(anext(stream))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=WAIT_S if batch else None)
            if not done:
                yield batch
                batch, texts = [], 0
                continue
            try:
                request = coming.result()
            except StopAsyncIteration:
                break
            coming = asyncio.ensure_future(anext(stream))
            batch.append(request)
            texts += 1 + len(request.write.rephrasings)
            if len(batch) >= BATCH_FACTS or texts >= BATCH_TEXTS:
                yield batch
                batch, texts = [], 0
        if batch:
            yield batch
    finally:
        coming.cancel()
