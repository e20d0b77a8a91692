"""The forms of a model's URI.

| form                                             | parsed as        | follows the registry |
|--------------------------------------------------|------------------|----------------------|
| models:/name/3                                   | `VersionUri`     | no                   |
| models:/name@alias                               | `AliasUri`       | yes                  |
| models:/name/Production                          | `StageUri`       | yes                  |
| models:/name/latest                              | `LatestUri`      | yes                  |
| models:/m-<32 hex digits>                        | `LoggedModelUri` | no                   |
| runs:/run id/path                                | `RunUri`         | when logged again    |
| s3://bucket/path, gs://, az://, abfs://, abfss:// | `ObjectUri`      | when overwritten     |
| /path, file:///path                              | `FileUri`        | when changed         |

Everything between "models:/" and the last "/" or "@" is the model's name, verbatim: MLflow allows spaces, "@", "%",
"?" and any alphabet in names (not "/" and ":"), and its own client decodes nothing there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from rayfleet_operator.registry.errors import InvalidUri

Stage = Literal["None", "Staging", "Production", "Archived"]
STAGES: dict[str, Stage] = {"none": "None", "staging": "Staging", "production": "Production", "archived": "Archived"}

LOGGED_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""All else goes: MLflow takes names with no-break spaces and soft hyphens."""
_VERSION = re.compile(r"[0-9]{1,10}")
_OBJECT_SCHEMES = ("s3", "gs", "az", "abfs", "abfss")

FORMS = (
    "models:/name/3, models:/name@alias, models:/name/Production, models:/name/latest, models:/m-<32 hex digits>, "
    "runs:/<run id>/path, s3://bucket/path, gs://bucket/path, az://container/path, file:///path or /path"
)


@dataclass(frozen=True, slots=True)
class VersionUri:
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class AliasUri:
    name: str
    alias: str


@dataclass(frozen=True, slots=True)
class StageUri:
    """Stages are deprecated in MLflow since 2.9 and still work in 3.x."""

    name: str
    stage: Stage


@dataclass(frozen=True, slots=True)
class LatestUri:
    """The version with the highest number, whatever its stage."""

    name: str


@dataclass(frozen=True, slots=True)
class LoggedModelUri:
    model_id: str


@dataclass(frozen=True, slots=True)
class RunUri:
    run_id: str
    path: str
    """A logged model's name, or a path among the run's artifacts, without slashes around it."""


@dataclass(frozen=True, slots=True)
class ObjectUri:
    url: str
    """Without a slash at the end."""


@dataclass(frozen=True, slots=True)
class FileUri:
    path: Path
    """Absolute."""


RegistryUri = VersionUri | AliasUri | StageUri | LatestUri | LoggedModelUri | RunUri
"""The forms that an MLflow server resolves."""

ModelUri = RegistryUri | ObjectUri | FileUri


def parse(uri: str) -> ModelUri:
    """Reads one URI, without asking anyone.

    Raises:
        InvalidUri: no known form; the message names the form it comes closest to.
    """
    if uri != uri.strip(" ") or _CONTROL.search(uri):
        raise InvalidUri(f"The model URI {uri!r} has blanks around it or holds control characters.")
    scheme, colon, rest = uri.partition(":")
    if uri.startswith("/"):
        return FileUri(_absolute(uri, uri))
    if not colon:
        raise InvalidUri(f"The model URI {uri!r} is neither an absolute path nor a URI. Known forms: {FORMS}.")
    match scheme.lower():
        case "models":
            return _parse_models(uri, rest)
        case "runs":
            return _parse_runs(uri, rest)
        case "file":
            return _parse_file(uri)
        case known if known in _OBJECT_SCHEMES:
            return _parse_object(uri)
        case _:
            raise InvalidUri(f"The model URI {uri!r} has the scheme {scheme!r}, unknown here. Known forms: {FORMS}.")


