"""What a change costs, in lines for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from rayfleet_operator.api.fleet import ModelFleet, ModelFleetSpec
from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.cli.compared import Compared
from rayfleet_operator.plan import strategy
from rayfleet_operator.plan.succession import Need, succession
from rayfleet_operator.reconcile.wanted import fleet_spec
from rayfleet_operator.render import revision, size, standing, upgrade
from rayfleet_operator.render.names import INPUTS_ANNOTATION, FleetName, annotation
from rayfleet_operator.render.raycluster import cluster_spec, ordered, resized

Json = dict[str, Any]

ADMINISTRATORS = "the operator's fleet defaults, which rayfleet diff does not know"
ANEW = (
    f"it is rendered anew all the same: should {ADMINISTRATORS}, or the operator's release, "
    "have changed since, a new Ray cluster is built beside the old one"
)
UNNOTICED = (
    "KubeRay takes no notice of some of it (tolerations): it holds for the pods of the next Ray cluster, which "
    "another value of the annotation rayfleet.io/restart builds"
)
SHARED_ANEW = (
    "models that have a part of a GPU get new versions (spec.gpuSharing), each beside the old one until it answers"
)
NOT_HELD = "for no time"
SPARE = "the nodes must have room for it beside the old one, or it waits for them"


@dataclass(frozen=True, kw_only=True)
class Running:
    """What is known of a fleet's Ray cluster."""

    ray_service: Json | None = None
    revisions: Sequence[Json] = ()
    unknown: str | None = None
    """Why nothing is, where it could not be asked for."""

    @property
    def cluster(self) -> Json | None:
        """As it was rendered; None where there is none, or somebody wrote into it what no cluster looks like."""
        if self.ray_service is None:
            return None
        try:
            kept = revision.current(self.revisions, self.ray_service)
            found = kept["data"]["rayClusterConfig"] if kept is not None else None
            found = found or self.ray_service["spec"]["rayClusterConfig"]
        except (LookupError, TypeError, ValueError, AttributeError):
            return None
        return found if upgrade.in_place(found, found) else None

    @property
    def gpu_sharing(self) -> str | None:
        """What holds where the fleet does not say; None where that is not known."""
        try:
            kept = revision.current(self.revisions, self.ray_service)
            return revision.sharing([kept], annotation(kept, INPUTS_ANNOTATION)) if kept is not None else None
        except (LookupError, TypeError, ValueError, AttributeError):
            return None

    @property
    def building(self) -> str | None:
        """The cluster that KubeRay builds beside another one, if it does."""
        try:
            status = (self.ray_service or {}).get("status") or {}
            active, pending = (
                status[part]["rayClusterName"] for part in ("activeServiceStatus", "pendingServiceStatus")
            )
        except (LookupError, TypeError, AttributeError):
            return None
        return str(pending) if active and pending and active != pending else None

    def kept(self, inputs: str) -> Json | None:
        """What was rendered for these inputs once, and is applied again as it is."""
        try:
            return revision.rendered(self.revisions, self.ray_service, inputs)
        except (LookupError, TypeError, AttributeError):
            return None


def of_fleet(found: Compared[ModelFleet], running: Running, namespace: str) -> list[str]:
    """Of a ModelFleet that is new, or that changes."""
    fleet = _Fleet(FleetName(namespace, found.name), running, found.before["spec"])
    after = upgrade.asked(found.after["spec"], found.restart[1])
    deadline = found.after_item.spec.progress_deadline
    if found.live is None:
        return list(_new(fleet, after))
    before = upgrade.asked(found.before["spec"], found.restart[0])
    return list(_changed(fleet, before, after, deadline))


def of_restart(found: Compared[ModelDeployment], running: Running, namespace: str) -> list[str]:
    """Of another restart annotation on a model with a fleet of its own."""
    fleet = _Fleet(FleetName(namespace, found.name), running, {})
    before, after = (upgrade.asked({}, each) for each in found.restart)
    return list(_changed(fleet, before, after, "15m"))


