"""Pictures for people: the part as the engine saw it, its defects outlined, the verdict in words above."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.frame import BoolMap, Decision, Evidence, Grey, Verdict

Colour = NDArray[np.uint8]

_COLOURS = {Verdict.PASS: (96, 160, 56), Verdict.FAIL: (48, 48, 208), Verdict.INVALID: (32, 144, 224)}  # BGR
_SCALE = 2
_HEAD_PX = 56
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(part_id: str, decision: Decision | Any, evidence: Evidence, truth: BoolMap | None = None) -> Colour:
    """Overlay picture, BGR uint8. ``decision``: a Decision or an Answer; ``truth``: labelled mask, drawn in green."""
    image = evidence.image if evidence.image is not None else np.zeros((256, 256), np.uint8)
    canvas = _enlarge(image)
    if truth is not None:
        _outline(canvas, truth, (80, 200, 80), 1)
    if evidence.mask is not None:
        _outline(canvas, evidence.mask, _COLOURS[Verdict.FAIL], 1)
        _label_defects(canvas, decision, evidence.mask.shape)
    return np.vstack([_head(part_id, decision, canvas.shape[1]), canvas])


def _enlarge(image: Grey) -> Colour:
    height, width = image.shape
    scale = max(1, min(_SCALE, 800 // max(height, width)) if max(height, width) < 800 else 1)
    large = cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(large, cv2.COLOR_GRAY2BGR), np.uint8)


def _outline(canvas: Colour, mask: BoolMap, colour: tuple[int, int, int], thickness: int) -> None:
    large = cv2.resize(mask.astype(np.uint8), (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, thickness, cv2.LINE_8)


def _label_defects(canvas: Colour, decision: Decision | Any, shape: tuple[int, ...]) -> None:
    fx, fy = canvas.shape[1] / shape[1], canvas.shape[0] / shape[0]
    for defect in [one for one in decision.defects if one.counts][:8]:
        x, y, _, height = defect.box
        size = f"{defect.area_mm2:.2f} mm2" if defect.area_mm2 is not None else f"{defect.area_px:.0f} px"
        text = f"{defect.shape.value} {size}"
        at = (int(min(x * fx, canvas.shape[1] - 9 * len(text))), int((y + height) * fy + 14))
        if at[1] > canvas.shape[0] - 4:
            at = (at[0], max(12, int(y * fy - 5)))
        (wide, high), below = cv2.getTextSize(text, _FONT, 0.42, 1)
        cv2.rectangle(canvas, (at[0] - 2, at[1] - high - 2), (at[0] + wide + 2, at[1] + below), (40, 40, 40), -1)
        cv2.putText(canvas, text, at, _FONT, 0.42, (255, 255, 255), 1, cv2.LINE_AA)


def _head(part_id: str, decision: Decision | Any, width: int) -> Colour:
    head = np.zeros((_HEAD_PX, width, 3), np.uint8)
    head[:] = _COLOURS[decision.verdict]
    white = (255, 255, 255)
    cv2.putText(head, decision.verdict.value, (8, 24), _FONT, 0.75, white, 2, cv2.LINE_AA)
    cv2.putText(head, _fit(part_id, width - 130), (120, 22), _FONT, 0.45, white, 1, cv2.LINE_AA)
    cv2.putText(head, _fit(_why(decision), width - 16), (8, 46), _FONT, 0.42, white, 1, cv2.LINE_AA)
    return head


def _why(decision: Decision | Any) -> str:
    if decision.reason is not None:
        return f"{decision.reason.value}: {decision.detail}"
    if decision.rules:
        return str(decision.rules[0]) + (f"  (+{len(decision.rules) - 1} more)" if len(decision.rules) > 1 else "")
    return f"highest score {decision.score:.2f}"


def _fit(text: str, width_px: int) -> str:
    room = max(4, int(width_px / 7.6))
    plain = text.encode("ascii", "replace").decode()
    return plain if len(plain) <= room else plain[: room - 2] + ".."
