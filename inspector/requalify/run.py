"""Requalify: plan, judge what is not judged yet, join old and new, write the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.archive.place import Place
from inspector.clock import Clock, SystemClock
from inspector.engine.machine import physical_cores
from inspector.errors import ConfigError
from inspector.requalify.fleet import run_here, run_processes
from inspector.requalify.merge import RESULTS_FILE, Totals, merge, without_image
from inspector.requalify.pictures import FlipPictures
from inspector.requalify.plan import (
    EngineChoice,
    Plan,
    Side,
    Task,
    make_plan,
    percentile_ms,
    read_manifests,
    read_side,
    resolve,
)
from inspector.requalify.report import REPORT_FILE, write_report
from inspector.requalify.worker import Outcome

if TYPE_CHECKING:
    from inspector.requalify.ray_fleet import RayFleet

PICTURES = 200
"""Flips shown with their pictures, first come; all of them are in the Parquet file."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for."""

    archive: str
    engine: Path
    out: str = "requalified"
    against: Path | None = None
    backend: str = "auto"
    precision: str = "auto"
    ray: str | None = None
    """Address of a Ray cluster; ``local`` starts one on this machine."""
    workers: int = 0
    """0 = one a core; on a Ray cluster one a CPU, or a GPU where the plan needs one."""
    stations: tuple[str, ...] = ()
    pictures: int = PICTURES


def requalify(
    wanted: Wanted, *, clock: Clock | None = None, on_progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Judge the archive with a candidate engine; returns the figures (keys as ``requalify --json``).

    Raises ConfigError where there is no archive, EngineError where a plan does not fit, LedgerError where OUT cannot
    be written. Shards and pictures that are corrupt are counted as errors and told; the rest is judged.
    """
    clock = clock or SystemClock()
    archive, out = Place(wanted.archive), Place(wanted.out)
    manifests = read_manifests(archive, wanted.stations)
    new = make_plan(resolve(wanted.engine, backend=wanted.backend, precision=wanted.precision), manifests)
    old = make_plan(resolve(wanted.against), manifests) if wanted.against is not None else None
    tasks = [task for plan in (new, old) if plan is not None for task in plan.tasks]
    if not tasks:
        raise ConfigError(f"the archive {archive.url} has no images", do="Let the store save some: [store] save.")
    lying = _Lying(new.engine)
    for task in tasks:
        lying.add(task, read_side(out, task))
    resumed = len(lying.names)
    todo = list({task.name: task for task in tasks if task.name not in lying.names}.values())
    fleet = _Fleet(wanted, todo) if todo else None
    started_ns = clock.now_ns()
    faults, judged = [], 0
    try:
        for count, outcome in enumerate(fleet.run(todo, archive, out) if fleet is not None else (), start=1):
            judged += outcome.parts
            if outcome.fault:
                faults.append(outcome)
            else:
                lying.add(outcome.task, Side.read(out, outcome.task))
            on_progress(count, len(todo))
    finally:
        if fleet is not None:
            fleet.close()
    seconds = (clock.now_ns() - started_ns) / 1e9
    pictures = FlipPictures(archive, out, wanted.pictures)
    totals = merge(archive, out, new, old, lying.names, pictures.add)
    figures = {
        **_figures(totals, faults, new, old),
        **lying.figures(),
        "shards": len(tasks),
        "resumed_shards": resumed,
        "parts_per_s": round(judged / seconds, 2) if judged else None,
        "workers": fleet.workers if fleet is not None else 0,
        "refused_workers": fleet.refusals if fleet is not None else [],
        "seconds": round(seconds, 3),
        "without_image": without_image(manifests),
        "results": f"{out.url}/{RESULTS_FILE}",
        "report": f"{out.url}/{REPORT_FILE}",
    }
    write_report(out, figures, pictures.shown)
    return figures


class _Fleet:
    """Who works: this process, several on this machine, or a Ray cluster."""

    def __init__(self, wanted: Wanted, todo: Sequence[Task]) -> None:
        choices = list({task.engine.plan_hash: task.engine for task in todo}.values())
        self._ray: RayFleet | None = None
        if wanted.ray is not None:
            from inspector.requalify.ray_fleet import RayFleet

            self._ray = RayFleet(wanted.ray, wanted.workers, choices)
        on_gpu = any(choice.backend == "tensorrt" for choice in choices)
        # One engine a core: OpenVINO's own throughput mode is as many one-thread streams, and bits do not depend on it.
        here = wanted.workers or (1 if on_gpu else physical_cores())
        self.workers = min(here if self._ray is None else self._ray.workers, len(todo))

    def run(self, todo: Sequence[Task], archive: Place, out: Place) -> Iterator[Outcome]:
        if self._ray is not None:
            return self._ray.run(todo, archive, out)
        return run_here(todo, archive, out) if self.workers == 1 else run_processes(todo, archive, out, self.workers)

    @property
    def refusals(self) -> list[str]:
        return self._ray.refusals if self._ray is not None else []

    def close(self) -> None:
        if self._ray is not None:
            self._ray.close()


class _Lying:
    """Results that lie in OUT and are whole; of their timings only the sum is kept."""

    def __init__(self, engine: EngineChoice) -> None:
        self._engine, self._times = engine, Counter[str]()
        self._devices: set[str] = set()
        self.names: set[str] = set()

    def add(self, task: Task, side: Side | None) -> None:
        if side is None or task.name in self.names:
            return
        self.names.add(task.name)
        if task.engine == self._engine:
            self._times.update(side.engine_us)
            self._devices.add(side.device)

    def figures(self) -> dict[str, Any]:
        """Of the candidate: where it was judged, and the engine's time a part."""
        times = {name: percentile_ms(self._times, share) for name, share in (("p50", 0.50), ("p99", 0.99))}
        return {"devices": sorted(self._devices), "engine_ms": times}


def _figures(totals: Totals, faults: list[Outcome], new: Plan, old: Plan | None) -> dict[str, Any]:
    return {
        "parts": totals.parts,
        "flips": sum(totals.kinds.values()),
        "pass_to_fail": totals.kinds["PASS>FAIL"],
        "fail_to_pass": totals.kinds["FAIL>PASS"],
        "flips_by_kind": dict(sorted(totals.kinds.items())),
        "flips_by_station": {name: dict(sorted(found.items())) for name, found in sorted(totals.by_station.items())},
        "flips_by_class": {name: dict(sorted(found.items())) for name, found in sorted(totals.by_class.items())},
        "verdicts": {f"{old_}>{new_}": count for (old_, new_), count in sorted(totals.verdicts.items())},
        "mask_changes": totals.mask_changes,
        "reviewed": totals.reviewed.to_json(),
        "known_truth": totals.known.to_json(),
        "errors": totals.errors + sum(each.errors for each in faults),
        "faults": [*(each.fault for each in faults), *totals.first_errors],
        "other_device": totals.other_device,
        "engine": new.engine.label,
        "against": old.engine.label if old is not None else "the archived answers",
    }
