"""What the registry says about each model, asked again and again in the background.

Each model is asked for at its own interval, spread a little so that many models do not ask in step. Nobody waits for an
answer: until the first one, the planner leaves a model as it is.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass

from rayfleet_operator.api.types import Model, ModelDeployment
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem
from rayfleet_operator.registry.errors import NotAllowed, RegistryError, RegistryUnreachable, ResolverFailed
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import ModelIdentity

AFTER_FAILURE_S = 5.0
"""How soon to ask again after an error, where the model's own interval is longer."""
FOLDER_S = 5.0
"""How often a path on this machine is looked at: it has no pollInterval, and nobody else is asked."""
STORE_S = 30.0
"""How often a path in an object store is looked at: it has no pollInterval, and each look lists it whole."""
UNANSWERED = (RegistryUnreachable.reason, NotAllowed.reason, ResolverFailed.reason)
"""Reasons that say nothing about the model, so that what it was before still holds."""
SPREAD = 0.1


@dataclass
class _Entry:
    model: Model
    due: float
    """On the loop's clock."""
    resolution: Resolution | None = None
    """What was said last."""
    asking: bool = False

    @property
    def last(self) -> ModelIdentity | None:
        """The version that counts until the registry says something else."""
        match self.resolution:
            case ResolutionProblem(last=identity) | (ModelIdentity() as identity):
                return identity
            case _:
                return None


class Resolutions:
    """Tell `follow` which models there are; `known` is what is known; `changed` is set whenever that changes."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._entries: dict[str, _Entry] = {}
        self._wake = asyncio.Event()
        self.changed = asyncio.Event()

    @property
    def known(self) -> dict[str, Resolution]:
        """By model name; a model that was not answered for yet is missing."""
        return {name: entry.resolution for name, entry in self._entries.items() if entry.resolution is not None}

    def follow(self, models: Iterable[ModelDeployment]) -> None:
        """From now on, ask for these. One whose `spec.model` changed is asked for at once; where its URI is another one
        now, or means another registry's version, what was known of it is forgotten."""
        now = asyncio.get_running_loop().time()
        before = self._entries
        self._entries = {}
        for model in models:
            name, wanted = model.metadata.name, model.spec.model
            kept = before.get(name)
            if kept is None or _source(kept.model) != _source(wanted):
                kept = _Entry(wanted, now)
            elif kept.model != wanted:
                # A new entry, because somebody may be asking for the one before.
                kept = _Entry(wanted, now, kept.resolution)
            self._entries[name] = kept
        self._wake.set()

    async def run(self) -> None:
        """Ask whenever a model is due. Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = asyncio.get_running_loop().time()
                due = {name: each for name, each in self._entries.items() if not each.asking and each.due <= now}
                for entry in due.values():
                    entry.asking = True
                # Nobody waits for a silent server but those who ask it, and no batch for one that is under way.
                for place in {_place(entry.model) for entry in due.values()}:
                    batch = {name: entry for name, entry in due.items() if _place(entry.model) == place}
                    tasks.create_task(self._ask(batch))
                wait = min((each.due - now for each in self._entries.values() if not each.asking), default=None)
                self._wake.clear()
                try:
                    async with asyncio.timeout(None if wait is None else max(wait, 0.05)):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _ask(self, entries: dict[str, _Entry]) -> None:
        found: dict[str, Resolution] = {}
        try:
            outcomes = await self._resolver.resolve_all({name: entry.model for name, entry in entries.items()})
            for name, outcome in outcomes.items():
                if isinstance(outcome, RegistryError):
                    last = entries[name].last if outcome.reason in UNANSWERED else None
                    found[name] = ResolutionProblem(outcome.reason, outcome.message, last)
                else:
                    found[name] = outcome
        except Exception as error:
            # Whatever it is, it must not end what serves.
            failed = ResolverFailed(f"asking for it failed: {type(error).__name__}: {error}")
            found = {
                name: ResolutionProblem(failed.reason, failed.message, entry.last) for name, entry in entries.items()
            }
        now = asyncio.get_running_loop().time()
        for name, entry in entries.items():
            wait = _interval(entry.model, failed=isinstance(found[name], ResolutionProblem))
            entry.due = now + wait * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - not a secret
            entry.asking = False
            if found[name] != entry.resolution:
                entry.resolution = found[name]
                self.changed.set()
        self._wake.set()


def _source(model: Model) -> tuple[str, str | None]:
    """What decides which version the model is."""
    return model.uri, model.registry.tracking_uri


def _interval(model: Model, *, failed: bool) -> float:
    if model.uri.startswith(("models:/", "runs:/")):
        interval = model.registry.poll_interval_seconds
    else:
        interval = STORE_S if "://" in model.uri and not model.uri.startswith("file:") else FOLDER_S
    return min(interval, AFTER_FAILURE_S) if failed else interval


def _place(model: Model) -> str:
    """What is asked for it: a tracking server, by default the one of the environment, or a store."""
    scheme = model.uri.partition(":")[0]
    return model.registry.tracking_uri or "" if scheme in ("models", "runs") else f"{scheme}:"
