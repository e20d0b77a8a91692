"""The two usual ways to serve a model on Ray Serve, for `bench.datapath` to compare with.

No `from __future__ import annotations` here: FastAPI and Serve read annotations.
"""

import asyncio
from typing import Any

import numpy as np
import torch
from ray import serve
from starlette.requests import Request

from bench.mlp import mlp


@serve.deployment(max_ongoing_requests=100)
class Article:
    """The pattern of most articles: one deployment that takes the request, batches with `@serve.batch`, and answers."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._model = mlp()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.1)
    async def _predict(self, rows: list[np.ndarray]) -> list[list[float]]:
        with torch.inference_mode():
            answers: list[list[float]] = self._model(torch.from_numpy(np.stack(rows))).tolist()
        return answers

    async def __call__(self, request: Request) -> dict[str, Any]:
        data = (await request.json())["inputs"][0]["data"]
        return {"outputs": await self._predict(np.array(data, np.float32))}


@serve.deployment(max_ongoing_requests=1000)
class Plain:
    """A model behind a handle, one call for each request."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._model = mlp()

    async def infer(self, row: np.ndarray) -> np.ndarray:
        return await asyncio.to_thread(self._run, row)

    def _run(self, row: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            answer: np.ndarray = self._model(torch.from_numpy(row)).numpy()
        return answer


@serve.deployment(max_ongoing_requests=1000, num_replicas=2)
class OneCallPerRequest:
    """Two routers that send each request to the model in a call of its own, with the fastest handle options."""

    def __init__(self, model: Any) -> None:
        self._model = model.options(
            method_name="infer", _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )

    async def __call__(self, request: Request) -> dict[str, Any]:
        data = (await request.json())["inputs"][0]["data"]
        answer = await self._model.remote(np.array(data, np.float32)[None])
        return {"outputs": answer.tolist()}


article = Article.bind()  # type: ignore[attr-defined]
one_call = OneCallPerRequest.bind(Plain.bind())  # type: ignore[attr-defined]
