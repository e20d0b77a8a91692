"""Which live version a request goes to. The versions are stand-ins: real ones hold a handle of Serve."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rayfleet_serving.config import ModelRoute, VersionRoute
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.router.traffic import LiveModel


def a_model(*versions: tuple[str, str, int, bool, bool]) -> LiveModel:
    """Of versions as (application, label, weight, ready, leaving)."""
    rows = [
        VersionRoute(app=app, version=label, model_id="m", weight=weight, leaving=leaving)
        for app, label, weight, _, leaving in versions
    ]
    live: list[Any] = [SimpleNamespace(route=row, ready=given[3]) for row, given in zip(rows, versions, strict=True)]
    return LiveModel("digits", ModelRoute(versions=rows), live)


@pytest.mark.parametrize("old_first", [True, False])
def test_of_two_applications_with_one_version_the_one_with_the_requests_is_meant(old_first: bool) -> None:
    old, new = ("digits-a", "3", 100, True, False), ("digits-b", "3", 0, False, False)
    model = a_model(old, new) if old_first else a_model(new, old)
    assert model.version("3").route.app == "digits-a"


def test_a_version_without_weight_can_be_asked_for() -> None:
    model = a_model(("digits-a", "1", 100, True, False), ("digits-b", "2", 0, True, False))
    assert model.version("2").route.app == "digits-b"


def test_a_version_on_its_way_out_can_not() -> None:
    model = a_model(("digits-a", "1", 0, True, True), ("digits-b", "2", 100, True, False))
    with pytest.raises(RequestError, match="no live version '1'; live: 2") as refused:
        model.version("1")
    assert refused.value.status == 404
