"""Whether there is room on the disk for what .ci/run makes: said at once, and not half an hour later by pip."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

GIB = 2**30
HERE = Path(__file__).parents[1]


def wanted() -> dict[Path, float]:
    """Folders that are written to, with what will be written there in GiB. What is there already is not made again."""
    home = Path.home()
    cache = Path(os.environ.get("RAYFLEET_CLUSTER_CACHE", home / ".cache" / "rayfleet" / "cluster"))
    state = Path(os.environ.get("RAYFLEET_CLUSTER_STATE", "/var/lib/rayfleet-cluster"))
    built = (cache / "bin" / "prometheus").exists()
    return {
        HERE: 2 if (HERE / ".venv" / "dev.installed").exists() else 8,
        cache: 0 if built else 1,
        home: 0 if built else 9,  # Go's caches
        # Images of changed sources lie beside those that running pods have.
        state: 3 if (state / "images.json").exists() else 8,
    }


def shortages() -> list[str]:
    """One sentence for each file system that has too little room."""
    asked: dict[int, tuple[list[Path], float]] = {}
    for folder, size in wanted().items():
        there = next(each for each in (folder, *folder.parents) if each.exists())
        folders, total = asked.get(there.stat().st_dev, ([], 0.0))
        asked[there.stat().st_dev] = ([*folders, there], total + size)
    found = []
    for folders, size in asked.values():
        free = shutil.disk_usage(folders[0]).free / GIB
        if free < size:
            found.append(f"{', '.join(map(str, folders))}: {free:.1f} GiB free, and about {size:g} are needed")
    return found


if __name__ == "__main__":
    if problems := shortages():
        sys.exit("The disk is too full for .ci/run.\n" + "\n".join(problems))
