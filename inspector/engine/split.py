"""Which images a network was trained on: plans are calibrated on those and proven on the others."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from inspector.errors import EngineError


@dataclass(frozen=True, slots=True)
class Split:
    """The two sides of a training's split, as ``python -m train`` wrote them."""

    protocol: str
    """grouped: a physical piece stands on one side only. paper: dealt image by image, which leaks."""
    sha256: str
    train: frozenset[str]
    validation: frozenset[str]

    @property
    def label(self) -> str:
        """How reports call it."""
        return f"{self.protocol}, {self.sha256[:16]}"


def read_split(data: bytes, expected_sha256: str, name: str) -> Split:
    """Read split.json. Image names lose their ``#crop`` suffix: all crops of an image stand on one side.

    Raises EngineError where it is damaged, or not the split of this training (``expected_sha256``, empty = any).
    """
    try:
        told = json.loads(data)
        claimed = str(told.pop("sha256"))
        found = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        sides = [frozenset(str(each).partition("#")[0] for each in told[side]) for side in ("train", "validation")]
        protocol = str(told["protocol"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{name} is no split file", found=str(error)[:100], do="Name the split.json of the training."
        ) from error
    if found != claimed:
        raise EngineError(f"{name} was changed by hand", expected=f"hash {claimed[:16]}", found=found[:16])
    if expected_sha256 and found != expected_sha256:
        raise EngineError(
            f"{name} belongs to another training",
            expected=f"the split {expected_sha256[:16]} of this bundle",
            found=found[:16],
            do="Name the split.json that lies beside the bundle's checkpoint.",
        )
    if sides[0] & sides[1]:
        raise EngineError(f"{name} has images on both sides", found=", ".join(sorted(sides[0] & sides[1])[:3]))
    return Split(protocol, found, *sides)
