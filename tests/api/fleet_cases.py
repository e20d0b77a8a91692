"""Every rule of a ModelFleet, good and bad."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import case as cases
from .case import KINDS, LEAVE_OUT, NO_KINDS, Case

case = partial(cases.case, kind="ModelFleet")
good = partial(cases.good, kind="ModelFleet")
bad = partial(cases.bad, kind="ModelFleet")

IMAGE, VERSION = "spec.image", "spec.rayVersion"
HEAD, GROUPS, CACHE = "spec.head", "spec.workerGroups", "spec.modelCache"
REDIS = "spec.head.gcsFaultTolerance"
ADDRESS, PASSWORD = f"{REDIS}.redisAddress", f"{REDIS}.passwordSecret"
DEADLINE = "spec.progressDeadline"

OBJECT_NAMES = ("a", "1", "a-b.c-1", "a" * 253)
NO_OBJECT_NAMES = (
    "",
    "a" * 254,
    "A",
    "a_b",
    "-a",
    "a-",
    ".a",
    "a.",
    "a..b",
    "a/b",
    "a\n",
    1,
    True,
    ["a"],
    {"name": "a"},
)
CPUS = ("1", "0.5", "500m", "999", "0.0001", 1, 999)
NO_CPUS = ("0", 0, "1000", 1000, "0.00001", "1.00000000", "-1", "1k", "one", "", 0.5, True)
SIZES = ("1M", "4Gi", "1.5Gi", "9.99Ti", "1000000", 1_000_000, 10**13 - 1)
NO_SIZES = ("4", 4, "999999", 999_999, 10**13, "0Gi", "4GB", "4gi", "10Ti", "1e9", "", 1.5, "0" * 16 + "1M")


def group(**fields: Any) -> dict[str, Any]:
    return {"name": "cpu", **fields}


def groups(field: str, *values: Any, at: str | None = None, **beside: Any) -> list[Case]:
    """A worker group with the field; refused at `at` inside the group."""
    blamed = f"{GROUPS}[0].{at}" if at else False
    return [case(GROUPS, [group(**beside, **{field: value})], bad=blamed) for value in values]


def variables(field: str, *values: Any, at: str | None = None) -> list[Case]:
    return [
        case("spec.env", [{"name": "A", field: value}], bad=f"spec.env[0].{at}" if at else False) for value in values
    ]


def sources(field: str, *values: Any, at: str | None = None) -> list[Case]:
    return [case("spec.envFrom", [{field: value}], bad=f"spec.envFrom[0].{at}" if at else False) for value in values]


def templates(value: dict[str, Any], at: str | None = None, *, head: dict[str, Any] | None = None) -> list[Case]:
    """The template for the head, and for a worker group."""
    blamed = f"template{at}" if at is not None else None
    return [
        case(f"{HEAD}.template", head or value, bad=f"{HEAD}.{blamed}" if blamed else False),
        *groups("template", value, at=blamed),
    ]


METADATA = [
    *good("metadata.name", "a", "a" * 40, "net-3d", "head-svc", "a-serve-svc-b"),
    *bad("metadata.name", "a" * 41, "", "Vision", "3d", "a.b", "a-", "-a", "a_b", "a\n", "a-serve-svc", "a-b-head-svc"),
    *good("spec", {}, LEAVE_OUT),
    *bad("spec", "a", [], 1),
]

PODS = [
    *good(IMAGE, "a", "rayfleet-serving:0.1.0", "example.com:5000/a/b_c:v1.2-rc", "a@sha256:" + "0" * 64, "A" * 512),
    *bad(IMAGE, "", "a b", ":a", "/a", "a\n", "a;b", "a" * 513, 1),
    *good(VERSION, "2.52.0", "2.60.0", "2.99.12", "2.100.0", "3.0.0", "10.0.1", spec__image="a"),
    *bad(VERSION, "", "2.60", "2.51.2", "1.13.0", "2.5.0", "2.60.0rc1", "v2.60.0", "2.60.0\n", "nightly", 2.6, 2,
         "02.60.0", spec__image="a"),
    *bad(VERSION, "2.60.0", "2." + "6" * 16),
    *good("spec.imagePullPolicy", "Always", "IfNotPresent", "Never"),
    *bad("spec.imagePullPolicy", "always", "", "Sometimes", 1),
    *good("spec.gpuSharing", "TimeSlicing", "MPS"),
    *good("spec.gpuSharing", "MPS", spec__workerGroups=[group(), group(name="b", gpu=1)]),
    *good("spec.gpuSharing", "MPS", spec__workerGroups=[group(template={"spec": {}})]),
    *good("spec.gpuSharing", "MPS", spec__workerGroups=[]),
    *good("spec.gpuSharing", "TimeSlicing", spec__workerGroups=[group()]),
    *bad("spec.gpuSharing", "MPS", spec__workerGroups=[group(), group(name="b")]),
    *bad("spec.gpuSharing", "mps", "MIG", "", 1, True),
    *good("spec.imagePullSecrets", [], ["a"], [f"a{number}" for number in range(8)], ["a" * 253]),
    *bad("spec.imagePullSecrets", [f"a{number}" for number in range(9)], "a", {"name": "a"}),
    *[case("spec.imagePullSecrets", ["b", value], bad="spec.imagePullSecrets[1]")
      for value in ("b", "", "A", "a" * 254, 1, {"name": "a"}, None)],
    *good("spec.serviceAccountName", *OBJECT_NAMES),
    *bad("spec.serviceAccountName", *NO_OBJECT_NAMES),
    *good(DEADLINE, "1m", "15m", "24h", "60s", "1h30m"),
    *bad(DEADLINE, "0" * 20 + "1h", "59s", "24h1s", "0s", "15", 15, "", "-1m", "1d"),
]  # fmt: skip

ENVIRONMENT = [
    *good("spec.env", [], [{"name": "A"}], [{"name": "A", "value": ""}], [{"name": "A"}, {"name": "a"}],
          [{"name": f"A{number}"} for number in range(64)]),
    *bad("spec.env", [{"name": f"A{number}"} for number in range(65)], {"A": "b"}, "A=b"),
    *variables("name", "_", "a1_B", "A" * 253, "HTTPS_PROXY", "RAYFLEET", "RAY_SERVE_LOG_TO_STDERR"),
    *variables("name", "", "1A", "A-B", "A.B", "A B", "A=", "Ä", "A\n", "A" * 254, 1, at="name"),
    *variables("name", "RAYFLEET_CACHE_DIR", "RAYFLEET_CREDENTIALS_DIR", "RAY_ADDRESS", "RAY_AUTH_MODE",
               "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE",
               "RAY_REDIS_ADDRESS", "RAY_enable_autoscaler_v2", "REDIS_PASSWORD", "REDIS_USERNAME", at="name"),
    *variables("value", "", " ", "http://proxy:3128", "ü", "ü" * 4096, "$(A)", '{"a": 1}'),
    *variables("value", "a\nb", "a\tb", "\x1b[2J", "a" * 4097, 1, True, at="value"),
    *variables("valueFrom", {"secretKeyRef": {"name": "a", "key": "b"}}, at="valueFrom"),
    case("spec.env", [{"value": "a"}], bad="spec.env[0].name"),
    case("spec.env", ["A"], bad="spec.env[0]"),
    case("spec.env", [None], bad="spec.env[0]"),
    case("spec.env", [{"name": "A"}, {"name": "B"}, {"name": "A", "value": "b"}], bad="spec.env[2]"),
    *good("spec.envFrom", [], [{"secretName": "a"}, {"configMapName": "a"}],
          [{"secretName": f"a{number}"} for number in range(16)]),
    *bad("spec.envFrom", [{"secretName": f"a{number}"} for number in range(17)], "a", {"secretName": "a"},
         [{"secretName": "a"}, {"configMapName": "a"}, {"secretName": "a"}]),
    *sources("secretName", *OBJECT_NAMES),
    *sources("secretName", *NO_OBJECT_NAMES, at="secretName"),
    *sources("configMapName", *OBJECT_NAMES),
    *sources("configMapName", *NO_OBJECT_NAMES, at="configMapName"),
    case("spec.envFrom", [{"secretName": "a", "prefix": "A_"}], bad="spec.envFrom[0].prefix"),
    *[case("spec.envFrom", [value], bad="spec.envFrom[0]") for value in ("a", 1, None, ["a"])],
    case("spec.envFrom", [{}], bad="spec.envFrom[0].secretName"),
    case("spec.envFrom", [{"secretName": "a"}, {"secretName": "b", "configMapName": "c"}],
         bad="spec.envFrom[1].secretName"),
]  # fmt: skip

HEADS = [
    *good(HEAD, {}, None, {"cpu": None, "template": None}),
    *bad(HEAD, "a", []),
    *good(f"{HEAD}.cpu", *CPUS),
    *bad(f"{HEAD}.cpu", *NO_CPUS),
    *good(f"{HEAD}.memory", *SIZES),
    *bad(f"{HEAD}.memory", *NO_SIZES),
    *good(ADDRESS, "redis:6379", "redis.ray.svc:1", "10.0.0.1:65535", "redis://redis:6379", "rediss://redis-1.a:6380",
          "a" * 506 + ":6379"),
    *bad(ADDRESS, "", "redis", "redis:", ":6379", "redis:0", "redis:65536", "redis:99999", "redis:063", "redis:6379/0",
         "http://redis:6379", "redis://user:word@redis:6379", "-redis:6379", "redis-:6379", "re dis:6379",
         "redis:6379\n", "a" * 508 + ":6379", 6379),
    case(REDIS, {}, bad=ADDRESS),
    *bad(REDIS, "redis:6379", []),
    *good(REDIS, {"redisAddress": "a:1", "passwordSecret": {"name": "redis"}}),
    case(REDIS, {"redisAddress": "a:1", "passwordSecret": "redis"}, bad=PASSWORD),
    *[case(REDIS, {"redisAddress": "a:1", "passwordSecret": value}, bad=f"{PASSWORD}.{field}") for field, value in (
        ("name", {}), ("name", {"key": "a"}), *(("name", {"name": name}) for name in NO_OBJECT_NAMES),
        *(("key", {"name": "a", "key": key}) for key in
          ("", "a b", "a/b", ".", "..", "..a", "ä", "a\n", "a" * 254, 1)),
        ("value", {"name": "a", "value": "secret"}),
    )],
    *[case(REDIS, {"redisAddress": "a:1", "passwordSecret": {"name": "a", "key": key}})
      for key in ("a", ".a", "A_b-c.d", "_", "-", "a..b", "a" * 253)],
    case(REDIS, {"redisAddress": "a:1", "password": "secret"}, bad=f"{REDIS}.password"),
]  # fmt: skip

ROUTERS = [
    *good("spec.routers", {}),
    *good("spec.routers.replicas", 2, 100),
    *bad("spec.routers.replicas", 0, 1, 101, "2", 2.5, True),
    *good("spec.routers.maxReplicas", 2, 100, None),
    *good("spec.routers", {"replicas": 5, "maxReplicas": 5}),
    *bad("spec.routers.maxReplicas", 1, 101, "4", 2.5, True),
    case("spec.routers", {"replicas": 5, "maxReplicas": 4}, bad="spec.routers.maxReplicas"),
    *good("spec.routers.cpu", *CPUS),
    *bad("spec.routers.cpu", *NO_CPUS),
    *bad("spec.routers.memory", "1Gi"),
    *bad("spec.routers", "a", [], 1),
]

WORKERS = [
    *good(GROUPS, [], [{"name": "a"}], [{"name": f"a{number}"} for number in range(16)]),
    *bad(GROUPS, [{"name": f"a{number}"} for number in range(17)], {"name": "a"}, "a"),
    case(GROUPS, [{}], bad=f"{GROUPS}[0].name"),
    case(GROUPS, ["a"], bad=f"{GROUPS}[0]"),
    case(GROUPS, [{"name": "a"}, {"name": "b"}, {"name": "a", "cpu": 4}], bad=f"{GROUPS}[2]"),
    *groups("name", "a", "1", "a10-40gb", "a" * 40),
    *groups("name", "", "A", "a_b", "a.b", "-a", "a-", "a" * 41, "a\n", 1, "headgroup", at="name"),
    *groups("minReplicas", 1, 1000),
    *groups("minReplicas", 0, -1, 1001, "1", 1.5, True, at="minReplicas"),
    *groups("maxReplicas", 1, 2, 1000),
    *groups("maxReplicas", 3, 4, minReplicas=3),
    *groups("maxReplicas", 0, 1001, "2", 1.5, at="maxReplicas"),
    *groups("maxReplicas", 1, 2, minReplicas=3, at="maxReplicas"),
    *groups("cpu", *CPUS),
    *groups("cpu", *NO_CPUS, at="cpu"),
    *groups("memory", *SIZES),
    *groups("memory", *NO_SIZES, at="memory"),
    *groups("gpu", 1, 99),
    *groups("gpu", 0, 100, -1, "1", 0.5, True, at="gpu"),
    *groups(
        "gpuResource", "nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared", "amd.com/gpu", "a/b", gpu=1
    ),
    *groups(
        "gpuResource",
        "",
        "gpu",
        "nvidia.com/",
        "/gpu",
        "Nvidia.com/gpu",
        "a b/c",
        "a/b/c",
        "a/-b",
        "a/b\n",
        "a/" + "b" * 316,
        1,
        gpu=1,
        at="gpuResource",
    ),
    *groups("gpuResource", "nvidia.com/gpu", at="gpuResource"),
    *groups("gpuMemory", *SIZES, gpu=1),
    *groups("gpuMemory", *NO_SIZES, gpu=1, at="gpuMemory"),
    *groups("gpuMemory", "24Gi", at="gpuMemory"),
    *groups("accelerator", *KINDS, gpu=1),
    *groups("accelerator", *NO_KINDS, gpu=1, at="accelerator"),
    *groups("accelerator", "L4", at="accelerator"),
    *groups("spot", False, None),
    case(GROUPS, [group(spot=True), group(name="b")]),
    case(GROUPS, [group(spot=True), group(name="b", spot=False)]),
    *bad(GROUPS, [group(spot=True)], [group(spot=True), group(name="b", spot=True)]),
    *groups("spot", "true", 1, at="spot"),
    *groups("image", "a", "example.com:5000/a/b_c:v1.2-rc", "a@sha256:" + "0" * 64, None),
    *groups("image", "", "a b", ":a", "a\n", "a" * 513, 1, at="image"),
    *groups("image", "a", template={"spec": {"containers": [{"name": "ray-worker"}, {"name": "b", "image": "c"}]}}),
    *groups("image", "a", template={"spec": {"containers": [{"name": "ray-worker", "image": "b"}]}}, at="image"),
    *groups(
        "nodeSelector",
        {},
        {"a": ""},
        {"cloud.google.com/gke-accelerator": "nvidia-l4"},
        {"a": "b" * 63},
        {f"a{number}": "b" for number in range(32)},
        None,
    ),
    *groups("nodeSelector", {f"a{number}": "b" for number in range(33)}, "a", ["a"], at="nodeSelector"),
    *[
        each
        for value in ("a b", "-a", "a" * 64, "a\n", 1, True, ["a"], {"a": "b"})
        for each in groups("nodeSelector", {"key": value}, at="nodeSelector.key")
    ],
    *groups("nodeSelector", {}, template={"spec": {"nodeSelector": {"a": "b"}}}),
    *groups("nodeSelector", {"a": "b"}, template={"spec": {"tolerations": []}}),
    *groups("nodeSelector", {"a": "b"}, template={"spec": {"nodeSelector": {}}}, at="nodeSelector"),
    *groups(
        "tolerations",
        [],
        [{"operator": "Exists"}],
        [{"key": "a"}],
        [{"key": "a.b/c", "operator": "Exists"}],
        [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}],
        [{"key": "a", "value": ""}],
        [{"key": "a", "effect": "NoExecute", "tolerationSeconds": each} for each in (0, 604_800)],
        [{"key": "a", "effect": "PreferNoSchedule"}] * 32,
        None,
    ),
    *groups("tolerations", [{"key": "a"}] * 33, {"key": "a"}, "a", at="tolerations"),
    *groups("tolerations", ["a"], [None], at="tolerations[0]"),
    *[
        each
        for at, value in (
            ("key", {}),
            ("key", {"effect": "NoSchedule"}),
            ("key", {"operator": "Equal"}),
            ("key", {"key": ""}),
            ("key", {"key": "a b"}),
            ("key", {"key": "a/"}),
            ("key", {"key": "a\n"}),
            ("key", {"key": 1}),
            ("key", {"key": "a" * 318}),
            ("operator", {"key": "a", "operator": "In"}),
            ("operator", {"key": "a", "operator": 1}),
            ("value", {"operator": "Exists", "value": "a"}),
            ("value", {"key": "a", "value": "a b"}),
            ("value", {"key": "a", "value": 1}),
            ("value", {"key": "a", "value": "a" * 64}),
            ("effect", {"key": "a", "effect": "Never"}),
            ("effect", {"key": "a", "effect": 1}),
            ("tolerationSeconds", {"key": "a", "tolerationSeconds": 1}),
            ("tolerationSeconds", {"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}),
            *(
                ("tolerationSeconds", {"key": "a", "effect": "NoExecute", "tolerationSeconds": each})
                for each in (-1, 604_801, "1", 1.5)
            ),
            ("seconds", {"key": "a", "seconds": 1}),
        )
        for each in groups("tolerations", [value], at=f"tolerations[0].{at}")
    ],
    *groups("tolerations", [], template={"spec": {"tolerations": [{"key": "a"}]}}),
    *groups("tolerations", [{"key": "a"}], template={"spec": {"nodeSelector": {"a": "b"}}}),
    *groups("tolerations", [{"key": "a"}], template={"spec": {"tolerations": []}}, at="tolerations"),
    *groups("maxReplicas", None, minReplicas=3),
    *groups("replicas", 1, at="replicas"),
    *bad("spec.workers", []),
]

ANYTHING = {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "a"}], "containers": [], "x": [{"y": 1, "z": "a"}]}
TEMPLATES = [
    *templates({}),
    *templates({"metadata": {}, "spec": {}}),
    *templates({"spec": ANYTHING}),
    *templates({"metadata": {"labels": {"a": "", "example.com/team": "a_B.c-1", "app.kubernetes.io/name": "a" * 63}}}),
    *templates({"metadata": {"annotations": {"a": "", "b": "ü\n" * 8192}}}),
    *templates({"metadata": {"labels": {f"a{number}": "b" for number in range(64)}}}),
    *templates({"metadata": {"labels": {f"a{number}": "b" for number in range(65)}}}, ".metadata.labels"),
    *templates({"metadata": {"annotations": {f"a{number}": "b" for number in range(65)}}}, ".metadata.annotations"),
    *[each for value in ("a b", "-a", "a-", "ä", "a" * 64, "a\n", 1, True)
      for each in templates({"metadata": {"labels": {"key": value}}}, ".metadata.labels.key")],
    *templates({"metadata": {"annotations": {"key": "a" * 16385}}}, ".metadata.annotations.key"),
    *templates({"metadata": {"annotations": {"key": 1}}}, ".metadata.annotations.key"),
    *[each for field in ("labels", "annotations") for value in ({"a": "b"}, ["a"])
      for each in templates({"metadata": {field: {"key": value}}}, f".metadata.{field}.key")],
    *[each for field in ("labels", "annotations") for value in ("a", ["a"])
      for each in templates({"metadata": {field: value}}, f".metadata.{field}")],
    *templates({"metadata": {"labels": {"a": None}, "annotations": None}, "spec": {"volumes": None}}),
    *[each for key in ("rayfleet.io/fleet", "ray.io/cluster", "ray.io/serve", "app.kubernetes.io/managed-by")
      for each in templates({"metadata": {"labels": {key: "a"}}}, ".metadata.labels")],
    *templates({"metadata": {"annotations": {"ray.io/ft-enabled": "a"}}}),
    *templates({"metadata": {"name": "a"}}, ".metadata.name"),
    *templates({"containers": []}, ".containers"),
    *templates({"spec": {"containers": {"name": "a"}}}, ".spec.containers"),
    *templates({"spec": {"containers": [{"name": "ray-worker", "resources": {"limits": {"cpu": 2}}}]}},
               head={"spec": {"containers": [{"name": "ray-head", "env": [{"name": "A", "value": "b"}]}]}}),
    *templates({"spec": {"containers": [{"name": "ray-head"}]}}, ".spec.containers",
               head={"spec": {"containers": [{"name": "ray-worker"}]}}),
    *templates({"spec": {"containers": [{"name": "beside", "image": "a"}, {"name": "cache", "image": "b"}]}}),
    *templates({"spec": {"containers": [{"name": "beside"}]}}, ".spec.containers"),
    *templates({"spec": {"containers": [{"image": "a"}]}}, ".spec.containers[0].name"),
    *templates({"spec": {"containers": [{"name": "a", "image": "a"}, {"name": "a", "image": "b"}]}},
               ".spec.containers[1]"),
    *templates({"spec": {"containers": [{"name": f"a{number}", "image": "a"} for number in range(17)]}},
               ".spec.containers"),
    *templates({"spec": {"initContainers": [{"name": "a", "image": "b"}], "volumes": [{"name": "a", "emptyDir": {}}]}}),
    *[each for field in ("initContainers", "volumes") for name in ("", "A", "a.b", "a" * 64, 1)
      for each in templates({"spec": {field: [{"name": name}]}}, f".spec.{field}[0].name")],
    *[each for field, place in (("spec", ""), ("metadata", ""), ("containers", ".spec"), ("initContainers", ".spec"),
                                ("volumes", ".spec")) for value in ("a", 1)
      for each in templates({"spec": {field: value}} if place else {field: value}, f"{place}.{field}")],
    *[each for field in ("containers", "initContainers", "volumes") for value in ("a", None, ["a"])
      for each in templates({"spec": {field: [value]}}, f".spec.{field}[0]")],
    *[each for name in ("", "A", "a.b", "a" * 64, 1, "a\n")
      for each in templates({"spec": {"containers": [{"name": name, "image": "a"}]}}, ".spec.containers[0].name")],
    *[each for field in ("containers", "initContainers") for image in ("", "a" * 513, 1, ["a"])
      for each in templates({"spec": {field: [{"name": "a", "image": image}]}}, f".spec.{field}[0].image")],
    *templates({"spec": {"initContainers": [{"image": "a"}]}}, ".spec.initContainers[0].name"),
    *templates({"spec": {"initContainers": [{"name": "a"}, {"name": "a"}]}}, ".spec.initContainers[1]"),
    *templates({"spec": {"initContainers": [{"name": f"a{number}"} for number in range(17)]}}, ".spec.initContainers"),
    *[each for value in ("a", 1, []) for each in [
        case(f"{HEAD}.template", value, bad=True), *groups("template", value, at="template")]],
    *templates({"spec": {"nodeSelector": None, "tolerations": None}}),
    *[each for value in ("a", 1, ["a"]) for each in templates({"spec": {"nodeSelector": value}}, ".spec.nodeSelector")],
    *[each for value in ("a", 1, {"a": "b"}, [{"key": "a"}] * 65)
      for each in templates({"spec": {"tolerations": value}}, ".spec.tolerations")],
    *[each for value in ("a", None, ["a"]) for each in templates({"spec": {"tolerations": [value]}},
                                                                 ".spec.tolerations[0]")],
    *templates({"spec": {"volumes": [{"emptyDir": {}}]}}, ".spec.volumes[0].name"),
    *templates({"spec": {"volumes": [{"name": "a"}, {"name": "a"}]}}, ".spec.volumes[1]"),
    *templates({"spec": {"volumes": [{"name": f"a{number}"} for number in range(65)]}}, ".spec.volumes"),
]  # fmt: skip

CACHES = [
    *good(CACHE, {}, {"claimName": "a"}, {"sizeLimit": "10Gi"}),
    *bad(CACHE, "a"),
    *good(f"{CACHE}.claimName", *OBJECT_NAMES),
    *bad(f"{CACHE}.claimName", *NO_OBJECT_NAMES),
    *good(f"{CACHE}.sizeLimit", *SIZES),
    *bad(f"{CACHE}.sizeLimit", *NO_SIZES),
    *bad(f"{CACHE}.sizeLimit", "10Gi", spec__modelCache__claimName="a"),
]

FLEETS = [*METADATA, *PODS, *ENVIRONMENT, *HEADS, *ROUTERS, *WORKERS, *TEMPLATES, *CACHES]
