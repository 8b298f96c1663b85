"""Finds the part in each frame: shift and rotation to a few hundredths of a pixel, or why it is not there.

1. **Coarse**: the frame at a fraction of its size, normalised correlation with the template at a few angles. The
   template is the ROI with a border, so the outline of the part decides, not its bars, which repeat.
2. **Fine**: inverse compositional Gauss-Newton (Baker and Matthews, IJCV 56(3), 2004) for shift and rotation over the
   points of the template with the strongest edges, on a band-passed logarithm of the grey levels: there an uneven or
   changed light is an added slow term, which the band-pass removes.
3. **Proof**: at the place found, the correlation over the whole part, its inside and each of its four sides must reach
   ``min_score``, and the frame must resemble the template more than the template turned or mirrored. So a part that
   is the wrong one, half covered, upside down or of another size is not located instead of being inspected askew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from inspector.frame import FloatMap, Grey

_LEVEL_PX = 192  # the fine level is the finest at which the part is not larger than this
_COARSER = 4  # coarse pixels per fine pixel
_POINTS = 2048  # points of the fine fit
_ROW = 64  # points per row of a remap call, which allows 32767 rows
_STEPS = 12
_TURNED = 0.3  # 1 = like the template, -1 = like its turned or mirrored twin
_BAND_PX = 10.0  # half width of a side's band in frame pixels
_WEAK = 0.05  # a region with less than this share of the part's mean energy proves nothing
_ALIKE = 0.01  # a twin that differs by less than this share of the energy is the same part

# The offset keeps the noise of dark pixels small after the logarithm.
_LOGARITHM: FloatMap = np.log(np.arange(256, dtype=np.float64) + 8.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the part lies against its nominal place: turned about the ROI's centre, then shifted."""

    shift_x_px: float = 0.0
    shift_y_px: float = 0.0
    angle_deg: float = 0.0
    """Positive turns x towards y: clockwise on the screen."""
    score: float = 1.0
    """Lowest correlation of the regions that prove the place, at most 1."""

    def matrix(self, centre_px: tuple[float, float]) -> np.ndarray:
        """2 x 3 float64: nominal frame pixel -> frame pixel of this part."""
        cos, sin = math.cos(math.radians(self.angle_deg)), math.sin(math.radians(self.angle_deg))
        x, y = centre_px
        return np.array(
            [
                [cos, -sin, x + self.shift_x_px - cos * x + sin * y],
                [sin, cos, y + self.shift_y_px - sin * x - cos * y],
            ]
        )


@dataclass(frozen=True, slots=True)
class NotFound:
    """No trustworthy place; ``why`` is one line for the journal."""

    why: str
    score: float = 0.0


def level_factor(roi_w: int, roi_h: int) -> int:
    """Frame pixels per pixel of the fine level, a power of two."""
    factor = 1
    while max(roi_w, roi_h) > _LEVEL_PX * factor:
        factor *= 2
    return factor


def template_border_px(roi_w: int, roi_h: int) -> int:
    """How much of the surroundings a template needs, so that the band-pass sees what surrounds the outline."""
    return 6 * level_factor(roi_w, roi_h)


