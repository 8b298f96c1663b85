"""Requalification: the same judgement as the line and as replay, in any number of processes, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import pytest
from archive_kit import STATION, Written, judged, parts_of, png_of, result_files, result_rows, told

from inspector.archive.place import Place
from inspector.config import load
from inspector.errors import ConfigError, EngineError
from inspector.replay import replay
from inspector.requalify import fleet
from inspector.requalify.plan import make_plan, read_manifests, resolve
from inspector.requalify.run import Wanted, requalify
from inspector.requalify.worker import Worker

KEYS = {
    "parts", "flips", "pass_to_fail", "fail_to_pass", "errors", "shards", "resumed_shards", "parts_per_s", "workers"
}  # fmt: skip
Engines = tuple[Path, Path]


@pytest.fixture(scope="module")
def compared(
    written: Written, engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The second engine against the archived answers, in this process."""
    out = tmp_path_factory.mktemp("requalified") / "out"
    return out, judged(written.archive, engines[1], out, workers=1)


def test_the_engine_that_wrote_the_archive_finds_what_it_found(
    written: Written, engines: Engines, tmp_path: Path
) -> None:
    """Same engine, same calibration, same rules: no verdict flips, no pixel of a mask, no defect by a digit."""
    found = judged(written.archive, engines[0], tmp_path / "out", workers=1)
    assert (found["flips"], found["mask_changes"], found["errors"]) == (0, 0, 0)
    assert found["parts"] == sum(row["image_sha256"] is not None for row in parts_of(written))
    archived = {(row["epoch"], row["sequence"]): row for row in parts_of(written)}
    results = [row for path in (tmp_path / "out" / "shards").glob("*.parquet") for row in _rows(path)]
    assert results and any(row["defects"] for row in results)
    for row in results:
        part = archived[row["epoch"], row["sequence"]]
        assert row["defects"] == part["defects"]
        assert row["score"] == part["score"]
        assert row["rules"] == part["rules"]


def test_flips_are_exactly_those_of_two_plain_replays(
    written: Written, engines: Engines, tmp_path: Path, compared: tuple[Path, dict[str, Any]]
) -> None:
    """Two engines that differ in one weight: replay of the stored pictures with each finds the same flips."""
    folder = tmp_path / "images"
    folder.mkdir()
    parts = {f"{row['sequence']:06d}.png": row for row in parts_of(written) if row["image_sha256"]}
    for name, row in parts.items():
        cv2.imwrite(str(folder / name), png_of(written, row["image_sha256"]))
    said: list[dict[str, str]] = []
    for number, engine in enumerate(engines):
        results = tmp_path / f"{number}.jsonl"
        settings = load(None, {}, engine={"bundle": engine, "threads": 1}).settings
        replay(folder, settings, results=results)
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        said.append({line["image"]: line["verdict"] for line in lines})
    expected = {
        (row["sequence"], said[0][name], said[1][name]) for name, row in parts.items() if said[0][name] != said[1][name]
    }
    out, figures = compared
    found = {
        (row["sequence"], row["old_verdict"], row["new_verdict"]) for row in result_rows(out) if row["flip"] is not None
    }
    assert found == expected
    assert 0 < len(found) < figures["parts"]
    assert figures["flips"] == figures["pass_to_fail"] + figures["fail_to_pass"] == len(found)


def test_against_a_bundle_is_the_same_as_against_the_answers_it_gave(
    written: Written, engines: Engines, tmp_path: Path, compared: tuple[Path, dict[str, Any]]
) -> None:
    """With --against the old engine judges too; here it gave the archived answers itself."""
    found = judged(written.archive, engines[1], tmp_path / "out", against=engines[0], workers=1)
    assert found["shards"] == 2 * compared[1]["shards"]
    assert [row["flip"] for row in result_rows(tmp_path / "out")] == [row["flip"] for row in result_rows(compared[0])]
    assert found["mask_changes"] == compared[1]["mask_changes"] > 0


