"""What we render, on a real API server and before a real KubeRay; no pod runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster.binaries import binary
from cluster.control_plane import ControlPlane
from render.specs import FULL, KINDS, SMALL, spec

from rayfleet_operator.kube import config, errors, kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.kinds import Kind
from rayfleet_operator.reconcile.observe import refused_by_kuberay
from rayfleet_operator.render import objects, upgrade
from rayfleet_operator.render.drift import covers
from rayfleet_operator.render.names import FleetName
from rayfleet_operator.render.raycluster import cluster_spec, resized
from rayfleet_operator.settings import Settings

Json = dict[str, Any]

OWNERS = [{"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelFleet", "name": "vision", "uid": "0a1b"}]
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture
def fleet(control_plane: ControlPlane) -> FleetName:
    namespace = f"render-{os.urandom(4).hex()}"
    control_plane.kubectl("create", "namespace", namespace)
    control_plane.kubectl("label", "namespace", namespace, RESTRICTED)
    control_plane.kubectl("create", "serviceaccount", "vision", "--namespace", namespace)
    return FleetName(namespace, "vision")


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(config.load(str(control_plane.kubeconfig))) as client:
        yield client


@pytest.fixture(scope="module")
def kuberay(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """KubeRay's operator; gives its log."""
    classes = [
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1},
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"},
    ]
    control_plane.kubectl.apply(classes)
    log = tmp_path_factory.mktemp("kuberay") / "log"
    flags = [
        "-enable-leader-election=false",
        "-metrics-addr=0",
        "-health-probe-bind-address=0",
        "-use-kubernetes-proxy",
    ]
    command = [str(binary("kuberay-operator")), f"-kubeconfig={control_plane.kubeconfig}", *flags]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            yield log
        finally:
            process.kill()


def rayservice(fleet: FleetName, cluster: Json, inputs: str = "a") -> Json:
    return objects.rayservice(
        fleet,
        OWNERS,
        cluster=cluster,
        serve_config=b'{"applications": []}\n',
        inputs=inputs,
        environment="",
        longest_request_s=30.0,
    )


def policy(fleet: FleetName) -> Json:
    return objects.network_policy(fleet, OWNERS, dashboard_clients=Settings().dashboard_clients)


def everything(fleet: FleetName, written: Json) -> list[tuple[Kind, Json]]:
    cluster = cluster_spec(fleet, spec(written))
    return [
        (kinds.RAY_SERVICE, rayservice(fleet, cluster)),
        (kinds.SERVICE, objects.service(fleet, OWNERS, cluster="vision-x7k2p")),
        (kinds.SECRET, objects.auth_secret(fleet, OWNERS, token="t", made_with="k")),
        (kinds.SECRET, objects.credentials_secret(fleet, OWNERS, files={"digits.MLFLOW_TRACKING_TOKEN": b"\x00s"})),
        (kinds.SECRET, objects.credentials_secret(fleet, OWNERS, files={})),
        (kinds.NETWORK_POLICY, policy(fleet)),
        (kinds.CONTROLLER_REVISION, objects.revision(fleet, OWNERS, inputs="a", cluster=cluster, number=1)),
    ]


async def applied(client: KubeClient, kind: Kind, obj: Json) -> Json:
    await client.apply(obj, field_manager="rayfleet", force=True)
    live = await client.get(kind, obj["metadata"]["namespace"], obj["metadata"]["name"])
    assert live is not None
    return live


@pytest.mark.parametrize("written", [SMALL, FULL], ids=["small", "full"])
async def test_what_is_applied_is_no_drift(client: KubeClient, fleet: FleetName, written: Json) -> None:
    for kind, obj in everything(fleet, written):
        live = await applied(client, kind, obj)
        assert covers(live, obj), f"{kind.name}: {missing(live, obj)}"
        again = await applied(client, kind, obj)
        assert again["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"], "the same again is no write"


