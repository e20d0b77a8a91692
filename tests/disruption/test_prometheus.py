"""A rollout on a real Ray that a real Prometheus decides, and what becomes of it while there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import free_port, mlflow_server
from prometheus_server import Prometheus, prometheus_server

from .ladder import ALSO_GOOD, GOOD, RAISING, Ladder, callers, running

pytestmark = pytest.mark.timeout(600)

COUNTED = 'rayfleet_requests_total{model="{{model}}",version="{{candidate}}"'
FAILED = {
    "minRequests": 20,
    "queries": [
        {
            "name": "errors",
            "max": 0.01,
            "query": f'(sum(increase({COUNTED},code="422"}}[{{{{window}}}}])) or vector(0))'
            f" / sum(increase({COUNTED}}}[{{{{window}}}}]))",
        }
    ],
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus_server(tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{free_port()}") as server:
        yield server


@pytest.fixture(scope="module")
def ladder(prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ladder]:
    folder: Path = tmp_path_factory.mktemp("measured")
    port = int(prometheus.target.rsplit(":", 1)[1])
    with (
        mlflow_server(tmp_path_factory) as registry,
        running(registry, folder, {"RAYFLEET_PROMETHEUS_URL": prometheus.url}, port) as ladder,
    ):
        yield ladder


@pytest.fixture(autouse=True)
async def at_rest(ladder: Ladder) -> None:
    ladder.write_rollout({"strategy": "Immediate"})
    ladder.wants(GOOD)
    await ladder.until("version 1 has everything", lambda: ladder.settled(GOOD))
    ladder.write(analysis=FAILED)


def said(ladder: Ladder) -> str:
    return next((each.message for each in ladder.status.conditions if each.type == "Progressing"), "")


async def test_while_there_is_none_the_rollout_waits_and_then_goes_on(ladder: Ladder, prometheus: Prometheus) -> None:
    prometheus.kill()
    async with callers(ladder, ALSO_GOOD) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("nothing can be concluded", lambda: ladder.reason() == "Inconclusive")
        assert "query errors" in said(ladder)
        assert "Prometheus" in said(ladder)
        asked = len(seen.answers)
        await ladder.until("it still waits under load", lambda: len(seen.answers) > asked + 500)
        assert (ladder.weights, ladder.reason()) == ({GOOD: 90, ALSO_GOOD: 10}, "Inconclusive")
        prometheus.start()
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    print(
        f"\n{len(seen.answers)} requests, {len(seen.failed)} failed, weights {[weight for _, weight in seen.weights]}"
    )
    assert seen.failed == []
    assert [weight for _, weight in seen.weights] == [0, 10, 50, 100]


async def test_what_it_measures_stops_a_bad_version(ladder: Ladder, prometheus: Prometheus) -> None:
    prometheus.kill()
    prometheus.start()
    async with callers(ladder, RAISING) as seen:
        ladder.wants(RAISING)
        await ladder.until("it is given up", lambda: ladder.given_up, 120)
    rollout = ladder.status.rollout
    assert rollout is not None
    print(f"\n{rollout.ended}: {rollout.message}; {len(seen.failed)} of {len(seen.answers)} requests failed")
    assert rollout.ended == "AnalysisFailed"
    assert "query errors: 0." in rollout.message
    assert max(weight for _, weight in seen.weights) <= 50
    assert ladder.status.history[0].outcome == "RolledBack"


async def test_one_that_goes_away_under_way_rolls_nothing_back(ladder: Ladder, prometheus: Prometheus) -> None:
    prometheus.kill()
    prometheus.start()
    async with callers(ladder, ALSO_GOOD) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("half", lambda: ladder.weights.get(ALSO_GOOD) == 50)
        prometheus.kill()
        await ladder.until("nothing can be concluded", lambda: ladder.reason() == "Inconclusive")
        assert ladder.weights == {GOOD: 50, ALSO_GOOD: 50}
        prometheus.start()
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    assert seen.failed == []
    assert [weight for _, weight in seen.weights] == [0, 10, 50, 100]
