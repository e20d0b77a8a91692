"""Whether a live object says what we want, and whether it is ours."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayfleet_operator.render import objects
from rayfleet_operator.render.drift import covers, foreign
from rayfleet_operator.render.raycluster import cluster_spec

from .specs import FULL, NAME, OWNERS, spec

SERVICE = objects.service(NAME, OWNERS, cluster="vision-x7k2p")
RAY_SERVICE = objects.rayservice(
    NAME,
    OWNERS,
    cluster=cluster_spec(NAME, spec(FULL)),
    serve_config=b"{}\n",
    inputs="0123456789",
    environment="Secret/tokens@7",
    longest_request_s=30,
)


def changed(obj: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    found = copy.deepcopy(obj)
    *parents, last = path.split("/")
    at: Any = found
    for each in parents:
        at = at[int(each)] if each.isdigit() else at[each]
    at[int(last) if last.isdigit() else last] = value
    return found


WORKER = "spec/rayClusterConfig/workerGroupSpecs/0/template/spec/containers/0"

# The object, a path in it, another value there, and whether that is still what we want.
CHANGES: list[tuple[dict[str, Any], str, Any, bool]] = [
    (SERVICE, "metadata/labels/team", "a", True),
    (SERVICE, "metadata/annotations", {"kubectl.kubernetes.io/restartedAt": "x"}, True),
    (SERVICE, "metadata/resourceVersion", "7", True),
    (SERVICE, "spec/clusterIP", "10.0.0.7", True),
    (SERVICE, "spec/selector/other", "x", True),
    (SERVICE, "spec/ports/0/nodePort", 30080, True),
    (
        SERVICE,
        "metadata/ownerReferences",
        [*OWNERS, {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "9"}],
        True,
    ),
    (SERVICE, "metadata/ownerReferences", [], False),
    (SERVICE, "metadata/ownerReferences", [{**OWNERS[0], "uid": "other"}], False),
    (SERVICE, "metadata/ownerReferences", [*OWNERS, {**OWNERS[0], "kind": "ModelDeployment", "uid": "gone"}], False),
    (SERVICE, "spec/ports/0/port", 80, False),
    (SERVICE, "spec/ports/0/targetPort", "serve", False),
    (SERVICE, "spec/ports", SERVICE["spec"]["ports"][:1], False),
    (SERVICE, "spec/ports", [*SERVICE["spec"]["ports"], {"name": "x", "port": 1}], False),
    (RAY_SERVICE, f"{WORKER}/resources/limits/cpu", "2.5", True),
    (RAY_SERVICE, f"{WORKER}/resources/limits/memory", "6144Mi", True),
    (RAY_SERVICE, f"{WORKER}/resources/limits/cpu", "2", False),
    (RAY_SERVICE, f"{WORKER}/resources/limits/cpu", "much", False),
    (RAY_SERVICE, f"{WORKER}/image", "example.com/other:1", False),
    (RAY_SERVICE, f"{WORKER}/ports/0/protocol", "TCP", True),
    (RAY_SERVICE, "spec/rayClusterConfig/headGroupSpec/template/metadata/creationTimestamp", None, True),
    (RAY_SERVICE, "spec/serveConfigV2", "{}", False),
    (RAY_SERVICE, "spec/excludeHeadPodFromServeSvc", False, False),
]


@pytest.mark.parametrize(
    ("wanted", "path", "value", "same"), CHANGES, ids=[f"{path}-{n}" for n, (_, path, _, _) in enumerate(CHANGES)]
)
def test_what_is_drift(wanted: dict[str, Any], path: str, value: Any, same: bool) -> None:
    assert covers(wanted, wanted)
    assert covers(changed(wanted, path, value), wanted) == same


def test_what_is_missing_is_drift() -> None:
    for part in ("metadata", "spec"):
        for key in SERVICE[part]:
            live = copy.deepcopy(SERVICE)
            del live[part][key]
            assert not covers(live, SERVICE), key


def test_a_changed_selector_is_drift() -> None:
    live = copy.deepcopy(SERVICE)
    live["spec"]["selector"]["ray.io/cluster"] = "vision-other"
    assert not covers(live, SERVICE)


def test_a_secret_without_data_is_one_with_no_data() -> None:
    wanted = objects.credentials_secret(NAME, OWNERS, files={})
    live = {key: value for key, value in wanted.items() if key != "data"}
    assert covers(live, wanted)
    assert not covers(live, objects.credentials_secret(NAME, OWNERS, files={"a": b"1"}))


def test_what_somebody_else_made_is_not_written_over() -> None:
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "vision", "namespace": "ml"}, "spec": {}}
    told = foreign(theirs, SERVICE)
    assert told is not None
    assert "Service vision in namespace ml" in told
    assert foreign({**theirs, "metadata": {**theirs["metadata"], "labels": {"rayfleet.io/fleet": "other"}}}, SERVICE)


def test_what_we_made_is_ours() -> None:
    assert foreign(None, SERVICE) is None
    assert foreign(SERVICE, SERVICE) is None
    assert foreign(changed(SERVICE, "metadata/labels", {}), SERVICE) is None, "it has our owner"
    assert foreign(changed(SERVICE, "metadata/ownerReferences", []), SERVICE) is None, "it has our label"
