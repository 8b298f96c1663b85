"""A synthetic commutator set in the plain layout, from the renderer of the ``synthetic`` camera."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np

from inspector.camera.render import RenderedPart, Style, nominal_roi, render_part

FIELDS = ("image", "group", "cls", "defective", "kinds", "seed", "index", "matrix")


def crop_matrix(part: RenderedPart, style: Style) -> np.ndarray:
    """2 x 3: (0..1, 0..1) over the piece's rectangle, edges included -> frame pixel centres."""
    x, y, width, height = nominal_roi(style)
    to_nominal = np.array([[width, 0, x - 0.5], [0, height, y - 0.5], [0, 0, 1]], np.float64)
    return np.asarray(np.array(part.matrix, np.float64).reshape(2, 3) @ to_nominal)


def write_set(out: Path, count: int, seed: int, defect_share: float = 0.5) -> None:
    """``count`` full frames into ``out``/images and masks, and what is known of each part into ``out``/parts.csv.

    The same seed gives the same bytes. A group is a lot: parts that share exposure and machining.
    """
    style = Style(defect_share=defect_share)
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    with (out / "parts.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, FIELDS)
        rows.writeheader()
        for index in range(count):
            part = render_part(seed, index, style=style)
            name = f"{index:06d}.png"
            cv2.imwrite(str(out / "images" / name), part.image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            cv2.imwrite(str(out / "masks" / name), part.mask.astype(np.uint8) * 255)
            rows.writerow(
                {
                    "image": f"images/{name}",
                    "group": f"seed{seed}-lot{index // style.batch_parts}",
                    "cls": part.kinds[0] if part.kinds else "good",
                    "defective": int(part.defective),
                    "kinds": " ".join(part.kinds),
                    "seed": seed,
                    "index": index,
                    "matrix": " ".join(repr(float(v)) for v in crop_matrix(part, style).ravel()),
                }
            )
