"""What goes to the shadow's process, what comes back, and what counts as a flip."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from inspector.frame import Answer, BoolMap, Frame, Grey, Hashes, Reason, Settled, Verdict

MESSAGE_BYTES = 1 << 16
"""Of one JSON message either way; a part's rules are cut to fit."""
RULES_TOLD = 20
ON_THE_IMAGE = {Reason.NOT_LOCATED, Reason.BAD_IMAGE, Reason.ENGINE_FAULT, Reason.NOT_FINITE}
"""INVALID by what the picture or the engine gave; the other reasons say nothing that an engine could see otherwise."""


class Change(enum.Enum):
    """How the shadow's verdict stands to the live one."""

    SAME = "same"
    PASS_TO_FAIL = "pass_to_fail"
    FAIL_TO_PASS = "fail_to_pass"
    TO_INVALID = "to_invalid"
    FROM_INVALID = "from_invalid"


FLIPS = tuple(change for change in Change if change is not Change.SAME)


def change(live: Verdict, shadow: Verdict) -> Change:
    """Two INVALID are the same, whatever their reasons."""
    if live is shadow:
        return Change.SAME
    if shadow is Verdict.INVALID:
        return Change.TO_INVALID
    if live is Verdict.INVALID:
        return Change.FROM_INVALID
    return Change.PASS_TO_FAIL if live is Verdict.PASS else Change.FAIL_TO_PASS


def comparable(answer: Answer) -> bool:
    """Whether the live line judged the picture itself; a part that was late or dropped was not judged."""
    return answer.verdict is not Verdict.INVALID or answer.reason in ON_THE_IMAGE


@dataclass(frozen=True, slots=True)
class Live:
    """The live line's answer on a part, as far as the shadow compares and keeps it."""

    epoch: int
    sequence: int
    part_id: str
    wall_ns: int
    verdict: Verdict
    reason: Reason | None
    score: float
    rules: tuple[str, ...]
    hashes: Hashes
    truth: bool | None

    @classmethod
    def of(cls, settled: Settled) -> Live:
        """From the answer that was sent; at most ``RULES_TOLD`` rules, each cut to 200 letters."""
        answer = settled.answer
        return cls(
            epoch=answer.epoch,
            sequence=answer.sequence,
            part_id=answer.part_id,
            wall_ns=answer.wall_ns,
            verdict=answer.verdict,
            reason=answer.reason,
            score=answer.score,
            rules=tuple(rule[:200] for rule in answer.rules[:RULES_TOLD]),
            hashes=answer.hashes,
            truth=settled.truth,
        )

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        return fields | {"verdict": self.verdict.value, "reason": self.reason.value if self.reason else None}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Live:
        rest = {
            "verdict": Verdict(fields["verdict"]),
            "reason": Reason(fields["reason"]) if fields["reason"] else None,
            "rules": tuple(fields["rules"]),
            "hashes": Hashes(**fields["hashes"]),
        }
        return cls(**{**fields, **rest})


@dataclass(frozen=True, slots=True)
class Job:
    """One answered part for the shadow: the frames of all its views, and the live mask of the last."""

    live: Live
    frames: tuple[Frame, ...]
    mask: BoolMap | None = None
    """H x W bool, for the picture of a flip."""

    def to_json(self) -> dict[str, Any]:
        """All but the pixels, which go through shared memory in this order: frames, then the mask."""
        frames = [
            {
                "frame_id": one.frame_id,
                "taken_ns": one.taken_ns,
                "origin": one.origin_px,
                "full": one.full_px,
                "shape": one.pixels.shape,
            }
            for one in self.frames
        ]
        mask = None if self.mask is None else self.mask.shape
        return {"live": self.live.to_json(), "frames": frames, "mask": mask}

    def pixels(self) -> Iterable[Grey]:
        """What goes into the shared memory, C-contiguous uint8."""
        yield from (np.ascontiguousarray(one.pixels) for one in self.frames)
        if self.mask is not None:
            yield np.ascontiguousarray(self.mask).view(np.uint8)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], memory: Grey) -> Job:
        """``memory``: flat uint8; frames and mask are views of it. Raises ValueError where it is too short."""
        live, at, frames = Live.from_json(fields["live"]), 0, []
        for one in fields["frames"]:
            height, width = one["shape"]
            pixels = memory[at : at + height * width].reshape(height, width)
            at += height * width
            x, y = one["origin"]
            full = one["full"]
            full_px = None if full is None else (int(full[0]), int(full[1]))
            frames.append(Frame(one["frame_id"], pixels, one["taken_ns"], (x, y), full_px, part_id=live.part_id))
        mask = None
        if fields["mask"] is not None:
            height, width = fields["mask"]
            mask = memory[at : at + height * width].reshape(height, width).view(np.bool_)
        return cls(live, tuple(frames), mask)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the shadow's process says of one job."""

    epoch: int
    sequence: int
    change: Change
    text: str
    """One line for the journal; empty when nothing flipped."""
    began_ns: int
    """Monotonic time at which the process took the job."""
    cpu_us: int
    """Processor time of its judgement: wall time would count the while it was held still."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"change": self.change.value}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Outcome:
        return cls(**{**fields, "change": Change(fields["change"])})
