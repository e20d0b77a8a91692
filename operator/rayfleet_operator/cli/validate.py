"""`rayfleet validate FILE…`: every mistake of every file, one a line, as `file:line: kind/name field: message`."""

from __future__ import annotations

import click

from rayfleet_operator.api import documents
from rayfleet_operator.api.fleet import ModelFleet
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import advice


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path())
def validate(paths: tuple[str, ...]) -> None:
    """Check ModelDeployment and ModelFleet files; print every mistake at once, and what can hardly work as asked.

    FILE is a YAML file, or a folder whose .yaml and .yml files are read at any depth. Exits with 0 when all is well, 1
    when something is wrong, 2 when it was called wrongly.
    """
    loaded = documents.load(paths)
    for note in loaded.notes:
        click.echo(note, err=True)
    for problem in loaded.problems:
        click.echo(problem)
    valid: list[ModelFleet | ModelDeployment] = [*loaded.fleets, *loaded.models]
    for item in valid:
        click.echo(f"{loaded.place(item)}: {item.kind}/{item.metadata.name} is valid")
        for line in advice.of(item) if isinstance(item, ModelDeployment) else ():
            click.echo(f"{loaded.place(item)}: {item.kind}/{item.metadata.name} {line}", err=True)
    if loaded.problems:
        click.echo(f"{_count(len(loaded.problems), 'problem')}, {len(valid)} valid")
        raise SystemExit(1)
    if not valid:
        click.echo(f"no ModelDeployment or ModelFleet in {', '.join(map(click.format_filename, paths))}")
        raise SystemExit(1)
    click.echo(f"{len(valid)} valid")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
