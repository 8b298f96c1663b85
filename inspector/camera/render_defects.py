"""The five defect kinds of the paper's contact-piece set, drawn into a noise-free frame with exact masks.

| kind | what it is | how it is drawn | size at a 280 px piece |
|---|---|---|---|
| slag_inclusion | non-metal rolled into the copper | dark ragged pit with a lip | 8 to 22 px across |
| scratch | a hard edge dragged over the bars | thin bright or dark line across streaks | 35 to 150 px, 2 to 3 wide |
| crush | a blow that moved metal | lit and shaded hollow, mostly at a bar edge, into the slot | 16 to 40 px |
| dirty_surface | oil, flux or graphite film | blotchy darkening with a soft irregular rim | 36 to 100 px |
| tin_remaining | solder left over from the riser | smooth bright drops with a dark contour | 10 to 40 px |

A mask pixel is a pixel that the defect changed, and no pixel outside the mask is changed. Floors: at least
``AREA_FLOOR_PX`` visible pixels a defect (scaled with the piece), a mean change of at least ``CONTRAST_FLOOR`` grey
levels over them, and at least ``PIXEL_FLOOR`` in each (before noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.frame import BoolMap, FloatMap

_Points = NDArray[np.float64]
KINDS = ("slag_inclusion", "scratch", "crush", "dirty_surface", "tin_remaining")
AREA_FLOOR_PX = 48
CONTRAST_FLOOR = 24.0
PIXEL_FLOOR = 5.0
_TRIES = 12
_NOMINAL_PX = 280.0
_SUBPIXEL_BITS = 4
_WHITE = 250.0


@dataclass(frozen=True, slots=True)
class Canvas:
    """The frame being drawn into: ``clean`` and ``mask`` are changed, the rest is read."""

    clean: FloatMap
    """H x W grey levels before noise."""
    piece: FloatMap
    """H x W, 1 inside the piece."""
    bar: FloatMap
    """H x W, 1 on a bar."""
    mask: BoolMap
    pose: NDArray[np.float64]
    """2 x 3, nominal frame pixel -> frame pixel."""
    roi: tuple[int, int, int, int]
    """x, y, width, height of the piece in the nominal frame."""
    slots: tuple[float, ...]
    """Where the slots between the bars run, 0 to 1 across the piece."""

    @property
    def scale(self) -> float:
        """Sizes below are for a piece of 280 px."""
        return min(self.roi[2:]) / _NOMINAL_PX

    def place(self, u: float, v: float) -> tuple[float, float]:
        """Frame pixel of the point at (u, v), each 0 to 1 across the piece."""
        x, y = self.roi[0] + u * self.roi[2], self.roi[1] + v * self.roi[3]
        frame_x, frame_y = self.pose @ (x, y, 1.0)
        return float(frame_x), float(frame_y)


@dataclass(frozen=True, slots=True)
class _Patch:
    """What a defect wants to look like around a place."""

    x: int
    y: int
    """Frame pixel of the patch's first pixel."""
    alpha: FloatMap
    """h x w, how much of the surface it hides."""
    grey: FloatMap | float
    """h x w target grey levels, or one."""
    on_bars: bool
    """True: invisible over the dark slots, so cut off there."""


