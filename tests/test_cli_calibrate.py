"""Calibration from the command line, and large parts in tiles through the line's own judgement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inspector.calibrate.scale import Target
from inspector.camera.render import Style, render_part
from inspector.cli import run
from inspector.clock import SystemClock
from inspector.config import load
from inspector.examine import examine
from inspector.frame import Frame, Verdict
from inspector.preprocess import load_calibration
from inspector.recipe import engine_opener, open_proven, read_ingredients
from tests.station_kit import BUNDLE


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of good parts."""
    folder = tmp_path_factory.mktemp("good")
    for index in range(1, 7):
        cv2.imwrite(str(folder / f"{index}.png"), render_part(8, index, defective=False).image)
    return folder


def _json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_roi_finds_the_piece_and_the_file_loads(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The calibration it writes is the one that run reads, with the overlay beside it."""
    assert run(["calibrate", "roi", str(good), "--name", "cell-7", "--out", str(tmp_path), "--json"]) == 0
    found = _json(capsys)
    calibration = load_calibration(Path(found["calibration"]))
    assert calibration.hash == found["hash"] and Path(found["overlay"]).exists()
    assert found["roi"][2:] == [280, 280]


def test_roi_from_the_camera(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--camera takes its frames from the configured camera."""
    config = tmp_path / "config.toml"
    config.write_text("[camera]\nrate_hz = 0\nseed = 8\n")
    arguments = ["--camera", "--count", "3", "--config", str(config), "--max-shift-px", "40"]
    assert run(["calibrate", "roi", *arguments, "--out", str(tmp_path), "--json"]) == 0
    assert _json(capsys)["roi"][2:] == [280, 280]


def test_flat_field_and_scale_enter_the_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are kept in the file, and its hash changes with them."""
    path = tmp_path / "station.toml"
    board = np.full((400, 400), 235, np.uint8)
    for row in range(7):
        for column in range(9):
            if (row + column) % 2:
                board[40 + 36 * row : 76 + 36 * row, 30 + 36 * column : 66 + 36 * column] = 25
    cv2.imwrite(str(tmp_path / "board.png"), board)
    size = ["--columns", "8", "--rows", "6", "--pitch-mm", "1.8"]
    target: Target = "checkerboard"
    command = ["calibrate", "scale", str(tmp_path / "board.png"), "--calibration", str(path), "--target", target]
    assert run([*command, *size, "--json"]) == 0
    measured = _json(capsys)
    assert measured["mm_per_px"] == pytest.approx(0.05, rel=1e-3)
    before = load_calibration(path).hash
    light = tmp_path / "light"
    light.mkdir()
    slope = np.tile(np.linspace(110, 200, 400), (400, 1))
    for number in range(4):
        noise = np.random.default_rng(number).normal(0, 2, slope.shape)
        cv2.imwrite(str(light / f"{number}.png"), np.clip(slope + noise, 0, 255).astype(np.uint8))
    assert run(["calibrate", "flat-field", str(light), "--calibration", str(path), "--json"]) == 0
    after = load_calibration(path)
    assert after.hash != before and after.gain is not None and after.file.scale is not None


def test_threshold_promises_or_says_how_many_parts_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve defective parts cannot support one in a hundred; they can support four in ten."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    style = Style()
    for index in range(1, 17):
        part = render_part(77, index, style=style, defective=index <= 12)
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), part.image)
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), part.mask.astype(np.uint8) * 255)
    command = ["calibrate", "threshold", "--data", str(tmp_path), "--engine", str(BUNDLE), "--json"]
    assert run([*command, "--max-escape", "0.01"]) == 1
    refused = _json(capsys)
    assert refused["promised"] is False and refused["needs"] >= 287
    curve = tmp_path / "curve.svg"
    assert run([*command, "--max-escape", "0.4", "--curve", str(curve)]) == 0
    assert _json(capsys)["promised"] is True
    assert curve.read_text().startswith("<svg")


def test_a_large_part_is_inspected_in_tiles(tmp_path: Path) -> None:
    """A defect of a few pixels, lost when 1024 x 640 shrink to 256 x 256, is found at the frame's own scale."""
    calibration = tmp_path / "tiles.toml"
    calibration.write_text(
        "format = 1\nname = 'tiles'\ncreated = 2026-01-01T00:00:00Z\n"
        "[frame]\nwidth_px = 1024\nheight_px = 640\n[roi]\nx = 0\ny = 0\nw = 1024\nh = 640\n"
        "[tiles]\nenabled = true\noverlap_px = 32\n"
    )
    tables: dict[str, Any] = {"engine": {"bundle": BUNDLE}, "part": {"calibration": calibration}}
    settings = load(None, {}, **tables).settings
    ingredients = read_ingredients(settings, SystemClock())
    opened = open_proven(ingredients.bundle, engine_opener(settings))
    try:
        recipe = ingredients.recipe(opened.engine)
        piece = render_part(5, 3, defective=False, style=Style(shift_px=0, angle_deg=0)).image[75:325, 75:325]
        frame = np.tile(piece, (3, 5))[:640, :1024].copy()
        clean, _, _ = examine(Frame(1, frame, 0), recipe, SystemClock())
        cv2.circle(frame, (700, 410), 7, 8, -1)
        found, evidence, _ = examine(Frame(2, frame, 0), recipe, SystemClock())
    finally:
        opened.engine.close()
    assert evidence.mask is not None and evidence.mask.shape == (640, 1024)
    assert found.verdict is Verdict.FAIL
    assert any(abs(one.x_px - 700) < 12 and abs(one.y_px - 410) < 12 for one in found.defects)
    assert not any(abs(one.x_px - 700) < 12 and abs(one.y_px - 410) < 12 for one in clean.defects)
