"""What a running `up` leaves for other terminals: one small file for each endpoint, and a lock on it.

`up` holds the lock for as long as it lives, and the system releases it whatever ends `up`; so a file whose lock is free
is that of an `up` that was killed. Files are only readable by this user and hold no secret, only the token's path.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.plan.places import Places
from rayfleet_operator.plan.strategy import Stage

LOCK_S = 1.0
"""A reader holds the lock for an instant to see whether it is free; that is not another `up`."""


class Shown(BaseModel):
    model_config = ConfigDict(frozen=True)


class ShownCondition(Shown):
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


class ShownVersion(Shown):
    version: str
    model_id: str
    weight: int
    """Percent of the model's requests."""
    state: str
    message: str = ""
    replicas_running: int | None = None
    replicas_target: int | None = None
    """None where Serve does not say."""
    name: str = ""
    """In `spec.traffic`; "" for the model's own."""
    mirror: int = 0
    """Percent of the others' requests of which it gets a copy."""


class ShownModel(Shown):
    name: str
    uri: str
    """"" once the model is deleted and only its last requests are left."""
    conditions: tuple[ShownCondition, ...]
    """Ready, Progressing, Degraded."""
    versions: tuple[ShownVersion, ...]
    since: datetime
    """When the conditions last changed, apart from their messages."""
    stages: tuple[Stage, ...] = ()
    """By which a new version takes over; none where it does so at once."""
    scaling: str = ""
    """How many replicas run and are wanted, and why, where their number follows the load."""

    def condition(self, type_: str) -> ShownCondition:
        return next(each for each in self.conditions if each.type == type_)

    @property
    def ready(self) -> bool:
        return self.condition("Ready").status == "True"


class Status(Shown):
    """What `up` saw in its last pass."""

    models: tuple[ShownModel, ...] = ()
    problems: tuple[str, ...] = ()
    """What is wrong with the files, or with Ray; one line each."""
    files_read: datetime | None = None
    """When the files were last read, which is when they last changed; None before the first pass."""
    statuses: dict[str, ModelDeploymentStatus] = {}
    """What a ModelDeployment's `.status` would say, by model."""
    places: Places | None = None
    """Which replica has a place where, and which waits; None where Ray does not tell what it has."""
    updated: datetime
    """When Ray was last asked and everything that was due was done; the rest of the status is of that moment."""


class Up(Shown):
    """One running `up`."""

    pid: int
    url: str
    """Where the models answer."""
    dashboard: str
    token_path: str | None
    """File that holds Ray's auth token."""
    session: str | None
    """What marks the processes of its own Ray, in RAYFLEET_SESSION; None where it joined another's."""
    folder: str | None
    """Where its own Ray keeps logs, the token and sockets."""
    started: datetime
    status: Status


class Taken(Exception):  # noqa: N818 - the name says it
    """Another `up` serves at this endpoint."""


def state_folder(environ: Mapping[str, str]) -> Path:
    """RAYFLEET_STATE_DIR, or `rayfleet` in XDG_STATE_HOME, by default ~/.local/state/rayfleet."""
    if given := environ.get("RAYFLEET_STATE_DIR"):
        return Path(given)
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rayfleet"


def commands_path(folder: Path, url: str) -> Path:
    """The file of what was said to the `up` at this URL."""
    parts = urlsplit(url)
    return _path(folder, parts.hostname or "", parts.port or 80).with_suffix(".commands")


def _path(folder: Path, host: str, port: int) -> Path:
    return folder / f"{host}_{port}.json".replace(":", "-")


class Slot:
    """This `up`'s place in the state folder, for the endpoint `host`:`port`."""

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self._path = _path(folder, host, port)
        self._lock = -1

    def __enter__(self) -> Self:
        """Raises Taken, with the other's process id where it is known."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(_lock_path(self._path), os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_S
        while not _try(self._lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                os.close(self._lock)
                other = _read(self._path)
                raise Taken(f"another rayfleet up{f' (process {other.pid})' if other else ''} serves there")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        # The lock's file stays: another process may hold it open, and would lock a file that nobody finds.
        self._path.unlink(missing_ok=True)
        os.close(self._lock)

    def write(self, up: Up) -> None:
        """Replace the file as a whole; a reader never sees half of it. Raises OSError, and leaves nothing new then."""
        number, name = tempfile.mkstemp(dir=self._path.parent, suffix=".tmp")
        try:
            with os.fdopen(number, "w") as file:
                file.write(up.model_dump_json(indent=1))
            Path(name).replace(self._path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def running(folder: Path) -> list[Up]:
    """Every `up` that runs, by endpoint."""
    return [up for _, up, alive in _all(folder) if alive]


def killed(folder: Path) -> list[Up]:
    """Every `up` that ended without tidying up."""
    return [up for _, up, alive in _all(folder) if not alive]


def forget(folder: Path, up: Up) -> None:
    """Remove the file of a killed `up`."""
    for path, found, alive in _all(folder):
        if found == up and not alive:
            path.unlink(missing_ok=True)


def _all(folder: Path) -> Iterator[tuple[Path, Up, bool]]:
    for path in sorted(folder.glob("*.json")):
        if (up := _read(path)) is not None:
            yield path, up, _locked(path)


def _read(path: Path) -> Up | None:
    """None for a file that is gone, or of another release."""
    try:
        return Up.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _locked(path: Path) -> bool:
    try:
        number = os.open(_lock_path(path), os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try(number, fcntl.LOCK_SH)
    finally:
        os.close(number)


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _try(number: int, kind: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(number, kind | fcntl.LOCK_NB)
        return True
    return False
