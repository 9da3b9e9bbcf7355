"""The pipeline from asyncio: the same calls as `larimar.client`, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Sequence
from typing import Any

from larimar import batches, calls, messages
from larimar.calls import CONNECT_TIMEOUT_S, DEFAULT_BANK, DEFAULT_TARGET, DEFAULT_TIMEOUT_S
from larimar.results import (
    Answer,
    BankInfo,
    CheckpointResult,
    DigestResult,
    Edit,
    Event,
    Fact,
    FailedWrite,
    ReplayResult,
    Score,
    Status,
)
from larimar.transport import AsyncConnection
from larimar.v1 import larimar_pb2 as pb


def connect_async(
    target: str = DEFAULT_TARGET,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> AsyncClient:
    """As `larimar.connect`, for asyncio: awaited, entered with ``async with``, or used as it is."""
    return AsyncClient(target, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)


class AsyncClient:
    """The calls of `Client`, awaited; for one event loop. Times and errors are the same."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._connection = AsyncConnection(target, timeout_s, connect_timeout_s)

    @property
    def target(self) -> str:
        """``HOST:PORT`` of the pipeline."""
        return self._connection.target

    def __await__(self) -> Generator[Any, None, AsyncClient]:
        yield from ()
        return self

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and every call on it."""
        await self._connection.close()

    # Edits

    async def write(
        self,
        prompt: str,
        answer: str,
        *,
        bank: str = DEFAULT_BANK,
        fact_id: str | None = None,
        event_id: str | None = None,
        rephrasings: Sequence[str] = (),
        encoder_digest: str | None = None,
        timeout_s: float | None = None,
    ) -> Edit:
        """Writes a fact, in one shot; see `Client.write`."""
        request = messages.write_request(
            prompt, answer, bank, fact_id, event_id, rephrasings, encoder_digest
        )
        response = await self._connection.call("Write", request, timeout_s, request.event_id)
        return messages.edit(response, own_event_id=not event_id)

    async def write_many(
        self,
        facts: Iterable[Any] | AsyncIterable[Any],
        *,
        bank: str = DEFAULT_BANK,
        encoder_digest: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Edit | FailedWrite]:
        """Writes many facts, a result for each, in order; see `Client.write_many`.

        `facts` may also come asynchronously.
        """
        index = 0
        async for taken in _groups(facts, calls.MAX_IN_FLIGHT):
            items = [
                batches.prepare(index + place, fact, bank, encoder_digest)
                for place, fact in enumerate(taken)
            ]
            index += len(items)
            group = batches.Group(items, self.target, self._connection.budget(timeout_s))
            async for result in self._connection.write_group(group):
                yield result

    async def forget(
        self,
        fact_id: str,
        *,
        bank: str = DEFAULT_BANK,
        event_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Edit:
        """Removes a fact's contribution exactly; see `Client.forget`."""
        request = messages.build(
            pb.ForgetRequest,
            bank=bank,
            fact_id=fact_id,
            event_id=event_id or messages.new_event_id(),
        )
        response = await self._connection.call("Forget", request, timeout_s, request.event_id)
        return messages.edit(response, own_event_id=not event_id)

    # Reads

    async def ask(
        self,
        prompt: str,
        *,
        bank: str = DEFAULT_BANK,
        max_tokens: int = 0,
        temperature: float = 0.0,
        top_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        min_version: int = 0,
        no_memory: bool = False,
        timeout_s: float | None = None,
    ) -> Answer:
        """Answers a prompt: from memory in scope, else as the plain decoder; see `Client.ask`."""
        sampling = messages.sampling(max_tokens, temperature, top_p, seed, stop)
        request = messages.ask_request(prompt, bank, sampling, min_version, no_memory)
        return await self._connection.answer(request, timeout_s)

    def ask_stream(
        self,
        prompt: str,
        *,
        bank: str = DEFAULT_BANK,
        max_tokens: int = 0,
        temperature: float = 0.0,
        top_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        min_version: int = 0,
        no_memory: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[str | Answer]:
        """As `ask`, a piece of text at a time; last, the whole; see `Client.ask_stream`."""
        sampling = messages.sampling(max_tokens, temperature, top_p, seed, stop)
        request = messages.ask_request(prompt, bank, sampling, min_version, no_memory)
        return self._connection.pieces(request, timeout_s)

    async def score(
        self,
        prompt: str,
        candidates: Sequence[str],
        *,
        bank: str = DEFAULT_BANK,
        min_version: int = 0,
        no_memory: bool = False,
        timeout_s: float | None = None,
    ) -> Score:
        """Log probabilities of candidate answers, with the same scope and memory as `ask`."""
        request = messages.build(
            pb.ScoreRequest,
            bank=bank,
            prompt=prompt,
            candidates=candidates,
            min_version=min_version,
            no_memory=no_memory,
        )
        return messages.score(candidates, await self._connection.call("Score", request, timeout_s))

    # Banks

    async def create_bank(
        self,
        bank: str,
        *,
        addressing: str = "slots",
        slots: int = 0,
        timeout_s: float | None = None,
    ) -> BankInfo:
        """Makes a bank; see `Client.create_bank`."""
        request = messages.build(
            pb.CreateBankRequest,
            bank=bank,
            addressing=messages.addressing_number(addressing),
            slots=slots,
        )
        response = await self._connection.call("CreateBank", request, timeout_s)
        return messages.bank_info(response.info, response.created)

    async def list_banks(self, *, timeout_s: float | None = None) -> list[BankInfo]:
        """All banks, by name."""
        response = await self._connection.call("ListBanks", pb.ListBanksRequest(), timeout_s)
        return [messages.bank_info(one) for one in response.banks]

    async def get_bank(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> BankInfo:
        """One bank; raises NotFound for an unknown one."""
        request = messages.build(pb.GetBankRequest, bank=bank)
        return messages.bank_info((await self._connection.call("GetBank", request, timeout_s)).info)

    async def delete_bank(self, bank: str, *, timeout_s: float | None = None) -> None:
        """Removes a bank and all it holds; raises NotFound for an unknown one."""
        request = messages.build(pb.DeleteBankRequest, bank=bank)
        await self._connection.call("DeleteBank", request, timeout_s)

    # What a bank holds

    async def facts(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> AsyncIterator[Fact]:
        """Live facts in order of fact id, fetched a page at a time."""
        after = None
        while after != "":
            request = messages.build(
                pb.ListFactsRequest, bank=bank, after=after, page_size=calls.PAGE_SIZE
            )
            page = await self._connection.call("ListFacts", request, timeout_s)
            for one in page.facts:
                yield messages.fact(one)
            after = page.next_after

    async def fact(
        self, fact_id: str, *, bank: str = DEFAULT_BANK, timeout_s: float | None = None
    ) -> Fact:
        """One live fact; raises NotFound when there is none of this id."""
        request = messages.build(pb.ListFactsRequest, bank=bank, fact_id=fact_id)
        response = await self._connection.call("ListFacts", request, timeout_s)
        return messages.one_fact(response, fact_id, bank)

    async def events(
        self, bank: str = DEFAULT_BANK, *, after: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Event]:
        """Entries of the log past version `after`, in order, fetched a page at a time."""
        while True:
            request = messages.build(
                pb.ListEventsRequest, bank=bank, after_version=after, page_size=calls.PAGE_SIZE
            )
            page = await self._connection.call("ListEvents", request, timeout_s)
            for one in page.events:
                yield messages.event(one)
            if not page.events or page.events[-1].version >= page.version:
                return
            after = page.events[-1].version

    async def digest(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> DigestResult:
        """The digest of a bank at its newest version."""
        request = messages.build(pb.DigestRequest, bank=bank)
        return messages.plain(
            DigestResult, await self._connection.call("Digest", request, timeout_s)
        )

    async def replay(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> ReplayResult:
        """Rebuilds a bank from its log alone and compares it with the one that serves."""
        request = messages.build(pb.ReplayRequest, bank=bank)
        return messages.plain(
            ReplayResult, await self._connection.call("Replay", request, timeout_s)
        )

    async def checkpoint(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> CheckpointResult:
        """Saves a checkpoint of a bank."""
        request = messages.build(pb.CheckpointRequest, bank=bank)
        return messages.plain(
            CheckpointResult, await self._connection.call("Checkpoint", request, timeout_s)
        )

    async def status(self, *, timeout_s: float | None = None) -> Status:
        """What is running, and of which model."""
        return messages.status(
            await self._connection.call("GetStatus", pb.GetStatusRequest(), timeout_s)
        )


async def _groups(facts: Iterable[Any] | AsyncIterable[Any], size: int) -> AsyncIterator[list[Any]]:
    """What is given, in lists of at most `size`."""
    taken: list[Any] = []
    async for fact in _each(facts):
        taken.append(fact)
        if len(taken) == size:
            yield taken
            taken = []
    if taken:
        yield taken


async def _each(facts: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(facts, AsyncIterable):
        async for fact in facts:
            yield fact
    else:
        for fact in facts:
            yield fact
