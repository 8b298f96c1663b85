"""Configuration: complete, sourced, and every fault told at once."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from inspector.config import Settings, load, restart_needed
from inspector.errors import ConfigError
from inspector.preprocess.calibration import load_calibration

ROOT = Path(__file__).resolve().parent.parent


def test_config_toml_is_valid_and_names_every_key() -> None:
    """The file at the root is the documentation of the configuration."""
    load(ROOT / "config.toml", {})
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    for section, field in Settings.model_fields.items():
        part = text.split(f"\n[{section}]", maxsplit=1)[1].split("\n[", maxsplit=1)[0]
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"\n{key} = " in part or f"\n# {key} = " in part, f"{section}.{key} is missing in config.toml"


def test_config_toml_shows_the_defaults() -> None:
    """Only the calibration of the embedded synthetic station differs from a bare default."""
    table = tomllib.loads((ROOT / "config.toml").read_text(encoding="utf-8"))
    shown, bare = load(ROOT / "config.toml", {}).settings, load(None, {}).settings
    differs = {
        f"{section}.{key}"
        for section in table
        for key in table[section]
        if getattr(getattr(shown, section), key) != getattr(getattr(bare, section), key)
    }
    assert differs == {"part.calibration"}


def test_all_faults_are_told_at_once_with_the_nearest_key(tmp_path: Path) -> None:
    """One run of check-config is enough to mend a file."""
    path = tmp_path / "bad.toml"
    path.write_text('[camera]\nkindd = "x"\nrate_hz = -3\n[lnk]\na = 1\n')
    with pytest.raises(ConfigError) as caught:
        load(path, {"INSPECTOR_TIMING__GATE_MS": "5"})
    text = str(caught.value)
    for word in ("camera.kindd", "camera.kind?", "camera.rate_hz = -3", "[link]?", "gate_ms must be larger"):
        assert word in text
    assert caught.value.exit_code == 2
    assert "\n" not in text


def test_the_environment_overrides_the_file_and_is_named_as_source(tmp_path: Path) -> None:
    """The source of each value is part of the effective configuration."""
    path = tmp_path / "c.toml"
    path.write_text('[camera]\nkind = "folder"\nseed = 4\n')
    loaded = load(path, {"INSPECTOR_CAMERA__KIND": "synthetic", "INSPECTOR_CAMERA__FEATURES": '[["Width", 400]]'})
    rows = {name: (value, source) for name, value, source in loaded.rows()}
    assert rows["camera.kind"] == ('"synthetic"', "INSPECTOR_CAMERA__KIND")
    assert rows["camera.seed"] == ("4", str(path))
    assert rows["camera.loop"] == ("false", "default")
    assert loaded.settings.camera.features == (("Width", 400),)


@pytest.mark.parametrize(
    ("text", "says"), [("[camera", "not valid TOML"), ("kind = 1", "outside a section"), (None, "does not exist")]
)
def test_an_unreadable_file_is_one_line(tmp_path: Path, text: str | None, says: str) -> None:
    """Missing, malformed, misplaced."""
    path = tmp_path / "c.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(path, {})


def test_an_unknown_variable_is_an_error() -> None:
    """A misspelt override must not be ignored silently."""
    with pytest.raises(ConfigError, match="INSPECTOR_CAMERAS__KIND"):
        load(None, {"INSPECTOR_CAMERAS__KIND": "folder"})


def test_the_settings_hash_follows_what_decides() -> None:
    """Rules and timing change it, the log level does not."""
    base = load(None, {}).settings.short_hash()
    assert load(None, {}, log={"level": "debug"}).settings.short_hash() == base
    assert load(None, {}, timing={"gate_ms": 151.0}).settings.short_hash() != base
    assert load(None, {}, decision={"threshold": 0.4}).settings.short_hash() != base


def test_announcements_go_with_one_view() -> None:
    """What does not fit together is refused before the line starts."""
    with pytest.raises(ConfigError, match=r"camera\.views = 1"):
        load(None, {}, link={"announcements": True}, camera={"views": 2})


@pytest.mark.parametrize("rate", ["1e-320", "9e-7", "1e300", "-3"])
def test_a_rate_that_no_schedule_can_keep_is_refused(tmp_path: Path, rate: str) -> None:
    """With the range that is allowed: 1e-320 Hz would overflow the due time of the second frame."""
    path = tmp_path / "config.toml"
    path.write_text(f"[camera]\nrate_hz = {rate}\n")
    with pytest.raises(ConfigError, match=r"camera\.rate_hz = .*0, or 1e-06 to 1e\+09"):
        load(path, {})


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    """A configuration or calibration of more than a MiB, or a device, is told and not read into memory."""
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * ((1 << 20) + 1))
    for read in (lambda path: load(path, {}), load_calibration):
        for path in (large, Path("/dev/zero")):
            with pytest.raises(ConfigError, match="is too large; expected at most 1048576 bytes"):
                read(path)
    large.write_bytes(b"#" * (1 << 20))
    assert load(large, {}).settings.camera.rate_hz == 10.0


def test_what_decides_no_verdict_is_in_no_hash() -> None:
    """A key that keeps cores awake must not take a qualification away; one that moves due times does."""
    plain = load(None, {}).settings
    assert load(None, {}, timing={"wake_us": 0}).settings.short_hash() == plain.short_hash()
    assert load(None, {}, timing={"gate_ms": 400.0}).settings.short_hash() != plain.short_hash()


def test_a_reload_names_what_wants_a_restart() -> None:
    """Rules and the like are taken up; everything else is told by its key."""
    plain = load(None, {}).settings
    rules = load(None, {}, decision={"threshold": 0.3}, engine={"bundle": Path("other")}, log={"parts": False}).settings
    assert restart_needed(plain, rules) == []
    more = load(None, {}, engine={"threads": 1}, link={"priority": 5}, timing={"wake_us": 0}).settings
    assert restart_needed(plain, more) == ["engine.threads", "timing.wake_us", "link.priority"]


def test_a_variable_that_is_no_json_is_told_by_its_name_beside_the_others() -> None:
    """One fault does not hide the next; the value is quoted, and what is expected is said."""
    with pytest.raises(ConfigError) as told:
        load(None, {"INSPECTOR_STORE__SAVE": "FAIL", "INSPECTOR_TIMING__WAKEUS": "1", "INSPECTOR_TIMING__QUEUE": "0"})
    for words in ("INSPECTOR_STORE__SAVE = 'FAIL': expected JSON", "unknown key timing.wakeus", "timing.queue"):
        assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        ({"link": {"announcements": True, "frame_earliest_ms": -140.0}}, "link.frame_earliest_ms"),
        ({"link": {"announcements": True, "frame_latest_ms": 138.0}}, "lie within 138 ms of the announcement"),
        ({"link": {"frame_earliest_ms": 30.0}}, "frame_earliest_ms must be less than frame_latest_ms"),
        ({"camera": {"kind": "genicam", "views": 2}}, "camera.view_gap_ms"),
    ],
)
def test_what_could_inspect_nothing_is_refused(tables: dict[str, dict[str, object]], fault: str) -> None:
    """In one line that names the keys, without the whole table."""
    with pytest.raises(ConfigError, match=fault) as refused:
        load(None, {}, **tables)
    assert len(str(refused.value)) < 400


def test_what_pairs_frames_and_parts_is_in_the_hash() -> None:
    """Only where it is used: other stations keep the hash that they are qualified for."""
    base = load(None, {}).settings.short_hash()
    assert load(None, {}, link={"frame_latest_ms": 20.0}).settings.short_hash() == base
    announced = load(None, {}, link={"announcements": True}).settings.short_hash()
    narrower = load(None, {}, link={"announcements": True, "frame_latest_ms": 20.0}).settings.short_hash()
    assert len({base, announced, narrower}) == 3
