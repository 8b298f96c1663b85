"""Windows cut from images, and defects copied onto other images: more to learn from a small set, and faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from inspector.frame import Grey
from inspector.preprocess import resize_to_input
from train.config import CropConfig, PasteConfig

Mask = NDArray[np.uint8]

MARGIN_PX = 6
"""Sound surface taken along around a defect: there the copy fades into its new place."""
LEAST_AREA_PX = 4
"""Smaller components are crumbs of a larger defect's outline."""


def window(image: Grey, mask: Mask, config: CropConfig, rng: Generator) -> tuple[Grey, Mask]:
    """A square of ``config.side`` px cut from H x W image and 0/1 mask.

    With chance ``config.focus`` it holds a randomly chosen defective pixel, at a random place of the window. It is
    cut at the image's own scale, or, up to ``config.zoom`` times as wide, scaled down: large defects need to be seen
    with what is around them.
    """
    height, width = mask.shape
    side = min(round(config.side * config.zoom ** (rng.random() ** 2)), height, width)
    left, top = (int(rng.integers(0, size - side + 1)) for size in (width, height))
    focus, inside, pick = rng.random() < config.focus, rng.random(2), rng.random()
    if focus and mask.any():
        rows, columns = np.nonzero(mask)
        at = int(pick * len(rows))
        top = int(np.clip(rows[at] - round(inside[0] * (side - 1)), 0, height - side))
        left = int(np.clip(columns[at] - round(inside[1] * (side - 1)), 0, width - side))
    part, part_mask = (each[top : top + side, left : left + side] for each in (image, mask))
    if side == config.side:
        return np.ascontiguousarray(part), np.ascontiguousarray(part_mask)
    soft = resize_to_input(np.ascontiguousarray(part_mask * np.uint8(255)), config.side, config.side)
    return resize_to_input(np.ascontiguousarray(part), config.side, config.side), (soft > 127).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Patch:
    """One defect with a margin of its surroundings."""

    image: Grey
    mask: Mask
    """Same size as ``image``, 0 and 1; only this defect."""
    top: int
    left: int
    """Where it lay in its image of this size, px."""
    ground: float
    """Median grey of the margin around it."""


def patches_of(pairs: Sequence[tuple[Grey, Mask]], config: PasteConfig) -> list[Patch]:
    """All 8-connected defects of H x W images and masks that are small enough to be copied."""
    found: list[Patch] = []
    for image, mask in pairs:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for label in range(1, count):
            x, y, wide, high, area_px = (int(v) for v in stats[label, :5])
            if not LEAST_AREA_PX <= area_px <= config.largest_share * mask.size:
                continue
            top, left = max(y - MARGIN_PX, 0), max(x - MARGIN_PX, 0)
            box = np.s_[top : y + high + MARGIN_PX, left : x + wide + MARGIN_PX]
            around = image[box][mask[box] == 0]
            if around.size:
                own = (labels[box] == label).astype(np.uint8)
                found.append(Patch(image[box].copy(), own, top, left, float(np.median(around))))
    return found


def paste(image: Grey, mask: Mask, patches: Sequence[Patch], config: PasteConfig, rng: Generator) -> tuple[Grey, Mask]:
    """Copies of image and mask with one to ``config.most`` defects more.

    Each is mirrored, turned, scaled, set near its old place or anywhere, brought to the brightness of its new place
    as a reflectance (factor of the two surroundings), weakened or strengthened, and faded in over its margin. A copy
    that turned out larger than the image is left out.
    """
    image, mask = image.copy(), mask.copy()
    for _ in range(int(rng.integers(1, config.most + 1))):
        patch = patches[int(rng.integers(len(patches)))]
        grey, own, flips = _turned(patch, config, rng)
        high, wide = own.shape
        rows, columns = mask.shape
        top, left = _place(patch, flips, mask.shape, own.shape, rng)
        strength = float(rng.uniform(config.weakest, config.strongest))
        if high > rows or wide > columns or not own.any():
            continue
        box = np.s_[top : top + high, left : left + wide]
        ground = float(np.median(image[box]))
        relative = (grey / max(patch.ground, 1.0) - 1.0) * strength + 1.0
        near = cv2.dilate(own, np.ones((3, 3), np.uint8)).astype(np.float32)
        alpha = np.maximum(cv2.GaussianBlur(near, (0, 0), 1.5), own.astype(np.float32) * 0.9)
        mixed = image[box] * (1 - alpha) + relative * ground * alpha
        image[box] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
        mask[box] |= own
    return image, mask


def _turned(patch: Patch, config: PasteConfig, rng: Generator) -> tuple[NDArray[np.float32], Mask, tuple[bool, bool]]:
    """Grey values (float) and mask of the patch after mirroring, turning and scaling; which axes were mirrored."""
    grey: NDArray[np.float32] = patch.image.astype(np.float32)
    own = patch.mask
    flips = (bool(rng.random() < 0.5), bool(rng.random() < 0.5))
    for axis in (0, 1):
        if flips[axis]:
            grey, own = np.flip(grey, axis), np.flip(own, axis)
    angle = float(rng.uniform(-config.turn_deg, config.turn_deg))
    scale = float(np.exp(rng.uniform(-1, 1) * np.log(config.scale)))
    high, wide = own.shape
    matrix = cv2.getRotationMatrix2D(((wide - 1) / 2, (high - 1) / 2), angle, scale)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    new = (max(round(high * sin + wide * cos), 3), max(round(high * cos + wide * sin), 3))
    matrix[:, 2] += (new[0] - wide) / 2, (new[1] - high) / 2
    turned = cv2.warpAffine(np.ascontiguousarray(grey), matrix, new, borderMode=cv2.BORDER_REPLICATE)
    soft = cv2.warpAffine(np.ascontiguousarray(own) * np.float32(1), matrix, new)
    return np.asarray(turned, np.float32), (soft > 0.5).astype(np.uint8), flips


def _place(
    patch: Patch, flips: tuple[bool, bool], image: tuple[int, ...], size: tuple[int, ...], rng: Generator
) -> tuple[int, int]:
    """Top and left: half of the time near the old place, mirrored as the patch is (chips sit at edges), else
    anywhere. ``image``, ``size``: rows and columns of the image and of the turned patch."""
    near, shift, anywhere = rng.random() < 0.5, rng.integers(-12, 13, 2), rng.random(2)
    place = []
    for axis, old in enumerate((patch.top, patch.left)):
        room = image[axis] - size[axis]
        kept = room - old if flips[axis] else old
        wanted = kept + int(shift[axis]) if near else int(anywhere[axis] * (room + 1))
        place.append(max(min(wanted, room), 0))
    return place[0], place[1]
