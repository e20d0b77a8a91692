"""The parts of MLflow's REST answers that rayfleet reads. Its JSON leaves out what is empty, hence the defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Version(Answer):
    name: str
    version: int
    source: str = ""
    status: str = "READY"
    status_message: str = ""
    current_stage: str = "None"
    run_id: str = ""
    """The run that made it, as whoever registered it said."""
    creation_timestamp: int = 0
    """Milliseconds since 1970, by the server's clock."""


class VersionAnswer(Answer):
    model_version: Version


class Versions(Answer):
    model_versions: list[Version] = []
    next_page_token: str = ""
    """Of a search; "" on the last page."""


class Tag(Answer):
    key: str
    value: str = ""


class Tagged(Answer):
    tags: list[Tag] = []


class TaggedAnswer(Answer):
    model_version: Tagged


class Location(Answer):
    artifact_uri: str


class Alias(Answer):
    alias: str
    version: int


class RegisteredModel(Answer):
    name: str
    latest_versions: list[Version] = []
    """The newest of each stage."""
    aliases: list[Alias] = []
    last_updated_timestamp: int = 0
    """When one of its versions last changed its stage, was made or deleted; milliseconds since 1970."""


class RegisteredModelAnswer(Answer):
    registered_model: RegisteredModel


class RegisteredModels(Answer):
    registered_models: list[RegisteredModel] = []


class LoggedModelInfo(Answer):
    model_id: str
    name: str = ""
    artifact_uri: str
    status: str
    creation_timestamp_ms: int = 0
    """Milliseconds since 1970, by the server's clock."""


class LoggedModel(Answer):
    info: LoggedModelInfo


class LoggedModelAnswer(Answer):
    model: LoggedModel


class LoggedModels(Answer):
    models: list[LoggedModel] = []


class RunInfo(Answer):
    experiment_id: str
    artifact_uri: str = ""
    lifecycle_stage: Literal["active", "deleted"] = "active"
    status: str = ""
    """RUNNING, SCHEDULED, FINISHED, FAILED or KILLED."""
    end_time: int = 0
    """Milliseconds since 1970, by the clock of who ended it; 0 for one that did not end."""


class Run(Answer):
    info: RunInfo


class RunAnswer(Answer):
    run: Run


class File(Answer):
    path: str


class Files(Answer):
    files: list[File] = []
