"""`rayfleet render FILE…`: the Serve config that a fresh Ray would be given for these files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

import click
import yaml

from rayfleet_operator.api import documents
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.local.sources import of_any_kind, on_one_machine, pick_fleet
from rayfleet_operator.plan import named, serve_config
from rayfleet_operator.plan.fleet import plan
from rayfleet_operator.plan.observed import Noted, ObservedFleet, Resolution
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.resolver import Resolver


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--fleet", "fleet_name", metavar="NAME", help="Only this ModelFleet and the models that name it.")
@click.option("--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def render(paths: tuple[str, ...], fleet_name: str | None, output: Literal["yaml", "json"]) -> None:
    """Print the Serve config that the files would deploy.

    FILE is a YAML file, or a folder whose .yaml and .yml files are read at any depth. Every model's URI is looked up in
    its registry; what that says of a version besides goes to standard error. Exits with 0 when the config is complete;
    with 1, and no config, when a file or a model has a problem.
    """
    loaded = documents.load(paths)
    if loaded.problems:
        raise _refusal(map(str, loaded.problems))
    try:
        fleet = pick_fleet(loaded.fleets, fleet_name)
    except LookupError as error:
        raise _refusal([str(error)]) from error
    models = [model for model in loaded.models if fleet_name is None or model.spec.fleet == fleet_name]
    if not models:
        raise _refusal(["no ModelDeployment to render" + (f" on fleet {fleet_name}" if fleet_name else "")])
    try:
        planned = plan(
            fleet=on_one_machine(fleet),
            models=[of_any_kind(model) for model in models],
            resolutions=_resolve({model.metadata.name: model for model in named.asked_for(models)}),
            observed=ObservedFleet(),
            serve_options=ServeOptions(host="127.0.0.1"),  # as `rayfleet up` serves it
            now=datetime.now(UTC),
        )
    except ValueError as error:
        raise _refusal([str(error)]) from error
    if output == "json":
        click.echo(serve_config.canonical(planned.config), nl=False)
    else:
        click.echo(yaml.safe_dump(planned.config, sort_keys=False, allow_unicode=True), nl=False)


def _resolve(models: Mapping[str, ModelDeployment]) -> dict[str, Resolution]:
    specs = {name: model.spec.model for name, model in models.items()}
    outcomes = asyncio.run(Resolver.from_environment().resolve_all(specs))
    errors = [
        f"ModelDeployment/{name}: {outcome.reason}: {outcome.message}"
        for name, outcome in outcomes.items()
        if isinstance(outcome, RegistryError)
    ]
    if errors:
        raise _refusal(errors)
    for name, outcome in outcomes.items():
        for notice in outcome.notices if isinstance(outcome, Noted) else ():
            click.echo(f"ModelDeployment/{name}: {notice.reason}: {notice.message}", err=True)
    return {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, RegistryError)}


def _refusal(lines: Iterable[str]) -> SystemExit:
    for line in lines:
        click.echo(line, err=True)
    return SystemExit(1)
