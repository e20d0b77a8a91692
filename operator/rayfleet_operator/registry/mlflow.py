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
import hashlib
import json
import re
from collections.abc import Iterable
from typing import NoReturn

from rayfleet_operator.registry.answers import (
    Files,
    Location,
    LoggedModelAnswer,
    LoggedModelInfo,
    LoggedModels,
    RegisteredModelAnswer,
    RegisteredModels,
    RunAnswer,
    RunInfo,
    Version,
    VersionAnswer,
    Versions,
)
from rayfleet_operator.registry.errors import (
    AliasNotFound,
    ArtifactNotFound,
    InvalidUri,
    ModelNotFound,
    RegistryError,
    RegistryUnreachable,
    RunNotFound,
    StageEmpty,
    VersionNotFound,
    VersionNotReady,
)
from rayfleet_operator.registry.known import KnownVersions
from rayfleet_operator.registry.server import NoSuchEndpoint, Rejection, TrackingServer
from rayfleet_operator.registry.uri import (
    LOGGED_MODEL_ID,
    AliasUri,
    FileUri,
    LatestUri,
    LoggedModelUri,
    RegistryUri,
    RunUri,
    StageUri,
    VersionUri,
    parse,
)
from rayfleet_serving.config import ModelIdentity

_LOGGED_MODEL_LOCATION = re.compile(r"/models/(m-[0-9a-f]{32})/artifacts/?$")
_NOT_IN_NAMES = set("/:.%\"'")
"""MLflow refuses these in a logged model's name, so that a name needs no escape in a filter."""
_OFFERS = 5
"""Names in a message that says what exists."""


