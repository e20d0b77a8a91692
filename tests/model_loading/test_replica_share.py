"""A replica within its share: what it counts, what it tells, and that it takes new bounds."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest
from closed_loop import until
from mlflow.models import infer_signature
from model_loading import models
from model_loading.test_failures import replica  # noqa: F401 - a fixture

from rayfleet_serving.config import ModelArgs
from rayfleet_serving.link.call import Call
from rayfleet_serving.model import app, cuda
from rayfleet_serving.model.app import Model
from rayfleet_serving.model.errors import LoadError


class Lacking(mlflow.pyfunc.PythonModel):
    """Has memory for so many rows."""

    def __init__(self, most: int) -> None:
        self.most = most

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        if len(model_input) > self.most:
            raise MemoryError(f"{len(model_input)} rows")
        return model_input


def lacking(path: Path, most: int, *, example: bool = False) -> Path:
    rows = models.FEATURES[:1]
    more = {"input_example": rows} if example else {}
    signature = infer_signature(models.FEATURES, models.FEATURES)
    mlflow.pyfunc.save_model(path, python_model=Lacking(most), signature=signature, pip_requirements=[], **more)
    return path


async def sample(made: Any, name: str) -> float | None:
    """Its value in the replica's exposition; None where it is not there."""
    found = re.search(rf"^{name}{{[^}}]*}} (\S+)$", await made.exposition(), re.MULTILINE)
    return float(found[1]) if found else None


async def gone(made: Any) -> None:
    await Model.func_or_class.__del__(made)  # type: ignore[attr-defined]


async def test_batches_that_ran_out_of_memory_are_counted_and_answered_in_halves(tmp_path: Path, replica: Any) -> None:  # noqa: F811
    made = await replica(lacking(tmp_path / "model", 2))
    call = Call({"input": models.FEATURES[:8]}, [1] * 8, "tensor", {}, [30.0] * 8)
    assert (await made._batcher.infer(call)).failures == {}
    assert await sample(made, "rayfleet_out_of_memory_batches_total") == 3, "8 rows, and 4 twice"
    assert await sample(made, "rayfleet_compute_busy_seconds_total") > 0  # type: ignore[operator]
    assert await sample(made, "rayfleet_memory_used_bytes") > 2**20  # type: ignore[operator]
    assert await sample(made, "rayfleet_memory_cap_bytes") is None
    assert await sample(made, "rayfleet_gpu_memory_cap_bytes") is None
    await gone(made)


async def test_a_model_without_room_for_a_row_says_so_and_stays(tmp_path: Path, replica: Any) -> None:  # noqa: F811
    made = await replica(lacking(tmp_path / "model", 0))
    await made.reconfigure({})
    trouble = made._guard.look(0.0)
    assert trouble is not None
    assert trouble.reason == "OutOfMemory"
    assert "for a single row: MemoryError: 1 rows" in trouble.message
    made.check_health()
    await gone(made)


async def test_a_model_without_room_for_its_own_example_is_not_loaded(tmp_path: Path, replica: Any) -> None:  # noqa: F811
    with pytest.raises(LoadError, match="for a single row: MemoryError: 1 rows") as refused:
        await replica(lacking(tmp_path / "model", 0, example=True))
    assert refused.value.reason == "OutOfMemory"


async def test_a_new_timeout_is_a_new_bound(tmp_path: Path, replica: Any) -> None:  # noqa: F811
    made = await replica(lacking(tmp_path / "model", 9))
    await made.reconfigure({"stuck_after_s": 7.0})
    made._guard._stopped = True
    made._calls.since = 100.0
    looks = [made._guard.look(100.0 + second) for second in range(9)]
    assert [trouble is not None for trouble in looks] == [False] * 8 + [True]
    assert looks[-1].reason == "Stuck"
    made._calls.since = None
    await gone(made)


async def test_who_watches_is_there_before_the_model_takes_memory(
    tmp_path: Path,
    replica: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []
    load = app._load_behind_others

    def loading(*arguments: Any) -> Any:
        seen.append("guard" in {thread.name for thread in threading.enumerate()})
        return load(*arguments)

    monkeypatch.setattr(app, "_load_behind_others", loading)
    made = await replica(lacking(tmp_path / "model", 9))
    assert seen == [True]
    await gone(made)
    await until("it has ended", lambda: "guard" not in {thread.name for thread in threading.enumerate()}, 10)


@pytest.mark.parametrize(("assigned", "seen"), [({"CPU": 1.0}, ""), ({"CPU": 1.0, "GPU": 0.3}, "0"), ({}, "0")])
async def test_a_model_that_asked_for_no_gpu_sees_none(
    assigned: dict[str, float],
    seen: str,
    tmp_path: Path,
    replica: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outside of Ray nobody has asked."""
    for name in cuda.VISIBLE:
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(app, "_assigned", lambda: assigned)
    for name in ("limit", "yield_to_others"):
        monkeypatch.setattr(app.cpus, name, lambda count: None)
    made = await replica(lacking(tmp_path / "model", 9))
    assert {os.environ[name] for name in cuda.VISIBLE} == {seen}
    await gone(made)


class Where(mlflow.pyfunc.PythonModel):
    """Answers with the thread in which it computes."""

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        return np.full_like(model_input, threading.get_native_id())


async def test_a_model_computes_in_a_thread_that_goes_behind_what_answers(
    tmp_path: Path,
    replica: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind: dict[int, float | None] = {}
    monkeypatch.setattr(app.cpus, "limit", lambda count: None)
    monkeypatch.setattr(app.cpus, "yield_to_others", lambda count: behind.__setitem__(threading.get_native_id(), count))
    monkeypatch.setattr(app, "_assigned", lambda: {"CPU": 0.5})
    signature = infer_signature(models.FEATURES, models.FEATURES)
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Where(), signature=signature, pip_requirements=[])
    made = await replica(tmp_path / "model")
    reply = await made._batcher.infer(Call({"input": models.FEATURES[:1]}, [1], "tensor", {}, [30.0]))
    (computed,) = reply.outputs.values()
    assert behind[int(computed.flat[0])] == 0.5
    await gone(made)


def test_what_ray_reserves_is_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[ModelArgs, int | None, float | None]] = []
    monkeypatch.setattr(app, "_load", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(app.cpus, "yield_to_others", lambda count: None)
    for assigned in ({"CPU": 1.0, "memory": 2.0**30}, {"CPU": 1.0}):
        app._load_behind_others("args", assigned)  # type: ignore[arg-type]
    assert asked == [("args", 2**30, 1.0), ("args", None, 1.0)]
