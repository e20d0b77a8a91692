"""Entries of the Serve config (`ServeDeploySchema` of Ray 2.60).

Serve ignores keys it does not know, so a test compares these keys with Ray's own schema. Numbers that Ray keeps as
floats are written as floats: Serve then gives back, byte for byte, the entry it was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayfleet_operator.api.fleet import GpuSharing, ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment, ModelDeploymentSpec, Resources
from rayfleet_operator.plan import names, room
from rayfleet_operator.plan.size import Size, of_spec
from rayfleet_serving.config import (
    MODEL_DEPLOYMENT,
    MODEL_IMPORT_PATH,
    POLICY_IMPORT_PATH,
    ROUTER_APP,
    ROUTER_DEPLOYMENT,
    ROUTER_IMPORT_PATH,
    ROUTER_POLICY_IMPORT_PATH,
    Autoscaling,
    Batching,
    ModelArgs,
    ModelIdentity,
    ModelUserConfig,
    RouterArgs,
    TrafficTable,
    stuck_after,
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

METRICS_INTERVAL_S = 1.0
"""How often replicas are asked what they need, and tell it. A running replica keeps the one that it started with."""

LOOK_BACK_S = 5.0
"""How long Serve remembers what it was told: the look-back that counts is the routers' own. A call that waits for a
replica wakes a model that sleeps, and must not do so again once it is answered."""

ROUTERS_UP_S = 10.0
ROUTERS_DOWN_S = 300.0
"""How long routers must be too busy, or idle, before there are more or fewer: one that starts is of use in seconds, and
one that leaves has requests to end and connections that clients keep open."""

MPS_THREADS = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"

SHUTDOWN_GRACE_S = 5.0
"""Beyond the longest request, for its answer to be written. Only an upper bound: an idle replica leaves at once."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of Serve as a whole. They cannot change while Serve runs: Serve only logs a warning."""

    host: str = "0.0.0.0"  # noqa: S104 - HAProxy and readiness probes need every interface
    port: int = 8000
    proxy_location: Literal["EveryNode", "HeadOnly", "Disabled"] = "EveryNode"


def model_app(
    model: ModelDeployment,
    identity: ModelIdentity,
    size: Size | None = None,
    *,
    gpu_sharing: GpuSharing = "TimeSlicing",
) -> dict[str, Any]:
    """The application that runs one version of a model; without a `size` it has what the spec asks for at any time."""
    args = model_args(model, identity)
    options = actor_options(model.spec.resources, gpu_sharing)
    name = names.app_name(model.metadata.name, import_path=MODEL_IMPORT_PATH, args=args, ray_actor_options=options)
    return {
        "name": name,
        "route_prefix": None,
        "import_path": MODEL_IMPORT_PATH,
        "args": args,
        "deployments": [
            {
                "name": MODEL_DEPLOYMENT,
                "ray_actor_options": options,
                **in_place_settings(model.spec),
                **replicas(model.spec, size or of_spec(model.spec)),
            },
        ],
    }


def refreshed(entry: Mapping[str, Any], spec: ModelDeploymentSpec, size: Size | None = None) -> dict[str, Any]:
    """A deployed model app with today's in-place settings and everything that would restart it left as it is: where its
    number of replicas was fixed by an older release, it stays fixed, within the bounds."""
    (deployment,) = entry["deployments"]
    size = size or of_spec(spec)
    kept = {"name": MODEL_DEPLOYMENT, "ray_actor_options": deployment["ray_actor_options"]}
    if follows_load(entry):
        number = replicas(spec, size)
    else:
        number = {"num_replicas": max(1, size.least, min(size.most, int(deployment.get("num_replicas") or 1)))}
    return {**entry, "deployments": [{**kept, **in_place_settings(spec), **number}]}


