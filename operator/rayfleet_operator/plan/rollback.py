"""Going back, by somebody's word, from the version that serves to one that had every request before.

The word is the annotation `rayfleet.io/rollback: <from>/<since>/<to>`: two model ids, and when the first one got every
request, all from `status.history`. So it is about one occasion: it holds while the URI means `from`, or nothing, and is
over for good once another version has got every request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.api.status import ModelDeploymentStatus, VersionOutcome
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan.conditions import Reason
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem, identity_of
from rayfleet_serving.config import ModelIdentity

ROLLBACK_ANNOTATION = "rayfleet.io/rollback"

HAD_ALL = ("Succeeded", "WentBack")
"""Outcomes of versions that had every request."""


@dataclass(frozen=True)
class Word:
    """What somebody said."""

    left: VersionOutcome
    """The version that is gone back from, as the history has it."""
    to: VersionOutcome | None
    """The one that is gone back to; None where nobody knows it."""


def word(said: str, status: ModelDeploymentStatus) -> Word | None:
    """What an annotation says; None where it says nothing, or is over."""
    model_id, _, rest = said.partition("/")
    since, _, to = rest.partition("/")
    newest = _newest(status)
    if newest is None or not to or to == model_id or (newest.model_id, newest.ended) != (model_id, since):
        return None
    return Word(newest, next((each for each in _had_all(status) if each.model_id == to), None))


def word_of(model: ModelDeployment) -> Word | None:
    """What the model's own annotation says."""
    return word(model.metadata.annotations.get(ROLLBACK_ANNOTATION, ""), model.status)


def earlier(status: ModelDeploymentStatus) -> list[tuple[str, str]]:
    """Versions that can be gone back to, the newest first, each with the annotation that says so: neither the one that
    has the requests nor the one that is gone back from, which is the one that the URI means."""
    newest = _newest(status)
    if newest is None or (status.resolved is not None and status.resolved.model_id != newest.model_id):
        return []
    own = [version for version in status.versions if version.weight > 0 and not version.traffic]
    out = {newest.model_id, *(version.model_id for version in own if len(own) == 1)}
    found: dict[str, tuple[str, str]] = {}
    for each in _had_all(status):
        if each.model_id not in out:
            found.setdefault(each.model_id, (each.version, f"{newest.model_id}/{newest.ended}/{each.model_id}"))
    return list(found.values())


def applied(
    models: Sequence[ModelDeployment], resolutions: Mapping[str, Resolution]
) -> tuple[list[ModelDeployment], dict[str, Resolution]]:
    """The models, and what their URIs mean, as somebody said. Going back is done at once, whatever the strategy."""
    meant, found = [], dict(resolutions)
    for model in models:
        name = model.metadata.name
        back = _back(model, resolutions.get(name))
        if back is not None:
            found[name] = back
            if back.reason == Reason.ROLLED_BACK:
                spec = model.spec.model_copy(update={"rollout": Rollout()})
                model = model.model_copy(update={"spec": spec})
        meant.append(model)
    return meant, found


def _back(model: ModelDeployment, resolution: Resolution | None) -> ResolutionProblem | None:
    """What is said instead of the resolution; None where nothing is."""
    said = word_of(model)
    meant = identity_of(resolution)
    if said is None or (meant is not None and meant.model_id != said.left.model_id):
        return None
    if isinstance(resolution, ResolutionProblem) and resolution.held:
        return None
    if said.to is None:
        text = f"{ROLLBACK_ANNOTATION} names a version that status.history does not know to have had every request"
        return ResolutionProblem(Reason.VERSION_UNKNOWN, text, meant) if meant is not None else None
    text = f"somebody went back from version {said.left.version} to {said.to.version}, until the URI means another"
    if isinstance(resolution, ResolutionProblem):
        text = f"{text}; {resolution.message}"
    return ResolutionProblem(Reason.ROLLED_BACK, text, _identity(said.to))


def _newest(status: ModelDeploymentStatus) -> VersionOutcome | None:
    """The version that got every request last, other than by going back to it."""
    return next((each for each in status.history if each.outcome == "Succeeded"), None)


def _had_all(status: ModelDeploymentStatus) -> list[VersionOutcome]:
    """The newest first; those of which it is known where they are."""
    return [each for each in status.history if each.outcome in HAD_ALL and each.artifact_uri]


def _identity(version: VersionOutcome) -> ModelIdentity:
    return ModelIdentity(
        version=version.version,
        model_id=version.model_id,
        artifact_uri=version.artifact_uri,
        digest=version.digest or None,
    )
