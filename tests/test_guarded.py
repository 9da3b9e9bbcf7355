"""The data path from outside: keys, TLS and the inbox on a whole pipeline; what is never unpickled
and what never reaches a log."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import time
from pathlib import Path

import pytest
import redis

import larimar
from larimar.aio import AsyncClient
from larimar.errors import LarimarError, PermissionDenied, Unauthenticated, Unavailable
from larimar.security import Security
from services.contracts import add_servicer
from services.gateway.auth import KeyInterceptor
from services.gateway.consumer import InboxConsumer
from services.inbox import MemoryInbox
from services.keys import MemoryKeys, new_key
from services.rpc import start_server
from services.store import socket_path_of
from tests.command_line import ROOT
from tests.events import event_json, eventually
from tests.pipelines import larimar as run
from tests.pipelines import pipeline
from tests.test_tls import pki  # noqa: F401

PACKAGES = ("larimar", "services", "training", "evaluation", "benchmarks")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "_pickle"}
SECRETS = {
    "prompt": "The zugunruhe of Quillon Overbrook is",
    "answer": "xylophonic",
    "rephrasing": "Overbrook's zugunruhe, they say, is",
}


def unsafe_loads(source: str) -> list[str]:
    """Ways in a source to make objects of bytes: picklers, loads without weights_only."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [name for name in names if name.split(".")[0] in UNPICKLERS]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called.endswith("torch.load") and words.get("weights_only") != "True":
                found.append(called)
            if called.endswith(("np.load", "numpy.load")) and words.get("allow_pickle") == "True":
                found.append(called)
            if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
                found.append(called)
    return found


def test_nothing_is_unpickled() -> None:
    files = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    assert len(files) > 60
    found = {str(path.relative_to(ROOT)): unsafe_loads(path.read_text()) for path in files}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch; torch.load(f)",
        "import torch; torch.load(f, weights_only=False)",
        "import numpy as np; np.load(f, allow_pickle=True)",
        "import yaml; yaml.load(f)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert unsafe_loads(source)
    assert not unsafe_loads("import torch; torch.load(f, weights_only=True)")


