"""What is to be done: which engine, which shards, and the name of each result."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from inspector import __version__
from inspector.archive.catalogue import Manifest, Shard, read_manifest, stations
from inspector.archive.place import Place, sha256
from inspector.engine.bundle import load_bundle
from inspector.engine.choose import open_engine, self_test
from inspector.engine.machine import device_class
from inspector.errors import ConfigError, LedgerError

RESULT_FORMAT = 1
RESULTS = "shards"
THREADS = 1
"""Of one CPU engine, on every machine: another number of threads may round in another order."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine as it was resolved once; every worker opens this very plan or refuses."""

    path: str
    """The bundle."""
    name: str
    backend: str
    precision: str
    plan_hash: str
    device: str
    device_class: str
    threshold: float
    min_area_px: int
    mean: float
    std: float

    @property
    def label(self) -> str:
        return f"{self.name} {self.backend} {self.precision} {self.plan_hash[:16]}"


@dataclass(frozen=True, slots=True)
class Task:
    """One shard through one engine."""

    engine: EngineChoice
    station: str
    shard: Shard
    line_class: str
    """Device class of the line that wrote the shard."""
    name: str
    """Of the result file, without suffix: two tasks of one name have the same result."""

    @property
    def result(self) -> str:
        return f"{RESULTS}/{self.name}.parquet"

    @property
    def side(self) -> str:
        """Timings and the result's hash; written last, so it marks the result as whole."""
        return f"{RESULTS}/{self.name}.json"


@dataclass(frozen=True, slots=True)
class Side:
    """What is known of a result and is not the same in every run."""

    sha256: str
    parts: int
    errors: int
    seconds: float
    engine_us: dict[str, int]
    """Parts by the engine's time, in buckets of 1 %."""
    device: str
    device_class: str

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def read(out: Place, task: Task) -> Side:
        """Raises LedgerError, ValueError, TypeError."""
        return Side(**json.loads(out.read(task.side)))


@dataclass(frozen=True, slots=True)
class Plan:
    """All tasks of one engine, in the order of station and shard."""

    engine: EngineChoice
    manifests: tuple[Manifest, ...]
    tasks: tuple[Task, ...]


def resolve(path: Path, *, backend: str = "auto", precision: str = "auto") -> EngineChoice:
    """Open the engine as a worker will, prove it, and name its plan. Raises EngineError, ConfigError."""
    bundle = load_bundle(path)
    opened = open_engine(bundle, backend=backend, precision=precision, threads=THREADS)
    try:
        self_test(opened.engine, bundle)
        info = opened.engine.info
    finally:
        opened.engine.close()
    return EngineChoice(
        path=str(path.resolve()),
        name=bundle.name,
        backend=info.backend,
        precision=info.precision,
        plan_hash=info.plan_hash,
        device=info.device,
        device_class=engine_class(info.backend, info.device),
        threshold=bundle.threshold,
        min_area_px=bundle.min_area_px,
        mean=bundle.mean,
        std=bundle.std,
    )


def engine_class(backend: str, device: str) -> str:
    """Devices of one class give the same bits: a GPU by its name, a CPU by its instruction sets."""
    return f"gpu {device}" if backend == "tensorrt" else device_class()


def read_manifests(archive: Place, only: tuple[str, ...] = ()) -> tuple[Manifest, ...]:
    """The manifests of all stations, or of those named. Raises ConfigError, LedgerError."""
    found = stations(archive)
    unknown = sorted(set(only) - set(found))
    if unknown:
        raise ConfigError("no such station in the archive", expected=", ".join(found), found=", ".join(unknown))
    return tuple(read_manifest(archive, name) for name in found if not only or name in only)


def make_plan(engine: EngineChoice, manifests: tuple[Manifest, ...]) -> Plan:
    """Name every task by what its result depends on. Calibrations and rules are in the shard, by hash."""
    tasks = []
    for manifest in manifests:
        for shard in manifest.shards:
            if shard.images:
                name = task_name(engine, manifest.station, shard)
                tasks.append(Task(engine, manifest.station, shard, manifest.device_class, name))
    return Plan(engine, manifests, tuple(tasks))


def task_name(engine: EngineChoice, station: str, shard: Shard) -> str:
    """Hash of engine plan, operating point, shard content and this code's version."""
    told = [engine.plan_hash, engine.threshold, engine.min_area_px, engine.mean, engine.std, THREADS]
    return sha256(json.dumps([RESULT_FORMAT, __version__, *told, station, shard.sha256]).encode())[:40]


def buckets(times_us: Sequence[int]) -> dict[str, int]:
    """How many times fall into each bucket k: about 1.01 ** k microseconds."""
    found = Counter(round(math.log(max(us, 1)) / math.log(1.01)) for us in times_us)
    return {str(k): count for k, count in sorted(found.items())}


def percentile_ms(found: Mapping[str, int], share: float) -> float | None:
    """The time below which ``share`` of the parts lie, in milliseconds; None without parts."""
    wanted, so_far = share * sum(found.values()), 0
    for k in sorted(map(int, found)):
        so_far += found[str(k)]
        if so_far >= wanted:
            return float(round(1.01**k / 1000, 4))
    return None


def read_side(out: Place, task: Task) -> Side | None:
    """What an earlier run left of this task; None where it is not whole, or held errors that may be mended by now."""
    if not out.exists(task.side):
        return None
    try:
        side = Side.read(out, task)
        if side.errors == 0 and sha256(out.read(task.result)) == side.sha256:
            return side
    except (LedgerError, ValueError, TypeError):
        return None  # damaged: done again, which replaces it
    return None
