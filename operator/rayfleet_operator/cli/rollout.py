"""`rayfleet rollout`: how a new version takes over, and a word in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from rayfleet_operator.api.timestamp import stamp
from rayfleet_operator.plan.conditions import Reason
from rayfleet_operator.plan.rollback import ROLLBACK_ANNOTATION
from rayfleet_operator.plan.rollout import (
    ABORT_ANNOTATION,
    PROMOTE_ANNOTATION,
    RETRY_ANNOTATION,
    attempt,
    promotion,
)

if TYPE_CHECKING:
    from rayfleet_operator.api.status import RolloutStatus
    from rayfleet_operator.cli.rollouts import Model, Place


def _place(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where the model is."""
    options = (
        click.argument("model"),
        click.option("--namespace", "-n", metavar="NAME", help="On Kubernetes, in this namespace."),
        click.option("--context", metavar="NAME", help="On Kubernetes, the cluster of this context."),
        click.option("--kubeconfig", metavar="FILE", help="On Kubernetes, the cluster of this file."),
        click.option("--port", type=click.IntRange(1, 65535), help="Speak to the `rayfleet up` at this port."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def rollout() -> None:
    """Look at how a model's new version takes over, and decide about it.

    MODEL is a ModelDeployment's name: of the running `rayfleet up` that has it, or else on Kubernetes.
    """


@rollout.command()
@_place
@click.option("--watch", "-w", is_flag=True, help="Again and again, until it has come to an end.")
@click.option("--version", metavar="N", help="With --watch: not before the registry says that this one is wanted.")
@click.option("--json", "as_json", is_flag=True, help="All that is known, as JSON.")
def status(model: str, watch: bool, version: str | None, as_json: bool, **where: Any) -> None:
    """Show where the rollout stands: versions, weights, step, what it waits for and why, and what is counted.

    With --watch it is drawn again in place; where the output is no terminal, each change is one line. It ends with 0
    once the wanted version has every request, with 1 when it was given up, could not be loaded or cannot be asked for,
    and with 0 after Ctrl-C, which ends nothing else.
    """
    from rayfleet_operator.cli import watching

    if version is not None and not watch:
        raise click.UsageError("--version says what --watch waits for")
    place = _at(**where)
    if watch:
        raise SystemExit(watching.watch(lambda: place.model(model), as_json=as_json, version=version))
    found = place.model(model)
    text = json.dumps(found.as_json(), indent=1) if as_json else "\n".join(watching.lines(found))
    click.echo(text)


@rollout.command()
@_place
def history(model: str, **where: Any) -> None:
    """Show what became of the last ten versions that were to have the requests."""
    found = _at(**where).model(model)
    if not found.history:
        click.echo(f"No version of {model} has had every request, or been given up, yet.")
    for each in found.history:
        why = f": {each.message}" if each.message else ""
        click.echo(f"{each.ended}  version {each.version}  {each.outcome}{why}")


@rollout.command()
@_place
@click.option("--all", "every", is_flag=True, help="Past every step, not only the one where it is.")
def promote(model: str, every: bool, **where: Any) -> None:
    """Go on to the next step now, whatever the clock says and whatever is not concluded yet."""
    place = _at(**where)
    found = place.model(model)
    candidate = _under_way(found)
    if candidate.weight == 100 and (found.progress is None or found.progress.reason != Reason.PAUSED):
        raise click.ClickException(
            f"{model}: the candidate has every request. The version before stands by until scaleDownDelay is over"
        )
    if candidate.stage < 0 and not every:
        raise click.ClickException(
            f"{model}: the candidate is not ready yet. With --all it goes past every step as soon as it is"
        )
    # In the last stage, "all" are behind it already.
    step = "all" if every and candidate.weight < 100 else str(candidate.stage)
    place.annotate(model, {PROMOTE_ANNOTATION: promotion(candidate.mark, step)})
    click.echo(f"{model}: the candidate goes on {'to the end' if every else 'to the next step'}.")


@rollout.command()
@_place
def abort(model: str, **where: Any) -> None:
    """Give the candidate up: the stable version gets every request at once."""
    place = _at(**where)
    candidate = _under_way(place.model(model))
    place.annotate(model, {ABORT_ANNOTATION: attempt(candidate.mark)})
    click.echo(f"{model}: the candidate is given up.")


@rollout.command()
@_place
@click.option("--to", metavar="VERSION", help="The version to go back to. Left out: the one before.")
def rollback(model: str, to: str | None, **where: Any) -> None:
    """Go back at once to a version that had every request before.

    It holds until the registry means another version, or until somebody says `retry`. While a candidate is on its way,
    or has every request and the version before stands by, it is the same as `abort`.
    """
    place = _at(**where)
    found = place.model(model)
    told = found.rollout
    if told is not None and not told.ended:
        before = next((each.name for each in found.versions if each.app == told.stable), "before")
        if to not in (None, before):
            raise click.ClickException(f"{model}: a rollout is under way; rayfleet rollout abort ends it first")
        place.annotate(model, {ABORT_ANNOTATION: attempt(told.mark)})
        click.echo(f"{model}: back to version {before}; the candidate is given up.")
        return
    known = dict(reversed(found.back))
    if not known or (to is not None and to not in known):
        names = ", ".join(version for version, _ in found.back) or "none"
        raise click.ClickException(f"{model}: versions that had every request and can be gone back to: {names}")
    version = to or found.back[0][0]
    place.annotate(model, {ROLLBACK_ANNOTATION: known[version]})
    click.echo(f"{model}: back to version {version}.")


@rollout.command()
@_place
def retry(model: str, **where: Any) -> None:
    """Try a version that was given up, or from which somebody went back, once more, from the first step."""
    place = _at(**where)
    found = place.model(model)
    if not found.gone_back and (found.rollout is None or not found.rollout.ended):
        raise click.ClickException(f"{model}: no candidate was given up; rayfleet rollout status says how things stand")
    place.annotate(model, {RETRY_ANNOTATION: stamp(datetime.now(UTC))})
    if found.gone_back and place.model(model).gone_back:
        raise click.ClickException(
            f"{model}: {ROLLBACK_ANNOTATION} was put there by another hand than this command; take it out there"
        )
    click.echo(f"{model}: the candidate is tried again.")


@rollout.command()
@_place
def pause(model: str, **where: Any) -> None:
    """Stay at the step where it is. What must hold of the candidate must still hold."""
    place = _at(**where)
    place.model(model)
    place.pause(model, paused=True)
    click.echo(f"{model}: it stays where it is.")


@rollout.command()
@_place
def resume(model: str, **where: Any) -> None:
    """Go on after a pause."""
    place = _at(**where)
    place.model(model)
    place.pause(model, paused=False)
    click.echo(f"{model}: it goes on.")


def _at(namespace: str | None, context: str | None, kubeconfig: str | None, port: int | None) -> Place:
    from rayfleet_operator.cli import rollouts

    return rollouts.place(namespace=namespace, context=context, kubeconfig=kubeconfig, port=port)


def _under_way(found: Model) -> RolloutStatus:
    if found.rollout is None or found.rollout.ended:
        raise click.ClickException(
            f"{found.name}: no rollout is under way; rayfleet rollout status says how things stand"
        )
    return found.rollout
