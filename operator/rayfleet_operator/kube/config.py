"""Where the API server is and how to prove who we are: a pod's service account, or a kubeconfig.

lightkube reads the files. Tokens are read here, because two HTTP clients need them: this package's and kopf's.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, SERVICE_ACCOUNT, KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError as LightkubeError

TOKEN_AGE_S = 60.0
"""The kubelet replaces a token long before it expires; client-go reads the file once a minute too."""


class ConfigError(Exception):
    """There is no usable configuration; the message names the file and what is wrong with it."""


class Credentials:
    """The Authorization header, if any: client certificates travel in the TLS context instead."""

    def __init__(
        self,
        *,
        token_file: Path | None = None,
        header: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token_file = token_file
        self._header = header
        self._clock = clock
        self._read_at = float("-inf")

    async def header(self, *, refused: str | None = None) -> str | None:
        """The header's value. `refused` is one that the API server did not accept: another one may be there by now."""
        stale = self._clock() - self._read_at > TOKEN_AGE_S
        if self._token_file is not None and (stale or (refused is not None and refused == self._header)):
            self._header = f"Bearer {await asyncio.to_thread(_read_token, self._token_file)}"
            self._read_at = self._clock()
        return self._header


@dataclass(frozen=True)
class Connection:
    """One API server and one user."""

    server: str
    """https://host:port, with a path where a proxy stands before several API servers; without a slash at the end."""
    tls: ssl.SSLContext
    credentials: Credentials


def load(kubeconfig: str | None) -> Connection:
    """The given kubeconfig; without one the pod's service account, and without that ~/.kube/config.

    Raises:
        ConfigError: nothing usable is there.
    """
    try:
        if kubeconfig is not None:
            return _connection(KubeConfig.from_file(kubeconfig), kubeconfig)
        if Path(SERVICE_ACCOUNT, "token").is_file():
            return _connection(KubeConfig.from_service_account(), f"the service account in {SERVICE_ACCOUNT}")
        if Path(DEFAULT_KUBECONFIG).expanduser().is_file():
            return _connection(KubeConfig.from_file(DEFAULT_KUBECONFIG), DEFAULT_KUBECONFIG)
    except LightkubeError as error:
        raise ConfigError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError, OSError, yaml.YAMLError) as error:
        # What a kubeconfig can lack is many things, and its content must not be shown.
        where = kubeconfig or "the pod's or the default configuration"
        raise ConfigError(f"{where} cannot be used: {type(error).__name__}: {_without_content(error)}") from error
    raise ConfigError(
        f"no API server is known: this is no pod with a service account, KUBECONFIG is not set, and there is no "
        f"{DEFAULT_KUBECONFIG}"
    )


def _connection(config: KubeConfig, source: str) -> Connection:
    single = config.get()
    if single is None:
        raise ConfigError(f"{source} has no current context")
    user = single.user
    if user is None:
        raise ConfigError(f"{source}: the context {single.context_name!r} names no user")
    if user.exec is not None or user.auth_provider is not None:
        raise ConfigError(
            f"{source}: the user of context {single.context_name!r} gets credentials from a plugin, which the "
            f"operator cannot run; use a service account's token (kubectl create token) or a client certificate"
        )
    return Connection(
        server=single.cluster.server.rstrip("/"),
        tls=verify_cluster(single.cluster, user, single.abs_file, trust_env=False),
        credentials=_credentials(single),
    )


def _credentials(config: SingleConfig) -> Credentials:
    user = config.user
    assert user is not None  # noqa: S101 - checked by the caller
    if user.token_file is not None:
        return Credentials(token_file=Path(config.abs_file(user.token_file)))
    if user.token is not None:
        return Credentials(header=f"Bearer {user.token.strip()}")
    if user.username and user.password:
        pair = base64.b64encode(f"{user.username}:{user.password}".encode()).decode()
        return Credentials(header=f"Basic {pair}")
    return Credentials()


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read: {error.strerror}") from error
    if not token:
        raise ConfigError(f"the token file {path} is empty")
    return token


def _without_content(error: Exception) -> str:
    """Only errors that speak of files and names: others may quote a key or a token."""
    return (
        str(error) if isinstance(error, KeyError | OSError | LightkubeError) else "it has another form than it should"
    )
