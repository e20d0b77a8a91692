"""Versions that `spec.traffic` names, beside the model's own: which of them run, and what each gets.

Each gets what the spec says once Serve calls it RUNNING and every router reaches it, and until then leaves it to the
model's own version: so does one that fails later, as soon as no router reaches it any more. Where its URI means another
version now, the one before has its share until the other one can take it.

One application is one row. A version that is the model's own as well is that, and has no share under its name: whoever
promotes a challenger by moving the alias to it gets every request to it at once. Of two names for one version the first
one counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from datetime import timedelta
from typing import Any

from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.api.timestamp import moment, stamp
from rayfleet_operator.api.traffic import NamedVersion
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import bounds, explain, retry, rows, serve_config, troubles
from rayfleet_operator.plan.beside import Beside
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, Reason
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.failure import cause
from rayfleet_operator.plan.live import DEPLOY_FAILED, RUNNING, UNHEALTHY, LiveApp
from rayfleet_operator.plan.observed import Noted, Resolution, ResolutionProblem, identity_of, named_key
from rayfleet_operator.plan.size import Size
from rayfleet_serving.config import VersionRoute

RETURN_AFTER = timedelta(seconds=30)
"""From the loss of a share until a version can have it again: one that dies of its requests and is started again in
seconds would otherwise take some of them each time."""


def asked_for(models: Iterable[ModelDeployment]) -> list[ModelDeployment]:
    """What the registry is asked for: the models, and for each version that their traffic names a model of that URI,
    called by its `named_key`."""
    every = []
    for model in models:
        every.append(model)
        known = {each.name: each for each in model.status.traffic}
        for version in model.spec.traffic.versions if model.spec.traffic is not None else []:
            name = named_key(model.metadata.name, version.name)
            meant = model.spec.model.model_copy(update={"uri": version.uri})
            update = {
                "metadata": model.metadata.model_copy(update={"name": name}),
                "spec": model.spec.model_copy(update={"model": meant, "traffic": None}),
                "status": ModelDeploymentStatus(resolved=known.get(version.name)),
            }
            every.append(model.model_copy(update=update))
    return every


def known(model: ModelDeployment | None, resolutions: Mapping[str, Resolution]) -> dict[str, Resolution]:
    """What is known of the versions that a model's traffic names, by their names; `resolutions` are a fleet's."""
    if model is None or model.spec.traffic is None:
        return {}
    keys = {version.name: named_key(model.metadata.name, version.name) for version in model.spec.traffic.versions}
    return {name: resolutions[key] for name, key in keys.items() if key in resolutions}


def applications(facts: ModelFacts, model: ModelDeployment, own: str) -> set[str]:
    """Those that are named versions', and none of the model's own: `own` is the application that it wants."""
    written = facts.written_rows
    held = facts.route.versions if facts.route is not None else []
    named = {row.app for row in (*written, *held) if row.name}
    named |= {str(entry["name"]) for _, entry, _ in _wanted(facts, model)}
    return named - {row.app for row in written if not row.name} - {own}


def beside(facts: ModelFacts, model: ModelDeployment, own: Collection[str]) -> Beside:
    """
    Args:
        own: applications of the model's own versions that go on running.
    """
    found = Beside()
    wanted = {version.name: (entry, identity) for version, entry, identity in _wanted(facts, model)}
    versions = model.spec.traffic.versions if model.spec.traffic is not None else []
    places = _places(facts, versions)
    for version in versions:
        _tell_registry(facts, version, found)
        before = _before(facts, version.name, but={*own, *found.apps})
        if before is not None and facts.spent(before.app) and _refused(facts, version.name):
            # It never answered, and its place may be what the next one waits for.
            before = None
        place = places.get(version.name, 0)
        if version.name not in wanted:
            # Nobody knows what its URI means: it goes on as it is.
            if before is not None:
                _keep(facts, model, version, before, place, found)
            elif (app := _stands_as(facts, version.name)) in own:
                found.other_names.setdefault(str(app), []).append(version.name)
            elif not isinstance(facts.named.get(version.name), ResolutionProblem):
                found.under_way.append(f"{version.name}: the registry has not answered yet")
            continue
        entry, identity = wanted[version.name]
        app = str(entry["name"])
        if app in own or app in found.apps:
            found.other_names.setdefault(app, []).append(version.name)
            continue
        row = _row(facts, model, version, rows.row(model, app, identity, 0), place, found)
        if not (retry.due(facts, app) and not row.weight):
            found.entries[app] = entry
        if not _takes(facts, app) and before is not None and before.app != app:
            _keep(facts, model, version, before, place, found)
    return found


def _refused(facts: ModelFacts, name: str) -> bool:
    problem = facts.named.get(name)
    return isinstance(problem, ResolutionProblem) and problem.reason == INSUFFICIENT_CAPACITY


def _places(facts: ModelFacts, versions: Iterable[NamedVersion]) -> dict[str, int]:
    """Of those that the spec gives a share. Whoever has callers keeps its place, so that they stay when others come and
    go. Who is new gets the first that is free on the side, of even or of odd places, where fewer are: two versions that
    stand on one side push each other's callers about, which the last two do not."""
    written = facts.written_rows
    taken = {row.name: row.place for row in written if row.name and (row.weight or row.lost)}
    names = [version.name for version in versions if version.weight]
    places = {name: taken[name] for name in names if name in taken}
    if len(names) == len(places) == 2 and len({place % 2 for place in places.values()}) == 1:
        del places[names[1]]
    for name in names:
        if name not in places:
            odd = sum(place % 2 for place in places.values())
            side = itertools.count(int(odd < len(places) - odd), 2)
            places[name] = next(place for place in side if place not in places.values())
    return places


