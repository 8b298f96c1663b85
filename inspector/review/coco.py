"""Labels as COCO and as a Label Studio import. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from inspector.frame import BoolMap
from inspector.review.labels import Label
from inspector.review.runs import brush_rle, coco_counts

CATEGORY = "defect"
LABELING_CONFIG = f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="mask" toName="image"><Label value="{CATEGORY}"/></BrushLabels>
  <Choices name="verdict" toName="image" choice="single"><Choice value="good"/><Choice value="{CATEGORY}"/></Choices>
</View>
"""
"""The labelling configuration that the import fits."""


def coco(labels: Sequence[tuple[Label, str]], description: str) -> dict[str, Any]:
    """``labels`` with their file names -> a COCO instances file; one annotation a connected spot, exact to the pixel.

    https://cocodataset.org/#format-data; segmentations are uncompressed RLE, which pycocotools reads.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (label, name) in enumerate(labels, 1):
        width, height = label.size_px
        images.append({"id": number, "file_name": name, "width": width, "height": height, "group": label.group})
        for spot, box, area in _spots(label.mask):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": {"size": [height, width], "counts": coco_counts(spot)},
                    "area": area,
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": description, "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": CATEGORY, "supercategory": CATEGORY}],
    }


def label_studio(labels: Sequence[tuple[Label, str]], url: str) -> list[dict[str, Any]]:
    """Tasks for Label Studio's import, with LABELING_CONFIG; a part that needs a mask comes without one, to be brushed.

    ``url``: what stands before the file's name, such as ``/data/local-files/?d=``.
    https://labelstud.io/guide/tasks and https://labelstud.io/guide/export (brush RLE).
    """
    return [_task(label, url + name) for label, name in labels]


def _task(label: Label, address: str) -> dict[str, Any]:
    width, height = label.size_px
    place = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    verdict = "good" if label.state == "good" else CATEGORY
    result: list[dict[str, Any]] = [
        place | {"id": "verdict", "from_name": "verdict", "type": "choices", "value": {"choices": [verdict]}}
    ]
    mask = label.mask
    if mask is not None and mask.any():
        value = {"format": "rle", "rle": brush_rle(mask), "brushlabels": [CATEGORY]}
        result.append(place | {"id": "mask", "from_name": "mask", "type": "brushlabels", "value": value})
    return {
        "data": {
            "image": address,
            "station": label.key.station,
            "part": label.key.text,
            "group": label.group,
            "state": label.state,
            "note": "; ".join(each.note for each in label.reviews if each.note),
        },
        "annotations": [{"result": result, "ground_truth": label.state != "needs-mask"}],
    }


def _spots(mask: BoolMap | None) -> list[tuple[BoolMap, list[int], int]]:
    """Connected spots (8 neighbours): mask, box (x, y, width, height), area, px."""
    if mask is None or not mask.any():
        return []
    count, numbered, figures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return [(numbered == n, [int(v) for v in figures[n, :4]], int(figures[n, 4])) for n in range(1, count)]
