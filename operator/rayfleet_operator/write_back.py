"""The registry told, in the background, which version has every request.

What should stand there follows from the model's status, what was written stands in it, and whatever differs is due. A
failure is told and tried again, ever later; nobody waits for it, and nothing that serves depends on it. After the
status was written nothing is left to be remembered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from rayfleet_operator.api.status import WrittenBack
from rayfleet_operator.api.types import Model, ModelDeployment
from rayfleet_operator.plan import conditions
from rayfleet_operator.plan.conditions import NoticeReason
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.observed import Notice
from rayfleet_operator.plan.rollback import HAD_ALL
from rayfleet_operator.registry import marking
from rayfleet_operator.registry.access import Access, needs_access
from rayfleet_operator.registry.errors import (
    CredentialsMissing,
    NotAllowed,
    RegistryError,
    RegistryUnreachable,
    ResolverFailed,
)
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.registry.uri import registered_model
from rayfleet_operator.resolutions import ModelKey
from rayfleet_operator.waking import until_due

AFTER_FAILURE_S = 5.0
"""How soon a first failure is tried again; then each wait is about as long as it has failed."""
LONGEST_S = 300.0
"""The longest wait: a permission that was granted is noticed after so long, and a server in trouble is left alone."""
SPREAD = 0.1
MOST_BEFORE = 5
"""Versions besides the first that may stand in the registry by our hand."""
OWN_ONLY = "Only credentials of the Secret that spec.model.registry.secretName names are used for this."


def wanted(model: ModelDeployment, tracking_uri: str | None) -> WrittenBack | None:
    """What should stand in the registry; None where nothing is asked for, or no version of this URI's has had every
    request yet.

    Args:
        tracking_uri: the server that is asked for the model; None where none is.
    """
    asked, name = model.spec.model.registry.write_back, registered_model(model.spec.model.uri)
    last = next((each for each in model.status.history if each.outcome in HAD_ALL), None)
    if asked is None or name is None or tracking_uri is None or last is None:
        return None
    # Under another model's URI, a number would be another version's.
    if registered_model(last.uri) != name or not last.version.isdecimal():
        return None
    return WrittenBack(
        tracking_uri=tracking_uri[:1024],
        model=name,
        version=last.version,
        model_id=last.model_id,
        alias=asked.alias or "",
        tag=asked.tag or "",
    )


def noticed(plans: Sequence[ModelPlan], notices: Mapping[str, Notice]) -> tuple[ModelPlan, ...]:
    """The plans with what is to be told of their models, by name."""
    return tuple(
        replace(plan, conditions=conditions.noticed(plan.conditions, told.reason, told.message))
        if (told := notices.get(plan.name)) is not None
        else plan
        for plan in plans
    )


@dataclass(eq=False)
class _Entry:
    fleet: Hashable
    model: Model
    access: Access
    wanted: WrittenBack
    before: tuple[WrittenBack, ...]
    """What may stand in the registry by our hand."""
    due: float
    """On the loop's clock."""
    notice: Notice | None = None
    failing: float | None = None
    """Since when, on the loop's clock."""
    done: bool = False
    idle: bool = False
    """Not wanted any more, while what is wanted cannot be written; kept because it may stand in the registry."""


