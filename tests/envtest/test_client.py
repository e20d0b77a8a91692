"""The verbs, on a real API server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cluster.control_plane import ControlPlane

from rayfleet_operator.kube import config, errors
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.kinds import (
    CONFIG_MAP,
    EVENT,
    MODEL_DEPLOYMENT,
    RAY_SERVICE,
    SECRET,
    Kind,
)

Json = dict[str, Any]


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = f"client-{os.urandom(4).hex()}"
    control_plane.kubectl("create", "namespace", name)
    return name


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(config.load(str(control_plane.kubeconfig))) as client:
        yield client


def config_map(namespace: str, name: str = "a", /, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}, "data": data}


def model(namespace: str, name: str = "m") -> Json:
    return {
        "apiVersion": "rayfleet.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"model": {"uri": "models:/m/1"}},
    }


def condition(kind: str, status: str) -> Json:
    now = "2026-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": "Because", "message": "", "lastTransitionTime": now}


async def test_applied_fields_belong_to_their_manager(client: KubeClient, namespace: str) -> None:
    await client.apply(config_map(namespace, a="1", b="1"), field_manager="first")
    await client.apply(config_map(namespace, c="1"), field_manager="second")

    with pytest.raises(
        errors.Conflict, match=r'cannot apply ConfigMap a in namespace .*conflict with "first": \.data\.a'
    ):
        await client.apply(config_map(namespace, a="2"), field_manager="second")
    after = await client.apply(config_map(namespace, a="1"), field_manager="first")
    assert after["data"] == {"a": "1", "c": "1"}, "what is given no more goes, what is another's stays"


async def test_every_character_arrives_as_it_is(client: KubeClient, namespace: str) -> None:
    """Server-side apply is read as YAML, which takes fewer characters than JSON."""
    planes = [
        chr(code) for code in (*range(0x20, 0x500), *range(0x2000, 0x2100), 0xE000, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF)
    ]
    text = "".join([*planes, "\t\n\r\0", "\U00010000", "\N{DOG FACE}", "\U0010ffff"])
    made = await client.apply(config_map(namespace, a=text, b="half \ud83d"), field_manager="first")
    assert made["data"] == {"a": text, "b": "half \ufffd"}


async def test_force_takes_fields_over(client: KubeClient, namespace: str) -> None:
    await client.apply(config_map(namespace, a="1"), field_manager="first")
    await client.apply(config_map(namespace, a="2"), field_manager="second", force=True)

    with pytest.raises(errors.Conflict):
        await client.apply(config_map(namespace, a="3"), field_manager="first")
    assert (await client.get(CONFIG_MAP, namespace, "a") or {})["data"] == {"a": "2"}


async def test_applying_the_same_again_changes_nothing(client: KubeClient, namespace: str) -> None:
    first = await client.apply(config_map(namespace, a="1"), field_manager="first")
    again = await client.apply(config_map(namespace, a="1"), field_manager="first")

    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_status_is_applied_without_touching_the_spec(client: KubeClient, namespace: str) -> None:
    await client.create(model(namespace))
    status = model(namespace) | {"status": {"observedGeneration": 1, "conditions": [condition("Ready", "True")]}}
    status.pop("spec")
    await client.apply_status(status, field_manager="rayfleet-status")
    status["status"] = {"observedGeneration": 2, "conditions": [condition("Degraded", "False")]}
    after = await client.apply_status(status, field_manager="rayfleet-status")

    assert after["status"]["observedGeneration"] == 2
    assert [each["type"] for each in after["status"]["conditions"]] == ["Degraded"]
    assert after["spec"]["model"]["uri"] == "models:/m/1"
    assert after["metadata"]["generation"] == 1


async def test_the_status_of_what_is_not_there_is_not_found(client: KubeClient, namespace: str) -> None:
    status = model(namespace) | {"status": {"observedGeneration": 1}}
    status.pop("spec")

    with pytest.raises(errors.NotFound, match="cannot apply the status of ModelDeployment m in namespace"):
        await client.apply_status(status, field_manager="rayfleet-status")


async def test_what_is_not_there_is_none(client: KubeClient, namespace: str) -> None:
    assert await client.get(CONFIG_MAP, namespace, "a") is None
    assert await client.delete(CONFIG_MAP, namespace, "a") is False
    with pytest.raises(errors.NotFound, match=r"namespaces .* not found"):
        await client.create(config_map("nowhere-at-all"))


async def test_an_object_that_exists_is_not_created_again(client: KubeClient, namespace: str) -> None:
    await client.create(config_map(namespace))

    with pytest.raises(errors.AlreadyExists):
        await client.create(config_map(namespace))


async def test_an_old_object_replaces_no_newer_one(client: KubeClient, namespace: str) -> None:
    first = await client.create(config_map(namespace, a="1"))
    await client.replace(first | {"data": {"a": "2"}})

    with pytest.raises(errors.Conflict):
        await client.replace(first | {"data": {"a": "3"}})


async def test_deleting_with_a_uid_spares_another_object_of_that_name(client: KubeClient, namespace: str) -> None:
    first = await client.create(config_map(namespace))
    assert await client.delete(CONFIG_MAP, namespace, "a", uid=first["metadata"]["uid"])
    await client.create(config_map(namespace))

    with pytest.raises(errors.Conflict):
        await client.delete(CONFIG_MAP, namespace, "a", uid=first["metadata"]["uid"])
    assert await client.get(CONFIG_MAP, namespace, "a") is not None


async def test_json_patch_tests_before_it_writes(client: KubeClient, namespace: str) -> None:
    await client.create(config_map(namespace, a="1"))
    change = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "replace", "path": "/data/a", "value": "2"}]

    assert (await client.patch_json(CONFIG_MAP, namespace, "a", change))["data"] == {"a": "2"}
    with pytest.raises(errors.Invalid):
        await client.patch_json(CONFIG_MAP, namespace, "a", change)


async def test_lists_come_in_pages_from_memory_and_by_selector(client: KubeClient, namespace: str) -> None:
    for number in range(12):
        obj = config_map(namespace, f"c{number:02}")
        obj["metadata"]["labels"] = {"parity": "even" if number % 2 == 0 else "odd"}
        await client.create(obj)
    names = [f"c{number:02}" for number in range(12)]

    def found(objects: list[Json]) -> list[str]:
        assert all((each["apiVersion"], each["kind"]) == ("v1", "ConfigMap") for each in objects)
        return [each["metadata"]["name"] for each in objects]

    assert found(await client.list(CONFIG_MAP, namespace, cached=False, page=5)) == names
    assert found(await client.list(CONFIG_MAP, namespace, labels="parity=even", cached=False)) == names[::2]
    assert found(await client.list(CONFIG_MAP, namespace, fields="metadata.name=c03", cached=False)) == ["c03"]
    async with asyncio.timeout(30):
        # Memory may be a moment behind.
        while found(await client.list(CONFIG_MAP, namespace)) != names:
            await asyncio.sleep(0.05)
    everywhere = await client.list(CONFIG_MAP, None, labels="parity=odd", cached=False)
    assert [each["metadata"]["name"] for each in everywhere if each["metadata"]["namespace"] == namespace] == names[
        1::2
    ]


async def test_of_lists_of_metadata_nothing_else_is_sent(client: KubeClient, namespace: str) -> None:
    for number in range(5):
        obj = model(namespace, f"m{number}")
        obj["metadata"]["labels"] = {"parity": "even" if number % 2 == 0 else "odd"}
        await client.create(obj)

    found = await client.list_metadata(MODEL_DEPLOYMENT, namespace, labels="parity=even", page=2)
    assert [each["metadata"]["name"] for each in found] == ["m0", "m2", "m4"]
    assert [(each["apiVersion"], each["kind"]) for each in found] == [("rayfleet.io/v1alpha1", "ModelDeployment")] * 3
    assert all(set(each) == {"apiVersion", "kind", "metadata"} for each in found)


async def test_a_field_that_a_model_can_be_selected_by_works(client: KubeClient, namespace: str) -> None:
    await client.create(model(namespace, "own"))
    shared = model(namespace, "shared")
    shared["spec"]["fleet"] = "vision"
    await client.create(shared)

    found = await client.list(MODEL_DEPLOYMENT, namespace, fields="spec.fleet=vision", cached=False)
    assert [each["metadata"]["name"] for each in found] == ["shared"]


async def test_a_refused_object_is_told_in_the_api_servers_words(client: KubeClient, namespace: str) -> None:
    wrong = model(namespace)
    wrong["spec"]["model"]["uri"] = "nonsense"

    with pytest.raises(errors.Invalid, match=r"cannot apply ModelDeployment m in namespace .*spec\.model\.uri"):
        await client.apply(wrong, field_manager="first")
    with pytest.raises(errors.Invalid, match="unable to parse"):
        await client.list(CONFIG_MAP, namespace, labels="a b c")


async def test_what_rbac_forbids_is_told_by_verb_and_object(control_plane: ControlPlane, namespace: str) -> None:
    nobody = control_plane.kubeconfig_for("nobody")
    async with KubeClient(config.load(str(nobody))) as client:
        with pytest.raises(errors.Forbidden) as refused:
            await client.list(SECRET, namespace)
        assert refused.value.message == (
            f"not allowed to list secrets in namespace {namespace}: secrets is forbidden: "
            f'User "nobody" cannot list resource "secrets" in API group "" in the namespace "{namespace}"'
        )
        with pytest.raises(errors.Forbidden, match="not allowed to apply ConfigMap a in namespace"):
            await client.apply(config_map(namespace), field_manager="first")
        with pytest.raises(errors.Forbidden, match="not allowed to list secrets"):
            async for _ in client.watch(SECRET, namespace):
                pass


async def test_a_service_accounts_token_is_accepted_and_a_wrong_one_is_not(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl("create", "serviceaccount", "worker", "--namespace", namespace)
    control_plane.kubectl("create", "role", "reader", "--verb=get", "--resource=configmaps", "-n", namespace)
    account = f"--serviceaccount={namespace}:worker"
    control_plane.kubectl("create", "rolebinding", "worker", "--role=reader", account, "-n", namespace)
    kubeconfig = control_plane.kubeconfig_for_service_account(namespace, "worker")
    async with KubeClient(config.load(str(kubeconfig))) as client:
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await client.get(CONFIG_MAP, namespace, "a") is None
                    break
                except errors.Forbidden:  # RBAC hears of the binding a moment later
                    await asyncio.sleep(0.05)
    wrong = kubeconfig.with_name("wrong.kubeconfig")
    text = kubeconfig.read_text()
    token = text.partition("token: ")[2].split()[0].strip("\"'")
    wrong.write_text(text.replace(token, "not.a.token"))
    async with KubeClient(config.load(str(wrong))) as client:
        with pytest.raises(errors.Unauthorized):
            await client.get(CONFIG_MAP, namespace, "a")


async def test_kinds_are_served_or_not(client: KubeClient) -> None:
    assert await client.serves(RAY_SERVICE)
    assert await client.serves(SECRET)
    assert not await client.serves(Kind("ray.io", "v1", "RaySomething", "raysomethings"))
    assert not await client.serves(Kind("nobody.example", "v1", "Nothing", "nothings"))


async def test_events_are_there_for_who_looks_at_the_object(client: KubeClient, namespace: str) -> None:
    obj = await client.create(model(namespace))
    await client.event(obj, reason="RolledBack", action="Rollback", note="x" * 5000, type="Warning")
    await client.event(obj, reason="VersionFailed", action="Report", note="x模型无法加载" * 500)
    await client.event(obj, reason="Promoted", action="Promote", note="version 4 serves")

    events = {each["reason"]: each for each in await client.list(EVENT, namespace, cached=False)}
    assert events["RolledBack"]["type"] == "Warning"
    assert events["RolledBack"]["note"] == "x" * 1021 + "…"
    assert events["VersionFailed"]["note"].startswith("x模型无法加载x")
    assert events["VersionFailed"]["note"].endswith("…")
    assert 1020 < len(events["VersionFailed"]["note"].encode()) <= 1024
    assert events["Promoted"]["regarding"]["uid"] == obj["metadata"]["uid"]
    assert events["Promoted"]["reportingController"] == "rayfleet.io/operator"
    found = await client.list(EVENT, namespace, cached=False)
    assert len(found) == 3


async def test_an_event_that_cannot_be_written_fails_nothing(
    control_plane: ControlPlane, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with KubeClient(config.load(str(control_plane.kubeconfig_for("nobody")))) as client:
        await client.event(model(namespace), reason="Promoted", action="Promote", note="version 4 serves")

    assert "No Event Promoted for m: not allowed to create events" in caplog.text
