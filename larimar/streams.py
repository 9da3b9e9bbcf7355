"""The calls that stream, other than answers and bulk writes: watches, exports and imports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from larimar import bank_messages, calls, messages
from larimar.archive import Archive, ArchiveWriter
from larimar.calls import LONG_TIMEOUT_S
from larimar.errors import DeadlineExceeded, FailedPrecondition, LarimarError, Unavailable
from larimar.results import Event
from larimar.transport import AsyncConnection, Connection
from larimar.v1 import larimar_pb2 as pb

# A watch is asked for anew after this time, so that a connection that died in silence is found.
WATCH_STREAM_S = 300.0

Progress = Callable[[int, int], None]


class _Watching:
    """Where a watch has come to, and how long it may try to go on."""

    def __init__(self, bank: str, after: int, budget: Callable[[], calls.Budget]) -> None:
        self._bank = bank
        self._after = after
        self._new_budget = budget
        self._was_well = True
        self.budget = budget()

    def request(self) -> pb.WatchRequest:
        """Asks for what comes after the last event that was seen."""
        return messages.build(pb.WatchRequest, bank=self._bank, after_version=self._after)

    def seen(self, response: pb.WatchResponse) -> Event:
        """The event that came."""
        self._after = response.event.version
        self._was_well = True
        return messages.event(response.event)

    def pause_s(self, error: LarimarError) -> float:
        """Seconds until the stream is opened again; raises the error where it is not.

        The time of a watch counts from its first error, and anew from the first after an event or
        after a stream that lasted its time: to wait for an event is no error.
        """
        if isinstance(error, DeadlineExceeded):
            self._was_well = True
            return 0.0
        if self._was_well:
            self.budget, self._was_well = self._new_budget(), False
        pause = self.budget.pause_s(error)
        if pause is None:
            raise self.budget.outcome(error)
        return pause


def _ended(target: str) -> Unavailable:
    return Unavailable(f"{target} ended the stream; try again")


def watch(
    connection: Connection, bank: str, after: int, timeout_s: float | None
) -> Iterator[Event]:
    """Events past a version, as they come; a stream that breaks goes on where it was."""
    watching = _Watching(bank, after, lambda: connection.budget(timeout_s))
    while True:
        connection._reach(watching.budget)
        error: LarimarError = _ended(connection.target)
        call = connection._stub.Watch(watching.request(), timeout=WATCH_STREAM_S)
        try:
            for response in call:
                yield watching.seen(response)
        except grpc.RpcError as raised:
            error = calls.to_error(raised, connection.target, watching.budget)
        finally:
            call.cancel()
        time.sleep(watching.pause_s(error))


async def watch_async(
    connection: AsyncConnection, bank: str, after: int, timeout_s: float | None
) -> AsyncIterator[Event]:
    """As `watch`."""
    watching = _Watching(bank, after, lambda: connection.budget(timeout_s))
    while True:
        await connection._reach(watching.budget)
        error: LarimarError = _ended(connection.target)
        call = connection._stub.Watch(watching.request(), timeout=WATCH_STREAM_S)
        try:
            async for response in call:
                yield watching.seen(response)
        except grpc.RpcError as raised:
            error = calls.to_error(raised, connection.target, watching.budget)
        finally:
            call.cancel()
        await asyncio.sleep(watching.pause_s(error))


class _Export:
    """One attempt to write an archive of what streams in."""

    def __init__(self, folder: str | Path, progress: Progress | None) -> None:
        self._folder = folder
        self._progress = progress
        self._writer: ArchiveWriter | None = None
        self._done = 0

    def take(self, response: pb.ExportBankResponse) -> None:
        """Writes a message of the stream."""
        if self._writer is None:
            if not response.HasField("header"):
                raise LarimarError("the export does not begin with its header")
            self._writer = ArchiveWriter(self._folder, bank_messages.header(response.header))
        for record in response.records:
            self._writer.add(bank_messages.record(record))
        self._done += len(response.records)
        if self._progress is not None:
            self._progress(self._done, self._writer.header.version)

    def finish(self) -> Archive:
        """The whole archive, at its place."""
        if self._writer is None:
            raise LarimarError("the export has no header")
        return self._writer.finish()

    def discard(self) -> None:
        """Removes what was written of an archive that is not finished."""
        if self._writer is not None:
            self._writer.discard()


def _again(error: LarimarError) -> LarimarError:
    """The error of an export or re-encoding; one that came at a bad moment is worth another try."""
    if isinstance(error, FailedPrecondition) and error.reason == "ERASED_MEANWHILE":
        return Unavailable(error.message, error.reason)
    return error


def export(
    connection: Connection,
    bank: str,
    folder: str | Path,
    timeout_s: float | None,
    progress: Progress | None,
) -> Archive:
    """Writes an archive of a bank; an attempt that breaks begins again from the first event."""
    request = messages.build(pb.ExportBankRequest, bank=bank)

    def attempt(budget: calls.Budget) -> Archive:
        made = _Export(folder, progress)
        call = connection._stub.ExportBank(request, timeout=budget.remaining_s())
        try:
            for response in call:
                made.take(response)
            return made.finish()
        except grpc.RpcError as raised:
            raise _again(calls.to_error(raised, connection.target, budget)) from None
        finally:
            call.cancel()
            made.discard()

    return connection._retry(attempt, LONG_TIMEOUT_S if timeout_s is None else timeout_s)


async def export_async(
    connection: AsyncConnection,
    bank: str,
    folder: str | Path,
    timeout_s: float | None,
    progress: Progress | None,
) -> Archive:
    """As `export`; files are written in a thread."""
    request = messages.build(pb.ExportBankRequest, bank=bank)

    async def attempt(budget: calls.Budget) -> Archive:
        made = _Export(folder, progress)
        call = connection._stub.ExportBank(request, timeout=budget.remaining_s())
        try:
            async for response in call:
                await asyncio.to_thread(made.take, response)
            return await asyncio.to_thread(made.finish)
        except grpc.RpcError as raised:
            raise _again(calls.to_error(raised, connection.target, budget)) from None
        finally:
            call.cancel()
            await asyncio.to_thread(made.discard)

    return await connection._retry(attempt, LONG_TIMEOUT_S if timeout_s is None else timeout_s)


def reencode(
    connection: Connection,
    request: pb.ReencodeBankRequest,
    timeout_s: float | None,
    progress: Progress | None,
) -> pb.ReencodeBankResponse:
    """The last message of a re-encoding; an attempt that breaks goes on where it was."""

    def attempt(budget: calls.Budget) -> pb.ReencodeBankResponse:
        last = pb.ReencodeBankResponse()
        call = connection._stub.ReencodeBank(request, timeout=budget.remaining_s())
        try:
            for last in call:
                if progress is not None:
                    progress(last.version, last.total)
            return last
        except grpc.RpcError as raised:
            raise _again(calls.to_error(raised, connection.target, budget)) from None
        finally:
            call.cancel()

    return connection._retry(attempt, LONG_TIMEOUT_S if timeout_s is None else timeout_s)


async def reencode_async(
    connection: AsyncConnection,
    request: pb.ReencodeBankRequest,
    timeout_s: float | None,
    progress: Progress | None,
) -> pb.ReencodeBankResponse:
    """As `reencode`."""

    async def attempt(budget: calls.Budget) -> pb.ReencodeBankResponse:
        last = pb.ReencodeBankResponse()
        call = connection._stub.ReencodeBank(request, timeout=budget.remaining_s())
        try:
            async for last in call:
                if progress is not None:
                    progress(last.version, last.total)
            return last
        except grpc.RpcError as raised:
            raise _again(calls.to_error(raised, connection.target, budget)) from None
        finally:
            call.cancel()

    return await connection._retry(attempt, LONG_TIMEOUT_S if timeout_s is None else timeout_s)


class _Import:
    """One attempt to send an archive; keeps why reading it failed, which gRPC does not tell."""

    def __init__(
        self,
        archive: Archive,
        bank: str | None,
        replaces: int | None,
        progress: Progress | None,
    ) -> None:
        self._archive = archive
        self._bank = bank
        self._replaces = replaces
        self._progress = progress
        self.failure: Exception | None = None

    def requests(self) -> Iterator[Any]:
        """What is sent."""
        done = 0
        try:
            sent = bank_messages.import_requests(self._archive, self._bank, self._replaces)
            for request in sent:
                yield request
                done += len(request.records)
                if self._progress is not None:
                    self._progress(done, self._archive.header.version)
        except Exception as error:
            self.failure = error
            raise


def import_(
    connection: Connection,
    archive: Archive,
    bank: str | None,
    replaces: int | None,
    timeout_s: float | None,
    progress: Progress | None,
) -> pb.ImportBankResponse:
    """Makes a bank of an archive; entries that an attempt left behind are skipped by the next."""

    def attempt(budget: calls.Budget) -> Any:
        sending = _Import(archive, bank, replaces, progress)
        try:
            return connection._stub.ImportBank(sending.requests(), timeout=budget.remaining_s())
        except grpc.RpcError as raised:
            if sending.failure is not None:
                raise sending.failure from None
            raise calls.to_error(raised, connection.target, budget) from None

    return connection._retry(attempt, LONG_TIMEOUT_S if timeout_s is None else timeout_s)


async def import_async(
    connection: AsyncConnection,
    archive: Archive,
    bank: str | None,
    replaces: int | None,
    timeout_s: float | None,
    progress: Progress | None,
) -> pb.ImportBankResponse:
    """As `import_`, in a thread and over a connection of its own.

    grpc.aio loses the status of a stream that ends while it is written to (grpc issue 36066), so
    a refused import would not say why.
    """
    connection.budget(timeout_s)
    own = Connection(
        connection.target, connection.timeout_s, connection.connect_timeout_s, connection.security
    )
    try:
        return await asyncio.to_thread(import_, own, archive, bank, replaces, timeout_s, progress)
    finally:
        own.close()
