"""A procedural commutator under an arc light: frames with exact defect masks, a few milliseconds each.

The model, from the surface to the sensor:

1. **Piece** (piece pixels): copper bars side by side on a shallow cylinder whose axis stands upright in the frame, so
   that outer bars are foreshortened; dark mica slots between them; a bright and a dark chamfer line at each bar edge;
   a shoulder near the top where the riser begins; rounded outer corners. The machining leaves streaks along the axis.
2. **Harmless variety**, on good and defective parts alike: streak strength and bar tone, a few stronger machining
   lines along the axis (at most about 8 grey levels), wide faint stains (about as much), dust of one or two pixels.
3. **Pose**: the piece is shifted and turned about its centre; the light and the fixture stay with the station.
4. **Light**: an arc lamp gives a soft, slightly bowed highlight band along the axis that falls off to the sides. Its
   position and strength differ from part to part and, with the exposure, from batch to batch.
5. **Optics and sensor**: a small blur, then shot and read noise, then 8-bit rounding.
6. **Defects** (``render_defects``) are drawn in frame pixels between blur and noise. Outside its mask a defective part
   is therefore byte for byte its good twin (``defective=False``, same seed and index).

Limits: no inter-reflection, no focus or lens error, no real optics of copper: grey levels are chosen to look right, not
derived. Every defect has a contrast and an area floor (``render_defects``), and nothing on a good part comes near
them, so figures on these frames say that the line works, not how it fares on a plant's parts.

Coordinates are pixel centres, x to the right and y down. A positive angle turns x towards y (clockwise on the screen).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from inspector.camera.render_defects import KINDS, Canvas, add_defects
from inspector.errors import ConfigError
from inspector.frame import BoolMap, FloatMap, Grey

_Matrix = tuple[float, float, float, float, float, float]
_PAD_PX = 3  # piece layers carry an empty rim, so that the warped outline is soft
_COPPER, _SLOT, _FIXTURE = 150.0, 38.0, 30.0  # grey levels at nominal light
_HALF_ARC = math.radians(52.0)  # of the cylinder that the camera sees, each way

# One random stream per cause: asking for the good twin must not change texture, pose or noise.
_POSE, _SURFACE, _LIGHT, _NOISE, _DEFECTS, _LOT, _STATION = range(7)


@dataclass(frozen=True, slots=True)
class Style:
    """What the station and its parts look like. Hashable: nominal layers are cached per style."""

    frame_px: tuple[int, int] = (400, 400)
    """Width, height of the camera's full frame."""
    piece_px: tuple[int, int] | None = None
    """Width, height of the contact piece; None = 70 % of the shorter frame side, square."""
    bars: int = 5
    shift_px: float = 20.0
    """Play of the part along x and along y, each way."""
    angle_deg: float = 3.0
    """Play of the part's rotation, each way."""
    defect_share: float = 0.5
    kinds: tuple[str, ...] = KINDS
    """The defect kinds that occur, equally often."""
    noise: float = 1.8
    """Standard deviation of the sensor noise in grey levels at mid grey."""
    batch_parts: int = 40
    """Parts of one lot: they share exposure, tone and machining."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ConfigError("unknown defect kind", expected=", ".join(KINDS), found=", ".join(unknown) or "none")
        if self.bars < 1 or self.batch_parts < 1 or not 0 <= self.defect_share <= 1 or self.noise < 0:
            raise ConfigError("bars and batch_parts start at 1, defect_share is 0 to 1, noise is not negative")
        width, height = self.piece
        angle = math.radians(abs(self.angle_deg))
        reach_x = width * math.cos(angle) + height * math.sin(angle) + 2 * self.shift_px
        reach_y = width * math.sin(angle) + height * math.cos(angle) + 2 * self.shift_px
        if min(width, height) < 64 or reach_x > self.frame_px[0] or reach_y > self.frame_px[1]:
            raise ConfigError(
                "the piece leaves the frame or is too small to draw",
                expected=f"at least 64 px, and with its play within {self.frame_px[0]} x {self.frame_px[1]}",
                found=f"piece {width} x {height}, with its play {reach_x:.0f} x {reach_y:.0f}",
                do="Enlarge frame_px or reduce piece_px, shift_px or angle_deg.",
            )

    @property
    def piece(self) -> tuple[int, int]:
        """Width, height of the contact piece in pixels."""
        side = round(0.7 * min(self.frame_px))
        return self.piece_px or (side, side)


@dataclass(frozen=True, slots=True)
class RenderedPart:
    """One frame and everything that is known about it."""

    image: Grey
    """H x W uint8, the full frame."""
    mask: BoolMap
    """H x W, True where a defect changed the image; empty for a good part."""
    kinds: tuple[str, ...]
    """Kind of each defect, in the order drawn; empty for a good part."""
    defective: bool
    shift_px: tuple[float, float]
    """(x, y) of the piece's centre against its nominal place."""
    angle_deg: float
    roi_corners: tuple[tuple[float, float], ...]
    """Outer corners of the piece in frame pixels: top left, top right, bottom right, bottom left."""
    matrix: _Matrix
    """Row-major 2 x 3: nominal frame pixel -> frame pixel of this part."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """What all parts of a style share; arrays are never written to."""

    base: FloatMap
    """Piece with rim: copper, slots and edges in grey levels at nominal light."""
    piece: FloatMap
    """With rim, 1 inside the piece."""
    bar: FloatMap
    """With rim, 1 on a bar."""
    bar_of_column: np.ndarray
    """Bar number of each piece column."""
    fixture: FloatMap


def nominal_roi(style: Style | None = None) -> tuple[int, int, int, int]:
    """The piece's rectangle (x, y, width, height) in the frame when it is neither shifted nor turned."""
    style = style or Style()
    width, height = style.piece
    return (style.frame_px[0] - width) // 2, (style.frame_px[1] - height) // 2, width, height


