"""Models that fleets follow in the registry, and what it says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.plan import named
from rayfleet_operator.plan.observed import Notice, Resolution
from rayfleet_operator.reconcile.wanted import with_server
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.errors import CredentialsMissing
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.resolutions import ModelKey, Resolutions
from rayfleet_operator.write_back import WriteBacks

RESOLVE_S = 60.0
"""For all models of one registry together. Nobody waits for it."""


class FollowedModels:
    """Made inside the event loop.

    Args:
        queue: has a fleet looked at again; called when the registry says something new of one of its models.
    """

    def __init__(self, queue: Callable[[FleetKey], None]) -> None:
        self._queue = queue
        # Paths mean the pods' disks, which nobody can see from here; and no server gets to see credentials but its own.
        resolver = Resolver.from_environment(all_s=RESOLVE_S, local_files=False, share_credentials=False)
        self._resolutions = Resolutions(resolver, self._resolved)
        self._resolving = asyncio.create_task(self._resolutions.run(), name="resolutions")
        self._written = WriteBacks(resolver, self._resolved, shared=False)
        self._writing = asyncio.create_task(self._written.run(), name="write-backs")
        self._fleets: dict[ModelKey, FleetKey] = {}
        """Which fleet each model was followed for last."""

    async def close(self) -> None:
        """Ask and write no more."""
        tasks = [self._writing, self._resolving]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    def check(self) -> None:
        """Raises SystemExit where the registry is no longer asked: no model would ever change, and nobody would
        notice."""
        if self._resolving.done():
            raise SystemExit(f"the registry is no longer asked: {self._resolving.exception()!r}")
        if self._writing.done():
            raise SystemExit(f"the registry is no longer told: {self._writing.exception()!r}")

    def with_servers(self, models: Sequence[ModelDeployment]) -> list[ModelDeployment]:
        """The models with the tracking servers that are asked for them."""
        return [with_server(model, self._resolutions.tracking_uri(model)) for model in models]

    def follow(
        self,
        key: FleetKey,
        models: Sequence[ModelDeployment],
        access: Mapping[str, Access | CredentialsMissing],
        *,
        but: Collection[str],
    ) -> dict[str, Resolution]:
        """Ask for this fleet's models and the versions that their traffic names, and no others for it; returns what is
        known of each, by name and `named_key`.

        Args:
            access: what each model's Secret says, by name.
            but: names of models that cannot be asked for.
        """
        others = {model: fleet for model, fleet in self._fleets.items() if fleet != key}
        asked = named.asked_for(model for model in models if model.metadata.name not in but)
        every = {*(model.metadata.name for model in models), *(model.metadata.name for model in asked)}
        self._fleets = others | {ModelKey(key.namespace, name): key for name in every}
        self._resolutions.follow(key, asked, {name: access[of] for name in every if (of := _of(name)) in access})
        found = {}
        for model_name in every:
            name = ModelKey(key.namespace, model_name)
            # After a restart the registry has not been asked yet, and what it said to the process before still holds.
            if (resolution := self._resolutions.known(name) or self._resolutions.last(name)) is not None:
                found[model_name] = resolution
        return found

    def write_back(
        self,
        key: FleetKey,
        models: Sequence[ModelDeployment],
        access: Mapping[str, Access | CredentialsMissing],
        *,
        but: Collection[str],
    ) -> tuple[list[ModelDeployment], dict[str, Notice]]:
        """Have the registry told which versions of this fleet's models have every request.

        Args:
            but: names of models of which nobody knows what they ask for.

        Returns:
            The models, whose statuses say what was written, and what could not be, by name.
        """
        told, notices = self._written.follow(key, [each for each in models if each.metadata.name not in but], access)
        return [*told, *(each for each in models if each.metadata.name in but)], notices

    def wake(self, registered_model: str) -> None:
        """Ask soon for the models whose URI names this registered model."""
        self._resolutions.wake(registered_model)

    def forget(self, key: FleetKey) -> None:
        """The fleet is no more."""
        self._resolutions.forget(key)
        self._written.forget(key)
        self._fleets = {model: fleet for model, fleet in self._fleets.items() if fleet != key}

    def _resolved(self, model: ModelKey) -> None:
        if (fleet := self._fleets.get(model)) is not None:
            self._queue(fleet)


def _of(name: str) -> str:
    """The model that a model's name or a `named_key` is about."""
    return name.partition("/")[0]
