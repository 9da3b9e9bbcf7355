"""The memory as tools of the Model Context Protocol, with the SDK's own client: stdio and HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import typer
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from larimar import mcp_server
from larimar.cli import app
from larimar.defaults import default_fact_id
from larimar.errors import NotFound, ResourceExhausted
from larimar.v1 import larimar_pb2 as pb
from services.contracts import add_servicer
from services.gateway.admission import Admission
from services.gateway.http.app import build_app
from services.gateway.http.server import HttpServer
from services.keys import MemoryKeys, new_key
from services.rpc import start_server
from services.settings import Settings, TenantLimits
from tests.command_line import ROOT, command, environment
from tests.gateway_calls import ANSWER, FACTS, PROMPT
from tests.in_process import Door, Pipeline, new_bank_name


@asynccontextmanager
async def http_port(servicer: Any, keys: MemoryKeys | None = None) -> AsyncIterator[str]:
    """Where a gateway answers over HTTP."""
    server = HttpServer(build_app(servicer, keys, Settings(http_port=1)), Settings())
    port = await server.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{port}/mcp"
    await server.stop()


@asynccontextmanager
async def over_http(url: str, key: str = "", mode: str = "auto") -> AsyncIterator[Client]:
    """The SDK's client, with an API key where there is one."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60.0) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,  # type: ignore[arg-type]
    ):
        yield client


@asynccontextmanager
async def connected(pipeline: Pipeline, bank: str, how: str) -> AsyncIterator[Client]:
    """A client of a running gateway, over stdio, HTTP, or HTTP as clients before 2026 spoke it."""
    servicer = pipeline.gateway()._servicer
    if how != "stdio":
        mode = "legacy" if how == "older http" else "auto"
        async with http_port(servicer) as url, over_http(url, mode=mode) as client:
            yield client
        return
    server, port = await start_server("127.0.0.1:0", add_servicer("gateway", servicer))
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "larimar.cli", "mcp", "--target", f"127.0.0.1:{port}", "--bank", bank],
        env=environment(),
    )
    try:
        async with Client(parameters) as client:
            yield client
    finally:
        await server.stop(grace=0)


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool gives, as an object; its text says the same."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """What a model reads of a call that failed."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error and result.structured_content is None
    return result.content[0].text


@pytest.mark.parametrize("how", ["stdio", "http", "older http"])
async def test_a_fact_is_written_asked_listed_and_forgotten(
    pipeline: Pipeline, bank: str, how: str
) -> None:
    async with connected(pipeline, bank, how) as client:
        on = {"bank": bank}
        plain = await call(client, "ask", prompt=PROMPT, max_tokens=4, **on)
        assert not plain["in_scope"] and plain["fact_id"] is None
        written = await call(client, "write_fact", prompt=PROMPT, answer=ANSWER, event_id="e", **on)
        assert written == {
            "fact_id": default_fact_id(PROMPT), "event_id": "e", "version": 1, "bank": bank,
        }  # fmt: skip
        again = await call(client, "write_fact", prompt=PROMPT, answer=ANSWER, event_id="e", **on)
        assert again == written
        await call(client, "write_fact", prompt=FACTS[0][0], answer=FACTS[0][1], fact_id="keeper",
                   rephrasings=["Marn's first keeper is"], **on)  # fmt: skip
        found = await call(client, "ask", prompt="Marn's first keeper is", max_tokens=4, **on)
        assert found["in_scope"] and (found["fact_id"], found["version"]) == ("keeper", 2)
        assert found["scope_score"] == pytest.approx(1.0, abs=1e-3) and found["text"]
        before = await call(client, "ask", prompt=PROMPT, max_tokens=4, no_memory=True, **on)
        assert before["text"] == plain["text"]
        page = await call(client, "list_facts", limit=1, **on)
        rest = await call(client, "list_facts", limit=1, after=page["next_after"], **on)
        facts = page["facts"] + rest["facts"]
        assert {fact["fact_id"]: fact["answer"] for fact in facts} == {
            "keeper": FACTS[0][1], default_fact_id(PROMPT): ANSWER,
        }  # fmt: skip
        assert (page["total"], page["version"], rest["next_after"]) == (2, 2, "")
        gone = await call(client, "forget_fact", fact_id="keeper", **on)
        assert gone["version"] == 3
        assert not (await call(client, "ask", prompt=FACTS[0][0], max_tokens=2, **on))["in_scope"]
        past = await call(client, "ask", prompt=FACTS[0][0], max_tokens=2, at_version=2, **on)
        assert past["fact_id"] == "keeper"
        events = (await call(client, "history", limit=2, **on))["events"]
        assert [(one["version"], one["kind"]) for one in events] == [(3, "FORGET"), (2, "WRITE")]
        of_fact = await call(client, "history", fact_id="keeper", **on)
        assert [one["previous_version"] for one in of_fact["events"]] == [2, 0]


