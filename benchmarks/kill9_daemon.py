"""kill -9 of the real daemon at random instants: what was acknowledged stays, and nothing is left unsaid.

The daemon process on the drill's camera (real GenTL producer, camera process, engine, ledger, sockets) is killed while
it starts, runs, reloads its rules, swaps its engine, or answers late because the engine hangs; then it is started
again at once. The controller in this process outlives it and acknowledges all it hears. At the end the daemon stops in
order, and what the controller heard is held against the ledger and against what the camera wrote down.
Prints one JSON object; exit code 1 where anything does not fit, the files are kept then.

    python benchmarks/kill9_daemon.py --kills 300
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspector.clock import SystemClock
from inspector.drill.subject import Knob
from inspector.drill.testbed import Testbed
from inspector.errors import InspectorError
from inspector.figures import percentiles
from inspector.frame import Answer, Reason, Verdict
from inspector.ledger.audit import records, verify
from inspector.link import wire

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "engines" / "commutator"
READY_S = 60.0
GONE_S = 20.0
"""A camera process whose daemon is gone must be gone, too, after so long."""
MOODS = {"start": 30, "run": 25, "reload rules": 15, "swap engine": 10, "answer late": 15, "ledger stuck": 5}
"""What the daemon is at when it is killed, with weights."""


def digest(answer: Answer) -> bytes:
    """Names an answer's content as the wire sees it."""
    return wire.content_digest(wire.pack_answer(answer, left_us=0, durable=0))


