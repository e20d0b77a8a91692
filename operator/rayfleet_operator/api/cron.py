"""Cron expressions of five fields, in a time zone.

As Debian's cron reads them: where day of month and day of week are both given, either one is enough. A time that a
change of the clock leaves out comes at the first minute after it; one that comes twice counts once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from rayfleet_operator.api import forms
from rayfleet_operator.api.base import failure

LONGEST = 100
"""Characters of an expression."""
_ANY_YEAR = datetime(2024, 1, 1, tzinfo=UTC)


def _field(unit: str) -> str:
    """One field, as a regular expression: a list of units, ranges or stars, each with a step."""
    one = rf"(\*|{unit}(-{unit})?)(/[1-9][0-9]?)?"
    return rf"{one}(,{one})*"


EXPRESSION = " ".join(
    _field(unit)
    for unit in (
        "[0-5]?[0-9]",
        "([01]?[0-9]|2[0-3])",
        "(0?[1-9]|[12][0-9]|3[01])",
        "(0?[1-9]|1[0-2]|[A-Za-z]{3})",
        "([0-7]|[A-Za-z]{3})",
    )
)
"""Five fields. A range that goes backwards, or a day that no month has, is told by `valid_cron` alone."""

ZONE = r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}"
"""What names of time zones look like; which ones there are, is told by `valid_zone` alone."""


def valid_cron(text: str) -> str:
    """Refuse an expression that names no time, or none that ever comes."""
    try:
        next(CronSim(text, _ANY_YEAR))
    except CronSimError as error:
        raise failure(
            f"{forms.shown(text)} names no time: {str(error).lower()}",
            "minute, hour, day of month, month and day of week, ranges upwards, like 30 8 * * MON-FRI",
        ) from None
    except StopIteration:
        raise failure(f"{forms.shown(text)} never comes", "name a day that there is") from None
    return text


def valid_zone(name: str) -> str:
    """Refuse a time zone that there is not."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise failure(
            f"{forms.shown(name)} is no time zone", "a name of the IANA database, like Europe/Berlin"
        ) from None
    return name


def next_start(expression: str, zone: str, after: datetime) -> datetime | None:
    """The first time after `after` that the expression names; None where there is none within fifty years.

    Args:
        expression: a valid one.
        zone: name of a time zone that there is.
        after: with a time zone.

    Returns: in UTC.
    """
    # Of an hour that comes twice it gives times of the first one, which may be over.
    try:
        return next(
            start for start in CronSim(expression, after.astimezone(ZoneInfo(zone))) if start.astimezone(UTC) > after
        ).astimezone(UTC)
    except (StopIteration, RuntimeError):
        return None
