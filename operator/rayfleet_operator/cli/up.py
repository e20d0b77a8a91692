"""`rayfleet up FILE…`: serve ModelDeployments on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import os

import click

from rayfleet_operator.api import forms, quantity
from rayfleet_operator.local.cluster import ClusterError
from rayfleet_operator.local.session import Request, StartError, serve
from rayfleet_operator.local.sources import Sources
from rayfleet_operator.settings import PrometheusSettings, SettingsError


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Where models answer.")
@click.option("--address", metavar="URL", help="Dashboard of a Ray to join, like http://127.0.0.1:8265.")
@click.option("--fleet", metavar="NAME", help="Only this ModelFleet and the models that name it.")
@click.option(
    "--gpus", metavar="N", type=click.IntRange(0, 99), help="GPUs to hand out. They need not be there. [default: found]"
)
@click.option("--gpu-memory", metavar="SIZE", help="Memory of each GPU, for the sums, like 24Gi.")
def up(
    paths: tuple[str, ...],
    port: int,
    address: str | None,
    fleet: str | None,
    gpus: int | None,
    gpu_memory: str | None,
) -> None:
    """Serve a folder of ModelDeployments on this machine.

    FILE is a YAML file, or a folder whose .yaml and .yml files are read at any depth. Edits of the files and changes in
    the model registry are followed. Ctrl-C ends everything that was started. Exits with 0 after Ctrl-C, with 1 when
    nothing could be started or Ray ended by itself.
    """
    if address is not None and not address.startswith(("http://", "https://")):
        raise click.BadParameter("write the URL of Ray's dashboard, like http://127.0.0.1:8265", param_hint="--address")
    if address is not None and gpus is not None:
        raise click.BadParameter("a Ray that is joined has the GPUs that it has", param_hint="--gpus")
    sources = Sources(paths, fleet)
    for problem in sources.wanted.problems:
        click.echo(problem, err=True)
    if sources.wanted.problems:
        click.echo("Nothing was started. While it runs, a mistake in a file holds up that file alone.", err=True)
        raise SystemExit(1)
    if not sources.wanted.models:
        raise click.ClickException(f"no ModelDeployment in {', '.join(map(click.format_filename, paths))}")
    try:
        from rayfleet_operator.local.view import view
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is not installed; pip install 'rayfleet[local]'") from error
    try:
        prometheus = PrometheusSettings.from_environment(os.environ)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    request = Request(
        sources=sources,
        port=port,
        address=address,
        environ=os.environ,
        prometheus=prometheus,
        gpus=gpus,
        gpu_memory=_bytes(gpu_memory),
    )
    try:
        asyncio.run(serve(request, view(request.url)))
    except (StartError, ClusterError) as error:
        raise click.ClickException(str(error)) from error


def _bytes(size: str | None) -> int | None:
    if size is None:
        return None
    try:
        found = quantity.parse_bytes(size)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--gpu-memory") from error
    if found < forms.LEAST_BYTES:
        raise click.BadParameter(
            f"{size} is less than 1M; write it with its unit, like 24Gi", param_hint="--gpu-memory"
        )
    return found
