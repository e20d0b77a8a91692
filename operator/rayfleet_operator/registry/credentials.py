"""What rayfleet shows an MLflow server, under the names of MLflow's own environment variables."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password, or a bearer token; with both, user and password win, as in MLflow's client."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    origin: str = ""
    """Where they stand, for messages, as "the Secret 'mlflow'"; empty for the environment."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, origin: str = "") -> Credentials:
        """Reads MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN."""
        token = environ.get("MLFLOW_TRACKING_TOKEN", "").strip()  # a mounted secret often ends in a newline
        return cls(
            username=environ.get("MLFLOW_TRACKING_USERNAME") or None,
            password=environ.get("MLFLOW_TRACKING_PASSWORD") or None,
            token=token or None,
            origin=origin,
        )

    def headers(self) -> dict[str, str]:
        """The Authorization header, or nothing.

        Raises:
            ValueError: the token cannot stand in a header. Found out here, because the HTTP client's error for it
                repeats the token, and logs it.
        """
        if self.username is not None and self.password is not None:
            auth = httpx.BasicAuth(self.username, self.password)
            request = next(auth.auth_flow(httpx.Request("GET", "http://localhost")))
            return {"Authorization": request.headers["Authorization"]}
        if self.token is None:
            return {}
        if not (self.token.isascii() and self.token.isprintable()):
            raise ValueError("The token holds characters that HTTP forbids in a header.")
        return {"Authorization": f"Bearer {self.token}"}

    def __str__(self) -> str:
        """Who asks, fit for a message: a user's name, never a secret."""
        of = f" of {self.origin}" if self.origin else ""
        if self.username is not None and self.password is not None:
            return f"the user {self.username!r}{of}"
        return f"the token in MLFLOW_TRACKING_TOKEN{of}" if self.token is not None else "no credentials"


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server's certificate is checked."""

    insecure: bool = False
    """Accept any certificate."""
    server_cert_path: str | None = None
    """PEM file of the authority to trust instead of the public ones."""
    server_cert_pem: str | None = None
    """The same as text; it wins."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Tls:
        """Reads MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH."""
        return cls(
            insecure=environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"),
            server_cert_path=environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None,
        )

    def stamp(self) -> tuple[Tls, int]:
        """Another one means another `context`: a mounted file can be replaced while the process runs."""
        try:
            return self, os.stat(self.server_cert_path).st_mtime_ns if self.server_cert_path else 0
        except OSError:
            return self, 0

    def context(self) -> ssl.SSLContext:
        """
        Raises:
            OSError: `server_cert_path` or `server_cert_pem` cannot be read or holds no certificate.
        """
        if self.insecure:
            return httpx.create_ssl_context(verify=False)
        if self.server_cert_pem is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=_certificates(self.server_cert_pem))
            return context
        if self.server_cert_path is not None:
            return ssl.create_default_context(cafile=self.server_cert_path)
        return httpx.create_ssl_context()

    def __str__(self) -> str:
        """Where the certificates stand, for messages."""
        if self.server_cert_pem is not None:
            return "ca.crt of the ConfigMap that spec.model.registry.caConfigMapName names"
        return f"MLFLOW_TRACKING_SERVER_CERT_PATH {self.server_cert_path!r}"


_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")


def _certificates(pem: str) -> str:
    """The certificates in the text: people write names and comments between them, in any alphabet."""
    found = _CERTIFICATE.findall(pem)
    if not found:
        raise OSError("there is no -----BEGIN CERTIFICATE----- in it")
    return "\n".join(found) + "\n"


def address(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and path of a URL: what credentials belong to. Two paths of one host can be two people's
    servers, where an Ingress shares the host."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())
    return parts.scheme.lower(), (parts.hostname or "").lower(), port, parts.path.rstrip("/")
