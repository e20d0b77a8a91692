"""The model app: one version of one model in each replica, behind a batcher.

No `from __future__ import annotations` here: Serve reads the builder's annotation to parse its arguments.
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import orjson
import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application

from rayfleet_serving import logs
from rayfleet_serving.config import MODEL_DEPLOYMENT, ModelArgs, ModelUserConfig
from rayfleet_serving.link import devices
from rayfleet_serving.link.server import LinkServer
from rayfleet_serving.metrics import ModelMetrics
from rayfleet_serving.model import cpus, cuda
from rayfleet_serving.model.batcher import Batcher
from rayfleet_serving.model.cache import ModelCache
from rayfleet_serving.model.calls import Calls
from rayfleet_serving.model.credentials import OwnCredentials
from rayfleet_serving.model.errors import describe
from rayfleet_serving.model.execution import Execution
from rayfleet_serving.model.flavors import LoadedModel, load, run_example, warmup_inputs
from rayfleet_serving.model.guard import Guard, in_loop
from rayfleet_serving.model.mlmodel import input_example
from rayfleet_serving.model.scaling import Scaling
from rayfleet_serving.model.share import Share, open_share
from rayfleet_serving.signature import ModelMetadata

logger = logging.getLogger(__name__)

LARGEST_EXAMPLE = 64 * 1024
"""Bytes of JSON; a larger example is of no use on the docs page, and would not fit through Serve's 4 MiB messages."""


