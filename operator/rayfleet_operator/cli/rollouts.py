"""Where a model is: with a running `rayfleet up`, or on Kubernetes. Both tell the same and are told the same."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import click
from pydantic import ValidationError

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.api.status import (
    Condition,
    ModelDeploymentStatus,
    RolloutStatus,
    VersionOutcome,
    VersionStatus,
)
from rayfleet_operator.api.types import API_VERSION, GROUP
from rayfleet_operator.cli.kubectl import Kubectl, KubectlError
from rayfleet_operator.local import state
from rayfleet_operator.local.commands import ANNOTATIONS, Commands, Said
from rayfleet_operator.local.state import Up
from rayfleet_operator.plan import conditions, rollback, strategy
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.strategy import Stage

MANAGER = "rayfleet-rollout"
"""Field manager of what these commands write, so that each takes back what the one before said."""

KIND = f"modeldeployments.{GROUP}"

UNKNOWN = "nothing is known yet"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is told of one model."""

    name: str
    progress: Condition | None
    """What is under way; None where nothing is known yet."""
    degraded: Condition | None
    """What needs a person; None where nothing does."""
    versions: Sequence[VersionStatus]
    rollout: RolloutStatus | None
    stages: Sequence[Stage]
    """Through which a candidate goes; none where a new version takes over at once."""
    wanted: str
    """The version that the model's URI means, as the registry was asked last; "" where it names none."""
    seen: bool
    """All this speaks of the spec as it is now."""
    back: Sequence[tuple[str, str]]
    """Versions that can be gone back to, the newest first, each with the annotation that says so."""
    gone_back: bool
    """Somebody went back, and that holds."""
    history: Sequence[VersionOutcome]

    @classmethod
    def of(
        cls, name: str, status: ModelDeploymentStatus, back: str, stages: Sequence[Stage], generation: int = 0
    ) -> Model:
        """From its status, what its annotation for going back says, and its `metadata.generation`."""
        degraded = conditions.find(status.conditions, ConditionType.DEGRADED)
        return cls(
            name=name,
            progress=conditions.find(status.conditions, ConditionType.PROGRESSING),
            degraded=degraded if degraded is not None and degraded.status == "True" else None,
            versions=status.versions,
            rollout=status.rollout,
            stages=stages,
            wanted=status.resolved.version if status.resolved is not None else "",
            seen=status.observed_generation >= generation,
            back=rollback.earlier(status),
            gone_back=rollback.word(back, status) is not None,
            history=status.history,
        )

    @property
    def under_way(self) -> str:
        """In words: what is under way."""
        return f"{self.progress.reason}: {self.progress.message}" if self.progress is not None else UNKNOWN

    def as_json(self) -> dict[str, Any]:
        def dumped(each: Any) -> Any:
            return each.model_dump(mode="json", by_alias=True)

        return {
            "name": self.name,
            "progress": self.under_way,
            "versions": [dumped(each) for each in self.versions],
            "rollout": dumped(self.rollout) if self.rollout is not None else None,
            "history": [dumped(each) for each in self.history],
        }


class Place(Protocol):
    """Each raises click.ClickException where there is no such model, or nobody takes what is said."""

    def model(self, name: str) -> Model: ...
    def annotate(self, name: str, annotations: Mapping[str, str]) -> None: ...
    def pause(self, name: str, *, paused: bool) -> None: ...


def place(*, namespace: str | None, context: str | None, kubeconfig: str | None, port: int | None) -> Place:
    """The running `up`, where one runs and nothing speaks of Kubernetes. Raises click.ClickException."""
    folder = state.state_folder(os.environ)
    running = [up for up in state.running(folder) if port is None or urlsplit(up.url).port == port]
    if namespace is None and context is None and kubeconfig is None:
        if len(running) == 1:
            return Local(folder, running[0])
        if running:
            ports = ", ".join(str(urlsplit(up.url).port) for up in running)
            raise click.ClickException(f"several rayfleet up run, at the ports {ports}; choose one with --port")
        if port is not None:
            raise click.ClickException(f"no rayfleet up runs at port {port}")
    return Kubernetes(namespace=namespace, context=context, kubeconfig=kubeconfig)


