"""MLflow's registry, runs and logged models: from a URI to an identity, in a few REST calls.

MLflow keeps no digest of a model, so an identity needs a key that never names two different things:

- A *logged model* (MLflow 3) has an id of its own, m-<32 hex digits>, made anew by every `log_model`. It is the key.
- A *registered version* mostly points to a logged model: its source is models:/m-…, or models:/name/2 for a copied
  version, which the server follows when the version is created. The version's own `model_id` stays empty.
- A version of any other source (a run's artifacts as MLflow 2 wrote them, an object store) gets
  "sha256-<64 hex digits>" over the server, the name, the number, the source and the time it was created. Deleting a
  registered model and registering it again starts the numbers at 1; time and source tell the two apart.
- A *run's artifacts* can be written again under the same path, so their key covers the content of the MLmodel file,
  in which MLflow puts a fresh id and time with every save.

An m-… that merely stands in a source's path is believed only when the server confirms that the logged model lives
there: otherwise anyone who may register a version could pass other bytes off as a cached model.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import NoReturn

from rayfleet_operator.plan.observed import Noted, Notice
from rayfleet_operator.registry import besides, notices, runs
from rayfleet_operator.registry.answers import (
    Location,
    LoggedModelAnswer,
    RegisteredModel,
    RegisteredModelAnswer,
    RegisteredModels,
    Version,
    VersionAnswer,
    Versions,
)
from rayfleet_operator.registry.errors import (
    AliasNotFound,
    InvalidUri,
    ModelNotFound,
    RegistryError,
    RegistryUnreachable,
    StageEmpty,
    VersionDeleted,
    VersionNotFound,
    VersionNotReady,
)
from rayfleet_operator.registry.keys import key, plain
from rayfleet_operator.registry.known import Known
from rayfleet_operator.registry.notices import OFFERS, listed
from rayfleet_operator.registry.server import NoSuchEndpoint, Rejection, TrackingServer
from rayfleet_operator.registry.uri import (
    LOGGED_MODEL_ID,
    AliasUri,
    LatestUri,
    LoggedModelUri,
    RegistryUri,
    RunUri,
    StageUri,
    VersionUri,
)
from rayfleet_serving.config import ModelIdentity

_LOGGED_MODEL_LOCATION = re.compile(r"/models/(m-[0-9a-f]{32})/artifacts/?$")


@dataclass(frozen=True)
class _Found:
    """A version, and the answers that it was found in."""

    identity: ModelIdentity
    notices: tuple[Notice, ...] = ()
    version: Version | None = None
    model: RegisteredModel | None = field(default=None, kw_only=True)
    """Of a stage."""


class MlflowRegistry:
    """Resolves URIs against one server."""

    def __init__(self, server: TrackingServer, known: Known | None = None) -> None:
        """
        Args:
            known: of this very server; kept by who asks it again.
        """
        self._server = server
        self._known = known or Known()

    async def resolve(self, uri: RegistryUri, before: str | None = None) -> ModelIdentity | Noted:
        """The version that the URI means now; `Noted` where there is something to be told of it.

        `version` is the registry version's number ("3"); for a logged model its id; for a run's artifacts the first
        12 hex digits of the key.

        Args:
            before: the `version` that this URI meant before. Where it means none any more, the error says what became
                of that one.

        Raises:
            RegistryError: each class says its case.
        """
        try:
            async with asyncio.timeout(self._server.bounds.total_s):
                found = await self._resolve(uri, before)
        except TimeoutError:
            raise self._server.silent() from None
        except Rejection as rejection:
            if rejection.code == "INVALID_PARAMETER_VALUE":
                raise InvalidUri(f"MLflow at {self._server.uri} does not accept this: {rejection.message}") from None
            raise RegistryUnreachable(f"MLflow at {self._server.uri} answered {rejection}") from None
        told = found.notices
        if found.version is not None:
            told += await besides.told(self._server, self._known, uri, found.version, found.identity, found.model)
        return Noted(found.identity, told) if told else found.identity

    async def _resolve(self, uri: RegistryUri, before: str | None) -> _Found:
        try:
            match uri:
                case LoggedModelUri(model_id):
                    return _Found(await self._logged_model(model_id))
                case RunUri(run_id, path):
                    noted = await runs.model_of(self._server, run_id, path)
                    return _Found(noted.identity, noted.notices)
                case VersionUri(name, number):
                    version = await self._version(name, number)
                    if version is None:
                        await self._explain(name, f"version {number}", VersionNotFound)
                    return await self._identify(version)
                case AliasUri(name, alias):
                    return await self._identify(await self._alias(name, alias))
                case StageUri(name, stage):
                    return await self._in_stage(name, stage)
                case LatestUri(name):
                    return await self._identify(await self._latest(name))
        except (VersionNotFound, AliasNotFound, StageEmpty) as error:
            raise await self._since(uri, before, error) from None

    async def _version(self, name: str, number: int) -> Version | None:
        try:
            found = await self._server.get("model-versions/get", {"name": name, "version": number}, VersionAnswer)
        except Rejection as rejection:
            if rejection.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return found.model_version

    async def _alias(self, name: str, alias: str) -> Version:
        try:
            found = await self._server.get("registered-models/alias", {"name": name, "alias": alias}, VersionAnswer)
        except Rejection as rejection:
            # A missing alias is a 400 to MLflow, a missing model a 404.
            if rejection.code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise
            await self._explain(name, f"alias {alias!r}", AliasNotFound)
        return found.model_version

    async def _in_stage(self, name: str, stage: str) -> _Found:
        """The highest version of those in the stage, as MLflow's own clients have it."""
        # The model itself is asked for, because its answer also tells when anything in its stages changed.
        model = await self._registered(name)
        newest = [version for version in model.latest_versions if version.current_stage == stage]
        if not newest:
            raise self._lacks(model, f"version in stage {stage}", StageEmpty)
        found = await self._identify(max(newest, key=lambda version: version.version))
        return _Found(found.identity, found.notices, found.version, model=model)

    async def _latest(self, name: str) -> Version:
        try:
            found = await self._server.post("registered-models/get-latest-versions", {"name": name}, Versions)
        except Rejection as rejection:
            if rejection.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            await self._explain(name, "version", VersionNotFound)
        if not found.model_versions:
            await self._explain(name, "version", VersionNotFound)
        # The answer holds the newest of each stage.
        return max(found.model_versions, key=lambda version: version.version)

    async def _registered(self, name: str) -> RegisteredModel:
        """Raises ModelNotFound, saying what there is instead."""
        server = self._server
        try:
            return (await server.get("registered-models/get", {"name": name}, RegisteredModelAnswer)).registered_model
        except Rejection as rejection:
            if rejection.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            others = await server.get("registered-models/search", {"max_results": OFFERS + 1}, RegisteredModels)
            names = listed(model.name for model in others.registered_models)
            has = f"It has {names}." if names else "It has no models at all."
            raise ModelNotFound(f"MLflow at {server.uri} has no registered model {name!r}. {has}") from None

    async def _explain(self, name: str, missing: str, error: type[RegistryError]) -> NoReturn:
        """Raises `error`, or ModelNotFound, saying what there is instead."""
        raise self._lacks(await self._registered(name), missing, error) from None

    def _lacks(self, model: RegisteredModel, missing: str, error: type[RegistryError]) -> RegistryError:
        newest = sorted(model.latest_versions, key=lambda version: version.version, reverse=True)
        versions = listed(f"{version.version} ({version.current_stage})" for version in newest)
        aliases = listed(f"{alias.alias} ({alias.version})" for alias in model.aliases)
        has = f"Newest version of each stage: {versions}; " if versions else "It has no versions; "
        return error(
            f"Model {model.name!r} at MLflow {self._server.uri} has no {missing}. {has}aliases: {aliases or 'none'}."
        )

    async def _since(self, uri: RegistryUri, before: str | None, error: RegistryError) -> RegistryError:
        """The error with what became of the version that the URI meant before."""
        if (
            before is None
            or not before.isdecimal()
            or not isinstance(uri, VersionUri | AliasUri | StageUri | LatestUri)
        ):
            return error
        gone = uri == VersionUri(uri.name, int(before))
        version = None if gone else await self._version(uri.name, int(before))
        if version is None:
            return VersionDeleted(notices.deleted(uri, before, self._server.uri))
        return type(error)(f"{error.message} {notices.moved(version, uri)}")

    async def _identify(self, version: Version) -> _Found:
        server = self._server
        if version.status != "READY":
            raise VersionNotReady(
                f"Version {version.version} of {version.name!r} at MLflow {server.uri} is {version.status}, not READY"
                f"{f': {version.status_message}' if version.status_message else ''}."
            )
        known = self._known.versions.get(version)
        if known is not None:
            return _Found(known, (), version)
        where: dict[str, str | int] = {"name": version.name, "version": version.version}
        location = (await server.get("model-versions/get-download-uri", where, Location)).artifact_uri
        # Registered through the REST API, a run's path stays as it was written.
        if location.startswith("runs:/"):
            run_id, _, path = location.removeprefix("runs:/").partition("/")
            noted = await runs.model_of(server, run_id, path)  # which can be written again, so it is not kept
            return _Found(noted.identity.model_copy(update={"version": str(version.version)}), (), version)
        model_id = await self._logged_model_behind(version.source, location) or key(
            "version", server.uri, version.name, version.version, version.source, version.creation_timestamp
        )
        identity = ModelIdentity(version=str(version.version), model_id=model_id, artifact_uri=plain(location))
        self._known.versions.put(version, identity)
        return _Found(identity, (), version)

    async def _logged_model_behind(self, source: str, location: str) -> str | None:
        """The id of the logged model that a version points to, where the server vouches for it."""
        model_id = source.removeprefix("models:/")
        if model_id != source and LOGGED_MODEL_ID.fullmatch(model_id):
            return model_id
        found = _LOGGED_MODEL_LOCATION.search(location)
        if not found:
            return None
        try:
            answer = await self._server.get(f"logged-models/{found[1]}", {}, LoggedModelAnswer)
        except (Rejection, NoSuchEndpoint):
            return None
        return found[1] if answer.model.info.artifact_uri.rstrip("/") == location.rstrip("/") else None

    async def _logged_model(self, model_id: str) -> ModelIdentity:
        server = self._server
        try:
            answer = await server.get(f"logged-models/{model_id}", {}, LoggedModelAnswer)
        except Rejection as rejection:
            if rejection.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise ModelNotFound(
                f"MLflow at {server.uri} has no logged model {model_id}, or it was deleted. "
                f"log_model returns the id, and the run's page shows it."
            ) from None
        return runs.ready(server, answer.model.info)
