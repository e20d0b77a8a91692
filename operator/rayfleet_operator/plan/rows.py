"""One live version of a model: its row in the traffic table, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import traffic
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.failure import cause
from rayfleet_operator.plan.live import DEPLOY_FAILED, RUNNING, UNHEALTHY
from rayfleet_operator.plan.versions import DRAINING, WAITING, VersionPlan
from rayfleet_serving.config import Transform, VersionRoute


def row(
    model: ModelDeployment,
    app: str,
    identity: tuple[str, str],
    weight: int,
    given: Transform | None = None,
    *,
    sleeps: bool = False,
) -> VersionRoute:
    """`identity` is the version and its model id; without a transform of its own the version gets the spec's. `sleeps`:
    see `sleeps`."""
    version, model_id = identity
    return VersionRoute(
        app=app,
        version=version,
        model_id=model_id,
        weight=weight,
        sleeps=sleeps,
        max_batch_size=model.spec.batching.max_batch_size,
        transform=given or traffic.transform(model.spec.transform),
    )


def sleeps(facts: ModelFacts, app: str, least: int) -> bool:
    """Whether requests wait for a replica of it: it may have none, or had none when more were asked for, and the first
    of those is about to run.

    Args:
        least: replicas that it has from now on, at the least.
    """
    before, found = facts.row(app), facts.live.get(app)
    if least == 0 or before is None or not before.sleeps or found is None:
        return least == 0
    # One that cannot start is tried again, or loses its share, once the routers call it ready no more.
    return found.status not in (DEPLOY_FAILED, UNHEALTHY) and not found.observed.replicas_running


def told(
    facts: ModelFacts,
    app: str,
    identity: tuple[str, str],
    weight: int,
    *,
    leaving: bool,
    row: VersionRoute | None = None,
) -> VersionPlan:
    """What a status tells of it. `identity` is the version and its model id; `row` has its name and its mirror, if
    any."""
    failed = facts.failed(app)
    failure = failed.message if failed is not None and not leaving else None
    found = facts.live.get(app)
    if found is None:
        state, message, running, target = WAITING, "", None, None
    else:
        state = DRAINING if leaving else found.status
        message = "" if found.status == RUNNING else cause(found.observed.message)
        running, target = found.observed.replicas_running, found.observed.replicas_target
    return VersionPlan(
        *identity,
        app,
        weight,
        state,
        message,
        running,
        target,
        failure,
        name=row.name if row is not None else "",
        mirror=row.mirror if row is not None and not leaving else 0,
    )


def left(facts: ModelFacts, gone: Iterable[str]) -> list[VersionRoute]:
    """Versions on their way out stay in the table, without weight, for the routers to go on reporting what they have
    left."""
    update = {"weight": 0, "leaving": True, "mirror": 0, "other_names": []}
    return [row.model_copy(update=update) for app in gone if (row := facts.row(app)) is not None]


def shared_out(weights: Mapping[str, int], left: int) -> dict[str, int]:
    """Weights that sum to 100, brought down to sum to `left`: rounded down, and the largest gets what that leaves."""
    scaled = {app: weight * left // 100 for app, weight in weights.items()}
    if scaled:
        largest = max(sorted(weights), key=lambda app: weights[app])
        scaled[largest] += left - sum(scaled.values())
    return scaled
