"""What a changed ModelDeployment starts beside what it runs: before anybody has applied it, from the two specs alone.

A version is a Serve application, and a new one where its arguments or its resources change. What a URI means is for the
registry to say, so another URI counts as another version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.named import sized
from rayfleet_serving.config import ModelIdentity

OWN = ""
"""In place of a name: the model's own version."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What some replicas ask Ray for."""

    replicas: int = 0
    most: int = 0
    """As far as Serve's autoscaler may go."""
    cpus: float = 0.0
    gpus: float = 0.0
    memory: float = 0.0
    """Bytes."""

    def __add__(self, other: Need) -> Need:
        return Need(
            replicas=self.replicas + other.replicas,
            most=self.most + other.most,
            cpus=self.cpus + other.cpus,
            gpus=self.gpus + other.gpus,
            memory=self.memory + other.memory,
        )


@dataclass(frozen=True, kw_only=True)
class Succession:
    """What comes, what goes, and what all of it takes."""

    own: Need | None
    """Of the model's own new version; None where it goes on as it is."""
    named: Mapping[str, Need]
    """Of the new versions that its traffic names, by their names."""
    before: Need
    """Of all versions that the model has."""
    after: Need
    """Of all that it will have, once what goes is gone."""
    anew: Need
    """The same, where all of it starts: a version that was never loaded starts with one replica, also where it may
    sleep later."""
    other_uri: bool
    """The new version is one only if the registry says that the two URIs mean different ones."""


def succession(before: ModelDeployment | None, after: ModelDeployment) -> Succession:
    """`before` is None for a model that is new."""
    running = _entries(before, before) if before is not None else {}
    wanted = _entries(after, before)
    known = {entry["name"] for entry in running.values()}
    new = {name: _need(entry, least=1) for name, entry in wanted.items() if entry["name"] not in known}
    if before is not None and OWN in new:
        # Before it has every request it is as large as the version that has them.
        new[OWN] = _need(wanted[OWN], least=max(1, _runs(before)))
    return Succession(
        own=new.get(OWN),
        named={name: need for name, need in new.items() if name != OWN},
        before=sum(_once(running), Need()),
        after=sum(_once(wanted), Need()),
        anew=sum(_once(wanted, least=1), Need()),
        other_uri=before is not None and _source(before) != _source(after),
    )


def _entries(model: ModelDeployment, known: ModelDeployment | None) -> dict[str, dict[str, Any]]:
    """The Serve applications of a model's versions by their names in its traffic, as if each URI meant one version."""
    spec = model.spec
    entries = {OWN: serve_config.model_app(model, _identity(model, spec.model.uri, known))}
    for version in spec.traffic.versions if spec.traffic is not None else []:
        entries[version.name] = serve_config.model_app(sized(model, version), _identity(model, version.uri, known))
    return entries


def _identity(model: ModelDeployment, uri: str, known: ModelDeployment | None) -> ModelIdentity:
    """A version that the URI could mean. Where its files are is known of those that were resolved: only some locations
    are read through the tracking server, so that another address restarts replicas."""
    server = model.spec.model.registry.tracking_uri or ""
    resolved = [known.status.resolved, *known.status.traffic] if known is not None else []
    place = next((each.artifact_uri for each in resolved if each is not None and each.uri == uri), "mlflow-artifacts:/")
    return ModelIdentity(version=server, model_id=uri, artifact_uri=place)


def _source(model: ModelDeployment) -> tuple[str, str]:
    return model.spec.model.uri, model.spec.model.registry.tracking_uri or ""


def _runs(model: ModelDeployment) -> int:
    """Replicas of the version that has the requests, as far as the model's status says; 0 where it does not."""
    told = model.status.scaling
    if told is not None:
        return max(told.wanted, told.running)
    return model.spec.replicas if model.spec.autoscaling is None else 0


def _once(entries: Mapping[str, Mapping[str, Any]], least: int = 0) -> list[Need]:
    """Two names of one version are one application."""
    return [
        _need(entry, least=least)
        for entry in {entry["name"]: entry for entry in reversed([*entries.values()])}.values()
    ]


def _need(entry: Mapping[str, Any], *, least: int = 0) -> Need:
    """Of so many replicas at least, as far as the entry allows them."""
    (deployment,) = entry["deployments"]
    scaling = deployment.get("autoscaling_config")
    options = deployment["ray_actor_options"]
    if isinstance(scaling, Mapping):
        low = scaling.get("initial_replicas") or scaling.get("min_replicas") or 0
        most = scaling.get("max_replicas") or low
        low = max(low, min(most, least))
    else:
        low = most = deployment["num_replicas"]
    return Need(
        replicas=low,
        most=most,
        cpus=low * options.get("num_cpus", 0.0),
        gpus=low * options.get("num_gpus", 0.0),
        memory=low * options.get("memory", 0.0),
    )
