"""Where a replica's log is: in the file that Serve keeps for it."""

from __future__ import annotations

import logging


def follow_serve() -> None:
    """Have Serve's handlers write what this package logs.

    Otherwise warnings go to standard error, which in a replica is Serve's log at INFO, and that is not kept.
    """
    logging.getLogger("rayfleet_serving").parent = logging.getLogger("ray.serve")
