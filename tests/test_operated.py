"""A pipeline as its operator sees it: limits, audit log, the doctor, an assistant's tools."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

import larimar
from larimar.errors import ResourceExhausted
from tests.command_line import free_port
from tests.gateway_calls import ANSWER, PROMPT
from tests.pipelines import larimar as run
from tests.pipelines import pipeline


def key(data_dir: Path, tenant: str) -> dict:
    made = run("key", "create", "--tenant", tenant, "--data-dir", str(data_dir), "--json")
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.mark.timeout(600)
async def test_limits_audit_doctor_and_tools_of_a_running_pipeline(tmp_path: Path) -> None:
    settings, data, http_port = tmp_path / "settings.json", tmp_path / "data", free_port()
    limits = {"hasty": {"edits_per_s": 0.01, "edit_burst": 1}}
    settings.write_text(json.dumps({"tenant_limits": limits}))
    acme, hasty = key(data, "acme"), key(data, "hasty")
    options = ("--no-ray", "--require-keys", "--http-port", str(http_port))
    with pipeline(data, *options, LARIMAR_SETTINGS=str(settings)) as running:
        with larimar.connect(running.target, api_key=hasty["key"]) as client:
            client.write(PROMPT, ANSWER)
            with pytest.raises(ResourceExhausted) as caught:
                client.write(PROMPT, "another")
            assert caught.value.reason == "RATE_LIMITED" and caught.value.retry_after_s
        headers = {"authorization": f"Bearer {acme['key']}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=120.0) as http,
            Client(
                streamable_http_client(f"http://localhost:{http_port}/mcp", http_client=http)
            ) as assistant,
        ):
            fact = {"prompt": PROMPT, "answer": ANSWER, "fact_id": "f"}
            written = await assistant.call_tool("write_fact", fact)
            assert not written.is_error, written.content
            found = await assistant.call_tool("ask", {"prompt": PROMPT, "max_tokens": 2})
        assert found.structured_content is not None and found.structured_content["fact_id"] == "f"
        looked = run("doctor", "--data-dir", str(data), "--deep", "--json")
        findings = json.loads(looked.stdout)["findings"]
        faults = {one["check"]: one["found"] for one in findings if one["level"] == "FAIL"}
        assert faults == {} and looked.returncode == 0
        replayed = {one["found"].split(":")[0] for one in findings if one["check"] == "bank.digest"}
        assert replayed == {"acme/default", "hasty/default"}
        checks = {one["check"] for one in findings}
        assert {"pipeline.decoder", "store.appendfsync", "model.folder", "port.open"} <= checks
    lines = run("audit", "--data-dir", str(data), "--json").stdout.splitlines()
    said = [json.loads(line) for line in lines]
    assert [(one["tenant"], one["key"], one["action"]) for one in said] == [
        ("acme", "operator", "create key"),
        ("hasty", "operator", "create key"),
        ("hasty", hasty["id"], "create bank"),
        ("hasty", hasty["id"], "write"),
        ("acme", acme["id"], "create bank"),
        ("acme", acme["id"], "write"),
    ]