class Local:
    """A running `up`."""

    def __init__(self, folder: Path, up: Up) -> None:
        self._folder = folder
        self._up = up
        self._commands = Commands(state.commands_path(folder, up.url))

    def model(self, name: str) -> Model:
        up = next((up for up in state.running(self._folder) if up.url == self._up.url), None)
        if up is None:
            raise click.ClickException(f"the rayfleet up at {self._up.url} has ended")
        if name not in up.status.statuses:
            known = ", ".join(sorted(up.status.statuses)) or "none"
            raise click.ClickException(f"the rayfleet up at {up.url} serves no model {name!r}; it serves {known}")
        stages = next((each.stages for each in up.status.models if each.name == name), ())
        return Model.of(name, up.status.statuses[name], self._commands.said.get(name, Said()).rollback, stages)

    def annotate(self, name: str, annotations: Mapping[str, str]) -> None:
        before = self._commands.said.get(name, Said())
        said = {key: annotations[annotation] for key, annotation in ANNOTATIONS.items() if annotation in annotations}
        self._say(name, Said(**said, paused=before.paused))

    def pause(self, name: str, *, paused: bool) -> None:
        shown = next((each for each in self._up.status.models if each.name == name), None)
        if shown is not None and not shown.stages:
            raise click.ClickException(
                f"{name}: spec.rollout.strategy is Immediate, which has no stages to stay at; write Canary or BlueGreen"
            )
        before = self._commands.said.get(name, Said())
        self._say(name, before.model_copy(update={"paused": paused}))

    def _say(self, name: str, said: Said) -> None:
        try:
            self._commands.say(name, said)
        except OSError as error:
            raise click.ClickException(f"{self._folder} cannot be written: {error.strerror}") from error


class Kubernetes:
    """What kubectl reaches: it knows every way to sign in."""

    def __init__(self, *, namespace: str | None, context: str | None, kubeconfig: str | None) -> None:
        given = any((namespace, context, kubeconfig))
        self._why = "" if given else "no rayfleet up runs here, so kubectl was asked: "
        self._namespace = namespace
        self._kubectl = Kubectl(context=context, kubeconfig=kubeconfig)

    def model(self, name: str) -> Model:
        found = json.loads(self._ask("get", KIND, name, "-o", "json"))
        metadata = found["metadata"]
        back = (metadata.get("annotations") or {}).get(rollback.ROLLBACK_ANNOTATION, "")
        status = ModelDeploymentStatus.model_validate(found.get("status") or {})
        return Model.of(name, status, back, _stages(found["spec"].get("rollout") or {}), metadata["generation"])

    def annotate(self, name: str, annotations: Mapping[str, str]) -> None:
        self._apply(name, {"annotations": dict(annotations)}, {}, MANAGER)

    def pause(self, name: str, *, paused: bool) -> None:
        self._apply(name, {}, {"spec": {"rollout": {"paused": paused}}}, f"{MANAGER}-pause")

    def _apply(self, name: str, metadata: dict[str, Any], rest: dict[str, Any], manager: str) -> None:
        body = {
            "apiVersion": API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {"name": name, **metadata},
            **rest,
        }
        options = ("--server-side", "--force-conflicts", f"--field-manager={manager}")
        self._ask("apply", *options, "-f", "-", stdin=json.dumps(body))

    def _ask(self, *arguments: str, stdin: str | None = None) -> str:
        try:
            return self._kubectl(*arguments, namespace=self._namespace, stdin=stdin)
        except KubectlError as error:
            raise KubectlError(self._why + error.message) from error


def _stages(rollout: Mapping[str, Any]) -> tuple[Stage, ...]:
    """None where the cluster's release allows what this one does not know."""
    try:
        return strategy.stages(Rollout.model_validate(rollout))
    except ValidationError:
        return ()