def kept(facts: ModelFacts, model: ModelDeployment | None) -> Beside:
    """Those that there are, as they are: what the spec says is not known, or may not take effect. Another Ray cluster
    starts with what runs all the same. `model`: where its spec's numbers of replicas hold."""
    found = Beside()
    written = facts.written_rows
    for row in written:
        if row.name and not row.leaving and row.app in facts.live:
            # Where it cannot be reached, routers give its requests to the model's own by themselves.
            found.rows.append(row)
            size = facts.placed(row.app, bounds.held(facts, None, row.app))
            traffic = model.spec.traffic if model is not None else None
            version = next((each for each in traffic.versions if each.name == row.name), None) if traffic else None
            if model is not None and version is not None:
                size = facts.placed(row.app, bounds.held(facts, sized(model, version).spec, row.app))
            found.entries[row.app] = serve_config.resized(facts.live[row.app].observed.entry, size)
            _tell(facts, row, found)
        if row.other_names:
            found.other_names[row.app] = row.other_names
    return found


def _wanted(
    facts: ModelFacts, model: ModelDeployment
) -> Iterator[tuple[NamedVersion, dict[str, Any], tuple[str, str]]]:
    """Each version whose URI means something, its application, and its version and model id."""
    for version in model.spec.traffic.versions if model.spec.traffic is not None else []:
        identity = identity_of(facts.named.get(version.name))
        if identity is not None:
            of = sized(model, version)
            app = str(serve_config.model_app(of, identity, gpu_sharing=facts.gpu_sharing)["name"])
            found, size = facts.live.get(app), _bounds(facts, of, version, app)
            if found is not None and stays_fixed(facts, found):
                entry = serve_config.refreshed(found.observed.entry, of.spec, size)
            else:
                entry = serve_config.model_app(of, identity, size, gpu_sharing=facts.gpu_sharing)
            yield version, entry, (identity.version, identity.model_id)


def stays_fixed(facts: ModelFacts, found: LiveApp) -> bool:
    """Whether an application is of an older release, and would be started anew with the block that it lacks. Another
    cluster starts it anew anyway."""
    return not serve_config.follows_load(found.observed.entry) and not facts.frozen


def sized(model: ModelDeployment, version: NamedVersion) -> ModelDeployment:
    """The model with this version's number of replicas, where it has one of its own: that one is fixed."""
    if version.replicas is None:
        return model
    fixed = {"replicas": version.replicas, "autoscaling": None}
    return model.model_copy(update={"spec": model.spec.model_copy(update=fixed)})


def _bounds(facts: ModelFacts, of: ModelDeployment, version: NamedVersion, app: str) -> Size:
    return facts.placed(app, bounds.of_one(facts, of.spec, app, mirrors=bool(version.mirror)))


def _before(facts: ModelFacts, name: str, but: Collection[str]) -> VersionRoute | None:
    """The row that has this name's share now, of an application that lives."""
    written = facts.written_rows
    named = [row for row in written if row.name == name and row.app in facts.live and row.app not in but]
    staying = [row for row in named if not row.leaving]
    return max(staying, key=lambda row: (row.weight, row.mirror, row.app), default=None)


def _keep(
    facts: ModelFacts, model: ModelDeployment, version: NamedVersion, before: VersionRoute, place: int, found: Beside
) -> None:
    """It goes on with what the spec says now, as long as it can be reached."""
    row = _row(facts, model, version, before, place, found)
    if not (retry.due(facts, row.app) and not row.weight):
        entry = facts.live[row.app].observed.entry
        of = sized(model, version)
        size = _bounds(facts, of, version, row.app)
        found.entries[row.app] = serve_config.refreshed(entry, of.spec, size)


