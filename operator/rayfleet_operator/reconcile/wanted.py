"""What people ask of one fleet: its ModelFleet, its models, and what the administrator says for all fleets."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from rayfleet_operator.api.base import UNKNOWN_FIELD
from rayfleet_operator.api.fleet import ModelFleet, ModelFleetSpec, of_several
from rayfleet_operator.api.problems import described
from rayfleet_operator.api.status import ModelFleetStatus
from rayfleet_operator.api.types import Metadata, ModelDeployment
from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.keys import model_fleet
from rayfleet_operator.plan.conditions import Reason
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.render import objects
from rayfleet_operator.render.names import RESTART_ANNOTATION, FleetName, annotation
from rayfleet_operator.render.revision import written_fields

if TYPE_CHECKING:
    # `rayfleet diff` and `capacity` come this way, and the client needs what only the operator's extra brings.
    from rayfleet_operator.kube.client import KubeClient

Json = dict[str, Any]

Api = TypeVar("Api", bound=BaseModel)

MAX_UNKNOWN = 8
"""Levels of unknown fields that are looked through."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Everything that people wrote about one fleet."""

    name: FleetName
    fleet: Json | None
    """The ModelFleet; None where a model has a fleet of its own."""
    models: Mapping[str, Json]
    """Its ModelDeployments that are not being deleted, by name."""
    strangers: Mapping[str, Json]
    """Those that name a ModelFleet which is not there: by its name there is only a model with a fleet of its own, and
    nobody else shares that."""
    own: Json | None
    """The model that has this fleet for its own, by leaving `spec.fleet` out."""
    elsewhere: Json | None
    """The ModelDeployment of the fleet's name that names another fleet now."""

    @property
    def exists(self) -> bool:
        """Whether there should be a fleet."""
        return self.fleet is not None or self.own is not None

    @property
    def ready(self) -> bool:
        """Whether the status of the fleet, or of the model whose own it is, says that it answers."""
        found = ((self.fleet or self.own or {}).get("status") or {}).get("conditions") or []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in found)

    @property
    def owners(self) -> list[Json]:
        return [objects.owner(each) for each in (self.fleet, self.own) if each is not None]

    @property
    def written(self) -> Mapping[str, Any]:
        """The ModelFleet's spec as it was written; {} without one."""
        return (self.fleet or {}).get("spec") or {}

    @property
    def said(self) -> Json:
        """The same as far as it says something: without defaults that the API server wrote into it.

        Raises:
            ValidationError: it is no spec.
        """
        return written_fields(ModelFleetSpec.model_validate(known_fields(self.written)))

    @property
    def restart(self) -> str:
        """Value of the restart annotation; "" without one."""
        return annotation(self.fleet or self.own, RESTART_ANNOTATION)


async def read(client: KubeClient, name: FleetName) -> Wanted:
    """Raises KubeError."""
    fleet, own, members = await asyncio.gather(
        client.get(kinds.MODEL_FLEET, name.namespace, name.name),
        client.get(kinds.MODEL_DEPLOYMENT, name.namespace, name.name),
        # Not what the API server has in memory: a model that is missing there would be taken out of service.
        client.list(kinds.MODEL_DEPLOYMENT, name.namespace, fields=f"spec.fleet={name.name}", cached=False),
    )
    names_other = own is not None and model_fleet(own) != name.name
    elsewhere = own if names_other and own is not None and _alive(own) else None
    # A model may also name itself; where there is no such ModelFleet, that is the same as naming none.
    is_own = own is not None and _alive(own) and model_fleet(own) == name.name
    shared = fleet is not None and _alive(fleet)
    named = {each["metadata"]["name"]: each for each in members if _alive(each)}
    models = named if shared or not is_own else {}
    if is_own and own is not None:
        models = {**models, name.name: own}
    return Wanted(
        name=name,
        fleet=fleet if shared else None,
        models=dict(sorted(models.items())),
        strangers={each: obj for each, obj in named.items() if each not in models},
        own=own if is_own else None,
        elsewhere=elsewhere,
    )


async def moving(client: KubeClient, asked: Wanted, served: Iterable[str]) -> dict[str, Json]:
    """Models that this fleet serves and that name another one now, where they do not answer yet. Raises KubeError."""
    names = sorted(set(served) - asked.models.keys())
    found = await asyncio.gather(*(client.get(kinds.MODEL_DEPLOYMENT, asked.name.namespace, each) for each in names))
    there = {each: obj for each, obj in zip(names, found, strict=True) if obj is not None and _alive(obj)}
    return {each: obj for each, obj in there.items() if model_fleet(obj) != asked.name.name and not answers(obj)}


