"""A tree's digest follows its bytes and names, and nothing else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rayfleet_serving.digest import TreeError, tree_digest

Tree = dict[str, bytes]

# The prefix keeps a file's name from ever being a folder's name.
folders = st.lists(st.sampled_from(["a", "b", "é", "a b"]), max_size=2)
names = st.text(st.sampled_from("abcé .\n-"), min_size=1, max_size=3)
paths = st.builds(lambda parents, name: "/".join([*parents, f"f{name}"]), folders, names)
trees = st.dictionaries(paths, st.binary(max_size=8), min_size=1, max_size=5)


def write(root: Path, tree: Tree) -> Path:
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def digest_of(tree: Tree) -> str:
    with TemporaryDirectory() as folder:
        return tree_digest(write(Path(folder), tree))


def test_the_format_is_fixed(tmp_path: Path) -> None:
    tree = {"b": b"2", "a/c": b"1"}
    sequence = b"".join(name.encode() + b"\0" + hashlib.sha256(tree[name]).digest() for name in ["a/c", "b"])
    assert tree_digest(write(tmp_path, tree)) == f"sha256:{hashlib.sha256(sequence).hexdigest()}"


@settings(deadline=None, max_examples=50)
@given(tree=trees, data=st.data())
def test_order_of_creation_does_not_count(tree: Tree, data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(tree.items()))))
    assert digest_of(shuffled) == digest_of(tree)


@settings(deadline=None, max_examples=50)
@given(one=trees, other=trees)
def test_different_trees_differ(one: Tree, other: Tree) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)


@settings(deadline=None, max_examples=50)
@given(tree=trees, data=st.data())
def test_a_changed_byte_counts(tree: Tree, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(tree)))
    assume(tree[name])
    at = data.draw(st.integers(0, len(tree[name]) - 1))
    changed = bytearray(tree[name])
    changed[at] ^= data.draw(st.integers(1, 255))
    assert digest_of({**tree, name: bytes(changed)}) != digest_of(tree)


@settings(deadline=None, max_examples=50)
@given(tree=trees, new=paths, data=st.data())
def test_an_added_removed_or_renamed_file_counts(tree: Tree, new: str, data: st.DataObject) -> None:
    assume(new not in tree)
    name = data.draw(st.sampled_from(sorted(tree)))
    rest = {other: content for other, content in tree.items() if other != name}
    assert digest_of({**tree, new: b""}) != digest_of(tree)
    assert digest_of({**rest, new: tree[name]}) != digest_of(tree)
    if rest:
        assert digest_of(rest) != digest_of(tree)


def test_a_linked_root_and_a_link_inside_count_as_their_content(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", {"weights": b"1", "copy": b"1"})
    linked = write(tmp_path / "linked", {"weights": b"1"})
    (linked / "copy").symlink_to("weights")
    (tmp_path / "current").symlink_to(linked)
    assert tree_digest(linked) == tree_digest(plain) == tree_digest(tmp_path / "current")


def test_times_modes_and_empty_folders_do_not_count(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"a": b"1"})
    before = tree_digest(root)
    os.utime(root / "a", (0, 0))
    (root / "a").chmod(0o600)
    (root / "empty").mkdir()
    assert tree_digest(root) == before


def test_what_has_no_digest(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"outside": b"1", "plain/a": b"1", "leaving/a": b"1", "dangling/a": b"1", "circle/a": b"1", "knot/a": b"1"},
    )
    (tmp_path / "empty/folder").mkdir(parents=True)
    (tmp_path / "leaving/link").symlink_to(tmp_path / "outside")
    (tmp_path / "dangling/link").symlink_to("nothing")
    (tmp_path / "circle/link").symlink_to(tmp_path / "circle")
    (tmp_path / "knot/link").symlink_to("link")
    (tmp_path / "knotted").symlink_to("knotted")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/fifo")
    for name, says in [
        ("missing", "does not exist"),
        ("outside", "is not a folder"),
        ("empty", "holds no files"),
        ("leaving", f"outside {tmp_path / 'leaving'}"),
        ("dangling", "link to nothing"),
        ("circle", "link to a folder"),
        ("knot", "link to nothing"),
        ("knotted", "does not exist"),
        ("pipe", "not a regular file"),
    ]:
        with pytest.raises(TreeError, match=says):
            tree_digest(tmp_path / name)
    assert tree_digest(tmp_path / "plain")
