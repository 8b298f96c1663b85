"""Figures of a network on a data set: pixels, parts, classes, curves; as JSON and as an HTML report."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inspector.bounds import clopper_pearson
from inspector.figures import Curve, Figures, Tally, curve
from inspector.frame import FloatMap, Verdict
from inspector.layouts import GOOD
from train.config import Layout
from train.data import Item, load_items
from train.operating import OperatingPoint, choose, largest_area_px
from train.predict import Predictor, open_predictor
from train.split import read_split, sides

PAPER_THRESHOLD = 0.5

AVERAGING = (
    "iou: over the set, sum of intersections over sum of unions. dice: mean over images, an image without defect "
    "counting 0 (both are the readings that fit the paper's Table 5). iou_image, dice_set: the other averaging of "
    "each. dice_defective: mean over images whose true mask is not empty. pa: right pixels over all."
)


@dataclass(frozen=True)
class Evaluation:
    """Everything a report shows."""

    name: str
    source: str
    threshold: float
    min_area_px: int
    at_half: Figures
    """At threshold 0.5 without an area rule, as in the paper's tables."""
    at_point: Figures
    """At the operating point."""
    recall: dict[str, tuple[int, int]]
    """Class -> found, all; at the operating point, by image."""
    class_iou: dict[str, float]
    """Class -> IoU over the defective images of the class, at 0.5."""
    scores: np.ndarray
    defective: np.ndarray
    curve: Curve
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data; the rates of escapes and overkill with exact two-sided 95 % bounds."""
        point = self.at_point
        both = self.curve.defective and self.curve.good
        return {
            "engine": self.name,
            "source": self.source,
            "averaging": AVERAGING,
            "threshold": self.threshold,
            "min_area_px": self.min_area_px,
            "at_0.5": self.at_half.to_json(),
            "at_operating_point": point.to_json(),
            "escape_rate": _rate(point.escapes, point.defective),
            "overkill_rate": _rate(point.overkill, point.good),
            "recall": {name: _rate(k, n) for name, (k, n) in self.recall.items()},
            "class_iou": self.class_iou,
            "roc_area": self.curve.roc_area if both else None,
            "average_precision": self.curve.average_precision if self.curve.defective else None,
            "facts": self.facts,
        }


def _rate(count: int | None, of: int) -> dict[str, float | int] | None:
    if count is None or not of:
        return None
    low, high = clopper_pearson(count, of)
    return {"count": count, "of": of, "rate": count / of, "low95": low, "high95": high}


def figures_at(items: Sequence[Item], maps: FloatMap, threshold: float, min_area_px: int) -> Figures:
    """Part and pixel figures; an image FAILs where its largest defect has ``min_area_px`` pixels or more."""
    tally = Tally()
    for item, probability in zip(items, maps, strict=True):
        found = largest_area_px(probability, threshold) >= min_area_px
        verdict = Verdict.FAIL if found else Verdict.PASS
        tally.add(verdict, item.defective, probability >= threshold, item.mask > 0)
    return tally.figures()


def evaluate(
    predictor: Predictor, items: Sequence[Item], maps: FloatMap, source: str, point: OperatingPoint | None = None
) -> Evaluation:
    """``point`` overrides the operating point that the engine carries."""
    threshold = point.threshold if point else predictor.threshold
    area_px = point.min_area_px if point else predictor.min_area_px
    recall: dict[str, list[bool]] = defaultdict(list)
    by_class: dict[str, list[int]] = defaultdict(list)
    for number, (item, probability) in enumerate(zip(items, maps, strict=True)):
        if item.defective:
            recall[item.cls].append(largest_area_px(probability, threshold) >= area_px)
            by_class[item.cls].append(number)
    class_iou = {}
    for name, numbers in sorted(by_class.items()):
        found = maps[numbers] >= PAPER_THRESHOLD
        true = np.stack([items[n].mask > 0 for n in numbers])
        class_iou[name] = float((found & true).sum() / max(int((found | true).sum()), 1))
    scores = maps.reshape(len(maps), -1).max(1).astype(np.float64)
    defective = np.array([item.defective for item in items])
    return Evaluation(
        name=predictor.name,
        source=source,
        threshold=threshold,
        min_area_px=area_px,
        at_half=figures_at(items, maps, PAPER_THRESHOLD, 1),
        at_point=figures_at(items, maps, threshold, area_px),
        recall={name: (sum(hits), len(hits)) for name, hits in sorted(recall.items())},
        class_iou=class_iou,
        scores=scores,
        defective=defective,
        curve=curve(scores, defective),
        facts=predictor.facts,
    )


def select_items(
    predictor: Predictor, data: Path, layout: Layout, split: Path | None, side: str
) -> tuple[list[Item], str]:
    """The images to judge on and how to call them. ``side``: all, train or validation of the split."""
    items = load_items(data, layout, predictor.size)
    path = split or predictor.split
    if side == "all":
        return items, f"all {len(items)} images of {data.name} ({layout})"
    if path is None:
        raise ValueError(f"side {side} needs --split, the split.json of the training")
    known = read_split(path)
    names = {item.name for item in items}
    if not set(known.train) | set(known.validation) <= names:  # the split names frames shown besides crops
        items += [i for i in load_items(data, layout, predictor.size, whole_every=1) if i.name not in names]
    train, validation = sides(items, known)
    chosen = [i for i in (train if side == "train" else validation) if i.name in names]
    return chosen, f"{side} side ({known.protocol}, {known.sha256[:16]}) of {data.name}: {len(chosen)} images"


@dataclass(frozen=True)
class Judged:
    """An evaluation with what it was made from, for the report's gallery."""

    result: Evaluation
    items: list[Item]
    maps: FloatMap
    """n x H x W probabilities, one for each item."""


