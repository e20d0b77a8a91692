"""Entries of the Serve config (`ServeDeploySchema` of Ray 2.60).

Serve ignores keys it does not know, so a test compares these keys with Ray's own schema. Numbers that Ray keeps as
floats are written as floats: Serve then gives back, byte for byte, the entry it was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment, ModelDeploymentSpec, Resources
from rayfleet_operator.plan import names
from rayfleet_serving.config import (
    MODEL_DEPLOYMENT,
    MODEL_IMPORT_PATH,
    ROUTER_APP,
    ROUTER_DEPLOYMENT,
    ROUTER_IMPORT_PATH,
    Batching,
    ModelArgs,
    ModelIdentity,
    ModelUserConfig,
    RouterArgs,
    TrafficTable,
)

NO_LIMIT = 10_000
"""`max_ongoing_requests` where Serve's own limit must never be the one that acts.

Serve's default is 5. In a model app it would count calls, each a batch of requests, and make further calls wait unseen
in the router's handle, beyond deadlines and backpressure; the routers hold the model's real limit. In the router app it
would answer with Serve's own 503 before the router could say 429 and Retry-After.
"""

HEALTH_CHECK_PERIOD_S = 1.0
"""Serve notices a dead process only at its next check (its default period is 10 s), and starts the replacement then."""

HEALTH_CHECK_TIMEOUT_S = 10.0
"""Serve replaces a replica after three checks in a row without an answer: 30 s of a stuck event loop. A dead process is
noticed at once, whatever this says, and a replica that still loads is not checked yet."""

SHUTDOWN_WAIT_LOOP_S = 1.0
"""How long a stopping replica waits for handles to forget it before it looks whether it is idle. Serve's default: 2."""

LOGGING = {"enable_access_log": False, "log_level": "WARNING"}
"""A line for each request costs a tenth of a router; the routers count and time requests as metrics instead.
Without the level, Serve still makes each line and throws it away."""

SHUTDOWN_GRACE_S = 5.0
"""Beyond the longest request, for its answer to be written. Only an upper bound: an idle replica leaves at once."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of Serve as a whole. They cannot change while Serve runs: Serve only logs a warning."""

    host: str = "0.0.0.0"  # noqa: S104 - HAProxy and readiness probes need every interface
    port: int = 8000
    proxy_location: Literal["EveryNode", "HeadOnly", "Disabled"] = "EveryNode"


def model_app(model: ModelDeployment, identity: ModelIdentity) -> dict[str, Any]:
    """The application that runs one version of a model."""
    args = model_args(model, identity)
    options = actor_options(model.spec.resources)
    name = names.app_name(model.metadata.name, import_path=MODEL_IMPORT_PATH, args=args, ray_actor_options=options)
    return {
        "name": name,
        "route_prefix": None,
        "import_path": MODEL_IMPORT_PATH,
        "args": args,
        "deployments": [
            {"name": MODEL_DEPLOYMENT, "ray_actor_options": options, **in_place_settings(model.spec)},
        ],
    }


def refreshed(entry: Mapping[str, Any], spec: ModelDeploymentSpec) -> dict[str, Any]:
    """A deployed model app with today's in-place settings and everything that would restart it left as it is."""
    (deployment,) = entry["deployments"]
    options = deployment["ray_actor_options"]
    return {
        **entry,
        "deployments": [{"name": MODEL_DEPLOYMENT, "ray_actor_options": options, **in_place_settings(spec)}],
    }


def model_args(model: ModelDeployment, identity: ModelIdentity) -> dict[str, Any]:
    """`ModelArgs` as JSON, without defaults: a field added to the contract later must not restart every model."""
    spec = model.spec.model
    # Only mlflow-artifacts: locations are read through the tracking server; for the others its address has no effect.
    proxied = identity.artifact_uri.startswith("mlflow-artifacts:")
    return ModelArgs(
        name=model.metadata.name,
        identity=identity,
        tracking_uri=spec.registry.tracking_uri if proxied else None,
        allow_code_execution=spec.allow_code_execution,
        gpu_memory_bytes=model.spec.resources.gpu_memory_bytes,
        credentials=bool(spec.registry.secret_name or spec.registry.ca_config_map_name),
    ).model_dump(mode="json", exclude_defaults=True)


def actor_options(resources: Resources) -> dict[str, Any]:
    """Resources of one replica. Below one CPU, Ray sets OMP_NUM_THREADS=1 in the replica, which is what is wanted."""
    options: dict[str, Any] = {"num_cpus": resources.cpu_count}
    if resources.memory_bytes is not None:
        options["memory"] = float(resources.memory_bytes)
    if resources.gpu_count:
        options["num_gpus"] = resources.gpu_count
    return options


def in_place_settings(spec: ModelDeploymentSpec) -> dict[str, Any]:
    """Everything of a model's deployment that Serve changes without a restart."""
    batching = Batching(max_batch_size=spec.batching.max_batch_size, max_wait_s=spec.batching.max_wait_seconds)
    return {
        "num_replicas": spec.replicas,
        "max_ongoing_requests": NO_LIMIT,
        "user_config": ModelUserConfig(batching=batching).model_dump(mode="json"),
        "logging_config": dict(LOGGING),
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": SHUTDOWN_WAIT_LOOP_S,
        "graceful_shutdown_timeout_s": spec.limits.request_timeout_seconds + SHUTDOWN_GRACE_S,
    }


def router_app(fleet: ModelFleetSpec, table: TrafficTable) -> dict[str, Any]:
    """The one application with a route. What follows the models in it is changed in place, never by a restart."""
    longest = max((route.limits.request_timeout_s for route in table.models.values()), default=0.0)
    return {
        "name": ROUTER_APP,
        "route_prefix": "/",
        "import_path": ROUTER_IMPORT_PATH,
        "args": RouterArgs().model_dump(mode="json", exclude_defaults=True),
        "deployments": [
            {
                "name": ROUTER_DEPLOYMENT,
                "num_replicas": fleet.routers.replicas,
                "ray_actor_options": {"num_cpus": fleet.routers.cpu_count},
                "max_ongoing_requests": NO_LIMIT,
                "user_config": table.model_dump(mode="json"),
                # A changed CPU request replaces routers; the new ones start before the old ones leave.
                "max_surge_percent": 100,
                "logging_config": dict(LOGGING),
                "health_check_period_s": HEALTH_CHECK_PERIOD_S,
                "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
                "graceful_shutdown_wait_loop_s": SHUTDOWN_WAIT_LOOP_S,
                "graceful_shutdown_timeout_s": longest + SHUTDOWN_GRACE_S,
            }
        ],
    }


def serve_config(applications: Sequence[Mapping[str, Any]], options: ServeOptions) -> dict[str, Any]:
    """The whole config, applications sorted by name."""
    return {
        "proxy_location": options.proxy_location,
        "http_options": {"host": options.host, "port": options.port},
        "applications": sorted((dict(app) for app in applications), key=lambda app: str(app["name"])),
    }


def canonical(config: Mapping[str, Any]) -> bytes:
    """The one way to write a config: JSON, keys sorted, a newline at the end. KubeRay compares bytes."""
    return (json.dumps(config, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()
