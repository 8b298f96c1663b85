"""config.toml and the environment -> frozen Settings, with the source of each value.

All faults are told at once: the key, the value, what is allowed; an unknown key with the nearest right one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from inspector import native
from inspector.errors import ConfigError, quoted, shortened
from inspector.sections import (
    AlarmSettings,
    CameraSettings,
    DecisionSettings,
    EngineSettings,
    HealthSettings,
    LedgerSettings,
    LinkSettings,
    LogSettings,
    PageSettings,
    PartSettings,
    ReviewSettings,
    ShadowSettings,
    StationSettings,
    StoreSettings,
    TimingSettings,
)
from inspector.smallfile import read_small

ENV_PREFIX = "INSPECTOR_"
_MAX_BYTES = 1 << 20
FAULTS_TOLD = 50


class Settings(BaseSettings):
    """The effective configuration. Frozen; nobody keeps the raw file."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    station: StationSettings = StationSettings()
    camera: CameraSettings = CameraSettings()
    part: PartSettings = PartSettings()
    engine: EngineSettings = EngineSettings()
    timing: TimingSettings = TimingSettings()
    decision: DecisionSettings = DecisionSettings()
    alarm: AlarmSettings = AlarmSettings()
    link: LinkSettings = LinkSettings()
    ledger: LedgerSettings = LedgerSettings()
    store: StoreSettings = StoreSettings()
    review: ReviewSettings = ReviewSettings()
    shadow: ShadowSettings = ShadowSettings()
    page: PageSettings = PageSettings()
    health: HealthSettings = HealthSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _one_view_where_announced(self) -> Settings:
        if self.link.announcements and self.camera.views > 1:
            raise ValueError("link.announcements goes with camera.views = 1: an announcement names one frame")
        return self

    @model_validator(mode="after")
    def _frames_come_before_the_gate(self) -> Settings:
        left_ms = self.timing.gate_ms - self.timing.slack_ms - self.timing.commit_margin_ms
        if self.link.announcements and max(-self.link.frame_earliest_ms, self.link.frame_latest_ms) >= left_ms:
            raise ValueError(
                f"link.frame_earliest_ms and link.frame_latest_ms lie within {left_ms:g} ms of the announcement: "
                "timing.gate_ms - slack_ms - commit_margin_ms"
            )
        return self

    @model_validator(mode="after")
    def _views_are_told_apart(self) -> Settings:
        if self.camera.kind == "genicam" and self.camera.views > 1 and not self.camera.view_gap_ms:
            raise ValueError(
                "camera.views > 1 with a real camera needs camera.view_gap_ms: ids alone cannot tell whose a view is"
            )
        return self

    @model_validator(mode="after")
    def _rows_outlive_images(self) -> Settings:
        if 0 < self.ledger.keep_days < self.store.keep_days:
            raise ValueError("ledger.keep_days is 0 or at least store.keep_days: an image without its row is an orphan")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Only what load() hands in: file and environment are merged there, so that each value's source is known.
        return (init_settings,)

    def rules_hash_source(self, operating_point: Mapping[str, float] | None = None) -> str:
        """Canonical text of what decides verdicts: rules, timing, views, camera features, and the bundle's operating
        point where the rules leave something to it."""
        chosen: dict[str, Any] = {
            "decision": self.decision.model_dump(mode="json"),
            "timing": self.timing.model_dump(mode="json", exclude={"wake_us"}),  # it decides no verdict
            "views": self.camera.views,
            "features": self.camera.model_dump(mode="json")["features"],
        }
        if self.camera.view_gap_ms:
            chosen["view_gap_ms"] = self.camera.view_gap_ms
        if self.link.announcements:
            chosen["frame_span_ms"] = [self.link.frame_earliest_ms, self.link.frame_latest_ms]
        if operating_point is not None:
            chosen["operating_point"] = dict(operating_point)
        return json.dumps(chosen, sort_keys=True, separators=(",", ":"))

    def short_hash(self, operating_point: Mapping[str, float] | None = None) -> str:
        """First 8 bytes of SHA-256 over ``rules_hash_source``, in hex."""
        return hashlib.sha256(self.rules_hash_source(operating_point).encode()).hexdigest()[:16]


_RELOADED = {"decision", "part", "shadow", "page", "review"}
_RELOADED_KEYS = {"engine.bundle", "log.parts"}
"""What a running daemon takes up anew; the page and the reviews are other processes'."""


def restart_needed(present: Settings, wanted: Settings) -> list[str]:
    """Keys that differ and that a reload cannot change: a hash must not tell of settings that are not in effect."""
    return [
        f"{section}.{key}"
        for section, table in present
        if section not in _RELOADED
        for key, value in table
        if value != getattr(getattr(wanted, section), key) and f"{section}.{key}" not in _RELOADED_KEYS
    ]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and where each value came from: ``default``, the file's path, or the variable's name."""

    settings: Settings
    sources: dict[str, str]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(key, value, source) of every key, in the order of the sections."""
        for section, table in self.settings.model_dump(mode="json").items():
            for key, value in table.items():
                name = f"{section}.{key}"
                yield name, json.dumps(value), self.sources.get(name, "default")


