"""What rayfleet shows an MLflow server, under the names of MLflow's own environment variables."""

from __future__ import annotations

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

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Credentials:
        """Reads MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN."""
        token = environ.get("MLFLOW_TRACKING_TOKEN", "").strip()  # a mounted secret often ends in a newline
        return cls(
            username=environ.get("MLFLOW_TRACKING_USERNAME") or None,
            password=environ.get("MLFLOW_TRACKING_PASSWORD") or None,
            token=token or None,
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
        if self.username is not None and self.password is not None:
            return f"the user {self.username!r}"
        return "the token in MLFLOW_TRACKING_TOKEN" if self.token is not None else "no credentials"


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server's certificate is checked."""

    insecure: bool = False
    """Accept any certificate."""
    server_cert_path: str | None = None
    """PEM file of the authority to trust instead of the public ones."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Tls:
        """Reads MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH."""
        return cls(
            insecure=environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"),
            server_cert_path=environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None,
        )

    def context(self) -> ssl.SSLContext:
        """
        Raises:
            OSError: `server_cert_path` cannot be read or holds no certificate.
        """
        if self.server_cert_path is not None and not self.insecure:
            return ssl.create_default_context(cafile=self.server_cert_path)
        return httpx.create_ssl_context(verify=not self.insecure)


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL: what credentials belong to."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())
    return parts.scheme.lower(), (parts.hostname or "").lower(), port
