"""One place that resolves any model: it knows which server, with which credentials, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType, TracebackType
from typing import Self, TypeVar

from rayfleet_operator.api.types import Model
from rayfleet_operator.plan.observed import Noted
from rayfleet_operator.registry import objects
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.addresses import usable
from rayfleet_operator.registry.connections import CONCURRENT, Connections
from rayfleet_operator.registry.credentials import Credentials, Tls, address
from rayfleet_operator.registry.errors import (
    ArtifactRefused,
    InvalidUri,
    RegistryError,
    RegistryUnreachable,
    ResolverFailed,
    TrackingUriMissing,
)
from rayfleet_operator.registry.files import Files
from rayfleet_operator.registry.mlflow import MlflowRegistry
from rayfleet_operator.registry.server import FIELD, Bounds, TrackingServer
from rayfleet_operator.registry.uri import FileUri, ModelUri, ObjectUri, RegistryUri, parse
from rayfleet_serving.config import ModelIdentity

ALL_S = 15.0
"""Seconds for all models of one call together, unless the caller says otherwise. No reconcile waits for them."""

VARIABLE = "MLFLOW_TRACKING_URI"
"""Names the server of models that name none."""

Outcome = ModelIdentity | Noted | RegistryError
Uri = TypeVar("Uri", bound=ModelUri)
Key = TypeVar("Key", bound=Hashable)
"""How the caller names models."""


class Resolver:
    """Resolves the models of any fleet. Keep one for as long as the process runs: it remembers the digests of files,
    and within `async with` the connections to servers."""

    def __init__(
        self,
        *,
        default_tracking_uri: str | None = None,
        credentials: Credentials | None = None,
        tls: Tls | None = None,
        environ: Mapping[str, str] | None = None,
        bounds: Bounds | None = None,
        all_s: float = ALL_S,
        local_files: bool = True,
        share_credentials: bool = True,
    ) -> None:
        """
        Args:
            default_tracking_uri: for models that name no tracking URI.
            credentials: shown at `default_tracking_uri` only, its path included; without a default, to every server or
                to none, as `share_credentials` says. A tracking URI comes from whoever writes a ModelDeployment, and
                must not collect them.
            tls: for every server, where a model does not bring its own.
            environ: where object stores' endpoints are looked up; obstore reads the rest from the process itself.
            bounds: for one model.
            all_s: for one call of `resolve_all`, in seconds.
            local_files: whether paths on this machine are looked at. Not on Kubernetes, where the pods' are others,
                and nobody who writes a ModelDeployment may look around in the operator's.
        """
        self._default = default_tracking_uri or None
        self._trusted: tuple[str, str, int | None, str] | None = None
        if self._default is not None:
            # A default that cannot be asked trusts nobody; models that need it are told why.
            with contextlib.suppress(InvalidUri):
                self._trusted = address(usable(self._default, VARIABLE))
        self._credentials = credentials or Credentials()
        self._tls = tls or Tls()
        self._environ = os.environ if environ is None else environ
        self._bounds = bounds or Bounds()
        self._all_s = all_s
        self._local_files = local_files
        self._share_credentials = share_credentials
        self._files = Files()
        self._kept: Connections | None = None

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        all_s: float = ALL_S,
        local_files: bool = True,
        share_credentials: bool = True,
    ) -> Resolver:
        """Configured by MLflow's own variables, MLFLOW_TRACKING_URI and those of `credentials`."""
        environ = os.environ if environ is None else environ
        return cls(
            default_tracking_uri=environ.get(VARIABLE),
            credentials=Credentials.from_environment(environ),
            tls=Tls.from_environment(environ),
            environ=environ,
            all_s=all_s,
            local_files=local_files,
            share_credentials=share_credentials,
        )

    async def __aenter__(self) -> Self:
        """From now on connections are kept between calls; within one event loop."""
        self._kept = Connections(self._bounds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.__aexit__(kind, error, trace)

    def tracking_uri(self, model: Model) -> str | None:
        """The tracking URI that holds for this model, without a slash at the end; None if none is named."""
        uri = model.registry.tracking_uri or self._default
        return uri.rstrip("/") if uri else None

    async def resolve_all(
        self,
        models: Mapping[Key, Model],
        access: Mapping[Key, Access] = MappingProxyType({}),
        before: Mapping[Key, str] = MappingProxyType({}),
    ) -> dict[Key, Outcome]:
        """Every model's version, or why there is none, in the order of `models`. One failure touches no other.

        Models with one URI on one server, asked in one way, are resolved once. Takes at most `all_s` seconds.

        Args:
            access: what a model shows its own server, instead of the credentials of the environment.
            before: the version that a model's URI meant before, where that is known; an error tells what became of it.
        """
        outcomes: dict[Key, Outcome] = {}
        registered: dict[tuple[str, Access], dict[RegistryUri, list[Key]]] = {}
        elsewhere: dict[str, dict[ObjectUri | FileUri, list[Key]]] = {}
        for key, model in models.items():
            try:
                uri = parse(model.uri)
                if isinstance(uri, FileUri) and not self._local_files:
                    raise ArtifactRefused(
                        f"{model.uri} is a path, and each pod has a disk of its own. On Kubernetes a model comes from "
                        f"a registry (models:/, runs:/) or an object store (s3://, gs://, az://, abfs://, abfss://)."
                    )
                if isinstance(uri, ObjectUri | FileUri):
                    elsewhere.setdefault(_storage(uri), {}).setdefault(uri, []).append(key)
                else:
                    server = self._server(model)
                    registered.setdefault((server, access.get(key, Access())), {}).setdefault(uri, []).append(key)
            except RegistryError as error:
                outcomes[key] = error

        deadline = asyncio.get_running_loop().time() + self._all_s
        async with self._connections() as connections:
            await asyncio.gather(
                *(
                    self._ask_server(connections, server, own, wanted, before, deadline, outcomes)
                    for (server, own), wanted in registered.items()
                ),
                *(
                    self._each(storage, wanted, self._look, asyncio.Semaphore(CONCURRENT), deadline, outcomes)
                    for storage, wanted in elsewhere.items()
                ),
            )
        return {key: outcomes[key] for key in models}

    @asynccontextmanager
    async def written_to(self, model: Model, own: Access, *, shared: bool) -> AsyncIterator[TrackingServer]:
        """The model's server, for as long as something is written there.

        Args:
            own: what the model shows its own server.
            shared: whether the environment's credentials are shown, too, where they are for reading.

        Raises:
            RegistryError: there is none that can be asked.
        """
        uri = self._server(model)
        async with self._connections() as connections:
            line = connections.to(uri, own.tls or self._tls)
            credentials = self._credentials_for(uri, own) if shared else own.credentials or Credentials()
            async with line.gate:
                yield TrackingServer(line.client, uri, credentials, self._bounds, permission="EDIT")

    @asynccontextmanager
    async def _connections(self) -> AsyncIterator[Connections]:
        """Those that are kept, or some for this once."""
        if self._kept is None:
            async with Connections(self._bounds) as connections:
                yield connections
        else:
            yield self._kept
            await self._kept.close_idle()

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
        return usable(uri, FIELD if model.registry.tracking_uri else VARIABLE)

    async def _ask_server(
        self,
        connections: Connections,
        uri: str,
        own: Access,
        wanted: Mapping[RegistryUri, list[Key]],
        before: Mapping[Key, str],
        deadline: float,
        outcomes: dict[Key, Outcome],
    ) -> None:
        try:
            line = connections.to(uri, own.tls or self._tls)
            server = TrackingServer(line.client, uri, self._credentials_for(uri, own), self._bounds)
            registry = MlflowRegistry(server, line.known)

            async def ask(each: RegistryUri) -> ModelIdentity | Noted:
                # What one of the models knows of the URI holds for all of them.
                return await registry.resolve(each, next((before[key] for key in wanted[each] if key in before), None))

            await self._each(uri, wanted, ask, line.gate, deadline, outcomes)
        except Exception as error:
            outcomes.update({key: _told(error) for keys in wanted.values() for key in keys})

    def _credentials_for(self, uri: str, own: Access) -> Credentials:
        """What the server at `uri` is shown: a model's own are its own server's alone, for `uri` is what it names."""
        if own.credentials is not None:
            return own.credentials
        if own.tls is not None:
            return Credentials()  # nobody but its owner may risk a credential to a server that a model alone trusts
        trusted = self._share_credentials if self._default is None else address(uri) == self._trusted
        return self._credentials if trusted else Credentials()

    async def _look(self, uri: ObjectUri | FileUri) -> ModelIdentity:
        if isinstance(uri, ObjectUri):
            return await objects.resolve(uri, self._environ, self._bounds)
        # Short of the time for all, so that the reason is the one of `Files`.
        return await self._files.resolve(uri.path, within_s=self._all_s * 0.9)

    async def _each(
        self,
        where: str,
        wanted: Mapping[Uri, list[Key]],
        ask: Callable[[Uri], Awaitable[ModelIdentity | Noted]],
        gate: asyncio.Semaphore,
        deadline: float,
        outcomes: dict[Key, Outcome],
    ) -> None:
        """Fills `outcomes` with what `ask` says of each URI until `deadline` on the loop's clock.

        Args:
            where: the server or the storage, for messages.
        """

        async def one(uri: Uri, keys: list[Key]) -> None:
            outcome: Outcome
            try:
                async with asyncio.timeout_at(deadline), gate:
                    outcome = await ask(uri)
            except TimeoutError:
                outcome = RegistryUnreachable(
                    f"{where} was not asked to the end: its {len(wanted)} models took more than {self._all_s:g} s."
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


def _storage(uri: ObjectUri | FileUri) -> str:
    """What may hang as one: a bucket, or this machine's disks."""
    return "/".join(uri.url.split("/")[:3]) if isinstance(uri, ObjectUri) else "The local disk"
