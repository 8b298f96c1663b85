"""What parts were decided with is kept by its hash, and proven when it is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspector.archive.recipes import (
    CALIBRATION_FILE,
    calibration_folder,
    keep_recipe,
    parse_rules,
    read_kept_calibration,
    rules_name,
)
from inspector.config import load
from inspector.errors import ConfigError
from inspector.preprocess import load_calibration
from tests.station_kit import ROOT

CALIBRATION = ROOT / "calibration" / "synthetic.toml"


def test_each_recipe_is_kept_once_and_read_back_whole(tmp_path: Path) -> None:
    """A reload with other rules adds a file; the calibration comes back with its template and its hash."""
    calibration = load_calibration(CALIBRATION)
    kept = []
    for threshold in (0.4, 0.6, 0.4):
        settings = load(None, {}, decision={"threshold": threshold}).settings
        keep_recipe(tmp_path, settings.rules_hash_source(), calibration)
        kept.append(tmp_path / rules_name(settings.short_hash()))
        rules = parse_rules(kept[-1].read_bytes(), settings.short_hash(), "here")
        assert rules["decision"]["threshold"] == threshold
    assert len(list((tmp_path / "recipes" / "rules").iterdir())) == 2
    short = calibration.hash[:16]
    found = read_kept_calibration(tmp_path / calibration_folder(short), short)
    assert found.file == calibration.file and found.hash == calibration.hash
    assert found.template is not None and calibration.template is not None
    assert (found.template == calibration.template).all()


def test_the_whole_frame_is_a_calibration_too(tmp_path: Path) -> None:
    """A station without a calibration file keeps the one that says so."""
    calibration = load_calibration(None)
    keep_recipe(tmp_path, load(None, {}).settings.rules_hash_source(), calibration)
    short = calibration.hash[:16]
    assert read_kept_calibration(tmp_path / calibration_folder(short), short).file == calibration.file


def test_a_changed_recipe_is_refused(tmp_path: Path) -> None:
    """Rules and calibrations that are not what their name says decide nothing."""
    calibration = load_calibration(CALIBRATION)
    settings = load(None, {}).settings
    keep_recipe(tmp_path, settings.rules_hash_source(), calibration)
    rules = tmp_path / rules_name(settings.short_hash())
    with pytest.raises(ConfigError, match="not the ones they are kept as"):
        parse_rules(rules.read_bytes().replace(b"150.0", b"151.0"), settings.short_hash(), "here")
    folder = tmp_path / calibration_folder(calibration.hash[:16])
    path = folder / CALIBRATION_FILE
    path.write_text(path.read_text().replace("min_score = 0.8", "min_score = 0.1"))
    with pytest.raises(ConfigError, match="not the one it is kept as"):
        read_kept_calibration(folder, calibration.hash[:16])
