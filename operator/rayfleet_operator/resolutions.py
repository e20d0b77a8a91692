"""What the registry says about each model, asked again and again in the background.

Each model is asked for at its own interval, spread a little so that many models do not ask in step. After a failure
that may pass it is asked for sooner, and then ever later up to its interval: a registry in trouble gets no more of it.
`wake` asks out of turn, but no more often than once a second, and not while the server asks to be left alone.
Nobody waits for an answer: until the first one, the planner leaves a model as it is. Models of many fleets are followed
at once; each fleet says which are its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from rayfleet_operator.api.types import Model, ModelDeployment
from rayfleet_operator.plan import conditions
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem, identity_of
from rayfleet_operator.registry.access import Access, needs_access
from rayfleet_operator.registry.errors import (
    CredentialsMissing,
    NotAllowed,
    RegistryError,
    RegistryUnreachable,
    ResolverFailed,
    VersionDeleted,
    VersionNotReady,
)
from rayfleet_operator.registry.resolver import Outcome, Resolver
from rayfleet_operator.registry.uri import registered_model
from rayfleet_operator.waking import until_due
from rayfleet_serving.config import ModelIdentity

AFTER_FAILURE_S = 5.0
"""How soon to ask again after the first failure that may pass, where the model's own interval is longer."""
RETRY_AFTER_S = 300.0
"""For how long a server may ask to be left alone, where the model's own interval is not longer."""
FOLDER_S = 5.0
"""How often a path on this machine is looked at: it has no pollInterval, and nobody else is asked."""
STORE_S = 30.0
"""How often a path in an object store is looked at: it has no pollInterval, and each look lists it whole."""
UNANSWERED = (RegistryUnreachable, NotAllowed, ResolverFailed)
"""What says nothing about the model, so that what it was before still holds."""
PASSING = (*UNANSWERED, VersionNotReady)
"""What may pass by itself. Any other answer is one, until somebody registers something or writes another URI."""
WOKEN_S = 1.0
"""The least time from an answer to the next question for a model that is woken again and again."""
SPREAD = 0.1
EARLY = 0.05
"""The part of its interval by which a model may be asked for early, along with others of the same server."""


