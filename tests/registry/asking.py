"""Asking for one model."""

from __future__ import annotations

from rayfleet_operator.api.types import Model
from rayfleet_operator.plan.observed import Noted, Notice
from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import ModelIdentity


async def ask(resolver: Resolver, model: Model, before: str | None = None) -> tuple[ModelIdentity, tuple[Notice, ...]]:
    """The version, and what is told of it. Raises RegistryError where there is no version."""
    meant = {"": before} if before is not None else {}
    (outcome,) = (await resolver.resolve_all({"": model}, before=meant)).values()
    match outcome:
        case RegistryError():
            raise outcome
        case Noted(identity=identity, notices=notices):
            return identity, notices
        case identity:
            return identity, ()


async def resolve(resolver: Resolver, model: Model) -> ModelIdentity:
    """Raises RegistryError where there is no version."""
    identity, _ = await ask(resolver, model)
    return identity
