"""The calibration of one station: what ``calibration/<station>.toml`` may say, how it is read, written and hashed.

The TOML names its pictures and arrays by file name beside it, each with its SHA-256. The hash of a calibration is
taken over the canonical form of the values and of those files, so a changed comment keeps it and a changed pixel
does not. It stands in every answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from inspector.errors import ConfigError, quoted, shortened
from inspector.frame import FloatMap, Grey
from inspector.smallfile import read_small

FORMAT = 1
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Size = Annotated[int, Field(ge=1, le=1_000_000)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Numbers = Annotated[tuple[float, ...], Strict(False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FrameSize(_Section):
    """The camera's full frame at calibration, in pixels; another size means other pixels, hence an error."""

    width_px: Size
    height_px: Size


class Roi(_Section):
    """Where the nominal part lies in the full frame, in whole pixels."""

    x: Count
    y: Count
    w: Size
    h: Size

    @property
    def centre_px(self) -> tuple[float, float]:
        """Pixel coordinates of the middle; the part's rotation is counted about it."""
        return self.x + (self.w - 1) / 2, self.y + (self.h - 1) / 2


class Locate(_Section):
    """How the part is found in each frame."""

    enabled: bool = False
    template: FileName | None = None
    """Grey PNG of the reference part: the ROI grown by ``border_px`` on each side."""
    sha256: Sha256 | None = None
    border_px: Count = 0
    max_shift_px: float = Field(default=20.0, gt=0, le=500)
    max_angle_deg: float = Field(default=3.0, gt=0, le=15)
    min_score: float = Field(default=0.7, gt=0, lt=1)
    """Least normalised correlation with the template, for the part and each of its sides, at the place found."""

    @model_validator(mode="after")
    def _whole(self) -> Locate:
        if self.enabled and (self.template is None or self.sha256 is None):
            raise ValueError("locate.enabled needs template and sha256")
        return self


class FlatFieldFile(_Section):
    """The shading reference: a gain per full-frame pixel, float16, in an NPZ under ``gain``."""

    file: FileName
    sha256: Sha256
    created: AwareDatetime
    expires: AwareDatetime
    frames: Size = 1
    unevenness_before: float = Field(default=0.0, ge=0)
    """Spread of the reference (99th less 1st percentile over the mean) in the ROI; after = corrected by itself."""
    unevenness_after: float = Field(default=0.0, ge=0)


class Scale(_Section):
    """Millimetres per pixel, from a printed target."""

    mm_per_px: float = Field(gt=0)
    residual_px: float = Field(ge=0)
    """RMS distance between the target's points as found and as fitted."""
    residual_mm: float = Field(ge=0)
    created: AwareDatetime | None = None


class Lens(_Section):
    """Brown-Conrady model of OpenCV; present only where the distortion is significant."""

    matrix: Numbers = Field(min_length=9, max_length=9)
    distortion: Numbers = Field(min_length=4, max_length=8)
    largest_px: float = Field(ge=0)
    """How far the model moves the pixel it moves most."""


class TileRule(_Section):
    """Large ROIs are cut into tiles of the engine's input size instead of being shrunk."""

    enabled: bool = False
    overlap_px: Count = 32


class Checks(_Section):
    """When a frame is too poor to be judged at all."""

    min_contrast: float = Field(default=1.0, ge=0)
    """Standard deviation of 8 x 8 block means, in grey levels; noise averages out, a part does not."""
    max_saturated: float = Field(default=0.2, gt=0, le=1)
    """Share of pixels at 255."""


