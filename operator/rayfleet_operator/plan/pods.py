"""What keeps a fleet's pods from running, in words for people. Pure: from pods as the API server gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rayfleet_operator.api.timestamp import moment
from rayfleet_operator.plan.failure import brief

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong."""

    reason: str
    """One CamelCase word, used as a condition's reason."""
    message: str


_IMAGE = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CreatePodSandboxError"}
_ORDER = ("Unschedulable", "ImagePullFailed", "PodConfigInvalid", "PodEvicted", "OutOfMemory", "PodCrashing")

RECENT = timedelta(minutes=10)
"""How long the end of a container is told of while it is not ready again. Between two starts of one that crashes, the
kubelet waits up to five minutes; a worker without a replica is never ready, whatever happened to it long ago."""


def troubles(pods: Iterable[Json], now: datetime) -> list[Trouble]:
    """At most one for each pod, those that differ by the pod's name alone only once, in the order in which they must be
    solved. `now` is the time of the observation."""
    found: dict[Trouble, list[str]] = {}
    for pod in pods:
        if pod["metadata"].get("deletionTimestamp") is None:
            first = next(_of_pod(pod, now), None)
            if first is not None:
                name = str(pod["metadata"]["name"])
                alike = Trouble(first.reason, first.message.replace(name, POD))
                found.setdefault(alike, []).append(name)
    named = [
        Trouble(alike.reason, brief(_named(alike.message, sorted(names)).strip())) for alike, names in found.items()
    ]
    return sorted(named, key=lambda trouble: (_ORDER.index(trouble.reason), trouble.message))


POD = "\0"
"""Stands for a pod's name."""


def _named(message: str, names: Sequence[str]) -> str:
    text = message.replace(POD, names[0])
    return text if len(names) == 1 else f"{text} (and so for {len(names) - 1} more)"


def _of_pod(pod: Json, now: datetime) -> Iterator[Trouble]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Trouble("Unschedulable", f"no node takes pod {name}{_said(condition.get('message'))}")
    containers: Sequence[Json] = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    for container in containers:
        yield from _of_container(container, name, now)
    if status.get("phase") == "Failed":
        # The containers of an evicted pod may have nothing to say.
        evicted = "PodEvicted" if status.get("reason") == "Evicted" else "PodCrashing"
        yield Trouble(evicted, f"pod {name} has failed{_said(status.get('message') or status.get('reason'))}")


def _of_container(container: Json, pod: str, now: datetime) -> Iterator[Trouble]:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    ended = state.get("terminated") or _recent((container.get("lastState") or {}).get("terminated"), now) or {}
    where = f"container {container['name']} of pod {pod}"
    if reason in _IMAGE:
        image = container.get("image", "")
        yield Trouble("ImagePullFailed", f"the image {image} of {where} cannot be had: {message or reason}")
    elif reason in _CONFIG:
        yield Trouble("PodConfigInvalid", f"{where} cannot start: {message or reason}")
    elif reason == "CrashLoopBackOff":
        ended = (container.get("lastState") or {}).get("terminated") or {}
        yield _ending(where, ended)
    elif not container.get("ready") and (ended.get("exitCode") or ended.get("reason") == "OOMKilled"):
        yield _ending(where, ended)


def _ending(where: str, ended: Json) -> Trouble:
    if ended.get("reason") == "OOMKilled":
        return Trouble("OutOfMemory", f"{where} was killed: it needs more memory than its limit")
    code = f" with code {ended['exitCode']}" if "exitCode" in ended else ""
    return Trouble("PodCrashing", f"{where} ended{code}{_said(ended.get('message'))}")


def _recent(ended: Json | None, now: datetime) -> Json | None:
    if ended is None or not ended.get("finishedAt"):
        return None
    finished = moment(str(ended["finishedAt"]))
    return ended if now - finished < RECENT else None


def _said(message: str | None) -> str:
    return f": {message.strip()}" if message and message.strip() else ""


def ready(pod: Json) -> bool:
    """Whether it gets requests."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return pod["metadata"].get("deletionTimestamp") is None and any(
        each["type"] == "Ready" and each["status"] == "True" for each in conditions
    )
