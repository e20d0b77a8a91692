"""What the applications of a fleet ask for, from the Serve config that is planned and from what is observed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayfleet_operator.api.types import ModelDeployment, Resources
from rayfleet_operator.plan import size
from rayfleet_operator.plan.live import DELETING, DEPLOY_FAILED, RUNNING, UNHEALTHY
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet, named_key
from rayfleet_operator.plan.packing import Need
from rayfleet_operator.plan.room import ACCELERATOR, ON_DEMAND
from rayfleet_operator.plan.size import Size
from rayfleet_operator.plan.versions import UNKNOWN
from rayfleet_serving.config import MODEL_IMPORT_PATH, ROUTER_APP, ModelRoute

ROUTERS = "routers"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One application."""

    app: str
    deployment: str = ""
    """Which of the application's; "" where it has one."""
    label: str
    """What people call it: a model, and its version where it has several."""
    need: Need
    """Of each replica."""
    size: Size
    running: int = 0
    """Replicas that answer, as far as Serve says."""
    target: int = 0
    """Replicas that there would be by the load, as far as anybody says."""
    given: int = 0
    """Replicas that Serve was told to keep at the least: they had a place when that was decided."""
    live: bool = False
    """It was given to Serve before."""
    idle: bool = False
    """It was given before, is to take over from another version, and has not all of its replicas, nor any request: it
    is of no use before it has."""
    leaving: bool = False
    """It is only there until its last requests are answered."""
    unknown: bool = False
    """Serve does not say what has become of it."""
    limit: int | None = None
    """Replicas that Serve was told to have at the most, where it does not say what runs; None where it does."""
    model: str = ""
    """"" for what is no model's."""
    version: str = ""
    name: str = ""
    """In `spec.traffic`; "" for the model's own version."""
    serves: bool = False
    """Some version of the model was given to Serve before."""
    born: str = ""
    """When the model was made, in a form that sorts; "" where nobody says."""

    @property
    def key(self) -> str:
        """What the version's resolution is kept under."""
        return named_key(self.model, self.name) if self.name else self.model

    @property
    def wanted(self) -> int:
        """Replicas for which there should be room: as many as are wanted now, and one for what may be scaled to none,
        which must come back. Of what leaves, those that are still there."""
        if self.leaving:
            return max(self.running, self.target)
        return max(1, self.size.least, min(max(self.running, self.target), self.size.most))

    @property
    def needed(self) -> int:
        """Replicas without which it is not let in: all that requests can move to, where they are another version's."""
        return max(1, self.size.least) if self.serves and not self.name else 1

    @property
    def order(self) -> tuple[object, ...]:
        """Who comes first among those that are new: what is a model's that serves, then by age and name. A model's own
        version comes before those that its traffic names."""
        return (not self.serves, self.born, self.model, bool(self.name), self.name, self.app)


