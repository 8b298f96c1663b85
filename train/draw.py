"""Defects drawn by rule: cracks and worn patches of shapes that a small set does not hold."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from inspector.frame import Grey
from train.config import DrawConfig

Mask = NDArray[np.uint8]

STEP_PX = 3.0
"""Length of one piece of a crack."""
FINE = 4
"""Fractional bits of drawn coordinates: outlines move by sixteenths of a pixel."""


def draw(image: Grey, mask: Mask, config: DrawConfig, rng: Generator) -> tuple[Grey, Mask]:
    """Copies of an H x W image and 0/1 mask with one drawn defect more: a crack, or a worn patch."""
    if rng.random() < config.patches:
        return worn_patch(image, mask, config, rng)
    return crack(image, mask, config, rng)


def crack(image: Grey, mask: Mask, config: DrawConfig, rng: Generator) -> tuple[Grey, Mask]:
    """A dark line that wanders, thins out to its ends and lets its surroundings shine through."""
    rows, columns = mask.shape
    length = float(np.exp(rng.uniform(np.log(config.shortest_px), np.log(config.longest_px))))
    pieces = max(round(length / STEP_PX), 2)
    bend = rng.normal(0, float(rng.uniform(0.03, 0.25)), pieces)
    down = rng.random() < config.upright
    first = float(rng.normal(np.pi / 2, 0.12)) if down else float(rng.uniform(0, 2 * np.pi))
    heading = first + np.cumsum(bend * (0.4 if down else 1.0))
    start = rng.random(2) * (columns, rows)
    path = start + STEP_PX * np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0)
    widest = float(rng.uniform(config.thinnest_px, config.widest_px))
    along = np.linspace(0, 1, pieces)
    widths = widest * np.clip(4 * along * (1 - along), 0.3, 1) * np.exp(rng.normal(0, 0.2, pieces))
    line = np.zeros(mask.shape, np.uint8)
    for a, b, width in zip(path[:-1], path[1:], widths[1:], strict=True):
        cv2.line(line, _fixed(a), _fixed(b), 255, max(round(float(width)), 1), cv2.LINE_AA, FINE)
    strength = float(rng.uniform(config.weakest, config.strongest)) * (0.7 + 0.3 * rng.random(mask.shape))
    own: Mask = np.asarray(cv2.dilate((line > 127).astype(np.uint8), np.ones((3, 3), np.uint8)), np.uint8)
    line[cv2.dilate(own, np.ones((5, 5), np.uint8)) == 0] = 0  # at the image's border a line can be too faint to mark
    shade = cv2.GaussianBlur(line.astype(np.float32) / 255, (0, 0), float(rng.uniform(0.4, 0.9)))
    out = image * (1 - np.clip(shade * (1.3 if widest < 2 else 1.0), 0, 1) * strength)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8), mask | own


def worn_patch(image: Grey, mask: Mask, config: DrawConfig, rng: Generator) -> tuple[Grey, Mask]:
    """A smooth, darker region with a wavy outline, in which the grinding marks are gone."""
    rows, columns = mask.shape
    radius = np.sqrt(float(rng.uniform(0.01, config.largest_share)) * mask.size / np.pi)
    stretch = float(np.exp(rng.uniform(-0.8, 0.8)))
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = sum(
        (float(rng.normal(0, 0.12 / k)) * np.cos(k * angle + float(rng.uniform(0, 7))) for k in (1, 2, 3, 5)),
        np.zeros_like(angle),
    )
    outline = radius * np.clip(1 + waves, 0.3, 2)
    x = rng.random() * columns + outline * stretch * np.cos(angle)
    y = rng.random() * rows + outline / stretch * np.sin(angle)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(filled, [np.rint(np.stack([x, y], 1)).astype(np.int32)], (1,))
    alpha = cv2.GaussianBlur(filled.astype(np.float32), (0, 0), float(rng.uniform(0.6, 2.0)))
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), float(rng.uniform(2, 12)))
    grain = cv2.GaussianBlur(rng.normal(0, 1, mask.shape).astype(np.float32), (0, 0), 0.8) * float(rng.uniform(1, 6))
    darker = 1 - float(rng.uniform(config.weakest, config.strongest))
    out = image * (1 - alpha) + (smooth * darker + grain) * alpha
    return np.clip(np.rint(out), 0, 255).astype(np.uint8), mask | filled


def _fixed(point: NDArray[np.float64]) -> tuple[int, int]:
    x, y = np.rint(point * (1 << FINE)).astype(int)
    return int(x), int(y)
