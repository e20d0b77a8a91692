"""The token that each fleet's Ray asks for.

It is derived from a key of the operator's own, so a Secret that somebody deletes comes back as it was, and the pods
that hold its token go on working.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any

from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.errors import AlreadyExists, KubeError
from rayfleet_operator.kube.kinds import SECRET
from rayfleet_operator.render.names import TOKEN_KEY_ANNOTATION, FleetName, annotation

Json = dict[str, Any]

KEY_SECRET = "rayfleet-operator-key"  # noqa: S105 - its name
KEY = "key"
KEY_BYTES = 32


class TokenKey:
    """The operator's key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @property
    def fingerprint(self) -> str:
        """Tells keys apart, and nothing else about them."""
        return hashlib.sha256(b"rayfleet key " + self._key).hexdigest()[:16]

    def digest(self, data: Mapping[str, str]) -> str:
        """Tells the contents of Secrets and ConfigMaps apart, and nothing else about them.

        It begins with the key's fingerprint: digests of two keys differ whatever the contents are.
        """
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        found = hmac.new(self._key, b"data " + text.encode(), hashlib.sha256).hexdigest()[:16]
        return f"{self.fingerprint}.{found}"

    def token(self, fleet: FleetName, secret: Mapping[str, Any] | None) -> tuple[str, str]:
        """The fleet's token, and the fingerprint of the key that it was derived from.

        A token made with another key (of an operator that was here before) holds: the fleet's pods know no other.
        """
        if secret is not None:
            made_with = annotation(secret, TOKEN_KEY_ANNOTATION)
            known = _decoded((secret.get("data") or {}).get("auth_token"))
            if made_with not in ("", self.fingerprint) and known:
                return known, made_with
        message = f"{fleet.namespace}/{fleet.name}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest(), self.fingerprint


async def operator_key(client: KubeClient, namespace: str) -> TokenKey:
    """The key in the operator's namespace, made at the first start.

    Raises:
        KubeError: it can neither be read nor made.
    """
    for _ in range(3):
        found = await client.get(SECRET, namespace, KEY_SECRET)
        if found is not None:
            key = _bytes((found.get("data") or {}).get(KEY))
            if len(key) < KEY_BYTES:
                raise KubeError(
                    f"Secret {KEY_SECRET} in namespace {namespace} holds no key of {KEY_BYTES} bytes under {KEY!r}. "
                    f"Delete it, and restart the operator: running fleets keep their tokens."
                )
            return TokenKey(key)
        try:
            await client.create(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": KEY_SECRET, "namespace": namespace},
                    "data": {KEY: base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()},
                }
            )
        except AlreadyExists:
            continue  # another replica was faster
    raise KubeError(f"Secret {KEY_SECRET} in namespace {namespace} comes and goes")


def _decoded(value: object) -> str:
    try:
        return _bytes(value).decode("ascii")
    except UnicodeDecodeError:
        return ""


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except binascii.Error:
        return b""
