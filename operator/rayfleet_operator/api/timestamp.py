"""Moments as Kubernetes writes them: RFC 3339, in UTC, to the second."""

from __future__ import annotations

from datetime import UTC, datetime


def stamp(moment: datetime) -> str:
    """`moment` has a time zone."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """Raises ValueError for what is none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
