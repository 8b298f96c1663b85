"""The threshold with a promise: "of defective parts like these, at most max_escape pass, with this confidence".

Learn-then-Test with a fixed sequence (Angelopoulos et al. 2021), the exact binomial bound, and own lines only:

1. Fixed before any data is seen: promise, confidence, areas, and a grid of thresholds from safest to loosest.
2. The unit is the physical part (the sample's group): a defective part escapes when any of its defective images passes.
3. Walk the grid while P(Bin(n, max_escape) <= escapes) <= 1 - confidence; stop at the first that fails; the last that
   passed may be promised. The first fails: nothing can be promised, and the refusal says how many parts are missing.
4. Several areas walk side by side, each with 1 - confidence divided by their number (Bonferroni); among what may be
   promised the one with the least overkill is taken. Good parts decide nothing else, so choosing by them is free.

The promise speaks of defective parts like those in the data and per defective part; another camera, light, model or
preprocessing voids it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.bounds import binomial_cdf, needed_n, upper_bound
from inspector.decision import Rules, decide
from inspector.errors import ConfigError
from inspector.frame import BoolMap, FloatMap, Geometry, Verdict
from inspector.layouts import Sample

GRID: tuple[float, ...] = tuple(round(0.01 * step, 2) for step in range(1, 100))
"""Thresholds, safest first."""
METHOD = "Learn-then-Test, fixed sequence over a threshold grid, exact binomial tail, unit = physical part"


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What every threshold and area does to every part."""

    grid: tuple[float, ...]
    """T thresholds, safest first."""
    areas_map_px: tuple[int, ...]
    """A smallest areas that count, map pixels."""
    missed: NDArray[np.bool_]
    """n x A x T: defective part i passes in at least one of its defective images."""
    rejected: NDArray[np.bool_]
    """m x A x T: good image j fails."""
    data_sha256: str
    """Over the sorted list of image ids, groups and labels."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What may be promised, and the evidence for it."""

    threshold: float
    min_area_map_px: int
    max_escape: float
    confidence: float
    parts: int
    """Defective parts, n."""
    escapes: int
    """k of them passed."""
    escape_upper: float
    """Exact upper bound of the escape rate; at most ``max_escape``."""
    good: int
    """Good images."""
    overkill: int
    overkill_upper95: float | None
    areas_map_px: tuple[int, ...]
    """All areas that were tried; the confidence is shared among them."""
    grid: tuple[float, float, int]
    """First, last and number of thresholds."""
    data_sha256: str
    next_needs: int | None
    """Further defective parts without an escape that the next threshold would need; None at the grid's end."""

    def evidence(self) -> dict[str, Any]:
        """Everything as JSON."""
        return {"method": METHOD, **asdict(self)}

    def sentences(self) -> list[str]:
        """For the bundle's manifest and for people."""
        tried = len(self.areas_map_px)
        shared = f", shared by {tried} areas" if tried > 1 else ""
        out = [
            f"Promise: of defective parts like these at most {self.max_escape:.4g} pass, confidence "
            f"{self.confidence:.4g}{shared}. Threshold {self.threshold:g}, area from {self.min_area_map_px} map px.",
            f"Evidence: {self.escapes} of {self.parts} defective parts passed, exact upper bound "
            f"{self.escape_upper:.4g}. {METHOD}.",
        ]
        if self.good:
            out.append(
                f"Overkill: {self.overkill} of {self.good} good images failed, exact 95 % upper bound "
                f"{self.overkill_upper95:.4g}."
            )
        if self.next_needs is not None:
            out.append(f"A looser threshold needs {self.next_needs} more defective parts without a further escape.")
        out.append(f"Data list SHA-256 {self.data_sha256}.")
        return out


@dataclass(frozen=True, slots=True)
class Refusal:
    """The data cannot support the promise."""

    max_escape: float
    confidence: float
    parts: int
    escapes: int
    """At the safest threshold."""
    escape_upper: float
    """What these parts could support at most."""
    needs: int
    """Further defective parts without a further escape."""
    data_sha256: str

    def __str__(self) -> str:
        return (
            f"no threshold can be promised: {self.escapes} of {self.parts} defective parts pass at the safest "
            f"threshold, which supports at most {self.escape_upper:.4g} and not {self.max_escape:g} at confidence "
            f"{self.confidence:g}; {self.needs} more defective parts without a further escape are needed"
        )


