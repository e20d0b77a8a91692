"""When a fleet is looked at again."""

from __future__ import annotations

from dataclasses import replace

from rayfleet_operator.controller import Result
from rayfleet_operator.plan.model import ModelPlan
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
    wait = memory.pause((planned.config, models, planned.follow, planned.clusters.reached, told))
    if settled and planned.requeue_after is not None:
        # Nothing is under way, and it is known when something may be: a schedule that begins.
        wait = min(wait, max(planned.requeue_after, BUSY_S))
    return Result(requeue_after=wait)


def _steady(model: ModelPlan) -> ModelPlan:
    """Without numbers that follow the load by themselves: that they move is no reason to look more often."""
    if model.scaling is None:
        return model
    versions = tuple(replace(each, replicas_running=None, replicas_target=None) for each in model.versions)
    return replace(model, scaling=None, versions=versions)