def _row(
    facts: ModelFacts,
    model: ModelDeployment,
    version: NamedVersion,
    row: VersionRoute,
    place: int,
    found: Beside,
) -> VersionRoute:
    """The row of an application under this name, with its share if it can take one; `found` gets it, and what there is
    to be told of it."""
    takes, lost = _takes(facts, row.app), ""
    before = _written(facts, row.app)
    if before is not None and before.name and not before.leaving and (version.weight or version.mirror):
        if not takes:
            lost = before.lost or (stamp(facts.now) if before.weight or before.mirror else "")
        elif before.lost:
            waits = (moment(before.lost) + RETURN_AFTER - facts.now).total_seconds()
            if waits > 0:
                # It answers again, but for how long? Each time that its share comes and goes, requests fail.
                takes, lost = False, before.lost
                found.again_in = retry.sooner(found.again_in, waits)
                found.under_way.append(f"{version.name}: version {row.version} answers again, and has its share soon")
    share = {"weight": version.weight, "mirror": version.mirror or 0} if takes else {"weight": 0, "mirror": 0}
    of = sized(model, version)
    sleeps = rows.sleeps(facts, row.app, _bounds(facts, of, version, row.app).least)
    row = row.model_copy(update={**share, "name": version.name, "place": place, "lost": lost, "sleeps": sleeps})
    found.rows.append(row)
    found.again_in = retry.sooner(found.again_in, retry.due_in(facts, row.app))
    _tell(facts, row, found)
    return row


def _stands_as(facts: ModelFacts, name: str) -> str | None:
    """The application that has this name besides another, or besides being the model's own."""
    written = facts.written_rows
    return next((row.app for row in written if name in row.other_names), None)


def _written(facts: ModelFacts, app: str) -> VersionRoute | None:
    written = facts.written_rows
    return next((row for row in written if row.app == app), None)


def _takes(facts: ModelFacts, app: str) -> bool:
    """Whether it can take requests; one that has some keeps them while nobody knows better."""
    if app not in facts.live:
        return False
    if facts.live[app].status == RUNNING and facts.routers.all_reach(app):
        return True
    row = _written(facts, app)
    has = row is not None and bool(row.name) and bool(row.weight or row.mirror)
    if not has or not facts.routers.complete or facts.routers.reaching(app):
        return has
    # Routers that reach nothing of the model were started just now, or lost their way: that tells nothing of this one.
    written = facts.written_rows
    return not any(facts.routers.reaching(each.app) for each in written if each.app != app)


def _tell_registry(facts: ModelFacts, version: NamedVersion, found: Beside) -> None:
    match facts.named.get(version.name):
        case ResolutionProblem(reason=reason, message=message):
            found.faults.append((reason, f"{version.name}: {message}"))
        case Noted(notices=notices):
            found.notices += [(notice.reason, f"{version.name}: {notice.message}") for notice in notices]


def _tell(facts: ModelFacts, row: VersionRoute, found: Beside) -> None:
    live, failed = facts.live.get(row.app), facts.failed(row.app)
    what = f"{row.name}: version {row.version}"
    found.faults += troubles.told(facts, row.app, label=f"{row.name}: ")
    if failed is not None:
        found.faults.append((explain.failed_start(failed.message), f"{what} failed to start: {failed.message}"))
    elif live is not None and live.status in (DEPLOY_FAILED, UNHEALTHY):
        found.faults.append((Reason.VERSION_FAILED, f"{what} is {live.status}: {cause(live.observed.message)}"))
        return
    if live is None or live.status != RUNNING:
        found.under_way.append(f"{what} is {live.status if live is not None else 'given to Serve'}")
    elif not facts.routers.all_reach(row.app):
        reached = f"{facts.routers.reaching(row.app)} of {facts.routers.expected} routers"
        found.under_way.append(f"{what} can be reached by {reached}")


def others(facts: ModelFacts, apart: Set[str], found: Beside) -> Beside:
    """With the named versions' applications (`apart`) that stay no longer, until nothing reaches them. As long as
    nobody knows what some name means they go on running: it may be one of them, under another name than before."""
    traffic = facts.model.spec.traffic if facts.model is not None else None
    unknown = [each.name for each in (traffic.versions if traffic is not None else []) if each.name not in facts.named]
    leaving = sorted(app for app in apart & facts.live.keys() - found.apps if unknown or not facts.retired(app))
    entries = {app: facts.live[app].observed.entry for app in leaving}
    waits = [f"waiting for the last requests of version {facts.live[app].version}" for app in leaving]
    return replace(
        found,
        entries={**found.entries, **entries},
        leaving=leaving,
        under_way=[*found.under_way, *waits],
    )
