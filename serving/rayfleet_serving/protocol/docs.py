"""The documentation page: Swagger UI (see router/static/NOTICE), served from this package, so that it works offline."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

STATIC = files("rayfleet_serving.router") / "static"
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "docs.html": "text/html; charset=utf-8",
}
"""What the page loads, and its content type. No other name is ever opened."""


def page() -> bytes:
    """The HTML of `/docs`. Everything it loads lies under `/docs/` and `/openapi.json`."""
    return _read("docs.html")


def asset(name: str) -> tuple[bytes, str] | None:
    """A file the page loads, and its content type; None where there is no such file."""
    return (_read(name), ASSETS[name]) if name in ASSETS else None


@cache
def _read(name: str) -> bytes:
    return (STATIC / name).read_bytes()
