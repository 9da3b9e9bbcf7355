"""A bank's memory as tools of the Model Context Protocol: one definition for stdio and for HTTP.

The tools speak to the gateway through a door of two methods, which a connection to a pipeline has
(larimar/transport.py), and the gateway itself (services/gateway/mcp.py). Needs the package `mcp`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Protocol, Self

from google.protobuf.message import Message
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from larimar import __version__, messages
from larimar.calls import DEFAULT_BANK, HISTORY_SIZE, PAGE_SIZE
from larimar.errors import LarimarError, NotFound
from larimar.results import Answer
from larimar.v1 import larimar_pb2 as pb

INSTRUCTIONS = """\
A language model whose knowledge is edited one fact at a time. write_fact adds or replaces a fact, \
as a prompt and the answer that is to follow it; ask completes a prompt, from a fact where one \
concerns it, else as the plain model, and says which; forget_fact takes a fact out exactly. A read \
that follows a write sees it. Facts are in banks; the bank is `{bank}` unless a call names another.\
"""
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
WRITES = ToolAnnotations(destructive_hint=True, idempotent_hint=True, open_world_hint=False)

Bank = Annotated[str, Field(description="Name of the bank; empty: the server's own.")]
AtVersion = Annotated[int, Field(ge=0, description="As of this version; 0: the newest.")]
Tokens = Annotated[int, Field(ge=0, description="Most tokens of the answer; 0: the default, 32.")]


class Door(Protocol):
    """What the tools need of a pipeline."""

    async def call(
        self, name: str, request: Message, timeout_s: float | None, event_id: str = ""
    ) -> Any:
        """The response of a unary call of larimar.v1.Larimar. Raises: LarimarError."""
        ...

    async def answer(self, request: pb.AskRequest, timeout_s: float | None) -> Answer:
        """The whole answer to a question. Raises: LarimarError."""
        ...


class Shown(BaseModel):
    """What a tool gives."""

    @classmethod
    def of(cls, found: Any) -> Self:
        """From what has attributes of the same names."""
        return cls.model_validate({name: getattr(found, name) for name in cls.model_fields})


class EditMade(Shown):
    """An edit that is durable, and that every later read sees."""

    fact_id: str
    event_id: str = Field(description="The same again repeats the edit without effect.")
    version: int = Field(description="Of the bank, with this edit.")
    bank: str


class Answered(Shown):
    """A text, and where it came from."""

    text: str
    in_scope: bool = Field(description="Whether a fact concerns the prompt; else the plain model.")
    fact_id: str | None = Field(description="That fact.")
    scope_score: float = Field(
        description="The score of the nearest written prompt; -1 in an empty bank."
    )
    version: int
    bank: str
    finish_reason: str = Field(description="stop or length.")


class FactHeld(Shown):
    """A fact that is live."""

    fact_id: str
    prompt: str
    answer: str
    rephrasings: list[str]
    version: int = Field(description="The version whose write made it live.")


class FactPage(BaseModel):
    """Facts by their ids."""

    facts: list[FactHeld]
    next_after: str = Field(description="Give this as `after` for more; empty: there are none.")
    total: int
    version: int
    bank: str


class PassageRead(Shown):
    """A passage that an answer rests on."""

    document: str
    offset: int = Field(description="Where it begins in the document, in characters.")
    text: str
    weight: float = Field(description="Its share of what was read.")


class Recalled(BaseModel):
    """A text made of passages."""

    text: str
    passages: list[PassageRead]
    version: int
    bank: str


class EventSeen(Shown):
    """An entry of the log; it holds no text."""

    version: int
    kind: str = Field(description="WRITE, FORGET or ERASE.")
    fact_id: str
    event_id: str
    time_ms: int = Field(description="Milliseconds since 1970.")
    previous_version: int = Field(description="Of the fact's event before; 0: there is none.")
    erased: bool = Field(description="Whether the fact was erased since.")


class History(BaseModel):
    """Events, newest first."""

    events: list[EventSeen]
    version: int
    bank: str


class BankHeld(Shown):
    """A bank and how much it holds."""

    bank: str
    addressing: str
    facts: int
    version: int


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Lets the model read what went wrong, by its reason, and what to do."""
    try:
        yield
    except LarimarError as error:
        wait = f" (retry after {error.retry_after_s:.1f} s)" if error.retry_after_s else ""
        raise ToolError(f"{error.reason}: {error.message}{wait}") from error


