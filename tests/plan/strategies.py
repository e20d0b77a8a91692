"""Hypothesis strategies for any legal fleet, model, resolution and observed state."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from rayfleet_operator.api.fleet import ModelFleet, ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import serve_config, traffic
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet, Resolution, ResolutionProblem
from rayfleet_serving.config import (
    ROUTER_APP,
    ModelIdentity,
    RouterState,
    RouterVersionState,
    TrafficTable,
    VersionRoute,
)

from .scenes import NOW

STATUSES = ("NOT_STARTED", "DEPLOYING", "RUNNING", "DEPLOY_FAILED", "UNHEALTHY", "DELETING")

names = st.one_of(
    st.sampled_from(["a", "b", "a-b", "router", "model", "default", "z0", "x" * 40]),
    st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True),
)

_resources: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({}, optional={"cpu": st.sampled_from(["1", "0.5", "500m", "0.0001", "16"])}),
    st.fixed_dictionaries(
        {"gpu": st.sampled_from(["0.33", "1", "2", "250m"])},
        optional={"gpuMemory": st.sampled_from(["6Gi", "512Mi"]), "memory": st.sampled_from(["4Gi", "1G", "1.5Gi"])},
    ),
)
_batching = st.fixed_dictionaries(
    {}, optional={"maxBatchSize": st.integers(1, 4096), "maxWait": st.sampled_from(["0s", "5ms", "1s", "1.5ms"])}
)
_limits = st.fixed_dictionaries(
    {},
    optional={
        "maxOngoingRequests": st.integers(1, 100_000),
        "maxQueuedRequests": st.integers(0, 100_000),
        "requestTimeout": st.sampled_from(["1ms", "30s", "1h", "1m30s"]),
        "maxRequestBytes": st.sampled_from(["1Ki", "16Mi", "1Gi", "0.5Gi"]),
    },
)
_transform = st.fixed_dictionaries(
    {},
    optional={
        "input": st.just({"image": {"resize": [28, 32], "mode": "L", "mean": [0.1], "std": [0.3]}}),
        "output": st.just({"classification": {"labels": ["ein", "zwölf", "\u4e09"], "topK": 2}}),
    },
)
_scalings = st.fixed_dictionaries(
    {"minReplicas": st.integers(0, 3), "maxReplicas": st.integers(4, 1000)},
    optional={
        "latency": st.just({"target": "1ms"}),
        "lookBackPeriod": st.sampled_from(["1s", "10m"]),
        "upscaleDelay": st.sampled_from(["0s", "30s"]),
        "downscaleStep": st.integers(1, 3),
    },
)


def _one_of_both(spec: dict[str, Any]) -> dict[str, Any]:
    """A number of replicas, or bounds; and no longer than requests may take at all."""
    if spec.get("limits", {}).get("requestTimeout") == "1ms":
        spec = {key: each for key, each in spec.items() if key != "limits"}
    return {key: each for key, each in spec.items() if key != "replicas" or "autoscaling" not in spec}


specs = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"uri": st.sampled_from(["models:/M@live", "models:/M/3"])},
            optional={
                "allowCodeExecution": st.booleans(),
                "registry": st.just({"trackingUri": "http://mlflow.ml:5000"}),
            },
        )
    },
    optional={
        "replicas": st.integers(1, 1000),
        "autoscaling": _scalings,
        "resources": _resources,
        "batching": _batching,
        "limits": _limits,
        "transform": _transform,
    },
).map(_one_of_both)


def deployment(name: str, spec: dict[str, Any]) -> ModelDeployment:
    return ModelDeployment.model_validate({"metadata": {"name": name}, "spec": spec})


models = st.lists(st.tuples(names, specs), max_size=4, unique_by=lambda pair: pair[0]).map(
    lambda pairs: [deployment(name, spec) for name, spec in pairs]
)

fleets = st.one_of(
    st.none(),
    st.builds(
        lambda replicas, cpu: ModelFleet.model_validate(
            {"metadata": {"name": "shared"}, "spec": {"routers": {"replicas": replicas, "cpu": cpu}}}
        ),
        st.integers(2, 5),
        st.sampled_from(["1", "500m"]),
    ),
)

identities = st.builds(
    lambda number, where, digest: ModelIdentity(
        version=str(number),
        model_id=f"m-{number:032x}",
        artifact_uri=f"{where}/{number}/artifacts",
        digest="sha256:" + "0" * 64 if digest else None,
    ),
    st.integers(1, 6),
    st.sampled_from(["mlflow-artifacts:/1/models", "s3://bucket/models", "/models"]),
    st.booleans(),
)

resolutions: st.SearchStrategy[Resolution] = st.one_of(
    identities, st.just(ResolutionProblem("RegistryUnreachable", "silence"))
)


@st.composite
def observed_fleets(draw: st.DrawFn, of: list[ModelDeployment]) -> ObservedFleet:
    """Anything that Serve and routers might report about some of `of` and about models deleted since."""
    apps: dict[str, ObservedApp] = {}
    routes = {}
    gone = [deployment(name, spec) for name, spec in draw(st.lists(st.tuples(names, specs), max_size=1))]
    for model in {one.metadata.name: one for one in [*gone, *of]}.values():
        rows = []
        # A version may have been given under an older spec of its model.
        older = deployment(model.metadata.name, draw(specs)) if draw(st.booleans()) else model
        for identity in draw(st.lists(identities, max_size=3)):
            entry = serve_config.model_app(older, identity)
            if entry["name"] in apps:
                continue
            status = draw(st.sampled_from(STATUSES))
            kept = status != "DELETING" or draw(st.booleans())
            apps[entry["name"]] = ObservedApp(
                name=entry["name"],
                status=status,
                message=draw(st.sampled_from(["", 'Traceback\n  File "a.py", line 1\n    x\nValueError: no'])),
                entry=entry if kept else {},
                failed_since=NOW if status == "DEPLOY_FAILED" else None,
            )
            if draw(st.booleans()):
                rows.append((entry["name"], identity))
        if rows:
            heavy = draw(st.integers(0, len(rows) - 1))
            routes[model.metadata.name] = traffic.route(
                older.spec,
                [
                    VersionRoute(
                        app=app,
                        version=identity.version,
                        model_id=identity.model_id,
                        weight=100 if number == heavy else 0,
                    )
                    for number, (app, identity) in enumerate(rows)
                ],
            )
    expected = draw(st.integers(2, 3))
    table = TrafficTable(models=routes, routers=expected)
    if not draw(st.integers(0, 4)):
        return ObservedFleet(apps=apps)
    spec = ModelFleetSpec.model_validate({"routers": {"replicas": expected}})
    apps[ROUTER_APP] = ObservedApp(
        name=ROUTER_APP,
        status=draw(st.sampled_from(STATUSES)),
        entry=serve_config.router_app(spec, table),
    )
    states = st.builds(
        lambda ready, ongoing: RouterVersionState(ready=ready, ongoing=ongoing, queued=0),
        st.booleans(),
        st.integers(0, 1),
    )
    held = {"table": table.digest(), "models": {name: route.digest() for name, route in table.models.items()}}
    routers = tuple(
        RouterState(
            replica=f"r{number}",
            **draw(st.sampled_from([held, held, {"table": "", "models": {}}])),
            versions={app: draw(states) for app in apps if app != ROUTER_APP},
        )
        for number in range(draw(st.integers(0, 4)))
    )
    return ObservedFleet(apps=apps, table=table, routers=routers, router_target=expected)