class Locator:
    """Locates one kind of part. Built once per calibration; ``locate`` keeps no state between frames."""

    def __init__(
        self,
        template: Grey,
        *,
        border_px: int,
        corner_px: tuple[int, int],
        window_wh_px: tuple[int, int],
        max_shift_px: float,
        max_angle_deg: float,
        min_score: float,
    ) -> None:
        """``template`` is the ROI with ``border_px`` on each side, uint8; ``corner_px`` the (x, y) of its first pixel
        in the window when the part is in its nominal place (negative where the border leaves the window);
        ``window_wh_px`` the width and height of the windows that ``locate`` will see."""
        height, width = template.shape
        roi_w, roi_h = width - 2 * border_px, height - 2 * border_px
        self._limits = (max_shift_px, max_angle_deg, min_score)
        self._window_shape = (window_wh_px[1], window_wh_px[0])
        self._factor = level_factor(roi_w, roi_h)
        # Room for the template at the largest shift, also where the frame's edge cuts the window short.
        play = math.ceil(max_shift_px) + _COARSER * self._factor
        self._pad = (
            max(0, play - corner_px[1]),
            max(0, play + corner_px[1] + height - window_wh_px[1]),
            max(0, play - corner_px[0]),
            max(0, play + corner_px[0] + width - window_wh_px[0]),
        )
        self._corner = (corner_px[0] + self._pad[2], corner_px[1] + self._pad[0])
        self._centre = (self._corner[0] + (width - 1) / 2, self._corner[1] + (height - 1) / 2)
        self._coarse = self._turned_templates(template, math.hypot(roi_w, roi_h) / 2, max_angle_deg)
        pattern = _band_pass(_shrink(template, self._factor))
        self._prepare_fit(pattern, (width, height))
        self._prepare_proof(pattern, (width, height), (roi_w, roi_h))
        self._prepare_rivals(pattern, (width, height))

    def _turned_templates(self, template: Grey, radius_px: float, max_angle_deg: float) -> list[tuple[float, FloatMap]]:
        # Half an angle step moves the rim by less than half a coarse pixel.
        step_deg = 2 * math.degrees(math.asin(min(0.45 * _COARSER * self._factor / radius_px, 0.5)))
        count = 2 * math.ceil(max(max_angle_deg / step_deg - 0.5, 0.0)) + 1
        height, width = template.shape
        turned = []
        for index in range(count):
            angle_deg = (index - count // 2) * 2 * max_angle_deg / count
            matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -angle_deg, 1.0)
            image = np.asarray(
                cv2.warpAffine(template, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8
            )
            turned.append((angle_deg, _coarsen(_shrink(image, self._factor))))
        return turned

    def _to_centre(self, index: np.ndarray, length_px: int) -> FloatMap:
        """Fine-level pixel index of the template -> frame pixels from the template's centre."""
        return (self._factor * (index + 0.5) - 0.5 - (length_px - 1) / 2).astype(np.float32)

    def _prepare_fit(self, pattern: FloatMap, size_px: tuple[int, int]) -> None:
        down, across = (np.asarray(slope, np.float32) for slope in np.gradient(pattern))
        strength = across * across + down * down
        strength[:3], strength[-3:], strength[:, :3], strength[:, -3:] = 0, 0, 0, 0
        count = min(_POINTS, strength.size // _ROW * _ROW)
        best = np.argsort(-strength.ravel(), kind="stable")[:count]
        y, x = np.unravel_index(best, pattern.shape)
        self._fit_x, self._fit_y = self._to_centre(x, size_px[0]), self._to_centre(y, size_px[1])
        self._fit_values = np.ascontiguousarray(pattern[y, x])
        self._fit_energy = max(float(self._fit_values @ self._fit_values), 1e-9)
        self._fit_clip = 0.35 * float(np.abs(self._fit_values).max())
        along_x, along_y = across[y, x] / self._factor, down[y, x] / self._factor
        jacobian = np.stack([along_x, along_y, along_y * self._fit_x - along_x * self._fit_y]).astype(np.float64)
        # The ridge keeps a template without structure from raising; such a one fails its proof.
        normal = jacobian @ jacobian.T + 1e-9 * np.eye(3)
        self._gain = np.linalg.solve(normal, jacobian).astype(np.float32)

    def _prepare_proof(self, pattern: FloatMap, size_px: tuple[int, int], roi_px: tuple[int, int]) -> None:
        height, width = pattern.shape
        y, x = (grid.ravel() for grid in np.mgrid[2 : height - 2, 2 : width - 2])
        # Every fourth point, shifted from row to row, so that no column of thin slots falls between the points.
        y, x = y[(x + y) % 4 == 0], x[(x + y) % 4 == 0]
        count = y.size // _ROW * _ROW
        y, x = y[:count], x[:count]
        self._proof_x, self._proof_y = self._to_centre(x, size_px[0]), self._to_centre(y, size_px[1])
        self._proof_index = (y, x)
        values = pattern[y, x]
        self._proof_values = values / max(float(values @ values), 1e-9)
        self._proof_clip = float(np.abs(values).max()) * 1.1
        half_w, half_h = roi_px[0] / 2, roi_px[1] / 2
        from_left, from_top = self._proof_x + half_w, self._proof_y + half_h
        from_right, from_bottom = half_w - self._proof_x, half_h - self._proof_y
        inside = np.minimum.reduce([from_left, from_right, from_top, from_bottom]) > _BAND_PX
        regions = {
            "part": np.ones(count, np.bool_),
            "inside": inside,
            "left side": np.abs(from_left) < _BAND_PX,
            "right side": np.abs(from_right) < _BAND_PX,
            "top": np.abs(from_top) < _BAND_PX,
            "bottom": np.abs(from_bottom) < _BAND_PX,
        }
        mean_energy = float(values @ values) / max(count, 1)
        self._regions: list[tuple[str, np.ndarray, FloatMap, float]] = []
        for name, mask in regions.items():
            where = np.flatnonzero(mask)
            part = np.ascontiguousarray(values[where])
            energy = float(part @ part)
            if where.size and energy > _WEAK * mean_energy * where.size:
                self._regions.append((name, where, part, energy))

    def _prepare_rivals(self, pattern: FloatMap, size_px: tuple[int, int]) -> None:
        self._rivals: list[tuple[str, FloatMap]] = []
        y, x = self._proof_index
        # Mirrored about the template's true centre, which is not the middle of the cropped pattern.
        mirror_x = (size_px[0] / self._factor - 1 - x).astype(np.float32)
        mirror_y = (size_px[1] / self._factor - 1 - y).astype(np.float32)
        plain_x, plain_y = x.astype(np.float32), y.astype(np.float32)
        values = pattern[y, x]
        for name, at_x, at_y in (
            ("turned by 180 degrees", mirror_x, mirror_y),
            ("mirrored top to bottom", plain_x, mirror_y),
            ("mirrored left to right", mirror_x, plain_y),
        ):
            twin = _remap(pattern, at_x, at_y)
            twin *= np.float32(math.sqrt(float(values @ values) / max(float(twin @ twin), 1e-9)))
            difference = values - twin
            energy = float(difference @ difference)
            if energy > _ALIKE * float(values @ values):
                self._rivals.append((name, difference * np.float32(2 / energy)))

    def locate(self, window: Grey) -> Pose | NotFound:
        """The part's pose in ``window`` (H x W uint8, the size given at construction), or why there is none."""
        if window.shape != self._window_shape:
            raise ValueError(f"window of shape {window.shape}, expected {self._window_shape}")
        if any(self._pad):
            window = np.asarray(cv2.copyMakeBorder(window, *self._pad, cv2.BORDER_REPLICATE), np.uint8)
        fine = _shrink(window, self._factor)
        start = self._search(_coarsen(fine))
        pattern = _band_pass(fine)
        shift_x, shift_y, angle = self._fit(pattern, *start)
        return self._prove(pattern, shift_x, shift_y, angle)

    def _search(self, coarse: FloatMap) -> tuple[float, float, float]:
        best = (-2.0, 0.0, 0.0, 0.0)
        for angle_deg, template in self._coarse:
            scores = cv2.matchTemplate(coarse, template, cv2.TM_CCOEFF_NORMED)
            _, value, _, (x, y) = cv2.minMaxLoc(scores)
            if value > best[0]:
                across, down = scores[y, max(x - 1, 0) : x + 2], scores[max(y - 1, 0) : y + 2, x]
                best = (float(value), angle_deg, x + _peak(across), y + _peak(down))
        pixel = _COARSER * self._factor
        return pixel * best[2] - self._corner[0], pixel * best[3] - self._corner[1], math.radians(best[1])

    def _fit(self, pattern: FloatMap, shift_x: float, shift_y: float, angle: float) -> tuple[float, float, float]:
        for _ in range(_STEPS):
            seen = self._sample(pattern, self._fit_x, self._fit_y, shift_x, shift_y, angle)
            # The part's contrast against the template's is divided out; the floor keeps noise from being blown up.
            contrast = max(float(seen @ self._fit_values) / self._fit_energy, 0.2)
            residual = seen * np.float32(1 / contrast) - self._fit_values
            np.clip(residual, -self._fit_clip, self._fit_clip, out=residual)
            step_x, step_y, turn = (float(value) for value in self._gain @ residual)
            angle -= turn
            cos, sin = math.cos(angle), math.sin(angle)
            shift_x -= cos * step_x - sin * step_y
            shift_y -= sin * step_x + cos * step_y
            if abs(step_x) + abs(step_y) < 0.01 and abs(turn) < 1e-4:
                break
        return shift_x, shift_y, angle

    def _prove(self, pattern: FloatMap, shift_x: float, shift_y: float, angle: float) -> Pose | NotFound:
        max_shift, max_angle, min_score = self._limits
        angle_deg = math.degrees(angle)
        seen = self._sample(pattern, self._proof_x, self._proof_y, shift_x, shift_y, angle)
        np.clip(seen, -self._proof_clip, self._proof_clip, out=seen)
        lowest, worst = 1.0, "part"
        for name, where, values, energy in self._regions:
            part = seen[where]
            score = float(part @ values) / math.sqrt(float(part @ part) * energy + 1e-12)
            if score < lowest:
                lowest, worst = score, name
        if lowest < min_score or not self._regions:
            return NotFound(
                f"{worst} correlates {lowest:.2f} with the template, at least {min_score:.2f} needed", lowest
            )
        contrast = max(float(seen @ self._proof_values), 1e-9)
        for name, difference in self._rivals:
            likeness = float(seen @ difference) / contrast
            if likeness < _TURNED:
                return NotFound(f"the part looks {name} ({likeness:.2f}, at least {_TURNED:.2f} needed)", lowest)
        # The tolerance is the locator's own error, so that a part at the limit is not lost to it.
        if max(abs(shift_x), abs(shift_y)) > max_shift + 0.5 or abs(angle_deg) > max_angle + 0.2:
            return NotFound(
                f"shifted by ({shift_x:.1f}, {shift_y:.1f}) px and turned by {angle_deg:.1f} degrees, "
                f"allowed {max_shift:g} px and {max_angle:g} degrees",
                lowest,
            )
        return Pose(shift_x, shift_y, angle_deg, lowest)

    def _sample(
        self, pattern: FloatMap, x: FloatMap, y: FloatMap, shift_x: float, shift_y: float, angle: float
    ) -> FloatMap:
        """The pattern at points given in frame pixels from the part's centre."""
        shrink = 1.0 / self._factor
        cos, sin = np.float32(math.cos(angle) * shrink), np.float32(math.sin(angle) * shrink)
        at_x = x * cos - y * sin + np.float32((self._centre[0] + shift_x + 0.5) * shrink - 0.5)
        at_y = x * sin + y * cos + np.float32((self._centre[1] + shift_y + 0.5) * shrink - 0.5)
        return _remap(pattern, at_x, at_y)


def _remap(pattern: FloatMap, x: FloatMap, y: FloatMap) -> FloatMap:
    """The pattern, interpolated, at points given as 1-D pixel coordinates; their number is a multiple of _ROW."""
    maps = x.reshape(-1, _ROW), y.reshape(-1, _ROW)
    out = cv2.remap(pattern, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.float32).ravel()


def _shrink(image: Grey, factor: int) -> Grey:
    """Fine level: whole blocks of ``factor`` x ``factor`` pixels averaged, whole coarse pixels only."""
    block = factor * _COARSER
    height, width = image.shape[0] // block * block, image.shape[1] // block * block
    size = (width // factor, height // factor)
    return np.asarray(cv2.resize(image[:height, :width], size, interpolation=cv2.INTER_AREA), np.uint8)


def _coarsen(fine: Grey) -> FloatMap:
    size = (fine.shape[1] // _COARSER, fine.shape[0] // _COARSER)
    return np.asarray(cv2.LUT(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), _LOGARITHM), np.float32)


def _band_pass(fine: Grey) -> FloatMap:
    """Logarithm, smoothed over about a pixel, less its mean over 9 x 9 pixels."""
    logarithm = cv2.LUT(fine, _LOGARITHM)
    smooth = cv2.GaussianBlur(logarithm, (7, 7), 1.0)
    return np.asarray(cv2.subtract(smooth, cv2.blur(smooth, (9, 9))), np.float32)


def _peak(three: np.ndarray) -> float:
    """Offset of a parabola's peak from the middle of three samples; 0 at a border."""
    if three.size != 3:
        return 0.0
    left, middle, right = (float(value) for value in three)
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0