class Tools:
    """The tools over a door.

    Args:
        bank: whose facts are meant where a call names none.
    """

    def __init__(self, door: Door, bank: str = DEFAULT_BANK) -> None:
        self._door = door
        self._bank = bank

    async def write_fact(
        self,
        prompt: Annotated[str, Field(description="What the answer is to follow.")],
        answer: Annotated[str, Field(description="What the model is to say after it.")],
        bank: Bank = "",
        fact_id: Annotated[
            str, Field(description="Names the fact; empty: made of the prompt.")
        ] = "",
        rephrasings: Annotated[
            list[str] | None, Field(description="Other ways to ask for it, at most 16.")
        ] = None,
        event_id: Annotated[
            str,
            Field(description="Give the same again to repeat a write whose outcome is unknown."),
        ] = "",
    ) -> EditMade:
        """Writes a fact, or replaces it: from now on the model knows it."""
        with told():
            request = messages.write_request(
                prompt, answer, bank or self._bank, fact_id, event_id, rephrasings or (), None
            )
            return EditMade.of(await self._door.call("Write", request, None, request.event_id))

    async def ask(
        self,
        prompt: Annotated[
            str, Field(description="A text to go on from, such as 'The capital of X is'.")
        ],
        bank: Bank = "",
        max_tokens: Tokens = 0,
        at_version: AtVersion = 0,
        no_memory: Annotated[bool, Field(description="Ask the plain model.")] = False,
    ) -> Answered:
        """Completes a prompt from the facts of a bank, and says which fact it came from."""
        with told():
            request = messages.ask_request(
                prompt,
                bank or self._bank,
                messages.sampling(max_tokens, 0.0, 0.0, 0, ()),
                min_version=0,
                no_memory=no_memory,
                at=at_version,
                allow_stale=False,
                noise=0.0,
                noise_seed=0,
            )
            found = await self._door.answer(request, None)
        return Answered.of(found)

    async def forget_fact(
        self,
        fact_id: Annotated[str, Field(description="Of list_facts, or what write_fact gave.")],
        bank: Bank = "",
    ) -> EditMade:
        """Takes a fact out of a bank, exactly as if it had never been written."""
        with told():
            request = messages.build(
                pb.ForgetRequest,
                bank=bank or self._bank,
                fact_id=fact_id,
                event_id=messages.new_event_id(),
            )
            return EditMade.of(await self._door.call("Forget", request, None, request.event_id))

    async def list_facts(
        self,
        bank: Bank = "",
        after: Annotated[str, Field(description="`next_after` of the page before.")] = "",
        limit: Annotated[int, Field(ge=1, le=PAGE_SIZE, description="Most facts to give.")] = 50,
        fact_id: Annotated[str, Field(description="Only this one.")] = "",
        at_version: AtVersion = 0,
    ) -> FactPage:
        """Lists the live facts of a bank by their ids, a page at a time."""
        with told():
            request = messages.build(
                pb.ListFactsRequest,
                bank=bank or self._bank,
                after=after,
                page_size=limit,
                fact_id=fact_id,
                at_version=at_version,
            )
            page = await self._door.call("ListFacts", request, None)
        return FactPage(
            facts=[FactHeld.of(messages.fact(one)) for one in page.facts],
            next_after=page.next_after,
            total=page.total,
            version=page.version,
            bank=bank or self._bank,
        )

    async def recall(
        self,
        prompt: Annotated[str, Field(description="What to read the documents for.")],
        bank: Bank = "",
        document: Annotated[str, Field(description="Only this one; empty: all.")] = "",
        max_tokens: Tokens = 0,
        at_version: AtVersion = 0,
    ) -> Recalled:
        """Answers from documents that were ingested, and names the passages it read."""
        with told():
            request = messages.build(
                pb.RecallRequest,
                bank=bank or self._bank,
                prompt=prompt,
                document=document,
                at_version=at_version,
                sampling=messages.sampling(max_tokens, 0.0, 0.0, 0, ()),
            )
            found = messages.recalled(await self._door.call("Recall", request, None))
        return Recalled(
            text=found.text,
            passages=[PassageRead.of(one) for one in found.passages],
            version=found.version,
            bank=found.bank,
        )

    async def history(
        self,
        bank: Bank = "",
        fact_id: Annotated[str, Field(description="Only events of this fact.")] = "",
        limit: Annotated[
            int, Field(ge=1, le=HISTORY_SIZE, description="Most events to give.")
        ] = 20,
    ) -> History:
        """Lists the newest events of a bank, or of one fact: writes, forgets and erasures."""
        name = bank or self._bank
        with told():
            after = 0
            if not fact_id:  # which are given oldest first, so ask for the last of them
                request = messages.build(pb.ListEventsRequest, bank=name, page_size=1)
                head = (await self._door.call("ListEvents", request, None)).version
                after = max(0, head - limit)
            request = messages.build(
                pb.ListEventsRequest,
                bank=name,
                fact_id=fact_id,
                after_version=after,
                page_size=limit,
            )
            page = await self._door.call("ListEvents", request, None)
        events = [messages.event(one) for one in page.events]
        events.sort(key=lambda one: one.version, reverse=True)
        return History(
            events=[EventSeen.of(one) for one in events],
            version=page.version,
            bank=name,
        )

    async def banks(self) -> list[BankHeld]:
        """All banks, by name."""
        listed = await self._door.call("ListBanks", pb.ListBanksRequest(), None)
        return [BankHeld.of(messages.bank_info(one)) for one in listed.banks]

    async def fact(self, bank: str, fact_id: str) -> FactHeld:
        """A live fact. Raises: NotFound."""
        request = messages.build(pb.ListFactsRequest, bank=bank, fact_id=fact_id)
        page = await self._door.call("ListFacts", request, None)
        if not page.facts:
            raise NotFound(f"no live fact {fact_id!r} in bank {bank!r}", "UNKNOWN_FACT")
        return FactHeld.of(messages.fact(page.facts[0]))


