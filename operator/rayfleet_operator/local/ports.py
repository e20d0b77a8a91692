"""Ports on this machine."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection

LOOPBACK = "127.0.0.1"
RANGE = range(30_000, 32_768)
"""Linux gives connections those from 32768 on, and macOS from 49152 on: one of theirs could be a connection's before it
is listened on. Replicas have those below."""


class NoFreePortError(Exception):
    """Others listen on nearly all of them."""


def free(count: int, *, but: Collection[int] = ()) -> list[int]:
    """Ports that nobody listens on now, each another one, and none of those in `but`, which somebody will listen on.

    They are not reserved. Raises NoFreePortError.
    """
    found = []
    for port in random.sample(RANGE, len(RANGE)):
        if port not in but and not taken(port):
            found.append(port)
            if len(found) == count:
                return found
    raise NoFreePortError(
        f"{count} ports between {RANGE.start} and {RANGE.stop - 1} are needed, and {len(found)} are free"
    )


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
