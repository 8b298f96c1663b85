"""From settings to what parts are decided with: bundle, calibration, rules, engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inspector.clock import Clock
from inspector.config import Settings
from inspector.decision import Rules
from inspector.engine import Engine
from inspector.engine.bundle import Bundle, load_bundle
from inspector.engine.choose import Opened, open_engine, self_test, warm_up
from inspector.fittings import Recipe
from inspector.frame import Hashes
from inspector.preprocess import Calibration, Preprocess, load_calibration
from inspector.qualification import RecipeCard

OpenEngine = Callable[[Bundle], Opened]


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What was read and checked before anything was started."""

    bundle: Bundle
    calibration: Calibration
    preprocess: Preprocess
    rules: Rules
    settings_source: str
    """What ``settings_hash`` is the hash of: rules, timing, camera features, and what the bundle adds to the rules."""
    promised: float | None = None

    @property
    def settings_hash(self) -> str:
        """First 8 bytes of SHA-256 over ``settings_source``, in hex."""
        return hashlib.sha256(self.settings_source.encode()).hexdigest()[:16]

    @property
    def station_hashes(self) -> tuple[str, str]:
        """Calibration and settings: what any engine decides with on this station."""
        return self.calibration.hash[:16], self.settings_hash

    def recipe(self, engine: Engine) -> Recipe:
        """The recipe with this engine; its hashes stand in every answer."""
        hashes = Hashes(engine.info.plan_hash[:16], *self.station_hashes)
        return Recipe(engine, self.preprocess, self.rules, hashes, self.promised)

    def card(self, recipe: Recipe) -> RecipeCard:
        """A recipe made of these, in words for change control."""
        engine = recipe.engine.info
        return RecipeCard(
            recipe.hashes,
            engine=f"{engine.bundle} {engine.backend} {engine.precision}",
            calibration=self.calibration.file.name,
            settings=json.loads(self.settings_source),
        )


def read_ingredients(settings: Settings, clock: Clock) -> Ingredients:
    """Load and check bundle, calibration and rules. Raises EngineError or ConfigError."""
    bundle = load_bundle(settings.engine.bundle)
    calibration = load_calibration(settings.part.calibration)
    calibration.check_expiry(clock.wall_ns())
    preprocess = Preprocess(calibration, height=bundle.height, width=bundle.width, mean=bundle.mean, std=bundle.std)
    rules = read_rules(settings, bundle)
    roi, scale = calibration.file.roi, calibration.file.scale
    tiled = preprocess.tiled and roi is not None
    height, width = (roi.h, roi.w) if tiled and roi is not None else (bundle.height, bundle.width)
    rules.check(height, width, scale.mm_per_px if scale is not None else None)
    return Ingredients(bundle, calibration, preprocess, rules, _source(settings, bundle), _promised(settings, bundle))


def _source(settings: Settings, bundle: Bundle) -> str:
    """An operating point that changes in the bundle changes verdicts, so it must change the answers' hash too."""
    chosen = settings.decision
    if chosen.threshold is not None and chosen.limits:
        return settings.rules_hash_source()
    return settings.rules_hash_source({"threshold": bundle.threshold, "min_area_px": float(bundle.min_area_px)})


def _promised(settings: Settings, bundle: Bundle) -> float | None:
    """The configuration's, else the bundle's; rules of the station's own leave the bundle's promise behind."""
    if settings.review.max_escape > 0.0:
        return settings.review.max_escape
    made = bundle.manifest["operating_point"].get("promise")
    kept = settings.decision.threshold is None and not settings.decision.limits
    return float(made["max_escape"]) if made is not None and kept else None


def read_rules(settings: Settings, bundle: Bundle) -> Rules:
    """The station's rules; what the configuration leaves open comes from the bundle's operating point."""
    chosen = settings.decision
    table: dict[str, Any] = {"threshold": chosen.threshold or bundle.threshold}
    table |= chosen.limits or {"min_area_map_px": float(bundle.min_area_px)}
    table["review"] = dict(chosen.review)
    table["zones"] = [zone.model_dump(mode="python", exclude_defaults=True) for zone in chosen.zones]
    return Rules.parse(_without_empty(table))


def engine_opener(settings: Settings, *, throughput: bool = False) -> OpenEngine:
    """How the settings want the engine opened; tests and the drill hand in another."""
    wanted = settings.engine

    def opener(bundle: Bundle) -> Opened:
        return open_engine(
            bundle,
            backend=wanted.backend,
            precision=wanted.precision,
            threads=wanted.threads,
            pinning=wanted.pinning,
            cache_dir=settings.station.state_dir / "cache",
            throughput=throughput,
        )

    return opener


def open_proven(bundle: Bundle, opener: OpenEngine) -> Opened:
    """Open, warm up and check against the reference images. Raises EngineError; nothing unproven comes back."""
    opened = opener(bundle)
    try:
        warm_up(opened.engine)
        self_test(opened.engine, bundle)
    except BaseException:
        opened.engine.close()
        raise
    return opened


def _without_empty(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value not in ({}, [], ())}