def missing(live: Any, wanted: Any, path: str = "") -> list[str]:
    """Where `live` says something else."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return [found for key, value in wanted.items() for found in missing(live.get(key), value, f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(live, list) and len(live) == len(wanted):
        pairs = enumerate(zip(live, wanted, strict=True))
        return [found for number, (one, other) in pairs for found in missing(one, other, f"{path}[{number}]")]
    return [] if live == wanted else [f"{path}: {live!r} is not {wanted!r}"]


async def test_a_kept_revision_is_adopted_by_its_owner_of_today(client: KubeClient, fleet: FleetName) -> None:
    cluster = cluster_spec(fleet, spec(FULL))
    first = objects.revision(fleet, OWNERS, inputs="a", cluster=cluster, number=1)
    live = await applied(client, kinds.CONTROLLER_REVISION, first)
    owners = [{**OWNERS[0], "uid": "anew"}]
    live = await applied(client, kinds.CONTROLLER_REVISION, objects.adopted(live, fleet, owners))
    assert [each["uid"] for each in live["metadata"]["ownerReferences"]] == ["anew"]
    assert live["data"]["rayClusterConfig"] == cluster, "to the last byte"
    changed = objects.revision(fleet, OWNERS, inputs="a", cluster={**cluster, "rayVersion": "2.61.0"}, number=1)
    with pytest.raises(errors.Invalid):
        await client.apply(changed, field_manager="rayfleet", force=True)


TOLERANT = {"spec": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}}


def with_worker(**fields: Any) -> Json:
    template = {"spec": {"containers": [{"name": "ray-worker", **fields}]}}
    return {**SMALL, "workerGroups": [{"name": "cpu", "template": template}]}


HOSTILE: dict[str, tuple[Json, str]] = {
    "variables as text": (with_worker(env=["A=1"]), "env"),
    "a name that is a list": (with_worker(env=[{"name": ["A"]}]), "env"),
    "a name twice": (with_worker(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]), 'name="A"'),
    "a list for a map": (with_worker(resources=[]), "resources"),
    "no quantity": (with_worker(resources={"limits": {"memory": "much"}}), "memory"),
    "a port that is a word": (with_worker(ports=[{"containerPort": "http"}]), "containerPort"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_template_that_is_none_is_refused_with_its_field(
    client: KubeClient, fleet: FleetName, case: str
) -> None:
    written, field = HOSTILE[case]
    with pytest.raises(errors.Invalid) as caught:
        await client.apply(rayservice(fleet, cluster_spec(fleet, spec(written))), field_manager="rayfleet", force=True)
    assert field in caught.value.message


async def until(client: KubeClient, what: str, done: Any, log: Path, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := await done()):
        assert time.monotonic() < end, f"{what}: not so; see KubeRay's log, {log}"
        await asyncio.sleep(0.5)
    return found


class Watched:
    """One RayService before KubeRay."""

    def __init__(self, client: KubeClient, fleet: FleetName, log: Path) -> None:
        self.client, self.fleet, self.log = client, fleet, log
        self.given: Json | None = None
        self.foretold = 0
        """How many clusters there are to be, by what is told of a change before it is made."""

    def looks(self) -> int:
        """How often KubeRay has looked at it. What it saw it does not always write down."""
        lines = self.log.read_text().splitlines()
        return sum("Reconciling the Serve applications" in line and self.fleet.namespace in line for line in lines)

    async def give(self, cluster: Json) -> Json:
        """Apply it, and wait until KubeRay has looked at it. Gives the live RayService."""
        self.foretold += self.given is None or not upgrade.in_place(self.given, cluster)
        self.given = cluster
        await self.client.apply(rayservice(self.fleet, cluster), field_manager="rayfleet", force=True)
        before = self.looks()

        async def looked() -> Json | None:
            live = await self.client.get(kinds.RAY_SERVICE, self.fleet.namespace, self.fleet.name)
            assert live is not None
            conditions = (live.get("status") or {}).get("conditions") or []
            refused = [each for each in conditions if each["reason"] == "ValidationFailed"]
            assert not refused, refused
            return live if self.looks() > before + 1 else None

        found: Json = await until(self.client, "KubeRay looks at the RayService", looked, self.log)
        return found

    async def clusters(self, number: int) -> list[Json]:
        """The RayClusters, oldest first, as soon as there are so many."""

        async def there() -> list[Json]:
            found = await self.client.list(kinds.RAY_CLUSTER, self.fleet.namespace)
            return found if len(found) >= number else []

        found: list[Json] = await until(self.client, f"{number} clusters", there, self.log)
        assert len(found) == number
        return sorted(found, key=lambda each: str(each["metadata"]["creationTimestamp"]))

    async def pods(self, number: int) -> list[Json]:
        async def there() -> list[Json]:
            found = await self.client.list(kinds.POD, self.fleet.namespace)
            return found if len(found) >= number else []

        found: list[Json] = await until(self.client, f"{number} pods", there, self.log)
        return found


@pytest.fixture
def watched(client: KubeClient, fleet: FleetName, kuberay: Path) -> Watched:
    return Watched(client, fleet, kuberay)


OURS_ONLY: Json = {
    **FULL,
    "workerGroups": [
        FULL["workerGroups"][0],
        {key: value for key, value in FULL["workerGroups"][1].items() if key != "template"},
    ],
}
"""Everything but a container that its owner forgot to restrict."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("written", [SMALL, OURS_ONLY, KINDS], ids=["small", "full", "kinds"])
async def test_kuberay_makes_pods_that_the_restricted_standard_admits(watched: Watched, written: Json) -> None:
    live = await watched.give(cluster_spec(watched.fleet, spec(written)))
    wanted = rayservice(watched.fleet, cluster_spec(watched.fleet, spec(written)))
    # KubeRay has written the whole object back by now, with its finalizer.
    assert live["metadata"]["finalizers"]
    assert covers(live, wanted), missing(live, wanted)
    number = 1 + sum(group.min_replicas for group in spec(written).worker_groups)
    pods = await watched.pods(number)
    assert len(pods) == number
    assert {pod["metadata"]["labels"]["rayfleet.io/fleet"] for pod in pods} == {"vision"}
    (cluster,) = await watched.clusters(1)
    assert {pod["metadata"]["labels"]["ray.io/cluster"] for pod in pods} == {cluster["metadata"]["name"]}
    assert cluster["metadata"]["labels"]["ray.io/originated-from-cr-name"] == "vision"
    # KubeRay gives them the name that its own operator has where it is installed by its chart.
    clients = dashboard_clients(FleetName("elsewhere", "vision"))
    assert not any(selects(peer["podSelector"], pod["metadata"]["labels"]) for peer in clients for pod in pods)
    assert any(selects(peer["podSelector"], {"app.kubernetes.io/name": "kuberay"}) for peer in clients)


