"""What the API server says to every bad case, as a table for people: `python -m envtest.table [FILE]`, in tests/."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from api.cases import CASES, Case
from cluster.control_plane import ControlPlane
from envtest.objects import Objects

CRDS = Path(__file__).parents[2] / "crds"
HEAD = "| field | value | message of the API server |\n| --- | --- | --- |"


def row(case: Case, objects: Objects) -> str:
    """One line of the table."""
    value = json.dumps(case.value, ensure_ascii=False, default=repr)
    shown = value if len(value) <= 80 else f"{value[:77]}..."
    beside = "".join(f", with {path}={value}" for path, value in case.beside.items())
    said = "; ".join(f"{cause.path}: {cause.why}" for cause in objects.try_out(case.obj).causes)
    cells = (f"{case.obj['kind']} `{case.path}`", f"`{shown}`{beside}", said)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "\\n") for cell in cells) + " |"


def table(objects: Objects) -> str:
    """The whole table, and how many cases it stands for."""
    refused = [case for case in CASES if case.refused_at is not None]
    started = time.monotonic()
    rows = [row(case, objects) for case in refused]
    took = time.monotonic() - started
    accepted = sum(objects.try_out(case.obj).accepted for case in CASES if case.refused_at is None)
    return "\n".join([f"{len(refused)} refused in {took:.1f} s, {accepted} accepted.", "", HEAD, *rows, ""])


def main() -> None:
    """Write the table to the file that the first argument names, or to standard output."""
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as control_plane:
        control_plane.kubectl.apply("\n---\n".join(file.read_text() for file in sorted(CRDS.glob("*.yaml"))))
        with control_plane.client() as client:
            text = table(Objects(client))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
