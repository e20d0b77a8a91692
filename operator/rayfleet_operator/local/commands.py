"""What `rayfleet rollout` says to a running `up`: one small file beside the one in which `up` tells how things stand.

It says what annotations and `spec.rollout.paused` would say in a ModelDeployment, and goes before what the files say.
What was said to an earlier `up` is nothing to a later one, but for a pause.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan.rollback import ROLLBACK_ANNOTATION
from rayfleet_operator.plan.rollout import ABORT_ANNOTATION, PROMOTE_ANNOTATION, RETRY_ANNOTATION

ANNOTATIONS = {
    "promote": PROMOTE_ANNOTATION,
    "abort": ABORT_ANNOTATION,
    "retry": RETRY_ANNOTATION,
    "rollback": ROLLBACK_ANNOTATION,
}

Text = Annotated[str, Field(max_length=256)]


class Said(BaseModel):
    """To one model. The last command is the one that holds, so none is given beside another; a pause is a state."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    promote: Text = ""
    abort: Text = ""
    retry: Text = ""
    rollback: Text = ""
    paused: bool | None = None
    """None: what the file says holds."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)

    models: dict[str, Said] = {}


class Commands:
    """The file of one endpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._said: Mapping[str, Said] = {}

    @property
    def said(self) -> Mapping[str, Said]:
        """By model, as the file has it now; a file that cannot be read changes nothing."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_ino)
            if seen != self._seen:
                self._said = _File.model_validate_json(self._path.read_bytes()).models
                self._seen = seen
        except FileNotFoundError:
            self._said, self._seen = {}, None
        except (OSError, ValidationError):
            pass
        return self._said

    def say(self, model: str, said: Said) -> None:
        """Replace the file as a whole. Raises OSError."""
        self._write({**self.said, model: said})

    def _write(self, models: dict[str, Said]) -> None:
        if not models:
            self._path.unlink(missing_ok=True)
            return
        text = _File(models=models).model_dump_json(indent=1)
        with tempfile.NamedTemporaryFile("w", dir=self._path.parent, suffix=".tmp", delete=False) as file:
            file.write(text)
        Path(file.name).replace(self._path)

    def begin(self) -> None:
        """Forget what was said to an earlier `up`, but for a pause: that is a state that somebody wants. Raises
        OSError."""
        kept = {name: Said(paused=True) for name, said in self.said.items() if said.paused}
        self._write(kept)

    def applied(self, models: Sequence[ModelDeployment]) -> list[ModelDeployment]:
        """The models with what was said to them."""
        said = self.said
        return [_applied(model, said[name]) if (name := model.metadata.name) in said else model for model in models]


def _applied(model: ModelDeployment, said: Said) -> ModelDeployment:
    given = {key: value for name, key in ANNOTATIONS.items() if (value := getattr(said, name))}
    others = {key: value for key, value in model.metadata.annotations.items() if key not in ANNOTATIONS.values()}
    annotations = {**others, **given} if given else model.metadata.annotations
    metadata = model.metadata.model_copy(update={"annotations": annotations})
    spec = model.spec
    if said.paused is not None:
        rollout = spec.rollout.model_copy(update={"paused": said.paused})
        spec = spec.model_copy(update={"rollout": rollout})
    return model.model_copy(update={"metadata": metadata, "spec": spec})