@pytest.mark.timeout(1800)
async def test_kuberay_has_ray_offer_what_a_group_says(watched: Watched) -> None:
    """KubeRay writes the line that starts Ray, and bash reads it."""
    await watched.give(cluster_spec(watched.fleet, spec(KINDS)))
    pods = await watched.pods(1 + sum(group.min_replicas for group in spec(KINDS).worker_groups))
    told = {pod["metadata"]["labels"]["ray.io/group"]: started_with(pod) for pod in pods}
    assert told["l4"] >= {"--num-gpus=1", '--resources={"accelerator:L4": 1000}'}
    assert told["mig"] >= {"--num-gpus=3", '--resources={"on-demand": 1000}'}
    assert told["sliced"] >= {"--num-gpus=2", '--resources={"accelerator:A100-80GB": 1000, "on-demand": 1000}'}
    assert not any(word.startswith(("--num-gpus", "--resources")) for word in told["headgroup"])

    first, *others = KINDS["workerGroups"]
    tolerant = [{**first, "tolerations": [{"key": "pool", "operator": "Exists"}]}, *others]
    await watched.give(cluster_spec(watched.fleet, spec(KINDS, workerGroups=tolerant)))
    _, second = await watched.clusters(2)
    (cpu,) = (each for each in second["spec"]["workerGroupSpecs"] if each["groupName"] == "cpu")
    assert cpu["template"]["spec"]["tolerations"] == [{"key": "pool", "operator": "Exists"}]


def started_with(pod: Json) -> set[str]:
    """The words that `ray` is called with in its own container."""
    container = next(each for each in pod["spec"]["containers"] if each["name"].startswith("ray-"))
    line = next(each["value"] for each in container["env"] if each["name"] == "KUBERAY_GEN_RAY_START_CMD")
    script = f'ray() {{ printf "%s\\n" "$@"; }}; {line}'
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return {word.strip() for word in shown.stdout.splitlines()}


