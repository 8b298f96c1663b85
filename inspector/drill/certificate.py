"""What a drill came to: what the controller heard, the ledgers and the frames held against each other."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspector.drill.scenes import Scene
from inspector.drill.testbed import Testbed
from inspector.figures import percentiles
from inspector.frame import Reason, Verdict
from inspector.ledger.audit import Filter, show, verify
from inspector.ledger.query import Record
from inspector.link.listen import Arrival

Key = tuple[int, int]

LOST = frozenset({Reason.MISSED, Reason.INCOMPLETE, Reason.DROPPED, Reason.VIEW_MISSING})
LATE = frozenset({Reason.LATE, Reason.UNRECORDED})
LATENESS_P99_MS, LATENESS_MAX_MS, CAMERA_BACK_MS = 2.0, 20.0, 2000.0
"""Bars on two cores; a machine that is busy with other work misses them without a word of it being untrue."""
BINS = 240
"""Columns of the time line."""


@dataclass(slots=True)
class Played:
    """One scene as it went."""

    scene: Scene
    first: int
    last: int = 0
    """Arrivals [first, last) fell into it, its quiet parts afterwards included."""
    recovered_ms: float | None = None
    note: str = ""
    fault: str = ""
    """Why the scene itself failed: not recovered, not felt."""


@dataclass(slots=True)
class Certificate:
    """The outcome; ``ok`` only when nothing that must not happen did."""

    figures: dict[str, Any]
    violations: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def verdict(self) -> str:
        """In words."""
        count = len(self.violations)
        return f"{count or 'no'} violation{'s' * (count > 1)}"


def certify(bed: Testbed, played: Sequence[Played], about: dict[str, Any], broke: str = "") -> Certificate:
    """Judge the whole run; ``about`` says where and when it was, ``broke`` why it ended early. The daemon has ended."""
    arrivals, heard = bed.arrivals, bed.controller.statistics()
    findings, epochs = _ledgers(bed)
    missing, cut_off = _missing(bed, epochs)
    false_pass, wrong = _against_the_frames(bed)
    violations = [f"{one.scene.name}: {one.fault}" for one in played if one.fault]
    violations += ([broke] if broke else _not_felt(played, arrivals)) + findings
    violations += [_never_heard(bed, key) for key in missing]
    violations += [text for _, text in false_pass + wrong]
    if heard.conflicts:
        violations.append(f"{heard.conflicts} answers came twice with different content")
    lateness = percentiles([_late_ms(one) for one in arrivals if _timed(one)]).to_json()
    reasons = Counter(one.answer.reason.value for one in arrivals if one.answer.reason is not None)
    figures = {
        "about": about,
        "parts": sum(count["opened"] for count in epochs),
        "answered": len(arrivals),
        "unanswered": len(missing) + len(findings),
        "cut_off": len(cut_off),
        "conflicting": heard.conflicts,
        "false_pass": len(false_pass),
        "wrong_verdict": len(wrong),
        "pass": sum(one.answer.verdict is Verdict.PASS for one in arrivals),
        "fail": sum(one.answer.verdict is Verdict.FAIL for one in arrivals),
        "invalid": dict(sorted(reasons.items())),
        "lateness_ms": {key: lateness[key] for key in ("p50", "p99", "max")},
        "epochs": epochs,
        "duplicates": heard.duplicates,
        "faults": _rows(played, arrivals, _places(arrivals, missing), [index for index, _ in false_pass]),
        "timeline": _timeline(played, arrivals),
        "violations": violations,
    }
    figures["bars"] = _bars(figures)
    return Certificate(figures, violations)


def _bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """What was promised, what was found, whether it was kept."""
    lateness = figures["lateness_ms"]
    back = [row["recovered_ms"] for row in figures["faults"] if row["name"] == "camera lost and back"]
    wanted = (
        ("parts unanswered", 0, figures["unanswered"]),
        ("answered twice with different content", 0, figures["conflicting"]),
        ("PASS for a part not fully inspected", 0, figures["false_pass"]),
        ("past the due time at the controller, p99 ms", LATENESS_P99_MS, lateness["p99"]),
        ("past the due time at the controller, max ms", LATENESS_MAX_MS, lateness["max"]),
        ("camera decides again after its return, ms", CAMERA_BACK_MS, back[0] if back else None),
    )
    return [{"what": what, "bar": bar, "found": x, "met": x <= bar} for what, bar, x in wanted if x is not None]


def _late_ms(arrival: Arrival) -> float:
    return max(0.0, (arrival.arrived_ns - arrival.answer.due_ns) / 1e6)


def _timed(arrival: Arrival) -> bool:
    """Due times of an earlier run passed while nobody was there; what came of them stands in the scene's row."""
    return arrival.answer.reason not in (Reason.RESTARTED, Reason.STOPPED)


