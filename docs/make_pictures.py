"""Draws the pictures of docs/decision.md from synthetic maps: python docs/make_pictures.py [FOLDER]

Every verdict, figure and sentence in a picture is what ``inspector.decision`` says of that map under those rules.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.calibrate.threshold import choose, curve_svg, outcomes_of_scores
from inspector.decision import Rules, decide, worst
from inspector.frame import Decision, Defect, FloatMap, Geometry, Reason, Verdict, invalid

SIZE, ZOOM, PAD, HEAD, FOOT = 96, 4, 14, 34, 112
INK = (40, 40, 40)
COLOURS = {Verdict.PASS: (90, 150, 40), Verdict.FAIL: (40, 40, 190), Verdict.INVALID: (150, 80, 120)}
REVIEW = (20, 130, 220)
Image = NDArray[np.uint8]
Draw = Callable[[FloatMap], object]


def score_map(*draws: Draw) -> FloatMap:
    """A faint ground with soft-edged shapes on it, SIZE x SIZE float32 in 0..1."""
    out = np.zeros((SIZE, SIZE), np.float32)
    for draw in draws:
        layer = np.zeros_like(out)
        draw(layer)
        out = np.maximum(out, layer)
    ground = np.random.default_rng(4).random((SIZE, SIZE), np.float32) * np.float32(0.12)
    return np.asarray(np.clip(np.maximum(out, ground), 0, 1), np.float32)


def disc(x: int, y: int, radius: int, value: float = 0.9) -> Draw:
    return lambda m: cv2.circle(m, (x, y), radius, value, -1)


def line(x0: int, y0: int, x1: int, y1: int, value: float = 0.9, width: int = 1) -> Draw:
    return lambda m: cv2.line(m, (x0, y0), (x1, y1), value, width)


def box(x: int, y: int, width: int, height: int, value: float = 0.9) -> Draw:
    return lambda m: cv2.rectangle(m, (x, y), (x + width - 1, y + height - 1), value, -1)


def blob(x: int, y: int, a: int, b: int, angle: float = 0, value: float = 0.9) -> Draw:
    return lambda m: cv2.ellipse(m, (x, y), (a, b), angle, 0, 360, value, -1)


def write(image: Image, text: str, x: int, y: int, colour: Sequence[int] = INK, scale: float = 0.42) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, tuple(colour), 1, cv2.LINE_AA)


def panel(scores: FloatMap, rules: Rules, caption: str, geometry: Geometry | None = None, show: str = "") -> Image:
    """One map under one set of rules: heat, outlines, zones, verdict and the rule's own words."""
    decision, _ = decide(scores, rules, geometry or Geometry())
    side = SIZE * ZOOM
    out = np.full((HEAD + side + FOOT, side + 2 * PAD, 3), 255, np.uint8)
    heat = cv2.resize(scores, (side, side), interpolation=cv2.INTER_NEAREST)[..., None]
    # white ground, orange to dark red as the score rises
    tint = (1 - heat) * (250, 250, 250) + heat * np.where(heat > 0.5, 1.0, 0.9) * (40, 90, 225)
    view: Image = tint.astype(np.uint8)
    _zones(view, rules)
    for defect in decision.defects:
        _outline(view, scores, rules, defect, show)
    out[HEAD : HEAD + side, PAD : PAD + side] = view
    cv2.rectangle(out, (PAD - 1, HEAD - 1), (PAD + side, HEAD + side), (170, 170, 170), 1)
    write(out, caption, PAD, 22, scale=0.48)
    _verdict(out, decision, HEAD + side + 22)
    return out


def _verdict(out: Image, decision: Decision, y: int) -> None:
    word = decision.verdict.value + (" review" if decision.review else "")
    word += f" {decision.reason.value}" if decision.reason else ""
    write(out, word, PAD, y, REVIEW if decision.review else COLOURS[decision.verdict], 0.6)
    for text in [*decision.rules, *([decision.detail] if decision.detail else [])]:
        for part in textwrap.wrap(text, 54):
            y += 18
            write(out, part, PAD, y)


def _zones(view: Image, rules: Rules) -> None:
    zones = rules.zone_map(SIZE, SIZE)
    for index, zone in enumerate(rules.zones, 1):
        corners = np.array([[(x + 0.5) * ZOOM, (y + 0.5) * ZOOM] for x, y in zone.polygon]).round().astype(np.int32)
        if zone.ignore and zones is not None:
            own = np.repeat(np.repeat(zones.owner == index, ZOOM, 0), ZOOM, 1)
            rows, columns = np.indices(own.shape)
            view[own & ((rows + columns) % 14 < 2)] = (190, 190, 190)
        cv2.polylines(view, [corners], True, (60, 120, 60), 2)
        x, y = corners.min(axis=0)
        write(view, zone.name, max(x, 0) + 6, max(y, 0) + 16, (60, 120, 60), 0.5)


