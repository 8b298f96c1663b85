"""The real drill: a daemon process on the drill's own camera, every fault in turn, and a certificate at the end.

The controller, in this process, outlives the daemon. Afterwards three sources are held against each other: what the
controller heard, what the ledger keeps, and what the camera's frames said of themselves before the line had them.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspector.clock import Clock, SystemClock
from inspector.drill.scenes import SCENES, Scene, mount_small_disk, unmount
from inspector.drill.testbed import Testbed
from inspector.errors import ConfigError, InspectorError
from inspector.figures import percentiles
from inspector.frame import Reason, Verdict
from inspector.ledger.audit import verify
from inspector.link.listen import Arrival

RECOVER_S = 20.0


@dataclass(slots=True)
class Played:
    """One scene as it went."""

    name: str
    first: int
    last: int = 0
    """Arrivals [first, last) fell into it, its quiet parts afterwards included."""
    recovered_ms: float | None = None
    note: str = ""


@dataclass(slots=True)
class Certificate:
    """The outcome; ``ok`` only when nothing that must not happen did."""

    figures: dict[str, Any]
    violations: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.violations


def drill(
    *,
    parts: int,
    bundle: Path,
    folder: Path,
    names: list[str] | None = None,
    rate_hz: float = 20.0,
    gate_ms: float = 400.0,
    clock: Clock | None = None,
    on_scene: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Certificate:
    """Play the scenes round by round until ``parts`` answers came. Raises ConfigError for an unknown fault name."""
    clock = clock or SystemClock()
    scenes = choose(names)
    state = folder / "state"
    small_disk = mount_small_disk(state)
    bed = Testbed(folder, bundle, rate_hz, gate_ms, clock, state)
    played: list[Played] = []
    quiet = max(3, min(40, parts // (2 * len(scenes))))
    try:
        bed.start()
        bed.wait_parts(quiet)
        while len(bed.arrivals) < parts or len(played) < len(scenes):
            for scene in scenes:
                on_scene(scene.name, len(bed.arrivals), parts)
                if scene.name == "disk full" and not small_disk:
                    if not any(one.name == scene.name for one in played):
                        played.append(Played(scene.name, 0, 0, None, "skipped: a small disk cannot be mounted here"))
                    continue
                played.append(_play(scene, bed, quiet, clock))
        bed.end(signal.SIGTERM)
        return _certify(bed, played)
    finally:
        bed.close()
        if small_disk:
            unmount(state)


def choose(names: list[str] | None) -> list[Scene]:
    """The scenes of these names, all for none."""
    known = {scene.name: scene for scene in SCENES}
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise ConfigError(f"no such fault: {', '.join(unknown)}", expected=", ".join(known))
    return [known[name] for name in names] if names else list(SCENES)


def _play(scene: Scene, bed: Testbed, quiet: int, clock: Clock) -> Played:
    one = Played(scene.name, len(bed.arrivals))
    scene.inject(bed)
    over_ns = bed.ended_ns if scene.restarts else clock.now_ns()
    if bed.wait_for(lambda: bed.decided_after(over_ns) is not None, RECOVER_S):
        decided_ns = bed.decided_after(over_ns)
        one.recovered_ms = (decided_ns - over_ns) / 1e6 if decided_ns is not None else None
    else:
        one.note = f"did not recover: {bed.last_words()}"
        if not bed.alive:
            raise InspectorError(f"the daemon did not outlive {scene.name!r}", found=bed.last_words())
    bed.wait_parts(quiet)
    one.last = len(bed.arrivals)
    return one


def _certify(bed: Testbed, played: list[Played]) -> Certificate:
    arrivals = bed.arrivals
    violations = [f"{one.name}: {one.note}" for one in played if one.note.startswith("did not recover")]
    heard = bed.controller.statistics()
    if heard.conflicts:
        violations.append(f"{heard.conflicts} answers came twice with different content")
    unanswered, undelivered, epochs = _unanswered(bed)
    violations += unanswered
    false_pass, wrong = _against_the_frames(bed)
    violations += false_pass + wrong
    late_ms = [max(0.0, (one.arrived_ns - one.answer.due_ns) / 1e6) for one in arrivals if _timed(one)]
    lateness = percentiles(late_ms).to_json()
    reasons = Counter(one.answer.reason.value for one in arrivals if one.answer.reason is not None)
    figures = {
        "parts": sum(count["opened"] for count in epochs),
        "answered": len(arrivals),
        "unanswered": len(unanswered),
        "undelivered": undelivered,
        "conflicting": heard.conflicts,
        "false_pass": len(false_pass),
        "wrong_verdict": len(wrong),
        "pass": sum(one.answer.verdict is Verdict.PASS for one in arrivals),
        "fail": sum(one.answer.verdict is Verdict.FAIL for one in arrivals),
        "invalid": dict(sorted(reasons.items())),
        "lateness_ms": {key: lateness[key] for key in ("p50", "p99", "max")},
        "epochs": epochs,
        "duplicates": heard.duplicates,
        "faults": [_scene_row(one, arrivals) for one in _merged(played)],
        "violations": violations,
    }
    return Certificate(figures, violations)


def _timed(arrival: Arrival) -> bool:
    """Due times of an earlier run passed while nobody was there; what came of them stands in the scene's row."""
    return arrival.answer.reason not in (Reason.RESTARTED, Reason.STOPPED)


