"""The records that travel along the line. Frozen, slotted, and without imports from the house."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
FloatMap = NDArray[np.float32]
BoolMap = NDArray[np.bool_]


class Verdict(enum.Enum):
    """What the controller is told about a part."""

    PASS = "PASS"
    FAIL = "FAIL"
    INVALID = "INVALID"


class Reason(enum.Enum):
    """Why a part is INVALID. The same words stand in wire protocol, ledger, metrics and docs."""

    LATE = "LATE"
    """Not decided before its due time."""
    DROPPED = "DROPPED"
    """Displaced from a full channel by a newer part."""
    MISSED = "MISSED"
    """Triggered, but its frame never came (frame-id gap, or announced without a frame)."""
    INCOMPLETE = "INCOMPLETE"
    """The camera delivered only part of the frame."""
    NOT_LOCATED = "NOT_LOCATED"
    """The part was not found in the frame."""
    BAD_IMAGE = "BAD_IMAGE"
    """Unreadable, wrong size or type, blank or saturated."""
    ENGINE_FAULT = "ENGINE_FAULT"
    """The engine raised an error."""
    NOT_FINITE = "NOT_FINITE"
    """The engine returned NaN, infinity or a value outside 0..1."""
    VIEW_MISSING = "VIEW_MISSING"
    """One of the part's views did not come in time."""
    UNRECORDED = "UNRECORDED"
    """The ledger did not commit the row in time."""
    STOPPED = "STOPPED"
    """Still open when the daemon stopped."""
    RESTARTED = "RESTARTED"
    """Opened by an earlier run of the daemon that ended without deciding it."""


class State(enum.Enum):
    """Where the daemon stands, by the names of OPC 40100-1. Operational is the last four together."""

    PREOPERATIONAL = "Preoperational"
    """Starting, or not yet configured."""
    HALTED = "Halted"
    """Stopped on purpose; nothing is inspected."""
    ERROR = "Error"
    """A fault keeps parts from being inspected; their answers are INVALID."""
    INITIALIZED = "Initialized"
    """Operational, without an engine ready to inspect."""
    READY = "Ready"
    """Each trigger will get its answer."""
    SINGLE_EXECUTION = "SingleExecution"
    """Inspecting one part on request."""
    CONTINUOUS_EXECUTION = "ContinuousExecution"
    """Inspecting each trigger of the running line."""


class Shape(enum.Enum):
    """Defect shape class, as the LSA-Net paper groups defects."""

    POINT = "point"
    STRIP = "strip"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Frame:
    """One complete frame as the camera handed it over."""

    frame_id: int
    """The camera's frame counter, unwrapped; its gaps count the losses."""
    pixels: Grey
    """H x W uint8, owned by this record, C-contiguous. The ROI window, or the whole frame."""
    taken_ns: int
    """Monotonic time at which the frame was available on this host."""
    origin_px: tuple[int, int] = (0, 0)
    """(x, y) of ``pixels[0, 0]`` in the camera's full frame."""
    full_px: tuple[int, int] | None = None
    """(width, height) of the camera's full frame; None where the source does not tell."""
    camera_ns: int = 0
    """The device's own time stamp; 0 where it has none."""
    part_id: str = ""
    """Known to recorded and synthetic frames; otherwise given by the line."""
    truth: bool | None = None
    """True = defective, where known. Only for figures; nothing on the line decides by it."""
    timely: bool = True
    """False where the frame lay unread and the camera's clock cannot say since when: it is older than ``taken_ns``."""


