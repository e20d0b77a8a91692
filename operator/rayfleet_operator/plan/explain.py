"""A model's conditions, from the facts and from what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayfleet_operator.plan import conditions, troubles
from rayfleet_operator.plan.conditions import Condition, ConditionType, Reason
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.failure import cause
from rayfleet_operator.plan.live import DEPLOY_FAILED, RUNNING, UNHEALTHY, LiveApp
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.plan.versions import UNKNOWN, WAITING, VersionPlan
from rayfleet_serving.config import ModelRoute, RolloutMark, VersionRoute

STEPS = (
    Reason.DEPLOYING,
    Reason.WAITING_FOR_ROUTERS,
    Reason.SHIFTING,
    Reason.DRAINING,
    Reason.SETTLED,
    Reason.VERSION_FAILED,
)
"""What Progressing says of a version that Serve was given."""


def ready(facts: ModelFacts, versions: Sequence[VersionPlan], serving: bool) -> Condition:
    first = next((version for version in versions if version.weight > 0), None)
    if facts.model is None:
        return conditions.ready("False", Reason.REMOVING, "the model was deleted")
    if first is None:
        return conditions.ready("False", Reason.NOT_DEPLOYED, "no version is deployed")
    row = facts.row(first.app)
    sleeps = serving and first.replicas_running == 0 and row is not None and row.sleeps
    if sleeps and first.state in (DEPLOY_FAILED, UNHEALTHY):
        text = f"version {first.version} sleeps, and cannot be woken: {first.message or first.state}"
        return conditions.ready("False", Reason.NOT_SERVING, text)
    if sleeps:
        how = "wakes up" if first.replicas_target else "is asleep: the first request wakes it"
        return conditions.ready("True", Reason.ASLEEP, f"version {first.version} {how}")
    if serving:
        return conditions.ready("True", Reason.SERVING, f"version {first.version} answers")
    if first.state == WAITING:
        return conditions.ready("False", Reason.NOT_DEPLOYED, f"version {first.version} is about to be deployed")
    if not facts.routers.routers and first.replicas_running:
        # Whatever Serve is doing with the application, replicas of it may be answering.
        return conditions.ready("Unknown", Reason.ROUTERS_UNKNOWN, "no router answers")
    if first.state != RUNNING:
        detail = f": {first.message}" if first.message else ""
        return conditions.ready("False", Reason.NOT_SERVING, f"version {first.version} is {first.state}{detail}")
    if not facts.routers.routers:
        return conditions.ready("Unknown", Reason.ROUTERS_UNKNOWN, "no router answers")
    return conditions.ready("False", Reason.NOT_SERVING, f"no router can reach version {first.version} yet")


def progress(
    facts: ModelFacts,
    target: str,
    holder: str | None,
    weights: Mapping[str, int],
    leaving: Mapping[str, LiveApp],
    entries: Mapping[str, Mapping[str, Any]],
    route: ModelRoute,
    *,
    retry: bool,
    asked: int,
) -> Condition:
    """What the model waits for: the first of the steps that is not done. `asked` are the replicas that the wanted
    version needs before it gets requests."""
    found = facts.live.get(target)
    if retry:
        return conditions.progressing(Reason.RETRYING, "the wanted version failed to start and is tried again")
    if found is None:
        return conditions.progressing(Reason.DEPLOYING, "the wanted version is given to Serve")
    if found.status == DEPLOY_FAILED:
        return conditions.resting(Reason.VERSION_FAILED, f"version {found.version} failed to start")
    edited = route != facts.route or any(entry != facts.live[app].observed.entry for app, entry in entries.items())
    settings = conditions.progressing(Reason.DEPLOYING, "changed settings are given to Serve")
    if found.status == UNKNOWN:
        silence = conditions.progressing(Reason.DEPLOYING, f"Ray does not say whether version {found.version} runs")
        return settings if edited else _as_told(facts) or silence
    if found.status != RUNNING:
        detail = cause(found.observed.message)
        message = f"version {found.version} is {found.status}" + (f": {detail}" if detail else "")
        return conditions.progressing(Reason.DEPLOYING, message)
    routers = facts.routers
    reached = f"{routers.reaching(target)} of {routers.expected} routers can reach version {found.version}"
    running = found.observed.replicas_running
    if weights[target] == 0 and running is not None and running < asked:
        text = f"{running} of {asked} replicas of version {found.version} run"
        return conditions.progressing(Reason.DEPLOYING, text)
    if weights[target] == 0 or routers.reaching(target) == 0:
        return conditions.progressing(Reason.WAITING_FOR_ROUTERS, reached)
    if holder != target:
        return conditions.progressing(Reason.SHIFTING, f"requests move to version {found.version}")
    if leaving:
        old = ", ".join(sorted(old.version for old in leaving.values()))
        return conditions.progressing(Reason.DRAINING, f"waiting for the last requests of version {old}")
    if dropped := facts.live.keys() - entries.keys():
        old = ", ".join(sorted(facts.live[app].version for app in dropped))
        return conditions.progressing(Reason.DRAINING, f"version {old} is idle and is removed")
    if edited:
        return settings
    holding = routers.holding(facts.name, route)
    if not routers.complete or holding < len(routers.routers):
        message = f"{holding} of {routers.expected} routers hold the newest traffic table"
        return conditions.progressing(Reason.WAITING_FOR_ROUTERS, message)
    return conditions.resting(Reason.SETTLED, f"version {found.version} has every request")


def without_room(
    facts: ModelFacts,
    holder: str | None,
    weights: Mapping[str, int],
    leaving: Mapping[str, LiveApp],
    entries: Mapping[str, Mapping[str, Any]],
    route: ModelRoute,
    refused: ResolutionProblem,
) -> Condition:
    """What a model waits for whose wanted version has no room: first whatever can be done without it."""
    rest = conditions.resting(refused.reason, "nothing moves until there is room")
    if holder is not None:
        found = progress(facts, holder, holder, weights, leaving, entries, route, retry=False, asked=0)
        return rest if found.status == "False" else found
    if leaving or facts.live.keys() - entries.keys():
        old = ", ".join(sorted(found.version for found in facts.live.values()))
        return conditions.progressing(Reason.DRAINING, f"version {old} is removed: it never answered")
    return rest


def divided(settled: Condition, table: list[VersionRoute]) -> Condition:
    """Where versions have shares by name, not one of them has every request; and a name that means a version which has
    its share already has none of its own."""
    shares = [f"{row.weight} % go to version {row.version}" for row in table if row.weight]
    text = "of the requests " + ", ".join(shares) if len(shares) > 1 else settled.message
    same = [f"{name} means version {row.version} as well" for row in table for name in row.other_names]
    return conditions.resting(Reason.SETTLED, "; ".join([text, *same]))


def given_up(mark: RolloutMark, version: str, leaving: Mapping[str, LiveApp]) -> Condition:
    """Progressing of a model whose candidate was given up."""
    if mark.candidate in leaving:
        return conditions.progressing(Reason.ROLLED_BACK, f"version {version} was given up; its last requests end")
    return conditions.resting(Reason.ROLLED_BACK, why_given_up(mark, version))


def why_given_up(mark: RolloutMark, version: str) -> str:
    """For people, with the numbers that decided."""
    return f"version {version} was given up ({mark.ended}): {mark.why}"


def candidate(mark: RolloutMark, version: str) -> list[tuple[str, str]]:
    """What needs a person of a candidate, each with its reason."""
    if mark.ended:
        return [(Reason.ROLLED_BACK, why_given_up(mark, version))]
    if mark.why:
        return [(Reason.CANDIDATE_FAILED, f"version {version}: {mark.why}; abort it, or promote it")]
    return []


def _as_told(facts: ModelFacts) -> Condition | None:
    """The step that the model's status tells of; None where that is no step of a version on Serve."""
    said = facts.model.status.conditions if facts.model is not None else []
    told = conditions.find(said, ConditionType.PROGRESSING)
    if told is None or told.reason not in STEPS:
        return None
    return Condition(ConditionType.PROGRESSING, told.status, told.reason, told.message)


