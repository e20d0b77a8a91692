"""When a fleet is looked at again."""

from __future__ import annotations

from dataclasses import replace

from rayfleet_operator.controller import Result
from rayfleet_operator.plan.model import REQUEUE_S, ModelPlan
from rayfleet_operator.reconcile.announcement import Announcement
from rayfleet_operator.reconcile.decision import Decision
from rayfleet_operator.reconcile.memory import BUSY_S, Memory


def result(memory: Memory, decision: Decision, told: Announcement | None, *, settled: bool) -> Result:
    """After a pass in which everything was written.

    Args:
        told: the new Ray cluster that is told of, if one is. One that was only told of is yet to be asked for, whatever
            the statuses say.
        settled: everything is at rest by what the statuses say.
    """
    planned = decision.planned
    settled = settled and not decision.moving and len(planned.clusters.by_name) == 1
    settled = settled and not (told is not None and told.first)
    if settled and planned.requeue_after is None:
        memory.rest()
        return Result()
    models = tuple(_steady(each) for each in planned.models)
    # Nothing is under way, and it is known when something may be: a schedule that begins. What is due and does not come
    # is no news after the first look, like another try of a version of which older replicas answer.
    next_in = planned.requeue_after if settled else None
    due = next_in is not None and next_in <= REQUEUE_S
    wait = memory.pause((planned.config, models, planned.follow, planned.clusters.reached, told, due))
    if next_in is not None and not due:
        wait = min(wait, max(next_in, BUSY_S))
    return Result(requeue_after=wait)


def _steady(model: ModelPlan) -> ModelPlan:
    """Without numbers that follow the load by themselves: that they move is no reason to look more often."""
    if model.scaling is None:
        return model
    versions = tuple(replace(each, replicas_running=None, replicas_target=None) for each in model.versions)
    return replace(model, scaling=None, versions=versions)
