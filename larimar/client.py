"""The pipeline from Python: one method a call, over gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from larimar import bank_messages, batches, calls, messages
from larimar.calls import (
    CONNECT_TIMEOUT_S,
    DEFAULT_BANK,
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT_S,
)
from larimar.client_banks import BankMethods
from larimar.client_documents import DocumentMethods
from larimar.client_publishing import PublishingMethods
from larimar.results import Answer, Edit, FailedEdit, FailedWrite, Score, Status
from larimar.security import OPEN, Security
from larimar.transport import Connection
from larimar.v1 import larimar_pb2 as pb


def connect(
    target: str = DEFAULT_TARGET,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    api_key: str | None = None,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
) -> Client:
    """A client of the pipeline at ``HOST:PORT``. Nothing is sent before the first call.

    Args:
        timeout_s: deadline of each call, attempts and pauses included; every method
            takes another one.
        connect_timeout_s: how long the first call waits for something to answer.
        api_key: goes with every call; it can be read on the way unless TLS is used.
        tls_ca: PEM file of the authorities that the pipeline's certificate must come from, or
            "system" for those of this machine; None connects in plain text.
        tls_cert, tls_key: PEM files of the certificate to show, where the pipeline asks for one.

    Raises:
        InvalidArgument: the target is no ``HOST:PORT``, a timeout is not positive, or a file
            of TLS cannot be used.
    """
    return Client(
        target,
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
        security=Security(api_key, tls_ca, tls_cert, tls_key),
    )


class Client(BankMethods, DocumentMethods, PublishingMethods):
    """The pipeline's calls, blocking. Threads may share one client.

    Every call has a deadline and is attempted again, with a growing pause, for as long
    as the pipeline is UNAVAILABLE and time remains; an edit keeps its event id over all
    attempts, so it is made once. All other errors are raised as they come, as the
    classes of `larimar.errors`.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        security: Security = OPEN,
    ) -> None:
        self._connection = Connection(target, timeout_s, connect_timeout_s, security)

    @property
    def target(self) -> str:
        """``HOST:PORT`` of the pipeline."""
        return self._connection.target

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and every call on it."""
        self._connection.close()

    # Edits

    def write(
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
        """Writes a fact, in one shot. When it returns, the fact is durable.

        Without a `fact_id` the fact is known by its prompt: the same prompt again
        replaces its answer. With `encoder_digest` the write is refused unless that
        encoder serves; with `expected_version`, unless the fact's newest event has that
        version (0: it has none), so that nobody's edit is overwritten unseen.

        Raises:
            Conflict: the event id belongs to another edit.
            FailedPrecondition: FACT_CHANGED, the fact has another version than expected.
            DeadlineExceeded, Unavailable: the outcome is unknown; the message names the
                event id to retry with.
        """
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
        response = self._connection.call("Write", request, timeout_s, request.event_id)
        return messages.edit(response, own_event_id=not event_id)

    def write_many(
        self,
        facts: Iterable[Any],
        *,
        bank: str = DEFAULT_BANK,
        encoder_digest: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Edit | FailedWrite]:
        """Writes many facts, a result for each, in order; one bad fact fails alone.

        `facts` are mappings with ``prompt``, ``answer`` and, where wanted, ``fact_id``
        (or ``id``), ``event_id``, ``rephrasings``, ``bank``; or objects with such
        attributes. They are taken in groups of 256, never further ahead. `timeout_s`
        is the longest time without a result.

        Raises:
            LarimarError: the stream itself failed and could not be resumed. Facts whose
                outcome is unknown come first, each as a `FailedWrite` with its event id.
        """
        items = (
            batches.prepare(index, fact, bank, encoder_digest) for index, fact in enumerate(facts)
        )
        while taken := list(islice(items, calls.MAX_IN_FLIGHT)):
            group = batches.Group(taken, self.target, self._connection.budget(timeout_s))
            yield from self._connection.write_group(group)

    def forget(
        self,
        fact_id: str,
        *,
        bank: str = DEFAULT_BANK,
        event_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Edit:
        """Removes a fact's contribution, exactly as if it had never been written.

        Raises:
            NotFound: no such fact. FailedPrecondition: it is already forgotten.
        """
        request = messages.build(
            pb.ForgetRequest,
            bank=bank,
            fact_id=fact_id,
            event_id=event_id or messages.new_event_id(),
        )
        response = self._connection.call("Forget", request, timeout_s, request.event_id)
        return messages.edit(response, own_event_id=not event_id)

    def edit(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        bank: str = DEFAULT_BANK,
        timeout_s: float | None = None,
    ) -> list[Edit | FailedEdit]:
        """Writes, forgets and censors in one append, atomically; a result for each, in order.

        An item is ``{"write": {...}}`` with the fields of `write`, ``{"forget": {"fact_id": ...}}``
        or ``{"censor": {"prompt": ...}}`` with those of `censor`; each may have an ``event_id``. At
        most 256. An item that is refused changes nothing, and the others are made; later items see
        earlier ones.

        Raises:
            InvalidArgument: an item or one of its texts is malformed; nothing was made.
        """
        request = bank_messages.edit_request(items, bank)
        response = self._connection.call(
            "Edit", request, timeout_s, bank_messages.event_ids(request)
        )
        return bank_messages.edit_results(items, response)

    def censor(
        self,
        prompt: str,
        *,
        bank: str = DEFAULT_BANK,
        fact_id: str | None = None,
        event_id: str | None = None,
        rephrasings: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Edit:
        """Writes "unknown" as the answer of a prompt, also for what only the base model knows.

        A fact that was written under an id of its own is censored by that `fact_id`: it is
        replaced, and nothing of its answer is read any more.

        Raises:
            FailedPrecondition: FACT_HAS_ID, no `fact_id` was given, and a live fact of another id
                has this prompt, or this rephrasing.
        """
        request = bank_messages.censor_request(prompt, bank, fact_id, event_id, rephrasings)
        response = self._connection.call("Censor", request, timeout_s, request.event_id)
        return messages.edit(response, own_event_id=not event_id)

    # Reads

    def ask(
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
        """Answers a prompt: from memory in scope, else as the plain decoder.

        0 means the service's default; temperature 0 is greedy.

        Args:
            at: answers as of this version; 0 is the newest.
            allow_stale: with the store down, answers from what a replica holds, and says so.
            noise: standard deviation of normal noise on the address, drawn under `noise_seed`.

        Raises:
            FailedPrecondition: `min_version` or `at` is not written yet.
        """
        sampling = messages.sampling(max_tokens, temperature, top_p, seed, stop)
        request = messages.ask_request(
            prompt, bank, sampling, min_version, no_memory, at, allow_stale, noise, noise_seed
        )
        return self._connection.answer(request, timeout_s)

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
    ) -> Iterator[str | Answer]:
        """As `ask`, a piece of text at a time as it comes; last, the whole `Answer`.

        A stream that breaks after its first piece is not attempted again.
        """
        sampling = messages.sampling(max_tokens, temperature, top_p, seed, stop)
        request = messages.ask_request(
            prompt, bank, sampling, min_version, no_memory, at, allow_stale, noise, noise_seed
        )
        return self._connection.pieces(request, timeout_s)

    def score(
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
        return messages.score(candidates, self._connection.call("Score", request, timeout_s))

    # The pipeline

    def status(self, *, timeout_s: float | None = None) -> Status:
        """What is running, and of which model."""
        return messages.status(self._connection.call("GetStatus", pb.GetStatusRequest(), timeout_s))
