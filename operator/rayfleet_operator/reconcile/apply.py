"""Make the cluster's objects say what they should, and only where they do not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.kinds import Kind
from rayfleet_operator.render import objects, revision
from rayfleet_operator.render.drift import covers, foreign
from rayfleet_operator.render.names import FleetName

Json = dict[str, Any]

MANAGER = "rayfleet"
"""Field manager of the objects that we make."""
STATUS_MANAGER = "rayfleet-status"
OPTIONAL = ("resolved", "writtenBack")
"""Parts of a status that are not always there."""


class NameTaken(Exception):  # noqa: N818 - it says what is the matter
    """An object that is not ours has the name of one that we would make."""


async def ensure(client: KubeClient, wanted: Json, live: Json | None) -> None:
    """Apply `wanted` unless `live` covers it.

    Fields are taken over from whoever owns them: KubeRay writes into lists of ours that have one owner as a whole.

    Raises:
        NameTaken: `live` is not ours.
        KubeError: see there.
    """
    _ours(live, wanted)
    if live is None or live["metadata"].get("deletionTimestamp") is not None or not covers(live, wanted):
        await client.apply(wanted, field_manager=MANAGER, force=True)


WHOLE = {
    kinds.SECRET: ("data",),
    kinds.SERVICE: ("spec", "selector"),
    kinds.NETWORK_POLICY: ("spec", "podSelector", "matchLabels"),
}
"""Maps in which another's key would change what ours mean: one more label, and a selector selects no pod of ours."""


async def ensure_whole(client: KubeClient, kind: Kind, wanted: Json, live: Json | None) -> None:
    """As `ensure`, and keys in the map of `WHOLE` that are not wanted go, also where somebody else put them there."""
    _ours(live, wanted)
    path = WHOLE[kind]
    ours = _within(wanted, path).keys()
    if live is not None and covers(live, wanted) and _within(live, path).keys() == ours:
        return
    after = await client.apply(wanted, field_manager=MANAGER, force=True)
    if foreign := sorted(_within(after, path).keys() - ours):
        # Of a Secret alone: selectors are applied as a whole. Its keys hold nothing that a JSON pointer has to escape.
        removed = [{"op": "remove", "path": "/" + "/".join([*path, key])} for key in foreign]
        metadata = wanted["metadata"]
        await client.patch_json(kind, metadata["namespace"], metadata["name"], removed)


def _within(obj: Json, path: Sequence[str]) -> Json:
    for name in path:
        obj = obj.get(name) or {}
    return obj


def _ours(live: Json | None, wanted: Json) -> None:
    why = foreign(live, wanted)
    if why is not None:
        raise NameTaken(why)


async def keep_revision(
    client: KubeClient,
    fleet: FleetName,
    owners: Sequence[Json],
    *,
    inputs: str,
    rendered: Json,
    asked: Json,
    gpu_sharing: str,
    found: Sequence[Json],
    in_use: Collection[str],
) -> None:
    """Keep the cluster that was rendered for these inputs, and drop revisions that are not needed any more.

    Args:
        asked: what it was rendered from, from `upgrade.asked`.
        gpu_sharing: the administrator's, as it holds for this fleet.
        found: the fleet's revisions.
        in_use: inputs of the clusters that are there.

    Raises:
        KubeError: see there.
    """
    existing = revision.kept(found, inputs)
    if existing is not None and existing["data"]["rayClusterConfig"] == rendered:
        await ensure(client, objects.adopted(existing, fleet, owners), existing)
    else:
        if existing is not None:
            # What it holds cannot be changed.
            metadata = existing["metadata"]
            await client.delete(kinds.CONTROLLER_REVISION, fleet.namespace, metadata["name"], uid=metadata["uid"])
        newest = revision.newest(found)
        number = int(newest["revision"]) + 1 if newest is not None else 1
        wanted = objects.revision(
            fleet, owners, inputs=inputs, cluster=rendered, number=number, asked=asked, gpu_sharing=gpu_sharing
        )
        await client.apply(wanted, field_manager=MANAGER, force=True)
    for each in revision.surplus(found, {inputs, *in_use}):
        await client.delete(kinds.CONTROLLER_REVISION, fleet.namespace, each["metadata"]["name"])


async def resize(client: KubeClient, ray_cluster: Json, cluster: Json) -> None:
    """Give a live RayCluster the sizes of its worker groups: KubeRay does not pass them on. Raises KubeError.

    The number of pods is Ray's autoscaler's to choose between the bounds; only where it would be out of them, or where
    there is no autoscaler, is it set here.
    """
    wanted = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    elastic = bool(ray_cluster["spec"].get("enableInTreeAutoscaling"))
    operations: list[Json] = []
    for place, live in enumerate(ray_cluster["spec"].get("workerGroupSpecs") or []):
        group = wanted.get(live["groupName"])
        if group is None:
            continue
        low, high = group["minReplicas"], group["maxReplicas"]
        replicas = min(max(live.get("replicas") or low, low), high) if elastic else low
        sizes = {"minReplicas": low, "maxReplicas": high, "replicas": replicas}
        changed = {name: value for name, value in sizes.items() if live.get(name) != value}
        if changed:
            path = f"/spec/workerGroupSpecs/{place}"
            operations.append({"op": "test", "path": f"{path}/groupName", "value": live["groupName"]})
            operations += [
                {"op": "add", "path": f"{path}/{name}", "value": value} for name, value in sorted(changed.items())
            ]
    if operations:
        metadata = ray_cluster["metadata"]
        await client.patch_json(kinds.RAY_CLUSTER, metadata["namespace"], metadata["name"], operations)


async def status(client: KubeClient, kind: Kind, obj: Json, wanted: Mapping[str, Any]) -> bool:
    """Write `.status` of one of our kinds where it differs; returns whether it did. Raises KubeError.

    Conditions of other managers are theirs: a list keyed by type has an owner for each item.
    """
    if _says(obj.get("status") or {}, wanted):
        return False
    metadata = obj["metadata"]
    body = {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        # The uid keeps a status from being written onto another object of the same name.
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]},
        "status": dict(wanted),
    }
    await client.apply_status(body, field_manager=STATUS_MANAGER, force=True)
    return True


def _says(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the status says what is wanted, and of what is ours nothing else."""
    ours = {each["type"] for each in wanted.get("conditions", [])}
    kept = [each for each in live.get("conditions") or [] if each["type"] in ours]
    rest = {key: value for key, value in wanted.items() if key != "conditions"}
    absent = [key for key in OPTIONAL if key not in wanted and live.get(key)]
    return not absent and covers(live, rest) and covers(kept, wanted.get("conditions", []))
