"""Numbers over time as a picture. Needs matplotlib, which the rest of rayfleet does without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

ENDINGS = (".png", ".svg", ".pdf")
Line = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One of the diagrams that stand below each other; all have the same times, in seconds."""

    title: str
    lines: Mapping[str, Line]
    """Times and values by name."""
    steps: bool = False
    """Values hold until the next one."""
    limit: tuple[str, float] | None = None
    """A name, and a value that is marked across."""


def check(path: Path) -> None:
    """Raises ClickException where no picture can be written there: before the work, not after it."""
    name = click.format_filename(path)
    if path.suffix.lower() not in ENDINGS:
        raise click.ClickException(f"{name} is no picture's name; it ends in one of {', '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise click.ClickException(f"{name} cannot be written: there is no such folder")
    if find_spec("matplotlib") is None:
        right = "pip install 'rayfleet[plot]', or leave --plot out"
        raise click.ClickException(f"a picture needs matplotlib, which is not installed; {right}")


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write the picture; of what kind it is, its ending says. Raises ClickException where that is not possible."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6 * len(panels)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, axis in zip(panels, axes, strict=True):
        axis.set_title(panel.title, loc="left", fontsize=10)
        for name, (times, values) in panel.lines.items():
            axis.plot(times, values, label=name, linewidth=1.2, drawstyle="steps-post" if panel.steps else "default")
        if panel.limit is not None:
            name, value = panel.limit
            axis.axhline(value, color="black", linestyle="--", linewidth=1, label=name)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(panel.lines) > 1 or panel.limit is not None:
            axis.legend(fontsize=8)
    axes[-1].set_xlabel("seconds")
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise click.ClickException(f"{click.format_filename(path)} cannot be written: {error.strerror}") from error
