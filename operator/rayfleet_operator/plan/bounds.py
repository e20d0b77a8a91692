"""How many replicas a version may have: the bounds that Serve gets. What is between them, the load decides.

A version never has fewer than what requests may need that are about to reach it:

- a candidate is brought to the share that it is to have next of what the version before runs with, and that one is not
  made smaller meanwhile, so that requests can move, and go back, at any time;
- the last replica goes only once some router knows what the model takes, for a replica is what tells it;
- where another Ray cluster is to take over, it starts with what this one runs with.
"""

from __future__ import annotations

import math
from datetime import datetime

from rayfleet_operator.api.types import ModelDeploymentSpec
from rayfleet_operator.plan import schedules, strategy
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.size import Size, given, of_spec
from rayfleet_serving.config import RolloutMark

LOOK_S = 10.0
"""Between looks at a model whose number of replicas moves by itself."""


def asked(spec: ModelDeploymentSpec, now: datetime) -> Size:
    """What the spec asks for at this time."""
    scaling, size = spec.autoscaling, of_spec(spec)
    return size if scaling is None else size.at_least(schedules.on(scaling.schedules, now).least)


def look_in(spec: ModelDeploymentSpec, now: datetime) -> float | None:
    """Seconds until somebody should look again; None where the number is fixed."""
    if spec.autoscaling is None:
        return None
    changes = schedules.on(spec.autoscaling.schedules, now).changes
    return LOOK_S if changes is None else min(LOOK_S, max(0.0, (changes - now).total_seconds()))


def of_one(facts: ModelFacts, spec: ModelDeploymentSpec, app: str, *, mirrors: bool = False) -> Size:
    """Of a version that shares no requests with another one of the model's own. `mirrors`: it gets copies, which wake
    nobody."""
    size = asked(spec, facts.now)
    if size.least == 0 and (mirrors or not _known(facts, app)):
        size = size.at_least(1)
    return carried(facts, app, size)


def carried(facts: ModelFacts, app: str, size: Size) -> Size:
    """Where another Ray cluster is to take over, at least what this one runs with."""
    return size.at_least(max(1, running(facts, app))) if facts.frozen else size


def held(facts: ModelFacts, spec: ModelDeploymentSpec | None, app: str, mark: RolloutMark | None = None) -> Size:
    """Of a version that goes on as it is, `mark` says in which rollout: nobody knows what is wanted, or it may not be
    had. `spec` None: what it says is not known either, so that what was given holds. So it does where the spec has the
    number follow the load now, or no longer: the replicas are not told while all else stays."""
    entry = facts.live[app].observed.entry
    (deployment,) = entry["deployments"]
    followed = (deployment.get("user_config") or {}).get("autoscaling") is not None
    if spec is None or followed != (spec.autoscaling is not None):
        return carried(facts, app, given(entry))
    if mark is not None and not mark.ended and app in (mark.candidate, mark.stable):
        return of_two(facts, spec, mark.candidate, mark.stable, mark)[app]
    return of_one(facts, spec, app)


def of_two(
    facts: ModelFacts, spec: ModelDeploymentSpec, target: str, holder: str, mark: RolloutMark | None
) -> dict[str, Size]:
    """While requests move from the application `holder` to `target`, or back to it."""
    size = asked(spec, facts.now)
    if spec.autoscaling is None:
        return {target: size, holder: size}
    before = of_one(facts, spec, holder)
    if mark is not None and mark.ended and mark.candidate == target:
        # It was given up, and runs a while for whoever looks for the cause.
        return {target: size.at_least(1), holder: before}
    now = running(facts, holder)
    needed = size.at_least(max(1, math.ceil(now * _next_share(spec, target, mark) / 100)))
    if target in facts.places and facts.live[holder].observed.replicas_target is not None:
        # There is no room for what it needs, so nothing moves: what the load no longer needs may go, and make room. But
        # not while Serve does not say how many that is.
        return {target: needed, holder: before}
    return {target: needed, holder: before.at_least(now)}


def running(facts: ModelFacts, app: str) -> int:
    """What an application runs with, or is about to; where Serve does not say, what it was given at the least."""
    found = facts.live.get(app)
    if found is None:
        return 0
    target = found.observed.replicas_target
    return given(found.observed.entry).least if target is None else target


def _next_share(spec: ModelDeploymentSpec, target: str, mark: RolloutMark | None) -> int:
    """Percent of the requests that the wanted version is to have next."""
    if mark is not None and mark.stable == target:
        return 100  # back to where it came from, at once
    own = mark is not None and mark.candidate == target
    return strategy.following(spec.rollout, mark.stage if mark is not None and own else -1)


def _known(facts: ModelFacts, app: str) -> bool:
    """Whether some router knows what the model takes; as it was, where none answers."""
    if not facts.routers.routers:
        return app in facts.live and given(facts.live[app].observed.entry).least == 0
    return facts.routers.reaching(app) > 0