def failed_start(detail: str) -> Reason:
    """A Reason by what a replica said that could not start; `failure.cause` begins with its own reason."""
    lacking = detail.startswith(f"{Reason.OUT_OF_MEMORY}: ")
    return Reason.OUT_OF_MEMORY if lacking else Reason.VERSION_FAILED


def faults(facts: ModelFacts, target: str | None, weights: Mapping[str, int]) -> list[tuple[str, str]]:
    """What needs a person, the gravest first: the version that has the requests, then the one that should.

    A version that failed to start is told of until it runs: that it is tried again makes nothing better. Nor does it
    that Serve does not say.
    """
    listed: list[tuple[str, str]] = []
    for app in sorted(weights, key=lambda app: (-weights[app], app)):
        found, told, failed = facts.live.get(app), facts.told(app), facts.failed(app)
        if found is not None:
            # What a replica says of itself tells more than that Serve had to replace it.
            listed += troubles.told(facts, app)
        if failed is not None:
            version, state, detail = failed.name, DEPLOY_FAILED, failed.message
        elif found is not None and found.status in (DEPLOY_FAILED, UNHEALTHY):
            version, state, detail = found.version, found.status, cause(found.observed.message)
        elif found is not None and found.status == UNKNOWN and told is not None and told.state == "Unhealthy":
            version, state, detail = told.name, UNHEALTHY, told.message
        else:
            continue
        if state == DEPLOY_FAILED and (app == target or weights[app] == 0):
            listed.append((failed_start(detail), f"version {version} failed to start: {detail}"))
        elif weights[app] > 0:
            text = f"version {version}, which has the requests, is {state}: {detail}"
            listed.append((Reason.STABLE_UNHEALTHY, text))
        else:
            listed.append((Reason.VERSION_FAILED, f"version {version} is {state}: {detail}"))
    return listed


def beside_refusal(
    facts: ModelFacts, weights: Mapping[str, int], problem: ResolutionProblem, faults: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """What is wrong with what runs, and why there is no next version. The first is graver while a version answers;
    where none does, it is the next one that people wait for."""
    having = ", ".join(f"version {found.version}" for app, found in facts.live.items() if weights.get(app, 0) > 0)
    text = f"{problem.message.rstrip('.')}; {having} keeps the requests" if having else problem.message
    answers = any(facts.routers.reaching(app) > 0 for app, weight in weights.items() if weight > 0)
    faults.insert(len(faults) if answers else 0, (problem.reason, text))
    return faults
