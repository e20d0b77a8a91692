"""What the registry says of a version that is served: it is told, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.local.loop import short
from rayfleet_operator.plan import causes, events, serve_config, status
from rayfleet_operator.plan.conditions import ConditionType, NoticeReason
from rayfleet_operator.plan.observed import Noted, Notice, ResolutionProblem, identity_of
from rayfleet_operator.plan.pods import Trouble
from rayfleet_operator.plan.room import Room
from rayfleet_operator.write_back import noticed
from rayfleet_serving.config import ModelIdentity

from .scenes import NOW, applications, condition, identity, model, observe, plan_one, weights
from .test_properties import planned, situations, thorough

ARCHIVED = Notice(str(NoticeReason.VERSION_ARCHIVED), "Version 1 of 'digits' is archived")
SEVERAL = Notice(str(NoticeReason.SEVERAL_IN_STAGE), "The stage holds 2 versions")
DELETED = ResolutionProblem("VersionDeleted", "Version 1 of 'digits' was deleted. Register it again.")

some_notices = st.lists(st.sampled_from([ARCHIVED, SEVERAL]), min_size=1, max_size=2).map(tuple)


@given(situations(), some_notices)
@thorough
def test_a_notice_changes_nothing_that_serve_is_given(situation: dict[str, Any], notices: tuple[Notice, ...]) -> None:
    noted = {
        name: Noted(found, notices) if isinstance(found, ModelIdentity) else found
        for name, found in situation["resolutions"].items()
    }
    plain, told = planned(**situation), planned(**{**situation, "resolutions": noted})
    assert serve_config.canonical(told.config) == serve_config.canonical(plain.config)
    assert (told.changed, told.requeue_after) == (plain.changed, plain.requeue_after)
    for one, other in zip(told.models, plain.models, strict=True):
        assert one.conditions[:2] == other.conditions[:2]
        assert (one.versions, one.serving, one.rollout) == (other.versions, other.serving, other.rollout)


def test_a_version_that_answers_stays_ready_and_the_notice_is_told() -> None:
    found = plan_one(observe({1: ("RUNNING", 100)}), Noted(identity(1), (ARCHIVED, SEVERAL)))
    assert not found.changed
    assert condition(found, ConditionType.READY)[:2] == ("True", "Serving")
    assert condition(found, ConditionType.PROGRESSING)[:2] == ("False", "Settled")
    message = f"{ARCHIVED.message}\n{SEVERAL.message}"
    assert condition(found, ConditionType.DEGRADED) == ("True", "VersionArchived", message)


def test_what_keeps_a_version_from_running_is_graver() -> None:
    found = plan_one(observe({1: ("RUNNING", 100), 2: ("DEPLOY_FAILED", 0)}), Noted(identity(2), (ARCHIVED,)))
    told = condition(found, ConditionType.DEGRADED)
    assert told[:2] == ("True", "VersionFailed")
    assert told[2].endswith(ARCHIVED.message)

    loading = plan_one(observe({1: ("DEPLOYING", 100)}), Noted(identity(1), (ARCHIVED,)))
    no_node = Trouble("Unschedulable", "no node takes its pod")
    ready, _, degraded = causes.explain(loading.models[0], [no_node], None)
    assert (ready.reason, ready.message) == (no_node.reason, no_node.message)
    assert (degraded.reason, degraded.message) == (no_node.reason, f"{no_node.message}\n{ARCHIVED.message}")
    assert causes.explain(loading.models[0], [], None)[0].reason == "NotServing", "a notice is no reason for that"


@pytest.mark.parametrize("of", [DELETED, ResolutionProblem("StageEmpty", "Version 1 is archived now.")])
def test_a_version_that_the_uri_no_longer_means_keeps_its_requests(of: ResolutionProblem) -> None:
    observed = observe({1: ("RUNNING", 100)})
    found = plan_one(observed, of)
    assert not found.changed
    assert weights(found) == {1: 100}
    assert applications(found).keys() == observed.apps.keys()
    assert condition(found, ConditionType.READY)[0] == "True"
    told = condition(found, ConditionType.DEGRADED)
    assert told[:2] == ("True", of.reason)
    assert told[2] == f"{of.message.rstrip('.')}; version 1 keeps the requests"


def test_what_is_told_besides_comes_after_everything_that_is_wrong() -> None:
    notice = Notice(str(NoticeReason.WRITE_BACK_FAILED), "The registry says nothing")
    well = plan_one(observe({1: ("RUNNING", 100)}), identity(1)).models
    (found,) = noticed(well, {"digits": notice})
    assert (found.conditions[:2], found.versions) == (well[0].conditions[:2], well[0].versions)
    assert (found.conditions[2].status, found.conditions[2].reason) == ("True", "WriteBackFailed")
    short = causes.explain(found, [], "too little memory")[2]
    assert (short.reason, short.message) == ("InsufficientCapacity", f"too little memory\n{notice.message}")
    assert noticed(well, {"faces": notice}) == well
    failed = plan_one(observe({1: ("RUNNING", 100), 2: ("DEPLOY_FAILED", 0)}), identity(2)).models
    (found,) = noticed(failed, {"digits": notice})
    assert found.conditions[2].reason == "VersionFailed"
    assert found.conditions[2].message.endswith(f"\n{notice.message}")


def test_so_it_does_on_one_machine_where_replicas_find_no_room() -> None:
    of, workers = model(replicas=3), ModelFleetSpec.model_validate({"workerGroups": [{"name": "w", "cpu": "3"}]})
    seen = observe({1: ("RUNNING", 100)}, of=of)
    found = plan_one(seen, Noted(identity(1), (ARCHIVED,)), of=of, room=Room.of(workers))
    lacking = "version 1: 2 of 3 replicas wait: each needs 1 CPU, 0 free on one worker"
    untold = Notice("WriteBackFailed", "the registry was not told")
    (told,) = short(noticed(found.models, {"digits": untold}), found.admission)
    assert told.conditions[:2] == found.models[0].conditions[:2]
    assert told.conditions[2].reason == "InsufficientCapacity"
    assert told.conditions[2].message == f"{lacking}\n{ARCHIVED.message}\n{untold.message}"


def test_a_status_holds_what_the_uri_means_and_what_is_told() -> None:
    of, noted = model(), Noted(identity(1), (ARCHIVED,))

    def written(before: ModelDeploymentStatus, resolution: Noted | ModelIdentity) -> ModelDeploymentStatus:
        found = plan_one(observe({1: ("RUNNING", 100)}), resolution)
        return status.model_status(
            of.model_copy(update={"status": before}), found.models[0], url="", resolution=resolution, troubles=(),
            shortage=None, quiet=False, now=NOW,
        )  # fmt: skip

    before = written(ModelDeploymentStatus(), identity(1))
    after = written(before, noted)
    assert after.resolved == before.resolved
    assert after.resolved is not None
    told = [(each.type, each.reason) for each in events.events(before.conditions, after.conditions)]
    assert told == [("Warning", "VersionArchived")]
    assert events.events(after.conditions, written(after, noted).conditions) == []


def test_what_a_uri_means() -> None:
    assert identity_of(Noted(identity(1), (ARCHIVED,))) == identity_of(identity(1)) == identity(1)
    assert identity_of(ResolutionProblem("RegistryUnreachable", "silence", identity(1))) == identity(1)
    assert identity_of(DELETED) is None
    assert identity_of(None) is None