def _outline(view: Image, scores: FloatMap, rules: Rules, defect: Defect, show: str) -> None:
    x, y, width, height = defect.box
    colour = (30, 30, 160) if defect.counts else (150, 110, 60)
    own = np.repeat(np.repeat(scores[y : y + height, x : x + width] >= rules.threshold, ZOOM, 0), ZOOM, 1)
    padded = np.pad(own.astype(np.uint8), 2)
    contours, _ = cv2.findContours(padded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(view, contours, -1, colour, 2, offset=(x * ZOOM - 2, y * ZOOM - 2))
    if show:
        text = show.format(d=defect, shape=defect.shape.value)
        left = min(x * ZOOM, view.shape[1] - 8 * len(text))
        write(view, text, max(left, 2), y * ZOOM - 6 if y > 6 else (y + height) * ZOOM + 14, colour)


def picture(path: Path, panels: Sequence[Image]) -> None:
    height = max(each.shape[0] for each in panels)
    padded = [
        cv2.copyMakeBorder(p, 0, height - p.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=(255,) * 3) for p in panels
    ]
    cv2.imwrite(str(path), np.hstack(padded), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def rules(threshold: float = 0.5, **limits: Any) -> Rules:
    return Rules.parse({"threshold": threshold, **limits})


def of_limits(folder: Path) -> None:
    """Threshold, the smallest that counts, and what the counted may be."""
    spots = score_map(disc(30, 34, 7, 0.85), disc(66, 60, 5, 0.45))
    picture(
        folder / "decision-threshold.png",
        [panel(spots, rules(0.9), "threshold = 0.9"), panel(spots, rules(0.5), "threshold = 0.5"),
         panel(spots, rules(0.4), "threshold = 0.4")],
    )  # fmt: skip
    dust = score_map(disc(30, 34, 3), disc(70, 28, 1), disc(60, 70, 2))
    area = "{d.area_px:.0f} px"
    picture(
        folder / "decision-area.png",
        [panel(dust, rules(min_area_px=40), "min_area_px = 40", show=area),
         panel(dust, rules(min_area_px=20), "min_area_px = 20", show=area)],
    )  # fmt: skip
    marks = score_map(line(14, 70, 60, 40), disc(72, 24, 6), line(20, 18, 34, 26, width=2))
    size = "{d.length_px:.0f} x {d.width_px:.0f} px"
    picture(
        folder / "decision-length-width.png",
        [panel(marks, rules(min_length_px=60), "min_length_px = 60", show=size),
         panel(marks, rules(min_length_px=30), "min_length_px = 30", show=size),
         panel(marks, rules(min_width_px=8), "min_width_px = 8", show=size)],
    )  # fmt: skip
    soft = score_map(disc(28, 36, 9, 0.55), disc(28, 36, 3, 0.8), disc(68, 62, 8, 0.65))
    both = "mean {d.score_mean:.2f} max {d.score_max:.2f}"
    picture(
        folder / "decision-score.png",
        [panel(soft, rules(min_score_mean=0.62), "min_score_mean = 0.62", show=both),
         panel(soft, rules(min_score_max=0.75), "min_score_max = 0.75", show=both)],
    )  # fmt: skip
    pores = score_map(disc(24, 24, 4), disc(64, 30, 3), disc(40, 68, 5))
    picture(
        folder / "decision-count.png",
        [panel(pores, rules(max_count=3), "max_count = 3"), panel(pores, rules(max_count=2), "max_count = 2")],
    )
    allowed = score_map(disc(24, 24, 3), disc(66, 60, 8), line(20, 80, 56, 74))
    picture(
        folder / "decision-largest.png",
        [panel(allowed, rules(max_count=5, max_area_px=250), "max_count = 5, max_area_px = 250", show=area),
         panel(allowed, rules(max_count=5, max_area_px=150), "max_count = 5, max_area_px = 150", show=area),
         panel(allowed, rules(max_count=5, max_length_px=30), "max_count = 5, max_length_px = 30", show=size)],
    )  # fmt: skip
    rng = np.random.default_rng(8)
    many = score_map(*(disc(int(x), int(y), 1) for x, y in rng.integers(6, 90, (26, 2))))
    picture(
        folder / "decision-total-area.png",
        [panel(many, rules(min_area_px=20), "min_area_px = 20"),
         panel(many, rules(min_area_px=20, max_total_area_px=100), "min_area_px = 20, max_total_area_px = 100")],
    )  # fmt: skip
    pair = score_map(disc(34, 44, 4), disc(52, 50, 4), disc(76, 20, 3))
    picture(
        folder / "decision-distance.png",
        [panel(pair, rules(max_count=5, min_distance_px=8), "max_count = 5, min_distance_px = 8"),
         panel(pair, rules(max_count=5, min_distance_px=16), "max_count = 5, min_distance_px = 16")],
    )  # fmt: skip


def of_the_rest(folder: Path) -> None:
    """Review band, zones, shapes, millimetres, what is never judged, views."""
    band = rules(min_area_px=60, review={"min_area_px": 25})
    sizes = [score_map(disc(48, 48, radius)) for radius in (2, 4, 6)]
    picture(
        folder / "decision-review.png",
        [panel(each, band, "min_area_px = 60, review 25", show="{d.area_px:.0f} px") for each in sizes],
    )
    zoned = rules(
        min_area_px=10,
        zones=[
            {"name": "rim", "polygon": [[-0.5, 70], [40, 62], [95.5, 72], [95.5, 95.5], [-0.5, 95.5]],
             "limits": {"min_area_px": 80}},
            {"name": "slot", "rectangle": [0, 0, 20, 60], "ignore": True},
        ],
    )  # fmt: skip
    area = "{d.area_px:.0f} px"
    picture(
        folder / "decision-zones.png",
        [panel(score_map(disc(60, 82, 4), disc(9, 30, 6)), zoned, "allowed in rim, not seen in slot", show=area),
         panel(score_map(disc(60, 34, 4), disc(9, 30, 6)), zoned, "same size outside", show=area),
         panel(score_map(blob(48, 66, 5, 9)), zoned, "across a border: judged whole by both", show=area)],
    )  # fmt: skip
    shapes = score_map(disc(20, 22, 2), box(58, 14, 22, 18), line(12, 84, 80, 48, width=2))
    picture(
        folder / "decision-shape.png",
        [panel(shapes, rules(), "shape class", show="{shape}: {d.length_px:.0f} x {d.width_px:.0f}"),
         panel(shapes, rules(min_area_mm2=2.0), "1.5 frame px a map px, 0.05 mm a frame px",
               Geometry(scale_x=1.5, scale_y=1.5, mm_per_px=0.05), "{d.area_mm2:.2f} mm2, {d.length_mm:.1f} mm")],
    )  # fmt: skip
    broken = score_map(disc(48, 48, 3))
    broken[20, 70] = np.nan
    shown = panel(np.nan_to_num(broken, nan=0.0), rules(), "one value is not a number")
    cv2.rectangle(shown, (0, HEAD + SIZE * ZOOM + 2), (shown.shape[1], shown.shape[0]), (255, 255, 255), -1)
    cv2.circle(shown, (PAD + 70 * ZOOM + 2, HEAD + 20 * ZOOM + 2), 8, COLOURS[Verdict.INVALID], 2)
    _verdict(shown, decide(broken, rules(), Geometry())[0], HEAD + SIZE * ZOOM + 22)
    good, bad = score_map(), score_map(disc(50, 40, 5))
    first, second = (decide(each, rules(), Geometry())[0] for each in (good, bad))
    note = np.full((shown.shape[0], 440, 3), 255, np.uint8)
    write(note, "worst of the views", PAD, 22, scale=0.48)
    for row, (text, views) in enumerate(
        (("PASS, PASS ->", [first, first]), ("PASS, FAIL ->", [first, second]),
         ("FAIL, INVALID ->", [second, invalid(Reason.VIEW_MISSING, "view 2 did not come in time")]))
    ):  # fmt: skip
        write(note, text, PAD, 66 + 120 * row)
        _verdict(note, worst(views), 92 + 120 * row)
    picture(folder / "decision-never.png", [shown, note])


def of_the_promise(folder: Path) -> None:
    """The trade-off curve that ``inspector calibrate threshold`` writes, on made-up scores."""
    rng = np.random.default_rng(12)
    scores = {f"part{i}": [float(each) for each in rng.beta(9, 1.6, 2)] for i in range(700)}
    outcomes = outcomes_of_scores(scores, rng.beta(2, 7, 900).tolist())
    (folder / "decision-promise.svg").write_text(curve_svg(outcomes, choose(outcomes, 0.01, 0.95)), encoding="utf-8")


def main() -> None:
    """Draw all of them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (of_limits, of_the_rest, of_the_promise):
        draw(folder)


if __name__ == "__main__":
    main()