def load(path: Path | None, environment: Mapping[str, str] | None = None, **overrides: Any) -> Loaded:
    """Read the file (none = defaults only), let the environment override, then ``overrides`` (section={key: value}).

    Raises ConfigError listing every fault: unreadable or malformed file, unknown key, value not allowed.
    """
    environment = os.environ if environment is None else environment
    merged: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    faults: list[str] = []
    layers = [(str(path), _read_toml(path)) if path is not None else ("", {})]
    layers.append(("environment", _read_environment(environment, faults)))
    layers.append(("command line", overrides))
    for origin, tables in layers:
        for section, table in tables.items():
            if not isinstance(table, Mapping):
                faults.append(
                    f"{shortened(section)} = {quoted(table)}: a key outside a section{_nearest_section(section)}"
                )
                continue
            for key, value in table.items():
                merged.setdefault(section, {})[key] = value
                name = f"{ENV_PREFIX}{section}__{key}".upper() if origin == "environment" else origin
                sources[f"{section}.{key}"] = name
    settings = None
    try:
        settings = Settings(**merged)  # type: ignore[arg-type]
    except ValidationError as error:
        faults += [_fault(dict(one), sources) for one in error.errors()]
    if settings is None or faults:
        where = str(path) if path is not None else "the configuration"
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        told = "; ".join(faults[:FAULTS_TOLD]) + (
            f"; and {len(faults) - FAULTS_TOLD} more" * (len(faults) > FAULTS_TOLD)
        )
        raise ConfigError(f"{where} has {count}: {told}", do="config.toml of the distribution shows every key")
    return Loaded(settings, sources)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_small(path, _MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", do="Give a file with --config, or copy config.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except ValueError as error:  # of the TOML, or of an integer with thousands of digits
        raise ConfigError(f"{path} is not valid TOML: {shortened(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid TOML: nested too deeply") from None


def _read_environment(environment: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    ours = {
        name: value
        for name, value in environment.items()
        if name.upper().startswith(ENV_PREFIX) and name != native.VARIABLE
    }
    for name in ours:
        section, _, key = name[len(ENV_PREFIX) :].lower().partition("__")
        if section not in Settings.model_fields or not key:
            faults.append(f"{name}: no such variable (INSPECTOR_<section>__<key>){_nearest_section(section)}")
    source = EnvSettingsSource(Settings, env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    def read(some: Mapping[str, str]) -> dict[str, Any]:
        source.env_vars = {name.lower(): value for name, value in some.items()}
        return source()

    try:
        found = read(ours)
    except ValueError:  # it does not say which
        bad = {name for name, value in ours.items() if not _can_be_read(read, name, value)}
        faults.extend(f'{name} = {quoted(ours[name])}: expected JSON, such as ["FAIL"]' for name in sorted(bad))
        found = read({name: value for name, value in ours.items() if name not in bad})
    return {section: table for section, table in found.items() if isinstance(table, dict)}


def _can_be_read(read: Callable[[Mapping[str, str]], object], name: str, value: str) -> bool:
    try:
        read({name: value})
    except ValueError:
        return False
    return True


def _fault(error: dict[str, Any], sources: Mapping[str, str]) -> str:
    path = [shortened(str(piece)) for piece in error["loc"]]
    name = ".".join(path)
    origin = sources.get(".".join(path[:2]), "")
    came = f" (from {origin})" if origin.startswith(ENV_PREFIX) else ""
    if error["type"] == "extra_forbidden":
        return f"unknown key {name}{came}{_nearest_key(path)}"
    why = shortened(error["msg"].removeprefix("Value error, "))
    if isinstance(error["input"], Mapping) and error["type"] == "value_error":
        return why  # about several keys, which it names
    return f"{name} = {quoted(error['input'])}{came}: {why}"


def _nearest_key(path: list[str]) -> str:
    if len(path) == 1:
        return _nearest_section(path[0])
    section = Settings.model_fields.get(path[0])
    model = section.annotation if section is not None else None
    keys = list(getattr(model, "model_fields", {}))
    near = difflib.get_close_matches(path[1], keys, n=1, cutoff=0.4)
    if near:
        return f", did you mean {path[0]}.{near[0]}?"
    return f", known are {', '.join(keys)}"


def _nearest_section(name: str) -> str:
    near = difflib.get_close_matches(name, list(Settings.model_fields), n=1, cutoff=0.4)
    return f", did you mean [{near[0]}]?" if near else f", known are {', '.join(Settings.model_fields)}"