async def test_logs_hold_ids_and_neither_texts_nor_keys(pipeline_objects, caplog) -> None:
    """Good calls, refusals, poison and an unexpected failure, with every logger at its loudest."""
    keys, inbox = MemoryKeys(), MemoryInbox()
    servicer = pipeline_objects.gateway()._servicer
    servicer.inbox = inbox
    key, shown = new_key("default", ["read", "edit", "admin"], "a name")
    await keys.add(key)
    server, port = await start_server(
        "127.0.0.1:0", add_servicer("gateway", servicer), interceptors=[KeyInterceptor(keys)]
    )
    texts = list(SECRETS.values())
    written = {"prompt": texts[0], "answer": texts[1], "rephrasings": [texts[2]]}
    with caplog.at_level(logging.DEBUG):
        for name in ("larimar", "services"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        security = Security(api_key=shown)
        async with AsyncClient(f"127.0.0.1:{port}", timeout_s=120.0, security=security) as client:
            await client.create_bank("logs")
            await client.write(texts[0], texts[1], bank="logs", event_id="e", fact_id="known-id")
            await client.ask(texts[2], bank="logs", max_tokens=3)
            await client.score(texts[0], [texts[1]], bank="logs")
            for attempt in (
                lambda: client.write(texts[0], "another", bank="logs", event_id="e"),
                lambda: client.write(texts[0] * 1000, texts[1], bank="logs"),
                lambda: client.publish(event_json("x", bank="logs", unknown=texts[1], **written)),
                lambda: client.forget(texts[1], bank="logs"),
            ):
                with pytest.raises(LarimarError):
                    await attempt()
            await inbox.append("default", event_json("1", bank="logs", **written))
            await inbox.append("default", event_json("2", bank="gone", **written))
            await inbox.append("default", texts[0].encode())
            consumer = asyncio.create_task(InboxConsumer(servicer, inbox, "default").run())

            async def settled() -> bool:
                return await inbox.length("default") == 0

            await eventually(settled)
            consumer.cancel()
            await asyncio.gather(consumer, return_exceptions=True)
            revealed = Security(api_key=shown[:-1] + ("0" if shown[-1] != "0" else "1"))
            async with AsyncClient(f"127.0.0.1:{port}", security=revealed) as stranger:
                with pytest.raises(Unauthenticated):
                    await stranger.status()
    await server.stop(grace=0)
    logged = "\n".join(
        logging.Formatter("%(name)s %(message)s").format(record) for record in caplog.records
    )
    assert "UNKNOWN_BANK" in logged and "BAD_EVENT" in logged, "something was logged at all"
    for secret in (*texts, "zugunruhe", shown, shown.rsplit("_", 1)[1]):
        assert secret not in logged


@pytest.fixture
def pipeline_objects(request):
    """The session's pipeline, under a name that leaves `pipeline` to the processes."""
    return request.getfixturevalue("pipeline")


def xadd(data_dir: Path, tenant: str, event: bytes) -> None:
    """As a producer in the cluster does."""
    with redis.Redis(unix_socket_path=str(socket_path_of(data_dir))) as producer:
        producer.xadd(f"{{{tenant}}}:inbox", {"event": event})


def until(check, timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_guarded_pipeline_from_start_to_end(tmp_path, pki) -> None:  # noqa: F811
    """Keys and mTLS on the public port, the inbox, dead letters and a second pipeline's port."""
    data_dir = tmp_path / "data"
    made = run(
        "key", "create", "--data-dir", str(data_dir), "--scopes", "read,edit,admin", "--json"
    )
    key = json.loads(made.stdout)["key"]
    tls = ("--tls-cert", pki.server.cert, "--tls-key", pki.server.key, "--tls-client-ca", pki.ours)
    with pipeline(data_dir, "--no-ray", "--require-keys", *tls) as up:
        env = {
            "LARIMAR_TARGET": up.target,
            "LARIMAR_API_KEY": key,
            "LARIMAR_TLS_CA": pki.ours,
            "LARIMAR_TLS_CERT": pki.client.cert,
            "LARIMAR_TLS_KEY": pki.client.key,
        }
        log = (data_dir / "up.log").read_text()
        assert "ask for TLS with client certificates and API keys" in log
        secure = {"tls_ca": pki.ours, "tls_cert": pki.client.cert, "tls_key": pki.client.key}
        with larimar.connect(up.target, api_key=key, **secure) as client:
            client.write(SECRETS["prompt"], SECRETS["answer"], fact_id="f")
            assert [fact.answer for fact in client.facts()] == [SECRETS["answer"]]
            reader = json.loads(
                run(
                    "key", "create", "--data-dir", str(data_dir), "--scopes", "read", "--json"
                ).stdout
            )
            with larimar.connect(up.target, api_key=reader["key"], **secure) as second:
                assert second.digest().version == 1
                with pytest.raises(PermissionDenied):
                    second.forget("f")
                run("key", "revoke", reader["id"], "--data-dir", str(data_dir))
                until(lambda: _is_refused(second))
            with larimar.connect(up.target, api_key=key) as plain, pytest.raises(Unavailable):
                plain.digest()
            xadd(data_dir, "default", event_json("in", prompt=SECRETS["rephrasing"], answer="q"))
            xadd(data_dir, "default", event_json("no", bank="missing", prompt="p"))
            until(lambda: client.digest().version == 2)
            until(lambda: len(list(client.dead_letters())) == 1)
            listed = run("dead", "list", "--json", **env)
            (letter,) = json.loads(listed.stdout)["letters"]
            assert (letter["reason"], json.loads(letter["event"])["id"]) == ("UNKNOWN_BANK", "no")
            client.create_bank("missing")
            assert "1 requeued" in run("dead", "requeue", "--all", **env).stdout
            until(lambda: client.digest("missing").version == 1)
            events = tmp_path / "events.jsonl"
            events.write_bytes(b"\n".join([event_json("p1", prompt="p1"), b"{}", event_json(
                "p2", kind="forget", fact_id="f"), event_json("p3", bank="not-there", prompt="p")
            ]))  # fmt: skip
            published = run("publish", str(events), "--json", **env)
            assert published.returncode == 1
            lines = [json.loads(line) for line in published.stdout.splitlines()]
            assert sorted(line.get("id", "") for line in lines) == ["", "p1", "p2", "p3"]
            refused = {line["line"]: line["error"]["code"] for line in lines if "error" in line}
            assert refused == {2: "BAD_EVENT", 4: "UNKNOWN_BANK"}
            assert [fact.fact_id for fact in client.facts()].count("f") == 0
        other = run("up", "--detach", "--no-ray", "--data-dir", str(tmp_path / "other"),
                    "--port", str(up.port), "--http-port", "0")  # fmt: skip
        assert other.returncode == 1 and f"port {up.port} is in use" in other.stderr
    written = (data_dir / "up.log").read_bytes() + (data_dir / "store.log").read_bytes()
    for secret in (*SECRETS.values(), key, key.rsplit("_", 1)[1], reader["key"]):
        assert secret.encode() not in written


def _is_refused(client) -> bool:
    try:
        client.digest()
    except Unauthenticated:
        return True
    return False
