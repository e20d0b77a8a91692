"""Clients of the running endpoint: a picture as a PNG upload, or as a tensor of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

import httpx
import numpy as np

from digits.data import Array

CLIENTS = 16
VERSION_HEADER = "x-rayfleet-model-version"

Input = TypeVar("Input")
Ask = Callable[[Input], Awaitable[tuple[int, str]]]
"""Gives the digit and the version that named it."""


class Digits:
    """The digits model at one address."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=CLIENTS))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def upload(self, png: bytes) -> tuple[int, str]:
        """The digit that the model sees in a PNG, and the version that said so."""
        response = await self._http.post("/digits/predict", files={"image": ("digit.png", png, "image/png")})
        response.raise_for_status()
        return int(response.json()["predictions"][0]["label"]), response.headers[VERSION_HEADER]

    async def infer(self, tensor: Array) -> tuple[int, str]:
        """The same for a tensor, float32 (1, 8, 8)."""
        inputs = [{"name": "input", "shape": [1, *tensor.shape], "datatype": "FP32", "data": tensor.ravel().tolist()}]
        response = await self._http.post("/v2/models/digits/infer", json={"inputs": inputs})
        response.raise_for_status()
        return int(np.argmax(response.json()["outputs"][0]["data"])), response.headers[VERSION_HEADER]


async def answers(
    ask: Callable[[Input], Awaitable[tuple[int, str]]], inputs: Sequence[Input]
) -> tuple[Array, set[str]]:
    """The digit for each input, int (n,), and the versions that answered; 16 requests at a time."""
    free = asyncio.Semaphore(CLIENTS)

    async def one(item: Input) -> tuple[int, str]:
        async with free:
            return await ask(item)

    pairs = await asyncio.gather(*map(one, inputs))
    return np.array([digit for digit, _ in pairs]), {version for _, version in pairs}


@dataclass
class Load:
    """Sixteen clients, each asking again as soon as it was answered, until told to stop."""

    client: Digits
    pngs: Sequence[bytes]
    answered: Counter[str] = field(default_factory=Counter)
    """Answers by version."""
    failures: list[str] = field(default_factory=list)
    newest: dict[int, str] = field(default_factory=dict)
    """The version of each client's latest answer."""

    async def __aenter__(self) -> Self:
        self._stop, self._changed = asyncio.Event(), asyncio.Condition()
        self._clients = [asyncio.create_task(self._ask(number)) for number in range(CLIENTS)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        await asyncio.gather(*self._clients)

    async def until_all_from(self, version: int, *, seconds: float) -> None:
        """Returns once every client's latest answer came from `version`. Raises TimeoutError after `seconds`."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: list(self.newest.values()) == [str(version)] * CLIENTS)

    async def _ask(self, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            try:
                _, version = await self.client.upload(self.pngs[turn % len(self.pngs)])
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.1)
            else:
                self.answered[version] += 1
                async with self._changed:
                    self.newest[number] = version
                    self._changed.notify_all()
            turn += CLIENTS