def run(
    engine: Path,
    data: Path,
    layout: Layout,
    split: Path | None = None,
    side: str = "all",
    choose_point: bool = False,
) -> Judged:
    """Load, predict, judge."""
    predictor = open_predictor(engine)
    items, source = select_items(predictor, data, layout, split, side)
    maps = predictor.maps(items)
    point = choose(maps, [item.defective for item in items]) if choose_point else None
    return Judged(evaluate(predictor, items, maps, source, point), items, maps)


def table(result: Evaluation) -> str:
    """What the terminal shows."""
    half, point = result.at_half, result.at_point
    lines = [f"{result.name} on {result.source}"]
    if half.pixels:
        p = half.pixels
        lines.append(
            f"at 0.5: IoU {p.iou:.4f} (set)  Dice {p.dice:.4f} (image mean)  PA {p.pa:.4f}  | "
            f"IoU image {p.iou_image:.4f}  Dice set {p.dice_set:.4f}  Dice of defective images "
            + (f"{p.dice_defective:.4f}" if p.dice_defective is not None else "-")
        )
    for label, f in (("0.5, any area", half), (f"{result.threshold:g}, {result.min_area_px} px", point)):
        lines.append(f"at {label}: escapes {_told(f.escapes, f.defective)}  overkill {_told(f.overkill, f.good)}")
    if result.curve.good and result.curve.defective:
        lines.append(
            f"image level: ROC area {result.curve.roc_area:.4f}, average precision {result.curve.average_precision:.4f}"
        )
    for name, (found, of) in result.recall.items():
        lines.append(f"  {name or GOOD}: recall {_told(found, of)}  IoU {result.class_iou[name]:.4f}")
    return "\n".join(lines)


def _told(count: int | None, of: int) -> str:
    if count is None or not of:
        return "-"
    low, high = clopper_pearson(count, of)
    return f"{count}/{of} = {100 * count / of:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def dump(result: Evaluation) -> str:
    """JSON text."""
    return json.dumps(result.to_json(), indent=1)