def resized(entry: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """A deployed model app with other bounds, and nothing else changed; a fixed number moves into them."""
    (deployment,) = entry["deployments"]
    if follows_load(entry):
        bounds = {"min_replicas": size.least, "max_replicas": size.most}
        number: dict[str, Any] = {"autoscaling_config": {**deployment["autoscaling_config"], **bounds}}
    else:
        number = {"num_replicas": max(1, size.least, min(size.most, int(deployment.get("num_replicas") or 1)))}
    return {**entry, "deployments": [{**deployment, **number}]}


def follows_load(entry: Mapping[str, Any]) -> bool:
    """Whether Serve can let an application's number of replicas move without a restart."""
    (deployment,) = entry["deployments"]
    return isinstance(deployment.get("autoscaling_config"), Mapping)


def replicas(spec: ModelDeploymentSpec, size: Size) -> dict[str, Any]:
    """How many replicas. The block is there for a fixed number, too: Serve restarts an application that gets its first,
    or loses it, and changes numbers in place."""
    scaling = spec.autoscaling
    up, down, zero = 0.0, 0.0, 0.0
    if scaling is not None:
        up, down = scaling.upscale_delay_seconds, scaling.downscale_delay_seconds
        # The last replica is needed until the look-back period is without a request. What woke it must be forgotten
        # before it goes.
        zero = max(LOOK_BACK_S, scaling.scale_to_zero_delay_seconds - scaling.look_back_seconds)
    return {
        "autoscaling_config": {
            "min_replicas": size.least,
            "max_replicas": size.most,
            "metrics_interval_s": METRICS_INTERVAL_S,
            "look_back_period_s": LOOK_BACK_S,
            "upscale_delay_s": up,
            "downscale_delay_s": down,
            "downscale_to_zero_delay_s": zero,
            # No kwargs: another threshold would restart every replica.
            "policy": {"policy_function": POLICY_IMPORT_PATH},
        }
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


def actor_options(resources: Resources, gpu_sharing: GpuSharing = "TimeSlicing") -> dict[str, Any]:
    """Resources of one replica. Below one CPU, Ray sets OMP_NUM_THREADS=1 in the replica, which is what is wanted."""
    options: dict[str, Any] = {"num_cpus": resources.cpu_count}
    if resources.memory_bytes is not None:
        options["memory"] = float(resources.memory_bytes)
    if resources.gpu_count:
        options["num_gpus"] = resources.gpu_count
    if gpu_sharing == "MPS" and (variables := mps_variables(resources)):
        options["runtime_env"] = {"env_vars": variables}
    if resources.accelerator is not None:
        options["resources"] = {f"{room.ACCELERATOR}{resources.accelerator}": room.ASKED}
    return options


def shares_by_mps(deployment: Mapping[str, Any]) -> bool:
    """Whether a deployed model app was given its part of a GPU by MPS."""
    environment = deployment["ray_actor_options"].get("runtime_env") or {}
    return MPS_THREADS in (environment.get("env_vars") or {})


def mps_variables(resources: Resources) -> dict[str, str]:
    """What CUDA reads in a process that shares a GPU through MPS (NVIDIA, Multi-Process Service, Appendix: Environment
    Variables): its part of the GPU's threads in percent, and the memory that it can allocate on the first visible GPU.

    Nothing without a GPU, or with whole ones, which nobody else has.
    """
    if not 0 < resources.gpu_count < 1:
        return {}
    variables = {MPS_THREADS: str(max(1, round(100 * resources.gpu_count)))}
    if resources.gpu_memory_bytes is not None:
        mebibytes = max(1, resources.gpu_memory_bytes // 2**20)
        variables["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={mebibytes}M"
    return variables


def in_place_settings(spec: ModelDeploymentSpec) -> dict[str, Any]:
    """Everything of a model's deployment that Serve changes without a restart, but how many replicas there are."""
    batching = Batching(max_batch_size=spec.batching.max_batch_size, max_wait_s=spec.batching.max_wait_seconds)
    bound = stuck_after(spec.limits.request_timeout_seconds)
    return {
        "max_ongoing_requests": NO_LIMIT,
        "user_config": ModelUserConfig(batching=batching, stuck_after_s=bound, autoscaling=goal(spec)).model_dump(
            mode="json"
        ),
        "logging_config": dict(LOGGING),
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": SHUTDOWN_WAIT_LOOP_S,
        "graceful_shutdown_timeout_s": spec.limits.request_timeout_seconds + SHUTDOWN_GRACE_S,
    }


def goal(spec: ModelDeploymentSpec) -> Autoscaling | None:
    """What the replicas decide by how many they must be; None for a fixed number."""
    scaling = spec.autoscaling
    if scaling is None:
        return None
    return Autoscaling(
        target_ongoing_requests=float(scaling.target_ongoing_requests),
        percentile=scaling.latency.percentile if scaling.latency is not None else 99,
        latency_s=scaling.latency.target_seconds if scaling.latency is not None else None,
        upscale_step=scaling.upscale_step,
        downscale_step=scaling.downscale_step,
    )


def router_app(fleet: ModelFleetSpec, table: TrafficTable, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The one application with a route. What follows the models in it is changed in place, never by a restart.

    `given`: its entry as it is deployed. One of an older release, whose number of routers cannot move, is left so as
    long as nobody asks for more: with the block that it lacks, every router would be started anew.
    """
    longest = max((route.limits.request_timeout_s for route in table.models.values()), default=0.0)
    return {
        "name": ROUTER_APP,
        "route_prefix": "/",
        "import_path": ROUTER_IMPORT_PATH,
        "args": RouterArgs().model_dump(mode="json", exclude_defaults=True),
        "deployments": [
            {
                "name": ROUTER_DEPLOYMENT,
                "ray_actor_options": _router_options(fleet),
                **_routers(fleet, given),
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


def _router_options(fleet: ModelFleetSpec) -> dict[str, Any]:
    return _placed({"num_cpus": fleet.routers.cpu_count}, steady=room.steady(fleet))


def _placed(options: Mapping[str, Any], *, steady: bool) -> dict[str, Any]:
    """A machine that is taken away takes the requests with it that its router has."""
    found = {key: value for key, value in options.items() if key != "resources"}
    return found | ({"resources": {room.ON_DEMAND: room.ASKED}} if steady else {})


def with_routers_on(config: Mapping[str, Any], *, steady: bool) -> dict[str, Any]:
    """The config for another cluster than the one it was planned for: `steady` where that one has workers which offer
    `room.ON_DEMAND`. Routers that ask for what no worker offers never start."""
    applications = []
    for entry in config["applications"]:
        if entry["name"] == ROUTER_APP:
            (router,) = entry["deployments"]
            options = _placed(router["ray_actor_options"], steady=steady)
            entry = {**entry, "deployments": [{**router, "ray_actor_options": options}]}
        applications.append(entry)
    return {**config, "applications": applications}


def _routers(fleet: ModelFleetSpec, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """How many routers."""
    if given and fleet.routers.max_replicas is None and not follows_load(given):
        return {"num_replicas": fleet.routers.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": fleet.routers.replicas,
            "max_replicas": fleet.routers.ceiling,
            "metrics_interval_s": METRICS_INTERVAL_S,
            "look_back_period_s": LOOK_BACK_S,
            "upscale_delay_s": ROUTERS_UP_S,
            "downscale_delay_s": ROUTERS_DOWN_S,
            "policy": {"policy_function": ROUTER_POLICY_IMPORT_PATH},
        }
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
