"""Keys, tenants and TLS on the HTTP port: the same as on the gRPC port, before a body is read."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from types import SimpleNamespace

import httpx2 as httpx
import openai
import pytest

from services.gateway import auth
from services.gateway.edge import Edge
from services.gateway.http.door import MAX_BODY_BYTES
from services.keys import MemoryKeys, new_key, split_key
from services.settings import Settings
from tests.command_line import free_port
from tests.gateway_calls import ANSWER, PROMPT
from tests.in_process import new_bank_name
from tests.served_http import ServedHttp, error_of
from tests.test_tls import Status, pki  # noqa: F401

KEYS = MemoryKeys()
FACT = {"prompt": PROMPT, "answer": ANSWER}


def shown(tenant: str, *scopes: str) -> str:
    """A key that counts."""
    key, text = new_key(tenant, scopes or ("read", "edit", "admin"), "")
    asyncio.run(KEYS.add(key))
    return text


@pytest.fixture(scope="module")
def served(weights) -> Iterator[ServedHttp]:
    with ServedHttp(weights, KEYS) as running:
        yield running


def client(served: ServedHttp, key: str = "") -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=served.url, headers=headers, timeout=120.0)


def test_without_a_good_key_only_health_answers(served) -> None:
    for key in ("", "lk_no", f"lk_{'0' * 16}_{'0' * 64}"):
        with client(served, key) as http:
            for path in ("/v1/banks", "/v1/nothing", "/mcp", "/mcp/x"):
                refused = http.get(path)
                assert refused.status_code == 401 and "www-authenticate" in refused.headers
                assert error_of(refused)["code"] == ("BAD_KEY" if key else "NO_KEY")
            for path in ("/healthz", "/readyz", "/openapi.json"):
                assert http.get(path).status_code == 200


def test_a_key_comes_in_either_header(served) -> None:
    with client(served) as http:
        assert http.get("/v1/banks", headers={"x-api-key": shown("a")}).status_code == 200
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="no", max_retries=0) as asking:
        with pytest.raises(openai.AuthenticationError) as caught:
            asking.models.list()
        assert caught.value.code == "BAD_KEY"
        assert asking.with_options(api_key=shown("a")).models.list().data


def test_a_key_opens_what_its_scopes_say(served) -> None:
    admin = shown("scoped", "admin")
    with client(served, admin) as http:
        assert http.post("/v1/banks", json={"bank": "one"}).status_code == 200
        refused = http.get("/v1/banks")
        assert (refused.status_code, error_of(refused)["code"]) == (403, "MISSING_SCOPE")
    with client(served, shown("scoped", "read")) as http:
        assert http.get("/v1/banks/one/facts").status_code == 200
        for path, body in (("/v1/banks/one/facts", FACT), ("/v1/banks", {"bank": "two"})):
            assert http.post(path, json=body).status_code == 403
        with (
            openai.OpenAI(base_url=f"{served.url}/v1", api_key=admin, max_retries=0) as asking,
            pytest.raises(openai.PermissionDeniedError),
        ):
            asking.completions.create(model="larimar/one", prompt=PROMPT)


def test_a_tenant_sees_nothing_of_another(served) -> None:
    name = new_bank_name()
    with client(served, shown("acme")) as acme, client(served, shown("other")) as other:
        acme.post("/v1/banks", json={"bank": name})
        assert acme.post(f"/v1/banks/{name}/facts", json=FACT).json()["version"] == 1
        assert error_of(other.get(f"/v1/banks/{name}/facts"))["code"] == "UNKNOWN_BANK"
        assert name not in other.get("/v1/banks").text and name not in other.get("/v1/models").text
        asked = other.post("/v1/completions", json={"model": f"larimar/{name}", "prompt": PROMPT})
        assert asked.status_code == 404
        streamed = {"prompt": PROMPT, "stream": True, "max_tokens": 4}
        assert other.post(f"/v1/banks/{name}/ask", json=streamed).status_code == 404
        assert "tar" in acme.post(f"/v1/banks/{name}/ask", json=streamed).text
        with acme.stream("GET", f"/v1/banks/{name}/events/stream") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "id: 1"


@pytest.mark.parametrize("scopes", [(), ("read",)])
def test_a_refused_call_is_answered_before_its_body_comes(served, scopes) -> None:
    key = f"authorization: Bearer {shown('slow', *scopes)}\r\n" if scopes else ""
    head = f"POST /v1/banks HTTP/1.1\r\nhost: x\r\n{key}content-length: {MAX_BODY_BYTES}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=120) as plain:
        plain.sendall(head.encode())
        assert plain.recv(4096).startswith(b"HTTP/1.1 403" if scopes else b"HTTP/1.1 401")


def test_a_revoked_key_is_refused_once_the_cache_is_over(served, monkeypatch) -> None:
    key = shown("revoked")
    with client(served, key) as http:
        assert http.get("/v1/banks").status_code == 200
        asyncio.run(KEYS.revoke(split_key(key)[0]))
        monkeypatch.setattr(auth, "CACHE_S", 0.0)
        assert error_of(http.get("/v1/banks"))["code"] == "BAD_KEY"


def test_a_revoked_key_reads_no_more_on_an_open_watch(served, monkeypatch) -> None:
    monkeypatch.setattr(auth, "CACHE_S", 0.0)
    key, name = shown("watched"), new_bank_name()
    with client(served, key) as http, client(served, shown("watched")) as other:
        other.post("/v1/banks", json={"bank": name})
        other.post(f"/v1/banks/{name}/facts", json=FACT)
        with http.stream("GET", f"/v1/banks/{name}/events/stream") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "id: 1"
            asyncio.run(KEYS.revoke(split_key(key)[0]))
            other.post(f"/v1/banks/{name}/facts", json=FACT)
            rest = [line for line in lines if line.startswith(("id", "event", "data"))]
    assert rest[1] == "event: error" and "BAD_KEY" in rest[2] and len(rest) == 3


def test_the_document_says_which_operations_need_a_key(served) -> None:
    with client(served) as http:
        paths = http.get("/openapi.json").json()["paths"]
    assert paths["/v1/banks"]["get"]["security"]
    assert "security" not in paths["/healthz"]["get"]


# TLS


@pytest.fixture
async def edge(tmp_path):
    """Starts an edge with some files of TLS; returns its HTTP port."""
    edges = []

    async def start(files: SimpleNamespace, client_ca: str = "") -> int:
        settings = Settings(
            data_dir=str(tmp_path),
            tls_cert=files.cert,
            tls_key=files.key,
            tls_client_ca=client_ca,
            http_port=free_port(),
            inbox_tenants=(),
        )
        edges.append(Edge(Status(), settings))
        await edges[-1].start("127.0.0.1:0")
        return settings.http_port

    yield start
    for one in edges:
        await one.stop()


def context(ca: str, files: SimpleNamespace | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=ca)
    if files is not None:
        made.load_cert_chain(files.cert, files.key)
    return made


async def get(port: int, trusted: ssl.SSLContext) -> httpx.Response:
    async with httpx.AsyncClient(verify=trusted, timeout=60.0) as http:
        return await http.get(f"https://127.0.0.1:{port}/v1/status")


async def test_the_http_port_speaks_tls_by_the_same_settings(edge, pki) -> None:  # noqa: F811
    port = await edge(pki.server)
    answered = await get(port, context(pki.ours))
    assert answered.json()["version"] == "tls"
    with pytest.raises(httpx.ConnectError):
        await get(port, context(pki.theirs))
    async with httpx.AsyncClient(timeout=60.0) as http:
        with pytest.raises(httpx.TransportError):
            await http.get(f"http://127.0.0.1:{port}/healthz")


async def test_with_client_certificates_only_those_of_the_authority(edge, pki) -> None:  # noqa: F811
    port = await edge(pki.server, pki.ours)
    answered = await get(port, context(pki.ours, pki.client))
    assert answered.json()["version"] == "tls"
    for files in (None, pki.foreign, pki.old_client):
        with pytest.raises(httpx.TransportError):
            await get(port, context(pki.ours, files))


async def test_a_used_http_port_is_named(tmp_path) -> None:
    from larimar.errors import Unavailable

    settings = Settings(data_dir=str(tmp_path), http_port=free_port(), inbox_tenants=())
    first, second = Edge(Status(), settings), Edge(Status(), settings)
    await first.start("127.0.0.1:0")
    with pytest.raises(Unavailable) as caught:
        await second.start("127.0.0.1:0")
    assert caught.value.reason == "PORT_IN_USE" and str(settings.http_port) in str(caught.value)
    await second.stop()
    await first.stop()
    async with httpx.AsyncClient(timeout=60.0) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://127.0.0.1:{settings.http_port}/healthz")


async def test_replicas_share_the_http_port(tmp_path) -> None:
    settings = Settings(data_dir=str(tmp_path), http_port=free_port(), inbox_tenants=())
    edges = [Edge(Status(), settings) for _ in range(2)]
    port = await edges[0].start("127.0.0.1:0", share_port=True)
    await edges[1].start(f"127.0.0.1:{port}", share_port=True)
    async with httpx.AsyncClient(timeout=60.0) as http:
        url = f"http://127.0.0.1:{settings.http_port}/healthz"
        assert (await http.get(url)).status_code == 200
        await edges[0].stop()
        assert (await http.get(url, headers={"connection": "close"})).status_code == 200
    await edges[1].stop()
