"""A model's own credentials: read from its Secret, and shown to its own server only."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from certificates import authority
from registry.asking import resolve
from registry.stand_in import http, stand_in
from registry.test_server import fail, healthy

from rayfleet_operator.api.types import Metadata, Model, ModelDeployment, ModelDeploymentSpec, Registry
from rayfleet_operator.plan.serve_config import model_args
from rayfleet_operator.registry.access import Access, access, needs_access, pod_files
from rayfleet_operator.registry.credentials import Credentials, Tls
from rayfleet_operator.registry.errors import CredentialsMissing, RegistryError
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import ModelIdentity

URI = "models:/net/1"


def model(tracking_uri: str | None = None, *, secret: str | None = None, config_map: str | None = None) -> Any:
    given = {"tracking_uri": tracking_uri, "secret_name": secret, "ca_config_map_name": config_map}
    registry = Registry.model_validate({name: value for name, value in given.items() if value is not None})
    spec = ModelDeploymentSpec(model=Model(uri=URI, registry=registry))
    return ModelDeployment(metadata=Metadata(name="digits", namespace="vision"), spec=spec)


def secret_of(values: Mapping[str, str]) -> dict[str, Any]:
    return {
        "kind": "Secret",
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()},
    }


def test_a_model_without_names_needs_nothing() -> None:
    assert not needs_access(model())
    assert access(model(), secret_of({"MLFLOW_TRACKING_TOKEN": "other"}), None) == Access()
    assert pod_files(model(), secret_of({"MLFLOW_TRACKING_TOKEN": "other"}), {"data": {"ca.crt": "pem"}}) == {}


def test_a_models_replicas_are_told_that_it_has_credentials_and_not_which() -> None:
    identity = ModelIdentity(version="1", model_id="m-1", artifact_uri="mlflow-artifacts:/1")
    assert "credentials" not in model_args(model(), identity), "other apps keep their names"
    for named in (model(secret="mlflow"), model(config_map="ca")):
        assert model_args(named, identity) == {**model_args(model(), identity), "credentials": True}


def test_what_the_secret_and_the_config_map_hold() -> None:
    named = model(secret="mlflow", config_map="ca")
    secret = secret_of(
        {
            "MLFLOW_TRACKING_USERNAME": "alice\n",
            "MLFLOW_TRACKING_PASSWORD": "päss\n",
            "MLFLOW_TRACKING_INSECURE_TLS": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "LD_PRELOAD": "evil.so",
            "ca.crt": "another",
        }
    )
    found = access(named, secret, {"data": {"ca.crt": "pem"}})
    assert isinstance(found, Access)
    assert found.credentials is not None
    assert (found.credentials.username, found.credentials.password) == ("alice", "päss")
    assert str(found.credentials) == "the user 'alice' of the Secret 'mlflow'"
    assert found.tls == Tls(insecure=False, server_cert_pem="pem"), "certificates to trust win over trusting anybody"
    assert pod_files(named, secret, {"binaryData": {"ca.crt": base64.b64encode(b"pem").decode()}}) == {
        "digits.AWS_ACCESS_KEY_ID": b"key",
        "digits.MLFLOW_TRACKING_INSECURE_TLS": b"true",
        "digits.MLFLOW_TRACKING_PASSWORD": "päss\n".encode(),
        "digits.MLFLOW_TRACKING_USERNAME": b"alice\n",
        "digits.ca.crt": b"pem",
    }


def test_a_secret_of_the_artifact_store_alone_leaves_the_environments_credentials() -> None:
    assert access(model(secret="s3"), secret_of({"AWS_ACCESS_KEY_ID": "key"}), None) == Access()


def test_half_of_the_credentials_are_not_made_whole_from_elsewhere() -> None:
    found = access(model(secret="half"), secret_of({"MLFLOW_TRACKING_USERNAME": "alice"}), None)
    assert isinstance(found, Access)
    assert found.credentials is not None
    assert found.credentials.headers() == {}


@pytest.mark.parametrize(
    ("named", "secret", "config_map", "says"),
    [
        ({"secret": "mlflow"}, None, None, "The Secret 'mlflow' that spec.model.registry.secretName names is not in"),
        ({"secret": "mlflow"}, secret_of({"token": "s3cr3t"}), None, "It has token."),
        ({"secret": "mlflow"}, {"kind": "Secret"}, None, "It is empty."),
        ({"config_map": "ca"}, None, None, "The ConfigMap 'ca' that spec.model.registry.caConfigMapName names is not"),
        ({"config_map": "ca"}, None, {"data": {"ca.pem": "pem"}}, "has no key 'ca.crt'"),
    ],
)
def test_what_is_missing_is_said(
    named: dict[str, str], secret: dict[str, Any] | None, config_map: dict[str, Any] | None, says: str
) -> None:
    missing = access(model(**named), secret, config_map)
    assert isinstance(missing, CredentialsMissing)
    assert missing.reason == "CredentialsMissing"
    assert says in missing.message
    assert "s3cr3t" not in missing.message


def shown(heads: list[str]) -> set[str]:
    lines = [line for head in heads for line in head.splitlines() if line.lower().startswith("authorization:")]
    return {line.partition(" ")[2] for line in lines} if lines else set()


async def test_each_models_token_is_shown_to_its_own_server_only() -> None:
    async with stand_in(healthy) as home, stand_in(healthy) as abroad:
        resolver = Resolver(default_tracking_uri=home.uri, credentials=Credentials(token="operator"))
        models = {
            "default": model().spec.model,
            "own at home": model().spec.model,
            "own abroad": model(abroad.uri).spec.model,
            "other abroad": model(abroad.uri).spec.model,
            "none abroad": model(abroad.uri).spec.model,
        }
        own = {name: Access(Credentials(token=name.replace(" ", "-"))) for name in models if "o" in name.split()[0]}
        outcomes = await resolver.resolve_all(models, {name: own[name] for name in own if name != "none abroad"})
        assert not any(isinstance(outcome, RegistryError) for outcome in outcomes.values())
        assert shown(home.requests) == {"Bearer operator", "Bearer own-at-home"}
        assert shown(abroad.requests) == {"Bearer own-abroad", "Bearer other-abroad"}
        assert any("authorization" not in head.lower() for head in abroad.requests), "the one that brings none"


@pytest.mark.parametrize("share", [True, False])
async def test_without_a_default_server_the_environments_credentials_go_where_it_was_said(share: bool) -> None:
    async with stand_in(healthy) as server:
        environ = {"MLFLOW_TRACKING_TOKEN": "operator"}
        resolver = Resolver.from_environment(environ, share_credentials=share)
        await resolve(resolver, model(server.uri).spec.model)
        assert shown(server.requests) == ({"Bearer operator"} if share else set())


@pytest.mark.parametrize("insecure", [True, False])
async def test_the_environments_credentials_never_go_to_a_server_that_a_model_alone_trusts(
    tmp_path: Path, insecure: bool
) -> None:
    trusted = authority(tmp_path)
    tls = Tls(insecure=True) if insecure else Tls(server_cert_pem=trusted.pem)
    async with stand_in(healthy, tls=trusted.server) as server:
        resolver = Resolver(default_tracking_uri=server.uri, credentials=Credentials(token="operator"))
        outcomes = await resolver.resolve_all({"m": model().spec.model}, {"m": Access(tls=tls)})
        assert not isinstance(outcomes["m"], RegistryError)
        assert shown(server.requests) == set()
        own = Access(Credentials(token="own"), tls)
        await resolver.resolve_all({"m": model().spec.model}, {"m": own})
        assert shown(server.requests) == {"Bearer own"}


async def test_each_model_trusts_its_own_certificates(tmp_path: Path) -> None:
    right, wrong = authority(tmp_path / "right"), authority(tmp_path / "wrong")
    async with stand_in(healthy, tls=right.server) as server:
        access = {
            "right": Access(tls=Tls(server_cert_pem=f"# größtes Vertrauen\n{right.pem}")),
            "wrong": Access(tls=Tls(server_cert_pem=wrong.pem)),
            "both": Access(tls=Tls(server_cert_pem=wrong.pem + right.pem)),
            "none": Access(),
            "rubbish": Access(tls=Tls(server_cert_pem="rubbish")),
            "empty": Access(tls=Tls(server_cert_pem="")),
        }
        async with Resolver() as resolver:
            outcomes = await resolver.resolve_all({name: model(server.uri).spec.model for name in access}, access)
    told = {name: outcome.reason for name, outcome in outcomes.items() if isinstance(outcome, RegistryError)}
    assert told == {
        "wrong": "RegistryUnreachable",
        "none": "RegistryUnreachable",
        "rubbish": "NotAllowed",
        "empty": "NotAllowed",
    }
    assert "caConfigMapName" in str(outcomes["wrong"])
    assert "caConfigMapName names holds no certificates as PEM" in str(outcomes["rubbish"])


async def test_a_certificate_file_that_is_replaced_counts_at_once(tmp_path: Path) -> None:
    right, wrong = authority(tmp_path / "right"), authority(tmp_path / "wrong")
    file = tmp_path / "ca.pem"
    file.write_text(wrong.pem)
    tls = Tls(server_cert_path=str(file))
    async with (
        stand_in(healthy, tls=right.server) as server,
        Resolver(default_tracking_uri=server.uri, tls=tls) as kept,
    ):
        assert (await fail(kept)).reason == "RegistryUnreachable"
        new = tmp_path / "new.pem"
        new.write_text(right.pem)
        new.rename(file)
        await resolve(kept, model().spec.model)


async def test_a_session_begun_for_one_model_answers_for_no_other() -> None:
    def login(head: str) -> bytes:
        return healthy(head).replace(b"\r\n", b"\r\nSet-Cookie: session=alice; Path=/\r\n", 1)

    async with stand_in(login) as server, Resolver() as resolver:
        await resolver.resolve_all({"a": model(server.uri).spec.model}, {"a": Access(Credentials(token="alice"))})
        await resolver.resolve_all({"b": model(server.uri).spec.model})
        assert len(server.requests) == 3, "what the version is, is known already"
        assert not any("cookie" in head.lower() for head in server.requests)


async def test_a_token_of_a_secret_that_is_refused_is_told_apart_from_the_environments() -> None:
    async with stand_in(lambda _: http("401 No", b"")) as server:
        own = Credentials(token="s3cr3t", origin="the Secret 'mlflow'")
        outcome = (await Resolver().resolve_all({"m": model(server.uri).spec.model}, {"m": Access(own)}))["m"]
    assert isinstance(outcome, RegistryError)
    assert outcome.reason == "NotAllowed"
    assert "refuses the token in MLFLOW_TRACKING_TOKEN of the Secret 'mlflow'" in outcome.message
    assert "s3cr3t" not in outcome.message + repr(own)


async def test_the_operator_looks_at_no_disk_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("")
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        with pytest.raises(RegistryError) as refused:
            await resolve(Resolver(local_files=False), Model(uri=uri))
        assert refused.value.reason == "ArtifactRefused"
        assert "each pod has a disk of its own" in refused.value.message
