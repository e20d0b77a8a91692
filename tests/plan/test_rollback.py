"""Going back to a version that had every request, by somebody's word."""

from __future__ import annotations

import pytest

from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.api.types import ModelDeployment
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
    promoted(story, 2)
    return story


def promoted(story: Story, version: int, **said: str) -> None:
    """The candidate gets every request; `said` are annotations beside."""
    assert story.status.rollout is not None
    story.say(**said, **{PROMOTE_ANNOTATION: promotion(story.status.rollout.mark, "0")})
    story.goes_on(version, 12)
    assert story.weights == {str(version): 100}


def back(story: Story, to: int = 1) -> dict[str, str]:
    """The annotation that says so."""
    said = dict(rollback.earlier(story.status))[str(to)]
    return {ROLLBACK_ANNOTATION: said}


def degraded(story: Story) -> tuple[str, str, str]:
    found = next(each for each in story.status.conditions if each.type == "Degraded")
    return found.status, found.reason, found.message


def told(story: Story, said: str) -> ModelDeployment:
    metadata = story.model.metadata.model_copy(update={"annotations": {ROLLBACK_ANNOTATION: said}})
    return story.model.model_copy(update={"metadata": metadata, "status": story.status})


def test_requests_go_back_at_once_and_stay_until_the_registry_means_another() -> None:
    story = after_two()
    story.say(**back(story))
    seen = set()
    for _ in range(12):
        story.goes_on(2, 1)
        seen.add(tuple(sorted(story.weights.items())))
    assert story.weights == {"1": 100}
    assert not {weight for weights in seen for _, weight in weights} - {0, 100}, "no stage lies between"
    assert story.history == [("1", "WentBack"), ("2", "Succeeded"), ("1", "Succeeded")]
    said = "somebody went back from version 2 to 1, until the URI means another; version 1 stays the wanted one"
    assert degraded(story) == ("True", "RolledBack", said)
    assert story.status.resolved is not None
    assert story.status.resolved.version == "2", "what the URI means is told as it is"

    story.goes_on(3)
    assert story.weights == {"1": 90, "3": 10}, "a new version is a candidate like any other"
    assert degraded(story)[0] == "False"


def test_taken_back_the_version_is_a_candidate_again() -> None:
    story = after_two()
    story.say(**back(story))
    story.goes_on(2, 12)
    story.say()
    story.goes_on(2)
    assert story.weights == {"1": 90, "2": 10}


def test_a_word_is_over_once_another_version_has_had_every_request() -> None:
    story = after_two()
    said = back(story)
    story.say(**said)
    story.goes_on(2, 12)
    story.goes_on(3)
    promoted(story, 3, **said)
    story.say(**said)
    story.goes_on(2)
    assert story.weights == {"3": 90, "2": 10}, "the alias came back to it: that is another occasion"
    promoted(story, 2, **said)
    assert degraded(story)[0] == "False"


def test_one_can_go_further_back() -> None:
    story = after_two()
    story.goes_on(3)
    promoted(story, 3)
    assert [version for version, _ in rollback.earlier(story.status)] == ["2", "1"]
    story.say(**back(story, 2))
    story.goes_on(3, 12)
    assert [version for version, _ in rollback.earlier(story.status)] == ["1"]
    story.say(**back(story, 1))
    story.goes_on(3, 12)
    assert story.weights == {"1": 100}


def test_versions_that_were_given_up_leave_some_to_go_back_to() -> None:
    story = after_two()
    said = back(story)
    story.say(**said)
    story.goes_on(2, 12)
    for version in range(3, 16):
        story.goes_on(version, 6)
    assert len(story.history) == 10
    story.goes_on(2, 12)
    assert story.weights == {"1": 100}, "what was said still holds"


@pytest.mark.parametrize(
    "resolution",
    [
        ResolutionProblem("RegistryUnreachable", "nobody answers", identity(2)),
        ResolutionProblem("VersionDeleted", "version 2 was deleted"),
        Noted(identity(2), (Notice("VersionArchived", "it is archived"),)),
        None,
    ],
    ids=["the registry is away", "the version is gone", "it has more to say", "it was not asked yet"],
)
def test_it_holds_whatever_else_the_registry_says(resolution: Resolution | None) -> None:
    story = after_two()
    (said,) = back(story).values()
    _, found = rollback.applied([told(story, said)], {"digits": resolution} if resolution is not None else {})
    meant = found["digits"]
    assert isinstance(meant, ResolutionProblem)
    assert (meant.reason, meant.last) == ("RolledBack", identity(1))
    assert not isinstance(resolution, ResolutionProblem) or meant.message.endswith(resolution.message)


def test_it_moves_nothing_that_has_to_stay_for_another_reason() -> None:
    story = after_two()
    (said,) = back(story).values()
    held = ResolutionProblem("InsufficientCapacity", "no worker is so large", held=True)
    assert rollback.applied([told(story, said)], {"digits": held})[1] == {"digits": held}


def test_another_model_of_the_same_version_is_not_meant() -> None:
    story = after_two()
    (said,) = back(story).values()
    other = identity(2).model_copy(update={"model_id": "m-" + "f" * 32})
    _, found = rollback.applied([told(story, said)], {"digits": other})
    assert found == {"digits": other}


@pytest.mark.parametrize("change", ["nothing", "from", "since", "to itself", "short", "long", "NUL"])
def test_what_is_no_word_of_this_occasion_changes_nothing(change: str) -> None:
    story = after_two()
    left, since, to = back(story)[ROLLBACK_ANNOTATION].split("/")
    said = {
        "nothing": "",
        "from": f"{to}/{since}/{to}x",
        "since": f"{left}/2001-01-01T00:00:00Z/{to}",
        "to itself": f"{left}/{since}/{left}",
        "short": f"{left}/{since}",
        "long": f"{left}/{since}/",
        "NUL": "\x00/\x00/\x00",
    }[change]
    models, found = rollback.applied([told(story, said)], {"digits": identity(2)})
    assert (models, found) == ([told(story, said)], {"digits": identity(2)})


def test_a_version_that_nobody_knows_is_told_of_and_nothing_moves() -> None:
    story = after_two()
    left, since, _ = back(story)[ROLLBACK_ANNOTATION].split("/")
    story.say(**{ROLLBACK_ANNOTATION: f"{left}/{since}/m-unknown"})
    story.goes_on(2)
    assert story.weights == {"2": 100}
    status, reason, message = degraded(story)
    assert (status, reason) == ("True", "VersionUnknown")
    assert "status.history does not know" in message


def test_which_versions_can_be_gone_back_to() -> None:
    story = Story()
    assert rollback.earlier(story.status) == [], "the one that serves is no other"
    story = after_two()
    assert [version for version, _ in rollback.earlier(story.status)] == ["1"]
    story.say(**back(story))
    story.goes_on(2, 12)
    assert rollback.earlier(story.status) == [], "neither the one that serves nor the one that the URI means"


def test_what_the_uri_means_and_never_had_every_request_cannot_be_gone_back_from() -> None:
    story = after_two()
    story.goes_on(3)
    assert rollback.earlier(story.status) == []


def test_a_history_of_an_older_operator_offers_nothing_to_go_back_to() -> None:
    old = {"version": "1", "modelId": "m-1", "outcome": "Succeeded", "ended": "2026-01-01T00:00:00Z"}
    status = ModelDeploymentStatus.model_validate({"history": [{**old, "version": "2", "modelId": "m-2"}, old]})
    assert rollback.earlier(status) == []
