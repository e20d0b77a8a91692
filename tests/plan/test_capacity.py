"""Whether one replica fits on any worker."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.plan import capacity

from .scenes import model


def fleet(*groups: dict[str, Any]) -> ModelFleetSpec:
    return ModelFleetSpec.model_validate({"workerGroups": list(groups)})


def limits(**values: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "ray-worker", "resources": {"limits": values}}]}}


CPU = {"name": "cpu", "cpu": "4", "memory": "8Gi"}
GPU = {"name": "gpu", "cpu": "8", "memory": "32Gi", "gpu": 2}
MIG = {"name": "mig", "template": limits(**{"nvidia.com/mig-1g.5gb": 1})}
AMD = {"name": "amd", "template": limits(**{"amd.com/gpu": "4"})}
L4 = {"name": "l4", "gpu": 1, "gpuMemory": "24Gi", "accelerator": "L4"}
SLICED = {"name": "sliced", "gpu": 4, "gpuResource": "nvidia.com/gpu.shared"}
SMALL = {"name": "small", "memory": "8Gi", "template": limits(memory="1Gi")}

# The groups, what one replica asks for, whether it fits on one worker.
FITS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], bool]] = {
    "nothing special": ([CPU], {}, True),
    "exactly all": ([CPU], {"cpu": "4", "memory": "8Gi"}, True),
    "one CPU more": ([CPU], {"cpu": "5"}, False),
    "a little more memory": ([CPU], {"memory": "8193Mi"}, False),
    "on another group": ([CPU, GPU], {"cpu": "8", "gpu": "2"}, True),
    "each on a different group is not together": ([CPU, {**GPU, "cpu": "1"}], {"cpu": "4", "gpu": "1"}, False),
    "a share of a GPU": ([GPU], {"gpu": "0.33"}, True),
    "no GPU anywhere": ([CPU], {"gpu": "0.1"}, False),
    "more GPUs than one worker has": ([GPU, {**GPU, "name": "gpu2"}], {"gpu": "3"}, False),
    "half a CPU of a worker with half a CPU": ([{**CPU, "cpu": "500m"}], {"cpu": "0.5"}, True),
    "a part of a GPU that the template asks for": ([MIG], {"gpu": "1"}, True),
    "other GPUs that the template asks for": ([AMD], {"gpu": "4"}, True),
    "memory that the template takes away": ([SMALL], {"memory": "2Gi"}, False),
    "a template that means nothing": ([{**CPU, "template": limits(memory="much")}], {"memory": "8Gi"}, True),
    "GPUs under a name of their own": ([SLICED], {"gpu": "4"}, True),
    "the kind that there is": ([GPU, L4], {"gpu": "1", "accelerator": "L4"}, True),
    "a kind that there is not": ([GPU, L4], {"gpu": "1", "accelerator": "H100"}, False),
    "more GPUs than that kind has": ([GPU, L4], {"gpu": "2", "accelerator": "L4"}, False),
    "all memory of a GPU": ([L4], {"gpu": "0.5", "gpuMemory": "24Gi"}, True),
    "more memory than a GPU has": ([L4], {"gpu": "0.5", "gpuMemory": "25Gi"}, False),
    "memory of GPUs that say nothing of it": ([GPU, L4], {"gpu": "0.5", "gpuMemory": "25Gi"}, True),
    "no workers": ([], {}, False),
}


@pytest.mark.parametrize("case", FITS)
def test_one_replica_on_one_worker(case: str) -> None:
    groups, resources, fits = FITS[case]
    found = capacity.misfits([model("digits", resources=resources)], fleet(*groups))
    assert (found == {}) == fits


def test_a_misfit_is_told_what_was_asked_what_is_there_and_what_to_do() -> None:
    asked = model("digits", resources={"cpu": "6", "gpu": "0.5", "memory": "64Gi"})
    found = capacity.misfits([asked, model("small")], fleet(CPU, GPU))
    assert list(found) == ["digits"]
    assert found["digits"].reason == "InsufficientCapacity"
    assert found["digits"].last is None, "nothing may be given to Ray for it"
    assert found["digits"].message == (
        "one replica asks for 6 CPUs, 64Gi memory, 0.5 GPUs, and no worker has that "
        "(cpu: 4 CPUs, 8Gi memory, 0 GPUs; gpu: 8 CPUs, 32Gi memory, 2 GPUs). "
        "Lower spec.resources, or give the fleet a larger worker group"
    )
    picky = model("digits", resources={"gpu": "1", "gpuMemory": "80Gi", "accelerator": "A100-80GB"})
    (told,) = capacity.misfits([picky], fleet(L4)).values()
    assert told.message.startswith(
        "one replica asks for 1 CPUs, 1 GPUs of the kind A100-80GB, 80Gi GPU memory, and no worker has that "
        "(l4: 2 CPUs, 4Gi memory, 1 GPUs of the kind L4 with 24 GiB each). "
    )
    (nowhere,) = capacity.misfits([model("small")], fleet()).values()
    assert "the fleet has no workers" in nowhere.message