class ModelKey(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(eq=False)
class _Entry:
    fleet: Hashable
    model: Model
    access: Access | CredentialsMissing | None
    """None while nobody knows what the Secret holds that the model names."""
    due: float
    """On the loop's clock."""
    before: ModelIdentity | None = None
    """What the URI meant to the process before this one."""
    meant: str | None = None
    """The version that the URI meant last, whatever the registry says since."""
    resolution: Resolution | None = None
    """What was said last."""
    asking: bool = False
    failing: float | None = None
    """Since when it fails in a way that may pass, on the loop's clock."""
    early: float = 0.0
    """Seconds before `due` at which it may be asked for along with others."""
    rests: float = 0.0
    """Until when nothing wakes it, on the loop's clock."""
    woken: bool = False
    """While it is asked for: what is answered may be from before."""

    def __post_init__(self) -> None:
        self.place = _place(self.model)
        self.registered = registered_model(self.model.uri)

    @property
    def last(self) -> ModelIdentity | None:
        """The version that counts until the registry says something else."""
        return self.before if self.resolution is None else identity_of(self.resolution)

    def wake(self, now: float) -> None:
        """Have it asked for as soon as it may be, and not earlier, with whomever that is."""
        self.woken = self.asking
        if max(now, self.rests) < self.due:
            self.due, self.early = max(now, self.rests), 0.0

    @property
    def askable(self) -> bool:
        return isinstance(self.access, Access) and not self.asking


class Resolutions:
    """Tell `follow` which models a fleet has; `known` is what is known; `on_change` is told whenever that changes."""

    def __init__(self, resolver: Resolver, on_change: Callable[[ModelKey], None] = lambda key: None) -> None:
        """
        Args:
            on_change: called in the event loop with the model whose `known` an answer changed.
        """
        self._resolver = resolver
        self._on_change = on_change
        self._entries: dict[ModelKey, _Entry] = {}
        self._fleets: dict[Hashable, set[ModelKey]] = {}
        self._silent: dict[str, float] = {}
        """Places that answer for no model, and since when on the loop's clock."""
        self._wake = asyncio.Event()

    def known(self, key: tuple[str, str]) -> Resolution | None:
        """What is known of the model; None until it is answered for."""
        entry = self._entries.get(ModelKey(*key))
        return entry.resolution if entry is not None else None

    def last(self, key: tuple[str, str]) -> ModelIdentity | None:
        """The version that counts until the registry says something else: what it said last, to this process or to the
        one before."""
        entry = self._entries.get(ModelKey(*key))
        return entry.last if entry is not None else None

    def tracking_uri(self, model: ModelDeployment) -> str | None:
        """The server that is asked for this model; None where none is."""
        named = model.spec.traffic.versions if model.spec.traffic is not None else []
        uris = (model.spec.model.uri, *(version.uri for version in named))
        asks = any(uri.startswith(("models:/", "runs:/")) for uri in uris)
        return self._resolver.tracking_uri(model.spec.model) if asks else None

    def follow(
        self,
        fleet: Hashable,
        models: Iterable[ModelDeployment],
        access: Mapping[str, Access | CredentialsMissing] = MappingProxyType({}),
    ) -> None:
        """From now on, ask for these models of the fleet, and for no others of it. Other fleets' models stay.

        A model whose `spec.model` or access changed is asked for at once. Where its URI is another one now, or means
        another registry's version, what was known of it is forgotten. Of a model that is new here, `status.resolved`
        is what it was before, if it speaks of this URI.

        Args:
            access: by model name. A model that names a Secret or a ConfigMap is not asked for without.
        """
        now = asyncio.get_running_loop().time()
        keys: set[ModelKey] = set()
        for model in models:
            key = ModelKey(model.metadata.namespace, model.metadata.name)
            keys.add(key)
            default = None if needs_access(model) else Access()
            self._entries[key] = self._entry(fleet, model, access.get(key.name, default), self._entries.get(key), now)
        self._drop(fleet, self._fleets.pop(fleet, set()) - keys)
        if keys:
            self._fleets[fleet] = keys
        self._wake.set()

    def forget(self, fleet: Hashable) -> None:
        """The fleet is gone, and its models with it, but for those that another fleet has taken over."""
        self._drop(fleet, self._fleets.pop(fleet, set()))

    def wake(self, name: str) -> None:
        """Models whose URI is about this registered model are due now, or as soon as they may be asked for again.

        Args:
            name: as the registry has it. Which registry is not known, so each model's own is asked.
        """
        now = asyncio.get_running_loop().time()
        for entry in self._entries.values():
            if entry.registered == name:
                entry.wake(now)
        self._wake.set()

    async def run(self) -> None:
        """Ask whenever a model is due. Runs until cancelled."""
        async with self._resolver, asyncio.TaskGroup() as tasks:
            while True:
                now = asyncio.get_running_loop().time()
                waiting = {key: entry for key, entry in self._entries.items() if entry.askable}
                places = {entry.place for entry in waiting.values() if entry.due <= now}
                batches: dict[str, dict[ModelKey, _Entry]] = {place: {} for place in places}
                for key, entry in waiting.items():
                    if entry.place in batches and entry.due - entry.early <= now:
                        batches[entry.place][key] = entry
                        entry.asking = True
                # Nobody waits for a silent server but those who ask it, and no batch for one that is under way.
                for place, batch in batches.items():
                    tasks.create_task(self._ask(place, batch))
                wait = min((entry.due - now for entry in waiting.values() if not entry.asking), default=None)
                await until_due(self._wake, wait)

    def _entry(
        self,
        fleet: Hashable,
        model: ModelDeployment,
        access: Access | CredentialsMissing | None,
        kept: _Entry | None,
        now: float,
    ) -> _Entry:
        wanted = model.spec.model
        if kept is None or _source(kept.model) != _source(wanted):
            # Whatever the status says of another URI than the one before is not about this one.
            before, gone = (self._before(model), _deleted(model)) if kept is None else (None, None)
            kept = _Entry(fleet, wanted, access, now, before, before.version if before is not None else gone)
        elif kept.model != wanted or not _same(kept.access, access):
            # A new entry, because somebody may be asking for the one before.
            kept = _Entry(fleet, wanted, access, now, kept.before, kept.meant, kept.resolution)
        kept.fleet = fleet
        if isinstance(access, CredentialsMissing):
            kept.resolution = ResolutionProblem(access.reason, access.message, kept.last)
        return kept

    def _before(self, model: ModelDeployment) -> ModelIdentity | None:
        resolved = model.status.resolved
        if (
            resolved is None
            or resolved.uri != model.spec.model.uri
            or resolved.tracking_uri.rstrip("/") != (self.tracking_uri(model) or "")
        ):
            return None
        return ModelIdentity(
            version=resolved.version,
            model_id=resolved.model_id,
            artifact_uri=resolved.artifact_uri,
            digest=resolved.digest or None,
        )

    def _drop(self, fleet: Hashable, keys: Iterable[ModelKey]) -> None:
        for key in keys:
            if key in self._entries and self._entries[key].fleet == fleet:
                del self._entries[key]

    async def _ask(self, place: str, entries: dict[ModelKey, _Entry]) -> None:
        access = {key: entry.access for key, entry in entries.items() if isinstance(entry.access, Access)}
        outcomes: Mapping[ModelKey, Outcome]
        try:
            models = {key: entry.model for key, entry in entries.items()}
            before = {key: entry.meant for key, entry in entries.items() if entry.meant is not None}
            outcomes = await self._resolver.resolve_all(models, access, before)
        except Exception as error:
            # Whatever it is, it must not end what serves.
            failed = ResolverFailed(f"asking for it failed: {type(error).__name__}: {error}")
            outcomes = dict.fromkeys(entries, failed)
        now = asyncio.get_running_loop().time()
        self._note_silence(place, outcomes.values(), now)
        for key, entry in entries.items():
            self._schedule(entry, outcomes[key], now)
            found = _found(outcomes[key], entry.last)
            if (identity := identity_of(found)) is not None:
                entry.meant = identity.version
            # One that was followed anew meanwhile has another entry, which is asked for by itself.
            if found != entry.resolution and self._entries.get(key) is entry:
                entry.resolution = found
                self._on_change(key)
        self._wake.set()

    def _note_silence(self, place: str, outcomes: Iterable[Outcome], now: float) -> None:
        followed = {entry.place for entry in self._entries.values()}
        self._silent = {each: since for each, since in self._silent.items() if each in followed}
        if all(isinstance(outcome, RegistryUnreachable) for outcome in outcomes):
            self._silent.setdefault(place, now)
        else:
            self._silent.pop(place, None)

    def _schedule(self, entry: _Entry, outcome: Outcome, now: float) -> None:
        """When the model is asked for next: `entry.resolution` is still what was said before `outcome`."""
        interval = _interval(entry.model)
        if isinstance(outcome, PASSING):
            entry.failing = now if entry.failing is None else entry.failing
            # A model that is new at a place in trouble goes at the pace of those that were there before.
            interval = _after_failure(interval, now - min(entry.failing, self._silent.get(entry.place, now)))
        else:
            entry.failing = None
        # Those that were followed at once go apart after the first answer.
        least, most = (1 - SPREAD, 1 + SPREAD) if entry.resolution is not None else (SPREAD, 1)
        entry.due = now + interval * random.uniform(least, most)  # noqa: S311 - not a secret
        entry.early = EARLY * interval
        entry.rests = now + WOKEN_S
        if isinstance(outcome, RegistryUnreachable) and outcome.retry_after_s:
            rest = min(outcome.retry_after_s, max(_interval(entry.model), RETRY_AFTER_S))
            entry.rests = now + rest * random.uniform(1, 1 + SPREAD)  # noqa: S311 - not a secret
            entry.due = max(entry.due, entry.rests)
            entry.early = 0.0
        entry.asking = False
        if entry.woken:
            entry.wake(now)


def _same(one: Access | CredentialsMissing | None, other: Access | CredentialsMissing | None) -> bool:
    """Errors are equal only to themselves, so their words are compared."""
    if isinstance(one, CredentialsMissing) and isinstance(other, CredentialsMissing):
        return one.message == other.message
    return one == other


def _source(model: Model) -> tuple[str, str | None]:
    """What decides which version the model is."""
    return model.uri, model.registry.tracking_uri


def _deleted(model: ModelDeployment) -> str | None:
    """The version of which the process before this one said, under today's spec, that it was deleted."""
    told = conditions.find(model.status.conditions, ConditionType.DEGRADED)
    if told is None or told.reason != VersionDeleted.reason or told.observed_generation != model.metadata.generation:
        return None
    return next((version.name for version in model.status.versions), None)


def _found(outcome: Outcome, last: ModelIdentity | None) -> Resolution:
    """The outcome for the planner. `last` is the version that counted until now."""
    if isinstance(outcome, RegistryError):
        return ResolutionProblem(outcome.reason, outcome.message, last if isinstance(outcome, UNANSWERED) else None)
    return outcome


def _interval(model: Model) -> float:
    """Seconds between two questions that are answered."""
    if model.uri.startswith(("models:/", "runs:/")):
        return model.registry.poll_interval_seconds
    return STORE_S if "://" in model.uri and not model.uri.startswith("file:") else FOLDER_S


def _after_failure(interval: float, failing: float) -> float:
    """Seconds until the next question when it has failed for `failing` seconds: as long again, so that each wait is
    about twice the one before."""
    return min(interval, max(AFTER_FAILURE_S, failing))


def _place(model: Model) -> str:
    """What is asked for it: a tracking server, by default the one of the environment, or a store."""
    scheme = model.uri.partition(":")[0]
    return model.registry.tracking_uri or "" if scheme in ("models", "runs") else f"{scheme}:"
