"""The records of the review: which part, which opinion, and what was on the table when it was given."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from inspector.errors import ConfigError, quoted
from inspector.frame import Reason, Verdict

_KEY = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


class Opinion(enum.Enum):
    """What a person says about a part. The words stand in the file, on the page and in exports."""

    DEFECT = "defect"
    GOOD = "good"
    CANNOT_TELL = "cannot_tell"


class Stratum(enum.Enum):
    """Why a part is judged; every stratum is a random sample of its own, with its own rate."""

    FAIL = "fail"
    INVALID = "invalid"
    BORDERLINE = "borderline"
    """PASS that nearly failed."""
    PASS = "pass"
    """The rest of PASS."""
    PICKED = "picked"
    """Outside the plan: chosen by a person, or not judged blind. Never part of an estimate."""


@dataclass(frozen=True, slots=True, order=True)
class PartKey:
    """A part for ever: the station, and the identity of its answer there."""

    station: str
    epoch: int
    sequence: int

    @property
    def text(self) -> str:
        """``000001-000000042``, as images are named; the station is not in it."""
        return f"{self.epoch:06d}-{self.sequence:09d}"

    @staticmethod
    def parse(station: str, text: str) -> PartKey:
        """The key in ``text``. Raises ConfigError for anything but two numbers."""
        found = _KEY.fullmatch(text)
        if found is None:
            raise ConfigError("no such part", expected="EPOCH-SEQUENCE", found=quoted(text))
        return PartKey(station, int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a reviewer hands in. Everything else about the part comes from the ledger, never from a client."""

    key: PartKey
    picture_sha256: str
    """Of the PNG file that was shown, 64 hex digits."""
    reviewer: str
    opinion: Opinion
    note: str = ""
    mask_png: bytes | None = None
    """Where the defect is: grey PNG of 1 or 8 bit, as large as the picture, anything above half is defect."""
    took_ms: int = 0
    """From the picture on the screen to the decision."""
    blind: bool = True
    """False where the reviewer had seen the machine's answer: kept, but not used in estimates."""


@dataclass(frozen=True, slots=True)
class Review:
    """One row: an opinion, and what the machine had said. Never changes; a later row of the same reviewer counts."""

    link: int
    """Its place in the chain, from 1."""
    key: PartKey
    part_id: str
    part_wall_ns: int
    """When the part was taken, UTC."""
    answer_hash: str
    """The hash of the answer's row in the ledger, 64 hex digits: this very answer was judged."""
    picture_sha256: str
    reviewer: str
    opinion: Opinion
    note: str
    mask_sha256: str | None
    """The brushed mask; its bytes come from ``ReviewStore.blob``."""
    machine_mask_sha256: str | None
    """The mask the machine had found, kept with the picture."""
    decided_at_ns: int
    """UTC."""
    took_ms: int
    blind: bool
    machine_verdict: Verdict
    """What the controller was told."""
    machine_reason: Reason | None
    machine_score: float | None
    engine: str
    """The answer's hashes: what it was decided with."""
    calibration: str
    settings: str
    stratum: Stratum
    probability: float
    """That the plan asks for this part; 0 for PICKED."""
    truth: bool | None
    """True = defective, where the ledger knows."""
    hash: str
    """Of this row, 64 hex digits."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What a reviewer looks at, and what the machine saw in it."""

    key: PartKey
    png: bytes
    sha256: str
    width_px: int
    height_px: int
    machine_mask_png: bytes | None
    """Not to be shown before the decision."""


@dataclass(frozen=True, slots=True)
class Item:
    """A part in the queue. ``stratum`` and ``probability`` tell the machine's answer: not for the reviewer's eyes."""

    key: PartKey
    part_id: str
    wall_ns: int
    stratum: Stratum
    probability: float
