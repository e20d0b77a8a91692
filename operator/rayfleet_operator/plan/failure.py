"""What other programs say went wrong, as a person is told of it."""

from __future__ import annotations

import re

from rayfleet_operator.api.problems import harmless

MAX_LINES = 6
MAX_CHARACTERS = 1000

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OURS = re.compile(r"^rayfleet_serving\.model\.errors\.LoadError: ")
_FRAME = re.compile(r'\s*File "[^"]+", line \d+')


def brief(text: str) -> str:
    """Another program's words as a condition may hold them: harmless, and at most `MAX_CHARACTERS`."""
    # What is cut off anyway need not be looked at.
    text = harmless(text[: MAX_CHARACTERS + 1])
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def cause(message: str) -> str:
    """The exception at the end of the last traceback in `message`, or the message's last lines where there is none.

    A replica that fails to start is reported as the controller's sentence, Ray's traceback, and inside it the model's
    own; only the last exception's text is about the model. That text is the model's, and is made harmless.
    """
    lines = [line.rstrip() for line in _COLOUR.sub("", message).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if _FRAME.match(line)]
    if frames:
        after = lines[frames[-1] + 1 :]
        # The frame's own source line and its markers are indented; the exception's first line is not.
        start = next((number for number, line in enumerate(after) if not line[0].isspace()), 0)
        lines = after[start:] or lines
    return brief(_OURS.sub("", "\n".join(lines[:MAX_LINES] if frames else lines[-MAX_LINES:])))
