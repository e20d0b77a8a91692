"""Models of runs: what `runs:/<run id>/<path>` means, from the run's logged models or from its artifacts."""

from __future__ import annotations

import hashlib
from typing import NoReturn

from rayfleet_operator.plan.observed import Noted
from rayfleet_operator.registry import notices
from rayfleet_operator.registry.answers import Files, LoggedModelInfo, LoggedModels, RunAnswer, RunInfo
from rayfleet_operator.registry.errors import ArtifactNotFound, RunNotFound, VersionNotReady
from rayfleet_operator.registry.keys import key, plain
from rayfleet_operator.registry.server import NoSuchEndpoint, Rejection, TrackingServer
from rayfleet_serving.config import ModelIdentity

_NOT_IN_NAMES = set("/:.%\"'")
"""MLflow refuses these in a logged model's name, so that a name needs no escape in a filter."""


async def model_of(server: TrackingServer, run_id: str, path: str) -> Noted:
    """The run's newest logged model of the name `path`, or else the model among its artifacts there.

    Raises:
        RunNotFound, ArtifactNotFound, VersionNotReady: see there.
        Rejection, RegistryError: as `TrackingServer.get` does.
    """
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
    logged = await _logged_models(server, run.experiment_id, run_id, path)
    done = [model for model in logged if model.status == "LOGGED_MODEL_READY"]
    if logged:
        info = max(done or logged, key=lambda model: model.creation_timestamp_ms)
        told = notices.of_run(run, run_id, path, info.creation_timestamp_ms, info.model_id)
        return Noted(ready(server, info), tuple(told))

    files = await server.get("artifacts/list", {"run_id": run_id, "path": path}, Files)
    if f"{path}/MLmodel" not in {file.path for file in files.files}:
        await _explain(server, run, run_id, path)
    mlmodel = await server.run_artifact(run_id, f"{path}/MLmodel")
    model_id = key("run", server.uri, run_id, path, hashlib.sha256(mlmodel).hexdigest())
    version = model_id.removeprefix("sha256-")[:12]
    identity = ModelIdentity(version=version, model_id=model_id, artifact_uri=plain(f"{run.artifact_uri}/{path}"))
    return Noted(identity, tuple(notices.of_run(run, run_id, path, notices.written_ms(mlmodel), None)))


def ready(server: TrackingServer, info: LoggedModelInfo) -> ModelIdentity:
    """Raises VersionNotReady."""
    if info.status != "LOGGED_MODEL_READY":
        raise VersionNotReady(
            f"The logged model {info.model_id} at MLflow {server.uri} is {info.status}, "
            f"not LOGGED_MODEL_READY: its upload is under way or has failed."
        )
    return ModelIdentity(version=info.model_id, model_id=info.model_id, artifact_uri=plain(info.artifact_uri))


async def _logged_models(
    server: TrackingServer, experiment_id: str, run_id: str, name: str | None = None
) -> list[LoggedModelInfo]:
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
        found = await server.post("logged-models/search", body, LoggedModels)
    except NoSuchEndpoint:
        return []
    return [model.info for model in found.models]


async def _explain(server: TrackingServer, run: RunInfo, run_id: str, path: str) -> NoReturn:
    names = [model.name for model in await _logged_models(server, run.experiment_id, run_id)]
    names += [file.path for file in (await server.get("artifacts/list", {"run_id": run_id}, Files)).files]
    has = notices.listed(dict.fromkeys(names))
    raise ArtifactNotFound(
        f"The run {run_id} at MLflow {server.uri} has no model at {path!r}: no logged model of this name, "
        f"and no MLmodel file there. {f'It has {has}.' if has else 'It has neither models nor artifacts.'}"
    )
