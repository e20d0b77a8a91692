"""Versions that arrive by stages on a real Ray, good and bad ones, and what callers see. `-s` shows the figures."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from mlflow_server import mlflow_server
from scipy.stats import binomtest

from .ladder import ALSO_GOOD, BROKEN, CRASHING, GOOD, ONE_CLASS, RAISING, ROLLOUT, SLOW, Ladder, callers, running

pytestmark = pytest.mark.timeout(600)

USERS = 200


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ladder]:
    with (
        mlflow_server(tmp_path_factory) as registry,
        running(registry, tmp_path_factory.mktemp("rollouts")) as ladder,
    ):
        yield ladder


@pytest.fixture(autouse=True)
async def at_rest(ladder: Ladder) -> None:
    """Each test begins with the first version alone, and with the file as it was."""
    ladder.write_rollout({"strategy": "Immediate"})
    ladder.wants(GOOD)
    await ladder.until("version 1 has everything", lambda: ladder.settled(GOOD))
    ladder.write()


async def test_a_good_version_gets_its_share_at_each_step_and_then_everything(ladder: Ladder) -> None:
    async with callers(ladder, ALSO_GOOD, users=100_000) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    print(f"\n{len(seen.answers)} requests, weights {[weight for _, weight in seen.weights]}")
    assert seen.failed == []
    assert [weight for _, weight in seen.weights] == [0, 10, 50, 100]
    for weight in (10, 50):
        answered = seen.during(weight)
        new = answered.count(ALSO_GOOD)
        found = binomtest(new, len(answered), weight / 100)
        low, high = found.proportion_ci(0.99)
        print(f"weight {weight}: {new} of {len(answered)} by the candidate; 99 % interval {low:.3f} to {high:.3f}")
        assert len(answered) > 60
        # The interval above misses one right split in a hundred, this one in ten thousand.
        assert found.pvalue > 1e-4
    assert ladder.status.history[0].outcome == "Succeeded"
    assert ladder.status.history[0].version == ALSO_GOOD


async def test_no_user_goes_back_while_weights_grow(ladder: Ladder) -> None:
    async with callers(ladder, ALSO_GOOD, users=60) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    by_user: dict[str, list[str]] = {}
    for _, version, status, user in sorted(seen.answers):
        assert status == 200
        by_user.setdefault(user, []).append(version)
    back = [user for user, found in by_user.items() if GOOD in found[found.index(ALSO_GOOD) :]]
    changes = Counter(sum(a != b for a, b in itertools.pairwise(found)) for found in by_user.values())
    print(f"\n{len(by_user)} users, by how often they changed versions {dict(changes)}")
    # Two routers take a new table a moment after each other, which is shorter than between two requests of a user.
    assert back == []
    assert set(changes) == {1}


@pytest.mark.parametrize(
    ("version", "ended", "step"),
    [
        pytest.param(RAISING, "AnalysisFailed", 50, id="raises on one request in twenty"),
        pytest.param(SLOW, "AnalysisFailed", 10, id="three times slower"),
        pytest.param(ONE_CLASS, "AnalysisFailed", 10, id="predicts one class"),
        pytest.param(BROKEN, "ProgressDeadlineExceeded", 0, id="never loads"),
        pytest.param(CRASHING, "", 10, id="crashes under load"),
    ],
)
async def test_a_bad_version_is_stopped_where_it_can_be_seen(
    ladder: Ladder, version: str, ended: str, step: int
) -> None:
    if version == BROKEN:
        ladder.write(progressDeadline="20s")
    async with callers(ladder, version, users=USERS) as seen:
        ladder.wants(version)
        await ladder.until("it is given up", lambda: ladder.given_up, 120)
        asked = len(seen.answers)
        await ladder.until("requests go on", lambda: len(seen.answers) > asked + 100)
    last = max((at for at, answered, _, _ in seen.answers if answered == version), default=0.0)
    over = next((at for at, weight in reversed(seen.weights) if weight == 0), 0.0)
    hit = {user for _, answered, status, user in seen.answers if answered == version or status != 200}
    most = max(weight for _, weight in seen.weights)
    rollout = ladder.status.rollout
    assert rollout is not None
    print(
        f"\n{rollout.ended}: {rollout.message}; weights {[weight for _, weight in seen.weights]}, "
        f"{len(seen.failed)} of {len(seen.answers)} requests failed, it met {len(hit)} of {USERS} users, "
        + (f"the last one {last - over:+.1f} s after it had no weight" if last else "it never had a request")
    )
    assert rollout.ended == ended or not ended
    assert most <= step
    # Whose users are whose is hashed: a share this much larger comes by chance once in a hundred thousand times.
    assert binomtest(len(hit), USERS, most / 100, "greater").pvalue > 1e-5
    assert last < over + 10
    assert {answered for at, answered, _, _ in seen.answers if at > over + 1} <= {GOOD}
    assert all(answered in (version, "") for _, answered, _, _ in seen.failed), "only its own users were hit"
    assert ladder.reason("Degraded") == "RolledBack"
    assert ladder.status.history[0].outcome == "RolledBack"
    assert ladder.reason("Ready") == "Serving"


async def test_without_requests_it_waits_and_goes_on_when_they_come(ladder: Ladder) -> None:
    ladder.wants(ALSO_GOOD)
    await ladder.until("nothing can be concluded", lambda: ladder.reason() == "Inconclusive")
    assert ladder.weights == {GOOD: 90, ALSO_GOOD: 10}
    assert "at least 20 requests" in ladder.say("status")
    async with callers(ladder, ALSO_GOOD) as seen:
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    assert seen.failed == []


async def test_somebody_decides(ladder: Ladder) -> None:
    """Pause, promote, abort, retry: what a terminal says holds."""
    ladder.write(analysis=None, steps=[{"weight": 10}, {"weight": 50}])
    ladder.wants(ALSO_GOOD)
    await ladder.until("it waits for somebody", lambda: ladder.reason() == "Paused" and ladder.weights[ALSO_GOOD] == 10)
    ladder.say("promote")
    await ladder.until("it waits again", lambda: ladder.reason() == "Paused" and ladder.weights[ALSO_GOOD] == 50)
    ladder.say("abort")
    await ladder.until("it is given up", lambda: ladder.given_up == "Aborted")
    assert ladder.weights == {GOOD: 100}
    ladder.say("retry")
    await ladder.until("it begins anew", lambda: ladder.reason() == "Paused" and ladder.weights.get(ALSO_GOOD) == 10)
    ladder.say("promote", "--all")
    await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    told = ladder.say("history").splitlines()
    assert ["Succeeded" in told[0], "Aborted" in told[1]] == [True, True]
    ladder.say("rollback")
    await ladder.until("version 1 has everything again", lambda: ladder.settled(GOOD))
    ladder.say("retry")
    await ladder.until("it begins anew", lambda: ladder.reason() == "Paused" and ladder.weights.get(ALSO_GOOD) == 10)
    ladder.say("rollback")
    await ladder.until("it is given up", lambda: ladder.given_up == "Aborted")
    assert ladder.weights == {GOOD: 100}


async def test_blue_green_can_be_tried_out_before_it_has_any_request(ladder: Ladder) -> None:
    ladder.write(strategy="BlueGreen", steps=[], sticky=None, analysis=None)
    ladder.wants(ALSO_GOOD)
    await ladder.until("it waits for somebody", lambda: ladder.reason() == "Paused")
    assert ladder.weights == {GOOD: 100, ALSO_GOOD: 0}
    async with callers(ladder, ALSO_GOOD) as seen:
        async with httpx.AsyncClient(base_url=ladder.up.url, trust_env=False) as client:
            body, named = {"instances": [[1.0, 2.0]]}, {"x-rayfleet-model-version": ALSO_GOOD}
            answer = await client.post("/ladder/predict", json=body, headers=named)
        assert (answer.status_code, answer.headers["x-rayfleet-model-version"]) == (200, ALSO_GOOD)
        ladder.say("promote")
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    assert seen.failed == []
    assert [weight for _, weight in seen.weights] == [0, 100]


async def test_going_back_under_way_takes_no_time(ladder: Ladder) -> None:
    ladder.write(analysis=None, steps=[{"weight": 50}])
    async with callers(ladder, ALSO_GOOD) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("half", lambda: ladder.weights.get(ALSO_GOOD) == 50 and ladder.reason() == "Paused")
        ladder.wants(GOOD)
        await ladder.until("version 1 has everything", lambda: ladder.settled(GOOD))
    assert seen.failed == []
    assert ladder.status.history[0].outcome == "Superseded"
    assert ladder.status.rollout is None


async def test_one_bad_version_after_another_and_then_a_good_one(ladder: Ladder) -> None:
    async with callers(ladder, ALSO_GOOD) as seen:
        for bad in (ONE_CLASS, SLOW):
            ladder.wants(bad)
            await ladder.until(
                f"version {bad} is given up", lambda bad=bad: ladder.outcomes()[:1] == [(bad, "RolledBack")]
            )
        ladder.wants(ALSO_GOOD)
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    assert seen.failed == []
    assert ladder.outcomes()[:3] == [(ALSO_GOOD, "Succeeded"), (SLOW, "RolledBack"), (ONE_CLASS, "RolledBack")]


async def test_another_bad_version_while_one_is_on_its_way(ladder: Ladder) -> None:
    ladder.write(analysis=None, steps=[{"weight": 10}])
    async with callers(ladder, ONE_CLASS) as seen:
        ladder.wants(ONE_CLASS)
        await ladder.until("it has its share", lambda: ladder.weights.get(ONE_CLASS) == 10)
        ladder.write()
        ladder.wants(SLOW)
        await ladder.until("it is given up", lambda: ladder.outcomes()[:1] == [(SLOW, "RolledBack")])
    assert seen.failed == []
    assert ladder.outcomes()[1] == (ONE_CLASS, "Superseded")
    assert ladder.weights.get(GOOD) == 100


async def test_a_spec_that_is_wrong_under_way_changes_nothing_until_it_is_mended(ladder: Ladder) -> None:
    ladder.write(analysis=None, steps=[{"weight": 10}])
    async with callers(ladder, ALSO_GOOD) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("it waits for somebody", lambda: ladder.reason() == "Paused")
        ladder.write(analysis=None, steps=[{"weight": 500}])
        await ladder.until(
            "it is told", lambda: any("spec.rollout.steps[0].weight" in each for each in ladder.problems())
        )
        asked = len(seen.answers)
        await ladder.until("requests go on", lambda: len(seen.answers) > asked + 100)
        assert (ladder.weights, ladder.reason()) == ({GOOD: 90, ALSO_GOOD: 10}, "Paused")
        ladder.write(analysis=None, steps=[{"weight": 10}, {"weight": 60}])
        await ladder.until("it is mended", lambda: ladder.problems() == [])
        ladder.say("promote")
        await ladder.until("the new step", lambda: ladder.weights.get(ALSO_GOOD) == 60 and ladder.reason() == "Paused")
        ladder.say("promote", "--all")
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    assert seen.failed == []
    assert [weight for _, weight in seen.weights] == [0, 10, 60, 100]


async def test_the_size_changes_while_it_is_paused(ladder: Ladder) -> None:
    paused = {**ROLLOUT, "analysis": None, "steps": [{"weight": 10}]}
    ladder.write_rollout(paused)
    async with callers(ladder, ALSO_GOOD) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("it waits for somebody", lambda: ladder.reason() == "Paused")
        began = ladder.began()
        for replicas in (2, 1):
            ladder.write_rollout(paused, replicas=replicas)
            await ladder.until(f"{replicas} of each run", lambda r=replicas: ladder.status.replicas == 2 * r)
            assert ladder.weights == {GOOD: 90, ALSO_GOOD: 10}
        await ladder.until("it waits still", lambda: ladder.reason() == "Paused")
        assert ladder.began() == began, "no rollout of its own"
        ladder.say("promote")
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    assert seen.failed == []
