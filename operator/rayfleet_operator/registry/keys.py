"""Keys that never name two different things, and places as replicas are told of them."""

from __future__ import annotations

import hashlib
import json

from rayfleet_operator.registry.uri import FileUri, parse


def key(*parts: str | int) -> str:
    """ "sha256-<64 hex digits>" over the parts."""
    return f"sha256-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def plain(location: str) -> str:
    """A file: location as a path; anything else as the server gave it."""
    uri = parse(location) if location.startswith("file:") else None
    return str(uri.path) if isinstance(uri, FileUri) else location
