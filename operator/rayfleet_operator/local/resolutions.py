"""What the registry says about the models of one fleet on this machine, with the credentials of the environment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from rayfleet_operator import resolutions
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import named
from rayfleet_operator.plan.observed import Notice, Resolution
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.resolutions import ModelKey
from rayfleet_operator.write_back import WriteBacks


class Resolutions:
    """Tell `follow` which models there are; `known` is what is known; `changed` is set whenever that changes."""

    def __init__(self, resolver: Resolver) -> None:
        self.changed = asyncio.Event()
        self._keys: list[ModelKey] = []
        self._all = resolutions.Resolutions(resolver, on_change=lambda key: self.changed.set())
        self._written = WriteBacks(resolver, lambda key: self.changed.set(), shared=True)

    @property
    def known(self) -> dict[str, Resolution]:
        """By model name, and by `named_key`; what was not answered for yet is missing."""
        found = {key.name: self._all.known(key) for key in self._keys}
        return {name: resolution for name, resolution in found.items() if resolution is not None}

    def follow(self, models: Iterable[ModelDeployment]) -> None:
        """From now on, ask for these, and for the versions that their traffic names. One whose `spec.model` changed is
        asked for at once."""
        each = named.asked_for(models)
        self._keys = [ModelKey(model.metadata.namespace, model.metadata.name) for model in each]
        # Here a Secret that a model names has no effect.
        self._all.follow("", each, {key.name: Access() for key in self._keys})

    def write_back(self, models: Iterable[ModelDeployment]) -> tuple[list[ModelDeployment], dict[str, Notice]]:
        """Have the registry told which versions have every request; as `WriteBacks.follow`."""
        each = list(models)
        return self._written.follow("", each, {model.metadata.name: Access() for model in each})

    async def run(self) -> None:
        """Ask whenever a model is due, and write what is. Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._all.run())
            tasks.create_task(self._written.run())