def answers(model: Json) -> bool:
    """Whether the ModelDeployment's status says of today's spec that the model answers, and nothing of its own version
    is under way."""
    found = (model.get("status") or {}).get("conditions") or []
    current = [each for each in found if each.get("observedGeneration") == model["metadata"]["generation"]]
    by_type = {each["type"]: each for each in current}
    ready, progressing = by_type.get("Ready"), by_type.get("Progressing")
    return (
        ready is not None
        and ready["status"] == "True"
        and progressing is not None
        and progressing["reason"] in (Reason.SETTLED, Reason.TRAFFIC_PENDING)
    )


def _alive(obj: Json) -> bool:
    return obj["metadata"].get("deletionTimestamp") is None


def parsed(models: Mapping[str, Json]) -> tuple[list[ModelDeployment], dict[str, ResolutionProblem]]:
    """The models, and why some cannot be read: one that was written under other rules than today's. Such a model stands
    in the list with its name and nothing else, so that what it has goes on."""
    good: list[ModelDeployment] = []
    problems: dict[str, ResolutionProblem] = {}
    for name, obj in models.items():
        try:
            good.append(_read(obj))
        except ValidationError as error:
            problems[name] = ResolutionProblem(Reason.INVALID_SPEC, described(error), held=True)
            good.append(_bare(obj))
    return good, problems


def _bare(obj: Json) -> ModelDeployment:
    """A model of which only the name is known, and what was said of it before."""
    metadata = obj["metadata"]
    known = {"name": metadata["name"], "namespace": metadata["namespace"], "generation": metadata["generation"]}
    bare = {"metadata": {"name": "unknown"}, "spec": {"model": {"uri": "models:/unknown/1"}}}
    try:
        model = ModelDeployment.model_validate({**bare, "status": obj.get("status") or {}})
    except ValidationError:
        model = ModelDeployment.model_validate(bare)
    # Even its name may be one that there could be under other rules.
    return model.model_copy(update={"metadata": Metadata.model_construct(**known)})


def _read(obj: Json) -> ModelDeployment:
    """The model, without spec fields that this operator does not know: definitions may be newer than it, and the API
    server fills in their defaults.

    Raises:
        ValidationError: what is left is none.
    """
    return _validated(ModelDeployment, obj)[0]


def known_fields(written: Mapping[str, Any]) -> Json:
    """A ModelFleet's spec without the fields that this operator does not know, as with a model's.

    Raises:
        ValidationError: what is left is none.
    """
    return _validated(ModelFleetSpec, dict(written))[1]


def _validated(api_type: type[Api], obj: Json) -> tuple[Api, Json]:
    """The object, and what it was made of: all but unknown fields."""
    for _ in range(MAX_UNKNOWN):
        try:
            return api_type.model_validate(obj), obj
        except ValidationError as error:
            unknown = [
                detail["loc"]
                for detail in error.errors(include_url=False)
                if detail.get("ctx", {}).get("message") == UNKNOWN_FIELD
            ]
            if not unknown:
                raise
            obj = copy.deepcopy(obj)
            for path in unknown:
                _drop(obj, path)
    return api_type.model_validate(obj), obj


def _drop(obj: Any, path: tuple[int | str, ...]) -> None:
    for step in path[:-1]:
        obj = obj[step]
    obj.pop(path[-1], None)


def with_server(model: ModelDeployment, server: str | None) -> ModelDeployment:
    """The model with the tracking server that is asked for it, which its pods must be told as well."""
    registry = model.spec.model.registry
    if registry.tracking_uri == server:
        return model
    filled = model.spec.model.model_copy(update={"registry": registry.model_copy(update={"tracking_uri": server})})
    return model.model_copy(update={"spec": model.spec.model_copy(update={"model": filled})})


def said(written: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were not left out: an empty one says nothing."""
    return {name: value for name, value in written.items() if value not in (None, [], {})}


def fleet_spec(written: Mapping[str, Any], defaults: Mapping[str, Any]) -> ModelFleetSpec:
    """What was written, and the administrator's defaults for each field that was left out; of `head` and `routers`,
    field by field.

    Raises:
        ValidationError: together they are no spec.
    """
    given = said(written)
    together = {**defaults, **given}
    for name in ("head", "routers"):
        if isinstance(given.get(name), Mapping) and isinstance(defaults.get(name), Mapping):
            together[name] = {**defaults[name], **given[name]}
    return of_several(together)


def fleet_status(fleet: Json) -> ModelFleetStatus:
    """What was written into it before."""
    return ModelFleetStatus.model_validate(fleet.get("status") or {})


def as_fleet(name: FleetName, obj: Json | None) -> ModelFleet:
    """The fleet for the planner, without its spec; `obj` is its ModelFleet where there is one.

    Raises:
        ValidationError: none may have this name.
    """
    metadata = obj["metadata"] if obj is not None else {"name": name.name, "namespace": name.namespace}
    return ModelFleet.model_validate({"metadata": metadata, "status": (obj or {}).get("status") or {}})
