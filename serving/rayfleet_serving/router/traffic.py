"""The traffic table in force: which live versions answer for each model, and by how much.

Versions that left the table stay until their last request is answered; then their handle is closed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

from rayfleet_serving.config import VERSION_HEADER, ModelRoute, RouterState, TrafficTable, VersionRoute
from rayfleet_serving.metrics import RouterMetrics
from rayfleet_serving.protocol.message import InferenceRequest, RequestError
from rayfleet_serving.router import sticky, yielding
from rayfleet_serving.router.mirror import Copy
from rayfleet_serving.router.version import LiveVersion, Peers, nobody
from rayfleet_serving.signature import ModelMetadata

DRAIN_POLL_S = 0.1
VERSION = VERSION_HEADER.encode()


class LiveModel:
    """One model of the table with its live versions."""

    def __init__(self, name: str, route: ModelRoute, versions: Sequence[LiveVersion]) -> None:
        self.name = name
        self.route = route
        self.versions = versions
        self.mirrors = [version for version in versions if version.route.mirror and not version.route.leaving]
        # A candidate and the version before may have different transforms, and must be counted alike.
        self.classifies = any(each.transform.classification is not None for each in route.versions if not each.name)
        """The model's own versions give scores, of which a transform makes labels."""
        self._weighted = [version for version in versions if version.route.weight]
        self._weights = [version.route.weight for version in self._weighted]
        candidate = route.rollout.candidate if route.rollout is not None else ""
        # Another one for each rollout, so that it is not always the same callers who come first. Whoever is in a named
        # version stays through the rollouts of the model's own.
        self._salt = name if any(version.route.name for version in self._weighted) else candidate
        self._in_order = [(version, version.route.weight) for version in _laid_out(versions, candidate)]

    @property
    def ready(self) -> bool:
        """Some version that takes traffic is ready."""
        return any(version.ready for version in self._weighted)

    @property
    def open(self) -> bool:
        """Some version that takes traffic answers, though the first request may have to wake it."""
        return any(version.open for version in self._weighted)

    def choose(self, headers: Mapping[bytes, bytes]) -> LiveVersion:
        """Pick a version for a request: the one that it names, else its caller's, else any by weight.

        Raises `RequestError`: 503 where the model has none yet, 404 where there is none of that name.
        """
        if (named := headers.get(VERSION)) is not None:
            return self.version(named.decode("latin-1"))
        if not self._weighted:
            text = f"Model {self.name} has no version to answer yet; its status says why."
            raise RequestError(503, "NotReady", text, retry_after=5.0)
        if len(self._weighted) == 1:
            return self._weighted[0]
        if self.route.sticky is not None and (who := sticky.caller(self.route.sticky, headers)) is not None:
            chosen = sticky.choose(who, self._salt, self._in_order)
        else:
            chosen = random.choices(self._weighted, self._weights)[0]  # noqa: S311 - a split of traffic, not a secret
        if chosen.route.name and not chosen.ready:
            # Soon the table says so, too. Until then its share is the model's own, as it is then.
            own = (each for each in self._weighted if not each.route.name and each.ready)
            return max(own, key=lambda each: each.route.weight, default=chosen)
        return chosen

    def copies(
        self, request: InferenceRequest, answering: LiveVersion, deadline: float, *, size: int, image: bool
    ) -> list[Copy]:
        """Send copies of a request to the versions that mirror it, each for its share.

        `size` is bytes of the body; `image`, whether the inputs are what the transform of `answering` made of one.
        """
        copies = []
        for version in self.mirrors:
            metadata = version.metadata
            if version is answering or metadata is None or not version.awake:
                continue
            if random.random() * 100 >= version.route.mirror:  # noqa: S311 - a share of traffic, not a secret
                continue
            try:
                if image and version.route.transform.image != answering.route.transform.image:
                    version.mirror.refuse("its transform reads images in another way")
                    continue
                scores = any(each.route.transform.classification is not None for each in (version, answering))
                if copy := version.mirror.send(request, metadata.signature, deadline, size, scores=scores):
                    copies.append(copy)
            except Exception as error:
                # The request itself is answered all the same.
                version.mirror.unsent(error)
        return copies

    def version(self, label: str) -> LiveVersion:
        """The live version with this name, else with this label. Raises `RequestError` 404.

        An edited spec runs one version as two applications for a while: the one with the requests answers.
        """
        staying = [version for version in self.versions if not version.route.leaving]
        found = [each for each in staying if label and label in (each.route.name, *each.route.other_names)]
        found = found or [version for version in staying if version.route.version == label]
        if found:
            return max(found, key=lambda version: (version.route.weight, version.ready))
        live = ", ".join(_called(version.route) for version in staying) or "none"
        raise RequestError(
            404, "VersionNotFound", f"Model {self.name} has no live version {label!r}; live: {live}.", field="version"
        )


