"""What the tests write and look at: objects of a namespace, conditions, names of clusters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.deadline import until
from cluster.kubectl import Kubectl, KubectlError

from e2e import traffic as traffic_pod
from e2e.registry import URI
from e2e.traffic import Traffic

BODY = {"dataframe_split": {"columns": [0, 1], "data": [[1.0, 0.0]]}}
ROWS = {"inputs": [[1.0, 0.0]]}
ASK = """
import json, sys, urllib.request, urllib.error
url, body = sys.argv[1], sys.argv[2]
data = None if body == "null" else body.encode()
request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(request, timeout=30) as response:
        answer = (response.status, response.read().decode())
except urllib.error.HTTPError as error:
    answer = (error.code, error.read().decode())
except OSError as error:
    answer = (0, str(error))
print(json.dumps(answer))
"""
PLACES = """
import json, os, urllib.request
request = urllib.request.Request("http://127.0.0.1:8265/api/serve/applications/")
request.add_header("Authorization", "Bearer " + os.environ["RAY_AUTH_TOKEN"])
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
apps = json.load(opener.open(request, timeout=10))["applications"]
print(json.dumps({name: [replica["node_ip"] for each in app["deployments"].values() for replica in each["replicas"]
                         if replica["state"] == "RUNNING"] for name, app in apps.items()}))