class WriteBacks:
    """Tell `follow` which models a fleet has; `on_change` is told when something was written, or fails anew."""

    def __init__(self, resolver: Resolver, on_change: Callable[[ModelKey], None], *, shared: bool) -> None:
        """
        Args:
            on_change: called in the event loop with the model.
            shared: whether the environment's credentials may be used. Not on Kubernetes: whoever writes a
                ModelDeployment could have the operator's change any registered model.
        """
        self._resolver = resolver
        self._on_change = on_change
        self._shared = shared
        self._entries: dict[ModelKey, _Entry] = {}
        self._busy: set[ModelKey] = set()
        """What is written one after the other stands there in this order."""
        self._wake = asyncio.Event()

    def follow(
        self,
        fleet: Hashable,
        models: Iterable[ModelDeployment],
        access: Mapping[str, Access | CredentialsMissing] = MappingProxyType({}),
    ) -> tuple[list[ModelDeployment], dict[str, Notice]]:
        """From now on, write for these models of the fleet, and for no others of it. Nothing is waited for.

        Args:
            access: by model name. For a model that names a Secret or a ConfigMap nothing is written without.

        Returns:
            The models, whose statuses say what was written, and what could not be, by name.
        """
        told, keys = [], set()
        notices: dict[str, Notice] = {}
        for model in models:
            name, key = model.metadata.name, ModelKey(model.metadata.namespace, model.metadata.name)
            keys.add(key)
            own = access.get(name, None if needs_access(model) else Access())
            entry = self._follow(fleet, key, model, own)
            written = model.status.written_back if model.spec.model.registry.write_back is not None else None
            if (kept := self._entries.get(key)) is not None and kept.idle:
                # It may stand there; and where that is not known, nothing is told.
                written = kept.wanted if kept.done else None
            if entry is not None and entry.done:
                written = entry.wanted
            elif entry is not None:
                if entry.wanted == written:
                    # Another version may have been written over it: the next process must not take it for what stands.
                    written = None
                if entry.notice is not None:
                    notices[name] = entry.notice
            told.append(model.model_copy(update={"status": model.status.model_copy(update={"written_back": written})}))
        self._drop(fleet, keys)
        self._wake.set()
        return told, notices

    def forget(self, fleet: Hashable) -> None:
        """The fleet is gone."""
        self._drop(fleet, ())

    async def run(self) -> None:
        """Write whatever is due. Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = asyncio.get_running_loop().time()
                waiting = {
                    key: each
                    for key, each in self._entries.items()
                    if key not in self._busy and not each.done and not each.idle
                }
                for key, entry in waiting.items():
                    if entry.due <= now:
                        self._busy.add(key)
                        tasks.create_task(self._write(key, entry))
                wait = min((each.due - now for key, each in waiting.items() if key not in self._busy), default=None)
                await until_due(self._wake, wait)

    def _follow(
        self, fleet: Hashable, key: ModelKey, model: ModelDeployment, access: Access | CredentialsMissing | None
    ) -> _Entry | None:
        kept, stands = self._entries.get(key), model.status.written_back
        want = wanted(model, self._resolver.tracking_uri(model.spec.model))
        if kept is None and (want is None or want == stands):
            return None
        # Another version that was to be written since may stand there, in part or as a whole.
        if model.spec.model.registry.write_back is None or (kept and kept.done and kept.wanted == want == stands):
            self._entries.pop(key, None)
            return None
        if want is None or not isinstance(access, Access):
            # What is missing is told by whoever asks the registry. What is no longer wanted must not be written.
            if kept is None or kept.wanted == want:
                return kept
            kept.fleet, kept.idle = fleet, True
            return None
        found = (want, access, model.spec.model)
        if kept is not None and not kept.idle and (kept.wanted, kept.access, kept.model) == found:
            kept.fleet = fleet
            return kept
        before = [stands] if stands is not None else []
        if kept is not None:
            before += [each for each in (*kept.before, kept.wanted) if each not in before]
            # While the registry refuses, every version that is wanted meanwhile comes to it; each is asked for.
            before = before[:1] + before[1:][-MOST_BEFORE:]
        now = asyncio.get_running_loop().time()
        entry = self._entries[key] = _Entry(fleet, model.spec.model, access, want, tuple(before), now)
        if kept is not None and kept.wanted == want:
            entry.done, entry.notice = kept.done, kept.notice
        return entry

    def _drop(self, fleet: Hashable, but: Iterable[ModelKey]) -> None:
        gone = [key for key, entry in self._entries.items() if entry.fleet == fleet and key not in but]
        for key in gone:
            del self._entries[key]

    async def _write(self, key: ModelKey, entry: _Entry) -> None:
        failure: RegistryError | None = None
        try:
            async with self._resolver.written_to(entry.model, entry.access, shared=self._shared) as server:
                await marking.mark(server, entry.wanted, entry.before, str(key))
        except RegistryError as error:
            failure = error
        except Exception as error:
            # Whatever it is, it must not end what serves.
            failure = ResolverFailed(f"Writing failed: {type(error).__name__}: {error}")
        told = entry.notice
        self._schedule(entry, failure, asyncio.get_running_loop().time())
        self._busy.discard(key)
        if self._entries.get(key) is entry and (entry.done or entry.notice != told):
            self._on_change(key)
        self._wake.set()

    def _schedule(self, entry: _Entry, failure: RegistryError | None, now: float) -> None:
        """What became of it, and when it is tried again."""
        if failure is None:
            entry.done, entry.notice = True, None
            return
        entry.failing = now if entry.failing is None else entry.failing
        wait = after_failure(now - entry.failing)
        if isinstance(failure, RegistryUnreachable) and failure.retry_after_s:
            wait = max(wait, min(failure.retry_after_s, LONGEST_S))
        entry.due = now + wait * random.uniform(1, 1 + SPREAD)  # noqa: S311 - not a secret
        what = f"The registry does not say that version {entry.wanted.version} has every request: {failure.message}"
        if isinstance(failure, NotAllowed) and entry.access.credentials is None and not self._shared:
            what = f"{what} {OWN_ONLY}"
        entry.notice = Notice(str(NoticeReason.WRITE_BACK_FAILED), what)


def after_failure(failing: float) -> float:
    """Seconds until the next try of what has failed for `failing` seconds."""
    return min(LONGEST_S, max(AFTER_FAILURE_S, failing))