def registered_model(uri: str) -> str | None:
    """Name of the registered model that the URI is about; None where it is about none, or in no known form."""
    try:
        parsed = parse(uri)
    except InvalidUri:
        return None
    return parsed.name if isinstance(parsed, VersionUri | AliasUri | StageUri | LatestUri) else None


def _parse_models(uri: str, rest: str) -> ModelUri:
    if not rest.startswith("/") or rest.startswith("//"):
        raise InvalidUri(f"The model URI {uri!r} needs exactly one slash after the colon: models:/name/3.")
    name, slash, suffix = rest[1:].partition("/")
    if ":" in name or not name.strip(" "):
        raise InvalidUri(f'The model URI {uri!r} names no model: a name is not blank and holds no "/" and no ":".')
    if slash:
        return _parse_suffix(uri, name, suffix)
    if LOGGED_MODEL_ID.fullmatch(name):
        return LoggedModelUri(name)
    # The last "@", because a name may hold one and an alias may not.
    name, at, alias = name.rpartition("@")
    if not at or not name.strip(" "):
        raise InvalidUri(
            f"The model URI {uri!r} names a model and no version of it. "
            f"Use models:/name/3, models:/name@alias, models:/name/Production or models:/name/latest."
        )
    if not _ALIAS.fullmatch(alias):
        raise InvalidUri(f"{alias!r} in {uri!r} cannot be an alias: aliases hold letters, digits, '_' and '-' only.")
    # MLflow reserves this alias, in any case, for the highest version.
    return LatestUri(name) if alias.lower() == "latest" else AliasUri(name, alias)


def _parse_suffix(uri: str, name: str, suffix: str) -> ModelUri:
    if _VERSION.fullmatch(suffix):
        return VersionUri(name, int(suffix))
    if suffix.lower() == "latest":
        return LatestUri(name)
    if suffix.lower() in STAGES:
        return StageUri(name, STAGES[suffix.lower()])
    raise InvalidUri(
        f"{suffix!r} in {uri!r} is neither a version number nor a stage (None, Staging, Production, Archived) "
        f"nor latest. An alias is written models:/{name}@alias."
    )


def _parse_runs(uri: str, rest: str) -> RunUri:
    run_id, _, path = rest[1:].partition("/")
    path = path.strip("/")
    if not rest.startswith("/") or not _RUN_ID.fullmatch(run_id):
        raise InvalidUri(f"The model URI {uri!r} names no run. Use runs:/<run id>/path.")
    if not path or {"", ".", ".."} & set(path.split("/")):
        raise InvalidUri(f"The model URI {uri!r} names no model in the run. Use runs:/{run_id}/<its name or path>.")
    return RunUri(run_id, path)


def _parse_file(uri: str) -> FileUri:
    parts = _split(uri)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise InvalidUri(f"The model URI {uri!r} is not a file on this machine. Use file:///path, or the path itself.")
    return FileUri(_absolute(uri, unquote(parts.path)))


def _parse_object(uri: str) -> ObjectUri:
    parts = _split(uri)
    if not parts.netloc or ":" in parts.netloc or parts.query or parts.fragment:
        raise InvalidUri(
            f"The model URI {uri!r} is no folder of an object store. Use {parts.scheme}://bucket/path; "
            f"credentials and endpoints come from the environment."
        )
    if {"", ".", ".."} & set(parts.path.strip("/").split("/")) and parts.path.strip("/"):
        raise InvalidUri(f"The path in {uri!r} has empty or dotted parts.")
    return ObjectUri(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}")


def _split(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError as error:
        raise InvalidUri(f"The model URI {uri!r} is malformed: {error}.") from None


def _absolute(uri: str, path: str) -> Path:
    if "\0" in path:
        raise InvalidUri(f"The path in {uri!r} holds %00, a character that no path holds.")
    if not path.startswith("/"):
        raise InvalidUri(f"The path in {uri!r} is not absolute; it would mean another folder in every process.")
    return Path(path)