@dataclass(frozen=True, slots=True)
class Missed:
    """A trigger without a usable frame: a gap in the frame ids, or an incomplete buffer."""

    frame_id: int
    noticed_ns: int
    reason: Reason = Reason.MISSED
    part_id: str = ""
    truth: bool | None = None
    detail: str = ""
    """Why, in one line, where the camera knows."""
    timely: bool = True
    """As a frame's; for a buffer that came incomplete."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a map pixel relates to the frame: frame = matrix @ (x_map, y_map, 1), in pixels."""

    matrix: tuple[float, float, float, float, float, float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    """Row-major 2 x 3 affine, map pixel centre -> full-frame pixel centre."""
    scale_x: float = 1.0
    """Frame pixels per map pixel along the map's x."""
    scale_y: float = 1.0
    mm_per_px: float | None = None
    """Millimetres per frame pixel; None while the scale is not calibrated."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A located, corrected part, ready for the engine."""

    tensor: FloatMap
    """1 x 1 x H x W, normalised as the engine bundle says."""
    image: Grey
    """H x W uint8 as the engine saw it before normalisation; for store, viewers and people."""
    geometry: Geometry


class Defect(NamedTuple):
    """One connected defect. Lengths in frame pixels; in millimetres too where the scale is known.

    A named tuple: a map may show hundreds, and a frozen record takes five times as long to make."""

    area_px: float
    length_px: float
    width_px: float
    x_px: float
    """Centroid in full-frame pixels."""
    y_px: float
    box: tuple[int, int, int, int]
    """x, y, width, height in map pixels."""
    score_mean: float
    score_max: float
    shape: Shape
    zone: str = ""
    area_mm2: float | None = None
    length_mm: float | None = None
    width_mm: float | None = None
    counts: bool = True
    """False where the rules let it pass (too small, ignored zone); it is listed all the same."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a part, and why."""

    verdict: Verdict
    reason: Reason | None = None
    """Set exactly when the verdict is INVALID."""
    rules: tuple[str, ...] = ()
    """The rules that say FAIL, in words with figures."""
    defects: tuple[Defect, ...] = ()
    score: float = 0.0
    """Highest value of the map inside the inspected zones."""
    review: bool = False
    """Between the two limits: a person should look."""
    detail: str = ""
    """For INVALID: one line for the journal."""

    def __post_init__(self) -> None:
        if (self.verdict is Verdict.INVALID) != (self.reason is not None):
            raise ValueError(f"{self.verdict} with reason {self.reason}: INVALID and only INVALID has a reason")


def invalid(reason: Reason, detail: str = "") -> Decision:
    """The decision for a part that was not fully inspected."""
    return Decision(Verdict.INVALID, reason, detail=detail)


@dataclass(frozen=True, slots=True)
class Entry:
    """A part's line in the docket: opened once, settled once."""

    sequence: int
    part_id: str
    frame_id: int
    taken_ns: int
    due_ns: int
    wall_ns: int
    """UTC nanoseconds at opening; for people and records, never for due times."""
    truth: bool | None = None


@dataclass(frozen=True, slots=True)
class Hashes:
    """What an answer was decided with; 16 hex digits each (the first 8 bytes of SHA-256)."""

    engine: str = ""
    calibration: str = ""
    settings: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the controller gets and the ledger keeps. (epoch, sequence) is its identity; it never changes."""

    epoch: int
    sequence: int
    part_id: str
    frame_id: int
    verdict: Verdict
    reason: Reason | None
    review: bool
    rules: tuple[str, ...]
    defects: tuple[Defect, ...]
    score: float
    taken_ns: int
    due_ns: int
    settled_ns: int
    wall_ns: int
    hashes: Hashes
    stages_us: tuple[tuple[str, int], ...] = ()
    """Time of each stage in microseconds, in the order in which they ran."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen and what was found; None where the part never came that far."""

    image: Grey | None = None
    mask: BoolMap | None = None
    geometry: Geometry | None = None
    """How ``image`` lies in the frame; None where it is the frame itself."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A settled part on its way to the ledger, the controller and the viewers."""

    answer: Answer
    evidence: Evidence = field(default_factory=Evidence)
    truth: bool | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The controller's acknowledgement of one answer."""

    epoch: int
    sequence: int
    received_ns: int
