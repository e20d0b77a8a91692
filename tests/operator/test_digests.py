"""Which changes of objects are news."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayfleet_operator.kube.digests import Digests
from rayfleet_operator.kube.kinds import MODEL_DEPLOYMENT, MODEL_FLEET, RAY_SERVICE, Kind

SERVICE: dict[str, Any] = {
    "metadata": {
        "namespace": "ml",
        "name": "vision",
        "generation": 3,
        "resourceVersion": "100",
        "labels": {"a": "b"},
        "managedFields": [{"time": "2026-01-01T00:00:00Z"}],
    },
    "spec": {"serveConfigV2": "x"},
    "status": {
        "lastUpdateTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "Ready", "status": "False"}],
        "activeServiceStatus": {"rayClusterStatus": {"lastUpdateTime": "2026-01-01T00:00:00Z", "state": "ready"}},
    },
}


MODEL: dict[str, Any] = {
    "metadata": {"namespace": "ml", "name": "web", "generation": 3, "resourceVersion": "100"},
    "spec": {"model": {"uri": "models:/web/1"}},
    "status": {
        "observedGeneration": 3,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "version 1 answers"}],
        "replicas": 1,
        "versions": [{"name": "1", "app": "web-1", "weight": 100}],
    },
}


def changed(path: str, value: Any, of: dict[str, Any] = SERVICE) -> dict[str, Any]:
    obj = copy.deepcopy(of)
    *above, last = path.split(".")
    part: Any = obj
    for name in above:
        part = part[int(name)] if name.isdecimal() else part.setdefault(name, {})
    part[last] = value
    return obj


@pytest.mark.parametrize(
    ("path", "value", "news"),
    [
        ("metadata.resourceVersion", "101", False),
        ("metadata.managedFields", [], False),
        ("status.lastUpdateTime", "2026-01-01T00:00:05Z", False),
        ("status.activeServiceStatus.rayClusterStatus.lastUpdateTime", "2026-01-01T00:00:05Z", False),
        ("metadata.generation", 4, True),
        ("metadata.labels.a", "c", True),
        ("metadata.annotations.a", "c", True),
        ("metadata.deletionTimestamp", "2026-01-01T00:00:05Z", True),
        ("spec.serveConfigV2", "y", True),
        ("status.conditions.0.status", "True", True),
        ("status.activeServiceStatus.rayClusterStatus.state", "failed", True),
        ("status.pendingServiceStatus.rayClusterName", "b", True),
    ],
)
def test_only_what_matters_is_news(path: str, value: Any, news: bool) -> None:
    digests = Digests()
    assert digests.differs(RAY_SERVICE, SERVICE, deleted=False)
    assert digests.differs(RAY_SERVICE, changed(path, value), deleted=False) is news


@pytest.mark.parametrize("kind", [MODEL_DEPLOYMENT, MODEL_FLEET])
@pytest.mark.parametrize(
    ("path", "value", "news"),
    [
        ("metadata.resourceVersion", "101", False),
        ("status.conditions.0.message", "a webhook is not well", False),
        ("status.replicas", 2, False),
        ("status.versions.0.weight", 10, False),
        ("status.conditions.0.status", "False", True),
        ("status.conditions.0.reason", "NotServing", True),
        ("status.conditions", [], True),
        ("status.observedGeneration", 4, True),
        ("status", None, True),
        ("spec.model.uri", "models:/web/2", True),
        ("metadata.annotations.a", "c", True),
        ("metadata.deletionTimestamp", "2026-01-01T00:00:05Z", True),
    ],
)
def test_what_the_operator_says_in_other_words_is_no_news(kind: Kind, path: str, value: Any, news: bool) -> None:
    digests = Digests()
    assert digests.differs(kind, MODEL, deleted=False)
    assert digests.differs(kind, changed(path, value, MODEL), deleted=False) is news


def test_an_object_that_is_deleted_and_made_again_is_news() -> None:
    digests = Digests()
    assert [digests.differs(RAY_SERVICE, SERVICE, deleted=deleted) for deleted in (False, True, True, False)] == [
        True
    ] * 4


def test_what_is_remembered_is_bounded() -> None:
    digests = Digests(limit=2)
    names = ["a", "b", "c"]
    for name in names:
        digests.differs(RAY_SERVICE, changed("metadata.name", name), deleted=False)

    news = [digests.differs(RAY_SERVICE, changed("metadata.name", name), deleted=False) for name in reversed(names)]
    assert news == [False, False, True]
