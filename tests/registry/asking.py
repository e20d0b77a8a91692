"""Asking for one model."""

from __future__ import annotations

from rayfleet_operator.api.types import Model
from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import ModelIdentity


async def resolve(resolver: Resolver, model: Model) -> ModelIdentity:
    """Raises RegistryError where there is no version."""
    (outcome,) = (await resolver.resolve_all({"": model})).values()
    if isinstance(outcome, RegistryError):
        raise outcome
    return outcome