class CalibrationFile(_Section):
    """What the TOML says; see the sections."""

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    name: str = Field(min_length=1)
    created: AwareDatetime
    margin_px: Count = 0
    """The part's play around the ROI; acquisition copies ROI + margin."""
    frame: FrameSize | None = None
    roi: Roi | None = None
    """None: the whole frame, of any size."""
    locate: Locate = Locate()
    flat_field: FlatFieldFile | None = None
    scale: Scale | None = None
    lens: Lens | None = None
    tiles: TileRule = TileRule()
    checks: Checks = Checks()

    @model_validator(mode="after")
    def _consistent(self) -> CalibrationFile:
        if self.roi is not None:
            if self.frame is None:
                raise ValueError("roi needs the section [frame] with the size of the frame it was drawn on")
            if self.roi.x + self.roi.w > self.frame.width_px or self.roi.y + self.roi.h > self.frame.height_px:
                raise ValueError(
                    f"roi {self.roi.w} x {self.roi.h} at ({self.roi.x}, {self.roi.y}) is outside the frame of "
                    f"{self.frame.width_px} x {self.frame.height_px}"
                )
        if self.locate.enabled:
            if self.roi is None:
                raise ValueError("locate.enabled needs a roi")
            least = reach_px(self.roi.w, self.roi.h, self.locate.max_shift_px, self.locate.max_angle_deg)
            if self.margin_px < least:
                raise ValueError(f"margin_px {self.margin_px} is less than the play that locate allows: {least}")
        if self.lens is not None and self.frame is None:
            raise ValueError("lens needs the section [frame]")
        return self


