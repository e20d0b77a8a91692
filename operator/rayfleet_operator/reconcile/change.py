"""Everything that one pass writes about a fleet but statuses.

Each object is written by itself: one that is refused, or fails, keeps no other from being put right. The Service is the
first, because KubeRay deletes the cluster that it points at whether anybody moves it or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.errors import Forbidden, Invalid, KubeError, NotFound
from rayfleet_operator.plan import serve_config
from rayfleet_operator.reconcile import apply
from rayfleet_operator.reconcile.known import Known
from rayfleet_operator.reconcile.observe import Children
from rayfleet_operator.reconcile.wanted import Wanted
from rayfleet_operator.render import objects, raycluster, revision, standing, upgrade
from rayfleet_operator.render.drift import foreign
from rayfleet_operator.render.names import ENVIRONMENT_ANNOTATION, INPUTS_ANNOTATION, annotation

Json = dict[str, Any]

REFUSALS = (apply.NameTaken, Invalid, Forbidden, NotFound)
"""What trying again does not change."""


@dataclass
class Outcome:
    """What was not written in one pass, and why."""

    refused: list[str] = field(default_factory=list)
    failed: list[KubeError] = field(default_factory=list)
    """What another try may mend: the API server, or something that it asks, is not well."""
    no_address: bool = False
    """There is no Service of the fleet's, or it was not taken."""

    async def of(self, writing: Awaitable[object]) -> Exception | None:
        """Why it was not written; None where it was."""
        try:
            await writing
        except REFUSALS as error:
            self.refused.append(str(error))
            return error
        except KubeError as error:
            self.failed.append(error)
            return error
        return None

    def end(self) -> None:
        """Raises what failed, so that it is tried again."""
        if len(self.failed) == 1:
            raise self.failed[0]
        if self.failed:
            raise ExceptionGroup("several objects could not be written", self.failed)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is to be written."""

    asked: Wanted
    spec: ModelFleetSpec
    found: Children
    known: Known
    config: Mapping[str, Any]
    """The Serve config."""
    longest_request_s: float
    token: str
    made_with: str
    """Fingerprint of the key that the token was derived from."""
    inputs: str
    """What the cluster is to be rendered from."""
    kept: Json | None
    """The cluster that was rendered for these inputs before; None where nothing was made of it."""
    gpu_sharing: str
    """The administrator's, as it holds for this fleet."""
    held: bool
    """A change of the pods waits: KubeRay would throw away the first cluster, which it does not call its own yet."""
    announced: bool
    """This pass only tells of a change of the pods, and writes nothing of the RayService."""
    network_policy: bool
    dashboard_clients: tuple[str, ...]


async def point(client: KubeClient, asked: Wanted, found: Children, cluster: str | None, outcome: Outcome) -> None:
    """Have the Service follow `cluster`; None leaves it as it is."""
    if cluster is None:
        return
    service = objects.service(asked.name, asked.owners, cluster=cluster)
    error = await outcome.of(apply.ensure_whole(client, kinds.SERVICE, service, found.service))
    outcome.no_address = isinstance(error, REFUSALS) or (error is not None and found.service is None)


async def make(client: KubeClient, change: Change, outcome: Outcome) -> None:
    """Write everything else."""
    asked, found = change.asked, change.found
    name, owners = asked.name, asked.owners
    # KubeRay runs a pod with the token after everything else of a cluster is gone, to clean Redis up.
    clusters = [objects.owner(each) for each in found.ray_clusters.values()]
    token = objects.auth_secret(name, [*owners, *clusters], token=change.token, made_with=change.made_with)
    files = objects.credentials_secret(name, owners, files=change.known.files)
    # At once: each may take as long as whatever the API server asks about it.
    await asyncio.gather(
        outcome.of(apply.ensure_whole(client, kinds.SECRET, token, found.auth_secret)),
        outcome.of(apply.ensure_whole(client, kinds.SECRET, files, found.credentials_secret)),
        outcome.of(_network_policy(client, change)),
    )
    await _ray_service(client, change, outcome)


