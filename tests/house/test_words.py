"""What must not stand in a file that others will read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = (
    "LICENSE",
    "serving/rayfleet_serving/router/static/",
    "serving/rayfleet_serving/protocol/static/",
    "tests/cluster/tools/",
)
"""Texts of others."""

FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.~-])/(work|home(?!/ray\b)|root|Users)/\w",
    "a package index": r"pypi\.org|pythonhosted|index-url|find-links",
    "an unfinished thought": r"\b(TODO|FIXME|XXX)\b",
    "a word that hides what something does": r"\bhelpers?\b",
}


def _texts() -> list[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.split("\0") if name and not name.startswith(FOREIGN) and (ROOT / name).is_file()]
    return [(name, (ROOT / name).read_text(errors="ignore")) for name in files if name != "tests/house/test_words.py"]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_holds(what: str) -> None:
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(FORBIDDEN[what], line)
    ]
    assert not found, "\n".join(found)
