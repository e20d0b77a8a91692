"""Why a model does not run, or does not do well, in the conditions of its status.

A layer that knows better speaks first: the registry, then the model's own failure, then the pods, then the sums of what
is asked for; only where none of them has anything to say, the words are Serve's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rayfleet_operator.api.status import Condition as StatusCondition
from rayfleet_operator.plan import conditions
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, Condition, ConditionType, Reason
from rayfleet_operator.plan.fleet_conditions import FleetReason
from rayfleet_operator.plan.live import DEPLOY_FAILED, RUNNING, UNHEALTHY
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.pods import Trouble
from rayfleet_operator.plan.versions import DRAINING, VersionPlan

ENDS = (RUNNING, DRAINING, DEPLOY_FAILED, UNHEALTHY)
"""States of a version in which it has started, or has failed to: those of others are on their way."""

NO_ADDRESS = Trouble("NameTaken", "the Service at the fleet's address is not the fleet's")
"""Where nobody says what is the matter with it."""


def as_before(
    before: Sequence[StatusCondition], wanted: tuple[Condition, ...], generation: int
) -> tuple[Condition, ...]:
    """Ready, Progressing and Degraded where an answer was lost: Ready stays True where it was, and what this generation
    settled to stays settled where it would only wait for routers."""
    ready, progressing, degraded = wanted
    was = conditions.find(before, ConditionType.READY)
    if was is not None and was.status == "True" and ready.status != "True":
        ready = conditions.ready("True", was.reason, was.message)
    was = conditions.find(before, ConditionType.PROGRESSING)
    at_rest = was is not None and was.reason in (Reason.SETTLED, Reason.TRAFFIC_PENDING)
    settled = at_rest and was is not None and was.observed_generation == generation
    if was is not None and settled and progressing.reason in (Reason.WAITING_FOR_ROUTERS, FleetReason.STARTING):
        progressing = replace(progressing, status=was.status, reason=was.reason, message=was.message)
    return ready, progressing, degraded


def explain(
    planned: ModelPlan,
    troubles: Sequence[Trouble],
    shortage: str | None,
    *,
    refused: Trouble | None = None,
    address_taken: bool = False,
) -> tuple[Condition, ...]:
    """The planner's conditions; where the model is not ready, with the reason of the layer that knows why.

    The arguments are as for `model_status`.
    """
    ready, progressing, degraded = planned.conditions
    own = Trouble(degraded.reason, degraded.message) if degraded.status == "True" else None
    # Where the registry's notices are all, whatever else is the matter is graver.
    mild = own is not None and own.reason in conditions.NOTICES
    outside = _outside(ready, troubles, shortage)
    if refused is not None:
        outside = [refused, *(each for each in outside if each != refused)]
    if address_taken:
        taken = refused or NO_ADDRESS
        rest = [each for each in outside if each != taken]
        ready = conditions.ready("False", taken.reason, taken.message)
        return ready, progressing, _degraded([taken, *_listed(own, rest, mild)])
    faults = _listed(own, outside, mild)
    if ready.status == "False" and faults:
        first = next((each for each in planned.versions if each.weight > 0), None)
        # What ails another version, or the registry, is not why the one that has the requests does not answer.
        guilty = own is not None and not mild and (first is None or _ails(first))
        if outside and any(each.state not in ENDS and each.failure is None for each in planned.versions):
            # A version is still to come: what keeps it from starting is news, and an older one's failure is not.
            faults = _listed(own, outside, last=True)
            texts = [outside[0].message, *([own.message] if own is not None and guilty else [])]
            ready = conditions.ready("False", outside[0].reason, "\n".join(texts))
        elif own is not None and guilty:
            ready = conditions.ready("False", own.reason, own.message)
        elif outside:
            ready = conditions.ready("False", outside[0].reason, outside[0].message)
    return ready, progressing, _degraded(faults)


def _listed(own: Trouble | None, outside: Sequence[Trouble], last: bool) -> list[Trouble]:
    """The model's own trouble before or after the others."""
    if own is None:
        return list(outside)
    return [*outside, own] if last else [own, *outside]


def _ails(version: VersionPlan) -> bool:
    return version.state in (DEPLOY_FAILED, UNHEALTHY) or version.failure is not None


def _degraded(faults: Sequence[Trouble]) -> Condition:
    return conditions.degraded([(each.reason, each.message) for each in faults])


def _outside(ready: Condition, troubles: Sequence[Trouble], shortage: str | None) -> list[Trouble]:
    """What keeps the model, or some of its replicas, from running that is not its own fault; one at most."""
    if ready.status == "False" and troubles:
        return [troubles[0]]
    return [Trouble(INSUFFICIENT_CAPACITY, shortage)] if shortage is not None else []