class Relatives:
    """Processes that carry this bed's camera in their environment: the daemon and its camera process."""

    def __init__(self, bed: Testbed) -> None:
        ((name, value),) = bed.camera.environment.items()
        self._mark = f"{name}={value}".encode()

    def now(self) -> dict[int, str]:
        """Process id -> start time, which tells a process from a later one of the same number."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                        found[int(folder.name)] = _stat(folder)[19]
        return found


def _stat(folder: Path) -> list[str]:
    """The fields of a process's stat after its name: state first, start time at 19."""
    return (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


def living(processes: dict[int, str]) -> list[int]:
    """Those that still run."""
    alive = []
    for pid, started in processes.items():
        with contextlib.suppress(OSError, IndexError):
            facts = _stat(Path(f"/proc/{pid}"))
            if facts[19] == started and facts[0] not in {"Z", "X"}:
                alive.append(pid)
    return alive


@dataclass
class Kills:
    """The kills, one after the other."""

    bed: Testbed
    chance: random.Random
    other_bundle: Path
    problems: list[str] = field(default_factory=list)
    moods: Counter[str] = field(default_factory=Counter)
    ready_ms: list[float] = field(default_factory=list)
    gone_ms: list[float] = field(default_factory=list)
    longest_start_s: float = 3.0
    cameras: int = 0
    """Camera processes that were running at a kill."""

    def __post_init__(self) -> None:
        self.relatives = Relatives(self.bed)
        self._holder: sqlite3.Connection | None = None

    def one(self, mood: str) -> None:
        """Start, bring the daemon into the mood, kill it at a random instant, and look for what it left behind."""
        bed, chance = self.bed, self.chance
        self.moods[mood] += 1
        bed.write_config()
        bed.knobs.set(Knob.HANG_MS, 0)
        known = max((one.answer.epoch for one in list(bed.arrivals)), default=0)
        began_s = time.monotonic()
        bed.launch()
        if mood == "start":
            bed.pause(chance.random() * self.longest_start_s)
        elif self._ready(known, began_s):
            self._bring_into(mood)
        if not bed.alive:
            self.problems.append(f"the daemon ended by itself ({mood}): {bed.last_words()}")
        kin = self.relatives.now()
        self.cameras += max(0, len(kin) - 1)
        bed.end(signal.SIGKILL)
        killed_s = time.monotonic()
        self._let_go()
        self.see_them_go(kin, killed_s)

    def _ready(self, known: int, began_s: float) -> bool:
        bed = self.bed
        if not bed.wait_for(lambda: bool(bed.arrivals) and bed.arrivals[-1].answer.epoch > known, READY_S):
            self.problems.append(f"no answer within {READY_S} s of the start: {bed.last_words()}")
            return False
        self.ready_ms.append((time.monotonic() - began_s) * 1000)
        self.longest_start_s = 1.2 * percentiles(self.ready_ms[-20:]).to_json()["p50"] / 1000  # type: ignore[operator]
        return True

    def _bring_into(self, mood: str) -> None:
        bed, chance = self.bed, self.chance
        if mood == "reload rules":
            bed.pause(chance.random() * 0.2)
            bed.write_config(decision={"limits": {"min_area_map_px": 13}})
            bed.tell(signal.SIGHUP)
            bed.pause(chance.random() * 0.4)
        elif mood == "swap engine":
            bed.write_config(engine={"bundle": str(self.other_bundle)})
            bed.tell(signal.SIGHUP)
            bed.pause(chance.random() * 2.0)
        elif mood == "answer late":
            gate_s = float(bed.tables["timing"]["gate_ms"]) / 1000
            bed.knobs.set(Knob.HANG_MS, 60_000)
            bed.pause(gate_s + chance.random() * 0.4)
        elif mood == "ledger stuck":
            self._holder = sqlite3.connect(bed.state / "ledger.db", isolation_level=None, timeout=5)
            self._holder.execute("BEGIN IMMEDIATE")
            bed.pause(0.1 + chance.random() * 0.5)
        else:
            bed.pause(chance.random() * 1.0)

    def _let_go(self) -> None:
        """The ledger is free again, after the kill."""
        if self._holder is not None:
            self._holder.execute("ROLLBACK")
            self._holder.close()
            self._holder = None

    def see_them_go(self, kin: dict[int, str], killed_s: float) -> None:
        """Nobody who belonged to the killed daemon may outlive it for long."""
        left = living(kin)
        while left and time.monotonic() - killed_s < GONE_S:
            self.bed.pause(0.005)
            left = living(kin)
        self.gone_ms.append((time.monotonic() - killed_s) * 1000)
        if left:
            self.problems.append(f"{len(left)} processes outlived their daemon by {GONE_S} s: {left}")


def reconcile(bed: Testbed) -> tuple[list[str], dict[str, Any]]:
    """Controller against ledger against camera."""
    path = bed.state / "ledger.db"
    report = verify(path)
    problems = [finding.text for finding in report.findings if not finding.known]
    changed: Counter[str] = Counter()
    stored = {(each.sent.epoch, each.sent.sequence): each for each in records(path)}
    heard = {(one.answer.epoch, one.answer.sequence): one.answer for one in bed.arrivals}
    for number, answer in heard.items():
        if number not in stored:
            problems.append(f"{number} was acknowledged and is not in the ledger: {_told(answer)}")
        elif digest(stored[number].sent) != digest(answer):
            problems.append(f"{number} was heard as {_told(answer)}, the ledger has {_told(stored[number].sent)}")
            changed[f"{_told(answer)} -> {_told(stored[number].sent)}"] += 1
    problems += [f"{number} has a receipt, but nobody heard it" for number, each in stored.items() if
                 each.received_ns is not None and number not in heard]  # fmt: skip
    opened = {count.epoch: count.opened if count.opened is not None else count.answers for count in report.epochs}
    undelivered = 0
    for epoch, last in opened.items():
        for number in ((epoch, sequence) for sequence in range(1, last + 1)):
            if number not in stored:
                problems.append(f"{number} was opened and has no row")
            elif number not in heard:
                undelivered += 1
                if stored[number].sent.reason is Reason.RESTARTED:
                    problems.append(f"{number} was never told to be INVALID RESTARTED")
    problems += _numbers_rise(bed)
    problems += _false_passes(bed)
    restarted = [answer for answer in heard.values() if answer.reason is Reason.RESTARTED]
    return problems, {
        "epochs": len(opened),
        "opened": sum(opened.values()),
        "rows": sum(count.answers for count in report.epochs),
        "heard": len(heard),
        "restarted": len(restarted),
        "decided_in_time_but_undeliverable": undelivered,
        "reasons": dict(sorted(Counter(a.reason.value for a in heard.values() if a.reason is not None).items())),
        "pass": sum(answer.verdict is Verdict.PASS for answer in heard.values()),
        "fail": sum(answer.verdict is Verdict.FAIL for answer in heard.values()),
        "acknowledged_but_changed": dict(changed),
        "ledger_verifies": report.ok,
    }


def _told(answer: Answer) -> str:
    return f"{answer.verdict.value} {answer.reason.value if answer.reason is not None else ''}".strip()


def _numbers_rise(bed: Testbed) -> list[str]:
    """Epochs rise from run to run; within one, first answers begin at 1 and leave no number out for ever."""
    problems = []
    newest = 0
    seen: dict[int, set[int]] = defaultdict(set)
    for arrival in bed.arrivals:
        answer = arrival.answer
        if answer.epoch < newest and answer.reason is not Reason.RESTARTED and answer.due_ns < arrival.arrived_ns:
            problems.append(f"{answer.epoch}-{answer.sequence} {_told(answer)} came after epoch {newest}, and late")
        if answer.sequence in seen[answer.epoch]:
            problems.append(f"{answer.epoch}-{answer.sequence} counts twice")
        seen[answer.epoch].add(answer.sequence)
        newest = max(newest, answer.epoch)
    return problems


def _false_passes(bed: Testbed) -> list[str]:
    """A PASS needs a complete frame whose picture passes outside the line, too."""
    problems = []
    shots = bed.shots()
    for arrival in bed.arrivals:
        answer = arrival.answer
        if answer.verdict is Verdict.PASS:
            word, shot = shots.get((answer.epoch, answer.frame_id), ("NOTHING", -1))
            if word != "FRAME" or bed.expected[shot % len(bed.expected)] is not Verdict.PASS:
                problems.append(f"false PASS {answer.epoch}-{answer.sequence}: frame {answer.frame_id} was {word}")
    return problems


def another_bundle(folder: Path) -> Path:
    """The same engine under a manifest that says something else, so that a reload swaps it."""
    other = folder / "bundle"
    shutil.copytree(BUNDLE, other)
    manifest = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    manifest["training"]["remark"] = "the same network, for a swap"
    (other / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return other


def run(options: argparse.Namespace, folder: Path) -> tuple[list[str], dict[str, Any]]:
    bed = Testbed(folder, BUNDLE, options.rate, 150.0, SystemClock(), folder / "state")
    kills = Kills(bed, random.Random(options.seed), another_bundle(folder))
    try:
        for number in range(options.kills):
            (mood,) = kills.chance.choices(list(MOODS), list(MOODS.values()))
            kills.one("run" if number == 0 else options.mood or mood)
            if sys.stderr.isatty():
                print(f"\r{number + 1} kills, {len(bed.arrivals)} answers", end="", file=sys.stderr)
        bed.write_config()
        known = max((one.answer.epoch for one in bed.arrivals), default=0)
        bed.launch()
        bed.wait_for(lambda: bool(bed.arrivals) and bed.arrivals[-1].answer.epoch > known, READY_S)
        bed.wait_parts(10)
        kin = kills.relatives.now()
        code = bed.end(signal.SIGTERM)
        kills.see_them_go(kin, time.monotonic())
        if code:
            kills.problems.append(f"the last run ended with exit code {code}: {bed.last_words()}")
        problems, figures = reconcile(bed)
        heard = bed.controller.statistics()
        if heard.conflicts:
            problems.append(f"{heard.conflicts} answers came twice with different content")
        ready, gone = percentiles(kills.ready_ms).to_json(), percentiles(kills.gone_ms).to_json()
        figures |= {
            "moods": dict(kills.moods),
            "duplicates": heard.duplicates,
            "conflicts": heard.conflicts,
            "start_to_first_answer_ms": {key: ready[key] for key in ("p50", "max")},
            "camera_processes": kills.cameras,
            "camera_process_gone_ms": {key: gone[key] for key in ("p50", "max")},
        }
        return kills.problems + problems, figures
    finally:
        bed.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mood", choices=tuple(MOODS), help="this one only")
    parser.add_argument("--rate", type=float, default=25.0, help="parts per second")
    options = parser.parse_args()
    began_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="kill9-daemon-"))
    try:
        problems, figures = run(options, folder)
    except InspectorError as error:
        problems, figures = [str(error)], {}
    result = {
        "kills": options.kills,
        "seed": options.seed,
        **figures,
        "problems": len(problems),
        "first_problems": problems[:10],
        "seconds": round(time.monotonic() - began_s, 1),
    }
    if problems:
        result["kept"] = str(folder)
    else:
        shutil.rmtree(folder)
    print(json.dumps(result))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
