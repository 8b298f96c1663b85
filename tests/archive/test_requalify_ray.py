"""Requalification over a Ray cluster of two worker processes: the same bytes, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from archive_kit import Written, judged, result_files

from inspector.archive.place import Place
from inspector.errors import EngineError
from inspector.requalify.plan import make_plan, read_manifests, resolve

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'inspector[fleet]'")
from inspector.requalify.ray_fleet import RayFleet  # noqa: E402

pytestmark = pytest.mark.timeout(400)
Engines = tuple[Path, Path]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of two CPUs on this machine; its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    context = ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=100 << 20
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def alone(written: Written, engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of it."""
    out = tmp_path_factory.mktemp("alone") / "out"
    judged(written.archive, engines[1], out, workers=1)
    return result_files(out)


def test_a_worker_that_is_killed_costs_its_shard_only(
    cluster: str, written: Written, engines: Engines, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    """Two actors, one shot in the middle: each shard is done once, and the bytes are those of one process."""
    choice = resolve(engines[1])
    archive, out = Place(written.archive), Place(tmp_path / "out")
    tasks = make_plan(choice, read_manifests(archive)).tasks
    fleet = RayFleet(cluster, 2, [choice])
    assert fleet.workers == 2
    done, killed = [], 0
    for outcome in fleet.run(tasks, archive, out):
        done.append(outcome.task.name)
        if not killed:
            killed = _kill_one_actor()
    assert killed and sorted(done) == sorted(task.name for task in tasks)
    found = judged(written.archive, engines[1], tmp_path / "out", workers=1)
    assert found["resumed_shards"] == found["shards"] == len(tasks)
    assert result_files(tmp_path / "out") == alone


def _kill_one_actor() -> int:
    """kill -9 a worker that holds an actor of ours; its pid."""
    for process in psutil.process_iter(["cmdline"]):
        if any("_Actor" in word for word in process.info["cmdline"] or ()) and _is_ours(process):
            os.kill(process.pid, signal.SIGKILL)
            return process.pid
    return 0


def _is_ours(process: psutil.Process) -> bool:
    return any(parent.pid == os.getpid() for parent in process.parents())


def test_a_driver_that_is_killed_resumes(
    cluster: str, written: Written, engines: Engines, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    """kill -9 of the driver in the middle; a new call on the same cluster does the rest, to the same bytes."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "inspector", "requalify", str(written.archive), "--engine", str(engines[1])]
    process = subprocess.Popen([*command, "--out", str(out), "--ray", cluster, "--workers", "2"])
    pause = threading.Event()
    try:
        while not list(out.glob("shards/*.json")) and process.poll() is None:
            pause.wait(0.005)
    finally:
        process.kill()
        process.wait()
    done = len(list(out.glob("shards/*.json")))
    assert done >= 1
    found = judged(written.archive, engines[1], out, ray=cluster, workers=2)
    assert found["workers"] >= 1 or found["resumed_shards"] == found["shards"]
    assert found["resumed_shards"] >= done
    assert result_files(out) == alone


def test_every_worker_refusing_ends_in_its_words(
    cluster: str, written: Written, engines: Engines, tmp_path: Path
) -> None:
    """A plan that fits no worker: the passport's line, not a stack trace, and nothing judged."""
    choice = replace(resolve(engines[1]), plan_hash="0" * 64)
    archive = Place(written.archive)
    fleet = RayFleet(cluster, 2, [choice])
    tasks = make_plan(choice, read_manifests(archive)).tasks
    with pytest.raises(EngineError, match="another plan"):
        list(fleet.run(tasks, archive, Place(tmp_path)))
    assert len(fleet.refusals) == 2 and not list(tmp_path.rglob("*.parquet"))


def test_one_worker_refusing_leaves_the_work_to_the_others(
    cluster: str, written: Written, engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Any
) -> None:
    """A node without the plan's instructions is told of and left out; the results are the same."""
    choice = resolve(engines[1])
    archive, out = Place(written.archive), Place(tmp_path / "out")
    fleet = RayFleet(cluster, 2, [choice])
    broken, made = ray.put({choice.path: {}}), []
    whole, original = fleet._bundles, fleet._actor

    def actor(*places: Place) -> Any:
        made.append(None)
        fleet._bundles = broken if len(made) == 1 else whole
        return original(*places)

    monkeypatch.setattr(fleet, "_actor", actor)
    tasks = make_plan(choice, read_manifests(archive)).tasks
    assert sorted(each.task.name for each in fleet.run(tasks, archive, out)) == sorted(task.name for task in tasks)
    assert len(fleet.refusals) == 1
    judged(written.archive, engines[1], tmp_path / "out", workers=1)
    assert result_files(tmp_path / "out") == alone
