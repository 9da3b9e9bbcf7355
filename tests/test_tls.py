"""TLS and mTLS on the public port, with certificates made here; limits of a connection; ports."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from larimar import security as security_module
from larimar.aio import AsyncClient
from larimar.client import Client
from larimar.errors import FailedPrecondition, InvalidArgument, Unauthenticated, Unavailable
from larimar.security import Security
from larimar.v1 import larimar_pb2, larimar_pb2_grpc
from services import private
from services.gateway.edge import Edge, server_credentials
from services.private import port_held, probe_sockets
from services.rpc import MAX_METADATA_BYTES
from services.settings import Settings
from services.up import ask_status
from tests.command_line import ROOT, command, environment, free_port

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / f"{name}.pem"
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        made = (
            self._builder(self._name, self._key, NOW + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key, ends: datetime.datetime):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 10 * DAY)
            .not_valid_after(ends)
        )

    def issue(self, name: str, ends=NOW + DAY, host: str = "127.0.0.1") -> SimpleNamespace:
        """Certificate and key of a server or client."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName("localhost")] if host == "127.0.0.1" else []
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
        made = (
            self._builder(subject, key, ends)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = SimpleNamespace(
            cert=str(self._folder / f"{name}.crt"), key=str(self._folder / f"{name}.key")
        )
        Path(files.cert).write_bytes(made.public_bytes(serialization.Encoding.PEM))
        Path(files.key).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("pki")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    return SimpleNamespace(
        ours=str(ours.ca),
        theirs=str(theirs.ca),
        server=ours.issue("server"),
        expired=ours.issue("expired", NOW - DAY),
        elsewhere=ours.issue("elsewhere", host="10.1.2.3"),
        client=ours.issue("client"),
        foreign=theirs.issue("foreign"),
        old_client=ours.issue("old-client", NOW - DAY),
    )


class Status(larimar_pb2_grpc.LarimarServicer):
    """A gateway that says that it is there."""

    inbox = None
    condition = None

    def end_watches(self) -> None:
        """There are none."""

    async def GetStatus(self, request, grpc_context):
        return larimar_pb2.GetStatusResponse(
            services=[larimar_pb2.ServiceInfo(name="gateway", ready=True)], version="tls"
        )


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at why there is no connection may take its time: the server is in this process."""
    monkeypatch.setattr(security_module, "PROBE_S", 30.0)


@pytest.fixture
async def serve(tmp_path) -> AsyncIterator:
    """Starts an edge with some files of TLS; returns its target and settings."""
    edges = []

    async def start(files: SimpleNamespace | None, client_ca: str = "") -> tuple[str, Settings]:
        settings = Settings(
            data_dir=str(tmp_path),
            tls_cert=files.cert if files else "",
            tls_key=files.key if files else "",
            tls_client_ca=client_ca,
            http_port=0,
            inbox_tenants=(),
        )
        edges.append(Edge(Status(), settings))
        return f"127.0.0.1:{await edges[-1].start('127.0.0.1:0')}", settings

    yield start
    for edge in edges:
        await edge.stop()


async def version(target: str, patience_s: float = 1.0, **security) -> str:
    """What both clients get: the same answer, or the same error.

    Args:
        patience_s: how long they try to connect.
    """
    terms = {"timeout_s": 60.0, "connect_timeout_s": patience_s, "security": Security(**security)}

    def blocking():
        with Client(target, **terms) as client:
            return client.status().version

    try:
        first = await asyncio.to_thread(blocking)
    except Exception as error:
        with pytest.raises(type(error)) as caught:
            async with AsyncClient(target, **terms) as client:
                await client.status()
        assert str(caught.value) == str(error)
        raise
    async with AsyncClient(target, **terms) as client:
        assert (await client.status()).version == first
    return first


async def test_a_client_that_trusts_the_certificate_is_served(serve, pki) -> None:
    target, _ = await serve(pki.server)
    assert await version(target, 30.0, tls_ca=pki.ours) == "tls"


async def test_a_plain_client_is_told_that_the_port_speaks_tls(serve, pki) -> None:
    target, _ = await serve(pki.server)
    with pytest.raises(Unavailable, match="speaks TLS: connect with tls_ca") as caught:
        await version(target)
    assert caught.value.reason == "NEEDS_TLS"


async def test_a_tls_client_is_told_that_the_port_speaks_plain_text(serve, pki) -> None:
    target, _ = await serve(None)
    with pytest.raises(Unavailable, match="does not answer in TLS") as caught:
        await version(target, tls_ca=pki.ours)
    assert caught.value.reason == "NO_TLS"


@pytest.mark.parametrize(
    ("shown", "trusted", "why"),
    [
        ("server", "theirs", "unable to get local issuer|self.signed"),
        ("expired", "ours", "expired"),
        ("elsewhere", "ours", "IP address mismatch"),
        ("server", None, "unable to get local issuer|self.signed"),
    ],
)
async def test_a_certificate_that_is_not_accepted_is_explained(
    serve, pki, shown, trusted, why
) -> None:
    target, _ = await serve(getattr(pki, shown))
    with pytest.raises(Unavailable, match=why) as caught:
        await version(target, tls_ca=getattr(pki, trusted) if trusted else "system")
    assert caught.value.reason == "BAD_CERTIFICATE"


async def test_with_client_certificates_only_those_of_the_authority_are_served(serve, pki) -> None:
    target, _ = await serve(pki.server, pki.ours)
    good = {"tls_cert": pki.client.cert, "tls_key": pki.client.key}
    assert await version(target, 30.0, tls_ca=pki.ours, **good) == "tls"
    with pytest.raises(Unauthenticated, match="asks for a client certificate"):
        await version(target, tls_ca=pki.ours)
    for files in (pki.foreign, pki.old_client):
        with pytest.raises(Unauthenticated, match="does not accept the client certificate"):
            await version(target, tls_ca=pki.ours, tls_cert=files.cert, tls_key=files.key)


async def test_where_nobody_listens_it_is_said_with_and_without_tls(pki) -> None:
    for security in ({}, {"tls_ca": pki.ours}):
        with pytest.raises(Unavailable, match="nothing answers"):
            await version(f"127.0.0.1:{free_port()}", **security)


async def test_the_supervisors_look_needs_neither_certificate_nor_key(serve, pki) -> None:
    _, settings = await serve(pki.server, pki.ours)
    (path,) = probe_sockets(settings.data_dir)
    assert path.parent.stat().st_mode & 0o077 == 0
    found = await asyncio.to_thread(ask_status, settings.data_dir)
    assert [one.name for one in found] == ["gateway"]
    assert await asyncio.to_thread(ask_status, "/somewhere/else") is None


def test_files_that_are_no_pair_are_refused_before_anything_starts(pki, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    for more in (
        {"tls_cert": pki.server.cert},
        {"tls_client_ca": pki.ours},
        {"tls_cert": str(empty), "tls_key": pki.server.key},
        {"tls_cert": "/not/there", "tls_key": pki.server.key},
    ):
        with pytest.raises(FailedPrecondition) as caught:
            server_credentials(Settings(**more))
        assert caught.value.reason == "BAD_TLS"
    for more in ({"tls_cert": "c"}, {"tls_cert": "c", "tls_key": "k"}):
        with pytest.raises(InvalidArgument):
            Security(**more)
    with pytest.raises(InvalidArgument):
        Security(tls_ca="/not/there").credentials()


def test_the_command_finds_key_and_files_in_the_environment(pki) -> None:
    target = f"localhost:{free_port()}"
    done = command(
        "status", "--json", "--target", target, text=True,
        env=environment(LARIMAR_TLS_CA="/not/there"),
    )  # fmt: skip
    assert done.returncode == 1 and "cannot read /not/there" in done.stderr
    done = command(
        "status", "--json", "--target", target, text=True, env=environment(LARIMAR_API_KEY="a b")
    )
    assert done.returncode == 1 and "BAD_KEY" in done.stderr and "a b" not in done.stderr


# Limits before anything is allocated


async def test_metadata_past_the_limit_is_refused_and_others_go_on(serve) -> None:
    target, _ = await serve(None)
    async with grpc.aio.insecure_channel(target) as channel:
        stub = larimar_pb2_grpc.LarimarStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(
                larimar_pb2.GetStatusRequest(), metadata=(("x-filler", "x" * MAX_METADATA_BYTES),)
            )
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.GetStatus(larimar_pb2.GetStatusRequest())).version == "tls"


# Ports


async def test_a_second_server_on_a_port_does_not_start(serve) -> None:
    target, settings = await serve(None)
    with pytest.raises(Unavailable) as caught:
        await Edge(Status(), settings).start(target)
    assert caught.value.reason == "PORT_IN_USE"
    assert await version(target, 30.0) == "tls"


async def test_replicas_of_one_gateway_share_their_port_and_no_other_joins(tmp_path) -> None:
    edges = [
        Edge(Status(), Settings(data_dir=str(tmp_path), http_port=0, inbox_tenants=()))
        for _ in range(2)
    ]
    port = await edges[0].start("127.0.0.1:0", share_port=True)
    other = Edge(Status(), Settings(data_dir=str(tmp_path), http_port=0, inbox_tenants=()))
    with pytest.raises(Unavailable):
        await other.start(f"127.0.0.1:{port}")
    for edge in edges:
        await edge.stop()


HOLDER = """
import sys, time
from services.private import port_held
with port_held(int(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_port_is_one_pipelines_until_that_one_ends() -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(port)], stdout=subprocess.PIPE, cwd=ROOT
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Unavailable, match="another pipeline"), port_held(port):
            pass
        with port_held(free_port()):
            pass
        holder.kill()
    with port_held(port):
        pass


def test_a_private_folder_that_others_may_use_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(private, "MAX_BASE_CHARS", 200)
    monkeypatch.setattr(private.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = private.private_folder()
    folder.chmod(0o755)
    with pytest.raises(FailedPrecondition, match="not a private folder"):
        private.private_folder()


def test_sockets_of_ended_gateways_are_removed(tmp_path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    stale = private.probe_socket(str(tmp_path), ended.pid)
    stale.touch()
    assert probe_sockets(str(tmp_path)) == [] and not stale.exists()