def _unanswered(bed: Testbed) -> tuple[list[str], int, list[dict[str, Any]]]:
    """Numbers that neither ledger nor controller knows; and those in the ledger that never reached the controller."""
    told = Counter(one.answer.epoch for one in bed.arrivals)
    problems: list[str] = []
    epochs: list[dict[str, Any]] = []
    undelivered = 0
    files = sorted(bed.state.glob("ledger.db")) + sorted(bed.folder.glob("ledger-before-damage.db"))
    seen: set[int] = set()
    for path in files:
        report = verify(path)
        for count in report.epochs:
            if count.epoch in seen:
                continue
            seen.add(count.epoch)
            opened = count.opened if count.opened is not None else count.answers
            epochs.append({"epoch": count.epoch, "opened": opened, "rows": count.answers, "told": told[count.epoch]})
            undelivered += max(0, opened - told[count.epoch])
        problems += [f"{path.name}: {finding}" for finding in report.findings if not finding.known]
    return problems, undelivered, epochs


def _against_the_frames(bed: Testbed) -> tuple[list[str], list[str]]:
    """A PASS needs a complete frame whose picture the engine passes outside the line as well."""
    false_pass: list[str] = []
    wrong: list[str] = []
    shots = bed.shots()
    for arrival in bed.arrivals:
        answer = arrival.answer
        if answer.verdict is Verdict.INVALID:
            continue
        word, shot = shots.get((answer.epoch, answer.frame_id), ("NOTHING", -1))
        number = f"{answer.epoch}-{answer.sequence} frame {answer.frame_id}"
        if word != "FRAME":
            false_pass.append(f"{number} was answered {answer.verdict.value}, its frame was {word}")
        elif answer.verdict is not bed.expected[shot % len(bed.expected)]:
            blame = false_pass if answer.verdict is Verdict.PASS else wrong
            blame.append(f"{number} was answered {answer.verdict.value}, its picture is another verdict's")
    return false_pass, wrong


def _merged(played: list[Played]) -> list[list[Played]]:
    names = dict.fromkeys(one.name for one in played)
    return [[one for one in played if one.name == name] for name in names]


def _scene_row(rounds: list[Played], arrivals: list[Arrival]) -> dict[str, Any]:
    answers = [arrival.answer for one in rounds for arrival in arrivals[one.first : one.last]]
    recovered = [one.recovered_ms for one in rounds if one.recovered_ms is not None]
    reasons = Counter(answer.reason.value for answer in answers if answer.reason is not None)
    return {
        "name": rounds[0].name,
        "rounds": len(rounds),
        "parts": len(answers),
        "invalid": dict(sorted(reasons.items())),
        "recovered_ms": max(recovered) if recovered else None,
        "note": "; ".join(sorted({one.note for one in rounds if one.note})),
    }