class _Fleet:
    """Renders what is asked of one fleet."""

    def __init__(self, name: FleetName, running: Running, written: Json) -> None:
        """`written`: the live spec, which hides the defaults of what it says itself."""
        self._name = name
        self.running = running
        found = standing.defaults(running.cluster) if running.cluster is not None else {}
        self._defaults = {field: value for field, value in found.items() if not written.get(field)}
        if (sharing := running.gpu_sharing) is not None:
            self._defaults["gpuSharing"] = sharing

    def spec(self, asked: Json) -> ModelFleetSpec:
        """With what the cluster that is there tells of the defaults. Raises ValidationError."""
        try:
            return fleet_spec(asked["spec"], {"image": "unknown", **self._defaults})
        except ValidationError:
            # Rendered under other rules than today's.
            return fleet_spec(asked["spec"], {"image": "unknown"})

    def render(self, asked: Json) -> Json:
        running, spec = self.running.cluster, self.spec(asked)
        rendered = cluster_spec(self._name, ordered(spec, running), upgrade.restart_of(asked))
        if running is not None and "workerGroups" in self._defaults and not asked["spec"].get("workerGroups"):
            # Those that run are better known than what they were rendered from.
            rendered["workerGroupSpecs"] = running["workerGroupSpecs"]
        return rendered

    def knows_groups(self, asked: Json) -> bool:
        return bool(asked["spec"].get("workerGroups") or self._defaults.get("workerGroups"))


def _new(fleet: _Fleet, after: Json) -> Iterator[str]:
    found = fleet.render(after)
    most = size.of(found, largest=True)
    if fleet.knows_groups(after):
        yield f"a Ray cluster of {size.of(found)}{_up_to(size.of(found), most)}"
        yield from _unread(most)
    else:
        yield f"a Ray cluster; spec.workerGroups is left out, so its size is that of {ADMINISTRATORS}"


def _changed(fleet: _Fleet, before: Json, after: Json, deadline: str) -> Iterator[str]:
    running = fleet.running
    if fleet.spec(before).gpu_sharing != fleet.spec(after).gpu_sharing:
        yield SHARED_ANEW
    if running.unknown is not None:
        yield f"what runs could not be asked for ({running.unknown}), so this is said from the two specs alone"
    elif running.ray_service is not None and running.cluster is None:
        yield "the fleet's RayService holds no Ray cluster that can be read, so this is said from the two specs alone"
    elif running.cluster is None:
        yield "there is no RayService yet, so no pod is replaced"
        yield from _new(fleet, after)
        return
    inputs = [revision.inputs_digest(each["spec"], upgrade.restart_of(each)) for each in (before, after)]
    base, wanted = fleet.render(before), fleet.render(after)
    kept = running.kept(inputs[1])
    current = running.cluster or base
    if kept is not None:
        # It is applied again as it was, whatever is rendered today.
        wanted, base = resized(kept, fleet.spec(after)), current
    stays = upgrade.in_place(base, wanted) or upgrade.in_place(current, wanted)
    if inputs[0] == inputs[1] or stays:
        yield from _in_place(resized(base, fleet.spec(before)), wanted)
        if upgrade.unnoticed(base, wanted):
            yield UNNOTICED
        if inputs[0] != inputs[1] and kept is None:
            yield ANEW
        return
    found = upgrade.beside(wanted, upgrade.blamed(before, after, fleet.render))
    yield from _beside(found, deadline, known=fleet.knows_groups(after))
    if (given_up := running.building) is not None:
        yield f"Ray cluster {given_up} is being built already; it is given up, and takes room until it is gone"


def _in_place(before: Json, after: Json) -> Iterator[str]:
    was, becomes = size.of(before), size.of(after)
    most_before, most_after = size.of(before, largest=True), size.of(after, largest=True)
    if (was, most_before) == (becomes, most_after):
        yield "in place: no pod is replaced"
        return
    yield (
        f"in place: no pod is replaced; from {was}{_up_to(was, most_before)} to {becomes}{_up_to(becomes, most_after)}"
    )
    yield from _unread(most_after)


def _beside(found: upgrade.Upgrade, deadline: str, *, known: bool) -> Iterator[str]:
    yield f"{found.why}, which KubeRay does not do in place: a new Ray cluster is built beside the old one"
    if known:
        yield f"while both run it takes {found.size}{_up_to(found.size, found.most)} more; {SPARE}"
    else:
        yield f"how much it takes while both run depends on {ADMINISTRATORS}; {SPARE}"
    yield (
        "requests move when it answers for every model, and the old one goes after its last request; "
        f"one that does not answer within {deadline} (spec.progressDeadline) is reported, and the old one serves on"
    )
    yield from _unread(found.most)


