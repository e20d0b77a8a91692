"""Files are followed; a mistake in one never takes away what it said before."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from model_files import write_model

from rayfleet_operator.local.sources import Sources, Wanted, signature

FLEET = """\
apiVersion: rayfleet.io/v1alpha1
kind: ModelFleet
metadata: {{name: {name}}}
spec: {{routers: {{replicas: {replicas}}}}}
"""
MISSPELT = "apiVersion: rayfleet.io/v1alpha1\nkind: ModelDeployment\nmetadata: {name: a}\nspec: {modle: {}}\n"
MODEL = """\
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {name: a, namespace: "%s"}
spec: {model: {uri: /models/1}}
"""


class Followed:
    """Sources that are followed in the background."""

    def __init__(self, *paths: Path, fleet: str | None = None) -> None:
        self.sources = Sources([str(path) for path in paths], fleet)
        self._task = asyncio.ensure_future(self.sources.follow())

    @property
    def wanted(self) -> Wanted:
        return self.sources.wanted

    @property
    def uris(self) -> dict[str, str]:
        return {model.metadata.name: model.spec.model.uri for model in self.wanted.models}

    async def change(self) -> None:
        """Wait for one change."""
        async with asyncio.timeout(20):
            await self.sources.changed.wait()
        self.sources.changed.clear()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.fixture
async def followed(tmp_path: Path) -> AsyncIterator[Followed]:
    write_model(tmp_path, "a", "/models/1")
    write_model(tmp_path, "b", "/models/1")
    followed = Followed(tmp_path)
    assert followed.uris == {"a": "/models/1", "b": "/models/1"}
    yield followed
    await followed.close()


async def test_an_edit_an_addition_and_a_deletion(followed: Followed, tmp_path: Path) -> None:
    write_model(tmp_path, "a", "/models/2")
    await followed.change()
    assert followed.uris == {"a": "/models/2", "b": "/models/1"}

    (tmp_path / "deep").mkdir()
    write_model(tmp_path / "deep", "c", "/models/3")
    await followed.change()
    assert followed.uris == {"a": "/models/2", "b": "/models/1", "c": "/models/3"}

    (tmp_path / "b.yaml").unlink()
    await followed.change()
    assert followed.uris == {"a": "/models/2", "c": "/models/3"}
    assert followed.wanted.problems == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("metadata: {name: [", "a.yaml:1"),
        (MISSPELT, "spec.modle"),
    ],
    ids=["no YAML", "not valid"],
)
async def test_a_mistake_is_shown_and_what_the_file_said_before_holds(
    followed: Followed, tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "a.yaml"
    before = file.read_text()
    file.write_text(text)
    write_model(tmp_path, "b", "/models/2")
    await followed.change()
    assert followed.uris == {"a": "/models/1", "b": "/models/2"}
    assert any(problem in each for each in followed.wanted.problems)

    file.write_text(before)
    await followed.change()
    assert followed.wanted.problems == ()


@pytest.mark.parametrize("name", ["digits\u00a0v1", "digits\x1b[2J"], ids=ascii)
async def test_a_mistake_in_a_file_of_any_name_takes_nothing_away(tmp_path: Path, name: str) -> None:
    file = write_model(tmp_path, "a", "/models/1").rename(tmp_path / f"{name}.yaml")
    followed = Followed(tmp_path)
    file.write_text(MISSPELT)
    await followed.change()
    assert followed.uris == {"a": "/models/1"}
    assert any(problem.startswith(f"{str(file)!r}:4: ") for problem in followed.wanted.problems)
    assert all(map(str.isprintable, followed.wanted.problems))
    await followed.close()


@pytest.mark.parametrize("text", ["", "# nothing\n", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n"])
async def test_a_file_that_says_nothing_any_more_was_not_meant_so(
    followed: Followed, tmp_path: Path, text: str
) -> None:
    """A full disk and a redirection leave it empty; to end a model there is deleting its file."""
    (tmp_path / "a.yaml").write_text(text)
    await followed.change()
    assert followed.uris == {"a": "/models/1", "b": "/models/1"}
    (problem,) = followed.wanted.problems
    assert problem.startswith(f"{tmp_path / 'a.yaml'}: it holds no ModelDeployment")
    (tmp_path / "a.yaml").unlink()
    await followed.change()
    assert followed.uris == {"b": "/models/1"}
    assert followed.wanted.problems == ()


@pytest.mark.parametrize("file", ["Z", "z"])
async def test_a_second_object_of_one_name_does_not_replace_the_first(
    followed: Followed, tmp_path: Path, file: str
) -> None:
    other = write_model(tmp_path, file, "/models/9")
    other.write_text(other.read_text().replace(f"name: {file}", "name: a"))
    await followed.change()
    assert followed.uris == {"a": "/models/1", "b": "/models/1"}
    assert sorted(problem.partition(":")[0] for problem in followed.wanted.problems) == sorted(
        [str(tmp_path / "a.yaml"), str(other)]
    )


async def test_a_name_that_another_file_has_takes_nothing_away(followed: Followed, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    before = file.read_text()
    file.write_text(before.replace("name: a", "name: b"))
    await followed.change()
    assert followed.uris == {"a": "/models/1", "b": "/models/1"}
    assert len(followed.wanted.problems) == 2

    file.write_text(before.replace("name: a", "name: c"))
    await followed.change()
    assert followed.uris == {"c": "/models/1", "b": "/models/1"}
    assert followed.wanted.problems == ()


@pytest.mark.parametrize("file", ["Z", "z"])
async def test_one_name_in_two_namespaces_is_served_once(followed: Followed, tmp_path: Path, file: str) -> None:
    other = write_model(tmp_path, file, "/models/9")
    other.write_text(other.read_text().replace(f"name: {file}", "name: a\n  namespace: other"))
    await followed.change()
    assert followed.uris == {"a": "/models/1", "b": "/models/1"}
    assert "namespaces default and other" in followed.wanted.problems[0]
    write_model(tmp_path, "a", "/models/2")
    await followed.change()
    assert followed.uris == {"a": "/models/2", "b": "/models/1"}


def forbid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-in for a folder without permission: root, who may run this, can read every folder."""
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


