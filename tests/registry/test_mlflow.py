"""Every form of URI against a real MLflow server, and every way in which one can have no answer."""

from __future__ import annotations

import sqlite3
import warnings
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from registry import asking
from registry.models import Logged, register

from rayfleet_operator.api.types import Model
from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import ModelIdentity


def model(uri: str) -> Model:
    """Without the API's own checks of the URI: what passes them is not this module's affair."""
    return Model.model_construct(uri=uri)


async def resolve(resolver: Resolver, uri: str) -> ModelIdentity:
    return await asking.resolve(resolver, model(uri))


async def fail(resolver: Resolver, uri: str) -> RegistryError:
    with pytest.raises(RegistryError) as error:
        await asking.resolve(resolver, model(uri))
    return error.value


def at(model_id: str) -> str:
    return f"mlflow-artifacts:/0/models/{model_id}/artifacts"


def to_stage(client: MlflowClient, name: str, version: int, stage: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(
            name, str(version), stage, archive_existing_versions=stage in ("Staging", "Production")
        )


async def test_version_alias_stage_latest_and_logged_model(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "forms", f"models:/{logged.first}", f"models:/{logged.second}")
    client.set_registered_model_alias("forms", "champion", "1")
    to_stage(client, "forms", 1, "Production")
    first = ModelIdentity(version="1", model_id=logged.first, artifact_uri=at(logged.first))
    second = ModelIdentity(version="2", model_id=logged.second, artifact_uri=at(logged.second))
    own = ModelIdentity(version=logged.first, model_id=logged.first, artifact_uri=at(logged.first))
    for uri, identity in {
        "models:/forms/1": first,
        "models:/forms@champion": first,
        "models:/forms/Production": first,
        "models:/forms/production": first,
        "models:/forms/None": second,
        "models:/forms/2": second,
        "models:/forms/latest": second,
        f"models:/{logged.first}": own,
        f"runs:/{logged.run_id}/model": own,
    }.items():
        assert await resolve(resolver, uri) == identity, uri


async def test_a_moved_alias_and_a_moved_stage_are_followed(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "moving", f"models:/{logged.first}", f"models:/{logged.second}")
    for version, model_id in [(1, logged.first), (2, logged.second), (1, logged.first)]:
        client.set_registered_model_alias("moving", "live", str(version))
        to_stage(client, "moving", version, "Staging")
        for uri in ("models:/moving@live", "models:/moving/Staging"):
            identity = await resolve(resolver, uri)
            assert (identity.version, identity.model_id) == (str(version), model_id), uri


async def test_latest_is_the_highest_number_in_any_stage(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "many", *[f"models:/{logged.first}"] * 11)
    assert (await resolve(resolver, "models:/many/latest")).version == "11"
    to_stage(client, "many", 11, "Archived")
    assert (await resolve(resolver, "models:/many/latest")).version == "11"
    client.delete_model_version("many", "11")
    assert (await resolve(resolver, "models:/many/latest")).version == "10"


@pytest.mark.parametrize("name", ["with space", "ünï cödé 模型", "a@b", "100%25 ?#&+='\"", "m-" + "a" * 32])
async def test_any_name_that_mlflow_takes(client: MlflowClient, resolver: Resolver, logged: Logged, name: str) -> None:
    register(client, name, f"models:/{logged.first}")
    client.set_registered_model_alias(name, "live", "1")
    for uri in (f"models:/{name}/1", f"models:/{name}@live", f"models:/{name}/latest"):
        assert await resolve(resolver, uri) == ModelIdentity(
            version="1", model_id=logged.first, artifact_uri=at(logged.first)
        )


async def test_a_copied_version_has_the_identity_of_the_model_it_was_copied_from(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "origin", f"models:/{logged.first}")
    register(client, "copy", "models:/origin/1")
    register(client, "copy of copy", "models:/copy/1")
    expected = ModelIdentity(version="1", model_id=logged.first, artifact_uri=at(logged.first))
    assert await resolve(resolver, "models:/copy of copy/1") == expected
    client.delete_registered_model("copy")
    assert await resolve(resolver, "models:/copy of copy/1") == expected


async def test_sources_that_are_no_logged_model_get_a_stable_key(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    among_artifacts = f"mlflow-artifacts:/0/{logged.run_id}/artifacts/{logged.artifacts}"
    sources = ["s3://bucket/net", among_artifacts, f"runs:/{logged.run_id}/{logged.artifacts}", "s3://bucket/net"]
    places = ["s3://bucket/net", among_artifacts, among_artifacts, "s3://bucket/net"]
    register(client, "old style", *sources)
    identities = [await resolve(resolver, f"models:/old style/{number}") for number in (1, 2, 3, 4)]
    assert [identity.version for identity in identities] == ["1", "2", "3", "4"]
    assert [identity.artifact_uri for identity in identities] == places
    keys = [identity.model_id for identity in identities]
    assert all(key.startswith("sha256-") and len(key) == len("sha256-") + 64 for key in keys)
    assert len(set(keys)) == 4
    assert [await resolve(resolver, f"models:/old style/{number}") for number in (1, 2, 3, 4)] == identities


async def test_a_run_s_model_registered_by_its_path_is_that_logged_model(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "by path", f"runs:/{logged.run_id}/better")
    assert await resolve(resolver, "models:/by path/1") == ModelIdentity(
        version="1", model_id=logged.second, artifact_uri=at(logged.second)
    )


async def test_a_model_id_in_a_foreign_path_is_not_believed(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "forged", f"s3://bucket/models/{logged.first}/artifacts", at(logged.first))
    assert (await resolve(resolver, "models:/forged/1")).model_id.startswith("sha256-")
    assert (await resolve(resolver, "models:/forged/2")).model_id == logged.first


async def test_a_number_that_is_registered_again_is_another_version(client: MlflowClient, resolver: Resolver) -> None:
    keys = set()
    for source in ("s3://bucket/one", "s3://bucket/other", "s3://bucket/one"):
        register(client, "again", source)
        keys.add((await resolve(resolver, "models:/again/1")).model_id)
        client.delete_registered_model("again")
    assert len(keys) == 3


async def test_a_run_s_artifacts_are_known_by_their_mlmodel(
    client: MlflowClient, resolver: Resolver, logged: Logged, saved: Path, tmp_path: Path
) -> None:
    uri = f"runs:/{logged.run_id}/{logged.artifacts}"
    before = await resolve(resolver, uri)
    assert before.artifact_uri == f"mlflow-artifacts:/0/{logged.run_id}/artifacts/{logged.artifacts}"
    assert before.model_id == f"sha256-{before.model_id[7:]}"
    assert before.version == before.model_id[7:19]
    assert await resolve(resolver, uri) == before

    text = (saved / "MLmodel").read_text()
    (tmp_path / "MLmodel").write_text(text.replace("model_uuid: ", "model_uuid: 0"))
    client.log_artifacts(logged.run_id, str(tmp_path), logged.artifacts)
    assert (await resolve(resolver, uri)).model_id != before.model_id


async def test_a_run_that_logged_a_name_twice_gives_the_newest(
    client: MlflowClient, resolver: Resolver, saved: Path
) -> None:
    run_id = client.create_run("0").info.run_id
    ids = []
    for _ in range(2):
        made = client.create_logged_model("0", name="epoch", source_run_id=run_id)
        client.log_model_artifacts(made.model_id, str(saved))
        client.finalize_logged_model(made.model_id, "READY")
        ids.append(made.model_id)
        assert (await resolve(resolver, f"runs:/{run_id}/epoch")).model_id == made.model_id
    client.create_logged_model("0", name="epoch", source_run_id=run_id)  # not finished, so not yet the one
    assert (await resolve(resolver, f"runs:/{run_id}/epoch")).model_id == ids[-1]


async def test_what_does_not_exist_is_told_apart(
    client: MlflowClient, resolver: Resolver, server: MlflowServer, logged: Logged
) -> None:
    register(client, "few", f"models:/{logged.first}")
    client.set_registered_model_alias("few", "champion", "1")
    client.create_registered_model("none yet")
    deleted_run = client.create_run("0").info.run_id
    client.delete_run(deleted_run)
    run = logged.run_id
    for uri, reason, *says in [
        ("models:/fewer/1", "ModelNotFound", "no registered model 'fewer'", "It has "),
        ("models:/fewer@champion", "ModelNotFound", "'fewer'"),
        ("models:/fewer/Production", "ModelNotFound", "'fewer'"),
        ("models:/fewer/latest", "ModelNotFound", "'fewer'"),
        ("models:/few/2", "VersionNotFound", "'few'", "no version 2", "1 (None)", "champion (1)"),
        ("models:/none yet/1", "VersionNotFound", "no version 1", "It has no versions"),
        ("models:/none yet/latest", "VersionNotFound", "It has no versions"),
        ("models:/few@challenger", "AliasNotFound", "no alias 'challenger'", "aliases: champion (1)"),
        ("models:/few@Champion", "AliasNotFound", "no alias 'Champion'"),
        ("models:/few/Production", "StageEmpty", "no version in stage Production", "1 (None)"),
        (f"models:/m-{'0' * 32}", "ModelNotFound", f"no logged model m-{'0' * 32}"),
        (f"runs:/{'0' * 32}/model", "RunNotFound", f"no run {'0' * 32}"),
        (f"runs:/{deleted_run}/model", "RunNotFound", "deleted"),
        (f"runs:/{run}/modell", "ArtifactNotFound", "no model at 'modell'", "It has ", "model", "better", "old"),
        (f"runs:/{run}/old", "ArtifactNotFound", "no MLmodel file there"),
        ("models:/few/champion", "InvalidUri", "models:/few@alias"),
    ]:
        error = await fail(resolver, uri)
        assert error.reason == reason, uri
        for text in says:
            assert text in error.message, uri
        assert reason == "InvalidUri" or server.uri in error.message, uri


async def test_a_deleted_version_and_its_alias_are_gone(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "shrinking", f"models:/{logged.first}", f"models:/{logged.second}")
    client.set_registered_model_alias("shrinking", "live", "2")
    client.delete_model_version("shrinking", "2")
    assert (await fail(resolver, "models:/shrinking/2")).reason == "VersionNotFound"
    assert (await fail(resolver, "models:/shrinking@live")).reason == "AliasNotFound"


@pytest.mark.parametrize("status", ["PENDING_REGISTRATION", "FAILED_REGISTRATION"])
async def test_a_version_that_is_not_ready(
    client: MlflowClient, resolver: Resolver, server: MlflowServer, logged: Logged, status: str
) -> None:
    register(client, f"slow {status}", f"models:/{logged.first}")
    with sqlite3.connect(server.database) as database:
        change = "UPDATE model_versions SET status = ?, status_message = 'copying' WHERE name = ?"
        database.execute(change, (status, f"slow {status}"))
    error = await fail(resolver, f"models:/slow {status}/1")
    assert error.reason == "VersionNotReady"
    assert status in error.message
    assert "copying" in error.message


async def test_a_logged_model_that_is_not_ready(client: MlflowClient, resolver: Resolver) -> None:
    made = client.create_logged_model("0", name="uploading")
    error = await fail(resolver, f"models:/{made.model_id}")
    assert (error.reason, "LOGGED_MODEL_PENDING" in error.message) == ("VersionNotReady", True)
    client.finalize_logged_model(made.model_id, "FAILED")
    error = await fail(resolver, f"models:/{made.model_id}")
    assert (error.reason, "LOGGED_MODEL_UPLOAD_FAILED" in error.message) == ("VersionNotReady", True)