class MlflowRegistry:
    """Resolves URIs against one server."""

    def __init__(self, server: TrackingServer, known: KnownVersions | None = None) -> None:
        """
        Args:
            known: of this very server; kept by who asks it again.
        """
        self._server = server
        self._known = known or KnownVersions()

    async def resolve(self, uri: RegistryUri) -> ModelIdentity:
        """The version that the URI means now.

        `version` is the registry version's number ("3"); for a logged model its id; for a run's artifacts the first
        12 hex digits of the key.

        Raises:
            RegistryError: each class says its case.
        """
        try:
            async with asyncio.timeout(self._server.bounds.total_s):
                return await self._resolve(uri)
        except TimeoutError:
            raise self._server.silent() from None
        except Rejection as rejection:
            if rejection.code == "INVALID_PARAMETER_VALUE":
                raise InvalidUri(f"MLflow at {self._server.uri} does not accept this: {rejection.message}") from None
            raise RegistryUnreachable(f"MLflow at {self._server.uri} answered {rejection}") from None

    async def _resolve(self, uri: RegistryUri) -> ModelIdentity:
        match uri:
            case LoggedModelUri(model_id):
                return await self._logged_model(model_id)
            case RunUri(run_id, path):
                return await self._run(run_id, path)
            case VersionUri(name, number):
                return await self._identify(await self._version(name, number))
            case AliasUri(name, alias):
                return await self._identify(await self._alias(name, alias))
            case StageUri(name, stage):
                return await self._identify(await self._newest(name, stage))
            case LatestUri(name):
                return await self._identify(await self._newest(name, None))

    async def _version(self, name: str, number: int) -> Version:
        try:
            found = await self._server.get("model-versions/get", {"name": name, "version": number}, VersionAnswer)
        except Rejection as rejection:
            if rejection.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            await self._explain(name, f"version {number}", VersionNotFound)
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

    async def _newest(self, name: str, stage: str | None) -> Version:
        body: dict[str, object] = {"name": name} if stage is None else {"name": name, "stages": [stage]}
        try:
            found = await self._server.post("registered-models/get-latest-versions", body, Versions)
        except Rejection as rejection:
            if rejection.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            await self._explain(name, "version", VersionNotFound)
        if not found.model_versions:
            if stage is None:
                await self._explain(name, "version", VersionNotFound)
            await self._explain(name, f"version in stage {stage}", StageEmpty)
        # Without a stage the answer holds the newest of each stage.
        return max(found.model_versions, key=lambda version: version.version)

    async def _explain(self, name: str, missing: str, error: type[RegistryError]) -> NoReturn:
        """Raises `error`, or ModelNotFound, saying what there is instead."""
        server = self._server
        try:
            answer = await server.get("registered-models/get", {"name": name}, RegisteredModelAnswer)
        except Rejection as rejection:
            if rejection.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            others = await server.get("registered-models/search", {"max_results": _OFFERS + 1}, RegisteredModels)
            names = _list(model.name for model in others.registered_models)
            has = f"It has {names}." if names else "It has no models at all."
            raise ModelNotFound(f"MLflow at {server.uri} has no registered model {name!r}. {has}") from None
        model = answer.registered_model
        newest = sorted(model.latest_versions, key=lambda version: version.version, reverse=True)
        versions = _list(f"{version.version} ({version.current_stage})" for version in newest)
        aliases = _list(f"{alias.alias} ({alias.version})" for alias in model.aliases)
        has = f"Newest version of each stage: {versions}; " if versions else "It has no versions; "
        raise error(
            f"Model {name!r} at MLflow {server.uri} has no {missing}. {has}aliases: {aliases or 'none'}."
        ) from None

    async def _identify(self, version: Version) -> ModelIdentity:
        server = self._server
        if version.status != "READY":
            raise VersionNotReady(
                f"Version {version.version} of {version.name!r} at MLflow {server.uri} is {version.status}, not READY"
                f"{f': {version.status_message}' if version.status_message else ''}."
            )
        known = self._known.get(version)
        if known is not None:
            return known
        where: dict[str, str | int] = {"name": version.name, "version": version.version}
        location = (await server.get("model-versions/get-download-uri", where, Location)).artifact_uri
        # Registered through the REST API, a run's path stays as it was written.
        if location.startswith("runs:/"):
            run_id, _, path = location.removeprefix("runs:/").partition("/")
            identity = await self._run(run_id, path)  # which can be written again, so it is not kept
            return identity.model_copy(update={"version": str(version.version)})
        key = await self._logged_model_behind(version.source, location) or _key(
            "version", server.uri, version.name, version.version, version.source, version.creation_timestamp
        )
        identity = ModelIdentity(version=str(version.version), model_id=key, artifact_uri=_plain(location))
        self._known.put(version, identity)
        return identity

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
        return self._ready(answer.model.info)

    def _ready(self, info: LoggedModelInfo) -> ModelIdentity:
        if info.status != "LOGGED_MODEL_READY":
            raise VersionNotReady(
                f"The logged model {info.model_id} at MLflow {self._server.uri} is {info.status}, "
                f"not LOGGED_MODEL_READY: its upload is under way or has failed."
            )
        return ModelIdentity(version=info.model_id, model_id=info.model_id, artifact_uri=_plain(info.artifact_uri))

    async def _run(self, run_id: str, path: str) -> ModelIdentity:
        server = self._server
        try:
            run = (await server.get("runs/get", {"run_id": run_id}, RunAnswer)).run.info
        except Rejection as rejection:
            if rejection.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RunNotFound(
                f"MLflow at {server.uri} has no run {run_id}. A run's id is not its name; its page shows the id."
            ) from None
        if run.lifecycle_stage == "deleted":
            raise RunNotFound(f"The run {run_id} at MLflow {server.uri} is deleted. Restore it, or name another run.")

        # MLflow's client, too, prefers a logged model of this name to the run's artifacts.
        logged = await self._logged_models(run.experiment_id, run_id, path)
        ready = [model for model in logged if model.status == "LOGGED_MODEL_READY"]
        if logged:
            return self._ready(max(ready or logged, key=lambda model: model.creation_timestamp_ms))

        files = await server.get("artifacts/list", {"run_id": run_id, "path": path}, Files)
        if f"{path}/MLmodel" not in {file.path for file in files.files}:
            await self._explain_run(run, run_id, path)
        mlmodel = await server.run_artifact(run_id, f"{path}/MLmodel")
        key = _key("run", server.uri, run_id, path, hashlib.sha256(mlmodel).hexdigest())
        version = key.removeprefix("sha256-")[:12]
        return ModelIdentity(version=version, model_id=key, artifact_uri=_plain(f"{run.artifact_uri}/{path}"))

    async def _logged_models(self, experiment_id: str, run_id: str, name: str | None = None) -> list[LoggedModelInfo]:
        """The run's newest logged models, of this name if one is given; none on a server older than MLflow 3."""
        if name is not None and _NOT_IN_NAMES & set(name):
            return []
        body = {
            "experiment_ids": [experiment_id],
            "filter": f"source_run_id = '{run_id}'" + (f" AND name = '{name}'" if name else ""),
            "order_by": [{"field_name": "creation_timestamp", "ascending": False}],
            "max_results": 50,
        }
        try:
            found = await self._server.post("logged-models/search", body, LoggedModels)
        except NoSuchEndpoint:
            return []
        return [model.info for model in found.models]

    async def _explain_run(self, run: RunInfo, run_id: str, path: str) -> NoReturn:
        names = [model.name for model in await self._logged_models(run.experiment_id, run_id)]
        names += [file.path for file in (await self._server.get("artifacts/list", {"run_id": run_id}, Files)).files]
        has = _list(dict.fromkeys(names))
        raise ArtifactNotFound(
            f"The run {run_id} at MLflow {self._server.uri} has no model at {path!r}: no logged model of this name, "
            f"and no MLmodel file there. {f'It has {has}.' if has else 'It has neither models nor artifacts.'}"
        )


def _key(*parts: str | int) -> str:
    return f"sha256-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def _plain(location: str) -> str:
    """A file: location as a path; anything else as the server gave it."""
    uri = parse(location) if location.startswith("file:") else None
    return str(uri.path) if isinstance(uri, FileUri) else location


def _list(names: Iterable[str]) -> str:
    """The first few names, and whether there are more."""
    every = list(names)
    return ", ".join(every[:_OFFERS]) + (", …" if len(every) > _OFFERS else "")
