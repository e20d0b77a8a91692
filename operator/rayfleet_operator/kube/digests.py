"""Whether an object changed in anything that matters: KubeRay writes its status every few seconds, and the operator
writes statuses itself."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any

from rayfleet_operator.kube.client import Json
from rayfleet_operator.kube.kinds import MODEL_DEPLOYMENT, MODEL_FLEET, Kind

DIGESTS = 20_000
"""Objects whose last look is remembered; an older one may wake its fleet once for nothing."""
PASSING = {"resourceVersion", "managedFields", "lastUpdateTime"}
"""Fields that say nothing by themselves."""
OURS = (MODEL_DEPLOYMENT, MODEL_FLEET)
"""Their statuses are written by the operator. Which conditions hold, and why, is news, to another fleet too; words and
numbers are not: they would have every pass that writes them followed by the next one at once."""


class Digests:
    """Whether anything that matters has changed in an object since it was last seen."""

    def __init__(self, limit: int = DIGESTS) -> None:
        self._limit = limit
        self._seen: OrderedDict[tuple[Kind, str, str], bytes] = OrderedDict()

    def differs(self, kind: Kind, obj: Json, *, deleted: bool) -> bool:
        """Remembers the object as it is; one that is deleted differs, and is forgotten."""
        key = (kind, obj["metadata"]["namespace"], obj["metadata"]["name"])
        before = self._seen.pop(key, None)
        if deleted:
            return True
        self._seen[key] = now = _digest(_without_words(obj) if kind in OURS else obj)
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        return now != before


def _without_words(obj: Json) -> Json:
    status = obj.get("status") or {}
    told = [{name: each.get(name) for name in ("type", "status", "reason")} for each in status.get("conditions") or []]
    return {**obj, "status": {"conditions": told, "observedGeneration": status.get("observedGeneration")}}


def _digest(obj: Json) -> bytes:
    text = json.dumps(_lasting(obj), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(each) for name, each in value.items() if name not in PASSING}
    if isinstance(value, list):
        return [_lasting(each) for each in value]
    return value
