"""What the chart makes of names that Helm takes for a release."""

from __future__ import annotations

import pytest
from helm_chart import HelmError, Json, template


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("ml.prod", {}, "ml.prod-rayfleet-operator"),
        ("rayfleet.prod", {}, "rayfleet.prod-operator"),
        ("2ml", {}, "2ml-rayfleet-operator"),
        ("2rayfleet", {}, "2rayfleet-operator"),
        ("ml", {"fullnameOverride": f"{'m' * 48}--models"}, f"{'m' * 48}-"),
    ],
)
def test_a_name_that_objects_cannot_have_is_refused(release: str, values: Json, name: str) -> None:
    with pytest.raises(HelmError) as error:
        template(values, release=release)
    assert "fullnameOverride" in str(error.value)
    assert f'"{name}"' in str(error.value)


@pytest.mark.parametrize("release", ["ml.prod", "2ml"])
def test_such_a_release_may_name_its_objects_otherwise(release: str) -> None:
    for item in template({"fullnameOverride": "ml-prod", "crds": {"enabled": False}}, release=release):
        assert item["metadata"]["name"].startswith("ml-prod")
