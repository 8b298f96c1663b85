"""Replay: the line's judgement over recorded images, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inspector.camera.render import render_part
from inspector.cli import run
from inspector.config import load
from inspector.errors import ConfigError
from inspector.replay import replay
from tests.station_kit import BUNDLE

KEYS = {
    "images", "pass", "fail", "invalid", "iou", "iou_image", "dice", "dice_set", "pa", "escapes", "escapes_upper95",
    "overkill", "overkill_upper95", "defective", "good",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rendered frames with masks in the plain layout, and one image that cannot be read."""
    root = tmp_path_factory.mktemp("recorded")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for index in range(1, 9):
        part = render_part(31, index)
        cv2.imwrite(str(root / "images" / f"{index}.png"), part.image)
        cv2.imwrite(str(root / "masks" / f"{index}.png"), part.mask.astype(np.uint8) * 255)
    (root / "images" / "9.png").write_bytes((root / "images" / "1.png").read_bytes()[:2000])
    (root / "masks" / "9.png").write_bytes((root / "masks" / "1.png").read_bytes())
    return root


def _settings(**overrides: Any) -> Any:
    return load(None, {}, engine={"bundle": BUNDLE}, **overrides).settings


def test_two_runs_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Same frames, same bytes, timings apart; every frame is inspected."""
    figures = [
        replay(folder, _settings(), results=tmp_path / f"{run}.jsonl", overlays=tmp_path / "overlays") for run in "ab"
    ]
    first, second = ((tmp_path / f"{run}.jsonl").read_bytes() for run in "ab")
    assert first == second
    assert first.count(b"\n") == figures[0]["images"] == 9
    assert set(figures[0]) >= KEYS
    assert figures[0]["invalid"] == 1
    assert figures[0]["escapes"] + figures[0]["overkill"] <= 1
    assert len(list((tmp_path / "overlays").rglob("*.png"))) == 9


def test_throughput_gives_the_same_verdicts(folder: Path, tmp_path: Path) -> None:
    """Many at a time or one: the order and the verdicts are the same."""
    replay(folder, _settings(), results=tmp_path / "one.jsonl")
    replay(folder, _settings(), results=tmp_path / "many.jsonl", throughput=True)
    one, many = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()] for name in ("one", "many")
    )
    assert [(row["image"], row["verdict"], row["reason"]) for row in one] == [
        (row["image"], row["verdict"], row["reason"]) for row in many
    ]


def test_an_unreadable_image_is_invalid_with_the_cause(folder: Path, tmp_path: Path) -> None:
    """It is in the results like any other, with its reason."""
    replay(folder, _settings(), results=tmp_path / "r.jsonl")
    last = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[-1])
    assert (last["verdict"], last["reason"]) == ("INVALID", "BAD_IMAGE")
    assert "9.png" in last["detail"]


def test_without_masks_the_figures_that_need_them_are_null(folder: Path, tmp_path: Path) -> None:
    """Nothing is guessed."""
    found = replay(folder / "images", _settings())
    assert found["iou"] is None and found["escapes"] is None and found["images"] == 9


def test_rules_in_the_configuration_reach_replay(folder: Path) -> None:
    """One code, one rule set: a huge least area passes everything."""
    found = replay(folder, _settings(decision={"limits": {"min_area_map_px": 1e6}}))
    assert found["fail"] == 0


def test_an_empty_folder_is_bad_usage(tmp_path: Path) -> None:
    """Exit 2 and one line."""
    with pytest.raises(ConfigError):
        replay(tmp_path, _settings())


@pytest.mark.parametrize(("name", "masks"), [("kolektor-sdd", True), ("magnetic-tile", True), ("neu-seg", True)])
def test_the_published_layouts_replay_end_to_end(
    shared_data: Path, name: str, masks: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line over real images: figures with every key on the last line."""
    code = run(["replay", str(shared_data / name), "--engine", str(BUNDLE), "--limit", "4", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0
    assert found["images"] == 4 and (found["iou"] is not None) == masks
