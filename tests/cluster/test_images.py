"""An image is built again when what it is made from has changed, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import images
from cluster.images import Images


def _inputs(folder: Path) -> dict[str, str]:
    return {name: image.inputs for name, image in Images(folder).all.items()}


def test_unchanged_sources_have_unchanged_digests(tmp_path: Path) -> None:
    assert _inputs(tmp_path / "one") == _inputs(tmp_path / "two")


def test_a_change_reaches_what_is_made_from_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _inputs(tmp_path / "before")
    monkeypatch.setattr(images, "EXTRAS", "onnx")
    after = _inputs(tmp_path / "after")
    assert {name for name in before if before[name] != after[name]} == {images.SERVING, images.EXTENDED}


def test_another_base_reaches_all_but_the_one_without_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _inputs(tmp_path / "before")
    monkeypatch.setenv("RAYFLEET_E2E_BASE_IMAGE", "debian:bookworm")
    after = _inputs(tmp_path / "after")
    assert {name for name in before if before[name] == after[name]} == {images.PAUSE}