def _up_to(start: size.Size, most: size.Size) -> str:
    return f", up to {most}" if most.pods > start.pods else ""


def _unread(found: size.Size) -> Iterator[str]:
    if found.unread:
        yield f"not counted, because it is no amount: {', '.join(found.unread)}"


def of_model(found: Compared[ModelDeployment], fleets: Callable[[str], bool | None]) -> list[str]:
    """Of a ModelDeployment that is new, or that changes.

    Args:
        fleets: whether there is a ModelFleet of this name; None where nobody knows.
    """
    return list(_of_model(found, fleets))


def _of_model(found: Compared[ModelDeployment], fleets: Callable[[str], bool | None]) -> Iterator[str]:
    before, after = found.before_item, found.after_item
    comes = succession(before, after)
    if before is None:
        yield f"new: {_needs(comes.anew)} on {_fleet_of(after)}"
    elif _fleet_name(before) != _fleet_name(after):
        yield f"moves from {_fleet_of(before)} to {_fleet_of(after)}: {_needs(comes.anew)} start there"
        yield f"{_needs(comes.before)} go on where they are until it answers there"
    else:
        yield from _in_its_fleet(comes.own, comes.named, comes.before, comes.after, comes.other_uri, after.spec.rollout)
    if after.spec.fleet is not None and fleets(after.spec.fleet) is False:
        yield f"there is no ModelFleet {after.spec.fleet} on the cluster or in these files: it serves once there is one"


def _in_its_fleet(
    own: Need | None, named: Mapping[str, Need], before: Need, after: Need, other_uri: bool, rollout: Rollout
) -> Iterator[str]:
    if own is None and not named:
        if before == after:
            yield "in place: no replica is replaced"
        else:
            yield f"in place: from {_needs(before)} to {_needs(after)}"
        return
    if own is not None:
        if other_uri:
            yield "a new version, if the registry says that the URI means another one than now"
        else:
            yield "a new version: replicas of the one that serves cannot take this"
        yield f"it takes {_needs(own)} beside the old version, until that has gone"
        yield _rollout(rollout)
    for name, need in named.items():
        yield f"version {name} of spec.traffic starts beside the others, and takes {_needs(need)}"
    if before != after:
        yield f"afterwards it has {_needs(after)}; before {_needs(before)}"


def _rollout(rollout: Rollout) -> str:
    """How requests move, and when."""
    steps = strategy.stages(rollout)
    if not steps:
        return "requests move at once when every router reaches it (spec.rollout.strategy: Immediate)"
    parts = [*(f"{each.weight} % {_held(each.hold)}" for each in steps[:-1]), "then 100 %"]
    stands_by = f"; the old version stands by {held}" if (held := _held(steps[-1].hold)) != NOT_HELD else ""
    return f"requests move by stages (spec.rollout.strategy: {rollout.strategy}): {', '.join(parts)}{stands_by}"


def _held(seconds: float | None) -> str:
    if seconds == 0:
        return NOT_HELD
    return "until somebody promotes it" if seconds is None else f"for {_span(seconds)}"


def _span(seconds: float) -> str:
    """As `1 h 30 min`, `90 s` rather than nothing."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest)
    return " ".join(parts)


def _fleet_name(model: ModelDeployment) -> str:
    return model.spec.fleet or model.metadata.name


def _fleet_of(model: ModelDeployment) -> str:
    if model.spec.fleet is not None:
        return f"ModelFleet {model.spec.fleet}"
    return f"a fleet of its own, a Ray cluster whose size is that of {ADMINISTRATORS}"


def _needs(need: Need) -> str:
    """`2 replicas (2 CPUs, 4 GiB, 1 GPU)`."""
    asked = {"cpu": need.cpus, "memory": need.memory, "nvidia.com/gpu": need.gpus}
    amounts = {name: Decimal(str(amount)) for name, amount in asked.items()}
    grows = f", up to {size.count(need.most, 'replica')}" if need.most > need.replicas else ""
    return f"{size.count(need.replicas, 'replica')} ({size.resources(amounts)}){grows}"
