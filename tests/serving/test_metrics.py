"""What Prometheus would read from the one port: every router's and every replica's samples, by version."""

from __future__ import annotations

import re
from collections import defaultdict

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Zoo

MODEL = "sklearn-probabilities"
BODY = {"instances": [[1.0, 2.0, 3.0, 4.0]]}


def totals(client: httpx.Client, sample: str, **labels: str) -> float:
    """Sum over replicas of a sample with these labels; the family must be there."""
    total = 0.0
    families = set()
    # Parsing takes a second for all that these models have.
    name = re.sub("_(total|count|sum)$", "", sample)
    lines = [line for line in client.get("/metrics").text.splitlines(keepends=True) if name in line]
    for family in text_string_to_metric_families("".join(lines)):
        families.add(family.name)
        for each in family.samples:
            if each.name == sample and labels.items() <= each.labels.items():
                total += each.value
    assert any(sample.startswith(name) for name in families), sample
    return total


def test_requests_are_counted_for_their_version(zoo: Zoo, client: httpx.Client) -> None:
    version = client.get(f"/v2/models/{MODEL}").json()["versions"][0]
    labels = {"model": MODEL, "version": version, "protocol": "predict"}
    good = totals(client, "rayfleet_requests_total", code="200", **labels)
    bad = totals(client, "rayfleet_requests_total", code="400", **labels)
    causes = totals(client, "rayfleet_request_errors_total", model=MODEL, cause="invalid_input")
    for _ in range(7):
        assert client.post(f"/{MODEL}/predict", json=BODY).status_code == 200
    for _ in range(3):
        assert client.post(f"/{MODEL}/predict", content=b"{").status_code == 400
    assert totals(client, "rayfleet_requests_total", code="200", **labels) - good == 7
    assert totals(client, "rayfleet_requests_total", code="400", **labels) - bad == 3
    assert totals(client, "rayfleet_request_errors_total", model=MODEL, cause="invalid_input") - causes == 3


@pytest.mark.parametrize("part", ["request", "queue", "batch_wait", "compute"])
def test_every_part_of_the_latency_is_a_histogram(client: httpx.Client, part: str) -> None:
    name = f"rayfleet_{part}_duration_seconds"
    before = totals(client, f"{name}_count", model=MODEL)
    client.post(f"/{MODEL}/predict", json=BODY)
    assert totals(client, f"{name}_count", model=MODEL) - before == 1


def test_batches_are_counted_by_the_replica(client: httpx.Client) -> None:
    before = totals(client, "rayfleet_batch_size_sum", model=MODEL)
    client.post(f"/{MODEL}/predict", json={"instances": [[1.0, 2.0, 3.0, 4.0]] * 5})
    assert totals(client, "rayfleet_batch_size_sum", model=MODEL) - before == 5


def test_a_model_error_has_its_own_cause(client: httpx.Client) -> None:
    before = totals(client, "rayfleet_request_errors_total", model="picky", cause="model_error")
    assert client.post("/picky/predict", json={"instances": [[13.0]]}).status_code == 422
    assert totals(client, "rayfleet_request_errors_total", model="picky", cause="model_error") - before == 1


def test_buckets_tell_a_p99_at_5_ms_and_at_5_s(client: httpx.Client) -> None:
    bounds = defaultdict(set)
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for each in family.samples:
            if each.name == "rayfleet_request_duration_seconds_bucket":
                bounds[each.labels["replica"]].add(float(each.labels["le"]))
    assert bounds
    for replica in bounds.values():
        ordered = sorted(replica)
        for value in (0.005, 5.0):
            above = next(bound for bound in ordered if bound > value)
            below = max(bound for bound in ordered if bound <= value)
            assert above / below <= 1.3


def test_nothing_is_in_flight_when_nobody_asks(client: httpx.Client) -> None:
    client.post(f"/{MODEL}/predict", json=BODY)
    assert totals(client, "rayfleet_requests_in_flight", model=MODEL) == 0


def test_a_replica_says_what_memory_it_takes_of_what_it_may(client: httpx.Client) -> None:
    used = totals(client, "rayfleet_memory_used_bytes", model="picky")
    assert 2**26 < used < 2**32
    assert totals(client, "rayfleet_memory_cap_bytes", model="picky") == 0, "it has none"


def test_the_time_that_a_model_computes_is_counted(client: httpx.Client) -> None:
    before = totals(client, "rayfleet_compute_busy_seconds_total", model="picky")
    assert client.post("/picky/predict", json={"instances": [[-0.3]]}).status_code == 200
    assert 0.3 <= totals(client, "rayfleet_compute_busy_seconds_total", model="picky") - before < 3


def test_batches_that_ran_out_of_memory_are_counted(client: httpx.Client) -> None:
    assert totals(client, "rayfleet_out_of_memory_batches_total", model="picky") == 0
