"""How many files and connections the process may have open at a time."""

from __future__ import annotations

import contextlib
import resource


def allow_most() -> int:
    """Raise this process's limit as far as it may do so itself; returns the limit that holds now.

    Each Secret and ConfigMap that a model names is a watch, and so a connection, of its own. Many systems begin with
    1024, for the sake of programs that call select().
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems take no limit as high as the one they name.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft
