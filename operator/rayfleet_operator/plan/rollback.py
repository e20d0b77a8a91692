"""Going back, by somebody's word, from the version that the URI means to one that had every request before.

The word is the annotation `rayfleet.io/rollback: <from>/<to>`, both as the registry calls them. It holds as long as the
URI means `from`; so it needs no end, and a version that is registered afterwards takes over as always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan.conditions import Reason
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem, identity_of
from rayfleet_serving.config import ModelIdentity

ROLLBACK_ANNOTATION = "rayfleet.io/rollback"


def annotated(version: str, to: str) -> str:
    """What says that requests go back from one version to another, as the registry calls them."""
    return f"{version}/{to}"


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


def earlier(status: ModelDeploymentStatus) -> list[ModelIdentity]:
    """Versions that had every request and can be gone back to, the newest first. The one that has them now is not among
    them, nor is the one that the URI means."""
    now = {version.model_id for version in status.versions if version.weight == 100}
    now |= {status.resolved.model_id} if status.resolved is not None else set()
    found = {each.model_id: each for each in reversed(_had_all(status)) if each.model_id not in now}
    return list(reversed(found.values()))


def _back(model: ModelDeployment, resolution: Resolution | None) -> ResolutionProblem | None:
    """What is said instead of the resolution; None where nothing is."""
    meant = identity_of(resolution)
    version, _, to = model.metadata.annotations.get(ROLLBACK_ANNOTATION, "").partition("/")
    if meant is None or version != meant.version or to in ("", version):
        return None
    known = next((each for each in _had_all(model.status) if each.version == to), None)
    if known is None:
        text = f"{ROLLBACK_ANNOTATION} asks for version {to}, and status.history knows of none that had every request"
        return ResolutionProblem(Reason.VERSION_UNKNOWN, text, meant)
    text = f"somebody went back to it from version {version}, until the URI means another"
    return ResolutionProblem(Reason.ROLLED_BACK, f"version {to} has the requests: {text}", known)


def _had_all(status: ModelDeploymentStatus) -> list[ModelIdentity]:
    """The newest first."""
    return [
        ModelIdentity(
            version=each.version,
            model_id=each.model_id,
            artifact_uri=each.artifact_uri,
            digest=each.digest or None,
        )
        for each in status.history
        if each.outcome == "Succeeded" and each.artifact_uri
    ]