def _ledgers(bed: Testbed) -> tuple[list[str], list[dict[str, int]]]:
    """What the ledgers themselves cannot account for, and per run of the daemon: opened, booked, told."""
    told = Counter(one.answer.epoch for one in bed.arrivals)
    findings: list[str] = []
    epochs: dict[int, dict[str, int]] = {}
    for path in _files(bed):
        report = verify(path)
        for count in report.epochs:
            opened = count.opened if count.opened is not None else count.answers
            row = {"epoch": count.epoch, "opened": opened, "rows": count.answers, "told": told[count.epoch]}
            row["closed"] = count.closed
            if count.answers >= epochs.get(count.epoch, row)["rows"]:
                epochs[count.epoch] = row
        findings += [f"{path.name}: {finding}" for finding in report.findings if not finding.known]
    return findings, [epochs[epoch] for epoch in sorted(epochs)]


def _missing(bed: Testbed, epochs: Sequence[dict[str, int]]) -> tuple[list[Key], list[Key]]:
    """Numbers of which the controller never heard: without excuse, and those that a kill cut off.

    Cut off: decided and recorded by a run that was killed before it could tell, and over when the next run began. The
    answer must not change, for it may have been heard; the controller has heard nothing in time and rejects.
    """
    told = {(one.answer.epoch, one.answer.sequence) for one in bed.arrivals}
    missing: list[Key] = []
    cut_off: list[Key] = []
    for row in epochs:
        for number in range(1, row["opened"] + 1):
            key = (row["epoch"], number)
            if key not in told:
                (cut_off if not row["closed"] and _decided(bed, key) else missing).append(key)
    return missing, cut_off


def _decided(bed: Testbed, key: Key) -> bool:
    return any(record.sent.reason is not Reason.RESTARTED for record in _recorded(bed, key))


def _never_heard(bed: Testbed, key: Key) -> str:
    """One violation, and what the ledger says of that part: whoever mends it starts there."""
    rows = _recorded(bed, key)
    text = f"{key[0]}-{key[1]} never reached the controller; the ledger says "
    if not rows:
        return text + "nothing of it"
    sent = rows[-1].sent
    before_ms = (sent.due_ns - sent.settled_ns) / 1e6
    word = sent.verdict.value if sent.reason is None else f"{sent.verdict.value} {sent.reason.value}"
    return f"{text}{word}, settled {before_ms:.1f} ms before its due time"


def _recorded(bed: Testbed, key: Key) -> list[Record]:
    wanted = Filter(epoch=key[0], sequence=key[1])
    return [record for path in _files(bed) for record in show(path, wanted)]


def _files(bed: Testbed) -> list[Path]:
    return [*sorted(bed.folder.glob("ledger-before-damage-*.db")), bed.state / "ledger.db"]


def _places(arrivals: Sequence[Arrival], missing: Sequence[Key]) -> list[int]:
    """Beside which arrival each missing number belongs: the next lower one of its run, else the run's first."""
    heard: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, one in enumerate(arrivals):
        heard[one.answer.epoch].append((one.answer.sequence, index))
    for told in heard.values():
        told.sort()
    return [heard[epoch][max(0, bisect_left(heard[epoch], (n, 0)) - 1)][1] for epoch, n in missing if heard[epoch]]


