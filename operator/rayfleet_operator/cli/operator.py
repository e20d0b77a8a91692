"""`rayfleet operator`: look after the fleets of a Kubernetes cluster until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os

import click

from rayfleet_operator import logs, open_files
from rayfleet_operator.settings import LEVELS, Settings, SettingsError


@click.command()
@click.option("--namespace", "namespaces", metavar="NAME", multiple=True, help="Only this namespace; may be repeated.")
@click.option("--kubeconfig", metavar="FILE", help="How to reach the API server from outside of the cluster.")
@click.option("--log-level", type=click.Choice(LEVELS, case_sensitive=False), help="How much is logged.")
@click.option("--no-leader-election", is_flag=True, help="Work at once; there must be no other operator.")
def operator(
    namespaces: tuple[str, ...], kubeconfig: str | None, log_level: str | None, no_leader_election: bool
) -> None:
    """Look after the ModelDeployments and ModelFleets of a Kubernetes cluster.

    It runs until SIGTERM or Ctrl-C. Options override the environment variables RAYFLEET_NAMESPACES, KUBECONFIG,
    RAYFLEET_LOG_LEVEL and RAYFLEET_LEADER_ELECTION. Exits with 0 when it was asked to end, with 1 when it cannot start
    or lost its Lease.
    """
    environ = dict(os.environ)
    overrides = {
        "RAYFLEET_NAMESPACES": ",".join(namespaces),
        "KUBECONFIG": kubeconfig,
        "RAYFLEET_LOG_LEVEL": log_level,
        "RAYFLEET_LEADER_ELECTION": "false" if no_leader_election else None,
    }
    environ |= {name: value for name, value in overrides.items() if value}
    try:
        settings = Settings.from_environment(environ)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    try:
        from rayfleet_operator import manager
        from rayfleet_operator.kube.config import ConfigError
        from rayfleet_operator.kube.depth import read_deep_answers
        from rayfleet_operator.kube.lease import LeaseLost
        from rayfleet_operator.reconcile import reconciler
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is not installed; pip install 'rayfleet[operator]'") from error
    logs.configure(settings.log_level, settings.log_format)
    open_files.allow_most()
    read_deep_answers()
    try:
        asyncio.run(manager.run(settings, reconciler.build))
    except (ConfigError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except LeaseLost as error:
        logging.getLogger(__name__).error("Ending: %s", error)
        raise SystemExit(1) from error