"""
START_S = 240.0
"""For pods, Ray, Serve and a model to start on two busy cores."""


@dataclass(frozen=True)
class Scene:
    """One namespace of a cluster."""

    kubectl: Kubectl
    namespace: str
    images: Mapping[str, str]

    def model(self, name: str, uri: str, *, fleet: str | None = None, **spec: Any) -> dict[str, Any]:
        """A ModelDeployment; `spec` is laid over a small default, `model` into spec.model."""
        more = spec.pop("model", {})
        return {
            "apiVersion": "rayfleet.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                **({"fleet": fleet} if fleet else {}),
                "model": {"uri": uri, "registry": {"trackingUri": URI, "pollInterval": "2s"}, **more},
                "resources": {"cpu": "0.2"},
                **spec,
            },
        }

    def fleet(self, name: str, **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "rayfleet.io/v1alpha1",
            "kind": "ModelFleet",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl.apply(objects)

    def patch(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        """Merge into the object."""
        self.kubectl("patch", kind, name, "-n", self.namespace, "--type=merge", "-p", json.dumps(spec))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """The object; {} when it is not there."""
        try:
            found: dict[str, Any] = self.kubectl.json("get", kind, name, "-n", self.namespace)
        except KubectlError as error:
            if "NotFound" in str(error) or "not found" in str(error):
                return {}
            raise
        return found

    def list(self, kind: str, labels: str = "") -> list[dict[str, Any]]:
        found = self.kubectl.json("get", kind, "-n", self.namespace, *(["-l", labels] if labels else []))
        items: list[dict[str, Any]] = found["items"]
        return items

    def condition(self, name: str, condition: str, kind: str = "modeldeployment") -> dict[str, Any]:
        """One condition of the object's status that speaks of today's spec; {} while there is none."""
        obj = self.get(kind, name)
        found = (obj.get("status") or {}).get("conditions") or []
        generation = obj.get("metadata", {}).get("generation")
        return next(
            (each for each in found if each["type"] == condition and each["observedGeneration"] == generation), {}
        )

    def wait(
        self,
        name: str,
        condition: str = "Ready",
        status: str = "True",
        *,
        reason: str | None = None,
        kind: str = "modeldeployment",
        seconds: float = START_S,
    ) -> dict[str, Any]:
        """The condition, once it is so. Raises TimeoutError with what it is instead."""
        end = time.monotonic() + seconds
        while True:
            found = self.condition(name, condition, kind)
            if found.get("status") == status and reason in (None, found.get("reason")):
                return found
            if time.monotonic() > end:
                conditions = (self.get(kind, name).get("status") or {}).get("conditions")
                shown = json.dumps(conditions, indent=1)
                wanted = f"{condition} is not {status} {reason or ''}".rstrip()
                raise TimeoutError(f"{kind} {name}: {wanted} after {seconds:.0f} s, but {shown}")
            time.sleep(0.5)

    def settled(self, name: str, *, version: str | None = None, seconds: float = START_S) -> None:
        """Ready, and nothing under way; with `version`, that one alone."""
        self.wait(name, seconds=seconds)
        self.wait(name, "Progressing", "False", reason="Settled", seconds=seconds)
        if version is not None:
            until(
                f"version {version} of {name} is alone",
                lambda: [each["name"] for each in self.get("modeldeployment", name)["status"]["versions"]] == [version],
                seconds,
                every=0.3,
            )

    def url(self, fleet: str, path: str) -> str:
        return f"http://{fleet}.{self.namespace}.svc:8000{path}"

    @contextmanager
    def traffic(self, fleet: str, model: str, *, rate: float = 20.0) -> Iterator[Traffic]:
        """Requests to the model through the fleet's Service."""
        url = self.url(fleet, f"/{model}/invocations")
        with traffic_pod.traffic(self.kubectl, self.namespace, self.images["serving"], url, ROWS, rate=rate) as running:
            yield running

    def ask(self, fleet: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of one request through the fleet's Service, sent from one of its workers; status 0 is no
        answer."""
        running = [each["metadata"]["name"] for each in self.workers(fleet) if each["status"]["phase"] == "Running"]
        out, why = None, f"no worker of {fleet} runs, so nobody can ask"
        for worker in running:
            where = ("exec", "-n", self.namespace, worker, "-c", "ray-worker", "--")
            try:
                out = self.kubectl(*where, "python", "-c", ASK, self.url(fleet, path), json.dumps(body))
                break
            except KubectlError as error:
                why = str(error)  # It went just now, or its container is not there yet: that is nobody's answer.
        if out is None:
            return 0, why
        status, text = json.loads(out)
        return status, json.loads(text) if text.startswith(("{", "[")) else text

    def answers(self, fleet: str, model: str, value: float, *, seconds: float = 0.0) -> None:
        """The model answers `value` three times in a row, at once or within `seconds`: a Service that was made again
        has another address, and for a moment some are still led to the old one."""
        wanted, found = (200, {"predictions": [value]}), None

        def thrice() -> bool:
            nonlocal found
            for _ in range(3):
                found = self.ask(fleet, f"/{model}/invocations", ROWS)
                if found != wanted:
                    return False
            return True

        if seconds:
            until(f"{model} answers", thrice, seconds, every=0.5)
        else:
            assert thrice(), f"{model} answered {found}"

    def routers(self, fleet: str) -> int:
        """How many routers report, as any of them tells."""
        status, report = self.ask(fleet, "/rayfleet/traffic")
        return len(report["routers"]) if status == 200 else 0

    def places(self, fleet: str) -> dict[str, list[str]]:
        """The addresses of the pods in which each application's replicas run, as Serve tells."""
        (head,) = self.list("pods", f"rayfleet.io/fleet={fleet},ray.io/node-type=head")
        where = ("exec", "-n", self.namespace, head["metadata"]["name"], "-c", "ray-head", "--")
        found: dict[str, list[str]] = json.loads(self.kubectl(*where, "python", "-c", PLACES))
        return found

    def workers(self, fleet: str) -> list[dict[str, Any]]:
        """The fleet's worker pods that are to stay."""
        found = self.list("pods", f"rayfleet.io/fleet={fleet},ray.io/node-type=worker")
        return [each for each in found if "deletionTimestamp" not in each["metadata"]]

    def ray_clusters(self, fleet: str) -> list[str]:
        """Names of the fleet's RayClusters."""
        found = self.list("rayclusters", f"ray.io/originated-from-cr-name={fleet}")
        return sorted(each["metadata"]["name"] for each in found)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events about the object of this name."""
        found = self.kubectl.json("get", "events.v1.events.k8s.io", "-n", self.namespace)["items"]
        return [each for each in found if each.get("regarding", {}).get("name") == name]