def render_part(seed: int, index: int, *, style: Style | None = None, defective: bool | None = None) -> RenderedPart:
    """Part ``index`` of the run ``seed``; the same in any order, process or machine with the same libraries.

    ``defective`` overrides the draw: True and False give twins that differ only inside the mask."""
    style = style or Style()
    rng = _stream(seed, index, _POSE)
    drawn = bool(rng.random() < style.defect_share)
    defective = drawn if defective is None else defective
    shift = (float(rng.uniform(-1, 1)) * style.shift_px, float(rng.uniform(-1, 1)) * style.shift_px)
    angle_deg = float(rng.uniform(-1, 1)) * style.angle_deg
    lot = _stream(seed, index // style.batch_parts, _LOT)
    surface = _surface(style, _stream(seed, index, _SURFACE), lot)
    light = _light(style, _stream(seed, index, _LIGHT), lot)
    matrix = pose_matrix(style, shift, angle_deg)
    clean, cover = _expose(style, surface, light, matrix)
    mask = np.zeros(clean.shape, np.bool_)
    kinds: tuple[str, ...] = ()
    if defective:
        pose, bar = np.array(matrix).reshape(2, 3), _warp(style, _scene(style).bar, matrix)
        canvas = Canvas(clean, cover, bar, mask, pose, nominal_roi(style), _slots(style))
        kinds = add_defects(canvas, _stream(seed, index, _DEFECTS), style.kinds)
    noise = _stream(seed, index, _NOISE).standard_normal(clean.shape, np.float32)
    noise *= np.float32(style.noise)
    image = _digitise(clean, noise)
    return RenderedPart(image, mask, kinds, defective, shift, angle_deg, _corners(style, matrix), matrix)


def render_reference(style: Style | None = None) -> RenderedPart:
    """A clean part in its nominal place under nominal light, without texture or noise: template, flat field."""
    style = style or Style()
    matrix = pose_matrix(style, (0.0, 0.0), 0.0)
    clean, _ = _expose(style, _scene(style).base, _lamp(style, 0.0, 0.0, 0.35, 1.0), matrix)
    image = _digitise(clean, np.zeros_like(clean))
    mask = np.zeros(clean.shape, np.bool_)
    return RenderedPart(image, mask, (), False, (0.0, 0.0), 0.0, _corners(style, matrix), matrix)


def pose_matrix(style: Style, shift_px: tuple[float, float], angle_deg: float) -> _Matrix:
    """Row-major 2 x 3 affine, nominal frame pixel -> frame pixel: turned about the piece's centre, then shifted."""
    x, y, width, height = nominal_roi(style)
    centre_x, centre_y = x + (width - 1) / 2, y + (height - 1) / 2
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    move_x = centre_x + shift_px[0] - cos * centre_x + sin * centre_y
    move_y = centre_y + shift_px[1] - sin * centre_x - cos * centre_y
    return cos, -sin, move_x, sin, cos, move_y


def _stream(seed: int, number: int, cause: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, number, cause))))


