"""A change that needs a new Ray cluster, told of one pass before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rayfleet_operator.plan.switch import Clusters
from rayfleet_operator.reconcile import wanted
from rayfleet_operator.reconcile.change import Change, cluster_for, same_pods
from rayfleet_operator.render import raycluster, revision, upgrade
from rayfleet_operator.render.names import INPUTS_ANNOTATION, annotation
from rayfleet_operator.render.upgrade import Upgrade

Json = dict[str, Any]

NOT_WRITTEN = "what the operator's fleet defaults, or its release, make of the spec"
"""To blame where nothing that people wrote is."""


@dataclass(frozen=True)
class Said:
    """What was told of one fleet before. A new one has a change told once more."""

    inputs: str = ""
    """Of the cluster that was told of last."""
    waited: bool = False
    """The last pass told, and wrote nothing."""


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What the fleet's status says of a new Ray cluster."""

    text: str
    first: bool
    """It was not said before: nothing is written in this pass. Never in two passes in a row."""


def announcement(
    change: Change, clusters: Clusters, defaults: Mapping[str, Any], said: Said
) -> tuple[Announcement | None, Said]:
    """None where KubeRay has no new cluster to build, or has begun to; and what was said by then.

    Args:
        defaults: the administrator's.
    """
    live = change.found.ray_service
    asked_for = annotation(live, INPUTS_ANNOTATION) == change.inputs
    told = Said() if asked_for else Said(inputs=said.inputs)
    if live is None or change.held or (asked_for and _seen(live)):
        return None, told
    newest = next((name for name in (clusters.pending, clusters.active) if name in change.found.ray_clusters), None)
    if newest is None:
        # There is nothing beside which it could be built.
        return None, told
    found = _upgrade(change, change.found.ray_clusters[newest], defaults)
    if found is None:
        return None, told
    first = not asked_for and not said.waited and said.inputs != change.inputs
    told = Said(inputs=change.inputs, waited=first)
    if clusters.next is not None and not first:
        # That one is told of, whether it is this or the one before.
        return None, told
    return Announcement(text=str(found), first=first), told


def _seen(live: Json) -> bool:
    """Whether KubeRay has seen what it is asked for. Where it does not say what it saw, it has."""
    observed = (live.get("status") or {}).get("observedGeneration")
    return observed is None or observed == live["metadata"].get("generation")


def _upgrade(change: Change, newest: Json, defaults: Mapping[str, Any]) -> Upgrade | None:
    rendered = cluster_for(change)
    if same_pods(change, newest, rendered):
        return None
    revisions = change.found.revisions
    inputs = annotation(newest, INPUTS_ANNOTATION)
    kept = revision.kept(revisions, inputs) or revision.current(revisions, change.found.ray_service)
    before = kept["data"]["rayClusterConfig"] if kept is not None else newest["spec"]
    after = raycluster.resized(rendered, change.spec)
    if upgrade.in_place(before, after):
        return None
    asked = kept["data"].get("asked") if kept is not None else None
    return upgrade.beside(after, _blamed(change, before, asked, defaults) if asked is not None else ())


def _blamed(change: Change, before: Json, asked: Json, defaults: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths of what makes it necessary."""

    def render(tree: Json) -> Json:
        spec = raycluster.ordered(wanted.fleet_spec(tree["spec"], defaults), before)
        return raycluster.cluster_spec(change.asked.name, spec, upgrade.restart_of(tree))

    try:
        fields = upgrade.blamed(asked, upgrade.asked(change.asked.said, change.asked.restart), render)
    except (ValidationError, LookupError, TypeError, AttributeError):
        # Kept by a release that wrote it in another form.
        return ()
    return fields or (NOT_WRITTEN,)
