"""How much a rendered cluster takes, and that no template makes this fail."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.render import size
from rayfleet_operator.render.raycluster import cluster_spec

from .specs import FULL, NAME, SMALL, spec


def pod(**containers: Any) -> dict[str, Any]:
    """A cluster of a head that is this pod, and nothing else."""
    return {"headGroupSpec": {"template": {"spec": containers}}}


def asks(**resources: Any) -> dict[str, Any]:
    return {"name": "c", "resources": resources}


def test_a_small_fleet() -> None:
    assert str(size.of(cluster_spec(NAME, spec(SMALL)))) == "2 pods (3 CPUs, 6 GiB)"


def test_a_fleet_with_everything_counts_requests_the_autoscaler_and_every_pod() -> None:
    """Head 0.5, its autoscaler 0.1; two workers of 2.5, one of which a template says that it requests 4 of its 8."""
    found = cluster_spec(NAME, spec(FULL))
    assert str(size.of(found)) == "4 pods (9.6 CPUs, 79.5 GiB, 2 GPUs)"
    assert str(size.of(found, largest=True)) == "11 pods (37.6 CPUs, 527.5 GiB, 16 GPUs)"


@pytest.mark.parametrize(
    ("cluster", "told"),
    [
        (pod(containers=[asks(limits={"cpu": "500m"})]), "1 pod (0.5 CPUs)"),
        (
            pod(containers=[asks(limits={"cpu": 2, "memory": 1e9}, requests={"cpu": "1e0"})]),
            "1 pod (1 CPU, 953.674 MiB)",
        ),
        (pod(containers=[asks(requests={"memory": "128974848000m"})]), "1 pod (0 CPUs, 123 MiB)"),
        (pod(containers=[asks(limits={"nvidia.com/gpu": "+1"})]), "1 pod (0 CPUs, 1 GPU)"),
        (
            pod(containers=[asks(limits={"nvidia.com/mig-1g.5gb": 2, "amd.com/gpu": 1, "example.com/nic": 0})]),
            "1 pod (0 CPUs, 1 amd.com/gpu, 2 nvidia.com/mig-1g.5gb)",
        ),
        (pod(containers=[asks(), asks(limits=None), {"name": "x"}, asks(limits={"cpu": "1"})]), "1 pod (1 CPU)"),
        (
            pod(
                initContainers=[asks(limits={"cpu": 8}), {**asks(limits={"cpu": 1}), "restartPolicy": "Always"}],
                containers=[asks(limits={"cpu": 2})],
            ),
            "1 pod (8 CPUs)",
        ),
        (pod(resources={"requests": {"cpu": "3"}}, containers=[asks(limits={"cpu": 1})]), "1 pod (3 CPUs)"),
        (pod(overhead={"cpu": "250m"}, containers=[asks(limits={"cpu": 1})]), "1 pod (1.25 CPUs)"),
        (
            pod(containers=[asks(limits={"cpu": 1, "ephemeral-storage": "10Gi", "hugepages-2Mi": "4Mi"})]),
            "1 pod (1 CPU)",
        ),
        ({**pod(), "enableInTreeAutoscaling": True}, "1 pod (0.5 CPUs, 512 MiB)"),
        (
            {**pod(), "workerGroupSpecs": [{"minReplicas": 2, "numOfHosts": 4, "template": {"spec": {}}}]},
            "9 pods (0 CPUs)",
        ),
    ],
)
def test_what_the_scheduler_counts(cluster: dict[str, Any], told: str) -> None:
    found = size.of(cluster)
    assert (str(found), found.unread) == (told, ())


@pytest.mark.parametrize("amount", ["much", "-1", "", True, [], {}, float("nan"), float("inf"), "1e999", "1" * 5000])
def test_what_is_no_amount_is_named_and_not_counted(amount: Any) -> None:
    found = size.of(pod(containers=[asks(limits={"cpu": 1, "memory": amount})]))
    assert (str(found), found.unread) in [
        ("1 pod (1 CPU)", ("memory of the head",)),
        # So many digits are an amount, and Kubernetes takes the largest that it knows.
        ("1 pod (1 CPU, 8589934592 GiB)", ()),
    ]


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "spec",
                    "template",
                    "containers",
                    "resources",
                    "limits",
                    "requests",
                    "cpu",
                    "minReplicas",
                    "initContainers",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(ODD, ODD, ODD)
def test_no_object_makes_it_fail(head: Any, groups: Any, options: Any) -> None:
    odd = {"headGroupSpec": head, "workerGroupSpecs": groups, "autoscalerOptions": options}
    for cluster in (odd, {**odd, "enableInTreeAutoscaling": True, "workerGroupSpecs": [groups, head]}):
        str(size.of(cluster)), str(size.of(cluster, largest=True))
