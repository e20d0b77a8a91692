"""What the registry says of a version that can be served all the same, in words: pure functions of its answers.

Times are compared across two clocks, the server's and that of whoever logged, so what lies less than `CLOCKS_MS` apart
counts as the same moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rayfleet_operator.api.problems import harmless
from rayfleet_operator.plan.conditions import NoticeReason
from rayfleet_operator.plan.observed import Notice
from rayfleet_operator.registry.answers import RunInfo, Version
from rayfleet_operator.registry.uri import AliasUri, LatestUri, RegistryUri, StageUri, VersionUri

CLOCKS_MS = 60_000
SHARED_STAGES = ("Staging", "Production")
"""Stages that are meant to hold one version. None and Archived hold what is not used."""
OFFERS = 5
"""Names in a message that says what exists."""

_WRITTEN = re.compile(rb"^utc_time_created:\s*['\"]?([0-9][0-9T:. -]{9,30})['\"]?\s*$", re.MULTILINE)


def archived(version: Version, uri: RegistryUri) -> Iterator[Notice]:
    """Nobody who archives a version means it to be served on; whoever asks for archived versions does."""
    if version.current_stage != "Archived" or isinstance(uri, StageUri):
        return
    yield _notice(
        NoticeReason.VERSION_ARCHIVED,
        f"Version {version.version} of {version.name!r} is archived in the registry. It is served all the same, "
        f"because spec.model.uri means it. Point spec.model.uri, or the alias it follows, to another version, or move "
        f"this one out of the stage Archived.",
    )


def moved(version: Version, uri: RegistryUri) -> str:
    """What became of a version that the URI meant before, and that is there still."""
    match uri:
        case StageUri(stage=stage) if version.current_stage == "Archived":
            return (
                f"Version {version.version}, which was in it, is archived now. Move a version to {stage}, that one or "
                f"a newer one."
            )
        case StageUri(stage=stage):
            return f"Version {version.version}, which was in it, is in stage {version.current_stage} now."
        case _:
            return f"Version {version.version}, which it meant before, is still there: set the alias again."


def deleted(uri: VersionUri | AliasUri | StageUri | LatestUri, number: str, server: str) -> str:
    """The version that the URI meant before was deleted, and the URI means no other."""
    match uri:
        case AliasUri(alias=alias):
            what = f", which the alias {alias!r} meant, was deleted in MLflow at {server}, and the alias went with it"
            then = f"set the alias {alias!r} on another version"
        case StageUri(stage=stage):
            what = f", which was in stage {stage}, was deleted in MLflow at {server}"
            then = f"move another version to {stage}"
        case _:
            what, then = f" was deleted in MLflow at {server}", "point spec.model.uri to another version"
    return (
        f"Version {number} of {uri.name!r}{what}. MLflow keeps its files until the run or logged model behind it is "
        f"deleted, too, and cleaned up; from then on a replica that starts on a node without a cached copy cannot load "
        f"it. Register the model again or {then}."
    )


def several_in_stage(name: str, stage: str, versions: Sequence[int]) -> Iterator[Notice]:
    """`versions` are those in the stage, the highest first: that is the one that MLflow's clients take, too."""
    if len(versions) < 2 or stage not in SHARED_STAGES:
        return
    served, *others = versions
    yield _notice(
        NoticeReason.SEVERAL_IN_STAGE,
        f"The stage {stage} of {name!r} holds {len(versions)} versions: {listed(map(str, versions))}. It means the "
        f"highest, {served}, so moving an older one there has no effect. Archive the other "
        f"{'one' if len(others) == 1 else 'ones'} ({listed(map(str, others))}), or {served} if an older one is meant "
        f"(archive_existing_versions=True does so when a version is moved); or follow an alias: models:/{name}@alias.",
    )


def of_run(run: RunInfo, run_id: str, path: str, written_ms: int | None, model_id: str | None) -> Iterator[Notice]:
    """
    Args:
        written_ms: when the model was logged, in milliseconds since 1970; None where that is not known.
        model_id: of the logged model; None for one among the run's artifacts.
    """
    own = f"name the logged model itself: models:/{model_id}" if model_id else "register it and name the version"
    if run.status in ("RUNNING", "SCHEDULED"):
        yield _notice(
            NoticeReason.RUN_NOT_ENDED,
            f"The run {run_id} is still {run.status}: whatever it logs as {path!r} from now on takes this model's "
            f"place. End the run, or {own}.",
        )
    elif run.end_time and written_ms is not None and written_ms > run.end_time + CLOCKS_MS:
        yield _notice(
            NoticeReason.RUN_LOGGED_LATE,
            f"The model {path!r} of run {run_id} was logged at {_moment(written_ms)}, after the run had ended at "
            f"{_moment(run.end_time)}: somebody logged to a finished run, and runs:/{run_id}/{path} means what was "
            f"logged last. Log the model in a new run and name that, or {own}.",
        )


def changed(version: Version, run_id: str, path: str, mlmodel: bytes, *, followed: bool) -> Iterator[Notice]:
    """A version of a run's artifacts, whose MLmodel file says that it was saved after the version was registered.

    Args:
        path: among the run's artifacts.
        mlmodel: what the MLmodel file holds now.
        followed: the version's identity covers that file, so what changed is rolled out.
    """
    written = written_ms(mlmodel)
    if written is None or not version.creation_timestamp or written <= version.creation_timestamp + CLOCKS_MS:
        return
    what = (
        "It is rolled out as if it were another version."
        if followed
        else "Replicas on a node with a cached copy go on serving the files from before; others load the new ones."
    )
    yield _notice(
        NoticeReason.ARTIFACTS_CHANGED,
        f"The files of version {version.version} of {version.name!r} were written at {_moment(written)}, after it was "
        f"registered at {_moment(version.creation_timestamp)}: somebody logged {path!r} to run {run_id} again. {what} "
        f"Log the model in a new run and register a new version.",
    )


def written_ms(mlmodel: bytes) -> int | None:
    """When MLflow saved the model, in milliseconds since 1970; None where the MLmodel file does not say."""
    found = _WRITTEN.search(mlmodel)
    try:
        return int(datetime.fromisoformat(found[1].decode()).replace(tzinfo=UTC).timestamp() * 1000) if found else None
    except ValueError:
        return None


def listed(names: Iterable[str]) -> str:
    """The first few names, and whether there are more."""
    every = list(names)
    return ", ".join(every[:OFFERS]) + (", …" if len(every) > OFFERS else "")


def _moment(ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "a time that no calendar holds"


def _notice(reason: NoticeReason, message: str) -> Notice:
    return Notice(str(reason), harmless(message))
