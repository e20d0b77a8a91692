"""The digest of a folder of files: the same on every machine for the same bytes under the same names.

Part of the light contract, like `config`: only the standard library is imported, and both packages use it. The control
path names a local model by this digest, the data path compares it after a download and before a load.

The digest is sha256 over, for every file in the order of its path's bytes: the path relative to the root with "/"
between its parts, a NUL, and the 32 bytes of the file's own sha256. No two different trees give the same sequence,
because a path holds no NUL and a digest has one length. Permissions, times and empty folders do not count: object
stores keep none of them.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path


class TreeError(ValueError):
    """A tree that has no digest: missing, no folder, empty, or holding something other than files of its own."""


def file_digest(path: Path) -> bytes:
    """The 32 bytes of sha256 over the file's content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def tree_digest(root: Path, digest_file: Callable[[Path], bytes] = file_digest) -> str:
    """The tree's digest as "sha256:<64 hex digits>".

    Args:
        root: a folder, or a link to one.
        digest_file: gives 32 bytes for a file; a caller that polls a large tree puts a cache in front of `file_digest`.

    Raises:
        TreeError: see there.
        OSError: a folder or file cannot be read.
    """
    whole = hashlib.sha256()
    files = sorted(tree_files(root))
    if not files:
        raise TreeError(f"{root} holds no files.")
    for name, path in files:
        whole.update(name + b"\0" + digest_file(path))
    return f"sha256:{whole.hexdigest()}"


def tree_files(root: Path) -> Iterator[tuple[bytes, Path]]:
    """Every file below `root`: the bytes of its relative path with "/" between the parts, and where to read it.

    A link to a file inside the tree counts as a file of that content. A link that leaves the tree is refused, because
    its target can change, or be missing elsewhere, while the tree looks the same; a link to a folder is refused,
    because it can close a circle.

    Raises:
        TreeError: see there.
        OSError: a folder cannot be read.
    """
    if not root.is_dir():
        raise TreeError(f"{root} is not a folder." if root.exists() else f"{root} does not exist.")
    root = root.resolve()
    for folder, folders, names in os.walk(root, onerror=_refuse):
        for name in folders:
            path = Path(folder, name)
            if path.is_symlink():
                raise TreeError(f"{path} is a link to a folder; put a copy of the folder in its place.")
        for name in names:
            path = Path(folder, name)
            if not path.exists():
                raise TreeError(f"{path} is a link to nothing.")
            target = path.resolve()
            if not target.is_relative_to(root):
                raise TreeError(f"{path} is a link to {target}, outside {root}; put a copy in its place.")
            if not stat.S_ISREG(path.stat().st_mode):
                raise TreeError(f"{path} is not a regular file.")
            yield os.fsencode(path.relative_to(root).as_posix()), path


def _refuse(error: OSError) -> None:
    """os.walk leaves out what it cannot read unless told otherwise, and a digest of a part is worse than none."""
    raise error
