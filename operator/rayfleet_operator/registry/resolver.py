"""One place that resolves any model: it knows which server, with which credentials, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from rayfleet_operator.api.types import Model
from rayfleet_operator.registry import objects
from rayfleet_operator.registry.credentials import Credentials, Tls, origin
from rayfleet_operator.registry.errors import (
    InvalidUri,
    RegistryError,
    RegistryUnreachable,
    ResolverFailed,
    TrackingUriMissing,
)
from rayfleet_operator.registry.files import Files
from rayfleet_operator.registry.mlflow import MlflowRegistry
from rayfleet_operator.registry.server import FIELD, Bounds, connect
from rayfleet_operator.registry.uri import FileUri, ModelUri, ObjectUri, RegistryUri, parse
from rayfleet_serving.config import ModelIdentity

CONCURRENT = 8
"""Resolutions at a time for one server, so that one that hangs costs its own models' time only."""
ALL_S = 15.0
"""Seconds for all models together: what a reconcile may wait for registries."""

VARIABLE = "MLFLOW_TRACKING_URI"
"""Names the server of models that name none."""

Outcome = ModelIdentity | RegistryError
Uri = TypeVar("Uri", bound=ModelUri)


class Resolver:
    """Resolves the models of a fleet. Keep one for as long as the process runs: it remembers the digests of files."""

    def __init__(
        self,
        *,
        default_tracking_uri: str | None = None,
        credentials: Credentials | None = None,
        tls: Tls | None = None,
        environ: Mapping[str, str] | None = None,
        bounds: Bounds | None = None,
        all_s: float = ALL_S,
    ) -> None:
        """
        Args:
            default_tracking_uri: for models that name no tracking URI.
            credentials: shown to the server of `default_tracking_uri` only; without a default, to every server. A
                tracking URI comes from whoever writes a ModelDeployment, and must not collect them.
            environ: where object stores' endpoints are looked up; obstore reads the rest from the process itself.
            bounds: for one model.
            all_s: for one call of `resolve_all`, in seconds.
        """
        self._default = default_tracking_uri or None
        self._trusted: tuple[str, str, int | None] | None = None
        if self._default is not None:
            # A default that cannot be asked trusts nobody; models that need it are told why.
            with contextlib.suppress(InvalidUri):
                self._trusted = origin(_usable(self._default, VARIABLE))
        self._credentials = credentials or Credentials()
        self._tls = tls or Tls()
        self._environ = os.environ if environ is None else environ
        self._bounds = bounds or Bounds()
        self._all_s = all_s
        self._files = Files()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Resolver:
        """Configured by MLflow's own variables, MLFLOW_TRACKING_URI and those of `credentials`."""
        environ = os.environ if environ is None else environ
        return cls(
            default_tracking_uri=environ.get(VARIABLE),
            credentials=Credentials.from_environment(environ),
            tls=Tls.from_environment(environ),
            environ=environ,
        )

    def tracking_uri(self, model: Model) -> str | None:
        """The tracking URI that holds for this model, without a slash at the end; None if none is named."""
        uri = model.registry.tracking_uri or self._default
        return uri.rstrip("/") if uri else None

    async def resolve(self, model: Model) -> ModelIdentity:
        """
        Raises:
            RegistryError: each class says its case.
        """
        outcome = (await self.resolve_all({"": model}))[""]
        if isinstance(outcome, RegistryError):
            raise outcome
        return outcome

    async def resolve_all(self, models: Mapping[str, Model]) -> dict[str, Outcome]:
        """Every model's version, or why there is none, in the order of `models`. One failure touches no other.

        Models with one URI on one server are resolved once. Takes at most `all_s` seconds.
        """
        outcomes: dict[str, Outcome] = {}
        registered: dict[str, dict[RegistryUri, list[str]]] = {}
        elsewhere: dict[str, dict[ObjectUri | FileUri, list[str]]] = {}
        for key, model in models.items():
            try:
                uri = parse(model.uri)
                if isinstance(uri, ObjectUri | FileUri):
                    elsewhere.setdefault(_place(uri), {}).setdefault(uri, []).append(key)
                else:
                    server = self._server(model)
                    registered.setdefault(server, {}).setdefault(uri, []).append(key)
            except RegistryError as error:
                outcomes[key] = error

        deadline = asyncio.get_running_loop().time() + self._all_s
        await asyncio.gather(
            *(self._ask_server(server, wanted, deadline, outcomes) for server, wanted in registered.items()),
            *(self._each(place, wanted, self._look, deadline, outcomes) for place, wanted in elsewhere.items()),
        )
        return {key: outcomes[key] for key in models}

    def _server(self, model: Model) -> str:
        """The tracking URI that holds for this model, if it is one that can be asked over HTTP.

        Raises:
            TrackingUriMissing, InvalidUri: see there.
        """
        uri = self.tracking_uri(model)
        if uri is None:
            raise TrackingUriMissing(
                f"{model.uri} is resolved by an MLflow server, and none is named. "
                f"Set {FIELD}, or {VARIABLE} in the environment."
            )
        return _usable(uri, FIELD if model.registry.tracking_uri else VARIABLE)

    async def _ask_server(
        self, uri: str, wanted: Mapping[RegistryUri, list[str]], deadline: float, outcomes: dict[str, Outcome]
    ) -> None:
        trusted = self._default is None or origin(uri) == self._trusted
        credentials = self._credentials if trusted else Credentials()
        try:
            async with connect(uri, credentials=credentials, tls=self._tls, bounds=self._bounds) as server:
                await self._each(uri, wanted, MlflowRegistry(server).resolve, deadline, outcomes)
        except Exception as error:
            outcomes.update({key: _told(error) for keys in wanted.values() for key in keys})

    async def _look(self, uri: ObjectUri | FileUri) -> ModelIdentity:
        if isinstance(uri, ObjectUri):
            return await objects.resolve(uri, self._environ, self._bounds)
        # Short of the time for all, so that the reason is the one of `Files`.
        return await self._files.resolve(uri.path, within_s=self._all_s * 0.9)

    async def _each(
        self,
        place: str,
        wanted: Mapping[Uri, list[str]],
        ask: Callable[[Uri], Awaitable[ModelIdentity]],
        deadline: float,
        outcomes: dict[str, Outcome],
    ) -> None:
        """Fills `outcomes` with what `ask` says of each URI until `deadline` on the loop's clock."""
        gate = asyncio.Semaphore(CONCURRENT)

        async def one(uri: Uri, keys: list[str]) -> None:
            outcome: Outcome
            try:
                async with asyncio.timeout_at(deadline), gate:
                    outcome = await ask(uri)
            except TimeoutError:
                outcome = RegistryUnreachable(
                    f"{place} was not asked to the end: its {len(wanted)} models took more than {self._all_s:g} s."
                )
            except Exception as error:
                outcome = _told(error)
            outcomes.update(dict.fromkeys(keys, outcome))

        await asyncio.gather(*(one(uri, keys) for uri, keys in wanted.items()))


