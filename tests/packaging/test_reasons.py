"""docs/kubernetes.md explains every reason that a condition or an event can have, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from helm_chart import ROOT

from rayfleet_operator.plan import causes, pods
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, NoticeReason, Reason
from rayfleet_operator.plan.fleet_conditions import FleetReason
from rayfleet_operator.registry.errors import RegistryError

OTHERS = {"PodsRefused", "Recovered"}
"""Written where they are used."""


def registry_reasons(base: type[RegistryError] = RegistryError) -> Iterator[str]:
    for kind in base.__subclasses__():
        yield kind.reason
        yield from registry_reasons(kind)


def test_every_reason_is_explained_and_exists() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    tables = page[page.index("| reason | means | do |") : page.index("## Registries")]
    explained = {
        reason
        for line in tables.splitlines()
        if line.startswith("| `")
        for reason in re.findall(r"`([A-Za-z]+)`", line.split("|")[1])
    }
    known = {
        *map(str, (*Reason, *NoticeReason, *FleetReason)),
        *registry_reasons(),
        *pods._ORDER,
        INSUFFICIENT_CAPACITY,
        causes.NO_ADDRESS.reason,
        *OTHERS,
    }
    assert explained == known
