"""Programs that take minutes to build are built before any test's time runs, and no test is about how fast this machine
is."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.binaries import GROUPS, build
from hypothesis import HealthCheck, settings

# Whether inputs are slow to make says more of what else the machine does than of the test.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

HERE = Path(__file__).parent
NEEDED = {
    "cluster": GROUPS["tests"],
    "envtest": GROUPS["tests"],
    "packaging": ("kubectl", "helm"),
    "e2e": ("kubectl", "helm"),
}
"""By each folder of tests; a cluster for e2e builds its own."""


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly:
        folders = {item.path.relative_to(HERE).parts[0] for item in session.items if item.path.is_relative_to(HERE)}
        build(name for folder in sorted(folders) for name in NEEDED.get(folder, ()))