def _told(error: Exception) -> RegistryError:
    """The error as an outcome. Raised, one that nobody foresaw would take every other model's outcome away."""
    if isinstance(error, RegistryError):
        return error
    return ResolverFailed(f"Asking for it failed: {type(error).__name__}: {str(error)[:300]}")


def _place(uri: ObjectUri | FileUri) -> str:
    """What may hang as one: a bucket, or this machine's disks."""
    return "/".join(uri.url.split("/")[:3]) if isinstance(uri, ObjectUri) else "The local disk"


def _usable(tracking_uri: str, named: str) -> str:
    """The tracking URI itself, if it is one that can be asked over HTTP. `named` says where it stands.

    Raises:
        InvalidUri: see there.
    """
    try:
        parts = urlsplit(tracking_uri)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable:
        raise InvalidUri(
            f"{named} is {_shown(tracking_uri)!r}, which is no address of an MLflow server: http://host:port or "
            f"https://host. A database or a folder becomes one with: mlflow server --backend-store-uri sqlite:///….db"
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidUri(
            f"{named} {_shown(tracking_uri)!r} holds credentials, a query or a fragment, and it would be shown in "
            f"statuses and logs. Put credentials in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            f"MLFLOW_TRACKING_TOKEN."
        )
    return tracking_uri


def _shown(uri: str) -> str:
    """The URI without user, password, query and fragment: databases' URIs hold passwords as well."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", uri)[0])
