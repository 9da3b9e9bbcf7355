"""How a connection proves who it is, and whom it trusts: API key and TLS."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from larimar.errors import InvalidArgument, LarimarError, Unauthenticated, Unavailable

SYSTEM = "system"
"""In the place of a file: the authorities that this machine trusts."""
PROBE_S = 1.0
"""Time of each look at why a target cannot be reached."""

_KEY = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Security:
    """What a connection shows and trusts. Files are PEM files."""

    api_key: str | None = None
    tls_ca: str | None = None
    """Authorities of the pipeline's certificate, or `SYSTEM`; None connects in plain text."""
    tls_cert: str | None = None
    """Certificate that the pipeline is shown, with its chain."""
    tls_key: str | None = None

    def __post_init__(self) -> None:
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            raise InvalidArgument("the API key is not one: it begins with lk_", "BAD_KEY")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgument("give tls_cert and tls_key together", "BAD_TLS")
        if self.tls_cert is not None and self.tls_ca is None:
            raise InvalidArgument(
                f"a client certificate needs TLS: give tls_ca too, a file or {SYSTEM!r}", "BAD_TLS"
            )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Of a channel; None for plain text. Raises: InvalidArgument, a file cannot be used."""
        if self.tls_ca is None:
            return None
        authorities = None if self.tls_ca == SYSTEM else _read(self.tls_ca)
        key = _read(self.tls_key) if self.tls_key else None
        chain = _read(self.tls_cert) if self.tls_cert else None
        return grpc.ssl_channel_credentials(authorities, key, chain)

    def context(self) -> ssl.SSLContext:
        """The same for a socket."""
        cafile = None if self.tls_ca in (None, SYSTEM) else self.tls_ca
        context = ssl.create_default_context(cafile=cafile)
        context.set_alpn_protocols(["h2"])
        if self.tls_cert:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        if self.tls_ca is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


OPEN = Security()
"""Plain text and no key."""


def _read(name: str) -> bytes:
    try:
        text = Path(name).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"cannot read {name}: {error.strerror}", "BAD_TLS") from None
    if b"-----BEGIN " not in text:
        raise InvalidArgument(f"{name} is no PEM file", "BAD_TLS")
    return text


def why_unreachable(target: str, security: Security) -> LarimarError:
    """Why no call gets through to a target: nobody is there, or TLS stands between.

    Cost: up to three times PROBE_S; nothing is sent but a greeting of TLS.
    """
    nobody = Unavailable(f"nothing answers at {target}; start it with `larimar up`")
    if target.startswith("unix:"):
        return nobody
    host, _, port = target.rpartition("/")[2].rpartition(":")
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), PROBE_S) as plain:
            plain.settimeout(PROBE_S)
            with security.context().wrap_socket(plain, server_hostname=host) as wrapped:
                if security.tls_ca is None:
                    return Unavailable(
                        f"{target} speaks TLS: connect with tls_ca=FILE, or set LARIMAR_TLS_CA",
                        "NEEDS_TLS",
                    )
                return nobody if _is_greeted(wrapped) else _unwanted(target, security)
    except ssl.SSLCertVerificationError as error:
        return Unavailable(
            f"the certificate of {target} is not accepted: {error.verify_message}",
            "BAD_CERTIFICATE",
        )
    except ssl.SSLError as error:
        if security.tls_ca is None:
            return Unavailable(f"what listens at {target} is no pipeline", "NO_PIPELINE")
        return Unavailable(
            f"{target} does not answer in TLS ({error.reason}): connect without tls_ca if it "
            "serves in plain text",
            "NO_TLS",
        )
    except OSError:
        return nobody


def _is_greeted(wrapped: ssl.SSLSocket) -> bool:
    """Whether the other side goes on once it has seen, or missed, our certificate.

    In TLS 1.3 it refuses only after our handshake is done, and may just hang up.
    """
    try:
        return bool(wrapped.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False


def _unwanted(target: str, security: Security) -> Unauthenticated:
    if security.tls_cert is None:
        return Unauthenticated(
            f"{target} asks for a client certificate: connect with tls_cert and tls_key",
            "NEEDS_CLIENT_CERTIFICATE",
        )
    return Unauthenticated(
        f"{target} does not accept the client certificate: it is expired, or of another authority",
        "BAD_CLIENT_CERTIFICATE",
    )
