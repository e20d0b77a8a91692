"""The environment of a local Ray: what Ray, Serve and HAProxy read from it, and why it is set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rayfleet_serving.environment import SERVE

SESSION = "RAYFLEET_SESSION"
"""Marks every process of one session."""

INGRESS_PORTS = range(20_000, 30_000, 500)
"""Where one session's 500 ports of router replicas may begin: below the ports that systems give to clients, and seldom
the same for two sessions. Two sessions in one range would only try more ports."""

FREE_PORTS = 4
"""How many ports `variables` takes."""


def variables(
    environ: Mapping[str, str],
    *,
    session: str,
    token_path: Path,
    folder: Path,
    free: list[int],
    ingress_port: int,
    haproxy: str | None,
) -> dict[str, str]:
    """`environ` with all that a local Ray needs. Serve's own variables may be given in it, and then hold.

    `folder` is for HAProxy's files; `free` are ports that nobody uses; router replicas take theirs from `ingress_port`
    on. `haproxy` is the command that runs HAProxy, None where there is none.
    """
    # These would make this Ray join another, or show another's token.
    own = {key: value for key, value in environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    own |= {
        SESSION: session,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Despite its name it acts on Linux as well: the node's address is then 127.0.0.1 and not that of a network, so
        # nothing listens outside, and a laptop may change networks.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    on = own.get("RAY_SERVE_ENABLE_HA_PROXY", "0" if haproxy is None else "1")
    defaults = {
        **SERVE,
        "RAY_SERVE_ENABLE_HA_PROXY": on,
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": on,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free[0]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free[1]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ingress_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ingress_port + INGRESS_PORTS.step - 1),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free[2]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free[3]),
    }
    if haproxy is not None:
        defaults["RAY_SERVE_HAPROXY_BINARY_PATH"] = haproxy
    return {**defaults, **own}