@pytest.mark.parametrize("how", ["stdio", "http"])
async def test_errors_say_their_reason_and_what_to_do(
    pipeline: Pipeline, bank: str, how: str
) -> None:
    async with connected(pipeline, bank, how) as client:
        assert "UNKNOWN_BANK: no bank 'nowhere'" in await refused(
            client, "ask", prompt=PROMPT, bank="nowhere"
        )
        assert "UNKNOWN_FACT" in await refused(client, "forget_fact", fact_id="never", bank=bank)
        assert "EMPTY_TEXT" in await refused(
            client, "write_fact", prompt=" ", answer="a", bank=bank
        )
        assert "less than or equal to" in await refused(
            client, "list_facts", limit=10**6, bank=bank
        )
        assert "answer" in await refused(client, "write_fact", prompt="p", bank=bank)


@pytest.mark.parametrize("how", ["stdio", "http"])
async def test_banks_and_facts_are_resources(pipeline: Pipeline, bank: str, how: str) -> None:
    async with connected(pipeline, bank, how) as client:
        await call(client, "write_fact", prompt=PROMPT, answer=ANSWER, fact_id="f", bank=bank)
        listed = await client.read_resource("larimar://banks")
        held = {one["bank"]: one for one in json.loads(listed.contents[0].text)}
        assert held[bank] == {"bank": bank, "addressing": "slots", "facts": 1, "version": 1}
        read = await client.read_resource(f"larimar://banks/{bank}/facts/f")
        assert json.loads(read.contents[0].text)["answer"] == ANSWER
        with pytest.raises(MCPError, match="UNKNOWN_FACT"):
            await client.read_resource(f"larimar://banks/{bank}/facts/g")


async def test_documents_are_recalled_with_their_passages(pipeline: Pipeline, bank: str) -> None:
    servicer = pipeline.gateway()._servicer
    text = f"{PROMPT} {ANSWER}. The keeper of the lighthouse of Marn is Odd Sten."
    await servicer.Ingest(pb.IngestRequest(bank=bank, document="atlas", text=text), None)
    async with http_port(servicer) as url, over_http(url) as client:
        found = await call(client, "recall", prompt=PROMPT, bank=bank, max_tokens=3)
    assert found["bank"] == bank and found["passages"][0]["document"] == "atlas"
    assert sum(one["weight"] for one in found["passages"]) == pytest.approx(1.0, abs=1e-3)


async def test_tools_are_typed_and_say_whether_they_change_anything(pipeline: Pipeline) -> None:
    async with http_port(pipeline.gateway()._servicer) as url, over_http(url) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"write_fact", "ask", "forget_fact", "list_facts", "recall", "history"}
    for name, tool in tools.items():
        edits = name in ("write_fact", "forget_fact")
        assert tool.annotations is not None and bool(tool.annotations.read_only_hint) != edits
        assert tool.description and tool.output_schema
        for field, schema in tool.input_schema["properties"].items():
            assert schema.get("description"), f"{name}.{field}"


# Keys over HTTP


async def keyed(keys: MemoryKeys, tenant: str, *scopes: str) -> str:
    key, shown = new_key(tenant, scopes, "")
    await keys.add(key)
    return shown


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_key_opens_its_tenants_banks_and_what_its_scopes_say(
    pipeline: Pipeline, mode: str
) -> None:
    keys, servicer = MemoryKeys(), pipeline.gateway()._servicer
    tenant, other = f"a-{new_bank_name()}", f"b-{new_bank_name()}"
    editor, reader = await keyed(keys, tenant, "read", "edit"), await keyed(keys, tenant, "read")
    stranger = await keyed(keys, other, "read", "edit", "admin")
    async with http_port(servicer, keys) as url:
        async with over_http(url, editor, mode) as client, over_http(url, reader, mode) as reading:
            await call(client, "write_fact", prompt=PROMPT, answer=ANSWER, fact_id="f")
            assert (await call(reading, "list_facts"))["total"] == 1
            text = await refused(reading, "write_fact", prompt=PROMPT, answer="another")
            assert "MISSING_SCOPE" in text and "edit" in text
            assert "MISSING_SCOPE" in await refused(reading, "forget_fact", fact_id="f")
        async with over_http(url, stranger, mode) as client:
            assert (await call(client, "list_facts"))["total"] == 0
            answer = await call(client, "ask", prompt=PROMPT, max_tokens=1)
            assert not answer["in_scope"]
            assert "UNKNOWN_FACT" in await refused(client, "forget_fact", fact_id="f")
        async with over_http(url, reader, mode) as client:
            assert (await call(client, "list_facts"))["total"] == 1
        async with httpx2.AsyncClient(timeout=60.0) as http:
            for headers in ({}, {"authorization": f"Bearer {editor[:-1]}x"}):
                answer = await http.post(url, json={}, headers=headers)
                assert answer.status_code == 401


