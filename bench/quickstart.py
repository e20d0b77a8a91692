"""How long the quickstart takes on the test cluster: `RAYFLEET_E2E_EXTRAS=demo python -m bench.quickstart`.

The image is the serving image with PyTorch and a whole MLflow, as docs/kubernetes.md has it made. Told are the time
from `helm install` until the operator is ready, from `kubectl apply` until a model that was trained in the cluster
answers right through its Service, and from `kubectl delete -k` until nothing is left.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cluster import images  # noqa: E402
from cluster.deadline import until  # noqa: E402
from cluster.kubectl import Kubectl, KubectlError  # noqa: E402
from cluster.providers import Cluster, chosen  # noqa: E402
from e2e.conftest import NAMESPACE, helm, install, small_defaults  # noqa: E402

FOLDER = ROOT / "examples" / "quickstart"
KINDS = "md,mf,rayservices,rayclusters,deployments,jobs,pods,services,secrets,networkpolicies,controllerrevisions"
THERE_ANYWAY = ("service/kubernetes",)
ASK = """
import json, sys, time, urllib.request
from sklearn.datasets import load_digits

digits = load_digits()
held_out = range(1500, 1520)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

def ask(number):
    tensor = (digits.images[number] / 16).reshape(-1).tolist()
    inputs = [{"name": NAME, "shape": [1, 1, 8, 8], "datatype": "FP32", "data": tensor}]
    request = urllib.request.Request(URL + "/infer", data=json.dumps({"inputs": inputs}).encode())
    with opener.open(request, timeout=10) as answer:
        scores = json.load(answer)["outputs"][0]["data"]
    return scores.index(max(scores)) == digits.target[number]

URL, NAME = "http://digits.default.svc:8000/v2/models/digits", None
for attempt in range(4000):
    try:
        if NAME is None:
            with opener.open(URL, timeout=10) as answer:
                NAME = json.load(answer)["inputs"][0]["name"]
        if ask(held_out[attempt % len(held_out)]):
            break
    except OSError:
        time.sleep(0.2)
else:
    sys.exit("no right answer")
print("FIRST", time.time(), flush=True)
print("RIGHT", sum(ask(number) for number in held_out), len(held_out))
"""


def _written(cluster: Cluster) -> str:
    """The quickstart with the cluster's own image."""
    kubectl = cluster.kubectl
    repository, _, tag = cluster.images["serving"].rpartition(":")
    text = kubectl("kustomize", str(FOLDER))
    objects = list(yaml.safe_load_all(text))
    for each in objects:
        for container in each.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            container["image"] = f"{repository}:{tag}"
    return yaml.safe_dump_all(objects)


def _left(kubectl: Kubectl) -> list[str]:
    return [name for name in kubectl("get", KINDS, "-n", "default", "-o", "name").split() if name not in THERE_ANYWAY]


@click.command()
def main() -> None:
    """Measure the quickstart."""
    if "demo" not in images.EXTRAS:
        raise click.UsageError("set RAYFLEET_E2E_EXTRAS=demo: the quickstart's image has PyTorch and MLflow")
    cluster = chosen()
    cluster.up()
    kubectl = cluster.kubectl
    began = time.monotonic()
    defaults: dict[str, Any] = small_defaults(cluster.images["serving"])
    defaults["workerGroups"][0]["memory"] = "4Gi"  # PyTorch in each replica
    install(cluster, values={"fleetDefaults": defaults})
    click.echo(f"helm install: the operator is ready after {time.monotonic() - began:.1f} s")
    try:
        until("the namespace is empty", lambda: not _left(kubectl), 120)
        applied = time.time()
        kubectl.apply(_written(cluster))
        kubectl("rollout", "status", "-n", "default", "deploy/mlflow", "--timeout=300s", timeout=310)
        click.echo(f"MLflow is ready {time.time() - applied:.1f} s after apply", err=True)
        told = kubectl("exec", "-i", "-n", "default", "deploy/mlflow", "--", "python", "-", stdin=ASK, timeout=900)
        lines = dict(line.split(" ", 1) for line in told.splitlines())
        trained = kubectl.json("get", "job", "train-digits", "-n", "default")["status"]["completionTime"]
        click.echo(f"apply to the first right answer: {float(lines['FIRST']) - applied:.1f} s (trained at {trained})")
        click.echo("right of digits that it has not seen: {} of {}".format(*lines["RIGHT"].split()))
        click.echo(kubectl("get", "md", "-n", "default"))
        began = time.monotonic()
        kubectl("delete", "-k", str(FOLDER), "--timeout=120s", timeout=130)
        until("nothing is left", lambda: not _left(kubectl), 300, every=0.5)
        click.echo(f"delete until nothing is left: {time.monotonic() - began:.1f} s")
    except (KubectlError, TimeoutError):
        click.echo(kubectl("get", "md,pods", "-n", "default", "-o", "wide"), err=True)
        raise
    finally:
        helm(cluster, "uninstall", "rayfleet", "--namespace", NAMESPACE, "--wait", "--timeout", "120s")


if __name__ == "__main__":
    main()
