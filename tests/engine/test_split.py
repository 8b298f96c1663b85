"""The training's split: what a plan is calibrated on never proves it."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import networks
import numpy as np
import pytest
from networks import SIZE, MakeBundle

from inspector.cli.proof_images import proof_images
from inspector.clock import SystemClock
from inspector.config import Settings
from inspector.engine.bundle import Bundle, load_bundle, write_bundle
from inspector.engine.split import read_split
from inspector.errors import ConfigError, EngineError
from inspector.recipe import Ingredients, read_ingredients


def split_file(train: list[str], validation: list[str]) -> tuple[bytes, str]:
    """split.json and its hash."""
    told: dict[str, Any] = {"layout": "folder", "protocol": "grouped", "seed": 0, "train": train}
    told["validation"] = validation
    sha256 = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return json.dumps({**told, "sha256": sha256}).encode(), sha256


class TestReading:
    def test_crops_of_an_image_count_as_the_image(self) -> None:
        """Names lose what comes behind #."""
        data, sha256 = split_file(["a.png#0", "a.png#1", "b.png"], ["c.png#frame"])
        split = read_split(data, sha256, "split.json")
        assert (split.train, split.validation) == ({"a.png", "b.png"}, {"c.png"})
        assert split.label == f"grouped, {sha256[:16]}"

    @pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"sha256": "x"}', b'{"sha256": "x", "train": 3}'])
    def test_other_files_are_refused(self, data: bytes) -> None:
        """What is no split is an error, not an empty split."""
        with pytest.raises(EngineError, match="no split file"):
            read_split(data, "", "split.json")

    def test_a_moved_image_is_noticed(self) -> None:
        """An image moved by hand from one side to the other breaks the hash."""
        data, _ = split_file(["a.png", "b.png"], ["c.png"])
        with pytest.raises(EngineError, match="changed by hand"):
            read_split(data.replace(b'"b.png"', b'"d.png"'), "", "split.json")

    def test_another_trainings_split_is_refused(self) -> None:
        """The split must be the one that the bundle's training names."""
        with pytest.raises(EngineError, match="another training"):
            read_split(split_file(["a.png"], ["c.png"])[0], "0" * 64, "split.json")

    def test_an_image_on_both_sides_is_refused(self) -> None:
        """Crops of one image on both sides would leak."""
        with pytest.raises(EngineError, match="both sides"):
            read_split(split_file(["a.png#0"], ["a.png#1"])[0], "", "split.json")

    def test_what_training_writes_is_read(self, tmp_path: Path) -> None:
        """Both rooms agree on the file and on its hash."""
        pytest.importorskip("torch", reason="training is not installed")
        from train.split import Split

        made = Split("folder", "grouped", 0, ("a.png", "b.png"), ("c.png",))
        made.write(tmp_path / "split.json")
        split = read_split((tmp_path / "split.json").read_bytes(), made.sha256, "split.json")
        assert split.validation == {"c.png"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images, the odd ones with a mask that is not empty."""
    root = tmp_path / "parts"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number, image in enumerate(networks.images(8, SIZE)):
        cv2.imwrite(str(root / "images" / f"{number}.png"), image)
        mask = np.zeros(SIZE, np.uint8)
        mask[8:20, 8:20] = 255 * (number % 2)
        cv2.imwrite(str(root / "masks" / f"{number}.png"), mask)
    return root


def names(*numbers: int) -> list[str]:
    return [f"images/{n}.png" for n in numbers]


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    """A bundle that carries its split: 0 to 4 trained on, 5 and 6 validated on, 7 on neither side."""
    plain = make_bundle(networks.lsa_like(3, SIZE), SIZE)
    data, sha256 = split_file(names(0, 1, 2, 3, 4), names(5, 6))
    return write_bundle(
        plain.path,
        name=plain.name,
        onnx_bytes=plain.onnx_path.read_bytes(),
        mean=plain.mean,
        std=plain.std,
        classes=["defect"],
        threshold=0.5,
        min_area_px=4,
        training={"split_sha256": sha256},
        parity={},
        cite=[],
        golden_images=plain.golden()[0],
        split=data,
    )


def ingredients_of(bundle: Bundle) -> Ingredients:
    return read_ingredients(Settings.model_validate({"engine": {"bundle": bundle.path}}), SystemClock())


def asked(folder: Path, split: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(images=folder, layout="folder", limit=None, split=split)


class TestProofImages:
    def test_the_bundle_knows_its_sides(self, bundle: Bundle, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The training side calibrates, the validation side proves, the rest is left out and told."""
        proof, calibration = proof_images(asked(folder), ingredients_of(bundle))
        assert calibration is not None
        assert proof.names == tuple(names(5, 6))
        assert sorted(calibration.names) == names(0, 1, 2, 3, 4)
        assert "validation side (grouped" in proof.source
        assert "training side (grouped" in calibration.source
        assert "1 images are left out" in capsys.readouterr().err
        assert proof.masks is not None
        assert [bool(mask.any()) for mask in proof.masks] == [True, False]

    def test_without_a_split_there_is_one_set(self, make_bundle: MakeBundle, folder: Path) -> None:
        """Then the builder divides the proof's own images."""
        plain = make_bundle(networks.lsa_like(3, SIZE), SIZE)
        proof, calibration = proof_images(asked(folder), ingredients_of(plain))
        assert calibration is None
        assert len(proof.names) == 8

    def test_a_split_file_can_be_named(self, make_bundle: MakeBundle, folder: Path, tmp_path: Path) -> None:
        """For bundles that were exported without."""
        plain = make_bundle(networks.lsa_like(3, SIZE), SIZE)
        (tmp_path / "split.json").write_bytes(split_file(names(0, 1), names(2))[0])
        proof, calibration = proof_images(asked(folder, tmp_path / "split.json"), ingredients_of(plain))
        assert calibration is not None
        assert (proof.names, sorted(calibration.names)) == (tuple(names(2)), names(0, 1))

    def test_images_of_another_set_are_refused(self, bundle: Bundle, tmp_path: Path) -> None:
        """A bundle with a split is not proven on images whose side nobody knows."""
        (tmp_path / "others").mkdir()
        cv2.imwrite(str(tmp_path / "others" / "x.png"), networks.images(1, SIZE)[0])
        with pytest.raises(ConfigError, match="trained and validated on"):
            proof_images(asked(tmp_path / "others"), ingredients_of(bundle))

    def test_a_damaged_split_is_refused(self, bundle: Bundle, folder: Path) -> None:
        """The manifest's hash guards the split as it guards the network."""
        path = bundle.path / "split.json"
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(EngineError, match="not the file that the manifest describes"):
            proof_images(asked(folder), ingredients_of(load_bundle(bundle.path)))
