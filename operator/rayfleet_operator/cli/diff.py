"""`rayfleet diff FILE…`: what applying files would change on a Kubernetes cluster, and what that costs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from rayfleet_operator.api import documents
from rayfleet_operator.api.fleet import ModelFleet
from rayfleet_operator.api.types import GROUP, ModelDeployment
from rayfleet_operator.cli import costs, redaction
from rayfleet_operator.cli.compared import Compared
from rayfleet_operator.cli.costs import Running
from rayfleet_operator.cli.kubectl import KindMissingError, Kubectl, KubectlError, NotAllowedError
from rayfleet_operator.render.changes import Change
from rayfleet_operator.render.names import FLEET_LABEL, INPUTS_ANNOTATION, annotation

Json = dict[str, Any]

TROUBLE = 2
"""As of diff and of kubectl diff: 0 is no difference, 1 is one."""
MODELS, FLEETS = f"modeldeployments.{GROUP}", f"modelfleets.{GROUP}"
RAY_SERVICES, REVISIONS = "rayservices.ray.io", "controllerrevisions.apps"


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--namespace", "-n", metavar="NAME", help="Of objects that name none. Left out: the context's own.")
@click.option("--context", metavar="NAME", help="The cluster of this context.")
@click.option("--kubeconfig", metavar="FILE", help="The cluster of this file.")
def diff(paths: tuple[str, ...], namespace: str | None, context: str | None, kubeconfig: str | None) -> None:
    """Show what applying ModelDeployment and ModelFleet files would change on a cluster, and what that costs.

    FILE is a YAML file, or a folder whose .yaml and .yml files are read at any depth. kubectl is asked for what is
    there; nothing is written. Values that look like secrets are not shown. Exits with 0 where nothing differs, with 1
    where something does, and with 2 where that cannot be told: a file has a mistake, or the cluster does not answer.
    """
    try:
        differs = _diff(paths, namespace, Kubectl(context=context, kubeconfig=kubeconfig))
    except KubectlError as error:
        error.show()
        raise SystemExit(TROUBLE) from error
    except RecursionError as error:
        click.echo("Error: an object is nested too deeply to be compared", err=True)
        raise SystemExit(TROUBLE) from error
    if differs:
        raise SystemExit(1)


def _diff(paths: Sequence[str], namespace: str | None, kubectl: Kubectl) -> bool:
    loaded = documents.load(paths)
    for note in loaded.notes:
        click.echo(note, err=True)
    items: list[ModelFleet | ModelDeployment] = [*loaded.fleets, *loaded.models]
    lines = [*map(str, loaded.problems), *_elsewhere(loaded, items, namespace)]
    if not items and not lines:
        lines = [f"no ModelDeployment or ModelFleet in {', '.join(map(click.format_filename, paths))}"]
    if lines:
        for line in lines:
            click.echo(line, err=True)
        raise SystemExit(TROUBLE)
    differs = False
    for place in dict.fromkeys(_place(item, namespace) for item in items):
        there = [item for item in items if _place(item, namespace) == place]
        differs = _Namespace.asked(kubectl, place, there).show() or differs
    return differs


def _elsewhere(
    loaded: documents.Loaded, items: Sequence[ModelFleet | ModelDeployment], namespace: str | None
) -> Iterator[str]:
    """Objects of another namespace than the one that was asked for, which kubectl refuses as well."""
    for item in items:
        if namespace is not None and _place(item, namespace) != namespace:
            what = f"metadata.namespace: {item.metadata.namespace!r} is not {namespace!r}; leave --namespace out"
            yield f"{loaded.place(item)}: {item.kind}/{item.metadata.name} {what}"


def _place(item: ModelFleet | ModelDeployment, namespace: str | None) -> str | None:
    """Where the object goes; None for the namespace of kubectl's context."""
    return item.metadata.namespace if "namespace" in item.metadata.model_fields_set else namespace


