"""What a real MLflow says of a version that is served: archived, deleted, one of several in a stage, logged over."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from registry.asking import ask
from registry.models import Logged, register
from registry.stand_in import http, stand_in

from rayfleet_operator.api.types import Model
from rayfleet_operator.cli.render import render
from rayfleet_operator.plan.conditions import NOTICES
from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import ModelIdentity

LONG_AGO_MS = 1_500_000_000_000


async def told(resolver: Resolver, uri: str) -> dict[str, str]:
    """Messages by reason."""
    _, notices = await ask(resolver, Model.model_construct(uri=uri))
    assert {notice.reason for notice in notices} <= NOTICES
    return {notice.reason: notice.message for notice in notices}


async def version(resolver: Resolver, uri: str) -> str:
    identity, _ = await ask(resolver, Model.model_construct(uri=uri))
    return identity.version


async def fail(resolver: Resolver, uri: str, before: str | None = None) -> RegistryError:
    with pytest.raises(RegistryError) as error:
        await ask(resolver, Model.model_construct(uri=uri), before)
    return error.value


def to_stage(client: MlflowClient, name: str, number: int, stage: str, *, archive: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(name, str(number), stage, archive_existing_versions=archive)


async def test_an_archived_version_means_what_it_meant_and_is_told_of(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "archived", f"models:/{logged.first}")
    client.set_registered_model_alias("archived", "live", "1")
    uris = ("models:/archived/1", "models:/archived@live", "models:/archived/latest")
    before = {uri: await ask(resolver, Model(uri=uri)) for uri in uris}
    assert all(notices == () for _, notices in before.values())
    to_stage(client, "archived", 1, "Archived")
    for uri in uris:
        identity, (notice,) = await ask(resolver, Model(uri=uri))
        assert identity == before[uri][0], uri
        assert notice.reason == "VersionArchived"
        for text in ("Version 1 of 'archived'", "archived", "Point spec.model.uri"):
            assert text in notice.message
    assert await told(resolver, "models:/archived/Archived") == {}, "who asks for archived versions means them"
    to_stage(client, "archived", 1, "None")
    assert await told(resolver, "models:/archived/1") == {}


async def test_a_pinned_version_is_never_moved(client: MlflowClient, resolver: Resolver, logged: Logged) -> None:
    register(client, "pinned", f"models:/{logged.first}", f"models:/{logged.second}")
    pinned = (await ask(resolver, Model(uri="models:/pinned/1")))[0]
    assert pinned == ModelIdentity(
        version="1", model_id=logged.first, artifact_uri=f"mlflow-artifacts:/0/models/{logged.first}/artifacts"
    )
    to_stage(client, "pinned", 1, "Production")
    to_stage(client, "pinned", 2, "Production", archive=True)
    client.set_registered_model_alias("pinned", "champion", "2")
    assert (await ask(resolver, Model(uri="models:/pinned/1")))[0] == pinned
    client.delete_model_version("pinned", "1")
    assert (await fail(resolver, "models:/pinned/1", "1")).reason == "VersionDeleted"


async def test_a_stage_whose_version_was_archived_says_so(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "emptied", f"models:/{logged.first}")
    to_stage(client, "emptied", 1, "Production")
    assert await version(resolver, "models:/emptied/Production") == "1"
    to_stage(client, "emptied", 1, "Archived")
    error = await fail(resolver, "models:/emptied/Production", "1")
    assert error.reason == "StageEmpty"
    assert "no version in stage Production" in error.message
    assert "Version 1, which was in it, is archived now. Move a version to Production" in error.message
    assert "Version 1" not in (await fail(resolver, "models:/emptied/Production")).message
    to_stage(client, "emptied", 1, "Staging")
    assert "is in stage Staging now" in (await fail(resolver, "models:/emptied/Production", "1")).message


async def test_a_deleted_version_is_told_from_one_that_never_was(
    client: MlflowClient, resolver: Resolver, logged: Logged, tmp_path: Path
) -> None:
    register(client, "deleted", f"models:/{logged.first}", f"models:/{logged.second}")
    client.set_registered_model_alias("deleted", "live", "2")
    to_stage(client, "deleted", 2, "Production")
    location = (await ask(resolver, Model(uri="models:/deleted/2")))[0].artifact_uri
    client.delete_model_version("deleted", "2")
    for uri, says in {
        "models:/deleted/2": "point spec.model.uri to another version",
        "models:/deleted@live": "the alias 'live' meant, was deleted",
        "models:/deleted/Production": "was in stage Production, was deleted",
    }.items():
        error = await fail(resolver, uri, "2")
        assert error.reason == "VersionDeleted", uri
        assert "Version 2 of 'deleted'" in error.message
        assert says in error.message
        assert (await fail(resolver, uri)).reason != "VersionDeleted", "nobody knows that there was one"
    # As the message says, the files are there until somebody cleans up.
    assert (Path(mlflow.artifacts.download_artifacts(location, dst_path=str(tmp_path))) / "MLmodel").is_file()


async def test_an_alias_that_was_taken_away_leaves_its_version(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "unnamed", f"models:/{logged.first}")
    client.set_registered_model_alias("unnamed", "live", "1")
    client.delete_registered_model_alias("unnamed", "live")
    error = await fail(resolver, "models:/unnamed@live", "1")
    assert error.reason == "AliasNotFound"
    assert "Version 1, which it meant before, is still there: set the alias again" in error.message


@pytest.mark.parametrize("name", ["crowded", "it's crowded", 'a "crowd"'])
async def test_more_than_one_version_in_a_stage_is_told(
    client: MlflowClient, resolver: Resolver, logged: Logged, name: str
) -> None:
    register(client, name, *[f"models:/{logged.first}"] * 3)
    uri = f"models:/{name}/Production"
    async with resolver:  # which keeps what it knows
        to_stage(client, name, 3, "Production")
        assert await told(resolver, uri) == {}
        to_stage(client, name, 2, "Production")  # without effect, as the newest of the stage is still 3
        assert await version(resolver, uri) == "3"
        message = (await told(resolver, uri))["SeveralInStage"]
        assert f"The stage Production of {name!r} holds 2 versions: 3, 2. It means the highest, 3" in message
        assert "Archive the other one (2)" in message
        assert f"models:/{name}@alias" in message
        assert await told(resolver, f"models:/{name}/3") == {}, "a pinned version shares nothing"
        to_stage(client, name, 2, "Archived")
        assert await told(resolver, uri) == {}
        to_stage(client, name, 2, "Production", archive=True)
        assert (await version(resolver, uri), await told(resolver, uri)) == ("2", {})


async def test_a_name_that_no_filter_can_hold_is_resolved_all_the_same(
    client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    name = "both ' and \""
    register(client, name, *[f"models:/{logged.first}"] * 2)
    for number in (1, 2):
        to_stage(client, name, number, "Production")
    assert await version(resolver, f"models:/{name}/Production") == "2"


@contextmanager
def passed_on(server: MlflowServer, *, but: str = "never") -> Iterator[Any]:
    """A stand-in's reply: what the server answers, except for paths that hold `but`, which meet an error."""

    def reply(head: str) -> bytes:
        path = head.split()[1]
        if but in path:
            return http("500 No", b"")
        try:
            with urllib.request.urlopen(f"{server.uri}{path}") as answer:
                return http("200 OK", answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return http(f"{error.code} No", error.read())

    yield reply


async def test_a_question_costs_one_request_while_nothing_changes(
    client: MlflowClient, server: MlflowServer, logged: Logged
) -> None:
    register(client, "polled", f"models:/{logged.first}", f"models:/{logged.second}")
    client.set_registered_model_alias("polled", "live", "1")
    for number in (1, 2):
        to_stage(client, "polled", number, "Production")
    to_stage(client, "polled", 1, "Archived")
    to_stage(client, "polled", 1, "Production")
    artifacts = f"mlflow-artifacts:/0/{logged.run_id}/artifacts/{logged.artifacts}"
    register(client, "polled artifacts", artifacts)
    uris = ["models:/polled/1", "models:/polled@live", "models:/polled/Production", "models:/polled artifacts/1"]
    with passed_on(server) as reply:
        async with stand_in(reply) as counting, Resolver(default_tracking_uri=counting.uri) as resolver:
            for uri in uris:
                first = await ask(resolver, Model(uri=uri))
                for _ in range(3):
                    counting.requests.clear()
                    assert await ask(resolver, Model(uri=uri)) == first
                    assert len(counting.requests) == 1, uri
            to_stage(client, "polled", 1, "Archived")
            counting.requests.clear()
            assert await told(resolver, "models:/polled/Production") == {}
            assert len(counting.requests) == 2, "what is in the stage is asked for, because something changed"


async def test_an_answer_that_only_tells_is_not_waited_for(
    client: MlflowClient, server: MlflowServer, logged: Logged
) -> None:
    register(client, "quiet", *[f"models:/{logged.first}"] * 2)
    for number in (1, 2):
        to_stage(client, "quiet", number, "Production")
    with passed_on(server, but="model-versions/search") as reply:
        async with stand_in(reply) as counting, Resolver(default_tracking_uri=counting.uri) as resolver:
            for _ in range(2):
                identity, notices = await ask(resolver, Model(uri="models:/quiet/Production"))
                assert (identity.version, notices) == ("2", ())
            assert sum("search" in head for head in counting.requests) == 2, "once, with its one retry"


def ended(client: MlflowClient, run_id: str, at_ms: int | None = None) -> None:
    client.set_terminated(run_id, end_time=at_ms)


async def test_a_run_that_goes_on_is_told(client: MlflowClient, resolver: Resolver, saved: Path) -> None:
    run_id = client.create_run("0").info.run_id
    client.log_artifacts(run_id, str(saved), "old")
    made = client.create_logged_model("0", name="model", source_run_id=run_id)
    client.log_model_artifacts(made.model_id, str(saved))
    client.finalize_logged_model(made.model_id, "READY")
    for path, says in {"model": f"models:/{made.model_id}", "old": "register it"}.items():
        message = (await told(resolver, f"runs:/{run_id}/{path}"))["RunNotEnded"]
        for text in (run_id, "still RUNNING", repr(path), "End the run", says):
            assert text in message
    ended(client, run_id)
    for path in ("model", "old"):
        assert await told(resolver, f"runs:/{run_id}/{path}") == {}


async def test_what_was_logged_to_a_finished_run_is_told(client: MlflowClient, resolver: Resolver, saved: Path) -> None:
    run_id = client.create_run("0").info.run_id
    ended(client, run_id, LONG_AGO_MS)
    client.log_artifacts(run_id, str(saved), "old")
    made = client.create_logged_model("0", name="model", source_run_id=run_id)
    client.log_model_artifacts(made.model_id, str(saved))
    client.finalize_logged_model(made.model_id, "READY")
    for path in ("model", "old"):
        message = (await told(resolver, f"runs:/{run_id}/{path}"))["RunLoggedLate"]
        for text in (run_id, repr(path), "after the run had ended at 2017-07-14 02:40:00 UTC", "in a new run"):
            assert text in message


@pytest.mark.parametrize("by_path", [False, True])
async def test_a_version_whose_files_were_logged_again_is_told(
    client: MlflowClient, resolver: Resolver, saved: Path, tmp_path: Path, by_path: bool
) -> None:
    run_id = client.create_run("0").info.run_id
    client.log_artifacts(run_id, str(saved), "model")
    ended(client, run_id)
    name = f"logged over {by_path}"
    own = f"mlflow-artifacts:/0/{run_id}/artifacts/model"
    register(client, name, f"runs:/{run_id}/model" if by_path else own)
    uri = f"models:/{name}/1"
    before, notices = await ask(resolver, Model(uri=uri))
    assert notices == ()

    lines = [line for line in (saved / "MLmodel").read_text().splitlines() if not line.startswith("utc_time_created")]
    (tmp_path / "MLmodel").write_text("\n".join([*lines, "utc_time_created: '2999-01-02 03:04:05.678901'", ""]))
    client.log_artifacts(run_id, str(tmp_path), "model")
    after, (notice,) = await ask(resolver, Model(uri=uri))
    assert notice.reason == "ArtifactsChanged"
    for text in (f"version 1 of {name!r}", "2999-01-02 03:04:05 UTC", run_id, "in a new run", "a new version"):
        assert text in notice.message
    assert (after == before) == (not by_path)
    assert ("rolled out" in notice.message) == by_path


def test_render_tells_it_beside_the_config(
    client: MlflowClient, server: MlflowServer, logged: Logged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    register(client, "rendered", f"models:/{logged.first}")
    written = {
        "apiVersion": "rayfleet.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits"},
        "spec": {"model": {"uri": "models:/rendered/1"}},
    }
    (tmp_path / "digits.yaml").write_text(json.dumps(written))
    before = CliRunner().invoke(render, [str(tmp_path)])
    assert (before.exit_code, before.stderr) == (0, "")
    to_stage(client, "rendered", 1, "Archived")
    after = CliRunner().invoke(render, [str(tmp_path)])
    assert (after.exit_code, after.stdout) == (0, before.stdout)
    assert after.stderr.startswith("ModelDeployment/digits: VersionArchived: Version 1 of 'rendered' is archived")
