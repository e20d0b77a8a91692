"""From Ray's own details and the routers' reports to what the planner reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ray.serve.schema import ServeInstanceDetails

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet
from rayfleet_operator.ray import observe
from rayfleet_serving.config import ModelRoute, RouterState, TrafficTable, VersionRoute

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TABLE = TrafficTable(
    models={"digits": ModelRoute(versions=[VersionRoute(app="digits-1", version="1", model_id="m-1", weight=100)])}
)
ROUTER = serve_config.router_app(ModelFleetSpec.model_validate({"routers": {"replicas": 3}}), TABLE)
STATE = RouterState(replica="r1", table=TABLE.digest(), models={}, versions={})


def app_details(name: str, **changes: Any) -> dict[str, Any]:
    """One `ApplicationDetails`."""
    return {
        "name": name,
        "route_prefix": None,
        "docs_path": None,
        "status": "RUNNING",
        "message": "",
        "last_deployed_time_s": 1772366400.0,
        "source": "declarative",
        "deployed_app_config": {"name": name, "import_path": "a.b:c"},
        "deployments": {},
        "external_scaler_enabled": False,
        **changes,
    }


def deployment_details(*states: str, status: str = "HEALTHY", message: str = "", target: int = 2) -> dict[str, Any]:
    return {
        "name": "model",
        "status": status,
        "status_trigger": "CONFIG_UPDATE_COMPLETED",
        "message": message,
        "deployment_config": {"name": "model"},
        "target_num_replicas": target,
        "required_resources": {"CPU": 1},
        "replicas": [{"replica_id": f"r{n}", "state": state, "start_time_s": 1.0} for n, state in enumerate(states)],
    }


def read(*apps: dict[str, Any]) -> dict[str, ObservedApp]:
    """Through Ray's own schema, as the dashboard answers, so that these details cannot drift from it."""
    empty = ServeInstanceDetails.get_empty_schema_dict()
    details = ServeInstanceDetails.model_validate({**empty, "applications": {app["name"]: app for app in apps}})
    return observe.applications(details._get_user_facing_json_serializable_dict(exclude_unset=True))


def test_serve_without_applications() -> None:
    assert observe.applications(ServeInstanceDetails.get_empty_schema_dict()) == {}


def test_a_running_application() -> None:
    replicas = deployment_details("RUNNING", "STARTING")
    (app,) = read(app_details("a", deployments={"model": replicas})).values()
    assert (app.status, app.message, app.entry) == ("RUNNING", "", {"name": "a", "import_path": "a.b:c"})
    assert (app.replicas_running, app.replicas_target) == (1, 2)


def test_an_application_without_replicas_yet() -> None:
    (app,) = read(app_details("a", status="DEPLOYING")).values()
    assert (app.replicas_running, app.replicas_target) == (None, None)


@pytest.mark.parametrize(
    "change",
    [{"deployed_app_config": None, "status": "DELETING"}, {"source": "imperative", "deployed_app_config": None}],
)
def test_an_application_without_an_entry(change: dict[str, Any]) -> None:
    (app,) = read(app_details("a", **change)).values()
    assert app.entry == {}


def test_a_failure_ends_in_the_replica_s_words() -> None:
    failed = deployment_details(status="DEPLOY_FAILED", message="ValueError: no such file", target=1)
    healthy = deployment_details("RUNNING", message="all is well") | {"name": "other"}
    (app,) = read(
        app_details(
            "a",
            status="DEPLOY_FAILED",
            message="Failed to update the deployments ['model'].",
            deployments={"model": failed, "other": healthy},
        )
    ).values()
    assert app.message == "Failed to update the deployments ['model'].\nValueError: no such file"


def test_a_failure_is_as_old_as_when_it_was_first_seen() -> None:
    seen, before = [], ObservedFleet()
    for step, status in enumerate(["DEPLOYING", "DEPLOY_FAILED", "DEPLOYING", "DEPLOY_FAILED", "RUNNING", "DEPLOYING"]):
        before = observe.fleet({"a": ObservedApp(name="a", status=status)}, [], before, NOW + timedelta(seconds=step))
        since = before.apps["a"].failed_since
        seen.append(None if since is None else (since - NOW).seconds)
    # Serve calls a failed application DEPLOYING for a moment whenever it gets a config.
    assert seen == [None, 1, 1, 1, None, None]


def test_a_fleet_with_its_routers() -> None:
    fleet = observe.fleet(
        {"router": ObservedApp(name="router", status="RUNNING", entry=ROUTER)}, [STATE], ObservedFleet(), NOW
    )
    assert (fleet.table, fleet.router_target, fleet.routers) == (TABLE, 3, (STATE,))


@pytest.mark.parametrize(("running", "target"), [(None, 2), (1, 2), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_of_routers_whose_number_moves_those_that_run_are_waited_for(running: int | None, target: int) -> None:
    entry = serve_config.router_app(
        ModelFleetSpec.model_validate({"routers": {"replicas": 2, "maxReplicas": 4}}), TABLE
    )
    app = ObservedApp(name="router", status="RUNNING", entry=entry, replicas_running=running, replicas_target=4)
    assert observe.fleet({"router": app}, [STATE], ObservedFleet(), NOW).router_target == target


def test_a_fleet_without_a_router_app_has_no_routers_either() -> None:
    fleet = observe.fleet({}, [STATE], ObservedFleet(), NOW)
    assert (fleet.table, fleet.router_target, fleet.routers) == (None, 0, ())


def test_a_table_of_another_contract_is_no_table() -> None:
    (deployment,) = ROUTER["deployments"]
    changed = {**ROUTER, "deployments": [{**deployment, "user_config": {"models": {}, "shards": 4}}]}
    fleet = observe.fleet(
        {"router": ObservedApp(name="router", status="RUNNING", entry=changed)}, [STATE], ObservedFleet(), NOW
    )
    assert fleet.table is None
    assert fleet.router_target == 3
