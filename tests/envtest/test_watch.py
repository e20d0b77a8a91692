"""Watches that outlive API servers, and the Secrets that models name, on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from cluster.control_plane import ControlPlane

from rayfleet_operator.kube import config
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.kinds import CONFIG_MAP, SECRET, Kind
from rayfleet_operator.kube.references import Reference, References, Unknown
from rayfleet_operator.kube.transport import Transport
from rayfleet_operator.kube.watching import Changed, Listed, Source, follow

Json = dict[str, Any]
NAMESPACE = "default"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Restarted by the tests, so not the one that all share."""
    with ControlPlane(tmp_path_factory.mktemp("watch")) as started:
        yield started


@pytest.fixture
async def client(api: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(config.load(str(api.kubeconfig))) as client:
        yield client


class Mirror:
    """What a watch tells, kept as the objects there are."""

    def __init__(self, client: KubeClient, **selectors: str) -> None:
        self._client = client
        self._selectors = selectors
        self.lists = 0
        self.objects: dict[str, str] = {}

    async def run(self) -> None:
        async for event in self._client.watch(CONFIG_MAP, NAMESPACE, **self._selectors):
            if isinstance(event, Listed):
                self.lists += 1
                self.objects = {each["metadata"]["name"]: each["data"]["x"] for each in event.objects if "data" in each}
            elif event.deleted:
                self.objects.pop(event.object["metadata"]["name"], None)
            elif "data" in event.object:
                self.objects[event.object["metadata"]["name"]] = event.object["data"]["x"]


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.02)


def config_map(name: str, value: str = "1") -> Json:
    metadata = {"namespace": NAMESPACE, "name": name, "labels": {"of": "mirror"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"x": value}}


def secret(name: str, value: str = "MQ==") -> Json:
    metadata = {"namespace": NAMESPACE, "name": name}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"x": value}}


@pytest.fixture
async def mirror(client: KubeClient) -> AsyncIterator[Mirror]:
    for each in await client.list(CONFIG_MAP, NAMESPACE, labels="of=mirror", cached=False):
        await client.delete(CONFIG_MAP, NAMESPACE, each["metadata"]["name"])
    mirror = Mirror(client, labels="of=mirror")
    running = asyncio.create_task(mirror.run())
    await until(lambda: mirror.lists == 1)
    yield mirror
    running.cancel()
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()


async def test_each_change_is_told(client: KubeClient, mirror: Mirror) -> None:
    await client.create(config_map("a"))
    await client.create(config_map("b"))
    await client.apply(config_map("a", "2"), field_manager="t", force=True)
    await client.delete(CONFIG_MAP, NAMESPACE, "b")

    await until(lambda: mirror.objects == {"a": "2"})
    assert mirror.lists == 1


async def test_a_watch_goes_on_where_it_was_after_the_api_server_restarted(
    api: ControlPlane, client: KubeClient, mirror: Mirror
) -> None:
    await client.create(config_map("a"))
    await until(lambda: mirror.objects == {"a": "1"})
    await asyncio.to_thread(api.kill_part, "kube-apiserver")
    await asyncio.to_thread(api.start_part, "kube-apiserver")
    await client.create(config_map("b"))
    await client.delete(CONFIG_MAP, NAMESPACE, "a")

    await until(lambda: mirror.objects == {"b": "1"})


async def test_a_version_that_the_api_server_no_longer_knows_leads_to_a_new_list(
    api: ControlPlane, client: KubeClient
) -> None:
    await client.create(config_map("there"))
    transport = Transport(config.load(str(api.kubeconfig)))
    path = CONFIG_MAP.path(NAMESPACE)
    source = Source(transport, CONFIG_MAP, path, {"fieldSelector": "metadata.name=there"}, "watch configmaps")
    versions = ["1"]  # older than any that the API server remembers

    async def relist() -> Listed:
        objects = await client.list(CONFIG_MAP, NAMESPACE, fields="metadata.name=there", cached=False)
        return Listed(objects, versions.pop() if versions else objects[0]["metadata"]["resourceVersion"])

    told: list[Listed | Changed] = []
    async with asyncio.timeout(60):
        async for event in follow(source, relist):
            told.append(event)
            if len(told) == 2:
                await client.delete(CONFIG_MAP, NAMESPACE, "there")
            if len(told) == 3:
                break
    await transport.close()

    first, second, third = told
    assert isinstance(first, Listed)
    assert isinstance(second, Listed)
    assert isinstance(third, Changed)
    assert third.deleted


