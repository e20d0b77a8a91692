"""The CRDs are structural, bounded, and what the types say today."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rayfleet_operator.api import crd, reference, yamltree

from . import api_server
from .cases import CASES, Case

ROOT = Path(__file__).parents[2]

STRUCTURAL = {
    "description", "type", "format", "default", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "pattern", "required", "properties", "items",
    "additionalProperties", "x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}  # fmt: skip
"""No $ref, no anyOf, no title, no nullable."""


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, field in node.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from nodes(node["additionalProperties"], f"{path}.*")


def of_every_kind(parts: set[str]) -> list[Any]:
    """Every node of every schema below spec and status."""
    return [
        pytest.param(node, id=f"{resource.api_type.__name__}{path}")
        for resource in crd.RESOURCES
        for path, node in nodes(crd.root_schema(resource.api_type))
        if path.split(".")[-1] and path.split(".")[1] in parts
    ]


@pytest.mark.parametrize("node", of_every_kind({"spec", "status"}))
def test_every_node_is_structural_and_bounded(node: dict[str, Any]) -> None:
    assert set(node) <= STRUCTURAL
    assert node.get("x-kubernetes-int-or-string") or node["type"] in (
        "object", "array", "string", "integer", "number", "boolean"
    )  # fmt: skip
    if node.get("type") == "string" or node.get("x-kubernetes-int-or-string"):
        assert "maxLength" in node or "enum" in node
    if node.get("type") == "array":
        assert "maxItems" in node
    if "additionalProperties" in node:
        assert "maxProperties" in node
    assert not ("additionalProperties" in node and "properties" in node)


@pytest.mark.parametrize("node", of_every_kind({"spec"}))
def test_every_field_of_the_spec_is_described_and_in_range(node: dict[str, Any]) -> None:
    if node.get("type") in ("integer", "number"):
        assert {"minimum", "maximum"} <= set(node)
    elif node.get("type") == "object":
        assert node["description"]
    for rule in node.get("x-kubernetes-validations", []):
        assert "\n" not in rule["message"]
        assert len(rule["message"]) <= 2048


def test_rules_on_quantities_stay_cheap() -> None:
    """API servers before 1.34 take an int-or-string for up to 3 MB of text: matching it costs 0.1 for each character
    times 0.25 for each of the pattern, and a CRD whose rule may cost above 10 million is not accepted."""
    for resource in crd.RESOURCES:
        for path, node in nodes(crd.root_schema(resource.api_type)):
            if node.get("x-kubernetes-int-or-string"):
                for rule in node.get("x-kubernetes-validations", []):
                    assert "[]" not in path, "a rule on each item costs as much for each"
                    assert len(rule["rule"]) * 0.25 * 0.1 * 3 * 2**20 < 10_000_000


@pytest.mark.parametrize("case", [case for case in CASES if not case.refused_at], ids=str)
def test_defaults_are_valid_and_written_once(case: Case) -> None:
    """What the API server stores with its defaults is accepted again, by itself and by the types."""
    schema = api_server.schema(case.obj["kind"])
    stored = copy.deepcopy(case.obj)
    api_server.fill_defaults(stored, schema)
    (given,) = yamltree.read(json.dumps(case.obj))
    assert api_server.refusals(stored) == []
    api_type = {resource.api_type.__name__: resource.api_type for resource in crd.RESOURCES}[case.obj["kind"]]
    asked, kept = (
        api_type.model_validate(obj, by_alias=True, by_name=False).model_dump(exclude={"status"})
        for obj in (given.value, stored)
    )
    assert kept == asked


def test_defaults_show_but_do_not_contradict() -> None:
    """`kubectl get -o yaml` shows what applies; what must tell "given" from "left out" stays out."""
    stored: dict[str, Any] = {"kind": "ModelDeployment", "spec": {"model": {"uri": "/models/a"}}}
    api_server.fill_defaults(stored, api_server.schema("ModelDeployment"))
    assert stored["spec"] == {
        "model": {"uri": "/models/a", "allowCodeExecution": False},
        "replicas": 1,
        "resources": {"cpu": "1"},
        "batching": {"maxBatchSize": 32, "maxWait": "5ms"},
        "limits": {
            "maxOngoingRequests": 100, "maxQueuedRequests": 400, "requestTimeout": "30s", "maxRequestBytes": "16Mi"
        },
    }  # fmt: skip


def test_kubectl_gets_what_it_needs() -> None:
    model, fleet = (crd.definition(resource)["spec"] for resource in crd.RESOURCES)
    assert (model["names"]["shortNames"], fleet["names"]["shortNames"]) == (["md"], ["mf"])
    version = model["versions"][0]
    assert version["subresources"] == {
        "status": {},
        "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
    }
    for resource in (model, fleet):
        columns = {column["name"]: column for column in resource["versions"][0]["additionalPrinterColumns"]}
        assert columns["Ready"]["jsonPath"] == '.status.conditions[?(@.type=="Ready")].status'
        assert columns["Reason"]["priority"] == 1
        properties = resource["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        conditions = properties["status"]["properties"]["conditions"]
        assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])
        assert conditions["items"]["required"] == ["type", "status", "reason", "lastTransitionTime"]


def test_generated_files_are_current() -> None:
    for resource in crd.RESOURCES:
        assert (ROOT / "crds" / resource.file_name).read_text() == crd.render(resource)
    assert (ROOT / "docs" / "api.md").read_text() == reference.render()


def test_check_names_the_stale_file(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(crd.main, [str(tmp_path)]).exit_code == 0
    assert run(crd.main, ["--check", str(tmp_path)]).exit_code == 0
    file = tmp_path / crd.RESOURCES[0].file_name
    file.write_text(file.read_text().replace("maximum: 4096", "maximum: 4097"))
    result = run(crd.main, ["--check", str(tmp_path)])
    assert result.exit_code == 1
    assert str(file) in result.output
    assert yaml.safe_load(file.read_text())  # --check writes nothing
    assert "4097" in file.read_text()

    page = tmp_path / "api.md"
    assert run(reference.main, ["--check", str(page)]).exit_code == 1
    assert not page.exists()
    assert run(reference.main, [str(page)]).exit_code == 0
    assert run(reference.main, ["--check", str(page)]).exit_code == 0
