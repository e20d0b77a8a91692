"""What becomes of one version of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WAITING = "Waiting"
DRAINING = "Draining"
UNKNOWN = "Unknown"
"""Serve does not say. Whatever the model's status said of it goes on."""

FAILED: Literal["Failed"] = "Failed"
"""In the model's status: it could not start. So it stays until it runs, however often it is tried again."""


@dataclass(frozen=True)
class VersionPlan:
    """One live version of a model after this plan is applied."""

    version: str
    model_id: str
    app: str
    weight: int
    """Percent of the model's requests."""
    state: str
    """Serve's ApplicationStatus, or "Waiting" (not given to Serve yet), "Draining" (on its way out) or "Unknown"."""
    message: str = ""
    replicas_running: int | None = None
    """Replicas that answer; None where Serve does not say."""
    replicas_target: int | None = None
    """Replicas that Serve is working towards; None where Serve does not say."""
    failure: str | None = None
    """Why it failed to start before, while it is tried again; else None."""
    name: str = ""
    """In `spec.traffic`; "" for the model's own."""
    mirror: int = 0
    """Percent of the others' requests of which it gets a copy."""