def _against_the_frames(bed: Testbed) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """(arrival, what is wrong): a PASS needs a complete frame whose picture the engine passes outside the line, too."""
    false_pass: list[tuple[int, str]] = []
    wrong: list[tuple[int, str]] = []
    shots = bed.shots()
    for index, arrival in enumerate(bed.arrivals):
        answer = arrival.answer
        if answer.verdict is Verdict.INVALID:
            continue
        word, shot = shots.get((answer.epoch, answer.frame_id), ("NOTHING", -1))
        number = f"{answer.epoch}-{answer.sequence} frame {answer.frame_id} was answered {answer.verdict.value}"
        if word != "FRAME":
            false_pass.append((index, f"{number}, its frame was {word}"))
        elif answer.verdict is not bed.expected[shot % len(bed.expected)]:
            blame = false_pass if answer.verdict is Verdict.PASS else wrong
            blame.append((index, f"{number}, its picture is another verdict's"))
    return false_pass, wrong


def _by_scene(played: Sequence[Played]) -> list[list[Played]]:
    names = dict.fromkeys(one.scene.name for one in played)
    return [[one for one in played if one.scene.name == name] for name in names]


def _not_felt(played: Sequence[Played], arrivals: Sequence[Arrival]) -> list[str]:
    """Scenes whose fault left no trace in any answer: they prove nothing."""
    silent = []
    for rounds in _by_scene(played):
        scene = rounds[0].scene
        reasons = {arrival.answer.reason for one in rounds for arrival in arrivals[one.first : one.last]}
        if scene.felt and any(one.last for one in rounds) and not reasons & set(scene.felt):
            silent.append(f"{scene.name}: was not felt, no answer was {' or '.join(one.value for one in scene.felt)}")
    return silent


def _rows(
    played: Sequence[Played], arrivals: Sequence[Arrival], missing: list[int], false_pass: list[int]
) -> list[dict[str, Any]]:
    """One row a fault over all its rounds. ``missing`` and ``false_pass`` are indices of arrivals."""
    rows = []
    for rounds in _by_scene(played):
        inside = [(one.first, one.last) for one in rounds]
        found = [arrival for first, last in inside for arrival in arrivals[first:last]]
        recovered = [one.recovered_ms for one in rounds if one.recovered_ms is not None]
        reasons = Counter(one.answer.reason for one in found if one.answer.reason is not None)
        unanswered = sum(first <= at < last for at in missing for first, last in inside)
        rows.append(
            {
                "name": rounds[0].scene.name,
                "does": rounds[0].scene.does,
                "rounds": len(rounds),
                "parts": len(found) + unanswered,
                "answered": len(found),
                "unanswered": unanswered,
                "lost": sum(reasons[reason] for reason in LOST),
                "late": sum(reasons[reason] for reason in LATE),
                "false_pass": sum(first <= at < last for at in false_pass for first, last in inside),
                "lateness_max_ms": max((_late_ms(one) for one in found if _timed(one)), default=0.0),
                "invalid": {reason.value: reasons[reason] for reason in sorted(reasons, key=lambda each: each.value)},
                "recovered_ms": max(recovered) if recovered else None,
                "note": "; ".join(sorted({text for one in rounds for text in (one.note, one.fault) if text})),
            }
        )
    return rows


def _timeline(played: Sequence[Played], arrivals: Sequence[Arrival]) -> dict[str, Any]:
    """Answers by verdict in equal pieces of time, and where the scenes of the first round lie among them."""
    if not arrivals:
        return {"bin_s": 0.0, "pass": [], "fail": [], "invalid": [], "scenes": []}
    began_ns = arrivals[0].arrived_ns
    bin_ns = max(250_000_000, -(-(arrivals[-1].arrived_ns - began_ns + 1) // BINS))
    count = (arrivals[-1].arrived_ns - began_ns) // bin_ns + 1
    columns = {verdict: [0] * count for verdict in Verdict}
    for one in arrivals:
        columns[one.answer.verdict][(one.arrived_ns - began_ns) // bin_ns] += 1
    scenes = [
        {"name": one.scene.name, "at_s": (arrivals[one.first].arrived_ns - began_ns) / 1e9}
        for one in played
        if one.last and one.first < len(arrivals)
    ]
    told = {verdict.value.lower(): column for verdict, column in columns.items()}
    return {"bin_s": bin_ns / 1e9, **told, "scenes": scenes}
