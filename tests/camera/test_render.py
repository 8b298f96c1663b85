"""Rendered parts: the same for the same numbers, exact masks, visible defects, harmless good parts."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.camera.render import Style, nominal_roi, pose_matrix, render_part, render_reference
from inspector.camera.render_defects import AREA_FLOOR_PX, CONTRAST_FLOOR, KINDS
from inspector.errors import ConfigError

SMALL = Style(frame_px=(220, 200), shift_px=9.0)


def test_same_numbers_same_bytes_in_any_order_and_process():
    """A part depends on seed and index alone: not on what was rendered before, nor on the process."""
    forwards = [render_part(4, index).image.tobytes() for index in range(6)]
    backwards = [render_part(4, index).image.tobytes() for index in reversed(range(6))][::-1]
    assert forwards == backwards
    code = (
        "import hashlib; from inspector.camera.render import render_part;"
        "print(hashlib.sha256(render_part(4, 5).image.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    import hashlib

    assert other == hashlib.sha256(forwards[5]).hexdigest()
    assert len(set(forwards)) == 6
    assert render_part(5, 0).image.tobytes() != forwards[0]


@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_exactly_where_the_good_twin_differs(kind: str):
    """Outside the mask a defective part is byte for byte its good twin; inside, nearly every pixel changed."""
    style = Style(kinds=(kind,))
    for index in range(25):
        bad = render_part(11, index, style=style, defective=True)
        good = render_part(11, index, style=style, defective=False)
        differs = bad.image != good.image
        assert not (differs & ~bad.mask).any()
        assert differs[bad.mask].mean() > 0.97
        assert bad.kinds and set(bad.kinds) == {kind}
        assert not good.mask.any() and good.kinds == ()
        assert (good.shift_px, good.angle_deg) == (bad.shift_px, bad.angle_deg)


@pytest.mark.parametrize("kind", KINDS)
def test_every_defect_is_large_and_plain_enough_to_be_found(kind: str):
    """Area and contrast floors hold for each kind: a net that misses one has no excuse."""
    style = Style(kinds=(kind,))
    for index in range(40):
        bad = render_part(23, index, style=style, defective=True)
        good = render_part(23, index, style=style, defective=False)
        change = np.abs(bad.image.astype(int) - good.image)[bad.mask]
        assert bad.mask.sum() >= AREA_FLOOR_PX
        assert change.mean() >= CONTRAST_FLOOR - 1


def test_defects_lie_inside_the_part():
    """A mask never reaches beyond the part's rectangle: the ROI holds every defect."""
    for index in range(60):
        part = render_part(3, index, defective=True)
        inside = np.zeros(part.mask.shape, np.uint8)
        cv2.fillConvexPoly(inside, np.rint(np.array(part.roi_corners)).astype(np.int32), 1)
        assert not (part.mask & (inside == 0)).any()


def test_half_of_the_parts_are_good_by_default():
    """Good and defective parts come in equal share, and every kind occurs."""
    parts = [render_part(8, index, style=SMALL) for index in range(400)]
    assert 160 <= sum(part.defective for part in parts) <= 240
    assert {kind for part in parts for kind in part.kinds} == set(KINDS)
    for part in parts:
        assert part.defective == bool(part.mask.any()) == bool(part.kinds)


def test_play_stays_in_range_and_uses_it():
    """Shift and rotation stay within the style's play and use most of it."""
    parts = [render_part(9, index, style=SMALL, defective=False) for index in range(200)]
    shifts = np.array([part.shift_px for part in parts])
    angles = np.array([part.angle_deg for part in parts])
    assert np.abs(shifts).max() <= SMALL.shift_px and (shifts.max(axis=0) > 0.9 * SMALL.shift_px).all()
    assert np.abs(angles).max() <= SMALL.angle_deg and angles.max() > 0.9 * SMALL.angle_deg


def test_the_part_is_where_the_record_says():
    """Warping a part back by its matrix puts its outline on the nominal rectangle, to a fraction of a pixel."""
    x, y, w, h = nominal_roi()
    reference = render_reference()
    for index in range(12):
        part = render_part(2, index, defective=False)
        matrix = np.array(part.matrix).reshape(2, 3)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        back = cv2.warpAffine(part.image, matrix, part.image.shape[::-1], flags=flags).astype(np.float32)
        for image in (back, reference.image.astype(np.float32)):
            left = image[y + 60 : y + h - 60, x - 6 : x + 7].mean(axis=0)
            edge = np.interp((left[0] + left[-1]) / 2, left, np.arange(-6, 7))
            assert abs(edge + 0.5) < 0.7  # the outer rim of pixel x lies at x - 0.5
        assert np.allclose(part.matrix, pose_matrix(Style(), part.shift_px, part.angle_deg))
        nominal = np.array(
            [(x - 0.5, y - 0.5), (x + w - 0.5, y - 0.5), (x + w - 0.5, y + h - 0.5), (x - 0.5, y + h - 0.5)]
        )
        assert np.allclose(nominal @ matrix[:, :2].T + matrix[:, 2], part.roi_corners)


def test_frames_are_neither_blank_nor_saturated():
    """Copper stays within the sensor's range in every lot and stands out from the fixture."""
    for index in range(0, 2000, 80):
        part = render_part(6, index, defective=False)
        x, y, w, h = nominal_roi()
        copper = part.image[y + 40 : y + h - 40, x + 40 : x + w - 40]
        assert np.mean(part.image >= 254) < 1e-3
        assert np.median(copper) > np.median(part.image[:12]) + 50


def test_reference_is_clean_and_in_place():
    """The reference has no noise, no play and no defect."""
    one, two = render_reference(), render_reference()
    assert np.array_equal(one.image, two.image)
    assert one.shift_px == (0.0, 0.0) and one.angle_deg == 0.0 and not one.defective and not one.mask.any()
    assert np.allclose(one.matrix, (1, 0, 0, 0, 1, 0))


def test_lots_differ_more_than_parts_of_one_lot():
    """Exposure and tone change from lot to lot."""
    x, y, w, h = nominal_roi(SMALL)

    def level(index: int) -> float:
        image = render_part(12, index, style=SMALL, defective=False).image
        return float(image[y : y + h, x : x + w].mean())

    within = np.std([level(index) for index in range(SMALL.batch_parts)])
    between = np.std([level(index * SMALL.batch_parts) for index in range(40)])
    assert between > 2 * within


@given(
    width=st.integers(160, 500),
    height=st.integers(160, 500),
    bars=st.integers(1, 9),
    index=st.integers(0, 10**9),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=25, deadline=None)
def test_any_frame_size_renders(width: int, height: int, bars: int, index: int, share: float):
    """Frame size and number of bars are parameters; shares 0 and 1 are certain."""
    style = Style(frame_px=(width, height), bars=bars, shift_px=8.0, defect_share=share)
    part = render_part(1, index, style=style)
    assert part.image.shape == part.mask.shape == (height, width)
    assert part.image.dtype == np.uint8 and part.mask.dtype == np.bool_
    assert share == 0.5 or part.defective == (share == 1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kinds": ("rust",)},
        {"kinds": ()},
        {"frame_px": (80, 80)},
        {"shift_px": 70.0},
        {"bars": 0},
        {"defect_share": 1.5},
        {"noise": -1.0},
    ],
)
def test_impossible_styles_are_refused(wrong: dict[str, object]):
    """A style that cannot be drawn is a ConfigError when it is made, not a strange picture."""
    with pytest.raises(ConfigError):
        Style(**wrong)  # type: ignore[arg-type]
