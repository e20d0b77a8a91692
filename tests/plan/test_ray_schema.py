"""Ray itself reads what the planner writes: nothing refused, nothing ignored, nothing changed on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.fleet import plan

from .scenes import NOW, OPTIONS
from .test_properties import situations

FREE = {"args", "user_config"}
"""Whatever these hold is ours, and read by types that refuse unknown keys."""

FORMS: dict[str, type[BaseModel]] = {
    "": ServeDeploySchema,
    "http_options": HTTPOptionsSchema,
    "applications": ServeApplicationSchema,
    "deployments": DeploymentSchema,
    "ray_actor_options": RayActorOptionsSchema,
    "logging_config": LoggingConfig,
    "autoscaling_config": AutoscalingConfig,
    "policy": AutoscalingPolicy,
}


def unknown_keys(value: Mapping[str, Any], form: str = "") -> Iterator[str]:
    """Keys that Ray's schema does not have; Ray would ignore them."""
    for key, inner in value.items():
        if key not in FORMS[form].model_fields:
            yield f"{form}.{key}"
        for one in inner if isinstance(inner, list) else [inner]:
            if isinstance(one, Mapping) and key not in FREE:
                yield from unknown_keys(one, key)


@given(situations())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ray_takes_every_config_whole_and_gives_it_back_unchanged(situation: dict[str, Any]) -> None:
    planned = plan(**situation, serve_options=OPTIONS, now=NOW)
    written = serve_config.canonical(planned.config)

    read = ServeDeploySchema.model_validate_json(written)

    assert list(unknown_keys(planned.config)) == []
    # What Serve keeps of an application, and shows in `deployed_app_config`.
    shown = [
        ServeApplicationSchema.model_validate(app.model_dump(exclude_unset=True)).model_dump(exclude_unset=True)
        for app in read.applications
    ]
    assert json.dumps(shown, sort_keys=True) == json.dumps(planned.config["applications"], sort_keys=True)


def test_an_unknown_key_would_be_seen() -> None:
    assert list(unknown_keys({"applications": [{"deployments": [{"num_replica": 1}]}]})) == ["deployments.num_replica"]


@pytest.mark.parametrize("location", ["EveryNode", "HeadOnly", "Disabled"])
def test_serve_options_are_taken(location: Any) -> None:
    options = serve_config.ServeOptions(host="127.0.0.1", port=8123, proxy_location=location)
    read = ServeDeploySchema.model_validate(serve_config.serve_config([], options))
    assert (read.http_options.host, read.http_options.port) == ("127.0.0.1", 8123)
    assert read.proxy_location == location
