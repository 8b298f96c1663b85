"""Bundles: written whole, read with proof, refused with a reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import MakeBundle

from inspector.engine.bundle import Bundle, load_bundle, normalise, write_bundle
from inspector.engine.files import write_atomically
from inspector.engine.reference import describe, reference_maps
from inspector.errors import EngineError


def edit(bundle: Bundle, change: dict[str, Any]) -> None:
    """Change one value of manifest.json, by dotted key; no validation."""
    path = bundle.path / "manifest.json"
    raw = json.loads(path.read_text())
    for key, value in change.items():
        *way, last = key.split(".")
        at = raw
        for step in way:
            at = at[step]
        at[last] = value
    path.write_text(json.dumps(raw))


def test_what_was_written_is_read(tiny_bundle: Bundle) -> None:
    """Every attribute of a bundle comes back from its files."""
    again = load_bundle(tiny_bundle.path)
    assert (again.name, again.height, again.width) == ("tiny", 64, 48)
    assert (again.mean, again.std, again.threshold, again.min_area_px) == (0.5, 0.25, 0.5, 4)
    assert (again.input_name, again.output_name, again.classes) == ("image", "map", ("defect",))
    assert again.onnx_path.read_bytes() == networks.tiny()
    assert again.plans == ()
    assert again.manifest["created"] == "2023-11-14T22:13:20Z"
    assert again.manifest["operating_point"]["evidence"] == ["chosen by hand for tests"]
    assert again.manifest["onnx"]["opset"] == 18


def test_the_manifest_is_for_people_too(tiny_bundle: Bundle) -> None:
    """manifest.json is sorted, indented and the same bytes for the same content."""
    text = (tiny_bundle.path / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_reference_maps_are_fp32s(tiny_bundle: Bundle) -> None:
    """golden.npz holds FP32's maps, and the manifest the rounding error of their storage."""
    images, maps = tiny_bundle.golden()
    wanted = reference_maps(networks.tiny(), tiny_bundle.normalise(images))[:, 0]
    error = tiny_bundle.manifest["references"]["storage_error"]
    assert 0.0 < error < 5e-4
    assert np.abs(maps - wanted).max() == pytest.approx(error)


def test_normalisation_is_the_lines(tiny_bundle: Bundle) -> None:
    """The engine's normalisation gives the very bytes of the line's preprocessing."""
    from inspector.preprocess.pixels import normalise as of_the_line

    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for mean, std in ((0.5, 0.25), (187 / 255, 23 / 255)):
        assert np.array_equal(normalise(image[np.newaxis], mean, std), of_the_line(image, mean, std))


