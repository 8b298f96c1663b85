"""From reviews to labels for training: which parts are good, which defective, where, and which cannot be used. Pure.

Policy, for each part: the latest opinion of every reviewer; those that cannot tell are not counted; the others must all
agree. A good part has an empty mask. A defective part has the union of the masks that its reviewers brushed; where
nobody did, the machine's own mask, if the machine had failed the part too. What is left is never guessed: it is listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from inspector.frame import BoolMap, Verdict
from inspector.review import masks
from inspector.review.records import Opinion, PartKey, Review

Grouping = Literal["part", "day", "run"]


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """A part that can be trained with, or why not."""

    key: PartKey
    group: str
    """Parts of one group belong on one side of a split."""
    state: Literal["good", "defect", "needs-mask", "left-out"]
    why: str
    """Of ``left-out``, and where the mask of a defect is from."""
    mask_png: bytes | None
    """Empty for a good part; None unless it can be trained with. Packed, because there may be many."""
    size_px: tuple[int, int]
    """Width and height of the picture."""
    reviews: tuple[Review, ...]
    """The latest of each reviewer."""

    @property
    def mask(self) -> BoolMap | None:
        """H x W, True = defect; None unless it can be trained with."""
        return None if self.mask_png is None else masks.read(self.mask_png, self.size_px)


def make_labels(reviews: Iterable[Review], blob: Callable[[str], bytes], grouping: Grouping = "part") -> list[Label]:
    """One label a part, in the order of the parts. ``blob``: bytes of a picture or mask by digest."""
    latest: dict[PartKey, dict[str, Review]] = defaultdict(dict)
    for review in sorted(reviews, key=lambda each: each.link):
        latest[review.key][review.reviewer] = review
    return [_label(tuple(latest[key].values()), blob, grouping) for key in sorted(latest)]


def _label(said: tuple[Review, ...], blob: Callable[[str], bytes], grouping: Grouping) -> Label:
    first = said[0]
    width, height = masks.read_size(blob(first.picture_sha256))
    opinions = {each.opinion for each in said} - {Opinion.CANNOT_TELL}

    def made(state: Literal["good", "defect", "needs-mask", "left-out"], why: str, mask: BoolMap | None) -> Label:
        packed = None if mask is None else masks.encode(mask)
        return Label(first.key, group_of(first, grouping), state, why, packed, (width, height), said)

    if first.machine_verdict is Verdict.INVALID:
        return made("left-out", "INVALID: the picture is not what the engine is given", None)
    if len({each.picture_sha256 for each in said}) > 1:
        return made("left-out", "the reviewers saw different pictures", None)
    if not opinions:
        return made("left-out", "nobody could tell", None)
    if len(opinions) > 1:
        return made("left-out", "reviewers disagree", None)
    if opinions == {Opinion.GOOD}:
        return made("good", "judged good", np.zeros((height, width), np.bool_))
    brushed = [each for each in said if each.opinion is Opinion.DEFECT and each.mask_sha256 is not None]
    mask = _union([each.mask_sha256 for each in brushed], blob, (width, height))
    if mask.any():
        return made("defect", "brushed by " + " ".join(sorted(each.reviewer for each in brushed)), mask)
    if first.machine_verdict is Verdict.FAIL:
        mask = _union([first.machine_mask_sha256], blob, (width, height))
        if mask.any():
            return made("defect", "as the machine found it", mask)
    return made("needs-mask", "judged defect, but nobody brushed where", None)


def group_of(review: Review, grouping: Grouping) -> str:
    """``part``: the physical part (its id; an answer without one is its own); ``day``: UTC; ``run``: of the daemon."""
    station = review.key.station
    if grouping == "day":
        return f"{station} {np.datetime64(review.part_wall_ns, 'ns').astype('datetime64[D]')}"
    if grouping == "run":
        return f"{station} {review.key.epoch:06d}"
    return f"{station} {review.part_id or review.key.text}"


def _union(names: Iterable[str | None], blob: Callable[[str], bytes], size: tuple[int, int]) -> BoolMap:
    out = np.zeros((size[1], size[0]), np.bool_)
    for name in names:
        if name is not None:
            out |= masks.read(blob(name), size)
    return out
