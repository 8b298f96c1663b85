"""Tiles for ROIs larger than the engine's input: cut with overlap, stitch back. Pure functions on whole pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from inspector.frame import FloatMap, Grey


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile's place in the image, in whole pixels: the part of it that lies inside the image."""

    x: int
    y: int
    w: int
    h: int


def tile_grid(height: int, width: int, tile_height: int, tile_width: int, overlap_px: int) -> tuple[Tile, ...]:
    """The tiles that cover a ``height`` x ``width`` image, row by row, neighbours sharing at least ``overlap_px``.

    As few as possible, spread evenly, the first at 0 and the last flush with the end. An image smaller than a tile
    gets one that covers it all (``cut_tiles`` fills the rest). Raises ValueError for an empty size or an overlap that
    leaves a tile nothing of its own.
    """
    if min(height, width, tile_height, tile_width) < 1:
        raise ValueError(f"empty size: image {height} x {width}, tile {tile_height} x {tile_width}")
    if not 0 <= overlap_px < min(tile_height, tile_width):
        raise ValueError(
            f"overlap {overlap_px} px must be 0 or more and less than the tile ({tile_height} x {tile_width})"
        )
    columns, rows = _starts(width, tile_width, overlap_px), _starts(height, tile_height, overlap_px)
    return tuple(Tile(x, y, min(tile_width, width), min(tile_height, height)) for y in rows for x in columns)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [(length - tile) * index // (count - 1) for index in range(count)]


def cut_tiles(image: Grey, tiles: Sequence[Tile], tile_height: int, tile_width: int) -> list[Grey]:
    """Each tile as a ``tile_height`` x ``tile_width`` uint8 copy; what lies beyond the image repeats its last row and
    column, which ``stitch`` drops again."""
    cut: list[Grey] = []
    for tile in tiles:
        part = image[tile.y : tile.y + tile.h, tile.x : tile.x + tile.w]
        below, right = tile_height - part.shape[0], tile_width - part.shape[1]
        filled = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE)
        cut.append(np.asarray(filled, np.uint8))
    return cut


def stitch(
    maps: Sequence[FloatMap],
    tiles: Sequence[Tile],
    height: int,
    width: int,
    mode: Literal["max", "weighted"] = "max",
) -> FloatMap:
    """The maps of the tiles (each tile_height x tile_width float32) as one ``height`` x ``width`` float32 map.

    ``max`` keeps the highest score where tiles overlap, so that stitching loses no defect. ``weighted`` averages with
    weights that fall linearly towards a tile's edges, where a network sees the least. NaN stays NaN in both.
    Raises ValueError when a map is missing, too small, or a pixel is covered by none.
    """
    if len(maps) != len(tiles):
        raise ValueError(f"{len(tiles)} tiles but {len(maps)} maps")
    total = np.full((height, width), -np.inf if mode == "max" else 0.0, np.float32 if mode == "max" else np.float64)
    weight = np.zeros((height, width), np.float64)
    for tile, values in zip(tiles, maps, strict=True):
        if values.shape[0] < tile.h or values.shape[1] < tile.w:
            raise ValueError(f"map of shape {values.shape} for a tile of {tile.h} x {tile.w}")
        area = (slice(tile.y, tile.y + tile.h), slice(tile.x, tile.x + tile.w))
        inside = values[: tile.h, : tile.w]
        if mode == "max":
            np.maximum(total[area], inside, out=total[area])
            weight[area] = 1.0
        else:
            share = np.outer(_ramp(tile.h), _ramp(tile.w))
            total[area] += share * inside
            weight[area] += share
    if not weight.all():
        raise ValueError(f"the tiles do not cover the {height} x {width} map")
    out: FloatMap = total.astype(np.float32) if mode == "max" else (total / weight).astype(np.float32)
    return out


def _ramp(length: int) -> np.ndarray:
    index = np.arange(length)
    return np.minimum(index + 1, length - index).astype(np.float64)
