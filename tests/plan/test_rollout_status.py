"""What a status says of an analysis, and how often it is written for it."""

from __future__ import annotations

from datetime import timedelta

from rayfleet_operator.api.status import ModelDeploymentStatus, RolloutStatus
from rayfleet_operator.plan.analysis import Count
from rayfleet_operator.plan.history import rollout_status
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.rollout import Command

from .rollouts import CANARY, Model
from .test_analysis import counted
from .test_status import refused


class Told:
    """The status of a model in its first step, from pass to pass."""

    def __init__(self) -> None:
        self.model = Model(CANARY, onFailure="Rollback").at(0)
        self.status: RolloutStatus | None = None

    def look(self, seconds: float, candidate: Count, command: Command | None = None) -> RolloutStatus:
        decision = self.model.look(seconds, counted={"new": candidate}, command=command or Command())
        planned = ModelPlan(name="digits", conditions=(), versions=(), serving=True, rollout=decision)
        told = rollout_status(planned, self.status, self.model.now)
        assert told is not None
        # As the API server gives it back.
        self.status = RolloutStatus.model_validate_json(told.model_dump_json(by_alias=True))
        return self.status


def numbers(told: RolloutStatus) -> list[tuple[str, str, str]]:
    return [(each.name, each.outcome, each.message) for each in told.checks]


def test_each_check_is_told_with_its_numbers() -> None:
    told = Told()
    few = told.look(2, counted(42, failed=1))
    assert few.analysis == "Inconclusive"
    text = "1 of 42 requests failed (2.38 %, at most 1% may); about 40 of at least 100 requests were answered"
    assert numbers(few) == [("errorRate", "Inconclusive", text)]
    enough = told.look(2, counted(500, failed=2))
    assert numbers(enough) == [("errorRate", "Pass", "2 of 500 requests failed (0.4 %, at most 1% may)")]


def test_requests_alone_write_no_status_for_ten_seconds() -> None:
    told = Told()
    first = told.look(2, counted(500))
    assert [told.look(2, counted(500 + number)) for number in range(1, 5)] == [first] * 4
    later = told.look(2, counted(505))
    assert numbers(later) == [("errorRate", "Pass", "0 of 505 requests failed (0 %, at most 1% may)")]
    assert later.counted > first.counted


def test_numbers_that_stay_are_not_told_anew() -> None:
    told = Told()
    first = told.look(2, counted(500))
    assert told.look(60, counted(500)) == first


def test_another_outcome_is_told_at_once_and_what_decided_stays_told() -> None:
    told = Told()
    told.look(2, counted(500))
    failed = told.look(1, counted(500, failed=50))
    why = "50 of 500 requests failed (10 %, at most 1% may)"
    assert (failed.ended, failed.analysis, numbers(failed)) == (
        "AnalysisFailed",
        "Fail",
        [("errorRate", "Fail", why)],
    )
    after = told.look(600, Count())
    assert (after.ended, after.checks, after.counted) == (failed.ended, failed.checks, failed.counted)


def test_a_new_step_and_a_new_attempt_start_without_numbers() -> None:
    told = Told()
    first = told.look(2, counted(500))
    moved = told.look(600, counted(500))
    assert (first.stage, moved.stage, moved.checks, moved.analysis) == (0, 1, [], "")
    told.look(2, counted(50, failed=50))
    again = told.look(30, Count(), Command(retry="now"))
    assert (again.ended, again.checks, again.analysis, again.counted) == ("", [], "", "")


def test_a_clock_that_was_set_back_holds_nothing_up() -> None:
    told = Told()
    told.look(2, counted(500))
    told.model.now -= timedelta(hours=1)
    assert numbers(told.look(0, counted(700)))[0][2].startswith("0 of 700 ")


def test_it_is_a_status_that_the_api_server_takes() -> None:
    told = Told().look(2, counted(500))
    assert refused(ModelDeploymentStatus(rollout=told)) == []
