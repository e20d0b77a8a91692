"""Models in local folders: named by content, looked at cheaply."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.files import Files
from rayfleet_serving.digest import tree_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "data").mkdir(parents=True)
    (root / "MLmodel").write_text("flavors: {}")
    (root / "data/weights").write_bytes(b"12345678")
    return root


async def fail(path: Path, within_s: float = 60) -> RegistryError:
    with pytest.raises(RegistryError) as error:
        await Files().resolve(path, within_s)
    return error.value


async def test_a_folder_is_its_content(folder: Path) -> None:
    files = Files()
    before = await files.resolve(folder, 60)
    assert before.digest == tree_digest(folder)
    value = before.digest.removeprefix("sha256:")
    assert (before.model_id, before.version) == (f"sha256-{value}", value[:12])
    assert before.artifact_uri == str(folder)

    (folder / "data/weights").write_bytes(b"12345679")
    after = await files.resolve(folder, 60)
    assert after.model_id != before.model_id
    assert after.digest == tree_digest(folder)


async def test_a_link_is_followed_when_it_moves(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "MLmodel").write_text("flavors: {other: {}}")
    current, files = tmp_path / "current", Files()
    current.symlink_to(folder)
    assert (await files.resolve(current, 60)).artifact_uri == str(folder)
    current.unlink()
    current.symlink_to(other)
    assert (await files.resolve(current, 60)).digest == tree_digest(other)


async def test_unchanged_files_are_not_read_again(folder: Path) -> None:
    """Seen by changing bytes behind the file's back: size, time and inode as they were."""
    files, weights = Files(), folder / "data/weights"
    before = await files.resolve(folder, 60)
    status = weights.stat()
    with weights.open("r+b") as file:
        file.write(b"8")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await files.resolve(folder, 60) == before
    os.utime(weights)
    assert await files.resolve(folder, 60) != before


async def test_a_long_read_is_bounded_and_goes_on(folder: Path) -> None:
    files = Files()
    with (folder / "data/weights").open("wb") as file:
        file.truncate(512 * 1024 * 1024)
    with pytest.raises(RegistryError) as error:
        await files.resolve(folder, 0)
    assert error.value.reason == "VersionNotReady"
    assert "still being read" in error.value.message
    assert (await files.resolve(folder, 120)).version


async def test_what_is_no_model_is_told_apart(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "outside").write_text("")
    leaving = tmp_path / "leaving"
    leaving.mkdir()
    (leaving / "MLmodel").write_text("")
    (tmp_path / "knot").symlink_to("knot")
    (leaving / "link").symlink_to(tmp_path / "outside")
    for path, reason, says in [
        (tmp_path / "missing", "ArtifactNotFound", "must exist on every machine"),
        (tmp_path / "file", "ArtifactNotFound", "is a file. Name the folder"),
        (tmp_path / "empty", "ArtifactNotFound", "no MLmodel file"),
        (tmp_path / "knot", "ArtifactNotFound", "must exist on every machine"),
        (tmp_path, "ArtifactNotFound", "These folders inside it are: leaving, model."),
        (leaving, "ArtifactRefused", f"outside {leaving}"),
    ]:
        error = await fail(path)
        assert error.reason == reason, path
        assert str(path) in error.message
        assert says in error.message


async def test_an_unreadable_file() -> None:
    with as_somebody(), TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "MLmodel").write_text("")
        (folder / "weights").write_text("")
        (folder / "weights").chmod(0)
        error = await fail(folder)
    assert error.reason == "NotAllowed"
    assert str(folder / "weights") in error.message


@contextmanager
def as_somebody() -> Iterator[None]:
    """Root reads everything, and some build machines run tests as root."""
    user = os.geteuid()
    if user != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
