"""A model whose second version gets copies of what the first one answers.

Versions and their coalescers are stand-ins, as real ones hold a handle of Serve. Requests come in as HTTP, and what
came of the copies is read as Prometheus reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
from closed_loop import until
from prometheus_client.parser import text_string_to_metric_families

from rayfleet_serving.config import Limits, ModelRoute, VersionRoute
from rayfleet_serving.link.call import Timing
from rayfleet_serving.metrics import RouterMetrics, VersionMetrics
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult
from rayfleet_serving.router.coalescer import Coalescer
from rayfleet_serving.router.exchange import Exchange
from rayfleet_serving.router.http import Front
from rayfleet_serving.router.load import Load
from rayfleet_serving.router.mirror import Mirror
from rayfleet_serving.router.pressure import Pressure
from rayfleet_serving.router.restraint import Restraint
from rayfleet_serving.router.traffic import LiveModel, Traffic
from rayfleet_serving.router.window import Window
from rayfleet_serving.signature import Field, ModelMetadata, Signature

Answer = Callable[[np.ndarray], Any]
TIMING = Timing(0.0, 0.0, 0.0)
SIGNATURE = Signature(form="tensor", inputs=(Field(name="input", dtype="float64", shape=(-1, 2)),))
V2 = b'{"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 2.0]}]}'
"""A request of the Open Inference Protocol that fits it."""
LIVE = VersionRoute(app="digits-a", version="1", model_id="a", weight=100)


def mirroring(share: int = 100, **settings: Any) -> VersionRoute:
    return VersionRoute(app="digits-b", version="2", model_id="b", weight=0, mirror=share, **settings)


class StandInCoalescer:
    """Answers with `answer` of a request's only input, once it is let go; raises what that raises."""

    name = "digits version 2"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[InferenceRequest] = []
        self.deadlines: list[float] = []
        self.cancelled = 0
        self.go = asyncio.Event()
        self.go.set()

    async def infer(self, request: InferenceRequest, deadline: float) -> tuple[InferenceResult, Timing]:
        self.requests.append(request)
        self.deadlines.append(deadline)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        (array,) = request.inputs.values()
        return InferenceResult({"y": np.asarray(self.answer(array))}, "array"), TIMING


class StandInVersion:
    """A version whose replicas are a function of one array."""

    def __init__(self, route: VersionRoute, metrics: VersionMetrics, answer: Answer, signature: Signature) -> None:
        self.route = route
        self.metrics = metrics
        self.ready = self.awake = True
        self.metadata = ModelMetadata(name="digits", version="", model_id="", flavor="onnx", signature=signature)
        self.coalescer = StandInCoalescer(answer)
        self.copies = StandInCoalescer(answer)
        self.load = Load(30.0)
        self.mirror = Mirror(cast("Coalescer", self.copies), metrics, self.load)
        self.window: Window | None = None
        self.pressure = Pressure()
        self.restraint = Restraint()

    def held(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def wake(self) -> None: ...

    async def known(self, patience: float) -> ModelMetadata:
        return self.metadata


class Scene:
    """A model of two versions: one with all requests, the other with copies."""

    def __init__(
        self,
        shadow: Answer = lambda array: array.sum(axis=1),
        *,
        live: Answer = lambda array: array.sum(axis=1),
        route: VersionRoute | None = None,
        signature: Signature = SIGNATURE,
        live_signature: Signature = SIGNATURE,
        live_route: VersionRoute = LIVE,
        **limits: Any,
    ) -> None:
        self.metrics = RouterMetrics("r")
        route = route or mirroring()
        self.live = StandInVersion(live_route, self.metrics.of("digits", "1"), live, live_signature)
        self.shadow = StandInVersion(route, self.metrics.of("digits", "2"), shadow, signature)
        row = ModelRoute(versions=[live_route, route], limits=Limits(**limits))
        self.model = LiveModel("digits", row, cast("Any", [self.live, self.shadow]))

    async def ask(self, rows: Any = ((1.0, 2.0),), **headers: str) -> Any:
        """The predictions of one request to `/predict`."""
        return (await self.post("/digits/predict", orjson.dumps(np.asarray(rows).tolist()), **headers))["predictions"]

    async def post(self, path: str, body: bytes, **headers: str) -> Any:
        """What one request is answered. Raises where that is an error."""
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        front = Front(
            cast("Traffic", SimpleNamespace(model={"digits": self.model}.__getitem__)), *cast("Any", [None] * 2)
        )
        exchange = Exchange.of({"headers": sent, "path": path, "method": "POST"}, receive)
        return orjson.loads((await front._answer(exchange)).body)

    def sample(self, name: str) -> float:
        """One of the mirror's samples; 0 where it is not there."""
        return self.samples.get((f"rayfleet_mirror_{name}", ""), 0.0)

    @property
    def samples(self) -> dict[tuple[str, str], float]:
        """All of the mirror's, by name and outcome, without buckets."""
        return {
            (each.name, each.labels.get("outcome", "")): each.value
            for family in text_string_to_metric_families(self.metrics.exposition())
            for each in family.samples
            if each.name.startswith("rayfleet_mirror") and not each.name.endswith(("_bucket", "_created"))
            if (each.labels["model"], each.labels["version"], each.labels["replica"]) == ("digits", "2", "r")
        }

    @property
    def outcomes(self) -> dict[str, int]:
        """Copies that have come to an end, by how."""
        return {outcome: int(number) for (_, outcome), number in self.samples.items() if outcome and number}

    async def ended(self, **outcomes: int) -> None:
        await until(f"copies end as {outcomes}", lambda: self.outcomes == outcomes)
        await until("nothing is held", lambda: not self.shadow.mirror._copies)
        assert self.shadow.mirror._held == 0


def raising(error: Exception) -> Answer:
    def answer(array: np.ndarray) -> Any:
        raise error

    return answer


class StandInHandle:
    """What a version asks of Serve: here there are no replicas."""

    app_name = "digits-b"
    _router = None

    def __init__(self) -> None:
        async def remote(labels_file: str | None) -> ModelMetadata:
            return ModelMetadata(name="digits", version="2", model_id="b", flavor="onnx", signature=SIGNATURE)

        self.metadata = SimpleNamespace(remote=remote)

    async def shutdown_async(self) -> None:
        pass
