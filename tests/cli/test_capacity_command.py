"""`rayfleet capacity FILE…`, as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rayfleet_operator.cli.main import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "sharing"
GROUPS = [
    {"name": "cpu", "cpu": "4", "memory": "8Gi"},
    {"name": "gpu", "cpu": "8", "memory": "32Gi", "gpu": 1, "gpuMemory": "24Gi", "accelerator": "L4"},
]


def capacity(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["capacity", *map(str, arguments)])


def fleet(*groups: dict[str, Any], name: str = "vision", **spec: Any) -> dict[str, Any]:
    return {"kind": "ModelFleet", "metadata": {"name": name}, "spec": {"workerGroups": list(groups), **spec}}


def model(name: str, gpu: str, *, on: str | None = "vision", **more: Any) -> dict[str, Any]:
    memory = more.pop("memory", None)
    resources = {"gpu": gpu, **({"gpuMemory": memory} if memory else {}), **more.pop("resources", {})}
    spec = {"model": {"uri": f"models:/{name}/1"}, "resources": resources, **more}
    return {"kind": "ModelDeployment", "metadata": {"name": name}, "spec": {**spec, **({"fleet": on} if on else {})}}


def files(folder: Path, *objects: dict[str, Any]) -> Path:
    documents = [{"apiVersion": "rayfleet.io/v1alpha1", **each} for each in objects]
    (folder / "all.yaml").write_text(yaml.safe_dump_all(documents))
    return folder


THREE = [model("a", "0.5", memory="10Gi"), model("b", "0.3", memory="6Gi"), model("c", "0.2")]


def test_everything_that_fits_is_shown_where_it_lies(tmp_path: Path) -> None:
    found = capacity(files(tmp_path, fleet(*GROUPS), *THREE))
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[:5] == [
        "fleet vision, namespace default",
        "cpu 1 of 1: 2 of 4 CPUs free, 8 GiB of 8 GiB memory not reserved",
        "  without a GPU: 2 x routers",
        "gpu 1 of 1, L4: 5 of 8 CPUs free, 32 GiB of 32 GiB memory not reserved",
        "  GPU 0: 0 free, 8 GiB of 24 GiB free: a 0.5 (10 GiB), b 0.3 (6 GiB), c 0.2",
    ]


def test_a_fourth_that_does_not_is_told_the_sum(tmp_path: Path) -> None:
    found = capacity(files(tmp_path, fleet(*GROUPS), *THREE, model("d", "0.5")))
    assert found.exit_code == 1
    assert "waiting: d: a replica needs 0.5 GPU, 0 free on 1 GPU" in found.output


def test_replicas_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    found = capacity(files(tmp_path, fleet(*GROUPS), model("a", "0.4", replicas=4)))
    assert found.exit_code == 1
    assert "waiting: a: 2 of 4 replicas, each needs 0.4 GPU, 0.2 free on 1 GPU" in found.output


def test_versions_beside_the_models_own_count(tmp_path: Path) -> None:
    traffic = {"versions": [{"name": "blue", "uri": "models:/a/2", "weight": 10, "replicas": 2}]}
    found = capacity(files(tmp_path, fleet(*GROUPS), model("a", "0.3", traffic=traffic)))
    assert found.exit_code == 0, found.output
    assert "GPU 0: 0.1 free, 24 GiB of 24 GiB free: a models:/a/1 0.3, 2 x a models:/a/2 0.3" in found.output


def test_a_version_by_name_that_waits_takes_nobodys_place_from_the_sum(tmp_path: Path) -> None:
    named = [{"name": name, "uri": f"models:/a@{name}", "weight": 10} for name in ("blue", "green")]
    found = capacity(files(tmp_path, fleet(*GROUPS), model("a", "0.4", traffic={"versions": named}), model("b", "0.2")))
    assert "waiting: a models:/a@green: a replica needs 0.4 GPU, 0 free on 1 GPU" in found.output
    for name in "ab":
        assert f"a new version of {name} has no room beside what there is" in found.output


def test_a_fleet_that_may_grow_is_counted_at_its_largest(tmp_path: Path) -> None:
    grown = {**GROUPS[1], "maxReplicas": 3}
    found = capacity(files(tmp_path, fleet(GROUPS[0], grown), *THREE, model("d", "1", resources={"accelerator": "L4"})))
    assert found.exit_code == 0, found.output
    assert "gpu 2 of 3, L4" in found.output
    assert "GPU 0: 0 free, 24 GiB of 24 GiB free: d" in found.output


def test_room_for_a_new_version_beside_what_there_is(tmp_path: Path) -> None:
    found = capacity(files(tmp_path, fleet(*GROUPS), model("a", "0.7"), model("b", "0.2")))
    assert found.exit_code == 0, "it is told of, and is no fault"
    text = "a new version of a has no room beside what there is: a replica needs 0.7 GPU, 0.1 free on 1 GPU"
    assert text in found.output
    assert "a new version of b" in found.output
    roomy = capacity(files(tmp_path, fleet(*GROUPS), model("a", "0.3")))
    assert "new version" not in roomy.output
    several = capacity(files(tmp_path, fleet(*GROUPS), model("a", "0.2", replicas=3)))
    assert "a replica needs 0.2 GPU, 1 CPU, and of the 3 that it starts with, 2 would find room" in several.output


def test_workers_that_nobody_names_are_not_known(tmp_path: Path) -> None:
    found = capacity(files(tmp_path, {**fleet(), "spec": {}}, model("a", "0.5"), model("own", "0.5", on=None)))
    assert found.exit_code == 1
    assert "ModelFleet vision: its workers are those of the operator's administrator" in found.output
    assert "own: its workers are those of the operator's administrator" in found.output
    found = capacity(files(tmp_path, model("a", "0.5", on="speech")))
    assert found.exit_code == 1
    assert "a: the files have no ModelFleet speech in namespace default" in found.output


def test_one_fleet_of_several_and_json(tmp_path: Path) -> None:
    folder = files(tmp_path, fleet(*GROUPS), fleet(*GROUPS, name="speech"), *THREE, model("d", "0.5", on="speech"))
    (only,) = json.loads(capacity(folder, "--fleet", "speech", "--output", "json").output)
    assert (only["name"], only["fits"], only["places"]["waiting"]) == ("speech", True, [])
    assert only["places"]["workers"][1]["gpus"][0]["free"] == 0.5
    assert len(json.loads(capacity(folder, "--output", "json").output)) == 2
    none = capacity(folder, "--fleet", "other")
    assert none.exit_code == 1
    assert "there is no fleet other to count" in none.output


@pytest.mark.parametrize("arguments", [(), ("--live", "a.yaml"), ("a.yaml", "--namespace", "b")])
def test_called_wrongly(arguments: tuple[str, ...]) -> None:
    assert capacity(*arguments).exit_code == 2


def test_a_mistake_in_a_file_is_told_and_nothing_is_counted(tmp_path: Path) -> None:
    found = capacity(files(tmp_path, fleet(*GROUPS), model("a", "1.5")))
    assert found.exit_code == 1
    assert "spec.resources.gpu" in found.output
    assert "fleet vision" not in found.output


def test_without_kubectl_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = capacity("--live")
    assert found.exit_code == 1
    assert "no kubectl is on PATH" in found.output


def test_the_example_is_full_with_three_and_says_so_of_a_fourth() -> None:
    three, fourth = EXAMPLE / "three.yaml", EXAMPLE / "fourth.yaml"
    found = capacity(three)
    assert found.exit_code == 0, found.output
    assert "GPU 0: 0 free, 4 GiB of 24 GiB free" in found.output
    found = capacity(three, fourth)
    assert found.exit_code == 1
    assert "waiting: visitor: a replica needs 0.5 GPU, 0 free on 1 GPU" in found.output
