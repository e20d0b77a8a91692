"""A stand-in for Ray's dashboard and for the routers' endpoint: a small HTTP server that answers as they do.

It keeps the config it was given and shows its applications. It checks no schema; Ray's own is tested with the planner.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.token: str | None = None
        """When set, what a request must show."""
        self.config: dict[str, Any] | None = None
        """The config last put; None while Serve is not running."""
        self.nodes: list[dict[str, Any]] | None = None
        """What its state API tells of nodes; None for a Ray that has none."""
        self.answer: tuple[int, bytes] | None = None
        """When set, the status and body of every answer."""
        self.refuses = b""
        """When set, each PUT is answered 500 and this."""
        self.silent = threading.Event()
        """Until this is set no request is answered, where `hold` is True."""
        self.hold = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that stopped waiting is what some tests are about."""

    def details(self) -> dict[str, Any]:
        """As `ServeInstanceDetails`, for applications whose replicas have not been placed yet."""
        entries = (self.config or {}).get("applications", [])
        return {
            "applications": {
                entry["name"]: {
                    "name": entry["name"],
                    "status": "DEPLOYING",
                    "message": "",
                    "last_deployed_time_s": 1772366400.0,
                    "deployed_app_config": entry,
                    "deployments": {},
                }
                for entry in entries
            }
        }


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.hold:
            self.server.silent.wait()
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._send(403, b"invalid token")
        if self.server.answer is not None:
            return self._send(*self.server.answer)
        if self.path.startswith("/api/v0/nodes") and self.server.nodes is not None:
            return self._send(200, json.dumps({"data": {"result": {"result": self.server.nodes}}}).encode())
        if self.path != "/api/serve/applications/":
            return self._send(404, b"not found")
        if self.command == "PUT" and self.server.refuses:
            return self._send(500, self.server.refuses)
        if self.command == "PUT":
            self.server.config = json.loads(body)
        if self.command == "DELETE":
            self.server.config = None
        return self._send(200, json.dumps(self.server.details()).encode() if self.command == "GET" else b"")

    do_GET = do_PUT = do_DELETE = handle_one  # noqa: N815 - the names that http.server looks for

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        """Keep the tests' output clean."""


@contextmanager
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.silent.set()
        server.shutdown()
        server.server_close()
        thread.join()
