"""From Serve's answer and the routers' reports to what the planner reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from rayfleet_operator.plan import size
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet
from rayfleet_serving.config import ROUTER_APP, ROUTER_DEPLOYMENT, RouterState, TrafficTable


def applications(details: Mapping[str, Any]) -> dict[str, ObservedApp]:
    """Applications in the body of `GET /api/serve/applications/` (`ServeInstanceDetails` of Ray 2.60)."""
    return {name: _application(name, app) for name, app in details["applications"].items()}


def _application(name: str, details: Mapping[str, Any]) -> ObservedApp:
    deployments = details["deployments"].values()
    # An application's own message only names the deployments that failed; theirs hold the tracebacks.
    messages = [details["message"], *(each["message"] for each in deployments if each["status"] != "HEALTHY")]
    running = sum(1 for each in deployments for replica in each["replicas"] if replica["state"] == "RUNNING")
    return ObservedApp(
        name=name,
        status=details["status"],
        message="\n".join(message for message in messages if message),
        # Absent while Serve deletes it, and for an application deployed from Python.
        entry=details.get("deployed_app_config") or {},
        # Before its first replica is placed, an application has no deployments.
        replicas_running=running if deployments else None,
        replicas_target=sum(each["target_num_replicas"] for each in deployments) if deployments else None,
    )


def fleet(
    apps: Mapping[str, ObservedApp], routers: Sequence[RouterState], before: ObservedFleet, now: datetime
) -> ObservedFleet:
    """
    Args:
        apps: from `applications`.
        routers: counts only beside a router app: what another application answers at the same address is not ours.
        before: what was observed last, which tells since when an application has failed; `ObservedFleet()` at first.
        now: the time of this observation.
    """
    apps = {
        name: replace(app, failed_since=_failed_since(app, before.apps.get(name), now)) for name, app in apps.items()
    }
    match apps.get(ROUTER_APP):
        case ObservedApp(entry={"deployments": [{"name": str(name), "user_config": dict(config)}]}) as app if (
            name == ROUTER_DEPLOYMENT
        ):
            target = _routers(app)
            return ObservedFleet(apps=apps, table=_table(config), routers=tuple(routers), router_target=target)
        case _:
            return ObservedFleet(apps=apps)


def _routers(app: ObservedApp) -> int:
    """Routers that there should be. Of those beyond the least that there always are, the ones that run: one more that
    finds no room is not waited for."""
    bounds = size.given(app.entry)
    return max(bounds.least, min(bounds.most, app.replicas_running or 0))


def _failed_since(app: ObservedApp, before: ObservedApp | None, now: datetime) -> datetime | None:
    """Serve tells when it was last given a config, whatever of it changed, and not when an application failed."""
    known = before.failed_since if before is not None else None
    match app.status:
        case "DEPLOY_FAILED":
            return known or now
        case "DEPLOYING":
            # Each new config makes Serve call a failed application DEPLOYING for a moment, without starting anything.
            return known
        case _:
            return None


def _table(config: Mapping[str, Any]) -> TrafficTable | None:
    """None for a table written under another contract: its models keep the versions that run."""
    try:
        return TrafficTable.model_validate(config)
    except ValidationError:
        return None
