"""The pipeline from Python: one method a call, over gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
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
from larimar.transport import Connection
from larimar.v1 import larimar_pb2 as pb


def connect(
    target: str = DEFAULT_TARGET,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> Client:
    """A client of the pipeline at ``HOST:PORT``. Nothing is sent before the first call.

    Args:
        timeout_s: deadline of each call, attempts and pauses included; every method
            takes another one.
        connect_timeout_s: how long the first call waits for something to answer.

    Raises:
        InvalidArgument: the target is no ``HOST:PORT``, or a timeout is not positive.
    """
    return Client(target, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)


class Client:
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
    ) -> None:
        self._connection = Connection(target, timeout_s, connect_timeout_s)

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
        timeout_s: float | None = None,
    ) -> Edit:
        """Writes a fact, in one shot. When it returns, the fact is durable.

        Without a `fact_id` the fact is known by its prompt: the same prompt again
        replaces its answer. With `encoder_digest` the write is refused unless that
        encoder serves.

        Raises:
            Conflict: the event id belongs to another edit.
            DeadlineExceeded, Unavailable: the outcome is unknown; the message names the
                event id to retry with.
        """
        request = messages.write_request(
            prompt, answer, bank, fact_id, event_id, rephrasings, encoder_digest
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
        timeout_s: float | None = None,
    ) -> Answer:
        """Answers a prompt: from memory in scope, else as the plain decoder.

        0 means the service's default; temperature 0 is greedy.

        Raises:
            FailedPrecondition: `min_version` is not written yet.
        """
        sampling = messages.sampling(max_tokens, temperature, top_p, seed, stop)
        request = messages.ask_request(prompt, bank, sampling, min_version, no_memory)
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
        timeout_s: float | None = None,
    ) -> Iterator[str | Answer]:
        """As `ask`, a piece of text at a time as it comes; last, the whole `Answer`.

        A stream that breaks after its first piece is not attempted again.
        """
        sampling = messages.sampling(max_tokens, temperature, top_p, seed, stop)
        request = messages.ask_request(prompt, bank, sampling, min_version, no_memory)
        return self._connection.pieces(request, timeout_s)

    def score(
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
        return messages.score(candidates, self._connection.call("Score", request, timeout_s))

    # Banks

    def create_bank(
        self,
        bank: str,
        *,
        addressing: str = "slots",
        slots: int = 0,
        timeout_s: float | None = None,
    ) -> BankInfo:
        """Makes a bank; the same configuration again is the same bank.

        `addressing` is ``slots``, ``pinv`` or ``gaussian``; `slots` is K of the latter two.

        Raises:
            Conflict: the name is taken by another configuration.
        """
        request = messages.build(
            pb.CreateBankRequest,
            bank=bank,
            addressing=messages.addressing_number(addressing),
            slots=slots,
        )
        response = self._connection.call("CreateBank", request, timeout_s)
        return messages.bank_info(response.info, response.created)

    def list_banks(self, *, timeout_s: float | None = None) -> list[BankInfo]:
        """All banks, by name."""
        response = self._connection.call("ListBanks", pb.ListBanksRequest(), timeout_s)
        return [messages.bank_info(one) for one in response.banks]

    def get_bank(self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None) -> BankInfo:
        """One bank; raises NotFound for an unknown one."""
        request = messages.build(pb.GetBankRequest, bank=bank)
        return messages.bank_info(self._connection.call("GetBank", request, timeout_s).info)

    def delete_bank(self, bank: str, *, timeout_s: float | None = None) -> None:
        """Removes a bank and all it holds; raises NotFound for an unknown one."""
        request = messages.build(pb.DeleteBankRequest, bank=bank)
        self._connection.call("DeleteBank", request, timeout_s)

    # What a bank holds

    def facts(self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None) -> Iterator[Fact]:
        """Live facts in order of fact id, fetched a page at a time."""
        after = None
        while after != "":
            request = messages.build(
                pb.ListFactsRequest, bank=bank, after=after, page_size=calls.PAGE_SIZE
            )
            page = self._connection.call("ListFacts", request, timeout_s)
            yield from map(messages.fact, page.facts)
            after = page.next_after

    def fact(
        self, fact_id: str, *, bank: str = DEFAULT_BANK, timeout_s: float | None = None
    ) -> Fact:
        """One live fact; raises NotFound when there is none of this id."""
        request = messages.build(pb.ListFactsRequest, bank=bank, fact_id=fact_id)
        response = self._connection.call("ListFacts", request, timeout_s)
        return messages.one_fact(response, fact_id, bank)

    def events(
        self, bank: str = DEFAULT_BANK, *, after: int = 0, timeout_s: float | None = None
    ) -> Iterator[Event]:
        """Entries of the log past version `after`, in order, fetched a page at a time."""
        while True:
            request = messages.build(
                pb.ListEventsRequest, bank=bank, after_version=after, page_size=calls.PAGE_SIZE
            )
            page = self._connection.call("ListEvents", request, timeout_s)
            yield from map(messages.event, page.events)
            if not page.events or page.events[-1].version >= page.version:
                return
            after = page.events[-1].version

    def digest(self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None) -> DigestResult:
        """The digest of a bank at its newest version."""
        request = messages.build(pb.DigestRequest, bank=bank)
        return messages.plain(DigestResult, self._connection.call("Digest", request, timeout_s))

    def replay(self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None) -> ReplayResult:
        """Rebuilds a bank from its log alone and compares it with the one that serves."""
        request = messages.build(pb.ReplayRequest, bank=bank)
        return messages.plain(ReplayResult, self._connection.call("Replay", request, timeout_s))

    def checkpoint(
        self, bank: str = DEFAULT_BANK, *, timeout_s: float | None = None
    ) -> CheckpointResult:
        """Saves a checkpoint of a bank."""
        request = messages.build(pb.CheckpointRequest, bank=bank)
        return messages.plain(
            CheckpointResult, self._connection.call("Checkpoint", request, timeout_s)
        )

    def status(self, *, timeout_s: float | None = None) -> Status:
        """What is running, and of which model."""
        return messages.status(self._connection.call("GetStatus", pb.GetStatusRequest(), timeout_s))
