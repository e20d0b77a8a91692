"""Files that `rayfleet up` reads and writes: nothing about them ends it, and nothing piles up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from rayfleet_operator.local.sources import Sources

MODEL = """\
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {name: a, namespace: "%s"}
spec: {model: {uri: /models/1}}
"""

FULL_DISK = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from rayfleet_operator.local.state import Slot, Status, Up
now = datetime.now(UTC)
up = Up(pid=1, url="u", dashboard="d", token_path=None, session=None, folder=None, started=now,
        status=Status(updated=now))
with Slot(Path(sys.argv[1]), "127.0.0.1", 8000) as slot:
    slot.write(up)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for _ in range(3):
        try:
            slot.write(up)
        except OSError:
            print(*sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


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


def test_a_full_disk_is_not_filled_with_what_could_not_be_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, check=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["127.0.0.1_8000.json 127.0.0.1_8000.lock"] * 3