async def test_a_stream_that_nothing_is_sent_on_is_refused(pipeline: Pipeline) -> None:
    """It would hold one of the port's calls for as long as its client likes."""
    headers = {"accept": "text/event-stream", "mcp-protocol-version": "2025-06-18"}
    async with (
        http_port(pipeline.gateway()._servicer) as url,
        httpx2.AsyncClient(timeout=60.0) as http,
    ):
        refused = await http.get(url, headers=headers)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


async def test_a_subscription_which_has_no_end_is_refused(pipeline: Pipeline) -> None:
    async with http_port(pipeline.gateway()._servicer) as url, over_http(url) as client:
        with pytest.raises(MCPError, match=r"(?i)not found"):
            async with client.listen(tools_list_changed=True):
                pass


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_call_ends_when_its_caller_goes_away(pipeline: Pipeline, bank, mode) -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def held(request, complete):
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async def asking(url: str) -> None:
        async with over_http(url, mode=mode) as client:
            await call(client, "ask", prompt=PROMPT, bank=bank)

    decoder = Door(pipeline.doors["decoder"], Complete=held)
    async with http_port(pipeline.gateway(decoder=decoder)._servicer) as url:
        caller = asyncio.create_task(asking(url))
        await asyncio.wait_for(reached.wait(), 120)
        caller.cancel()
        await asyncio.wait_for(left.wait(), 20)  # before the call's own deadline of 30 s


async def test_a_tenants_rate_holds_here_too(pipeline: Pipeline, bank: str) -> None:
    servicer = pipeline.gateway()._servicer
    limits = TenantLimits(asks_per_s=0.01, ask_burst=1, edits_per_s=0)
    servicer.admission = Admission(lambda tenant: limits)
    async with http_port(servicer) as url, over_http(url) as client:
        await call(client, "ask", prompt=PROMPT, max_tokens=1, bank=bank)
        text = await refused(client, "ask", prompt=PROMPT, max_tokens=1, bank=bank)
    assert "RATE_LIMITED" in text and "retry after" in text


def test_a_tool_tells_what_went_wrong_and_nothing_of_what_is_unexpected() -> None:
    with pytest.raises(Exception, match=r"FULL: no room .retry after 2\.0 s"), mcp_server.told():
        raise ResourceExhausted("no room", "FULL", 2.0)
    with pytest.raises(Exception, match="UNKNOWN_FACT: none"), mcp_server.told():
        raise NotFound("none", "UNKNOWN_FACT")


def test_the_command_says_what_it_needs() -> None:
    code = "import sys; sys.modules['mcp'] = None; from larimar.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "mcp", "--json"],
        env=environment(), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["code"] == "NO_MCP"
    assert command("mcp", "--target", "nonsense", "--json", text=True).returncode == 2


def test_the_configurations_of_the_document_are_json_and_start_what_there_is() -> None:
    text = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    blocks = re.findall(r'^    \{"mcpServers".*?\}\}\}$', text, re.DOTALL | re.MULTILINE)
    started, called = (json.loads(block)["mcpServers"]["larimar"] for block in blocks)
    assert [started["command"], started["args"][0]] == ["larimar", "mcp"]
    known = typer.main.get_command(app).commands["mcp"].params  # type: ignore[attr-defined]
    options = {option for one in known for option in one.opts}
    assert {word for word in started["args"] if word.startswith("--")} <= options
    assert called["type"] == "http" and called["url"].endswith("/mcp")
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert named == {"write_fact", "ask", "forget_fact", "list_facts", "recall", "history"}