@dataclass
class _Namespace:
    """The objects of one namespace, in files and on the cluster."""

    kubectl: Kubectl
    place: str | None
    fleets: Sequence[Compared[ModelFleet]]
    models: Sequence[Compared[ModelDeployment]]
    elsewhere: frozenset[str] | None
    """Fleets that models name and that are in no file, as far as they are on the cluster; None where nobody knows."""
    running: dict[str, Running] = field(default_factory=dict)

    @classmethod
    def asked(cls, kubectl: Kubectl, place: str | None, items: Sequence[ModelFleet | ModelDeployment]) -> _Namespace:
        """Ask for what is there. Raises KubectlError."""
        fleets = [item for item in items if isinstance(item, ModelFleet)]
        models = [item for item in items if isinstance(item, ModelDeployment)]
        live_models = _live(kubectl, MODELS, [item.metadata.name for item in models], place)
        live_fleets = _live(kubectl, FLEETS, [item.metadata.name for item in fleets], place)
        named = {model.spec.fleet for model in models if model.spec.fleet is not None}
        found = cls(
            kubectl=kubectl,
            place=place,
            fleets=[Compared(item, live_fleets.get(item.metadata.name)) for item in fleets],
            models=[Compared(item, live_models.get(item.metadata.name)) for item in models],
            elsewhere=_there(kubectl, sorted(named - {item.metadata.name for item in fleets}), place),
        )
        pods = [each.name for each in found.fleets if each.changes]
        pods += [each.name for each in found.models if each.changes and each.item.spec.fleet is None]
        found.running = _running(kubectl, pods, place)
        return found

    def show(self) -> bool:
        """Print them; whether anything differs."""
        differs = False
        for fleet in self.fleets:
            differs = _print(fleet, self._cost_of_fleet(fleet), self._where(fleet)) or differs
        for model in self.models:
            differs = _print(model, self._cost_of_model(model), self._where(model)) or differs
        return differs

    def _cost_of_fleet(self, fleet: Compared[ModelFleet]) -> list[str]:
        if fleet.live is not None and not fleet.changes:
            return []
        if (unknown := _unknown(fleet)) is not None:
            return [unknown]
        return costs.of_fleet(fleet, self.running.get(fleet.name, Running()), self._namespace(fleet))

    def _cost_of_model(self, model: Compared[ModelDeployment]) -> list[str]:
        if model.live is not None and not model.changes:
            return []
        if (unknown := _unknown(model)) is not None:
            return [unknown]
        lines: list[str] = []
        if model.live is None or any(change.path[0] == "spec" for change in model.changes):
            lines += costs.of_model(model, self._has_fleet)
        own = model.live is not None and model.after_item.spec.fleet is None
        if own and model.restart[0] != model.restart[1]:
            running = self.running.get(model.name, Running())
            lines += costs.of_restart(model, running, self._namespace(model))
        return lines or ["no pod and no replica is replaced"]

    def _has_fleet(self, name: str) -> bool | None:
        if any(fleet.name == name for fleet in self.fleets):
            return True
        return name in self.elsewhere if self.elsewhere is not None else None

    def _namespace(self, each: Compared[Any]) -> str:
        return self.place or str((each.live or {}).get("metadata", {}).get("namespace", "default"))

    def _where(self, each: Compared[Any]) -> str:
        if self.place is None and each.live is None:
            return "the namespace of kubectl's context"
        return f"namespace {self._namespace(each)}"


def _unknown(found: Compared[Any]) -> str | None:
    """Why nobody can say what the change costs, if so."""
    if found.refused is not None:
        return f"the API server refuses what comes of it: {' '.join(found.refused.split())}"
    if found.live is not None and found.before_item is None:
        return "the live object is none by this release's rules, so nobody here knows what the change does"
    return None


def _live(kubectl: Kubectl, kind: str, names: Sequence[str], place: str | None) -> dict[str, Json]:
    if not names:
        return {}
    try:
        found = kubectl.get(kind, names, namespace=place)
    except KindMissingError as error:
        raise KubectlError(
            f"the cluster has no {kind}: rayfleet's definitions are not installed there, or this is another cluster "
            f"than you mean. kubectl says: {error.message}"
        ) from error
    except NotAllowedError as error:
        raise KubectlError(f"rayfleet diff needs the right to get {kind}: {error.message}") from error
    return {each["metadata"]["name"]: each for each in found}


def _there(kubectl: Kubectl, fleets: Sequence[str], place: str | None) -> frozenset[str] | None:
    """Which of these ModelFleets there are; None where the user may not see that."""
    if not fleets:
        return frozenset()
    try:
        return frozenset(each["metadata"]["name"] for each in kubectl.get(FLEETS, fleets, namespace=place))
    except NotAllowedError:
        return None


def _running(kubectl: Kubectl, names: Sequence[str], place: str | None) -> dict[str, Running]:
    """What the fleets' pods were made from. Not to be allowed to see that is no trouble: less is known then."""
    if not names:
        return {}
    try:
        services = kubectl.get(RAY_SERVICES, names, namespace=place)
        labels = f"{FLEET_LABEL} in ({','.join(names)})"
        revisions = kubectl.get(REVISIONS, namespace=place, labels=labels)
    except (KindMissingError, NotAllowedError) as error:
        return dict.fromkeys(names, Running(unknown=" ".join(error.message.split())))
    by_name = {each["metadata"]["name"]: each for each in services}
    return {
        name: Running(
            ray_service=by_name.get(name),
            revisions=[each for each in revisions if _label(each) == name and annotation(each, INPUTS_ANNOTATION)],
        )
        for name in names
    }


def _label(obj: Json) -> str:
    labels = obj["metadata"].get("labels")
    return str(labels.get(FLEET_LABEL)) if isinstance(labels, dict) else ""


def _print(found: Compared[Any], cost: Sequence[str], where: str) -> bool:
    """One object: what differs, and what that costs. Whether something does."""
    state = "new" if found.live is None else "changed" if found.changes else "unchanged"
    click.echo(f"{found.item.kind}/{found.name} in {where}: {state}")
    for each in found.changes:
        click.echo(f"  {_line(each)}")
    for number, line in enumerate(cost):
        click.echo(f"  {'cost:' if number == 0 else '     '} {line}")
    return state != "unchanged"


def _line(change: Change) -> str:
    if change.order:
        return f"{change.where}: another order"
    before, after = (redaction.shown(change.path, each) for each in (change.before, change.after))
    if before == after == redaction.NOT_SHOWN:
        return f"{change.where}: changes {redaction.NOT_SHOWN}"
    return f"{change.where}: {before}{_arrow()}{after}"


def _arrow() -> str:
    """One that standard output can write."""
    try:
        "→".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return " -> "
    return " → "