def of_config(
    applications: Sequence[Mapping[str, Any]],
    routes: Mapping[str, ModelRoute],
    models: Mapping[str, ModelDeployment],
    observed: ObservedFleet,
    written: Mapping[str, ModelRoute],
    unanswered: Collection[str] = (),
    candidates: Collection[str] = (),
    leaving: Collection[str] = (),
) -> list[Ask]:
    """
    Args:
        applications: of the Serve config that is planned.
        routes: rows of its table, by model.
        models: of the fleet, by name.
        observed: what Serve was given before.
        written: rows of the table that was written last.
        unanswered: models of which the registry has said nothing yet. They have their turn all the same: who comes
            first must not be a matter of which server answers first.
        candidates: applications of versions that are to take over, and have no request yet.
        leaving: those that are only there until their last requests are answered.
    """
    given = {name for name, app in observed.apps.items() if app.status != DELETING}
    tables = [written, observed.table.models if observed.table is not None else {}]
    given |= {row.app for table in tables for route in table.values() for row in route.versions if not row.leaving}
    names = {row.app: row.name for route in routes.values() for row in route.versions}
    found = [ask for entry in applications for ask in _of_entry(entry, names)]
    # One that is given afresh is out of the config for a moment, and keeps its place.
    there = {ask.app for ask in found}
    found += [
        _absent(models[model], row.app, row.version, row.name)
        for model, route in routes.items()
        for row in route.versions
        if model in models and row.app not in there and row.app in given and not row.leaving
    ]
    known = {ask.model for ask in found}
    found += [of_spec(models[name])[0] for name in sorted(unanswered) if name not in known]
    serving = {ask.model for ask in found if ask.app in given}
    several = {model for model, number in Counter(ask.model for ask in found).items() if model and number > 1}
    wishes = _wishes(observed)
    counted = _counted(found, observed, models)
    asks = []
    for ask in found:
        running, target = counted[ask.app, ask.deployment]
        app = observed.apps.get(ask.app)
        live, least, unknown, limit = ask.app in given or not ask.model, 0, False, None
        if ask.model and app is not None and app.entry:
            before, unknown = size.given(app.entry), _untold(app)
            least, limit = before.least, before.most if unknown else None
            wish = wishes.get(ask.app)
            if wish is None and before.most < ask.size.most and (unknown or target >= before.most):
                # It was told to have no more, and would have at least one more.
                wish = before.most + 1
            target = max(target, wish or 0)
        if ask.app in leaving:
            # What could not start takes no place; what is about to start does.
            failed = app is not None and app.status == DEPLOY_FAILED
            target = running if failed else max(running, target, 0 if target else least)
        idle = live and not unknown and ask.app in candidates and running < max(1, ask.size.least)
        asks.append(
            replace(
                ask,
                running=running,
                target=target,
                given=least,
                live=live,
                idle=idle,
                leaving=ask.app in leaving,
                unknown=unknown,
                limit=limit,
                serves=ask.model in serving,
                born=born(models.get(ask.model)),
                label=f"{ask.model} {ask.version}" if ask.model in several else ask.label,
            )
        )
    return asks


def _of_entry(entry: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Ask]:
    """None for an application that was deployed from code; one for each deployment of what is no model of ours."""
    app, args = str(entry["name"]), entry.get("args") or {}
    match entry:
        case {
            "import_path": str(path),
            "args": {"name": str(model), "identity": {"version": str(version)}},
            "deployments": [_],
        } if path == MODEL_IMPORT_PATH:
            pass
        case _:
            model, version = "", ""
    deployments = entry.get("deployments") or ()
    for deployment in deployments:
        options = deployment.get("ray_actor_options") or {}
        yield Ask(
            app=app,
            deployment=str(deployment.get("name", "")) if len(deployments) > 1 else "",
            label=model or (ROUTERS if app == ROUTER_APP else app),
            need=of_options(options, gpu_memory=(args.get("gpu_memory_bytes") if model else 0) or 0),
            size=size.of_deployment(deployment),
            model=model,
            version=version,
            name=names.get(app, "") if model else "",
        )


def _absent(model: ModelDeployment, app: str, version: str, name: str) -> Ask:
    named = model.spec.traffic.versions if model.spec.traffic is not None else []
    return Ask(
        app=app,
        label=model.metadata.name,
        need=of_resources(model.spec.resources),
        size=size.of_model(model, next((each for each in named if each.name == name), None)),
        model=model.metadata.name,
        version=version,
        name=name,
    )


def of_options(options: Mapping[str, Any], *, gpu_memory: int = 0) -> Need:
    """From a deployment's `ray_actor_options`; Serve gives a replica one CPU where they say nothing."""
    custom = options.get("resources") or {}
    kinds = sorted(name.removeprefix(ACCELERATOR) for name in custom if name.startswith(ACCELERATOR))
    cpus = options.get("num_cpus")
    return Need(
        cpus=1.0 if cpus is None else float(cpus),
        memory=int(options.get("memory") or 0),
        gpus=float(options.get("num_gpus") or 0),
        gpu_memory=gpu_memory,
        accelerator=kinds[0] if kinds else "",
        steady=ON_DEMAND in custom,
    )