def reach_px(width: int, height: int, max_shift_px: float, max_angle_deg: float) -> int:
    """How far a corner of the part can leave its nominal place, in whole pixels, rounded up."""
    half_diagonal = math.hypot(width, height) / 2
    return math.ceil(max_shift_px + 2 * half_diagonal * math.sin(math.radians(max_angle_deg) / 2))


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A calibration as loaded: the values, the arrays they name, and the hash over both."""

    file: CalibrationFile
    hash: str
    """SHA-256 in hex."""
    template: Grey | None = None
    """(roi.h + 2 border) x (roi.w + 2 border) uint8."""
    gain: FloatMap | None = None
    """Full-frame H x W float32."""
    path: Path | None = None

    def check_expiry(self, wall_ns: int) -> None:
        """Raises ConfigError when the flat field is past its date; ``wall_ns`` is UTC since 1970."""
        flat = self.file.flat_field
        now = datetime.fromtimestamp(wall_ns / 1e9, tz=UTC)
        if flat is not None and now >= flat.expires:
            raise ConfigError(
                f"flat field {flat.file} of calibration {self.file.name!r} has expired",
                expected=f"a date before {flat.expires.isoformat()}",
                found=now.isoformat(timespec="seconds"),
                do="Run `inspector calibrate flat-field`",
            )


_MAX_BYTES = 1 << 20
_MAX_BESIDE_BYTES = 1 << 30  # a flat field of 200 Mpx
WHOLE_FRAME = CalibrationFile(name="whole frame", created=datetime(2000, 1, 1, tzinfo=UTC))


def load_calibration(path: Path | None) -> Calibration:
    """Read and check a calibration; None = the whole frame is the ROI and nothing is located.

    Raises ConfigError (exit 2) naming every faulty key, its value and what is allowed, and for a file beside it that
    is missing, unreadable, of the wrong size or not the one that was hashed.
    """
    if path is None:
        return Calibration(WHOLE_FRAME, _digest(WHOLE_FRAME))
    try:
        raw = tomllib.loads(read_small(path, _MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"calibration {path} cannot be read", found=error.strerror or str(error), do="Run `inspector calibrate roi`"
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, an integer with thousands of digits
        raise ConfigError(f"calibration {path} is not TOML", found=shortened(str(error))) from error
    file = parse_calibration(raw, source=str(path))
    template = _load_template(path.parent, file)
    gain = _load_gain(path.parent, file)
    return Calibration(file, _digest(file), template, gain, path)


def parse_calibration(raw: dict[str, Any], *, source: str) -> CalibrationFile:
    """Check the values of a calibration. Raises ConfigError with every fault: key, value, what is allowed."""
    try:
        return CalibrationFile.model_validate(raw)
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False):
            key = ".".join(str(part) for part in fault["loc"]) or "file"
            value = "" if isinstance(fault["input"], dict) else f" = {quoted(fault['input'])}"
            faults.append(f"{shortened(key)}{value}: {fault['msg'].removeprefix('Value error, ')}")
        more = f"; and {len(faults) - 50} more" if len(faults) > 50 else ""
        raise ConfigError(f"calibration {source}: " + "; ".join(faults[:50]) + more) from error


def _digest(file: CalibrationFile) -> str:
    # The hashes of the files beside it are values of the file, and were checked against the bytes.
    canonical = json.dumps(file.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_beside(folder: Path, name: str, sha256: str) -> bytes:
    try:
        data = read_small(folder / name, _MAX_BESIDE_BYTES)
    except OSError as error:
        raise ConfigError(
            f"calibration file {folder / name} cannot be read", found=error.strerror or str(error)
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ConfigError(
            f"calibration file {folder / name} is not the one that was calibrated",
            expected=f"SHA-256 {sha256[:16]}",
            found=found[:16],
            do="Calibrate again, or restore the file",
        )
    return data


def _load_template(folder: Path, file: CalibrationFile) -> Grey | None:
    if not file.locate.enabled or file.roi is None or file.locate.template is None or file.locate.sha256 is None:
        return None
    data = _read_beside(folder, file.locate.template, file.locate.sha256)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    border = file.locate.border_px
    shape = (file.roi.h + 2 * border, file.roi.w + 2 * border)
    if image is None or image.dtype != np.uint8 or image.shape != shape:
        found = "nothing readable" if image is None else f"{image.dtype} of shape {image.shape}"
        raise ConfigError(
            f"template {file.locate.template}", expected=f"a grey 8-bit PNG of shape {shape}", found=found
        )
    template: Grey = np.ascontiguousarray(image)
    template.setflags(write=False)
    return template


def _load_gain(folder: Path, file: CalibrationFile) -> FloatMap | None:
    if file.flat_field is None:
        return None
    flat = file.flat_field
    _read_beside(folder, flat.file, flat.sha256)
    try:
        with np.load(folder / flat.file, allow_pickle=False) as arrays:
            stored = arrays["gain"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ConfigError(f"flat field {flat.file} cannot be read", found=str(error)) from error
    gain: FloatMap = np.ascontiguousarray(stored, np.float32)
    expected = (file.frame.height_px, file.frame.width_px) if file.frame is not None else gain.shape
    if gain.ndim != 2 or gain.shape != expected or not (np.isfinite(gain).all() and (gain > 0).all()):
        raise ConfigError(
            f"flat field {flat.file}", expected=f"finite positive gains of shape {expected}", found=f"{gain.shape}"
        )
    gain.setflags(write=False)
    return gain


def write_calibration(path: Path, file: CalibrationFile) -> None:
    """Write ``file`` as TOML, replacing ``path`` in one step."""
    dumped = file.model_dump(mode="python", exclude_none=True)
    lines = ["# Written by `inspector calibrate`. Files are named beside this one; their hashes are checked at start."]
    lines += [f"{key} = {_toml(value)}" for key, value in dumped.items() if not isinstance(value, dict)]
    for section, values in dumped.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".toml.part")
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draft.replace(path)


def update_calibration(path: Path, **sections: object) -> None:
    """Replace sections of an existing calibration, checked like a new one. Raises ConfigError."""
    values = load_calibration(path).file.model_dump() | sections
    write_calibration(path, parse_calibration(values, source=str(path)))


def write_beside(folder: Path, name: str, data: bytes) -> str:
    """Write a file a calibration refers to, in one step; returns its SHA-256 in hex."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / (name + ".part")
    draft.write_bytes(data)
    draft.replace(folder / name)
    return hashlib.sha256(data).hexdigest()


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (int, float)):
        return repr(value)
    raise TypeError(f"no TOML form for {type(value).__name__}")
