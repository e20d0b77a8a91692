"""Models that fleets follow in the registry, and what it says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.plan.observed import Resolution
from rayfleet_operator.reconcile.wanted import with_server
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.errors import CredentialsMissing
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.resolutions import ModelKey, Resolutions

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
        self._fleets: dict[ModelKey, FleetKey] = {}
        """Which fleet each model was followed for last."""

    async def close(self) -> None:
        """Ask no more."""
        self._resolving.cancel()
        await asyncio.wait([self._resolving])

    def check(self) -> None:
        """Raises SystemExit where the registry is no longer asked: no model would ever change, and nobody would
        notice."""
        if self._resolving.done():
            raise SystemExit(f"the registry is no longer asked: {self._resolving.exception()!r}")

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
        """Ask for this fleet's models, and no others for it; returns what is known of each.

        Args:
            access: what each model's Secret says, by name.
            but: names of models that cannot be asked for.
        """
        others = {model: fleet for model, fleet in self._fleets.items() if fleet != key}
        self._fleets = others | {ModelKey(key.namespace, model.metadata.name): key for model in models}
        self._resolutions.follow(key, [model for model in models if model.metadata.name not in but], access)
        found = {}
        for model in models:
            name = ModelKey(key.namespace, model.metadata.name)
            # After a restart the registry has not been asked yet, and what it said to the process before still holds.
            if (resolution := self._resolutions.known(name) or self._resolutions.last(name)) is not None:
                found[model.metadata.name] = resolution
        return found

    def wake(self, registered_model: str) -> None:
        """Ask soon for the models whose URI names this registered model."""
        self._resolutions.wake(registered_model)

    def forget(self, key: FleetKey) -> None:
        """The fleet is no more."""
        self._resolutions.forget(key)
        self._fleets = {model: fleet for model, fleet in self._fleets.items() if fleet != key}

    def _resolved(self, model: ModelKey) -> None:
        if (fleet := self._fleets.get(model)) is not None:
            self._queue(fleet)