def choose(outcomes: Outcomes, max_escape: float, confidence: float = 0.95) -> OperatingPoint | Refusal:
    """The operating point with the least overkill that the data can promise. Raises ConfigError for senseless wishes.

    Ties go to the safer one: fewer escapes, then the lower threshold, then the smaller area.
    """
    if not 0.0 < max_escape < 1.0 or not 0.5 <= confidence < 1.0:
        raise ConfigError(
            "no such promise",
            expected="0 < max_escape < 1 and 0.5 <= confidence < 1",
            found=f"max_escape {max_escape}, confidence {confidence}",
        )
    each = 1.0 - (1.0 - confidence) / len(outcomes.areas_map_px)
    parts = int(outcomes.missed.shape[0])
    allowed = _allowed_escapes(parts, max_escape, each)
    escapes, overkill = outcomes.missed.sum(axis=0), outcomes.rejected.sum(axis=0)
    best: tuple[tuple[int, int, float, int], int, int] | None = None
    for area in range(len(outcomes.areas_map_px)):
        failing = np.flatnonzero(escapes[area] > allowed)
        walked = int(failing[0]) if failing.size else len(outcomes.grid)
        for step in range(walked):
            key = (int(overkill[area, step]), int(escapes[area, step]), outcomes.grid[step], area)
            if best is None or key < best[0]:
                best = (key, area, step)
    if best is None:
        least = int(escapes[:, 0].min())
        return Refusal(
            max_escape, confidence, parts, least, upper_bound(least, parts, each),
            needed_n(max_escape, each, least) - parts, outcomes.data_sha256,
        )  # fmt: skip
    _, area, step = best
    found, false, good = int(escapes[area, step]), int(overkill[area, step]), int(outcomes.rejected.shape[0])
    beyond = None
    if step + 1 < len(outcomes.grid):
        beyond = max(0, needed_n(max_escape, each, int(escapes[area, step + 1])) - parts)
    return OperatingPoint(
        threshold=outcomes.grid[step],
        min_area_map_px=outcomes.areas_map_px[area],
        max_escape=max_escape,
        confidence=confidence,
        parts=parts,
        escapes=found,
        escape_upper=upper_bound(found, parts, each),
        good=good,
        overkill=false,
        overkill_upper95=upper_bound(false, good) if good else None,
        areas_map_px=outcomes.areas_map_px,
        grid=(outcomes.grid[0], outcomes.grid[-1], len(outcomes.grid)),
        data_sha256=outcomes.data_sha256,
        next_needs=beyond,
    )


@lru_cache(maxsize=4096)
def _allowed_escapes(parts: int, max_escape: float, confidence: float) -> int:
    """The most escapes k with P(Bin(parts, max_escape) <= k) <= 1 - confidence; -1 where even none is too many."""
    k = -1
    while k + 1 < parts and binomial_cdf(k + 1, parts, max_escape) <= 1.0 - confidence:
        k += 1
    return k


def outcomes_of_scores(
    defective: Mapping[str, Sequence[float]], good: Sequence[float], grid: Sequence[float] = GRID
) -> Outcomes:
    """Where one score an image says it all: an image fails where its score is at least the threshold.

    ``defective``: part -> scores of its defective images; ``good``: scores of good images.
    """
    steps = np.asarray(grid)
    weakest = np.array([min(scores) for scores in defective.values()], np.float64).reshape(-1, 1, 1)
    best = np.asarray(good, np.float64).reshape(-1, 1, 1)
    rows = [f"{part}\t{score!r}" for part, scores in defective.items() for score in scores]
    rows += [f"\t{score!r}" for score in good]
    return Outcomes(tuple(grid), (0,), weakest < steps, best >= steps, _hash(rows))


def outcomes_of_images(
    samples: Iterable[Sample],
    infer: Callable[[Sample], tuple[FloatMap, Geometry]],
    areas_map_px: Sequence[int] = (0,),
    grid: Sequence[float] = GRID,
    rules: Mapping[str, Any] | None = None,
) -> Outcomes:
    """Run every labelled image through ``infer`` (map H x W float32, geometry) and through the station's own decision.

    ``rules``: the station's other rules, as Rules.parse takes them; threshold and smallest area are replaced.
    Raises ConfigError for an image without a label, an INVALID decision, a grid that does not rise, or no images.
    """
    if not areas_map_px or list(grid) != sorted(set(grid)) or not all(0.0 < each < 1.0 for each in grid):
        raise ConfigError("no such grid", expected="areas, and rising thresholds inside 0..1", found=f"{areas_map_px}")
    tables = [
        [Rules.parse({**(rules or {}), "threshold": t, "min_area_map_px": area}) for t in grid] for area in areas_map_px
    ]
    missed: dict[str, NDArray[np.bool_]] = {}
    rejected: list[NDArray[np.bool_]] = []
    rows: list[str] = []
    for sample in samples:
        if sample.defective is None:
            raise ConfigError(f"image {sample.id} has no label", expected="a mask or a class", found="none")
        failed = _failed(sample, *infer(sample), tables)
        if sample.defective:
            missed[sample.group] = missed.get(sample.group, np.zeros_like(failed)) | ~failed
        else:
            rejected.append(failed)
        rows.append(f"{sample.id}\t{sample.group}\t{int(sample.defective)}")
    if not missed:
        raise ConfigError(
            "no defective image to calibrate with", expected="at least one", found=f"{len(rejected)} good"
        )
    shape = (0, len(areas_map_px), len(grid))
    good = np.stack(rejected) if rejected else np.zeros(shape, np.bool_)
    return Outcomes(tuple(grid), tuple(areas_map_px), np.stack(list(missed.values())), good, _hash(rows))