@serve.deployment(name=MODEL_DEPLOYMENT)
class Model:
    """One model replica: it is ready once the model is loaded and has run every batch size it will be given."""

    async def __init__(self, args: ModelArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        """
        Raises:
            LoadError: the version cannot be had or loaded, or raises on its own example. It never becomes ready.
        """
        logs.follow_serve()
        self._began = time.perf_counter()
        self._args = args
        who = f"model {args.name}, version {args.identity.version},"
        self._guard = Guard(who, tell=in_loop(asyncio.get_running_loop(), lambda trouble: self._links.tell(trouble)))
        self._guard.start()
        try:
            await self._start(args, _assigned())
        except BaseException:
            self._guard.stop()
            raise

    async def _start(self, args: ModelArgs, assigned: dict[str, float]) -> None:
        if assigned and not assigned.get("GPU"):
            cuda.hide()  # Ray leaves them all in sight, and libraries would take the first one, without a cap
        cpus.limit(assigned.get("CPU"))
        self._path, self._model, self._share = await asyncio.to_thread(_load_behind_others, args, assigned)
        example = input_example(self._path)
        self._example = example.row if example else None
        self._metrics = ModelMetrics(args.name, args.identity.version, serve.get_replica_context().replica_id.unique_id)
        defaults = ModelUserConfig().batching
        self._calls = Calls(self._model.predict, self._share, static_batch=self._model.static_batch)
        self._execution = Execution(
            self._calls,
            max_batch_size=defaults.max_batch_size,
            static_batch=self._model.static_batch,
            writes_inputs=self._model.writes_inputs,
        )
        self._scaling = Scaling(lambda: self._calls.busy(time.perf_counter()))
        self._batcher = Batcher(
            self._execution, max_wait_s=defaults.max_wait_s, on_batch=self._computed, room=self._share
        )
        await self._batcher.in_device_thread(cpus.yield_to_others, assigned.get("CPU"))
        self._links = LinkServer(
            self._batcher.infer,
            replica=serve.get_replica_context().replica_id.unique_id,
            host=ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
            audience=self._scaling,
            room=self._share,
        )
        self._guard.watch(self._calls, self._share)
        await self._batcher.in_device_thread(
            run_example, self._model, example, self._calls.warm_up, f"its {self._share.text}"
        )
        self._endpoint = await self._links.start()
        self._warm: set[int] = set()
        self._later: asyncio.Future[None] | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new limits and goals. Never raises: a raising reconfigure takes the replica down."""
        try:
            config = ModelUserConfig.model_validate(user_config)
            batching = config.batching
            self._guard.stuck_after_s = config.stuck_after_s
            self._scaling.configure(config.autoscaling)
            self._execution.max_batch_size = batching.max_batch_size
            self._batcher.max_wait_s = batching.max_wait_s
            warm_up = self._batcher.in_device_thread(self._warm_up, batching.max_batch_size)
            if self._warm:
                # A replica that is being reconfigured gets no requests, so a later edit does not wait for this.
                self._later = asyncio.ensure_future(warm_up)
            else:
                await warm_up
                self._metrics.loaded.set(time.perf_counter() - self._began)
        except ValidationError as error:
            logger.error("The new settings are not valid; the old ones stay in force. %s", error)
        except Exception:
            logger.exception("The new settings could not be applied in full.")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks this each second, and hands it to the policy. Never raises."""
        try:
            return self._scaling.stats()
        except Exception:
            logger.exception("How many replicas are needed could not be told.")
            return {}

    def check_health(self) -> None:
        """Serve asks this each second. Raises `ReplicaEndsError` while the replica ends itself."""
        self._guard.check()

    def record_replica_metadata(self) -> dict[str, Any]:
        """Serve asks this once, when the replica is ready, and pushes it to every router."""
        return {"endpoint": list(self._endpoint), devices.KEY: _devices()}

    async def __del__(self) -> None:
        """Serve awaits this when it stops the replica: calls that are here are still answered."""
        while self._links.ongoing:  # noqa: ASYNC110 - an event would cost every call
            await asyncio.sleep(0.05)
        self._guard.stop()
        self._links.close()

    async def metadata(self, labels_file: str | None) -> ModelMetadata:
        """What the model takes and gives. `labels_file` is a path inside the model's artifacts, one label a line."""
        return ModelMetadata(
            name=self._args.name,
            version=self._args.identity.version,
            model_id=self._args.identity.model_id,
            flavor=self._model.flavor,
            signature=self._model.signature,
            static_batch=self._model.static_batch,
            max_batch_size=self._execution.max_batch_size,
            labels=await asyncio.to_thread(_labels, self._path, labels_file) if labels_file else (),
            input_example=self._example if len(orjson.dumps(self._example)) <= LARGEST_EXAMPLE else None,
        )

    async def exposition(self) -> str:
        """Prometheus text of this replica."""
        self._metrics.queued.set(self._batcher.queued_rows)
        self._metrics.calls(self._calls.busy(time.perf_counter()), self._calls.out_of_memory)
        self._metrics.memory(self._share.memory_used(), self._share.memory_bytes)
        self._metrics.gpu_memory(await asyncio.to_thread(self._share.gpu_memory_used), self._share.gpu_memory_bytes)
        signal = self._scaling.signal()
        if signal is None:
            self._metrics.scaling(None, None, None)
        else:
            self._metrics.scaling(signal.load.ongoing, signal.latency_s, signal.load.busy)
        return self._metrics.exposition()

    def _computed(self, rows: int, seconds: float, whole: bool) -> None:
        self._metrics.batch(rows, seconds)
        self._scaling.computed(rows, seconds, whole=whole)

    def _warm_up(self, max_batch_size: int) -> None:
        """Run each batch size once: 1, 2, 4, … and the largest. The first call of a size allocates and compiles."""
        sizes = {min(2**power, max_batch_size) for power in range(max_batch_size.bit_length() + 1)}
        if self._model.static_batch:
            sizes = {self._model.static_batch}
        for rows in sorted(sizes - self._warm):
            inputs = warmup_inputs(self._model.signature, rows, self._example)
            if inputs is None:
                logger.info("%s has neither signature nor example: no warm-up.", self._args.name)
                return
            begin = time.perf_counter()
            try:
                result = self._calls.warm_up(*inputs)
            except BaseException as error:  # as in `Execution.run`
                # Zeros, or fewer rows than its example has, may be no legal input for this model.
                logger.warning("Warm-up with %d rows failed: %s", rows, describe(error))
                return
            self._warm.add(rows)
            self._scaling.curve.guess(rows, time.perf_counter() - begin)
            if any(len(array) != rows for array in result.outputs.values()):
                self._execution.one_by_one = True
            logger.info("Warm-up with %d rows: %.1f ms.", rows, (time.perf_counter() - begin) * 1e3)


def _assigned() -> dict[str, float]:
    """What Ray has reserved for this replica, by its names; nothing outside of Ray."""
    if not ray.is_initialized():
        return {}
    return dict(ray.get_runtime_context().get_assigned_resources())  # type: ignore[no-untyped-call]


def _devices() -> list[str]:
    """What this replica computes on; see `link.devices`. Nothing where Ray does not say: it is of no use to answers."""
    try:
        context = ray.get_runtime_context()
        return devices.told(context.get_node_id(), map(str, context.get_accelerator_ids().get(devices.GPU, ())))
    except Exception:
        logger.exception("What this replica computes on is not known; no other model yields to it.")
        return []


def _load_behind_others(args: ModelArgs, assigned: dict[str, float]) -> tuple[Path, LoadedModel, Share]:
    """In a thread of its own: the neighbours' requests go first."""
    cpus.yield_to_others(assigned.get("CPU"))
    memory = assigned.get("memory")
    return _load(args, int(memory) if memory else None, assigned.get("CPU"))


def _load(
    args: ModelArgs, memory_bytes: int | None = None, count: float | None = None
) -> tuple[Path, LoadedModel, Share]:
    own = OwnCredentials.of(args)
    own.take()  # code that the model brings may read them too, wherever its bytes come from
    path = ModelCache().fetch(args.identity, args.tracking_uri, own.require)
    share = open_share(memory_bytes=memory_bytes, gpu_memory_bytes=args.gpu_memory_bytes, cpus=count)
    model = load(
        path, allow_code_execution=args.allow_code_execution, gpu_memory_bytes=share.library_bytes, share=share
    )
    return path, model, share


def _labels(path: Path, labels_file: str) -> tuple[str, ...]:
    """Lines of a file inside the model's artifacts; none where it cannot be had. A version is ready without labels."""
    try:
        file = (path / labels_file).resolve()
        if file.is_relative_to(path.resolve()) and file.is_file():
            # Spreadsheets and editors of Windows begin a file with a byte order mark, or write no UTF-8.
            return tuple(file.read_text(encoding="utf-8-sig", errors="replace").splitlines())
    except OSError as error:
        logger.error("The labels in %r cannot be read: classes are named by their index. %s", labels_file, error)
        return ()
    logger.error("The model's artifacts hold no file %r: classes are named by their index.", labels_file)
    return ()


def build(args: ModelArgs) -> Application:
    """Serve's application builder."""
    return Model.bind(args)  # type: ignore[attr-defined,no-any-return]
