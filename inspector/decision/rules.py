"""What a station forbids: limits, a review band and zones. Frozen, checked when read, and nothing else."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.errors import ConfigError, quoted, shortened
from inspector.frame import BoolMap

_ZONES_MAX = 200  # a zone map is uint8
_FAULTS_TOLD = 50


MINIMUMS = (
    *("min_area_px", "min_area_map_px", "min_area_mm2", "min_length_px", "min_length_mm", "min_width_px"),
    *("min_width_mm", "min_score_mean", "min_score_max"),
)
"""What a blob must reach to count, in the order in which the judge holds its measures."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A blob counts as a defect when it reaches every ``min_*``; the part fails when what counts breaks a ``max_*``.

    ``_px`` is frame pixels, ``_map_px`` pixels of the map the engine returned,
    ``_mm`` needs a calibrated scale. Length is the largest, width the smallest calliper over the blob.
    """

    min_area_px: float = 0.0
    min_area_map_px: float = 0.0
    min_area_mm2: float = 0.0
    min_length_px: float = 0.0
    min_length_mm: float = 0.0
    min_width_px: float = 0.0
    min_width_mm: float = 0.0
    min_score_mean: float = 0.0
    min_score_max: float = 0.0
    max_count: int = 0
    """Defects that are allowed."""
    max_area_px: float = math.inf
    """Of any one defect, even where the count would allow it."""
    max_area_mm2: float = math.inf
    max_length_px: float = math.inf
    max_length_mm: float = math.inf
    max_total_area_px: float = math.inf
    """Of all blobs together, those too small to count included: dust adds up."""
    max_total_area_mm2: float = math.inf
    min_distance_px: float = 0.0
    """Allowed defects must be at least so far apart, between nearest pixel centres."""
    min_distance_mm: float = 0.0
    least: tuple[tuple[int, float], ...] = field(init=False, repr=False, compare=False, default=())
    """The minimums of a blob that are set: (place in MINIMUMS, value). Worked out once, read for every part."""
    least_told: str = field(init=False, repr=False, compare=False, default="")
    """The same in words, as a broken rule names them."""

    def __post_init__(self) -> None:
        found = ((place, getattr(self, name)) for place, name in enumerate(MINIMUMS))
        least = tuple((place, value) for place, value in found if value > 0.0)
        told = ", ".join(f"{MINIMUMS[place]} {value:g}" for place, value in least)
        object.__setattr__(self, "least", least)
        object.__setattr__(self, "least_told", f" at {told}" if told else "")

    @property
    def needs_scale(self) -> tuple[str, ...]:
        """The limits in millimetres that are set."""
        return tuple(name for name in LIMIT_NAMES if "_mm" in name and getattr(self, name) != getattr(NO_LIMITS, name))


NO_LIMITS = Limits()
LIMIT_NAMES = tuple(each.name for each in fields(Limits) if each.init)


def _stricter_or_equal(name: str, value: float, than: float) -> bool:
    lower_is_stricter = not name.startswith("min_distance")
    return value <= than if lower_is_stricter else value >= than


@dataclass(frozen=True, slots=True)
class Zone:
    """A named part of the map with its own limits, or none at all."""

    name: str
    polygon: tuple[tuple[float, float], ...]
    """Corners (x, y) in map pixels, pixel centres at whole numbers; even-odd rule."""
    ignore: bool = False
    limits: Limits = NO_LIMITS
    review: Limits | None = None

    @staticmethod
    def rectangle(x: float, y: float, width: float, height: float) -> tuple[tuple[float, float], ...]:
        """The polygon that covers pixels x .. x + width - 1 and y .. y + height - 1."""
        left, top, right, bottom = x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5
        return ((left, top), (right, top), (right, bottom), (left, bottom))


@dataclass(frozen=True, slots=True, eq=False)
class ZoneMap:
    """The zones of some rules on maps of one size."""

    owner: NDArray[np.uint8]
    """H x W: 0 outside all zones, else 1 + index of the zone."""
    inspected: BoolMap | None
    """H x W: False in ignored zones. None where nothing is ignored."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that turns a map into a verdict."""

    threshold: float
    """A map pixel is defective where its probability is at least this."""
    limits: Limits = NO_LIMITS
    review: Limits | None = None
    """Stricter limits: a part that breaks only these is FAIL with the review flag."""
    zones: tuple[Zone, ...] = ()
    """Where they overlap, the first one holds; outside all, ``limits`` hold."""
    threshold32: np.float32 = field(init=False, repr=False, compare=False)
    """Rounded up, so that the mask is the same whether compared in float32 or float64."""
    of_extent: bool = field(init=False, repr=False, compare=False)
    """Whether any limit speaks of length, width or distance, so that every blob has to be measured."""
    in_mm: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The limits in millimetres that are set."""
    regions: tuple[tuple[int, str, Limits, Limits | None], ...] = field(init=False, repr=False, compare=False)
    """What is judged: number in the zone map, name, limits, review band. First outside all zones; ignored ones not."""
    _maps: dict[tuple[int, int], ZoneMap] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        nearest = np.float32(self.threshold)
        rounded = nearest if float(nearest) >= self.threshold else np.nextafter(nearest, np.float32(np.inf))
        every = self.every_limits()
        set_names = {name for each in every for name in LIMIT_NAMES if getattr(each, name) != getattr(NO_LIMITS, name)}
        of_extent = any(word in name for name in set_names for word in ("length", "width", "distance"))
        object.__setattr__(self, "threshold32", rounded)
        object.__setattr__(self, "of_extent", of_extent)
        zones = ((i, each.name, each.limits, each.review) for i, each in enumerate(self.zones, 1) if not each.ignore)
        object.__setattr__(self, "regions", ((0, "", self.limits, self.review), *zones))
        object.__setattr__(self, "in_mm", tuple(sorted({name for each in every for name in each.needs_scale})))

    @staticmethod
    def parse(table: Mapping[str, Any]) -> Rules:
        """``{threshold, <limit>: number ..., review: {<limit>: number}, zones: [{name, polygon | rectangle, ignore,
        limits, review}]}`` -> Rules. A zone's limits replace the station's one by one.

        Raises ConfigError with every fault at once: key, value, what is allowed.
        """
        faults: list[str] = []
        rest = {key: value for key, value in table.items() if key not in {"threshold", "review", "zones"}}
        threshold = table.get("threshold")
        if not isinstance(threshold, (int, float)) or not _is_number(threshold) or not 0.0 <= threshold <= 1.0:
            faults.append(f"threshold = {quoted(threshold)} (allowed: a number from 0 to 1)")
            threshold = 1.0
        limits = _limits(rest, NO_LIMITS, "", faults, others=("threshold", "review", "zones"))
        review_table = _mapping(table.get("review", {}), "review", faults)
        review = _review(review_table, limits, "review.", faults)
        zones: list[Zone] = []
        for index, entry in enumerate(_list(table.get("zones", ()), "zones", faults)):
            zone = _zone(_mapping(entry, f"zones[{index}]", faults), limits, review_table, f"zones[{index}].", faults)
            if zone.name in {each.name for each in zones}:
                faults.append(f"zones[{index}].name = {quoted(zone.name)} (allowed: a name of its own)")
            zones.append(zone)
        if len(zones) > _ZONES_MAX:
            faults.append(f"zones: {len(zones)} (allowed: up to {_ZONES_MAX})")
        if faults:
            raise ConfigError("decision rules cannot be used: " + "; ".join(map(shortened, faults[:_FAULTS_TOLD])))
        return Rules(float(threshold), limits, review, tuple(zones))

    def check(self, height: int, width: int, mm_per_px: float | None) -> None:
        """Raise ConfigError where these rules cannot be kept on such a map: call once before the line starts.

        A zone that covers no pixel, nothing left to inspect, or a limit in millimetres without a scale.
        """
        self.zone_map(height, width)
        self.require_scale(mm_per_px)

    def require_scale(self, mm_per_px: float | None) -> None:
        """Raise ConfigError where a limit is in millimetres and no scale is known: it would silently never hold."""
        if self.in_mm and mm_per_px is None:
            raise ConfigError(
                f"limit in millimetres without a scale: {', '.join(self.in_mm)}",
                expected="a calibrated mm_per_px",
                found="none",
                do="Run `inspector calibrate scale`, or give the limit in pixels.",
            )

    def zone_map(self, height: int, width: int) -> ZoneMap | None:
        """Which zone each pixel belongs to; None without zones. Computed once for each size.

        Raises ConfigError for a zone without a pixel and where nothing is left to inspect: such a map always passes.
        """
        if not self.zones:
            return None
        found = self._maps.get((height, width))
        if found is None:
            found = self._maps[height, width] = _zone_map(self.zones, height, width)
        return found

    def every_limits(self) -> list[Limits]:
        """All limits that anything is judged by."""
        every = [self.limits, self.review, *(each for zone in self.zones for each in (zone.limits, zone.review))]
        return [limits for limits in every if limits is not None]


def _zone_map(zones: tuple[Zone, ...], height: int, width: int) -> ZoneMap:
    owner = np.zeros((height, width), np.uint8)
    for index, zone in reversed(list(enumerate(zones))):
        inside = _inside(zone.polygon, height, width)
        if not inside.any():
            raise ConfigError(
                f"zone {zone.name!r} covers no pixel",
                expected=f"corners within the map, {width} x {height} px",
                found=str([list(corner) for corner in zone.polygon]),
            )
        owner[inside] = index + 1
    inspected = np.array([True, *(not zone.ignore for zone in zones)])[owner]
    if not inspected.any():
        raise ConfigError("the ignored zones cover the whole map", expected="something to inspect", found="nothing")
    owner.setflags(write=False)
    return ZoneMap(owner, None if inspected.all() else inspected)


def _inside(polygon: tuple[tuple[float, float], ...], height: int, width: int) -> NDArray[np.bool_]:
    """Even-odd rule at pixel centres, for all pixels at once."""
    x, y = np.arange(width, dtype=np.float64)[None, :], np.arange(height, dtype=np.float64)[:, None]
    inside = np.zeros((height, width), np.bool_)
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def _limits(
    table: Mapping[str, Any], base: Limits, where: str, faults: list[str], others: Sequence[str] = ()
) -> Limits:
    changes: dict[str, Any] = {}
    for key, value in table.items():
        if key not in LIMIT_NAMES:
            near = difflib.get_close_matches(str(key), [*LIMIT_NAMES, *others], 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join([*others, *LIMIT_NAMES])}"
            faults.append(f"{where}{key} is unknown ({hint})")
            continue
        allowed = _allowed(key, value)
        if allowed:
            faults.append(f"{where}{key} = {quoted(value)} (allowed: {allowed})")
        else:
            changes[key] = int(value) if key == "max_count" else float(value)
    return replace(base, **changes)


def _allowed(name: str, value: object) -> str:
    """What is allowed where ``value`` is not; empty where it is."""
    if name == "max_count":
        fits = isinstance(value, (int, float)) and _is_number(value) and value >= 0 and float(value).is_integer()
        return "" if fits else "a whole number from 0 up"
    top = 1.0 if "_score_" in name else math.inf
    fits = isinstance(value, (int, float)) and _is_number(value) and 0.0 <= value <= top
    return "" if fits else ("a number from 0 to 1" if top == 1.0 else "a number from 0 up")


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _review(table: Mapping[str, Any], limits: Limits, where: str, faults: list[str]) -> Limits | None:
    if not table:
        return None
    review = _limits(table, limits, where, faults)
    for key in table:
        if key in LIMIT_NAMES and not _stricter_or_equal(key, getattr(review, key), getattr(limits, key)):
            side = "at least" if key.startswith("min_distance") else "at most"
            faults.append(f"{where}{key} = {quoted(table[key])} (allowed: {side} the limit {getattr(limits, key):g})")
    return review


def _zone(
    table: Mapping[str, Any], base: Limits, base_review: Mapping[str, Any], where: str, faults: list[str]
) -> Zone:
    known = {"name", "polygon", "rectangle", "ignore", "limits", "review"}
    faults.extend(f"{where}{key} is unknown (allowed: {', '.join(sorted(known))})" for key in table if key not in known)
    name = table.get("name")
    if not isinstance(name, str) or not name or not name.isprintable():
        faults.append(f"{where}name = {quoted(name)} (allowed: a text)")
        name = "?"
    ignore = table.get("ignore", False)
    if not isinstance(ignore, bool):
        faults.append(f"{where}ignore = {quoted(ignore)} (allowed: true or false)")
    own = _mapping(table.get("limits", {}), where + "limits", faults)
    limits = _limits(own, base, where + "limits.", faults)
    # A limit that the zone sets itself does not inherit the station's review band for it.
    inherited = {key: value for key, value in base_review.items() if key not in own}
    band = {**inherited, **_mapping(table.get("review", {}), where + "review", faults)}
    review = _review(band, limits, where + "review.", faults)
    return Zone(name, _polygon(table, where, faults), bool(ignore), limits, review)


def _polygon(table: Mapping[str, Any], where: str, faults: list[str]) -> tuple[tuple[float, float], ...]:
    polygon, rectangle = table.get("polygon") or (), table.get("rectangle")
    if bool(polygon) == (rectangle is not None):
        faults.append(f"{where[:-1]} needs either polygon or rectangle")
        return ()
    if rectangle is not None:
        if _numbers(rectangle, 4) and rectangle[2] > 0 and rectangle[3] > 0:
            x, y, width, height = (float(each) for each in rectangle)
            return Zone.rectangle(x, y, width, height)
        faults.append(f"{where}rectangle = {quoted(rectangle)} (allowed: x, y, width > 0, height > 0)")
        return ()
    if not isinstance(polygon, (list, tuple)) or len(polygon) < 3 or not all(_numbers(each, 2) for each in polygon):
        faults.append(f"{where}polygon = {quoted(polygon)} (allowed: three or more corners [x, y])")
        return ()
    return tuple((float(x), float(y)) for x, y in polygon)


def _numbers(value: object, count: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == count and all(_is_number(each) for each in value)


def _mapping(value: object, where: str, faults: list[str]) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    faults.append(f"{where} = {quoted(value)} (allowed: a table)")
    return {}


def _list(value: object, where: str, faults: list[str]) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return value
    faults.append(f"{where} = {quoted(value)} (allowed: a list of tables)")
    return ()
