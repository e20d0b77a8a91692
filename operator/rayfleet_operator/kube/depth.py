"""How deep objects may be nested that the API server hands out.

Templates of pods take whatever fields people write, to the depth that Go reads. One object that Python could not read
would be in every list, and end the work for everybody.
"""

from __future__ import annotations

import sys

DEEPEST = 10_000
"""Levels of JSON that Go reads, and so the API server takes."""
AROUND = 2_000
"""Levels of calls around the reading. All of it needs less than 2 MB of stack, the least that a thread has on Linux."""


def read_deep_answers() -> None:
    """From now on json reads in every thread of the process what the API server may answer."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), DEEPEST + AROUND))