class TestRefused:
    """What does not match is refused with exit code 3, the expected, the found and what to do."""

    def fault(self, path: Path) -> str:
        with pytest.raises(EngineError) as caught:
            load_bundle(path)
        assert caught.value.exit_code == 3
        assert caught.value.do
        return str(caught.value)

    def test_no_bundle(self, tmp_path: Path) -> None:
        """A directory that is not there, is empty, or is a file."""
        (tmp_path / "file").write_text("x")
        for name in ("nowhere", ".", "file"):
            assert "no engine bundle" in self.fault(tmp_path / name)

    def test_a_changed_network(self, tiny_bundle: Bundle) -> None:
        """One flipped bit in model.onnx."""
        data = bytearray(tiny_bundle.onnx_path.read_bytes())
        data[len(data) // 2] ^= 1
        tiny_bundle.onnx_path.write_bytes(data)
        assert "model.onnx is not the file that the manifest describes; expected SHA-256" in self.fault(
            tiny_bundle.path
        )

    def test_a_missing_network(self, tiny_bundle: Bundle) -> None:
        """model.onnx gone."""
        tiny_bundle.onnx_path.unlink()
        assert "model.onnx cannot be read" in self.fault(tiny_bundle.path)

    def test_changed_references(self, tiny_bundle: Bundle) -> None:
        """Reference images that are not those of the manifest are seen when they are used."""
        (tiny_bundle.path / "golden.npz").write_bytes(b"PK")
        with pytest.raises(EngineError, match=r"golden\.npz is not the file"):
            load_bundle(tiny_bundle.path).golden()

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", '{"schema_version": 2}', "[" * 100_000])
    def test_a_damaged_manifest(self, tiny_bundle: Bundle, text: str) -> None:
        """Anything but a manifest of this schema."""
        (tiny_bundle.path / "manifest.json").write_bytes(text.encode("latin-1"))
        self.fault(tiny_bundle.path)

    @pytest.mark.parametrize(
        "change",
        [
            {"onnx.file": "../model.onnx"},
            {"onnx.file": "/etc/passwd"},
            {"onnx.file": "plans/../../model.onnx"},
            {"onnx.file": ".hidden"},
            {"onnx.file": "a\\..\\b"},
            {"onnx.file": ""},
            {"references.file": "../golden.npz"},
            {"onnx.sha256": "00"},
            {"input.std": 0},
            {"input.mean": float("nan")},
            {"input.dtype": "uint8"},
            {"input.shape": [1, 3, 64, 48]},
            {"output.shape": [1, 1, 48, 64]},
            {"operating_point.threshold": 1.5},
            {"operating_point.min_area_px": -1},
            {"name": "../up"},
            {"treshold": 0.5},
            {"plans": [{}]},
        ],
        ids=str,
    )
    def test_a_manifest_that_makes_no_sense(self, tiny_bundle: Bundle, change: dict[str, Any]) -> None:
        """Values outside their range, unknown keys, and file names that lead out of the bundle."""
        edit(tiny_bundle, change)
        self.fault(tiny_bundle.path)

    def test_a_link_out_of_the_bundle(self, tiny_bundle: Bundle, tmp_path: Path) -> None:
        """A symbolic link cannot smuggle in a file from outside, even one with the right hash."""
        outside = tmp_path / "outside.onnx"
        outside.write_bytes(tiny_bundle.onnx_path.read_bytes())
        tiny_bundle.onnx_path.unlink()
        tiny_bundle.onnx_path.symlink_to(outside)
        assert "outside the bundle" in self.fault(tiny_bundle.path)


class TestWriting:
    def test_wrong_reference_images(self, tmp_path: Path, make_bundle: MakeBundle) -> None:
        """Images of another size, type or number are refused before anything is written."""
        with pytest.raises(EngineError, match="reference images"):
            make_bundle(networks.tiny(), (48, 64))
        with pytest.raises(EngineError, match="reference images"):
            make_bundle(networks.tiny(), (64, 48), golden=0)
        assert not list(tmp_path.rglob("manifest.json"))

    def test_the_interface_of_the_network(self) -> None:
        """One input, one output, one channel, a fixed size; anything else is refused."""
        assert describe(networks.tiny()).size == (64, 48)
        with pytest.raises(EngineError, match="not a valid ONNX"):
            describe(b"junk")
        s = networks.Sketch(0)
        with pytest.raises(EngineError, match="wrong shape"):
            describe(s.model(s.node("Sigmoid", "image", name="map"), 4, 4, 1))

    def test_maps_that_are_no_probabilities(self, make_bundle: MakeBundle) -> None:
        """A network without its sigmoid, or with NaN, cannot become a bundle."""
        s = networks.Sketch(0)
        logits = s.model(s.conv("image", 1, 1, (3, 3), "only", relu=False), 64, 48, 1)
        with pytest.raises(EngineError, match="not probabilities"):
            make_bundle(logits, (64, 48))

    def test_a_new_export_removes_old_plans(self, tiny_bundle: Bundle, make_bundle: MakeBundle) -> None:
        """Plans belong to one network; a bundle written anew has none."""
        (tiny_bundle.path / "plans" / "old").mkdir(parents=True)
        (tiny_bundle.path / "plans" / "old" / "model.xml").write_text("x")
        fresh = make_bundle(networks.tiny(seed=9), (64, 48), "tiny")
        assert fresh.onnx_sha256 != tiny_bundle.onnx_sha256
        assert not (fresh.path / "plans").exists()

    def test_an_interrupted_export_is_refused(
        self, tiny_bundle: Bundle, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The manifest is written last: an export that dies on the way leaves a bundle that does not load."""
        import inspector.engine.bundle as module

        def die(path: Path, data: bytes) -> None:
            if path.name == "manifest.json":
                raise OSError("killed")
            write_atomically(path, data)

        monkeypatch.setattr(module, "write_atomically", die)
        with pytest.raises(OSError, match="killed"):
            make_bundle(networks.tiny(seed=9), (64, 48), "tiny")
        with pytest.raises(EngineError, match="not the file that the manifest describes"):
            load_bundle(tiny_bundle.path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is replaced whole or not at all, and no temporary file stays."""
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@settings(max_examples=60, deadline=None)
@given(mean=st.floats(0, 1), std=st.floats(0.01, 2), pixels=st.lists(st.integers(0, 255), min_size=16, max_size=16))
def test_normalisation_is_its_formula(mean: float, std: float, pixels: list[int]) -> None:
    """(pixel / 255 - mean) / std for every pixel value, mean and deviation."""
    image = np.array(pixels, np.uint8).reshape(1, 4, 4)
    wanted = (image.astype(np.float64) / 255 - mean) / std
    assert np.allclose(normalise(image, mean, std)[:, 0], wanted, rtol=1e-6, atol=1e-6)


def test_write_bundle_takes_the_time_by_itself(tmp_path: Path) -> None:
    """Without a given time the bundle is dated now."""
    bundle = write_bundle(
        tmp_path / "b",
        name="b",
        onnx_bytes=networks.tiny(),
        mean=0.5,
        std=0.25,
        classes=["defect"],
        threshold=0.5,
        min_area_px=4,
        training={},
        parity={},
        cite=[],
        golden_images=networks.images(1, (64, 48)),
    )
    assert bundle.manifest["created"] > "2024"