def test_one_network_at_two_operating_points_is_two_engines(written: Written, engines: Engines, tmp_path: Path) -> None:
    """A candidate may differ in its threshold alone: each side is decided by its own."""
    bundle = tmp_path / "stricter"
    shutil.copytree(engines[0], bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["operating_point"]["threshold"] = 0.66
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    found = judged(written.archive, bundle, tmp_path / "out", against=engines[0], workers=1)
    alone = judged(written.archive, bundle, tmp_path / "alone", workers=1)
    assert found["pass_to_fail"] == alone["pass_to_fail"] > 0 and found["fail_to_pass"] == 0


def test_processes_give_the_same_bytes_as_one(
    written: Written, engines: Engines, tmp_path: Path, compared: tuple[Path, dict[str, Any]]
) -> None:
    """How many work on it is not in the result."""
    found = judged(written.archive, engines[1], tmp_path / "out", workers=2)
    assert found["workers"] == 2
    assert result_files(tmp_path / "out") == result_files(compared[0])


def test_the_command_tells_its_figures_and_writes_the_report(
    written: Written, engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every key on the last line; every flip in the report with a picture of both masks; a second call resumes all."""
    command = ["requalify", str(written.archive), "--engine", str(engines[1]), "--out", str(tmp_path / "out")]
    code, found = told(capsys, *command, "--workers", "1", "--json")
    assert code == 0 and set(found) >= KEYS
    page = (tmp_path / "out" / "report.html").read_text()
    pictures = list((tmp_path / "out" / "flips").glob("*.png"))
    assert len(pictures) == found["flips"] == page.count("<figure>")
    assert all(path.name in page for path in pictures)
    assert f"{found['flips']} of {found['parts']} verdicts change" in page
    before = result_files(tmp_path / "out")
    code, again = told(capsys, *command, "--workers", "1", "--json")
    assert again["resumed_shards"] == again["shards"] == found["shards"]
    assert again["parts_per_s"] is None and again["flips"] == found["flips"]
    assert result_files(tmp_path / "out") == before


def test_known_truth_gives_escapes_and_overkill_with_bounds(compared: tuple[Path, dict[str, Any]]) -> None:
    """Counted over the parts themselves, both sides, never below their own rate."""
    out, figures = compared
    known, rows = figures["known_truth"], result_rows(out)
    for side in ("old", "new"):
        escapes = sum(row["truth"] and row[f"{side}_verdict"] == "PASS" for row in rows)
        overkill = sum(not row["truth"] and row[f"{side}_verdict"] == "FAIL" for row in rows)
        assert (known["escapes"][side]["count"], known["overkill"][side]["count"]) == (escapes, overkill)
        assert known["escapes"][side]["upper95"] >= (known["escapes"][side]["rate"] or 0)
    assert known["defective"] + known["good"] == figures["parts"]


def test_a_corrupt_shard_is_refused_in_one_line_and_the_rest_is_judged(
    written: Written, engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parts count as errors, the exit code says so; mended, only it is judged again."""
    archive = tmp_path / "archive"
    shutil.copytree(written.archive, archive)
    shard = sorted((archive / "stations" / STATION).glob("parts-*.parquet"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:90] + bytes([whole[90] ^ 1]) + whole[91:])
    command = ["requalify", str(archive), "--engine", str(engines[1]), "--out", str(tmp_path / "out"), "--json"]
    code = sys.modules["inspector.cli"].run([*command, "--workers", "1"])
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    lines = [line for line in said.err.splitlines() if line]
    assert code == 1 and len(lines) == 1
    assert shard.name in lines[0] and "corrupt" in lines[0] and "Restore" in lines[0]
    assert found["errors"] == 32 and found["parts"] == len(parts_of(written)) - 32 - found["without_image"]
    shard.write_bytes(whole)
    code, mended = told(capsys, *command, "--workers", "1")
    assert (code, mended["errors"], mended["resumed_shards"]) == (0, 0, mended["shards"] - 1)


def test_a_corrupt_picture_is_told_and_never_judged(written: Written, engines: Engines, tmp_path: Path) -> None:
    """Pixels that are not the archived ones give no verdict; restored, the shard is judged again."""
    archive = tmp_path / "archive"
    shutil.copytree(written.archive, archive)
    digest = next(row["image_sha256"] for row in parts_of(written) if row["image_sha256"])
    picture = archive / "pictures" / digest[:2] / f"{digest}.png"
    whole = picture.read_bytes()
    picture.write_bytes(png_twin(whole))
    found = judged(archive, engines[1], tmp_path / "out", workers=1)
    touched = sum(row["image_sha256"] == digest for row in parts_of(written))
    assert found["errors"] == touched and "corrupt" in found["faults"][0]
    assert all(row["new_verdict"] is None for row in result_rows(tmp_path / "out") if row["error"])
    picture.write_bytes(whole)
    assert judged(archive, engines[1], tmp_path / "out", workers=1)["errors"] == 0


def png_twin(png: bytes) -> bytes:
    """Another readable picture of the same size."""
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    return bytes(cv2.imencode(".png", 255 - pixels)[1].tobytes())


def test_a_damaged_result_is_made_again(written: Written, engines: Engines, tmp_path: Path) -> None:
    """Resumed means proven: a result that is not what was written is not taken for done."""
    judged(written.archive, engines[1], tmp_path / "out", workers=1)
    before = result_files(tmp_path / "out")
    victim = sorted((tmp_path / "out" / "shards").glob("*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:-1] + b"X")
    again = judged(written.archive, engines[1], tmp_path / "out", workers=1)
    assert again["resumed_shards"] == again["shards"] - 1
    assert result_files(tmp_path / "out") == before


def test_a_worker_that_is_killed_costs_its_shard_only(
    written: Written,
    engines: Engines,
    tmp_path: Path,
    compared: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kill -9 in the middle: another takes its place, no shard twice, none missing, nothing left behind."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))  # the workers' own, since they are started anew
    archive, out = Place(written.archive), Place(tmp_path / "out")
    tasks = make_plan(resolve(engines[1]), read_manifests(archive)).tasks
    crew: list[Any] = []
    killed: list[str] = []

    class Watched(fleet._Process):
        def __post_init__(self) -> None:
            super().__post_init__()
            crew.append(self)

        def give(self, task: Any) -> None:
            super().give(task)
            if len(killed) < 1 and len(crew) >= 2 and self is crew[1]:
                killed.append(task.name)
                os.kill(self.process.pid, signal.SIGKILL)

    original = fleet._Process
    fleet._Process = Watched  # type: ignore[misc]
    try:
        done = [outcome.task.name for outcome in fleet.run_processes(tasks, archive, out, 2)]
    finally:
        fleet._Process = original  # type: ignore[misc]
    assert killed and sorted(done) == sorted(task.name for task in tasks)
    assert len(crew) == 3
    assert not list(scratch.glob("inspector-*"))
    found = judged(written.archive, engines[1], tmp_path / "out", workers=1)
    assert found["resumed_shards"] == found["shards"]
    assert result_files(tmp_path / "out") == result_files(compared[0])


def test_a_driver_that_is_killed_resumes(
    written: Written, engines: Engines, tmp_path: Path, compared: tuple[Path, dict[str, Any]]
) -> None:
    """kill -9 of the driver once the first results lie there: the next call does the rest, to the same bytes."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "inspector", "requalify", str(written.archive), "--engine", str(engines[1])]
    process = subprocess.Popen([*command, "--out", str(out), "--workers", "2"])
    try:
        waited = threading.Event()
        while not list(out.glob("shards/*.json")) and process.poll() is None:
            waited.wait(0.005)
    finally:
        process.kill()
        process.wait()
    done = len(list(out.glob("shards/*.json")))
    assert done >= 1
    found = judged(written.archive, engines[1], out, workers=1)
    assert found["resumed_shards"] >= done
    assert result_files(out) == result_files(compared[0])


def test_a_shard_that_kills_every_worker_is_given_up(
    written: Written, engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three workers, not all of them for ever; the others' shards are done."""
    archive, out = Place(written.archive), Place(tmp_path / "out")
    tasks = make_plan(resolve(engines[1]), read_manifests(archive)).tasks[:2]

    class Doomed(fleet._Process):
        def give(self, task: Any) -> None:
            super().give(task)
            if task is tasks[0] or task.name == tasks[0].name:
                os.kill(self.process.pid, signal.SIGKILL)

    monkeypatch.setattr(fleet, "_Process", Doomed)
    outcomes = {outcome.task.name: outcome for outcome in fleet.run_processes(tasks, archive, out, 2)}
    assert "given up" in outcomes[tasks[0].name].fault and outcomes[tasks[0].name].errors == tasks[0].shard.images
    assert not outcomes[tasks[1].name].fault


def test_a_worker_with_another_plan_refuses(written: Written, engines: Engines, tmp_path: Path) -> None:
    """The plan that was resolved is the one that judges, or none does."""
    from dataclasses import replace

    archive = Place(written.archive)
    choice = replace(resolve(engines[1]), plan_hash="0" * 64)
    worker = Worker(archive, Place(tmp_path))
    with pytest.raises(EngineError, match="another plan"):
        worker.run(make_plan(choice, read_manifests(archive)).tasks[0])
    worker.close()


def test_results_of_another_class_of_device_are_marked(written: Written, engines: Engines, tmp_path: Path) -> None:
    """The line's device class stands in the manifest; here it is made another."""
    archive = tmp_path / "archive"
    shutil.copytree(written.archive, archive)
    path = archive / "stations" / STATION / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"device_class": "cpu avx2"}))
    found = judged(archive, engines[1], tmp_path / "out", workers=1)
    assert found["other_device"] == found["parts"]
    assert all(row["other_device"] for row in result_rows(tmp_path / "out"))


def test_missing_rules_are_an_error_not_a_guess(written: Written, engines: Engines, tmp_path: Path) -> None:
    """Without the rules that a part was decided by it is not judged by others."""
    archive = tmp_path / "archive"
    shutil.copytree(written.archive, archive)
    for path in (archive / "recipes" / "rules").glob("*.json"):
        path.unlink()
    found = judged(archive, engines[1], tmp_path / "out", workers=1)
    assert found["parts"] == 0 and found["errors"] > 0 and "rules" in found["faults"][0]


def test_no_archive_is_bad_usage(engines: Engines, tmp_path: Path) -> None:
    """Exit 2, and the command that makes one."""
    with pytest.raises(ConfigError, match="ledger export"):
        requalify(Wanted(str(tmp_path), engines[0], str(tmp_path / "out")))


def _rows(path: Path) -> list[dict[str, Any]]:
    from inspector.archive.table import parquet_rows

    return parquet_rows(path.read_bytes())
