"""Going back to a version that had every request, by somebody's word."""

from __future__ import annotations

import pytest

from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.plan import rollback
from rayfleet_operator.plan.observed import Noted, Notice, Resolution, ResolutionProblem
from rayfleet_operator.plan.rollback import ROLLBACK_ANNOTATION
from rayfleet_operator.plan.rollout import PROMOTE_ANNOTATION, promotion

from .scenes import identity
from .test_history import Story


def after_two() -> Story:
    """Version 2 has taken over from version 1."""
    story = Story()
    story.goes_on(2)
    assert story.status.rollout is not None
    story.say(**{PROMOTE_ANNOTATION: promotion(story.status.rollout.mark, "0")})
    story.goes_on(2, 12)
    assert story.weights == {"2": 100}
    return story


def degraded(story: Story) -> tuple[str, str, str]:
    found = next(each for each in story.status.conditions if each.type == "Degraded")
    return found.status, found.reason, found.message


def test_requests_go_back_at_once_and_stay_until_the_registry_means_another() -> None:
    story = after_two()
    story.say(**{ROLLBACK_ANNOTATION: "2/1"})
    seen = set()
    for _ in range(12):
        story.goes_on(2, 1)
        seen.add(tuple(sorted(story.weights.items())))
    assert story.weights == {"1": 100}
    assert not {weight for weights in seen for _, weight in weights} - {0, 100}, "no stage lies between"
    assert story.history == [("1", "Succeeded"), ("2", "Succeeded"), ("1", "Succeeded")]
    said = "version 1 has the requests: somebody went back to it from version 2, until the URI means another"
    assert degraded(story) == ("True", "RolledBack", f"{said}; version 1 stays the wanted one")
    assert story.status.resolved is not None
    assert story.status.resolved.version == "2", "what the URI means is told as it is"

    story.goes_on(3)
    assert story.weights == {"1": 90, "3": 10}, "a new version is a candidate like any other"
    assert degraded(story)[0] == "False"


def test_taken_back_the_version_is_a_candidate_again() -> None:
    story = after_two()
    story.say(**{ROLLBACK_ANNOTATION: "2/1"})
    story.goes_on(2, 12)
    story.say()
    story.goes_on(2)
    assert story.weights == {"1": 90, "2": 10}


@pytest.mark.parametrize(
    "resolution",
    [
        ResolutionProblem("RegistryUnreachable", "nobody answers", identity(2)),
        Noted(identity(2), (Notice("VersionArchived", "it is archived"),)),
    ],
    ids=["the registry is away", "it has more to say"],
)
def test_it_holds_whatever_else_the_registry_says(resolution: Resolution) -> None:
    story = after_two()
    said = story.model.model_copy(
        update={
            "metadata": story.model.metadata.model_copy(update={"annotations": {ROLLBACK_ANNOTATION: "2/1"}}),
            "status": story.status,
        }
    )
    _, found = rollback.applied([said], {"digits": resolution})
    back = found["digits"]
    assert isinstance(back, ResolutionProblem)
    assert (back.reason, back.last) == ("RolledBack", identity(1))


@pytest.mark.parametrize(
    "said", ["", "2", "2/", "/1", "1/2", "3/1", "2/2", "2/1/0", "/", "\x00/1", "2 / 1", "٢/1"], ids=repr
)
def test_what_is_no_word_of_this_version_changes_nothing(said: str) -> None:
    story = after_two()
    told = story.model.model_copy(
        update={
            "metadata": story.model.metadata.model_copy(update={"annotations": {ROLLBACK_ANNOTATION: said}}),
            "status": story.status,
        }
    )
    models, found = rollback.applied([told], {"digits": identity(2)})
    meant = found["digits"]
    # A version that nobody knows is told, and nothing moves.
    assert (meant.last if isinstance(meant, ResolutionProblem) else meant) == identity(2)
    assert models == [told]


def test_a_version_that_nobody_knows_is_told_of_and_nothing_moves() -> None:
    story = after_two()
    story.say(**{ROLLBACK_ANNOTATION: "2/7"})
    story.goes_on(2)
    assert story.weights == {"2": 100}
    status, reason, message = degraded(story)
    assert (status, reason) == ("True", "VersionUnknown")
    assert "asks for version 7" in message


def test_which_versions_can_be_gone_back_to() -> None:
    story = Story()
    assert rollback.earlier(story.status) == [], "the one that serves is no other"
    story = after_two()
    assert [each.version for each in rollback.earlier(story.status)] == ["1"]
    story.say(**{ROLLBACK_ANNOTATION: "2/1"})
    story.goes_on(2, 12)
    assert rollback.earlier(story.status) == [], "neither the one that serves nor the one that the URI means"


def test_a_history_of_an_older_operator_offers_nothing_to_go_back_to() -> None:
    old = {"version": "1", "modelId": "m-1", "outcome": "Succeeded", "ended": "2026-01-01T00:00:00Z"}
    status = ModelDeploymentStatus.model_validate({"history": [old]})
    assert rollback.earlier(status) == []