def of_resources(resources: Resources) -> Need:
    """From a model's spec."""
    return Need(
        cpus=resources.cpu_count,
        memory=resources.memory_bytes or 0,
        gpus=resources.gpu_count,
        gpu_memory=resources.gpu_memory_bytes or 0,
        accelerator=resources.accelerator or "",
    )


def of_spec(model: ModelDeployment) -> list[Ask]:
    """A model of which nothing is known but its spec: its own version, and each other that its traffic names."""
    asks: list[Ask] = []
    seen = {model.spec.model.uri}
    name, need = model.metadata.name, of_resources(model.spec.resources)
    named = model.spec.traffic.versions if model.spec.traffic is not None else []
    label = name if not named else f"{name} {model.spec.model.uri}"
    asks.append(
        Ask(app=name, label=label, need=need, size=size.of_model(model), model=name, born=born(model)),
    )
    for version in named:
        if version.uri not in seen:
            seen.add(version.uri)
            asks.append(
                Ask(
                    app=named_key(name, version.name),
                    label=f"{name} {version.uri}",
                    need=need,
                    size=size.of_model(model, version),
                    model=name,
                    version=version.name,
                    name=version.name,
                    born=born(model),
                )
            )
    return asks


def born(model: ModelDeployment | None) -> str:
    """`metadata.creationTimestamp`; "" in files."""
    extra = model.metadata.model_extra if model is not None else None
    return str((extra or {}).get("creationTimestamp") or "")


def _untold(app: ObservedApp) -> bool:
    """Whether Serve does not say how much of it runs. Of what it has not begun to start, it says nothing."""
    silent = app.replicas_running is None and app.replicas_target is None
    return app.status == UNKNOWN or (silent and app.status in (RUNNING, UNHEALTHY))


def _wishes(observed: ObservedFleet) -> dict[str, int]:
    """Replicas that applications need by their load, whatever bounds they were given, as far as routers were told."""
    found: dict[str, int] = {}
    for router in observed.routers:
        for app, said in router.versions.items():
            if said.wanted is not None:
                found[app] = max(found.get(app, 0), said.wanted.replicas)
    return found


def _counted(
    asks: Sequence[Ask], observed: ObservedFleet, models: Mapping[str, ModelDeployment]
) -> dict[tuple[str, str], tuple[int, int]]:
    """Of each deployment the replicas that answer, and those that Serve works towards; 0 where it does not say. Serve
    counts an application as a whole: of several deployments, each is thought to have its least before one has more. A
    model of which Serve says nothing just now has what its status told last."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    by_app: dict[str, list[Ask]] = {}
    for ask in asks:
        by_app.setdefault(ask.app, []).append(ask)
    alone = Counter(own[0].model for own in by_app.values() if own[0].app in observed.apps)
    for app, own in by_app.items():
        seen = observed.apps.get(app)
        running, target = (seen.replicas_running or 0, seen.replicas_target or 0) if seen is not None else (0, 0)
        known = models.get(own[0].model)
        if seen is not None and _untold(seen) and known is not None and alone[own[0].model] == 1:
            running = target = known.status.replicas
        if len(own) == 1:
            found[app, own[0].deployment] = running, target
            continue
        sizes = [ask.size for ask in own]
        for ask, parts in zip(own, zip(_spread(running, sizes), _spread(target, sizes), strict=True), strict=True):
            found[app, ask.deployment] = parts
    return found


def _spread(total: int, sizes: Sequence[Size]) -> list[int]:
    parts = []
    for each in sizes:
        parts.append(min(each.least, total))
        total -= parts[-1]
    for place, each in enumerate(sizes):
        more = min(each.most - parts[place], total)
        parts[place] += more
        total -= more
    return parts
