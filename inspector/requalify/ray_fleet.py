"""The tasks over a Ray cluster: one actor a CPU or GPU, each with an engine of its own.

Plain actors instead of a data pipeline: a task is a shard, its result is a file, and what is done is known by the files
alone. An actor that dies costs its shard; a driver that dies costs nothing but a new call.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.archive.place import Place, library
from inspector.engine.machine import physical_cores
from inspector.errors import ConfigError, EngineError, InspectorError
from inspector.requalify.fleet import ATTEMPTS, given_up
from inspector.requalify.plan import EngineChoice, Task
from inspector.requalify.worker import Outcome, Worker

LOCAL = "local"
_STORE_BYTES = 256 << 20
"""Of a cluster that is started here: it holds the bundles and nothing else."""
Files = dict[str, bytes]
Bundles = dict[str, Files]
"""By the bundle's path at the driver."""


class RayFleet:
    """A connection to a cluster; ``local`` starts one on this machine, of ``workers`` CPUs. Close it."""

    def __init__(self, address: str, workers: int, choices: Sequence[EngineChoice]) -> None:
        """Raises ConfigError without Ray, or where no cluster answers."""
        self._ray = ray = library("ray")
        self._ours = not ray.is_initialized()
        if self._ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # plants have no way out, and nothing to tell
            where: dict[str, Any] = {"address": address}
            if address == LOCAL:
                where = {"num_cpus": workers or physical_cores(), "include_dashboard": False}
                where["object_store_memory"] = _STORE_BYTES
            try:
                ray.init(**where, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(f"no Ray cluster at {address}", found=str(error).partition("\n")[0]) from error
        self._on_gpu = any(choice.backend == "tensorrt" for choice in choices)
        resource = "GPU" if self._on_gpu else "CPU"
        offered = int(ray.cluster_resources().get(resource, 0))
        if not offered:
            raise ConfigError(f"the Ray cluster at {address} has no {resource}", expected=f"one {resource} a worker")
        self.workers = min(workers or offered, offered)
        self._bundles = ray.put({choice.path: _packed(Path(choice.path)) for choice in choices})
        self.refusals: list[str] = []
        """Workers whose device does not fit the plan, each with its reason."""

    def run(self, tasks: Sequence[Task], archive: Place, out: Place) -> Iterator[Outcome]:
        """The outcomes in the order in which they come. Raises EngineError when every worker refuses."""
        ray = self._ray
        waiting, attempts = deque(tasks), dict.fromkeys((task.name for task in tasks), 0)
        idle = [self._actor(archive, out) for _ in range(min(self.workers, len(tasks)))]
        busy: dict[Any, tuple[Any, Task]] = {}
        refusal: InspectorError | None = None
        while waiting or busy:
            while waiting and idle:
                actor, task = idle.pop(), waiting.popleft()
                busy[actor.run.remote(task)] = (actor, task)
            if not busy:
                raise refusal or EngineError("the Ray cluster has no worker left")
            ready, _ = ray.wait(list(busy), num_returns=1)
            actor, task = busy.pop(ready[0])
            try:
                said = ray.get(ready[0])
            except ray.exceptions.RayActorError:
                attempts[task.name] += 1
                idle.append(self._actor(archive, out))
                if attempts[task.name] < ATTEMPTS:
                    waiting.appendleft(task)
                else:
                    yield Outcome(task, errors=task.shard.images, fault=given_up(task))
                continue
            except ray.exceptions.RayTaskError as error:
                raise InspectorError(f"a worker failed on {task.shard.name}", found=str(error.cause)) from error
            if isinstance(said, Outcome):
                idle.append(actor)
                yield said
            elif isinstance(said.error, EngineError):
                refusal = said.error
                self.refusals.append(f"{said.node}: {said.error}")
                waiting.appendleft(task)
            else:
                raise said.error

    def close(self) -> None:
        """Let go; ends a cluster that was started here. Idempotent."""
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()

    def _actor(self, archive: Place, out: Place) -> Any:
        needs = {"num_cpus": 1, "num_gpus": 1} if self._on_gpu else {"num_cpus": 1}
        remote = self._ray.remote(**needs, max_restarts=0)(_Actor)
        return remote.remote(archive.url, out.url, self._bundles)


@dataclass(frozen=True, slots=True)
class _Refused:
    """What kept a worker from its task."""

    node: str
    error: InspectorError


class _Actor:
    """A worker on some node. The bundles come with it: plans are proven against the node by their passports."""

    def __init__(self, archive: str, out: str, bundles: Bundles) -> None:
        self._worker = Worker(Place(archive), Place(out))
        self._scratch = tempfile.TemporaryDirectory(prefix="inspector-bundle-")
        self._paths = {path: _unpack(files, Path(self._scratch.name)) for path, files in bundles.items()}

    def run(self, task: Task) -> Outcome | _Refused:
        """As ``Worker.run``; errors of ours come back as values, so that they keep their words."""
        try:
            self._worker.open(task.engine, self._paths[task.engine.path])
            return self._worker.run(task)
        except InspectorError as error:
            return _Refused(library("ray").util.get_node_ip_address(), error)


def _packed(bundle: Path) -> Files:
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in files}


def _unpack(files: Files, scratch: Path) -> Path:
    root = Path(tempfile.mkdtemp(dir=scratch))
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root
