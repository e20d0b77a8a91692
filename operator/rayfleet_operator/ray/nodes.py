"""What the nodes of a Ray offer, from its state API."""

from __future__ import annotations

import json
from typing import Any

import httpx

from rayfleet_operator.exchange import MIB, BadAnswer, Client
from rayfleet_operator.plan.arithmetic import size_text
from rayfleet_operator.plan.room import Kind, Room, Worker
from rayfleet_operator.ray.serve import ServeUnreachable

NODES_PATH = "/api/v0/nodes?limit=1000"
"""`NodeState` of Ray 2.60, of which `resources_total` is read."""
TIMEOUT_S = 5.0
ONLY = "machine"
"""What the one node of a Ray is called."""


class NodeClient(Client):
    """One Ray dashboard, as for `ServeClient`. `gpu_memory`: bytes of each GPU, of which Ray knows nothing."""

    def __init__(self, base_url: str, *, token: str | None = None, gpu_memory: int | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(base_url, timeout_s=TIMEOUT_S, headers=headers)
        self._gpu_memory = gpu_memory

    async def room(self) -> Room | None:
        """Every node that lives; None where this Ray has no such API. Raises ServeUnreachable."""
        where = f"GET {self._http.base_url.join(NODES_PATH)}"
        try:
            answer = await self._exchange("GET", NODES_PATH, at_most=16 * MIB, within_s=TIMEOUT_S)
        except (httpx.HTTPError, BadAnswer) as error:
            raise ServeUnreachable(f"{where}: {str(error) or type(error).__name__}") from error
        if answer.status == 404:
            return None
        if not answer.is_success:
            raise ServeUnreachable(f"{where}: {answer.status} {answer.phrase}")
        try:
            return _room(json.loads(answer.content), self._gpu_memory)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ServeUnreachable(f"{where} is not answered as Ray does: {repr(error)[:200]}") from error


def _room(body: Any, gpu_memory: int | None) -> Room:
    nodes = [node for node in body["data"]["result"]["result"] if node["state"] == "ALIVE"]
    nodes.sort(key=lambda node: (not node["is_head_node"], node["node_name"], node["node_id"]))
    names = [ONLY] if len(nodes) == 1 else [f"{node['node_name']} {str(node['node_id'])[:8]}" for node in nodes]
    return Room(tuple(Kind(_worker(n, node, gpu_memory), 1, 1) for n, node in zip(names, nodes, strict=True)))


def _worker(name: str, node: Any, gpu_memory: int | None) -> Worker:
    total = node["resources_total"]
    memory = int(total.get("memory", 0))
    return Worker(
        group=name,
        cpus=int(total.get("CPU", 0)),
        gpus=int(total.get("GPU", 0)),
        memory=memory,
        memory_text=size_text(memory),
        gpu_memory=gpu_memory,
    )
