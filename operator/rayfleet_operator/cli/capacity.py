"""`rayfleet capacity FILE…`: which models fit where, what is asked and free on each GPU, and why a replica waits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import click

from rayfleet_operator.api import documents
from rayfleet_operator.cli import counted
from rayfleet_operator.cli.counted import Counted
from rayfleet_operator.cli.kubectl import Kubectl
from rayfleet_operator.plan import places
from rayfleet_operator.plan.admission import Admission, admit
from rayfleet_operator.plan.demand import Ask
from rayfleet_operator.plan.places import Places
from rayfleet_operator.plan.room import Room


@click.command()
@click.argument("paths", metavar="[FILE...]", nargs=-1, type=click.Path())
@click.option("--live", is_flag=True, help="What runs on Kubernetes, by way of kubectl.")
@click.option("--namespace", "-n", help="With --live: this one instead of kubectl's own.")
@click.option("--context", help="With --live: kubectl's context.")
@click.option("--kubeconfig", help="With --live: kubectl's configuration.")
@click.option("--fleet", "fleet_name", metavar="NAME", help="Only this fleet.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def capacity(
    paths: tuple[str, ...],
    live: bool,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    fleet_name: str | None,
    output: Literal["text", "json"],
) -> None:
    """Say which models fit where, what is asked and free on each GPU, and why a replica waits.

    FILE is a YAML file, or a folder whose .yaml and .yml files are read at any depth: each ModelFleet in them is filled
    with the models that name it, up to maxReplicas of its worker groups. Exits with 0 when everything fits; with 1 when
    something does not, or that is not known; with 2 when it was called wrongly.
    """
    if live == bool(paths):
        raise click.UsageError("give files or folders, or --live")
    if not live and any((namespace, context, kubeconfig)):
        raise click.UsageError("--namespace, --context and --kubeconfig go with --live")
    if live:
        fleets = counted.of_cluster(Kubectl(context=context, kubeconfig=kubeconfig), namespace)
    else:
        loaded = documents.load(paths)
        for problem in loaded.problems:
            click.echo(problem, err=True)
        if loaded.problems:
            raise SystemExit(1)
        fleets = counted.of_files(loaded)
    reports = [Report.of(each) for each in fleets if fleet_name is None or each.name == fleet_name]
    if not reports:
        raise click.ClickException(f"there is no fleet{f' {fleet_name}' if fleet_name else ''} to count")
    if output == "json":
        click.echo(json.dumps([report.as_json() for report in reports], indent=1))
    else:
        click.echo("\n\n".join("\n".join(report.lines()) for report in reports))
    if not all(report.fits for report in reports):
        raise SystemExit(1)


@dataclass(frozen=True)
class Report:
    """One fleet, counted."""

    name: str
    namespace: str
    places: Places | None
    """None where nobody says what workers it has."""
    troubles: Sequence[str]
    updates: Sequence[str]
    """Models of which a new version finds no room beside what there is."""

    @classmethod
    def of(cls, fleet: Counted) -> Report:
        if fleet.room is None:
            return cls(fleet.name, fleet.namespace, None, fleet.troubles, ())
        admission = admit(fleet.room, fleet.asks)
        found = places.of(admission)
        return cls(
            fleet.name, fleet.namespace, found, fleet.troubles, tuple(_updates(fleet.room, fleet.asks, admission))
        )

    @property
    def fits(self) -> bool:
        return self.places is not None and not self.places.waiting and not self.troubles

    def lines(self) -> list[str]:
        """For a terminal."""
        known = places.lines(self.places) if self.places is not None else []
        return [
            f"fleet {self.name}, namespace {self.namespace}",
            *known,
            *(f"waiting: {text}" for text in self.troubles),
            *self.updates,
        ]

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        found = dataclasses.asdict(self.places) if self.places is not None else None
        if self.places is not None and found is not None:
            found["waiting"] = [each._asdict() for each in self.places.waiting]
        return {**vars(self), "troubles": list(self.troubles), "updates": list(self.updates), "places": found} | {
            "fits": self.fits
        }


def _updates(room: Room, asks: Sequence[Ask], admission: Admission) -> list[str]:
    """While one version takes over from another, both run."""
    found: list[str] = []
    serving = [dataclasses.replace(ask, live=True) for ask in asks if ask not in admission.out]
    for ask in serving:
        if not ask.model or ask.name:
            continue
        beside = dataclasses.replace(ask, app=f"{ask.app}\0new", live=False, running=0, serves=True)
        after = admit(room, [*serving, beside])
        # It is the only one that is not served yet.
        found += [
            f"a new version of {ask.model} has no room beside what there is: a replica {each.why}"
            for each in after.waiting
            if each.refused
        ]
    return sorted(set(found))