def add_defects(canvas: Canvas, rng: np.random.Generator, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Draws one to three defects; returns their kinds. Always at least one that keeps the floors."""
    wanted = 1 + int(rng.random() < 0.25) + int(rng.random() < 0.08)
    done: list[str] = []
    for _ in range(wanted * _TRIES):
        kind = kinds[int(rng.integers(len(kinds)))]
        if _paint(canvas, _DRAW[kind](canvas, rng)):
            done.append(kind)
        if len(done) == wanted:
            break
    if not done:
        raise AssertionError(f"no visible place for {kinds} in {_TRIES * wanted} tries")
    return tuple(done)


def _paint(canvas: Canvas, patch: _Patch) -> bool:
    """Blends the patch in where it shows; False, and nothing changed, where it would break a floor."""
    height, width = canvas.clean.shape
    h, w = patch.alpha.shape
    top, left, bottom, right = max(patch.y, 0), max(patch.x, 0), min(patch.y + h, height), min(patch.x + w, width)
    if bottom <= top or right <= left:
        return False
    at = (slice(top, bottom), slice(left, right))
    own = (slice(top - patch.y, bottom - patch.y), slice(left - patch.x, right - patch.x))
    cover = canvas.bar[at] if patch.on_bars else canvas.piece[at]
    alpha = patch.alpha[own] * (cover > 0.5)
    shows = (alpha >= 0.3) & ~canvas.mask[at]
    area_px = int(np.count_nonzero(shows))
    if area_px < AREA_FLOOR_PX * canvas.scale**2 or area_px < 0.6 * np.count_nonzero(patch.alpha >= 0.3):
        return False
    clean = canvas.clean[at]
    grey = patch.grey if isinstance(patch.grey, float) else patch.grey[own]
    change = (alpha * (grey - clean))[shows]
    change *= max(1.0, 1.15 * CONTRAST_FLOOR / max(float(np.abs(change).mean()), 1.0))
    weak = np.abs(change) < PIXEL_FLOOR
    change[weak] = np.where(change[weak] >= 0, PIXEL_FLOOR, -PIXEL_FLOOR)
    result = np.clip(clean[shows] + change, 6.0, _WHITE)
    moved = np.abs(result - clean[shows])
    if float(moved.mean()) < CONTRAST_FLOOR or float(moved.min()) < PIXEL_FLOOR:
        return False
    clean[shows] = result
    canvas.mask[at] |= shows
    return True


def _outline(
    rng: np.random.Generator, radius: float, ragged: float, stretch: float, at: tuple[float, float]
) -> _Points:
    """A closed irregular curve, 40 x 2: a circle with a few harmonics, stretched and turned."""
    turn = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    reach = np.ones(turn.size)
    for order in range(2, 7):
        reach += ragged / order**0.7 * rng.uniform(-1, 1) * np.cos(order * turn + rng.uniform(0, 2 * math.pi))
    curve = (
        radius * np.maximum(reach, 0.35)[:, None] * np.stack((np.cos(turn) * stretch, np.sin(turn) / stretch), axis=1)
    )
    angle = rng.uniform(0, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(curve @ np.array([[cos, sin], [-sin, cos]]) + at)


def _fill(curves: list[_Points], soft_px: float) -> tuple[int, int, FloatMap]:
    """Fills closed curves (frame pixels): first pixel x, y and alpha h x w, with an edge about ``soft_px`` wide."""
    rim = 3 + math.ceil(2 * soft_px)
    every = np.concatenate(curves)
    x, y = (int(v) - rim for v in np.floor(every.min(axis=0)))
    w, h = (int(v) + rim + 1 for v in np.ceil(every.max(axis=0)) - (x, y))
    alpha = np.zeros((h, w), np.uint8)
    for curve in curves:
        fixed = np.rint((curve - (x, y)) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(alpha, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    soft = cv2.GaussianBlur(alpha, (0, 0), soft_px) if soft_px > 0.3 else alpha
    return x, y, soft.astype(np.float32) * np.float32(1 / 255)


def _blotches(rng: np.random.Generator, shape: tuple[int, ...], cells_px: float) -> FloatMap:
    """Smooth noise of unit variance, h x w, with features of about ``cells_px``."""
    h, w = shape[0], shape[1]
    small = rng.standard_normal((max(round(h / cells_px), 2) + 1, max(round(w / cells_px), 2) + 1), np.float32)
    return np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC), np.float32)


def _local(canvas: Canvas, x: float, y: float) -> float:
    """Grey level of the clean frame about a place."""
    row, column = round(y), round(x)
    return float(canvas.clean[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5].mean())


def _slag_inclusion(canvas: Canvas, rng: np.random.Generator) -> _Patch:
    x, y = canvas.place(rng.uniform(0.06, 0.94), rng.uniform(0.06, 0.94))
    radius = rng.uniform(4.6, 11.0) * canvas.scale
    curve = _outline(rng, radius, 0.55, rng.uniform(0.8, 1.35), at=(x, y))
    px, py, alpha = _fill([curve], 0.6)
    dark = rng.uniform(28, 62)
    grey = dark + 7 * _blotches(rng, alpha.shape, 4.0)
    relief = cv2.GaussianBlur(alpha, (0, 0), 1.2)
    lip = np.roll(relief, (1, 1), axis=(0, 1)) - np.roll(relief, (-1, -1), axis=(0, 1))
    return _Patch(px, py, alpha, np.asarray(grey - 30 * np.clip(lip, -1, 1), np.float32), on_bars=True)


def _scratch(canvas: Canvas, rng: np.random.Generator) -> _Patch:
    x, y = canvas.place(rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85))
    length = rng.uniform(35, 150) * canvas.scale
    # Off the axis by at least 15 degrees: along it a scratch is machining texture.
    angle = math.radians(rng.uniform(15, 165)) + math.atan2(canvas.pose[1, 0], canvas.pose[0, 0]) + math.pi / 2
    bow, sway = rng.uniform(-0.05, 0.05), rng.uniform(0.2, 0.8) * canvas.scale
    t = np.linspace(-0.5, 0.5, 24)
    aside = bow * length * (4 * t * t - 1) + sway * np.sin(t * rng.uniform(4, 14) + rng.uniform(0, 6))
    half = rng.uniform(0.75, 1.35) * max(canvas.scale, 0.8) * rng.uniform(0.75, 1.2, t.size)
    half *= np.clip(1.15 - (2 * np.abs(t)) ** 3, 0.35, 1)
    curves = [_ribbon(x, y, angle, t * length, aside, half)]
    if rng.random() < 0.4:  # the same edge left a second, shorter trace
        part = slice(int(rng.integers(0, 8)), int(rng.integers(14, 24)))
        gap = rng.choice((-1, 1)) * rng.uniform(3.5, 7) * canvas.scale
        curves.append(_ribbon(x, y, angle, t[part] * length, aside[part] + gap, half[part] * 0.8))
    px, py, alpha = _fill(curves, 0.45)
    local = _local(canvas, x, y)
    fresh = rng.random() < 0.6
    grey = min(local + rng.uniform(52, 75), 240.0) if fresh else max(local - rng.uniform(55, 80), 25.0)
    return _Patch(px, py, alpha, np.asarray(grey + 8 * _blotches(rng, alpha.shape, 5.0), np.float32), on_bars=True)


def _ribbon(x: float, y: float, angle: float, along: _Points, aside: _Points, half: _Points) -> _Points:
    """The outline of a line about (x, y), points x 2, from its course along and aside and its half width."""
    cos, sin = math.cos(angle), math.sin(angle)
    way = np.concatenate((along, along[::-1]))
    off = np.concatenate((aside - half, (aside + half)[::-1]))
    return np.stack((x + way * cos - off * sin, y + way * sin + off * cos), axis=1)


def _crush(canvas: Canvas, rng: np.random.Generator) -> _Patch:
    u = rng.uniform(0.06, 0.94)
    if canvas.slots and rng.random() < 0.75:  # edges stand out, so they take the blows
        u = canvas.slots[int(rng.integers(len(canvas.slots)))] + rng.uniform(-0.035, 0.035)
    x, y = canvas.place(u, rng.uniform(0.05, 0.95))
    radius = rng.uniform(8, 19) * canvas.scale
    px, py, alpha = _fill([_outline(rng, radius, 0.30, rng.uniform(0.85, 1.45), at=(x, y))], 1.0)
    # A hollow with thrown-up metal: shading is the slope of its height towards the lamp.
    bowl = cv2.GaussianBlur(alpha, (0, 0), max(radius / 2.6, 1.2))
    floor = _blotches(rng, alpha.shape, max(radius / 1.3, 3.0))
    drag = rng.uniform(0, math.pi)  # the tool that hit dragged over the metal
    rows, columns = np.indices(alpha.shape, np.float32)
    marks = np.sin((columns * math.cos(drag) + rows * math.sin(drag)) * (2 * math.pi / rng.uniform(3.5, 6.0)))
    height = -bowl * radius + 0.10 * radius * floor
    lamp = rng.uniform(0.2, 1.2)
    slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) * math.cos(lamp) + cv2.Sobel(height, cv2.CV_32F, 0, 1) * math.sin(lamp)
    copper = max(_local(canvas, x, y), 100.0) * rng.uniform(0.74, 0.86)
    grey = copper + 13.0 * slope + 5 * marks + 3 * _blotches(rng, alpha.shape, 2.5)
    return _Patch(px, py, alpha, np.asarray(np.clip(grey, 24, 244), np.float32), on_bars=False)


def _dirty_surface(canvas: Canvas, rng: np.random.Generator) -> _Patch:
    x, y = canvas.place(rng.uniform(0.18, 0.82), rng.uniform(0.18, 0.82))
    radius = rng.uniform(18, 46) * canvas.scale
    curves = [_outline(rng, radius, 0.45, rng.uniform(0.75, 1.35), at=(x, y))]
    for _ in range(int(rng.integers(0, 4))):  # satellites
        turn, reach = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.8, 1.25)
        centre = (x + reach * math.cos(turn), y + reach * math.sin(turn))
        curves.append(_outline(rng, radius * rng.uniform(0.12, 0.35), 0.4, 1.0, at=centre))
    px, py, alpha = _fill(curves, max(1.8 * canvas.scale, 1.0))
    film = np.clip(0.85 + 0.16 * _blotches(rng, alpha.shape, max(radius / 3, 3.0)), 0.5, 1.1)
    depth = rng.uniform(0.30, 0.50)
    h, w = alpha.shape
    under = np.full((h, w), _local(canvas, x, y), np.float32)
    top, left = max(py, 0), max(px, 0)
    seen = canvas.clean[top : py + h, left : px + w]
    under[top - py : top - py + seen.shape[0], left - px : left - px + seen.shape[1]] = seen
    return _Patch(px, py, alpha, np.asarray(under * (1 - depth * film), np.float32), on_bars=True)


def _tin_remaining(canvas: Canvas, rng: np.random.Generator) -> _Patch:
    # Solder runs from the riser: near the top more often than elsewhere.
    x, y = canvas.place(
        rng.uniform(0.07, 0.93), rng.uniform(0.05, 0.3) if rng.random() < 0.55 else rng.uniform(0.1, 0.93)
    )
    radius = rng.uniform(5.5, 14.0) * canvas.scale
    curves = [_outline(rng, radius, 0.25, rng.uniform(0.7, 1.4), at=(x, y))]
    for _ in range(int(rng.integers(0, 3))):  # splashes
        turn, reach = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.9, 1.6)
        centre = (x + reach * math.cos(turn), y + reach * math.sin(turn))
        curves.append(_outline(rng, radius * rng.uniform(0.2, 0.45), 0.15, 1.0, at=centre))
    px, py, alpha = _fill(curves, 0.6)
    dome = cv2.GaussianBlur(alpha, (0, 0), max(radius / 3.0, 1.2))
    slope = cv2.Sobel(dome, cv2.CV_32F, 1, 0) * 0.6 + cv2.Sobel(dome, cv2.CV_32F, 0, 1) * 0.8
    grey = rng.uniform(222, 236) + 60 * slope * radius / 8
    grey = np.where(dome < 0.42, np.minimum(grey, 96), grey)  # the meniscus mirrors the dark surroundings
    return _Patch(px, py, alpha, np.asarray(np.clip(grey, 60, 249), np.float32), on_bars=False)


_DRAW: dict[str, Callable[[Canvas, np.random.Generator], _Patch]] = {
    "slag_inclusion": _slag_inclusion,
    "scratch": _scratch,
    "crush": _crush,
    "dirty_surface": _dirty_surface,
    "tin_remaining": _tin_remaining,
}
