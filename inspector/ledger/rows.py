"""Records <-> table rows, and the hash that chains the rows. Pure; knows neither SQLite nor files."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from inspector.frame import Answer, Defect, Hashes, Reason, Receipt, Settled, Shape, Verdict

Cell = int | float | str | bytes | None
Cells = tuple[Cell, ...]

GENESIS = bytes(32)
"""What the first row of a file is chained to."""

_INT64_MAX = (1 << 63) - 1
_NUMBERS = ("area_px", "length_px", "width_px", "x_px", "y_px", "score_mean", "score_max")
_MILLIMETRES = ("area_mm2", "length_mm", "width_mm")


@dataclass(frozen=True, slots=True)
class Override:
    """An INVALID that was sent instead of the stored decision, because its row was not committed in time."""

    epoch: int
    sequence: int
    reason: Reason
    sent_ns: int
    detail: str = ""
    """The detail of the answer that was sent, so that a restart can resend the same bytes."""


@dataclass(frozen=True, slots=True)
class Note:
    """A line of history: camera lost, reload, engine swap, gap. The last three say which numbers it speaks of."""

    wall_ns: int
    kind: str
    text: str
    epoch: int = 0
    first: int = 0
    """First number of the range; 0 where the note speaks of no numbers."""
    last: int = 0
    """Last number of the range; 0 with ``first`` set means "and all above"."""


Row = Settled | Receipt | Override | Note

ANSWER_COLUMNS = [
    "link",
    "epoch",
    "sequence",
    "part_id",
    "frame_id",
    "verdict",
    "reason",
    "review",
    "score",
    "taken_ns",
    "due_ns",
    "settled_ns",
    "wall_ns",
    "engine",
    "calibration",
    "settings",
    "stages",
    "defects",
    "rules",
    "detail",
    "truth",
]
"""The chained cells of an answer, in the order in which they are hashed."""
OVERRIDE_COLUMNS = ["link", "epoch", "sequence", "reason", "sent_ns", "detail"]
EVENT_COLUMNS = ["link", "wall_ns", "kind", "text", "epoch", "first", "last"]
EPOCH_COLUMNS = [
    "link",
    "epoch",
    "started_wall_ns",
    "started_mono_ns",
    "boot_id",
    "version",
    "previous_epoch",
    "previous_opened",
    "file_version",
]
# Tables differ in the number of their cells, so a row of one can never pass for a row of another in the chain.


def chain(previous: bytes, cells: Cells) -> bytes:
    """SHA-256 over the previous row's hash and this row's cells, in ``ascii()`` form.

    ``ascii`` of a tuple of int, float, str and None is the same text in every Python 3: floats in their shortest exact
    form, anything beyond ASCII escaped. Cells must therefore be of exactly these types, never numpy's.
    """
    return hashlib.sha256(previous + ascii(cells).encode()).digest()


def answer_cells(link: int, settled: Settled) -> Cells:
    """The row of an answer in the order of ANSWER_COLUMNS."""
    answer = settled.answer
    hashes = answer.hashes
    return (
        link,
        int(answer.epoch),
        int(answer.sequence),
        _text(answer.part_id),
        min(int(answer.frame_id), _INT64_MAX),
        answer.verdict.value,
        None if answer.reason is None else answer.reason.value,
        int(answer.review),
        _real(answer.score),
        int(answer.taken_ns),
        int(answer.due_ns),
        int(answer.settled_ns),
        int(answer.wall_ns),
        _text(hashes.engine),
        _text(hashes.calibration),
        _text(hashes.settings),
        _json([[name, int(spent_us)] for name, spent_us in answer.stages_us]),
        _json([_defect_json(defect) for defect in answer.defects]) if answer.defects else "[]",
        _json(list(answer.rules)) if answer.rules else "[]",
        _text(answer.detail),
        None if settled.truth is None else int(settled.truth),
    )


def settled_of(cells: Cells) -> Settled:
    """The answer that ``answer_cells`` turned into these cells (without images)."""
    truth = cells[20]
    return Settled(answer_of(cells), truth=None if truth is None else bool(truth))


def answer_of(cells: Cells) -> Answer:
    """The Answer in a row of ANSWER_COLUMNS; equal to the one that was written."""
    (_, epoch, sequence, part_id, frame_id, verdict, reason, review, score, taken, due, settled, wall) = cells[:13]
    engine, calibration, settings, stages, defects, rules, detail, _ = cells[13:21]
    return Answer(
        epoch=_int(epoch),
        sequence=_int(sequence),
        part_id=str(part_id),
        frame_id=_int(frame_id),
        verdict=Verdict(verdict),
        reason=None if reason is None else Reason(reason),
        review=bool(review),
        rules=tuple(json.loads(str(rules))),
        defects=tuple(_defect_of(each) for each in json.loads(str(defects))),
        score=math.nan if score is None else float(score),
        taken_ns=_int(taken),
        due_ns=_int(due),
        settled_ns=_int(settled),
        wall_ns=_int(wall),
        hashes=Hashes(str(engine), str(calibration), str(settings)),
        stages_us=tuple((name, spent_us) for name, spent_us in json.loads(str(stages))),
        detail=str(detail),
    )


def override_cells(link: int, override: Override) -> Cells:
    """The row of an override in the order of OVERRIDE_COLUMNS."""
    detail = _text(override.detail)
    return (link, int(override.epoch), int(override.sequence), override.reason.value, int(override.sent_ns), detail)


def note_cells(link: int, note: Note) -> Cells:
    """The row of an event in the order of EVENT_COLUMNS."""
    numbers = (int(note.epoch), int(note.first), int(note.last))
    return (link, int(note.wall_ns), _text(note.kind), _text(note.text), *numbers)


def receipt_cells(receipt: Receipt, wall_ns: int) -> Cells:
    """The row of a receipt: epoch, sequence, received_ns, wall_ns."""
    identity = (min(int(receipt.epoch), _INT64_MAX), min(int(receipt.sequence), _INT64_MAX))
    return (*identity, int(receipt.received_ns), int(wall_ns))


def overridden(answer: Answer, override: Override) -> Answer:
    """What the controller was really told about a part whose stored decision came too late."""
    return replace(
        answer,
        verdict=Verdict.INVALID,
        reason=override.reason,
        review=False,
        rules=(),
        defects=(),
        score=0.0,
        settled_ns=override.sent_ns,
        stages_us=(),
        detail=override.detail,
    )


def override_of(answer: Answer) -> Override:
    """That this INVALID was told instead of the decision stored under its number."""
    if answer.reason is None:
        raise ValueError(f"a {answer.verdict.value} overrides nothing")
    return Override(answer.epoch, answer.sequence, answer.reason, answer.settled_ns, answer.detail)


def overtaken(answer: Answer, now_ns: int) -> Answer:
    """INVALID LATE in place of a decision whose due time came before it could leave."""
    text = f"decided {answer.verdict.value}, but it could not leave before its due time"
    return overridden(answer, Override(answer.epoch, answer.sequence, Reason.LATE, now_ns, text))


def restarted(epoch: int, sequence: int, now_ns: int, wall_ns: int) -> Answer:
    """The answer for a number that an earlier run opened and never decided; its due time is the moment it is found."""
    return Answer(
        epoch=epoch,
        sequence=sequence,
        part_id="",
        frame_id=0,
        verdict=Verdict.INVALID,
        reason=Reason.RESTARTED,
        review=False,
        rules=(),
        defects=(),
        score=0.0,
        taken_ns=now_ns,
        due_ns=now_ns,
        settled_ns=now_ns,
        wall_ns=wall_ns,
        hashes=Hashes(),
        detail=f"opened in epoch {epoch}, which ended without deciding it",
    )


def picture_name(answer: Answer) -> str:
    """The name of a part's image and mask below ``images/`` and ``masks/``: UTC date / epoch-sequence.png."""
    return f"{utc_date(answer.wall_ns)}/{answer.epoch:06d}-{answer.sequence:09d}.png"


