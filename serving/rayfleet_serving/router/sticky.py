"""The same caller, the same version: a consistent choice by a request's header or cookie."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

from rayfleet_serving.config import Sticky

Version = TypeVar("Version")


def caller(sticky: Sticky, headers: Mapping[bytes, bytes]) -> bytes | None:
    """Who asks; None where the request does not say."""
    if sticky.header is not None:
        return headers.get(sticky.header.encode()) or None
    name = (sticky.cookie or "").encode()
    for pair in headers.get(b"cookie", b"").split(b";"):
        key, found, value = pair.strip().partition(b"=")
        if found and key == name:
            return value.strip() or None
    return None


def choose(who: bytes, salt: str, versions: Sequence[tuple[Version, int]]) -> Version:
    """The version of a caller. `versions` have weights that sum to 100. One that grows takes callers from the one after
    it, or before it, and none moves between others, if what lies beyond keeps its weight.

    Another `salt` makes other callers come first.
    """
    digest = hashlib.blake2b(who, digest_size=8, key=hashlib.blake2b(salt.encode(), digest_size=16).digest()).digest()
    place = int.from_bytes(digest, "big") / 2**64 * 100
    reached = 0
    for version, weight in versions:
        reached += weight
        if place < reached:
            return version
    return versions[-1][0]
