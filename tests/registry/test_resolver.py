"""Many models at once: each its own outcome, each place its own time, each URI asked once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from registry.asking import resolve
from registry.stand_in import http, stand_in

from rayfleet_operator.api.types import Model, Registry
from rayfleet_operator.plan.observed import Noted
from rayfleet_operator.registry.addresses import usable
from rayfleet_operator.registry.credentials import Credentials
from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.mlflow import MlflowRegistry
from rayfleet_operator.registry.resolver import Outcome, Resolver
from rayfleet_operator.registry.server import Bounds
from rayfleet_operator.registry.uri import RegistryUri, VersionUri
from rayfleet_serving.config import ModelIdentity


def answer(head: str) -> bytes:
    """Every version exists, from a source of its own."""
    if "get-download-uri" in head:
        return http("200 OK", b'{"artifact_uri": "s3://bucket/net"}')
    version = {"name": "net", "version": "1", "source": "s3://bucket/net"}
    return http("200 OK", json.dumps({"model_version": version}).encode())


def reason(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, RegistryError) else "Resolved"


def at(tracking_uri: str, uri: str = "models:/net/1") -> Model:
    return Model(uri=uri, registry=Registry(tracking_uri=tracking_uri))


async def test_one_failure_touches_no_other(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("")
    models = {
        "missing": Model(uri=str(tmp_path / "missing")),
        "local": Model(uri=str(tmp_path)),
        "unreadable": Model.model_construct(uri="nonsense"),
        "homeless": Model(uri="models:/net/1"),
    }
    async with stand_in(answer) as server, stand_in(lambda _: http("404 No", b"")) as other:
        models |= {"served": at(server.uri), "stranger": at(other.uri)}
        outcomes = await Resolver().resolve_all(models)
    assert list(outcomes) == list(models)
    assert {key: reason(outcome) for key, outcome in outcomes.items()} == {
        "missing": "ArtifactNotFound",
        "local": "Resolved",
        "unreadable": "InvalidUri",
        "homeless": "TrackingUriMissing",
        "served": "Resolved",
        "stranger": "RegistryUnreachable",
    }


async def test_a_failure_that_nobody_foresaw_touches_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = MlflowRegistry.resolve

    async def fail(self: MlflowRegistry, uri: RegistryUri, before: str | None = None) -> ModelIdentity | Noted:
        """Stand-in for a mistake in rayfleet."""
        if uri == VersionUri("net", 2):
            raise KeyError("net")
        return await usual(self, uri, before)

    monkeypatch.setattr(MlflowRegistry, "resolve", fail)
    async with stand_in(answer) as server:
        models = {key: at(server.uri, f"models:/net/{key}") for key in "123"}
        outcomes = await Resolver().resolve_all(models)
    assert {key: reason(outcome) for key, outcome in outcomes.items()} == {
        "1": "Resolved",
        "2": "ResolverFailed",
        "3": "Resolved",
    }
    assert "Asking for it failed: KeyError: 'net'" in str(outcomes["2"])


async def test_a_client_that_cannot_be_made_costs_its_servers_models_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MLmodel").write_text("")
    monkeypatch.setenv("ALL_PROXY", "nonsense://proxy")
    outcomes = await Resolver().resolve_all({"local": Model(uri=str(tmp_path)), "served": at("http://mlflow:5000")})
    assert {key: reason(outcome) for key, outcome in outcomes.items()} == {
        "local": "Resolved",
        "served": "ResolverFailed",
    }


async def test_one_uri_on_one_server_is_asked_once() -> None:
    async with stand_in(answer) as server:
        resolver = Resolver(default_tracking_uri=f"{server.uri}/")
        models = {str(number): Model(uri="models:/net/1") for number in range(20)}
        outcomes = await resolver.resolve_all({**models, "named": at(server.uri)})
        assert len(outcomes) == 21
        assert len(set(map(id, outcomes.values()))) == 1
        assert len(server.requests) == 2, "the version, and where it lies"


async def test_a_silent_server_costs_its_own_models_only() -> None:
    bounds = Bounds(connect_s=2, total_s=2)
    async with stand_in(answer) as server, stand_in(lambda _: None) as silent:
        models = {f"silent {number}": at(silent.uri, f"models:/net/{number}") for number in range(40)}
        models |= {f"served {number}": at(server.uri, f"models:/net/{number}") for number in range(40)}
        async with asyncio.timeout(20):
            outcomes = await Resolver(bounds=bounds, all_s=4.5).resolve_all(models)
        told = {outcome.message for outcome in outcomes.values() if isinstance(outcome, RegistryError)}
    for key, outcome in outcomes.items():
        assert reason(outcome) == ("RegistryUnreachable" if key.startswith("silent") else "Resolved"), key
    assert any("no full answer within 2 s" in message for message in told)
    assert any("its 40 models took more than 4.5 s" in message for message in told)


@pytest.mark.parametrize("default", ["http://mlflow:abc", "http://mlflow:99999", "http://[::1"])
async def test_a_default_that_cannot_be_asked_costs_the_models_that_need_it_only(default: str) -> None:
    async with stand_in(answer) as server:
        resolver = Resolver(default_tracking_uri=default, credentials=Credentials(token="s3cr3t"))
        outcomes = await resolver.resolve_all({"own": at(server.uri), "default": Model(uri="models:/net/1")})
    assert {key: reason(outcome) for key, outcome in outcomes.items()} == {"own": "Resolved", "default": "InvalidUri"}
    assert "MLFLOW_TRACKING_URI" in str(outcomes["default"])
    assert not any("s3cr3t" in head for head in server.requests)


async def test_nothing_to_resolve() -> None:
    assert await Resolver().resolve_all({}) == {}


@pytest.mark.parametrize(
    ("uri", "reason", "says"),
    [
        (None, "TrackingUriMissing", "Set spec.model.registry.trackingUri, or MLFLOW_TRACKING_URI"),
        ("sqlite:////data/mlflow.db", "InvalidUri", "mlflow server --backend-store-uri"),
        ("postgresql://u:s3cr3t@db/mlflow", "InvalidUri", "'postgresql://db/mlflow'"),
        ("file:///mlruns", "InvalidUri", "mlflow server"),
        ("/mlruns", "InvalidUri", "http://host:port"),
        ("databricks", "InvalidUri", "http://host:port"),
        ("http://", "InvalidUri", "http://host:port"),
        ("http://host:port", "InvalidUri", "http://host:port"),
        ("http://alice:s3cr3t@host:5000", "InvalidUri", "'http://host:5000' holds credentials"),
        ("http://host:5000?token=s3cr3t", "InvalidUri", "'http://host:5000' holds credentials"),
    ],
)
async def test_tracking_uris_that_cannot_be_asked(uri: str | None, reason: str, says: str) -> None:
    with pytest.raises(RegistryError) as error:
        await resolve(Resolver(default_tracking_uri=uri), Model(uri="models:/net/1"))
    assert error.value.reason == reason
    assert says in error.value.message
    assert "s3cr3t" not in error.value.message


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1:5000",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "169。254。169。254",
        "[fe80::1]",
        "[fe80::1%25eth0]:5000",
        "[febf::1]",
        "[::ffff:169.254.169.254]",
    ],
)
async def test_a_link_local_address_is_not_asked(host: str) -> None:
    """By default, nor where a model names it."""
    resolver = Resolver(default_tracking_uri=f"http://{host}/latest")
    named = Model(uri="models:/net/1", registry=Registry.model_construct(tracking_uri=f"http://{host}/latest"))
    outcomes = await resolver.resolve_all({"default": Model(uri="models:/net/1"), "named": named})
    for outcome in outcomes.values():
        assert reason(outcome) == "InvalidUri"
        assert f"'http://{host}/latest' is a link-local address" in str(outcome)
    assert "MLFLOW_TRACKING_URI" in str(outcomes["default"])
    assert "spec.model.registry.trackingUri" in str(outcomes["named"])


@pytest.mark.parametrize(
    "host", ["mlflow", "169.254.169.254.nip.io", "10.0.0.1", "[fd00::1]", "[::1]", "a9fea9fe", "é"]
)
def test_every_other_host_may_be_named(host: str) -> None:
    assert usable(f"http://{host}:5000", "here") == f"http://{host}:5000"


def test_the_tracking_uri_that_holds() -> None:
    resolver = Resolver.from_environment({"MLFLOW_TRACKING_URI": "http://default:5000/"})
    assert resolver.tracking_uri(Model(uri="models:/net/1")) == "http://default:5000"
    assert resolver.tracking_uri(at("https://own/mlflow/")) == "https://own/mlflow"
    assert Resolver.from_environment({}).tracking_uri(Model(uri="models:/net/1")) is None


async def test_the_server_is_part_of_a_stable_key() -> None:
    async with stand_in(answer) as one, stand_in(answer) as other:
        outcomes = await Resolver().resolve_all({"one": at(one.uri), "other": at(other.uri)})
    assert all(isinstance(outcome, ModelIdentity) for outcome in outcomes.values())
    assert len({outcome.model_id for outcome in outcomes.values() if isinstance(outcome, ModelIdentity)}) == 2


def test_the_registry_needs_no_heavy_package() -> None:
    code = (
        "import sys; import rayfleet_operator.registry.resolver; "
        "print(sorted({'mlflow', 'ray', 'numpy', 'torch', 'boto3', 'obstore'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
