"""Which rendered cluster a fleet should have: the one kept for its inputs, or a new one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from rayfleet_operator.api.fleet import GpuSharing, ModelFleetSpec
from rayfleet_operator.render.names import INPUTS_ANNOTATION, annotation
from rayfleet_operator.render.raycluster import elastic

Json = dict[str, Any]

SHARING: GpuSharing = "TimeSlicing"
"""How GPUs are shared where neither the fleet nor the administrator says so."""

KEPT = 3
"""Revisions to keep for each fleet; more where more clusters are still there."""

_IN_PLACE = ("routers", "gpuSharing", "progressDeadline")
"""Fields of a ModelFleet's spec that no pod knows of."""
_SIZES = ("minReplicas", "maxReplicas", "gpuMemory")
"""Fields of a worker group that change no pod."""
_BY_NAME = ("workerGroups", "env")
"""Lists that have no order."""


def inputs_digest(spec: Mapping[str, Any], restart: str) -> str:
    """Digest of what a person wrote: the fleet's spec without defaults, and the restart annotation's value.

    Neither administrators' defaults are in it nor those that the API server writes into specs: they hold for fleets,
    and for specs, that come after them. The latter would make other inputs of every fleet's, the day that a release
    brings a new field.

    Raises:
        ValidationError: it is no spec of a ModelFleet.
    """
    fleet = ModelFleetSpec.model_validate(spec)
    written = written_fields(fleet)
    written = {key: value for key, value in written.items() if key not in _IN_PLACE}
    for field in _BY_NAME:
        if field in written:
            written[field] = sorted(written[field], key=lambda item: str(item["name"]))
    if "imagePullSecrets" in written:
        written["imagePullSecrets"] = sorted(written["imagePullSecrets"])
    if "workerGroups" in written:
        written["workerGroups"] = [
            {key: value for key, value in group.items() if key not in _SIZES} for group in written["workerGroups"]
        ]
        written["elastic"] = elastic(fleet)
    text = json.dumps([written, restart], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def written_fields(model: BaseModel) -> Json:
    """The fields that say something other than their defaults. One whose default is a factory is none that the API
    server writes, so it counts as soon as it is there: an administrator's default may be another."""
    found: Json = model.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    every = model.model_dump(mode="json", by_alias=True)
    for name in model.model_fields_set:
        field, value = type(model).model_fields[name], getattr(model, name)
        key = field.alias or name
        if isinstance(value, BaseModel):
            found |= {key: inner} if (inner := written_fields(value)) else {}
        elif field.default_factory is not None and value not in ([], {}):
            found.setdefault(key, every[key])
    return found


def newest(revisions: Sequence[Json]) -> Json | None:
    return max(revisions, key=lambda each: int(each["revision"]), default=None)


def current(revisions: Sequence[Json], ray_service: Json | None) -> Json | None:
    """The revision that the live RayService was made from; where that is not known, the newest."""
    inputs = annotation(ray_service, INPUTS_ANNOTATION)
    return (kept(revisions, inputs) if inputs else None) or newest(revisions)


def kept(revisions: Sequence[Json], inputs: str) -> Json | None:
    """The revision for these inputs."""
    return next((each for each in revisions if annotation(each, INPUTS_ANNOTATION) == inputs), None)


def rendered(revisions: Sequence[Json], ray_service: Json | None, inputs: str) -> Json | None:
    """The cluster that stands for these inputs: the one that was kept, or that of the RayService, where the revision
    itself was deleted. None where it is to be rendered; without a RayService no pod is bound to what was once."""
    if ray_service is None:
        return None
    found: Json
    existing = kept(revisions, inputs)
    if existing is not None:
        found = existing["data"]["rayClusterConfig"]
        return found
    if annotation(ray_service, INPUTS_ANNOTATION) != inputs:
        return None
    found = ray_service["spec"]["rayClusterConfig"]
    return found


def sharing(revisions: Sequence[Json], inputs: str) -> GpuSharing | None:
    """What the administrator said of `gpuSharing` when these inputs were rendered; None where that was not kept. No pod
    knows of it, but a fleet's models do: another default must not start those of every fleet anew."""
    existing = kept(revisions, inputs)
    if existing is None:
        return None
    return "MPS" if existing["data"].get("gpuSharing") == "MPS" else SHARING


def surplus(revisions: Sequence[Json], used: Collection[str]) -> list[Json]:
    """Revisions that are not needed any more: all but the `used` inputs', and the newest of the others."""
    others = [each for each in revisions if annotation(each, INPUTS_ANNOTATION) not in used]
    return sorted(others, key=lambda each: -int(each["revision"]))[KEPT - 1 :]
