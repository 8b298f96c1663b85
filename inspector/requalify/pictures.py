"""Flips as pictures: the part with the old mask beside the part with the new one."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from inspector.archive.catalogue import picture_path
from inspector.archive.place import Place
from inspector.archive.table import Cells
from inspector.errors import LedgerError
from inspector.frame import BoolMap, Decision, Evidence
from inspector.overlay import draw
from inspector.requalify.merge import Flip
from inspector.requalify.results import decision_of, mask_of

FOLDER = "flips"


@dataclass(frozen=True, slots=True)
class Shown:
    """A flip with its picture."""

    file: str
    """Relative to the report."""
    station: str
    part_id: str
    number: str
    kind: str
    classes: tuple[str, ...]
    old_why: str
    new_why: str


class FlipPictures:
    """Draws the first ``limit`` flips; the kinds share the limit, so that a flood of one does not hide another."""

    def __init__(self, archive: Place, out: Place, limit: int) -> None:
        self._archive, self._out, self._limit = archive, out, limit
        self._left: dict[str, int] = {}
        self.shown: list[Shown] = []

    def add(self, flip: Flip) -> None:
        """Draw it while there is room. Raises LedgerError where OUT cannot be written."""
        left = self._left.setdefault(flip.kind, self._limit // 2)
        if left == 0 or len(self.shown) >= self._limit:
            return
        self._left[flip.kind] = left - 1
        part = flip.part
        data = np.frombuffer(self._archive.read(picture_path(part["image_sha256"])), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise LedgerError(f"picture {part['image_sha256'][:16]} was readable when it was judged, and is not now")
        old = decision_of(part, "stored_") if flip.old is None else decision_of(flip.old)
        new = decision_of(flip.new)
        was = self._archived_mask(part) if flip.old is None else mask_of(flip.old["mask_png"])
        sides = [
            draw(f"{side}: {part['part_id']}", decision, Evidence(np.asarray(image, np.uint8), mask))
            for side, decision, mask in (("old", old, was), ("new", new, mask_of(flip.new["mask_png"])))
        ]
        number = f"{part['epoch']:06d}-{part['sequence']:09d}"
        name = f"{FOLDER}/{flip.station}-{number}.png"
        self._out.write(name, cv2.imencode(".png", np.hstack(sides))[1].tobytes())
        self.shown.append(
            Shown(name, flip.station, part["part_id"], number, flip.kind, flip.classes, why(old), why(new))
        )

    def _archived_mask(self, part: Cells) -> BoolMap | None:
        if part["mask_sha256"] is None:
            return None
        try:
            return mask_of(self._archive.read(picture_path(part["mask_sha256"])))
        except LedgerError:
            return None  # the picture is worth more than its outline


def why(decision: Decision) -> str:
    """The rule or reason in words, else the highest score."""
    if decision.reason is not None:
        return f"{decision.reason.value}: {decision.detail}"
    return "; ".join(decision.rules) or f"highest score {decision.score:.2f}"