def _laid_out(versions: Sequence[LiveVersion], candidate: str) -> list[LiveVersion]:
    """For `sticky.choose`: the model's own in the middle, of those the candidate first, since its share grows; and the
    named ones by their places, from both ends by turns. So one whose share changes takes callers from the model's own
    alone and gives them back to it, as long as there are no more than two."""
    weighted = [version for version in versions if version.route.weight]
    named = sorted((each for each in weighted if each.route.name), key=lambda each: (each.route.place, each.route.name))
    own = sorted(
        (each for each in weighted if not each.route.name),
        key=lambda each: (each.route.app != candidate, each.route.app),
    )
    left = [each for each in named if each.route.place % 2 == 0]
    right = [each for each in named if each.route.place % 2]
    return [*left, *own, *right[::-1]]


def _called(route: VersionRoute) -> str:
    names = ", ".join(filter(None, (route.name, *route.other_names)))
    return f"{route.version} ({names})" if names else route.version


class Traffic:
    """Holds one table at a time; `apply` swaps it without waiting for anything."""

    def __init__(self, replica: str, metrics: RouterMetrics, peers: Peers = nobody) -> None:
        self._peers = peers
        self._routers = 0
        """Those that there are; 0 as long as nobody knows."""
        self.models: dict[str, LiveModel] = {}
        self._replica = replica
        self._metrics = metrics
        self._table = ""
        self._rows: dict[str, str] = {}
        self._versions: dict[str, LiveVersion] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """A table is in force, and some model in it answers, or it has none: one that does not takes no other away.

        One that sleeps answers, known or not: were a balancer to wait for it, no request would ever come and wake it.
        """
        return bool(self._table) and (not self.models or any(model.open for model in self.models.values()))

    def apply(self, table: TrafficTable) -> None:
        """Put `table` into force. Must run on the event loop."""
        models: dict[str, LiveModel] = {}
        listed: set[str] = set()
        routers = self._routers or table.routers
        for name, route in table.models.items():
            versions = []
            for entry in route.versions:
                version = self._versions.get(entry.app)
                if version is None:
                    version = LiveVersion(name, entry, route, routers=routers, metrics=self._metrics, peers=self._peers)
                    self._versions[entry.app] = version
                else:
                    version.update(entry, route, routers)
                listed.add(entry.app)
                versions.append(version)
            models[name] = LiveModel(name, route, versions)
        self.models = models
        self._table = table.digest()
        self._rows = {name: route.digest() for name, route in table.models.items()}
        for app in self._versions.keys() - listed:
            task = asyncio.get_running_loop().create_task(self._drain(app, self._versions[app]))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def model(self, name: str) -> LiveModel:
        """The model of this name. Raises `RequestError` 404."""
        model = self.models.get(name)
        if model is None:
            known = ", ".join(sorted(self.models)[:10]) or "none"
            raise RequestError(404, "ModelNotFound", f"No model named {name!r} here; models: {known}.", field="model")
        return model

    def state(self) -> RouterState:
        """What this router holds, versions that still drain included."""
        versions = {app: version.state() for app, version in self._versions.items()}
        return RouterState(replica=self._replica, table=self._table, models=self._rows, versions=versions)

    def share_with(self, routers: int) -> None:
        """There are so many routers; 0 where that is not known."""
        if routers > 0 and routers != self._routers:
            self._routers = routers
            for version in self._versions.values():
                version.share_with(routers)

    def settle(self) -> None:
        """Let models take as many requests as those allow that go first. To be called about once a second."""
        yielding.settle(self.models.values())

    def measure(self) -> None:
        """Bring gauges up to date. Two applications may have one version, after an edit of its spec: they count
        together."""
        groups: dict[tuple[str, str], list[LiveVersion]] = {}
        for version in self._versions.values():
            groups.setdefault((version.model, version.route.version), []).append(version)
        for versions in groups.values():
            wanted = [version.wanted.replicas for version in versions if version.wanted is not None]
            metrics = versions[0].metrics
            metrics.replicas(sum(version.running for version in versions), sum(wanted) if wanted else None)
            metrics.admitted.set(min(version.restraint.ratio for version in versions))

    @property
    def ongoing(self) -> int:
        """Requests that are held, waiting or under way."""
        return sum(version.held_now for version in self._versions.values())

    def known(self, app: str, labels_file: str | None) -> ModelMetadata | None:
        """What is known of an application's model, for another router."""
        version = self._versions.get(app)
        return version.known_to_peers(labels_file) if version is not None else None

    def live_versions(self) -> list[LiveVersion]:
        """Every version, those that still drain included."""
        return list(self._versions.values())

    async def _drain(self, app: str, version: LiveVersion) -> None:
        while not version.idle:  # noqa: ASYNC110 - an event would cost every request; this costs ten looks a second
            await asyncio.sleep(DRAIN_POLL_S)
        listed = any(version in model.versions for model in self.models.values())
        if listed or self._versions.get(app) is not version:
            return  # It came back into the table while it drained.
        del self._versions[app]
        await version.close()
        if not any(version.is_same(other) for other in self._versions.values()):
            self._metrics.forget(version.model, version.route.version)
