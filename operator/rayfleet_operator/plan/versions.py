"""What becomes of one version of a model."""

from __future__ import annotations

from dataclasses import dataclass

WAITING = "Waiting"
DRAINING = "Draining"


@dataclass(frozen=True)
class VersionPlan:
    """One live version of a model after this plan is applied."""

    version: str
    model_id: str
    app: str
    weight: int
    """Percent of the model's requests."""
    state: str
    """Serve's ApplicationStatus, or "Waiting" (not given to Serve yet) or "Draining" (on its way out)."""
    message: str = ""
    replicas_running: int | None = None
    """Replicas that answer; None where Serve does not say."""
    replicas_target: int | None = None
    """Replicas that Serve is working towards; None where Serve does not say."""
