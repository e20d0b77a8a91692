"""What a model keeps while nobody knows which of its versions is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import named, rows, traffic
from rayfleet_operator.plan.beside import Beside
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, Reason
from rayfleet_operator.plan.division import Division, stay
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.live import LiveApp
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_serving.config import ModelRoute, VersionRoute


@dataclass(frozen=True)
class Staying:
    live: Mapping[str, LiveApp]
    """The applications that go on running and are the model's own, by name."""
    own: list[VersionRoute]
    """The rows of those that stay, with their weights."""
    beside: Beside
    """The versions that its traffic names."""
    gone: list[str]
    """Applications that run until no router has a request for them left."""
    route: ModelRoute
    division: Division | None
    """Of a rollout that is under way."""

    @property
    def weights(self) -> dict[str, int]:
        """Percent of the requests by application, of the versions that are the model's own."""
        return {row.app: row.weight for row in self.own}


def staying(facts: ModelFacts, model: ModelDeployment, problem: ResolutionProblem | None) -> Staying:
    """`facts` are of all the model's versions."""
    every = facts
    under_way = every.mark()
    apart = named.applications(every, model, under_way.candidate if under_way is not None else "")
    facts = every.without(apart)
    own, route = _as_last_given(facts, model)
    held = problem is not None and problem.held
    readable = problem is None or problem.reason != Reason.INVALID_SPEC
    division = stay(facts, model, readable=readable) if route is not None else None
    over = _given_up(division, own, held=held)
    stays = {row.app for row in own if not row.leaving and row.app != over}
    kept = named.kept(every, model if numbers_hold(problem) else None) if held else named.beside(every, model, stays)
    beside = named.others(every, apart, kept)
    own = [row for row in own if row.app not in beside.apps and row.app != over]
    if division is not None:
        own += _nameless(facts, division.weights.keys() - beside.apps - {row.app for row in own})
    if not any(shares := _shares(own, division)):
        beside = beside.without_shares()
    own = _shared_out(own, shares, 100 - beside.weight)
    gone = [over] if over in facts.live.keys() - beside.apps and not facts.retired(over) else []
    gone = [*gone, *beside.leaving]
    running = facts.live.keys() - beside.apps - ({over} - set(gone))
    return Staying(
        live={app: found for app, found in facts.live.items() if app in running},
        own=own,
        beside=beside,
        gone=gone,
        route=traffic.as_given(
            route if route is not None else traffic.waiting(model.spec),
            model.spec,
            [*beside.table(own), *rows.left(every, gone)],
            division.mark if division is not None else None,
            readable=readable,
        ),
        division=division,
    )


def numbers_hold(problem: ResolutionProblem | None) -> bool:
    """Whether the numbers of replicas are those of the spec while the wanted version is not known: not where the spec
    cannot be read, or is another fleet's by now."""
    return problem is None or not problem.held or problem.reason == INSUFFICIENT_CAPACITY


def _as_last_given(facts: ModelFacts, model: ModelDeployment) -> tuple[list[VersionRoute], ModelRoute | None]:
    """Its own rows, and the row of the table that they are from; None where there is none to go on from."""
    own = [row for row in facts.route.versions if not row.name] if facts.route is not None else []
    holder = facts.holder(None)
    if holder is not None and facts.weight(holder) == 0:
        # The table is lost or names nothing that lives; what runs must still be served.
        found = facts.live[holder]
        return [rows.row(model, holder, (found.version, found.model_id), 100)], None
    return own, facts.route if own else None


def _given_up(division: Division | None, own: list[VersionRoute], *, held: bool) -> str | None:
    if division is None or division.mark is None or division.mark.candidate in division.weights:
        return None
    candidate = division.mark.candidate
    # It may have a name as well, under which it may be asked for.
    named_as_well = any(row.app == candidate and row.other_names for row in own)
    return None if held and named_as_well else candidate


def _nameless(facts: ModelFacts, missing: set[str]) -> list[VersionRoute]:
    """A version without a share yet may have stood in the table under a name that is another's by now."""
    plain = {"name": "", "weight": 0, "mirror": 0, "place": 0, "lost": "", "other_names": []}
    return [row.model_copy(update=plain) for row in facts.written_rows if row.app in missing and row.app in facts.live]


def _shares(own: list[VersionRoute], division: Division | None) -> list[int]:
    """In the order of the rows. What a rollout says nothing of was given up."""
    return [row.weight if division is None else division.weights.get(row.app, 0) for row in own]


def _shared_out(own: list[VersionRoute], shares: list[int], left: int) -> list[VersionRoute]:
    """The rows with these shares of what the versions with names leave to them."""
    total = sum(shares)
    scaled = {row.app: round(100 * share / total) for row, share in zip(own, shares, strict=True) if total}
    weights = rows.shared_out(scaled, left)
    return [row.model_copy(update={"weight": weights.get(row.app, 0)}) for row in own]
