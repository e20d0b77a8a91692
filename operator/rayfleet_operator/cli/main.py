"""The `rayfleet` command: each subcommand is a module of its own, imported only when it is called."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "validate": "Check ModelDeployment and ModelFleet files; print every mistake at once.",
    "render": "Print the Serve config that the files would deploy.",
    "diff": "Show what applying files would change on a cluster, and what that costs.",
    "capacity": "Say which models fit where, and why one waits.",
    "up": "Serve a folder of ModelDeployments on this machine.",
    "status": "Show what a running `rayfleet up` serves.",
    "predict": "Send one JSON or image file to a model.",
    "measure": "Measure how long a running model takes for a batch.",
    "simulate": "Replay requests against a model's spec: replicas, latency and cost over time.",
    "rollout": "Look at how a model's new version takes over, and decide about it.",
    "operator": "Look after the fleets of a Kubernetes cluster.",
}


class LazyGroup(click.Group):
    """A group whose subcommands are `rayfleet_operator.cli.<name>:<name>`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"rayfleet_operator.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup)
@click.version_option(package_name="rayfleet")
def main() -> None:
    """Fleets of registry models on Ray Serve, from a few lines of YAML."""