def utc_date(wall_ns: int) -> str:
    """2026-11-22."""
    return datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d")


def utc_time(wall_ns: int) -> str:
    """2026-11-22T10:15:00.123Z."""
    moment = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{wall_ns // 1_000_000 % 1000:03d}Z"


def _defect_json(defect: Defect) -> dict[str, object]:
    out: dict[str, object] = {name: _number(getattr(defect, name)) for name in _NUMBERS}
    for name in _MILLIMETRES:
        value = getattr(defect, name)
        out[name] = None if value is None else _number(value)
    out["box"] = [int(side) for side in defect.box]
    out["shape"] = defect.shape.value
    out["zone"] = defect.zone
    out["counts"] = bool(defect.counts)
    return out


def _defect_of(fields: dict[str, object]) -> Defect:
    box = fields.pop("box")
    if not isinstance(box, list):
        raise ValueError(f"a defect's box is a list of four, not {box!r}")
    shape = Shape(fields.pop("shape"))
    return Defect(box=(box[0], box[1], box[2], box[3]), shape=shape, **fields)  # type: ignore[arg-type]


def _number(value: float) -> float:
    """As it is where it is Python's own, so that 12 stays 12 and 12.0 stays 12.0 on the wire; else a float."""
    return value if type(value) in (int, float) else float(value)


def _real(value: float) -> float | None:
    """SQLite has neither NaN (kept as NULL) nor a negative zero."""
    number = float(value)
    return None if math.isnan(number) else number + 0.0


def _text(value: str) -> str:
    """UTF-8 always: a file name with stray bytes must not make a whole batch unwritable."""
    if value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


_json = json.JSONEncoder(separators=(",", ":")).encode


def _int(value: Cell) -> int:
    if not isinstance(value, int):
        raise ValueError(f"a whole number was expected, found {value!r}")
    return value