@functools.lru_cache(maxsize=8)
def _scene(style: Style) -> _Scene:
    """Nominal layers of a style, drawn once."""
    width, height = style.piece
    # The bars divide the visible arc evenly; seen from the front they narrow towards the sides.
    column = (np.arange(width) + 0.5) / width * 2 - 1
    angle = np.arcsin(column * math.sin(_HALF_ARC)) / _HALF_ARC
    place = (angle + 1) / 2 * style.bars
    pitch_px = np.gradient(place) ** -1
    to_edge_px = (0.5 - np.abs(place % 1 - 0.5)) * pitch_px
    slot_px = np.maximum(0.075 * pitch_px, 1.6)
    inner = np.minimum(place, style.bars - place) * pitch_px > slot_px  # the outermost edges are the piece's own
    bar = np.where(inner | (place % 1 > 0.4) & (place % 1 < 0.6), np.clip(to_edge_px - slot_px / 2 + 0.5, 0, 1), 1.0)
    chamfer = np.exp(-(((to_edge_px - slot_px / 2 - 1.6) / 1.1) ** 2))
    copper = _COPPER * (1 + chamfer * np.where(place % 1 < 0.5, 0.22, -0.20))
    row = np.arange(height)[:, None]
    shoulder = row - 0.115 * height
    down = (
        1
        - 0.09 * (shoulder < 0)
        - 0.30 * np.exp(-((shoulder / 1.5) ** 2))
        + 0.14 * np.exp(-(((shoulder - 3) / 1.5) ** 2))
    )
    down = down + 0.12 * np.exp(-((row / 2.0) ** 2)) - 0.16 * np.exp(-(((height - 1 - row) / 2.0) ** 2))
    base = (copper * bar + _SLOT * (1 - bar))[None, :] * (1 + (down - 1) * (0.3 + 0.7 * bar[None, :]))
    outline: FloatMap = np.zeros((height, width), np.float32)
    radius = max(round(0.025 * min(width, height)), 2)
    cv2.rectangle(outline, (radius, 0), (width - 1 - radius, height - 1), 1.0, -1)
    cv2.rectangle(outline, (0, radius), (width - 1, height - 1 - radius), 1.0, -1)
    for corner in ((radius, radius), (width - 1 - radius, radius)):
        cv2.circle(outline, corner, radius, 1.0, -1)
        cv2.circle(outline, (corner[0], height - 1 - corner[1]), radius, 1.0, -1)
    base = np.pad(base, _PAD_PX, mode="edge").astype(np.float32)
    bar_of_column = np.clip(place, 0, style.bars - 1e-6).astype(np.intp)
    piece = np.pad(outline, _PAD_PX)
    bars = np.pad(outline * bar[None, :].astype(np.float32), _PAD_PX)
    return _Scene(base, piece, bars, bar_of_column, _fixture(style))


def _slots(style: Style) -> tuple[float, ...]:
    """Where the slots between the bars run, 0 to 1 across the piece."""
    turns = (_HALF_ARC * (2 * number / style.bars - 1) for number in range(1, style.bars))
    return tuple((math.sin(turn) / math.sin(_HALF_ARC) + 1) / 2 for turn in turns)


