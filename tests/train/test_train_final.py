"""A last training over all images: what the bundle may claim afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from train_helpers import small

from train.bundle import make_bundle
from train.fit import fit
from train.split import read_split


def test_figures_of_a_bundle_trained_on_over_all_images(plain_set: Path, tmp_path: Path) -> None:
    """A last training over all images validates nothing; the bundle has its weights, but figures, point and split of
    the training before it, and says so. A checkpoint that began elsewhere is refused."""
    fit(small(epochs=1), plain_set, tmp_path / "first")
    judged, last = tmp_path / "first/best.pt", tmp_path / "all/last.pt"
    progress = fit(small(epochs=1, validation_share=0.0), plain_set, tmp_path / "all", init=judged)
    assert read_split(tmp_path / "all/split.json").validation == ()
    assert len(read_split(tmp_path / "all/split.json").train) == 24
    assert "iou" not in progress.history[-1]
    assert not (tmp_path / "all/best.pt").exists()
    made = make_bundle(last, tmp_path / "engine", plain_set, judged=judged)
    manifest = made.bundle.manifest
    assert manifest["training"]["split_sha256"] == read_split(tmp_path / "first/split.json").sha256
    assert manifest["training"]["validation"]["at_0.5"]["images"] == len(
        read_split(tmp_path / "first/split.json").validation
    )
    assert manifest["training"]["config"]["validation_share"] == 0
    assert any("nothing here measures the shipped weights" in line for line in manifest["operating_point"]["evidence"])
    fit(small(epochs=1, seed=5), plain_set, tmp_path / "other")
    with pytest.raises(ValueError, match="did not begin with"):
        make_bundle(last, tmp_path / "engine", plain_set, judged=tmp_path / "other/best.pt")