async def _network_policy(client: KubeClient, change: Change) -> None:
    name, live = change.asked.name, change.found.network_policy
    policy = objects.network_policy(name, change.asked.owners, dashboard_clients=change.dashboard_clients)
    if change.network_policy:
        await apply.ensure_whole(client, kinds.NETWORK_POLICY, policy, live)
    elif live is not None and foreign(live, policy) is None:
        await client.delete(kinds.NETWORK_POLICY, name.namespace, name.name, uid=live["metadata"]["uid"])


async def _ray_service(client: KubeClient, change: Change, outcome: Outcome) -> None:
    live = change.found.ray_service
    if change.found.clash is not None:
        outcome.refused.append(change.found.clash)
        return
    if live is None and change.known.asking:
        # Pods are made once, and it must be known then what they read; the answer wakes the fleet.
        return
    if live is not None and change.announced:
        return
    rendered = cluster_for(change)
    made = [each for each in change.found.ray_clusters.values() if same_pods(change, each, rendered)]
    if live is not None and (change.held or (change.known.asking and not made)):
        await outcome.of(_keep(client, change, live))
        return
    cluster = raycluster.resized(rendered, change.spec)
    # KubeRay copies it to clusters that it changes in place, too, and their pods have read what they have read.
    environment = annotation(live, ENVIRONMENT_ANNOTATION) if live is not None and made else change.known.environment
    error = await outcome.of(apply.ensure(client, _body(change, cluster, change.inputs, environment), live))
    if error is None:
        for each in made:
            # Sizes belong to pods: those of another kind get neither more nor fewer by them.
            await outcome.of(apply.resize(client, each, cluster))
        # Not before it was taken: what is kept is applied again as it is.
        await outcome.of(_keep_revision(client, change, rendered))
    elif isinstance(error, REFUSALS) and live is not None:
        # Not where it failed: nobody knows then whether it was done, and pods must not change to and fro.
        await outcome.of(_keep(client, change, live))


def cluster_for(change: Change) -> Json:
    """The cluster as it was rendered for these inputs once; as it is today where nothing was made of that."""
    found = change.found
    if change.kept is not None:
        return change.kept
    before = revision.current(found.revisions, found.ray_service)
    spec = raycluster.ordered(change.spec, before["data"]["rayClusterConfig"] if before is not None else None)
    return raycluster.cluster_spec(change.asked.name, spec, change.asked.restart)


async def _keep_revision(client: KubeClient, change: Change, rendered: Json) -> None:
    await apply.keep_revision(
        client,
        change.asked.name,
        change.asked.owners,
        inputs=change.inputs,
        rendered=rendered,
        asked=upgrade.asked(change.asked.said, change.asked.restart),
        gpu_sharing=change.gpu_sharing,
        found=change.found.revisions,
        in_use={annotation(each, INPUTS_ANNOTATION) for each in change.found.ray_clusters.values()},
    )


async def _keep(client: KubeClient, change: Change, live: Json) -> None:
    """The pods as they are; models still get their new versions, and routers ask for no worker that these pods are
    not."""
    cluster = live["spec"]["rayClusterConfig"]
    steady = raycluster.steady(cluster)
    if steady is not None:
        change = replace(change, config=serve_config.with_routers_on(change.config, steady=steady))
    inputs, environment = annotation(live, INPUTS_ANNOTATION), annotation(live, ENVIRONMENT_ANNOTATION)
    await apply.ensure(client, _body(change, cluster, inputs, environment), live)


def same_pods(change: Change, ray_cluster: Json, rendered: Json) -> bool:
    """Whether the live cluster is what KubeRay makes of `rendered`, or soon will be: no other takes its place."""
    inputs = annotation(ray_cluster, INPUTS_ANNOTATION)
    if inputs == change.inputs:
        return True
    # Not every other input is seen by pods: an image may be written out that was the default before.
    kept = revision.kept(change.found.revisions, inputs)
    return kept is not None and standing.in_place(kept["data"]["rayClusterConfig"], rendered)


def _body(change: Change, cluster: Json, inputs: str, environment: str) -> Json:
    return objects.rayservice(
        change.asked.name,
        change.asked.owners,
        cluster=cluster,
        serve_config=serve_config.canonical(change.config),
        inputs=inputs,
        environment=environment,
        longest_request_s=change.longest_request_s,
    )
