"""How much of a Kubernetes cluster a rendered Ray cluster takes, as the scheduler counts it.

Templates are people's, so nothing in one makes this fail: what cannot be read as an amount is named, and not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rayfleet_operator.api import quantity

Json = dict[str, Any]
Amounts = dict[str, Decimal]
"""By Kubernetes' names of resources."""

AUTOSCALER = {"requests": {"cpu": "500m", "memory": "512Mi"}}
"""What KubeRay gives the autoscaler where nothing is said (`common/pod.go: BuildAutoscalerContainer`)."""
_SHOWN = ("cpu", "memory")
_UNCOUNTED = re.compile(r"ephemeral-storage|hugepages-|storage$|pods$")
_LARGEST = Decimal(2**63 - 1)
"""Kubernetes' own bound of an amount."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Pods and what they ask for together."""

    pods: int = 0
    amounts: Mapping[str, Decimal] = field(default_factory=dict)
    """CPUs, bytes, and devices by their resource's name."""
    unread: tuple[str, ...] = ()
    """What cannot be read as an amount, with its place."""

    def __str__(self) -> str:
        """`3 pods (6 CPUs, 12 GiB, 1 GPU)`; devices that are no whole nvidia.com/gpu under their own names."""
        return f"{count(self.pods, 'pod')} ({resources(self.amounts)})"

    def __add__(self, other: Size) -> Size:
        amounts = dict(self.amounts)
        for name, amount in other.amounts.items():
            amounts[name] = amounts.get(name, Decimal(0)) + amount
        unread = dict.fromkeys([*self.unread, *other.unread])
        return Size(pods=self.pods + other.pods, amounts=amounts, unread=tuple(unread))

    def times(self, number: int) -> Size:
        amounts = {name: amount * number for name, amount in self.amounts.items()}
        return Size(pods=self.pods * number, amounts=amounts, unread=self.unread)


def count(number: int | Decimal, noun: str) -> str:
    return f"{figure(number)} {noun}{'' if number == 1 else 's'}"


def figure(number: int | float | Decimal) -> str:
    """At most three decimals, and none that say nothing."""
    text = f"{number:.3f}"
    return text.rstrip("0").rstrip(".")


def resources(amounts: Mapping[str, Decimal]) -> str:
    """`6 CPUs, 12 GiB, 1 GPU`."""
    parts = [count(amounts.get("cpu", Decimal(0)), "CPU")]
    if memory := amounts.get("memory"):
        parts.append(f"{figure(memory / 2**30)} GiB" if memory >= 2**30 else f"{figure(memory / 2**20)} MiB")
    plain = amounts.get("nvidia.com/gpu")
    if plain:
        parts.append(count(plain, "GPU"))
    others = sorted(name for name in amounts if name not in _SHOWN and name != "nvidia.com/gpu")
    return ", ".join([*parts, *(f"{figure(amounts[name])} {name}" for name in others if amounts[name])])


def of(cluster: Mapping[str, Any], *, largest: bool = False) -> Size:
    """Of a rendered cluster as it starts; with `largest`, as far as Ray's autoscaler may take it."""
    head = _map(cluster.get("headGroupSpec"))
    size = _pod(_map(head.get("template")), "the head")
    if cluster.get("enableInTreeAutoscaling") is True:
        given = _map(cluster.get("autoscalerOptions")).get("resources")
        asked, unread = _container({"resources": given or AUTOSCALER}, "the head's autoscaler")
        size += Size(amounts=asked, unread=unread)
    for group in _maps(cluster.get("workerGroupSpecs")):
        pods = _number(group.get("maxReplicas" if largest else "minReplicas"), group.get("replicas"))
        hosts = _number(group.get("numOfHosts"), 1) or 1
        size += _pod(_map(group.get("template")), f"group {group.get('groupName')}").times(pods * hosts)
    return size


def _pod(template: Mapping[str, Any], where: str) -> Size:
    """What the scheduler asks of a node for one pod: its containers together, or an init container that needs more."""
    spec = _map(template.get("spec"))
    total: Amounts = {}
    unread: list[str] = []
    for container in _maps(spec.get("containers")):
        asked, bad = _container(container, where)
        unread += bad
        _add(total, asked)
    most: Amounts = {}
    for container in _maps(spec.get("initContainers")):
        asked, bad = _container(container, where)
        unread += bad
        if container.get("restartPolicy") == "Always":
            # It goes on beside the others.
            _add(total, asked)
        else:
            most = {name: max(asked.get(name, Decimal(0)), most.get(name, Decimal(0))) for name in {*asked, *most}}
    total = {name: max(total.get(name, Decimal(0)), most.get(name, Decimal(0))) for name in {*total, *most}}
    whole, bad = _container(spec, where)
    # Asked for by the pod as a whole, which then holds whatever its containers say.
    total |= whole
    unread += bad
    overhead, bad = _amounts(spec.get("overhead"), where)
    _add(total, overhead)
    unread += bad
    return Size(pods=1, amounts=total, unread=tuple(dict.fromkeys(unread)))


def _container(container: Mapping[str, Any], where: str) -> tuple[Amounts, tuple[str, ...]]:
    """Its requests; its limits where it requests nothing, as the API server fills them in."""
    asked = _map(container.get("resources"))
    limits, of_limits = _amounts(asked.get("limits"), where)
    requests, of_requests = _amounts(asked.get("requests"), where)
    return limits | requests, (*of_limits, *of_requests)


def _amounts(written: Any, where: str) -> tuple[Amounts, tuple[str, ...]]:
    found: Amounts = {}
    unread: list[str] = []
    for name, value in _map(written).items():
        if _UNCOUNTED.search(str(name)) or value is None:
            continue
        amount = _amount(value)
        if amount is None:
            unread.append(f"{name} of {where}")
        else:
            found[str(name)] = amount
    return found, tuple(unread)


def _amount(value: Any) -> Decimal | None:
    """None where it is no amount."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return min(quantity.parse_quantity(str(value).removeprefix("+")), _LARGEST)
    except (ValueError, ArithmeticError):
        return None


def _add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, Decimal(0)) + amount


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: Any) -> Iterator[Mapping[str, Any]]:
    return (each for each in value if isinstance(each, Mapping)) if isinstance(value, list) else iter(())


def _number(value: Any, otherwise: Any) -> int:
    for each in (value, otherwise):
        if isinstance(each, int) and not isinstance(each, bool):
            return max(each, 0)
    return 0