def _failed(sample: Sample, score_map: FloatMap, geometry: Geometry, tables: list[list[Rules]]) -> BoolMap:
    """A x T: whether the image fails. Nothing is taken as monotone: every threshold is decided."""
    out = np.zeros((len(tables), len(tables[0])), np.bool_)
    for area, row in enumerate(tables):
        for step, rules in enumerate(row):
            decision, _ = decide(score_map, rules, geometry)
            if decision.verdict is Verdict.INVALID:
                raise ConfigError(
                    f"image {sample.id} is INVALID", found=decision.detail, do="Leave it out, or mend it."
                )
            out[area, step] = decision.verdict is Verdict.FAIL
    return out


def _hash(rows: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def install(bundle: Path, point: OperatingPoint) -> None:
    """Write threshold, area and evidence into the bundle's manifest, in one step. Raises EngineError."""
    from inspector.engine.bundle import load_bundle, write_manifest

    raw = dict(load_bundle(bundle).manifest)
    raw["operating_point"] = {
        **raw["operating_point"],
        "threshold": point.threshold,
        "min_area_px": point.min_area_map_px,
        "evidence": point.sentences(),
        "promise": {
            name: getattr(point, name)
            for name in ("max_escape", "confidence", "parts", "escapes", "escape_upper", "data_sha256")
        },
    }
    write_manifest(bundle, raw)


def curve_svg(outcomes: Outcomes, result: OperatingPoint | Refusal) -> str:
    """The trade-off of the chosen (or first) area over the threshold, as SVG text.

    Escape rate seen, its exact upper bound at the walk's confidence, overkill; the promise and the chosen threshold.
    """
    area = outcomes.areas_map_px.index(result.min_area_map_px) if isinstance(result, OperatingPoint) else 0
    parts, good = int(outcomes.missed.shape[0]), int(outcomes.rejected.shape[0])
    each = 1.0 - (1.0 - result.confidence) / len(outcomes.areas_map_px)
    escapes = outcomes.missed[:, area].sum(axis=0).tolist()
    lines = [
        ("escapes seen", "#c0392b", "", [k / parts for k in escapes]),
        ("upper bound", "#c0392b", "5 3", [upper_bound(k, parts, each) for k in escapes]),
    ]
    if good:
        lines.append(("overkill", "#2456a6", "", (outcomes.rejected[:, area].sum(axis=0) / good).tolist()))
    return _svg(outcomes.grid, lines, result, outcomes.areas_map_px[area])


_W, _H, _LEFT, _TOP, _WIDE, _HIGH = 720, 420, 60, 50, 520, 310


def _svg(
    grid: tuple[float, ...],
    lines: list[tuple[str, str, str, list[float]]],
    result: OperatingPoint | Refusal,
    area: int,
) -> str:
    """Rates on a square-root axis: a promise of 1 % and an overkill of 40 % are both read off it."""

    def at(x: float, y: float) -> str:
        return f"{_LEFT + _WIDE * x:.1f},{_TOP + _HIGH * (1.0 - y**0.5):.1f}"

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_W}" height="{_H}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">Escapes and overkill by threshold, area from {area} map px</text>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDE}" height="{_HIGH}" fill="none" stroke="#888"/>',
    ]
    for rate in (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = at(0.0, rate).split(",")
        out.append(f'<path d="M{x},{y}h{_WIDE}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{100 * rate:g} %</text>')
    for tick in range(0, 11, 2):
        x = f"{_LEFT + _WIDE * tick / 10:.1f}"
        out.append(f'<text x="{x}" y="{_TOP + _HIGH + 18}" text-anchor="middle">{tick / 10:g}</text>')
    out.append(f'<text x="{_LEFT + _WIDE / 2}" y="{_H - 12}" text-anchor="middle">threshold</text>')
    marks = [("promise", "#555", "2 3", [result.max_escape] * len(grid))]
    for row, (name, colour, dash, values) in enumerate([*lines, *marks]):
        path = " ".join(at(x, y) for x, y in zip(grid, values, strict=True))
        style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        out.append(f'<polyline points="{path}" {style}/>')
        level = _TOP + 12 + 20 * row
        out.append(f'<path d="M{_LEFT + _WIDE + 14},{level}h24" {style}/>')
        out.append(f'<text x="{_LEFT + _WIDE + 44}" y="{level + 4}">{name}</text>')
    if isinstance(result, OperatingPoint):
        x = at(result.threshold, 1.0).split(",")[0]
        out.append(f'<path d="M{x},{_TOP}v{_HIGH}" stroke="#2e8b57" stroke-width="2"/>')
        out.append(f'<text x="{x}" y="{_TOP - 6}" text-anchor="middle" fill="#2e8b57">{result.threshold:g}</text>')
    else:
        out.append(
            f'<text x="{_LEFT}" y="40" fill="#c0392b">no threshold can be promised with {result.parts} parts</text>'
        )
    return "\n".join([*out, "</svg>", ""])
