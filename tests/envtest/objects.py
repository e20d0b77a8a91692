"""Our kinds on a real API server, over one connection: what it answers, field by field."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx
from api.api_server import UNKNOWN, Refusal

Json = dict[str, Any]

GROUP = "/apis/rayfleet.io/v1alpha1"
PLURALS = {"ModelDeployment": "modeldeployments", "ModelFleet": "modelfleets"}

PHRASES = {
    UNKNOWN: "unknown field",
    "wrong type": "must be of type",
    "not in enum": "supported values",
    "too small": "should be greater than",
    "too large": "should be less than",
    "too short": "should be at least",
    "too long": "may not be more than",
    "does not match": "should match",
    "too few": "should have at least",
    "too many": "must have at most",
    "required": "Required value",
    "there twice": "Duplicate value",
}
"""How the API server says what the stand-in finds in a schema; a rule's message it repeats."""

SKIPPED = "some validation rules were not checked"


@dataclass(frozen=True)
class Answer:
    """What the API server said to one request."""

    code: int
    body: Json
    warnings: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        return self.code in (200, 201)

    @property
    def causes(self) -> list[Refusal]:
        """Each field that is refused, and why."""
        if self.accepted:
            return []
        message = str(self.body["message"])
        if "strict decoding error" in message:
            return [Refusal(field, "unknown field") for field in re.findall(r'unknown field "([^"]*)"', message)]
        causes = self.body.get("details", {}).get("causes", [])
        # The scale subresource reads the numbers of replicas once more, by itself.
        known = [each for each in causes if "field" in each and not each["field"].startswith(".")]
        return [Refusal(each["field"], each["message"]) for each in known if SKIPPED not in each["message"]]


class Objects:
    """Objects of our kinds in one namespace, written under strict field validation."""

    def __init__(self, client: httpx.Client, namespace: str = "default") -> None:
        self._client = client
        self.namespace = namespace
        if namespace != "default":
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            client.post("/api/v1/namespaces", json=body).raise_for_status()

    def _ask(
        self, method: str, path: str, body: Json | None = None, kind: str = "application/json", **more: str
    ) -> Answer:
        content = None if body is None else json.dumps(body)
        found = self._client.request(
            method, path, content=content, headers={"content-type": kind}, params={"fieldValidation": "Strict", **more}
        )
        return Answer(found.status_code, found.json(), tuple(found.headers.get_list("warning")))

    def _path(self, kind: str, *rest: str) -> str:
        return "/".join((GROUP, "namespaces", self.namespace, PLURALS[kind], *rest))

    def try_out(self, obj: Json) -> Answer:
        """Create the object without keeping it."""
        return self._ask("POST", self._path(obj["kind"]), obj, dryRun="All")

    def create(self, obj: Json) -> Answer:
        return self._ask("POST", self._path(obj["kind"]), obj)

    def get(self, kind: str, name: str) -> Json:
        return self._ask("GET", self._path(kind, name)).body

    def apply(self, obj: Json, manager: str, *, part: str = "", force: bool = False) -> Answer:
        """Server-side apply, of the object or of a part such as status."""
        path = self._path(obj["kind"], obj["metadata"]["name"], *([part] if part else []))
        return self._ask(
            "PATCH", path, obj, "application/apply-patch+yaml", fieldManager=manager, force=str(force).lower()
        )

    def merge(self, obj: Json, *, part: str = "") -> Answer:
        """A merge patch."""
        path = self._path(obj["kind"], obj["metadata"]["name"], *([part] if part else []))
        return self._ask("PATCH", path, obj, "application/merge-patch+json")


def says(cause: Refusal, found: Refusal) -> bool:
    """Whether the API server's cause is what the stand-in found."""
    if cause.path != found.path:
        return False
    phrase = PHRASES.get(found.why)
    return re.search(phrase, cause.why) is not None if phrase else found.why in cause.why