async def test_a_folder_that_cannot_be_read_was_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "team").mkdir()
    write_model(tmp_path / "team", "a", "/models/1")
    write_model(tmp_path, "b", "/models/1")
    sources = Sources([str(tmp_path)], None)
    following = asyncio.ensure_future(sources.follow())
    forbid(tmp_path / "team", monkeypatch)
    try:
        await change(sources)
        assert [model.metadata.name for model in sources.wanted.models] == ["b", "a"]
        assert sources.wanted.problems == (f"{tmp_path / 'team'}: this folder cannot be read: Permission denied",)
    finally:
        following.cancel()
        await asyncio.wait([following])


def test_hidden_folders_are_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "a", "/models/1")
    for name in (".venv/lib", "lib"):
        (tmp_path / name).mkdir(parents=True)
        write_model(tmp_path / name, "b", "/models/1")
    paths = [str(tmp_path)]
    before = signature(paths)
    write_model(tmp_path / ".venv/lib", "b", "/models/22")
    assert signature(paths) == before
    with monkeypatch.context() as patch:
        forbid(tmp_path / ".venv", patch)
        assert signature(paths) == before
    write_model(tmp_path / "lib", "b", "/models/22")
    assert signature(paths) != before


async def test_two_fleets_of_one_name_need_names_of_their_own(tmp_path: Path) -> None:
    for space, replicas in (("one", 2), ("two", 9)):
        text = FLEET.format(name="shared", replicas=replicas).replace("{name:", f"{{namespace: {space}, name:")
        (tmp_path / f"{space}.yaml").write_text(text)
    for name in (None, "shared"):
        wanted = Sources([str(tmp_path)], name).wanted
        assert wanted.fleet is None
        assert "there are several ModelFleets" in wanted.problems[0]


