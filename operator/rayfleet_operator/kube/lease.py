"""Leader election over a Lease, with the semantics of client-go's leaderelection.

The holder renews the Lease every `RETRY_S`. Somebody else takes it when it has not changed for as long as it is good
for *by his own clock*, counted from when he saw the change: what the holder's clock says does not matter. The holder
gives up by itself once it has tried for `RENEW_S` in vain, which is earlier, unless it stood still meanwhile: then it
tries once more, which client-go's does not. Every write carries the resourceVersion that was read, so of two who take
it at once, one is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rayfleet_operator.kube import errors
from rayfleet_operator.kube.client import Json, KubeClient, micro_time
from rayfleet_operator.kube.kinds import LEASE

LEASE_S = 15
RENEW_S = 10.0
RETRY_S = 2.0
"""client-go's defaults, which leave room for an API server that restarts."""
ATTEMPT_S = RENEW_S / 2
"""For one attempt: a connection that hangs is given up in time for the next attempt to dial anew."""
LATE_S = 1.0
"""A try or a pause that ends by so much later than it may was in a process that had no CPU."""
JITTER = 1.2
"""Of the waits of those who want the Lease, so that they do not ask at the same time."""

logger = logging.getLogger(__name__)


class LeaseLost(Exception):  # noqa: N818 - a state, not an error
    """The Lease could not be renewed in time; somebody else may hold it by now."""


@dataclass(frozen=True)
class Pace:
    """Seconds; only tests have others."""

    lease_s: int = LEASE_S
    renew_s: float = RENEW_S
    retry_s: float = RETRY_S
    attempt_s: float = ATTEMPT_S


