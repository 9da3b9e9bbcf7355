"""The pipeline from asyncio: the same calls as `larimar.client`, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Mapping, Sequence
from typing import Any

from larimar import bank_messages, batches, calls, messages
from larimar.aio_banks import AsyncBankMethods
from larimar.calls import CONNECT_TIMEOUT_S, DEFAULT_BANK, DEFAULT_TARGET, DEFAULT_TIMEOUT_S
from larimar.client_documents import AsyncDocumentMethods
from larimar.client_publishing import AsyncPublishingMethods
from larimar.results import Answer, Edit, FailedEdit, FailedWrite, Score, Status
from larimar.security import OPEN, Security
from larimar.transport import AsyncConnection
from larimar.v1 import larimar_pb2 as pb


def connect_async(
    target: str = DEFAULT_TARGET,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    api_key: str | None = None,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
) -> AsyncClient:
    """As `larimar.connect`, for asyncio: awaited, entered with ``async with``, or used as it is."""
    return AsyncClient(
        target,
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
        security=Security(api_key, tls_ca, tls_cert, tls_key),
    )


class AsyncClient(AsyncBankMethods, AsyncDocumentMethods, AsyncPublishingMethods):
    """The calls of `Client`, awaited; for one event loop. Times and errors are the same."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        security: Security = OPEN,
    ) -> None:
        self._connection = AsyncConnection(target, timeout_s, connect_timeout_s, security)

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
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> Edit:
        """Writes a fact, in one shot; see `Client.write`."""
        request = messages.write_request(
            prompt,
            answer,
            bank,
            fact_id,
            event_id,
            rephrasings,
            encoder_digest,
            expected_version,
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

    async def edit(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        bank: str = DEFAULT_BANK,
        timeout_s: float | None = None,
    ) -> list[Edit | FailedEdit]:
        """Writes, forgets and censors in one append, atomically; see `Client.edit`."""
        request = bank_messages.edit_request(items, bank)
        response = await self._connection.call(
            "Edit", request, timeout_s, bank_messages.event_ids(request)
        )
        return bank_messages.edit_results(items, response)

    async def censor(
        self,
        prompt: str,
        *,
        bank: str = DEFAULT_BANK,
        fact_id: str | None = None,
        event_id: str | None = None,
        rephrasings: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Edit:
        """Writes "unknown" as the answer of a prompt; see `Client.censor`."""
        request = bank_messages.censor_request(prompt, bank, fact_id, event_id, rephrasings)
        response = await self._connection.call("Censor", request, timeout_s, request.event_id)
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
        at: int = 0,
        allow_stale: bool = False,
        noise: float = 0.0,
        noise_seed: int = 0,
        timeout_s: float | None = None,
    ) -> Answer:
        """Answers a prompt: from memory in scope, else as the plain decoder; see `Client.ask`."""
        sampling = messages.sampling(max_tokens, temperature, top_p, seed, stop)
        request = messages.ask_request(
            prompt, bank, sampling, min_version, no_memory, at, allow_stale, noise, noise_seed
        )
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
        at: int = 0,
        allow_stale: bool = False,
        noise: float = 0.0,
        noise_seed: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncIterator[str | Answer]:
        """As `ask`, a piece of text at a time; last, the whole; see `Client.ask_stream`."""
        sampling = messages.sampling(max_tokens, temperature, top_p, seed, stop)
        request = messages.ask_request(
            prompt, bank, sampling, min_version, no_memory, at, allow_stale, noise, noise_seed
        )
        return self._connection.pieces(request, timeout_s)

    async def score(
        self,
        prompt: str,
        candidates: Sequence[str],
        *,
        bank: str = DEFAULT_BANK,
        min_version: int = 0,
        no_memory: bool = False,
        at: int = 0,
        allow_stale: bool = False,
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
            at_version=at,
            allow_stale=allow_stale,
        )
        return messages.score(candidates, await self._connection.call("Score", request, timeout_s))

    # The pipeline

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
