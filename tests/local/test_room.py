"""Three models on one GPU and a fourth that finds no room, on a real Ray whose GPU is only counted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from closed_loop import closed_loop
from model_files import write_model
from rayfleet_up import RayfleetUp

pytestmark = pytest.mark.timeout(600)

SHARES = {"a": ("0.5", "10Gi"), "b": ("0.3", "6Gi"), "c": ("0.2", "4Gi")}
BODY = {"instances": [[1.0, 2.0]]}


def write(folder: Path, name: str, uri: Path, gpu: str, memory: str) -> Path:
    resources = {"cpu": "0.5", "gpu": gpu, "gpuMemory": memory, "accelerator": "L4"}
    return write_model(folder, name, uri, resources=resources)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, models: dict[int, Path]) -> Iterator[tuple[RayfleetUp, Path]]:
    """One GPU of 24 GiB, and three models that fill it."""
    files = tmp_path_factory.mktemp("gpu")
    for name, (gpu, memory) in SHARES.items():
        write(files, name, models[1], gpu, memory)
    options = ["--gpus", "1", "--gpu-memory", "24Gi"]
    with RayfleetUp([files], folder=tmp_path_factory.mktemp("gpu-up"), options=options) as up:
        up.wait_ready(*SHARES)
        yield up, files


def condition(up: RayfleetUp, name: str) -> tuple[str, str, str]:
    """Whether it is ready, what is the matter, and the words for it."""
    shown = up.model(name)
    if shown is None:
        return "", "", ""
    degraded = shown.condition("Degraded")
    return shown.condition("Ready").status, degraded.reason, degraded.message


async def test_a_fourth_is_refused_with_the_sum_and_the_three_lose_nothing(
    shared: tuple[RayfleetUp, Path], models: dict[int, Path]
) -> None:
    up, files = shared
    before = {name: up.replicas(name) for name in SHARES}
    assert all(len(each) == 1 for each in before.values())
    async with AsyncExitStack() as stack:
        loads = [
            await stack.enter_async_context(closed_loop(up.url, f"/{name}/invocations", BODY, clients=2))
            for name in SHARES
        ]
        fourth = write(files, "d", models[2], "0.5", "1Gi")

        def refused() -> bool:
            return condition(up, "d")[:2] == ("False", "InsufficientCapacity")

        await asyncio.to_thread(up.wait, "the fourth is refused", refused)
        assert "needs 0.5 GPU, 0 free on 1 GPU" in condition(up, "d")[2]
        answered = [len(load.answers) for load in loads]

        def gone_on() -> bool:
            return all(len(load.answers) > was + 20 for load, was in zip(loads, answered, strict=True))

        await asyncio.to_thread(up.wait, "the three go on", gone_on)
        assert up.replicas("d") == [], "nothing of it was given to Ray"
        fourth.unlink()
        await asyncio.to_thread(up.wait, "the fourth is gone", lambda: up.model("d") is None)
    for load in loads:
        assert load.failed == [], load.summary()
    assert {name: up.replicas(name) for name in SHARES} == before


def test_the_place_of_a_replica_that_died_is_its_successors(
    shared: tuple[RayfleetUp, Path], models: dict[int, Path]
) -> None:
    """In Ray's own queue, who waits longest would get it."""
    up, files = shared
    fourth = write(files, "d", models[2], "0.5", "1Gi")
    up.wait("the fourth is refused", lambda: condition(up, "d")[1] == "InsufficientCapacity")
    (before,) = up.replicas("a")
    os.kill(before, signal.SIGKILL)
    up.wait("another one has its place", lambda: up.replicas("a") not in ([], [before]))
    up.wait_ready(*SHARES)
    assert up.replicas("d") == []
    assert condition(up, "d")[1] == "InsufficientCapacity"
    fourth.unlink()
    up.wait("the fourth is gone", lambda: up.model("d") is None)


def test_status_and_its_json_say_what_lies_on_the_gpu(shared: tuple[RayfleetUp, Path]) -> None:
    up, _ = shared
    text = up.cli("status").stdout
    assert "GPU 0: 0 free, 4 GiB of 24 GiB free: a 0.5 (10 GiB), b 0.3 (6 GiB), c 0.2 (4 GiB)" in text
    (row,) = json.loads(up.cli("status", "--json").stdout)
    (worker,) = row["status"]["places"]["workers"]
    assert [gpu["free"] for gpu in worker["gpus"]] == [0.0]
    assert "spec.resources.accelerator has no effect here" in up.output


def test_room_that_is_made_is_taken_by_who_waits(shared: tuple[RayfleetUp, Path], models: dict[int, Path]) -> None:
    up, files = shared
    write(files, "d", models[2], "0.2", "6Gi")
    up.wait("it is refused", lambda: condition(up, "d")[1] == "InsufficientCapacity")
    write(files, "e", models[2], "0.2", "1Gi")
    up.wait("so is another", lambda: condition(up, "e")[1] == "InsufficientCapacity")
    (files / "c.yaml").unlink()
    up.wait_ready("a", "b", "d")
    assert "needs 0.2 GPU, 0 free on 1 GPU" in condition(up, "e")[2]