class Lease:
    """One candidate. `leads` is told whenever it begins or ends to hold the Lease."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        leads: Callable[[bool], None] = lambda holds: None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`client` has no limit of its own: a renewal must not queue behind reconciles."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._leads = leads
        self._pace = pace if pace is not None else Pace()
        self._clock = clock
        self._seen: Json | None = None
        self._seen_at = 0.0
        # Something was written to which no answer came: what is there may be newer than what was seen.
        self._unsure = False
        self._shown_holder: str | None = None
        self._problem: str | None = None

    async def acquire(self) -> None:
        """Return once the Lease is ours. Waits for as long as it takes, outages of the API server included."""
        logger.info("Asking for the Lease %s/%s as %s", self._namespace, self._name, self._identity)
        while not await self._attempt(self._pace.attempt_s):  # noqa: ASYNC110 - what changes is at the API server
            await asyncio.sleep(self._pace.retry_s * random.uniform(1.0, JITTER))  # noqa: S311 - spreads retries
        logger.info("Holding the Lease %s/%s", self._namespace, self._name)
        self._leads(True)

    async def keep(self) -> None:
        """Renew the Lease until cancelled. Raises `LeaseLost`."""
        try:
            while True:
                await asyncio.sleep(self._pace.retry_s)
                await self._renew()
        finally:
            self._leads(False)

    async def _renew(self) -> None:
        """Try for `renew_s` from the first try on. Raises `LeaseLost`.

        A process that stood still asks before it gives up: what was answered meanwhile came too late for its timeouts.
        Often nobody has taken the Lease, and if somebody has, the answer says so. So there is one try more where a try
        or a pause was late by `LATE_S` and none began since that could take `attempt_s`. A shorter standstill within a
        try looks like a slow answer.
        """
        began = self._clock()
        deadline = began + self._pace.renew_s
        late = False
        while began < deadline:
            longest = min(self._pace.attempt_s, deadline - began)
            if await self._renewed_within(longest):
                return
            ended = self._clock()
            pause = max(0.0, min(self._pace.retry_s, deadline - ended))
            await asyncio.sleep(pause)
            now = self._clock()
            if ended - began > longest + LATE_S or now - ended > pause + LATE_S:
                late = True
            elif longest == self._pace.attempt_s:
                late = False
            began = now
        if late and await self._renewed_within(self._pace.attempt_s):
            return
        raise LeaseLost(f"the Lease {self._namespace}/{self._name} could not be renewed for {self._pace.renew_s:g} s")

    async def _renewed_within(self, seconds: float) -> bool:
        """One try. Raises `LeaseLost` if somebody else holds the Lease."""
        if await self._attempt(seconds):
            return True
        if self._held_by_another():
            raise LeaseLost(f"{self._holder()} holds the Lease {self._namespace}/{self._name} now")
        return False

    async def release(self, *, within_s: float | None = None) -> None:
        """Give the Lease up, so that the next one need not wait until it runs out. Never raises for the API server.

        One that does not answer is asked again for `within_s` seconds; left out, for as long as one attempt may take.
        """
        problem = "no answer"
        try:
            async with asyncio.timeout(within_s if within_s is not None else self._pace.attempt_s):
                while True:
                    try:
                        async with asyncio.timeout(self._pace.attempt_s):
                            given_up = await self._give_up()
                        if given_up:
                            logger.info("Gave up the Lease %s/%s", self._namespace, self._name)
                        break
                    except TimeoutError:
                        problem = "no answer"
                    except (errors.Unreachable, errors.TooManyRequests) as error:
                        problem = str(error)
                    await asyncio.sleep(self._pace.retry_s)
        except (errors.KubeError, TimeoutError) as error:
            logger.warning("The Lease could not be given up and will run out by itself: %s", str(error) or problem)
        self._seen, self._unsure = None, False

    async def _give_up(self) -> bool:
        """Whether it was ours to give up."""
        if self._unsure:
            await self._read()
        if self._holder() != self._identity:
            return False
        try:
            await self._client.replace(self._given_up())
        except errors.Conflict:
            # A renewal that was cut off arrived after all, or a try before this one, or somebody else has it.
            await self._read()
            if self._holder() != self._identity:
                return False
            await self._client.replace(self._given_up())
        return True

    async def _attempt(self, within_s: float) -> bool:
        """Take or renew the Lease if that is due; returns whether it is ours now."""
        try:
            async with asyncio.timeout(within_s):
                ours = await self._take()
                self._problem = None
                return ours
        except errors.Conflict:
            logger.debug("Somebody else wrote the Lease at the same time")
        except TimeoutError:
            self._warn("no answer in time")
        except errors.KubeError as error:
            self._warn(str(error))
        return False

    def _warn(self, problem: str) -> None:
        """Once, and not every two seconds."""
        if problem != self._problem:
            self._problem = problem
            logger.warning("The Lease, tried again and again: %s", problem)

    async def _take(self) -> bool:
        if self._holder() == self._identity and not self._ran_out():
            # Nobody else may write it now, so what was seen last is what is there: one request less.
            with contextlib.suppress(errors.Conflict, errors.NotFound):
                await self._write(self._client.replace, self._renewed())
                return True
        if not await self._read():
            await self._write(self._client.create, self._renewed(fresh=True))
            return True
        if self._held_by_another() and not self._ran_out():
            self._show_holder()
            return False
        await self._write(self._client.replace, self._renewed())
        return True

    async def _read(self) -> bool:
        """Whether there is a Lease."""
        found = await self._client.get(LEASE, self._namespace, self._name)
        self._unsure = False
        if found is None or self._seen is None or found.get("spec") != self._seen.get("spec"):
            self._saw(found)
        else:
            self._seen = found
        return found is not None

    async def _write(self, write: Callable[[Json], Awaitable[Json]], obj: Json) -> None:
        self._unsure = True
        self._saw(await write(obj))
        self._unsure = False

    def _renewed(self, *, fresh: bool = False) -> Json:
        """The Lease as we write it."""
        now = micro_time()
        obj: Json = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"namespace": self._namespace, "name": self._name},
        }
        if not fresh and self._seen is not None:
            obj = copy.deepcopy(self._seen)
        spec: dict[str, Any] = obj.get("spec") or {}
        mine = spec.get("holderIdentity") == self._identity
        obj["spec"] = spec | {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._pace.lease_s,
            "acquireTime": spec["acquireTime"] if mine and spec.get("acquireTime") else now,
            "renewTime": now,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (0 if mine or fresh else 1),
        }
        return obj

    def _given_up(self) -> Json:
        """The Lease as we saw it, without a holder."""
        obj, now = copy.deepcopy(self._seen or {}), micro_time()
        obj["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now, "acquireTime": now}
        return obj

    def _saw(self, obj: Json | None) -> None:
        self._seen = obj
        self._seen_at = self._clock()

    def _holder(self) -> str | None:
        return ((self._seen or {}).get("spec") or {}).get("holderIdentity") or None

    def _held_by_another(self) -> bool:
        return self._holder() not in (None, self._identity)

    def _ran_out(self) -> bool:
        """Whether what we saw last has not changed for as long as it was good for."""
        spec = (self._seen or {}).get("spec") or {}
        return self._clock() >= self._seen_at + float(spec.get("leaseDurationSeconds") or self._pace.lease_s)

    def _show_holder(self) -> None:
        if self._holder() != self._shown_holder:
            self._shown_holder = self._holder()
            logger.info("%s holds the Lease %s/%s; standing by", self._shown_holder, self._namespace, self._name)
