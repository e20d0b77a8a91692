"""Upgrades, rollouts and silences in any order and at any pace: what answers goes on answering."""

from __future__ import annotations

import random
from typing import Any

import pytest

from .kuberay import Fleet
from .scenes import identity, model

MOVES = ["operator"] * 4 + ["kuberay"] * 4 + ["app", "router"] * 5 + ["pods", "alias", "silent", "forgetful", "routers"]
MODELS = {"a": 1, "b": 2}


ROLLOUTS: tuple[dict[str, Any], ...] = (
    {"strategy": "Immediate"},
    {
        "strategy": "Canary",
        "steps": [{"weight": 10, "hold": "4s"}, {"weight": 60, "hold": "4s"}],
        "scaleDownDelay": "4s",
    },
    {"strategy": "BlueGreen", "previewHold": "4s"},
)


def _started(rollout: dict[str, Any]) -> Fleet:
    fleet = Fleet(patient=True)
    for name, version in MODELS.items():
        fleet.add(name, version)
    spec = model("a", rollout=rollout).spec
    fleet.models["a"] = fleet.models["a"].model_copy(update={"spec": spec})
    fleet.step(25)
    assert all(fleet.answers(name) for name in MODELS)
    return fleet


@pytest.mark.parametrize("rollout", ROLLOUTS, ids=lambda rollout: str(rollout["strategy"]))
@pytest.mark.parametrize("seed", range(40))
def test_what_answers_goes_on_answering(seed: int, rollout: dict[str, Any]) -> None:
    chance = random.Random(seed)
    fleet = _started(rollout)
    log = []
    versions = 10
    for move in chance.choices(MOVES, k=chance.randint(20, 200)):
        log.append(move)
        known = sorted(fleet.clusters)
        some = fleet.clusters[chance.choice(known)]
        match move:
            case "operator":
                fleet.operator()
                fleet.hear()
            case "kuberay":
                fleet.kuberay()
            case "app" if some.serve.apps:
                some.serve.advance_app(chance.choice(sorted(some.serve.apps)))
            case "router" if some.serve.routers:
                some.serve.advance_router(chance.choice(some.serve.routers))
            case "pods":
                fleet.pods = chance.randint(0, 2)
            case "alias":
                versions += 1
                fleet.wanted["a"] = identity(versions, "a")
            case "silent":
                fleet.silent.add(some.name)
            case "forgetful":
                fleet.forgetful.add(some.name)
            case "routers":
                some.serve.silent = True
        for each in fleet.clusters.values():
            each.head, each.workers = True, min(len(each.serve.routers), 2)
        for name in MODELS:
            assert fleet.answers(name), f"{name} is out of service after {log}, followed {fleet.followed}"
    fleet.hear()
    fleet.step(120)
    assert len(fleet.clusters) == 1, "and everything comes to rest"
    assert fleet.serving.pods == fleet.pods
    assert {name: fleet.weights(name) for name in MODELS} == {
        name: {found.version: 100} for name, found in fleet.wanted.items()
    }
    assert fleet.planned is not None
    assert fleet.planned.requeue_after is None
