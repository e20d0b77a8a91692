"""Ports on this machine."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def free(count: int) -> list[int]:
    """Ports that nobody listens on now, each another one. They are not reserved."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


def taken(port: int) -> bool:
    """Whether something listens on this port of the loopback or of every interface.

    HAProxy sets SO_REUSEPORT and would share the port with another HAProxy without a word, so this must be asked
    first. Raises OSError where the port may not be used at all, as one below 1024.
    """
    with socket.socket() as probe:
        # As servers do: a connection that was closed a moment ago is no listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise
    return False
