"""The API server's verbs, over plain dicts.

lightkube's own client was tried first. It has no preconditions for deletes, no resourceVersion for lists, it turns core
objects into classes of its own and drops fields that those do not know, and its watch neither asks for bookmarks nor
says where a relist begins. So the requests are made here, over httpx, and lightkube reads the configuration.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

from rayfleet_operator.bucket import TokenBucket
from rayfleet_operator.kube import errors, kinds, watching
from rayfleet_operator.kube.config import Connection
from rayfleet_operator.kube.kinds import Kind
from rayfleet_operator.kube.transport import Request, Transport
from rayfleet_operator.kube.watching import Changed, Listed
from rayfleet_operator.metrics import RequestMetrics

Json = dict[str, Any]

PAGE = 500
"""Objects in one answer, as client-go has it."""
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
"""Asks for nothing but each object's metadata, where the API server can do that."""
APPLY = "application/apply-patch+yaml"
"""YAML by name; JSON is YAML."""
JSON_PATCH = "application/json-patch+json"
NOTE_BYTES = 1024
"""The API server takes no longer note of an Event, in UTF-8."""
REPORTER = "rayfleet.io/operator"

logger = logging.getLogger(__name__)


class KubeClient:
    """One user at one API server. Every method raises a `KubeError` when it did not get what it asked for.

    `qps` requests a second over time and `burst` at once; None: without a limit. Watches do not count.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        qps: float | None = None,
        burst: int = 1,
        metrics: RequestMetrics | None = None,
        reporter: str | None = None,
    ) -> None:
        bucket = TokenBucket(qps, burst) if qps is not None else None
        self._transport = Transport(connection, bucket=bucket, metrics=metrics)
        self._reporter = reporter or socket.gethostname()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """The object as it is now; None when it is not there."""
        try:
            return await self._send("GET", kind, namespace, name, verb="get")
        except errors.NotFound:
            return None

    async def list(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        cached: bool = True,
        page: int = PAGE,
    ) -> list[Json]:
        """All objects of a namespace, or of every one for None, that the selectors pick.

        `cached` takes what the API server has in memory: cheap, and at most a moment old. Otherwise it is the state at
        one instant not before this call, read in pages.
        """
        return (await self._list(kind, namespace, labels, fields, cached=cached, page=page)).objects

    async def list_metadata(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, page: int = PAGE
    ) -> Sequence[Json]:
        """As `list`, read in pages, but of each object nothing but its `apiVersion`, `kind` and `metadata`."""
        return (await self._list(kind, namespace, labels, None, cached=False, page=page, accept=METADATA)).objects

    async def _list(
        self,
        kind: Kind,
        namespace: str | None,
        labels: str | None,
        fields: str | None,
        *,
        cached: bool,
        page: int = PAGE,
        accept: str | None = None,
    ) -> Listed:
        params = _selectors(labels, fields)
        # The API server ignores pages where it answers from memory.
        params |= {"resourceVersion": "0"} if cached else {"limit": str(page)}
        objects: list[Json] = []
        while True:
            try:
                answer = await self._send("GET", kind, namespace, verb="list", params=params, accept=accept)
            except errors.Gone:
                if "continue" not in params:
                    raise
                # The pages so far are too old to go on with: everything at once, as client-go does.
                params = _selectors(labels, fields)
                objects = []
                continue
            objects += answer.get("items") or []
            metadata = answer.get("metadata") or {}
            if not metadata.get("continue"):
                # Items of a list lack what the list says once for all of them, or call themselves metadata.
                for each in objects:
                    each |= {"apiVersion": kind.api_version, "kind": kind.name}
                return Listed(objects, str(metadata.get("resourceVersion", "")))
            params["continue"] = metadata["continue"]

    async def apply(self, obj: Json, *, field_manager: str, force: bool = False) -> Json:
        """Server-side apply: the fields given are as given and belong to `field_manager`, those given no more go.

        `force` takes fields over from other managers; without it, `Conflict` names them. Returns the object as it is.
        """
        return await self._apply(obj, None, field_manager, force)

    async def apply_status(self, obj: Json, *, field_manager: str, force: bool = False) -> Json:
        """As `apply`, but of the object's `status` alone; the object must be there."""
        return await self._apply(obj, "status", field_manager, force)

    async def _apply(self, obj: Json, subresource: str | None, manager: str, force: bool) -> Json:
        kind, metadata = kinds.kind_of(obj), obj["metadata"]
        return await self._send(
            "PATCH",
            kind,
            metadata["namespace"],
            metadata["name"],
            subresource=subresource,
            verb="apply",
            params={"fieldManager": manager, "force": "true" if force else "false"},
            body=obj,
            content_type=APPLY,
        )

    async def create(self, obj: Json) -> Json:
        """Returns the object as it is; `AlreadyExists` when one of that name is there."""
        return await self._send("POST", kinds.kind_of(obj), obj["metadata"]["namespace"], verb="create", body=obj)

    async def replace(self, obj: Json) -> Json:
        """Put the whole object in place of the one there; `Conflict` when its resourceVersion is an older one."""
        metadata = obj["metadata"]
        return await self._send(
            "PUT", kinds.kind_of(obj), metadata["namespace"], metadata["name"], verb="update", body=obj
        )

    async def patch_json(self, kind: Kind, namespace: str, name: str, operations: Sequence[Json]) -> Json:
        """JSON Patch; `Invalid` when a `test` in it fails. Returns the object as it is."""
        return await self._send(
            "PATCH", kind, namespace, name, verb="patch", body=list(operations), content_type=JSON_PATCH
        )

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str | None = None) -> bool:
        """Delete the object, and in the background what it owns. Returns False when it was not there.

        With `uid`, only that very object: `Conflict` when there is another of that name by now.
        """
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._send("DELETE", kind, namespace, name, verb="delete", body=body)
        except errors.NotFound:
            return False
        return True

    async def watch(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None
    ) -> AsyncGenerator[Listed | Changed]:
        """First all objects, then each change, for ever. `Listed` comes again whenever changes may have been missed.

        Outages of the API server are waited out. Raises `Forbidden`, `Unauthorized`, `NotFound` (the kind is unknown)
        and `Invalid` (a selector that cannot be).
        """
        source = watching.Source(
            transport=self._transport,
            kind=kind,
            path=kind.path(namespace),
            params=_selectors(labels, fields),
            about=_about("watch", kind, namespace),
        )

        async def relist() -> Listed:
            # A consistent read: after an outage, memory may be older than what was seen before.
            return await self._list(kind, namespace, labels, fields, cached=False)

        async with aclosing(watching.follow(source, relist)) as changes:
            async for change in changes:
                yield change

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server knows the kind."""
        try:
            answer = await self._transport.send(Request("GET", kind.root, f"ask for the kinds of {kind.api_version}"))
        except errors.NotFound:
            return False
        return any(resource.get("name") == kind.plural for resource in answer.get("resources", []))

    async def event(
        self,
        regarding: Json,
        *,
        reason: str,
        action: str,
        note: str,
        type: Literal["Normal", "Warning"] = "Normal",  # noqa: A002 - Kubernetes' name
    ) -> None:
        """Tell people who look at `regarding` (an object) that something happened to it.

        Each call makes one Event, so call it when something changes, not for as long as it lasts. An Event that cannot
        be written is logged: no reconcile fails for it.
        """
        metadata = regarding["metadata"]
        obj: Json = {
            "apiVersion": kinds.EVENT.api_version,
            "kind": kinds.EVENT.name,
            "metadata": {
                # As client-go names them; names of Events may have 253 characters.
                "name": f"{metadata['name'][:236]}.{os.urandom(8).hex()}",
                "namespace": metadata["namespace"],
            },
            "eventTime": micro_time(),
            "reportingController": REPORTER,
            "reportingInstance": self._reporter[:128],
            "regarding": _reference(regarding),
            "type": type,
            "reason": reason,
            "action": action,
            "note": _cut(note, NOTE_BYTES),
        }
        try:
            await self.create(obj)
        except errors.KubeError as error:
            logger.warning("No Event %s for %s: %s", reason, metadata["name"], error)

    async def _send(
        self,
        method: str,
        kind: Kind,
        namespace: str | None,
        name: str | None = None,
        *,
        verb: str,
        subresource: str | None = None,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str | None = None,
    ) -> Json:
        return await self._transport.send(
            Request(
                method=method,
                path=kind.path(namespace, name, subresource),
                about=_about(verb, kind, namespace, name, subresource),
                params=params,
                body=body,
                content_type=content_type,
                accept=accept,
            )
        )


def micro_time() -> str:
    """The time now as Kubernetes' MicroTime: RFC 3339 in UTC, with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _selectors(labels: str | None, fields: str | None) -> dict[str, str]:
    found = {"labelSelector": labels, "fieldSelector": fields}
    return {name: value for name, value in found.items() if value is not None}


def _about(
    verb: str, kind: Kind, namespace: str | None, name: str | None = None, subresource: str | None = None
) -> str:
    part = f"the {subresource} of " if subresource is not None else ""
    what = f"{kind} {name}" if name is not None else kind.plural
    where = f"in namespace {namespace}" if namespace is not None else "in all namespaces"
    return f"{verb} {part}{what} {where}"


def _cut(text: str, most: int) -> str:
    """The text, or so much of its beginning that it takes at most so many bytes."""
    encoded, mark = text.encode(errors="replace"), "…"
    if len(encoded) <= most:
        return text
    # What is cut through the middle of a character is dropped.
    return encoded[: most - len(mark.encode())].decode(errors="ignore") + mark


def _reference(obj: Json) -> Json:
    metadata = obj["metadata"]
    found = {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata.get("uid"),
        "resourceVersion": metadata.get("resourceVersion"),
    }
    return {name: value for name, value in found.items() if value is not None}