async def test_a_folder_that_is_gone_was_not_emptied(followed: Followed, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    await followed.change()
    assert followed.uris == {"a": "/models/1", "b": "/models/1"}
    assert len(followed.wanted.problems) == 1


async def test_a_document_that_moves_to_another_file_is_taken_from_there(followed: Followed, tmp_path: Path) -> None:
    text = (tmp_path / "a.yaml").read_text()
    (tmp_path / "a.yaml").write_text("# it moved\n")
    (tmp_path / "c.yaml").write_text(text.replace("/models/1", "/models/7"))
    await followed.change()
    assert followed.uris == {"a": "/models/7", "b": "/models/1"}
    assert followed.wanted.problems == ()


async def test_a_named_file_that_is_gone_is_a_mistake(tmp_path: Path) -> None:
    """As a named folder is; a checkout of another branch takes both away for a moment."""
    a, b = write_model(tmp_path, "a", "/models/1"), write_model(tmp_path, "b", "/models/1")
    followed = Followed(a, b)
    b.unlink()
    await followed.change()
    assert followed.uris == {"a": "/models/1", "b": "/models/1"}
    assert len(followed.wanted.problems) == 1
    write_model(tmp_path, "b", "/models/2")
    await followed.change()
    assert followed.uris == {"a": "/models/1", "b": "/models/2"}
    assert followed.wanted.problems == ()
    await followed.close()


async def test_a_touched_file_is_no_change(followed: Followed, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    write_model(tmp_path, "c", "/models/1")
    await followed.change()
    assert "c" in followed.uris
    assert not followed.sources.changed.is_set()


async def test_the_fleet_that_is_there_holds_for_all(tmp_path: Path) -> None:
    write_model(tmp_path, "a", "/models/1")
    (tmp_path / "fleet.yaml").write_text(FLEET.format(name="vision", replicas=3))
    wanted = Sources([str(tmp_path)], None).wanted
    assert wanted.fleet is not None
    assert wanted.fleet.spec.routers.replicas == 3
    assert [model.metadata.name for model in wanted.models] == ["a"]


async def test_of_several_fleets_one_is_chosen_with_its_models(tmp_path: Path) -> None:
    write_model(tmp_path, "a", "/models/1", fleet="vision")
    write_model(tmp_path, "b", "/models/1", fleet="text")
    for name in ("vision", "text"):
        (tmp_path / f"{name}-fleet.yaml").write_text(FLEET.format(name=name, replicas=2))
    assert "choose one with --fleet" in Sources([str(tmp_path)], None).wanted.problems[0]
    assert "text, vision" in Sources([str(tmp_path)], "speech").wanted.problems[0]
    wanted = Sources([str(tmp_path)], "text").wanted
    assert wanted.fleet is not None
    assert (wanted.fleet.metadata.name, wanted.problems) == ("text", ())
    assert [model.metadata.name for model in wanted.models] == ["b"]


async def test_a_fleet_too_many_changes_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "a", "/models/1")
    (tmp_path / "one.yaml").write_text(FLEET.format(name="one", replicas=3))
    followed = Followed(tmp_path)
    (tmp_path / "two.yaml").write_text(FLEET.format(name="two", replicas=2))
    await followed.change()
    assert followed.wanted.fleet is not None
    assert (followed.wanted.fleet.metadata.name, list(followed.uris)) == ("one", ["a"])
    assert "choose one with --fleet" in followed.wanted.problems[0]
    await followed.close()


async def change(sources: Sources) -> None:
    async with asyncio.timeout(20):
        await sources.changed.wait()
    sources.changed.clear()


async def test_no_namespace_ends_following(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(MODEL % "vision")
    sources = Sources([str(tmp_path)], None)
    following = asyncio.ensure_future(sources.follow())
    try:
        for wrong in ("a\\tb", "n" * 90):
            file.write_text(MODEL % wrong)
            await change(sources)
            assert [model.metadata.namespace for model in sources.wanted.models] == ["vision"]
            assert "metadata.namespace" in sources.wanted.problems[0]
        file.write_text(MODEL % "text")
        await change(sources)
        assert [model.metadata.namespace for model in sources.wanted.models] == ["text"]
        assert not following.done()
    finally:
        following.cancel()
        await asyncio.wait([following])


async def test_a_look_that_fails_is_shown_and_the_next_one_counts(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MODEL % "vision")
    paths = [str(tmp_path)]
    sources = Sources(paths, None)
    before = sources.wanted
    following = asyncio.ensure_future(sources.follow())
    try:
        paths.append("no file\0can have this name")
        await change(sources)
        assert sources.wanted.models == before.models
        assert sources.wanted.problems == ("looking at the files failed: ValueError: embedded null byte",)
        paths.pop()
        await change(sources)
        assert sources.wanted == before
    finally:
        following.cancel()
        await asyncio.wait([following])
