"""Documents from a client: ingest, recall and dream, blocking and awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from larimar import messages
from larimar.calls import DEFAULT_BANK
from larimar.results import DreamResult, IngestResult, RecallResult
from larimar.transport import AsyncConnection, Connection
from larimar.v1 import larimar_pb2 as pb


class DocumentMethods:
    """The calls of `Client` about documents."""

    _connection: Connection

    def ingest(
        self,
        text: str,
        document: str,
        *,
        bank: str = DEFAULT_BANK,
        passage_words: int = 0,
        timeout_s: float | None = None,
    ) -> IngestResult:
        """Writes a document as passages with their place in it; see `ingest_pieces`."""
        *_, last = self.ingest_pieces(
            text, document, bank=bank, passage_words=passage_words, timeout_s=timeout_s
        )
        return last

    def ingest_pieces(
        self,
        text: str,
        document: str,
        *,
        bank: str = DEFAULT_BANK,
        passage_words: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[IngestResult]:
        """As `ingest`, telling after each piece how far the document has come.

        The same text again is the same passages, and nothing new is written; another text takes
        the place of the document's old one. A call that failed is made again from the start.

        Args:
            document: letters, digits, dots, dashes and underscores.
            passage_words: most words of a passage; 0 takes the default.
            timeout_s: of each piece.

        Raises:
            InvalidArgument: a blank text, or a bad name.
            FailedPrecondition: the bank is no slots bank, or a passage's place was erased.
        """
        result = None
        for request in messages.ingest_requests(text, document, bank, passage_words):
            response = self._connection.call("Ingest", request, timeout_s)
            result = messages.ingested(result, request, response)
            yield result

    def recall(
        self,
        prompt: str,
        *,
        bank: str = DEFAULT_BANK,
        document: str = "",
        at: int = 0,
        max_tokens: int = 0,
        temperature: float = 0.0,
        top_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> RecallResult:
        """Answers from passages by recursive reading, whatever scope says.

        Args:
            document: reads only this one's passages; empty: every fact of the bank.
            at: reads the bank as it was at this version; 0: as it is.

        Raises:
            FailedPrecondition: there is nothing to read, or the bank is no slots bank.
        """
        request = messages.build(
            pb.RecallRequest,
            bank=bank,
            prompt=prompt,
            document=document,
            at_version=at,
            sampling=messages.sampling(max_tokens, temperature, top_p, seed, stop),
        )
        return messages.recalled(self._connection.call("Recall", request, timeout_s))

    def dream(
        self,
        count: int = 0,
        *,
        bank: str = DEFAULT_BANK,
        seed: int = 0,
        prompt: str = "",
        at: int = 0,
        max_tokens: int = 0,
        temperature: float = 0.0,
        top_p: float = 0.0,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> DreamResult:
        """Texts decoded from latents of random addresses: what the memory generates unasked.

        Args:
            count: how many; 0 takes the default.
            seed: of the addresses and of the sampling; the same seed gives the same texts.
            prompt: what each text begins with; empty takes the default.

        Raises:
            FailedPrecondition: the bank is empty.
        """
        request = messages.build(
            pb.DreamRequest,
            bank=bank,
            count=count,
            seed=seed,
            prompt=prompt,
            at_version=at,
            sampling=messages.sampling(max_tokens, temperature, top_p, seed, stop),
        )
        response = self._connection.call("Dream", request, timeout_s)
        return DreamResult(tuple(response.texts), response.version, response.bank)


class AsyncDocumentMethods:
    """The calls of `DocumentMethods`, awaited."""

    _connection: AsyncConnection

    async def ingest(
        self,
        text: str,
        document: str,
        *,
        bank: str = DEFAULT_BANK,
        passage_words: int = 0,
        timeout_s: float | None = None,
    ) -> IngestResult:
        """As `Client.ingest`."""
        result = None
        async for result in self.ingest_pieces(  # noqa: B007
            text, document, bank=bank, passage_words=passage_words, timeout_s=timeout_s
        ):
            pass
        assert result is not None
        return result

    async def ingest_pieces(
        self,
        text: str,
        document: str,
        *,
        bank: str = DEFAULT_BANK,
        passage_words: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncIterator[IngestResult]:
        """As `Client.ingest_pieces`."""
        result = None
        for request in messages.ingest_requests(text, document, bank, passage_words):
            response = await self._connection.call("Ingest", request, timeout_s)
            result = messages.ingested(result, request, response)
            yield result

    async def recall(
        self,
        prompt: str,
        *,
        bank: str = DEFAULT_BANK,
        document: str = "",
        at: int = 0,
        max_tokens: int = 0,
        temperature: float = 0.0,
        top_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> RecallResult:
        """As `Client.recall`."""
        request = messages.build(
            pb.RecallRequest,
            bank=bank,
            prompt=prompt,
            document=document,
            at_version=at,
            sampling=messages.sampling(max_tokens, temperature, top_p, seed, stop),
        )
        return messages.recalled(await self._connection.call("Recall", request, timeout_s))

    async def dream(
        self,
        count: int = 0,
        *,
        bank: str = DEFAULT_BANK,
        seed: int = 0,
        prompt: str = "",
        at: int = 0,
        max_tokens: int = 0,
        temperature: float = 0.0,
        top_p: float = 0.0,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> DreamResult:
        """As `Client.dream`."""
        request = messages.build(
            pb.DreamRequest,
            bank=bank,
            count=count,
            seed=seed,
            prompt=prompt,
            at_version=at,
            sampling=messages.sampling(max_tokens, temperature, top_p, seed, stop),
        )
        response = await self._connection.call("Dream", request, timeout_s)
        return DreamResult(tuple(response.texts), response.version, response.bank)