class Counting(KubeClient):
    """Counts its watches that go on."""

    watched = 0

    async def watch(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None
    ) -> AsyncGenerator[Listed | Changed]:
        self.watched += 1
        try:
            async for change in super().watch(kind, namespace, labels=labels, fields=fields):
                yield change
        finally:
            self.watched -= 1


class Heard:
    """References, and whom they called."""

    def __init__(self, client: KubeClient) -> None:
        self.calls: list[str] = []
        self.references: References[str] = References(client, self.calls.append)

    def value(self, name: str) -> object:
        found = self.references.known(SECRET, NAMESPACE, name)
        return found["data"]["x"] if isinstance(found, dict) else found


@pytest.fixture
async def heard(client: KubeClient) -> AsyncIterator[Heard]:
    heard = Heard(client)
    yield heard
    await heard.references.close()


def named(*names: str) -> set[Reference]:
    return {Reference(SECRET, NAMESPACE, name) for name in names}


async def test_a_named_secret_is_known_and_its_changes_are_told(client: KubeClient, heard: Heard) -> None:
    await client.create(secret("token"))
    assert heard.value("token") == Unknown()
    heard.references.follow("vision", named("token", "missing"))
    await until(lambda: heard.value("token") == "MQ==" and heard.value("missing") is None)

    heard.calls.clear()
    await client.apply(secret("token", "Mg=="), field_manager="t", force=True)
    await client.create(secret("unrelated"))
    await until(lambda: heard.value("token") == "Mg==")
    assert heard.calls == ["vision"]
    await client.create(secret("missing"))
    await until(lambda: heard.value("missing") == "MQ==")
    await client.delete(SECRET, NAMESPACE, "token")
    await until(lambda: heard.value("token") is None)
    assert heard.value("unrelated") == Unknown()


async def test_only_what_somebody_follows_is_watched(api: ControlPlane) -> None:
    async with Counting(config.load(str(api.kubeconfig))) as client:
        heard = Heard(client)
        references = heard.references
        references.follow("a", named("one", "two"))
        references.follow("b", named("two", "three"))
        await until(lambda: all(heard.value(name) is None for name in ("one", "two", "three")))
        assert client.watched == 3
        references.follow("a", named("two"))
        await until(lambda: client.watched == 2)
        assert heard.value("one") == Unknown()
        references.follow("b", set())
        await until(lambda: client.watched == 1)
        heard.calls.clear()
        await client.create(secret("two"))
        await until(lambda: heard.calls == ["a"])
        references.follow("a", set())
        await until(lambda: client.watched == 0)
        await client.delete(SECRET, NAMESPACE, "two")


async def test_many_names_are_watched_at_once(client: KubeClient, heard: Heard) -> None:
    names = [f"many-{number}" for number in range(120)]
    heard.references.follow("vision", named(*names))
    await until(lambda: all(heard.value(name) is None for name in names))
    await client.create(secret(names[-1]))
    await until(lambda: heard.value(names[-1]) == "MQ==")
    await client.delete(SECRET, NAMESPACE, names[-1])


async def test_a_secret_that_may_not_be_read_is_unknown_and_it_is_said_why(api: ControlPlane) -> None:
    async with KubeClient(config.load(str(await asyncio.to_thread(api.kubeconfig_for, "nobody")))) as client:
        heard = Heard(client)
        heard.references.follow("vision", named("token"))

        def why() -> str:
            found = heard.references.known(SECRET, NAMESPACE, "token")
            return str(found.why) if isinstance(found, Unknown) else ""

        await until(lambda: "not allowed to list secrets" in why())
        assert heard.calls == ["vision"]
        await heard.references.close()
