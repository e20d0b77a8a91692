"""Models on one GPU, of which one goes first, on a real Ray: `-s` shows the figures.

The GPU is a logical one. What makes the models wait for each other there is a file that a call locks while it computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import numpy as np
import pytest
from closed_loop import Load, closed_loop, until
from mlflow.models import infer_signature
from model_files import write_model
from rayfleet_up import RayfleetUp

pytestmark = pytest.mark.timeout(600)

BODY = {"instances": [[1.0, 2.0]]}
TURN_S = 0.05
TARGET_S = 0.3
"""Two callers wait for two turns where the model is alone, and for ten where four others want theirs as well."""
FIRST = {
    "resources": {"cpu": "0.05", "gpu": "0.2"},
    "autoscaling": {"maxReplicas": 1, "latency": {"percentile": 90, "target": f"{TARGET_S * 1e3:g}ms"}},
}
LESSER = {"resources": {"cpu": "0.05", "gpu": "0.2"}, "replicas": 4}
APART = {"resources": {"cpu": "0.05"}, "priority": -5}
"""Below both, and not on their GPU."""
WHY = "Model lesser yields to model first, which has a higher priority on the same GPU."

CODE = """
import fcntl, time
import mlflow.pyfunc

class Turns(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        with open({file!r}, "a") as device:
            fcntl.flock(device, fcntl.LOCK_EX)
            time.sleep({seconds})
        return model_input.sum(axis=1)

mlflow.models.set_model(Turns())
"""


def save(folder: Path, device: str) -> Path:
    """A model whose calls take turns on a device."""
    code = folder / f"{device}.py"
    code.write_text(CODE.format(file=str(folder / f"{device}.lock"), seconds=TURN_S))
    signature = infer_signature(np.zeros((2, 2)), np.zeros(2))
    mlflow.pyfunc.save_model(folder / device, python_model=str(code), signature=signature, pip_requirements=[])
    return folder / device


class Card:
    """The models on one GPU, and one that is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        self.folder.mkdir()
        self._shared, self._own = save(folder, "shared"), save(folder, "own")
        self.write("first", **FIRST)
        self.write("lesser", **LESSER)
        self.write("apart", **APART)

    def write(self, name: str, **spec: Any) -> None:
        model = {"uri": str(self._own if name == "apart" else self._shared), "allowCodeExecution": True}
        write_model(self.folder, name, "", **{"batching": {"maxBatchSize": 1, "maxWait": "0s"}, **spec, "model": model})


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    return Card(tmp_path_factory.mktemp("priorities"))


@pytest.fixture(scope="module")
def up(card: Card) -> Iterator[RayfleetUp]:
    with RayfleetUp([card.folder], folder=card.folder.parent / "up", options=["--gpus", "1"]) as up:
        up.wait_ready("first", "lesser", "apart")
        yield up


def took(load: Load, last: int = 0) -> float:
    """What nine of ten took, of all or the last so many, in seconds; infinite while there are fewer."""
    answers = load.answers[-last:]
    if len(answers) < max(last, 1):
        return float("inf")
    return float(np.percentile([each.answered - each.sent for each in answers], 90))


def let_in(up: RayfleetUp, name: str) -> list[float]:
    """The share of requests that each router lets in."""
    text = httpx.get(f"{up.url}/metrics", timeout=60, trust_env=False).text
    found = re.findall(rf'^rayfleet_admitted_ratio{{model="{name}"[^}}]*}} (\S+)$', text, re.MULTILINE)
    return [float(each) for each in found]


async def test_the_more_important_one_gets_its_latency_back_and_the_lesser_recovers(up: RayfleetUp, card: Card) -> None:
    pids = {name: set(up.replicas(name)) for name in ("first", "lesser", "apart")}
    assert [len(each) for each in pids.values()] == [1, 4, 1]

    async def answered(load: Load, more: int) -> None:
        seen = len(load.answers)
        await until(f"{more} more answers", lambda: len(load.answers) >= seen + more)

    async with (
        closed_loop(up.url, "/apart/predict", BODY, clients=1) as apart,
        closed_loop(up.url, "/lesser/predict", BODY, clients=16, pause_s=0.1) as lesser,
    ):
        async with closed_loop(up.url, "/first/predict", BODY, clients=2) as first:
            # Alike, nobody yields, and the one with fewer replicas and callers is the one that waits.
            await answered(first, 60)
            alike = took(first, 40)
            assert alike > TARGET_S
            assert lesser.failed == []
            assert let_in(up, "lesser") == [1.0, 1.0]

            card.write("first", **FIRST, priority=10)
            await until("the lesser one is refused", lambda: lesser.failed)
            await until("the latency is back", lambda: took(first, 20) < TARGET_S)
            await answered(first, 200)
            goes_first = took(first, 200)
            print(f"\nalike: p90 {alike * 1e3:.0f} ms; first: p90 {goes_first * 1e3:.0f} ms of 200")
            assert goes_first < alike
            in_time = [each.answered - each.sent < TARGET_S for each in first.answers[-200:]]
            assert np.mean(in_time) > 0.6, "but for the seconds in which it is found out how much is too much"
        await until("everybody is let in again", lambda: let_in(up, "lesser") == [1.0, 1.0])
        await answered(lesser, 50)
    print(f"first: {first.summary()}\nlesser: {lesser.summary()}\napart: {apart.summary()}")
    assert first.failed == []
    assert apart.failed == []
    assert {(each.status, WHY in each.detail) for each in lesser.failed} == {(429, True)}
    assert all(1 <= int(each.retry_after or 0) <= 10 for each in lesser.failed)
    assert [each for each in lesser.answers[-40:] if each.status != 200] == [], "it has recovered"
    assert sum(each.status == 200 for each in lesser.answers) > 100
    assert {name: set(up.replicas(name)) for name in pids} == pids, "a priority changes in place"