def _fixture(style: Style) -> FloatMap:
    """The dark nest behind the part, fixed in the frame: a matt plate and two jaws."""
    width, height = style.frame_px
    rng = _stream(0, 0, _STATION)
    plate = cv2.resize(rng.standard_normal((height // 6 + 1, width // 6 + 1), np.float32), (width, height))
    plate = _FIXTURE + 1.6 * plate + np.linspace(4, -3, height, dtype=np.float32)[:, None]
    x, y, piece_w, piece_h = nominal_roi(style)
    for top, bottom in ((0, y + piece_h // 12), (y + piece_h - piece_h // 12, height)):
        plate[top:bottom, x + piece_w // 3 : x + piece_w - piece_w // 3] += 16.0
    return np.asarray(cv2.GaussianBlur(plate, (0, 0), 1.2), np.float32)


def _surface(style: Style, rng: np.random.Generator, lot: np.random.Generator) -> FloatMap:
    """The piece with its own texture, in grey levels at nominal light; with rim."""
    scene = _scene(style)
    height, width = scene.base.shape
    tone = lot.uniform(0.93, 1.07)
    fine, coarse = lot.uniform(0.024, 0.050), lot.uniform(0.012, 0.026)
    streaks = cv2.resize(rng.standard_normal((max(height // 40, 2), width), np.float32), (width, height))
    short = cv2.resize(rng.standard_normal((max(height // 9, 2), width), np.float32), (width, height))
    broad = cv2.resize(rng.standard_normal((2, max(width // 7, 2)), np.float32), (width, height))
    texture = streaks * np.float32(fine) + short * np.float32(0.6 * fine) + broad * np.float32(coarse)
    texture += cv2.resize(  # faint stains
        rng.standard_normal((5, 5), np.float32) * np.float32(0.016), (width, height), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(int(rng.integers(0, 5))):  # stronger machining lines
        x, top = int(rng.integers(_PAD_PX, width - _PAD_PX - 1)), int(rng.integers(0, height // 2))
        texture[top : top + int(rng.integers(height // 4, height)), x : x + 2] += np.float32(rng.uniform(-0.05, 0.05))
    for _ in range(int(rng.integers(0, 9))):  # dust
        x, y = int(rng.integers(0, width - 2)), int(rng.integers(0, height - 2))
        texture[y : y + 1, x : x + int(rng.integers(1, 3))] -= np.float32(0.09)
    bars = 1 + 0.028 * rng.standard_normal(style.bars).clip(-2, 2)
    columns = np.pad(bars[scene.bar_of_column] * tone, _PAD_PX, mode="edge").astype(np.float32)
    texture += 1
    texture *= columns
    texture *= scene.base
    return np.asarray(texture, np.float32)


def _light(style: Style, rng: np.random.Generator, lot: np.random.Generator) -> FloatMap:
    """This part's illumination over the frame, 1 = nominal."""
    exposure = lot.uniform(0.90, 1.10) * rng.uniform(0.975, 1.025)
    place = lot.uniform(-0.10, 0.10) + rng.uniform(-0.03, 0.03)
    return _lamp(style, place, rng.uniform(-0.05, 0.05), 0.35 + lot.uniform(-0.06, 0.06), exposure)


def _lamp(style: Style, place: float, tilt: float, strength: float, exposure: float) -> FloatMap:
    """The arc lamp's band: drawn at an eighth of the size, since light changes slowly.

    ``place`` and ``tilt`` are in frame widths, ``strength`` is the share of the highlight."""
    width, height = style.frame_px
    columns = np.linspace(-0.5, 0.5, max(width // 8, 8), dtype=np.float32)[None, :]
    rows = np.linspace(-0.5, 0.5, max(height // 8, 8), dtype=np.float32)[:, None]
    across = columns - np.float32(place) - np.float32(tilt) * rows - np.float32(0.10) * rows * rows
    band = np.exp(-((across / np.float32(0.20)) ** 2))
    diffuse = 1 - np.float32(0.9) * columns * columns - np.float32(0.25) * rows * rows
    light = np.float32(exposure) * (diffuse * np.float32(1 - 0.5 * strength) + np.float32(strength) * band)
    return np.asarray(cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _expose(style: Style, surface: FloatMap, light: FloatMap, matrix: _Matrix) -> tuple[FloatMap, FloatMap]:
    """The noise-free frame H x W in grey levels, and how much of each pixel the piece covers, 0 to 1."""
    scene = _scene(style)
    clean, cover = _warp(style, surface, matrix), _warp(style, scene.piece, matrix)
    clean -= scene.fixture
    clean *= cover
    clean += scene.fixture
    clean *= light
    return np.asarray(cv2.GaussianBlur(clean, (3, 3), 0.55, dst=clean), np.float32), cover


def _warp(style: Style, layer: FloatMap, matrix: _Matrix) -> FloatMap:
    """A piece layer with rim, drawn into the frame; 0 around it."""
    a, b, c, d, e, f = matrix
    x, y = nominal_roi(style)[0] - _PAD_PX, nominal_roi(style)[1] - _PAD_PX
    place = np.array([[a, b, c + a * x + b * y], [d, e, f + d * x + e * y]])
    return np.asarray(cv2.warpAffine(layer, place, style.frame_px, flags=cv2.INTER_LINEAR), np.float32)


def _digitise(clean: FloatMap, noise: FloatMap) -> Grey:
    """Shot noise grows with the root of the signal; the read noise is the part that stays in the dark.

    ``noise`` is used up. Rounds to nearest and saturates."""
    spread = clean * np.float32(0.75 / 128)
    spread += np.float32(0.25)
    np.sqrt(spread, out=spread)
    noise *= spread
    return np.asarray(cv2.add(clean, noise, dtype=cv2.CV_8U), np.uint8)


def _corners(style: Style, matrix: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    x, y, width, height = nominal_roi(style)
    left, top, right, bottom = x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5
    a, b, c, d, e, f = matrix
    around = ((left, top), (right, top), (right, bottom), (left, bottom))
    return tuple((a * px + b * py + c, d * px + e * py + f) for px, py in around)