def dashboard_clients(fleet: FleetName) -> list[Json]:
    """Who may reach the dashboard of a fleet, from any namespace."""
    rules = policy(fleet)["spec"]["ingress"]
    peers: list[Json] = next(rule["from"] for rule in rules if rule.get("ports", [{}])[0].get("port") == 8265)
    return peers


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """What Kubernetes says of a label selector that has no other expression than DoesNotExist."""
    expressions = selector.get("matchExpressions", [])
    assert {each["operator"] for each in expressions} <= {"DoesNotExist"}
    named = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return named and not any(each["key"] in labels for each in expressions)


@pytest.mark.timeout(1800)
async def test_a_refusal_ends_with_the_spec_that_was_refused(watched: Watched) -> None:
    cluster = cluster_spec(watched.fleet, spec(SMALL))
    no_tokens_yet = {**cluster, "rayVersion": "2.40.0"}
    await watched.client.apply(rayservice(watched.fleet, no_tokens_yet), field_manager="rayfleet", force=True)

    async def refused() -> str | None:
        live = await watched.client.get(kinds.RAY_SERVICE, watched.fleet.namespace, watched.fleet.name)
        return refused_by_kuberay(live)

    message = await until(watched.client, "KubeRay refuses it", refused, watched.log)
    assert "2.40.0" in message
    await watched.client.apply(rayservice(watched.fleet, cluster), field_manager="rayfleet", force=True)
    await watched.clusters(1)

    async def taken() -> bool:
        live = await watched.client.get(kinds.RAY_SERVICE, watched.fleet.namespace, watched.fleet.name)
        # Nothing answers here, so KubeRay's condition still speaks of the first spec.
        conditions = ((live or {}).get("status") or {}).get("conditions") or []
        assert any(each["reason"] == "ValidationFailed" for each in conditions)
        return refused_by_kuberay(live) is None

    await until(watched.client, "the refusal is over", taken, watched.log)


@pytest.mark.timeout(1800)
async def test_what_builds_another_cluster_and_what_does_not(watched: Watched) -> None:
    fleet = watched.fleet
    before = cluster_spec(fleet, spec(OURS_ONLY))
    await watched.give(before)
    (first,) = await watched.clusters(1)

    larger = [{**group, "minReplicas": 3, "maxReplicas": 9} for group in OURS_ONLY["workerGroups"]]
    await watched.give(resized(before, spec(OURS_ONLY, workerGroups=larger)))
    await watched.give(
        cluster_spec(fleet, spec(OURS_ONLY, routers={"replicas": 9}, imagePullSecrets=["mirror", "registry"]))
    )
    (same,) = await watched.clusters(1)
    assert watched.foretold == 1
    assert same["metadata"]["uid"] == first["metadata"]["uid"], "neither sizes nor orders build a cluster"

    added = [*OURS_ONLY["workerGroups"], {"name": "more"}]
    await watched.give(cluster_spec(fleet, spec(OURS_ONLY, workerGroups=added)))

    async def grown() -> bool:
        (found,) = await watched.clusters(1)
        return [group["groupName"] for group in found["spec"]["workerGroupSpecs"]] == ["cpu", "gpu-a10", "more"]

    await until(watched.client, "the group is added in place", grown, watched.log)

    tolerant = [{**group, "template": TOLERANT} for group in added]
    before, after = (cluster_spec(fleet, spec(OURS_ONLY, workerGroups=groups)) for groups in (added, tolerant))
    assert upgrade.unnoticed(before, after)
    await watched.give(after)
    (same,) = await watched.clusters(1)
    assert watched.foretold == 1
    live = same["spec"]["workerGroupSpecs"]
    assert [each["template"]["spec"].get("tolerations") for each in live] == [
        each["template"]["spec"].get("tolerations") for each in before["workerGroupSpecs"]
    ], "KubeRay takes no notice of tolerations"

    await watched.give(cluster_spec(fleet, spec(OURS_ONLY, workerGroups=added), "2026-03-01"))
    _, second = await watched.clusters(2)
    assert watched.foretold == 2
    template = second["spec"]["headGroupSpec"]["template"]
    assert template["metadata"]["annotations"]["rayfleet.io/restart"] == "2026-03-01"