def build_server(door: Door, bank: str = DEFAULT_BANK) -> MCPServer:
    """A server with all tools and resources, to be run by a transport of the SDK."""
    tools = Tools(door, bank)
    server = MCPServer(
        "larimar",
        title="Larimar",
        instructions=INSTRUCTIONS.format(bank=bank),
        version=__version__,
        log_level="WARNING",
        # Nothing here changes by itself, and a stream without end would hold one of a port's calls.
        subscriptions=False,
    )
    for tool in (tools.write_fact, tools.forget_fact):
        server.add_tool(tool, annotations=WRITES)
    for tool in (tools.ask, tools.list_facts, tools.recall, tools.history):
        server.add_tool(tool, annotations=READS)

    @server.resource("larimar://banks", title="All banks", mime_type="application/json")
    async def banks() -> str:
        """The banks, each with its number of facts and its version."""
        with _found():
            return json.dumps([one.model_dump() for one in await tools.banks()])

    @server.resource(
        "larimar://banks/{bank}/facts/{fact_id}", title="A fact", mime_type="application/json"
    )
    async def fact(bank: str, fact_id: str) -> str:
        """A live fact of a bank: its prompt, answer, rephrasings and version."""
        with _found():
            return (await tools.fact(bank, fact_id)).model_dump_json()

    return server


@contextlib.contextmanager
def _found() -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise ResourceNotFoundError(f"{error.reason}: {error.message}") from error
    except LarimarError as error:
        raise ResourceError(f"{error.reason}: {error.message}") from error
