"""Numbers over time as rows of blocks, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

LEVELS = " ▁▂▃▄▅▆▇█"
ASCII = " ._-=+*%#"


def bars(values: Sequence[float | None], *, height: int = 4, encoding: str | None = "utf-8") -> list[str]:
    """A column for each value, from 0 to the largest; nothing where a value is None or 0. `height` lines."""
    levels = LEVELS if _writes(encoding) else ASCII
    most = max((value for value in values if value is not None), default=0.0)
    steps = len(levels) - 1
    # What is there at all is seen, however small.
    filled = [max(1, round(value / most * height * steps)) if value and most else 0 for value in values]
    lines = []
    for line in reversed(range(height)):
        lines.append("".join(levels[min(steps, max(0, each - line * steps))] for each in filled))
    return lines


def chart(
    name: str, values: Sequence[float | None], most: str, *, height: int = 4, encoding: str | None = "utf-8"
) -> list[str]:
    """The bars, with a name above and what the highest one is, `most`, beside it."""
    lines = bars(values, height=height, encoding=encoding)
    return [f"{name}, at most {most}", *(f"  {line}" for line in lines)]


def _writes(encoding: str | None) -> bool:
    try:
        LEVELS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
