"""Export, operating point, evaluation and bundles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from train_helpers import small

from inspector.engine.bundle import load_bundle
from inspector.layouts import GOOD
from train.__main__ import main
from train.bundle import make_bundle
from train.config import recipe
from train.data import Item
from train.evaluate import evaluate, figures_at
from train.export import PARITY_LIMIT, export_checked, fold_batch_norm, half_weights, parity, run_onnx, to_onnx
from train.fit import fit
from train.model import LSANet, ModelConfig
from train.operating import AREAS_PX, THRESHOLDS, choose, largest_area_px
from train.predict import Predictor
from train.report import worst


def lively(width: int = 4) -> LSANet:
    """A network with BN statistics as after training, so that folding has something to do."""
    torch.manual_seed(0)
    model = LSANet(ModelConfig(width))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def exported() -> tuple[LSANet, bytes]:
    """A lively network and its ONNX file at 64 x 64."""
    model = lively()
    return model, to_onnx(model, 64, 64)


def test_export_agrees_with_torch(exported: tuple[LSANet, bytes]) -> None:
    """The FP32 file differs from torch by less than 1e-4 in every probability."""
    model, data = exported
    images = np.random.default_rng(0).normal(size=(3, 1, 64, 64)).astype(np.float32)
    found = parity(model, data, images)
    assert found.max_abs_diff < PARITY_LIMIT
    assert found.images == 3


def test_one_by_one_convolutions_stand_where_maps_are_small(exported: tuple[LSANet, bytes]) -> None:
    """LAM mixes strips and not the full map; SPPM mixes before it upsamples."""
    graph = onnx.load_model_from_string(exported[1]).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][2:] for v in graph.value_info}
    kernels = {w.name: list(w.dims)[2:] for w in graph.initializer}
    mixing = [shapes[n.input[0]] for n in graph.node if n.op_type == "Conv" and kernels[n.input[1]] == [1, 1]]
    assert sorted(mixing) == [[1, 1], [1, 64], [2, 2], [4, 4], [64, 1], [64, 64]]  # the last one: the output


def test_parity_check_can_fail(exported: tuple[LSANet, bytes]) -> None:
    """A network that changed after its export is seen."""
    data, other = exported[1], lively()
    with torch.no_grad():
        other.out.bias.add_(0.1)  # type: ignore[union-attr]
    images = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)
    assert parity(other, data, images).max_abs_diff > PARITY_LIMIT


def test_exported_graph_is_plain(exported: tuple[LSANet, bytes]) -> None:
    """Opset 18, one input and output by name, no BN, no ReduceMean, sigmoid last, no paths of the building machine."""
    model = onnx.load_model_from_string(exported[1])
    kinds = [node.op_type for node in model.graph.node]
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["probability"]
    assert next(e.version for e in model.opset_import if e.domain == "") == 18
    assert kinds[-1] == "Sigmoid"
    assert not {"BatchNormalization", "ReduceMean", "Shape"} & set(kinds)
    assert b"site-packages" not in exported[1]
    assert b"train/model.py" not in exported[1]


def test_folding_changes_nothing_but_the_layers() -> None:
    """Folded and unfolded networks agree; the folded one has no BN left; the original is untouched."""
    model = lively()
    folded = fold_batch_norm(model)
    x = torch.randn(1, 1, 64, 64)
    assert torch.allclose(model(x).logits, folded(x).logits, atol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_free_batch_gives_the_same_maps(exported: tuple[LSANet, bytes]) -> None:
    """The file with a free batch size equals the fixed one, image by image and in a batch."""
    import onnxruntime

    data = to_onnx(exported[0], 64, 64, dynamic_batch=True)
    images = np.random.default_rng(1).normal(size=(3, 1, 64, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    together = session.run(None, {"image": images})[0]
    assert np.allclose(together, run_onnx(exported[1], images), atol=1e-5)


def test_half_weights_halve_the_file(exported: tuple[LSANet, bytes]) -> None:
    """FP16 storage nearly halves the file and stays within FP16 rounding; parity decides whether it is taken."""
    model, data = exported
    half = half_weights(data)
    assert len(half) < 0.6 * len(data)
    images = np.random.default_rng(2).normal(size=(1, 1, 64, 64)).astype(np.float32)
    rounding = parity(model, half, images).max_abs_diff
    assert 0 < rounding < 0.05
    kept, facts = export_checked(model, [images], 0.5)
    assert facts["max_abs_diff"] < PARITY_LIMIT
    assert facts["stored_weights"] == ("float16" if rounding < PARITY_LIMIT else "float32")
    assert len(kept) == (len(half) if rounding < PARITY_LIMIT else len(data))


def blob_map(area_px: int, score: float = 0.9) -> np.ndarray:
    """32 x 32 zeros with one run of ``area_px`` pixels."""
    out = np.zeros(1024, np.float32)
    out[:area_px] = score
    return out.reshape(32, 32)


def test_largest_area_counts_the_largest_defect() -> None:
    """Two separate defects do not add up; diagonal neighbours are one; the threshold is inclusive."""
    probability = np.zeros((16, 16), np.float32)
    probability[0, :5] = 0.7
    probability[10:13, 10:13] = 0.7
    probability[9, 9] = 0.7
    assert largest_area_px(probability, 0.7) == 10
    assert largest_area_px(probability, 0.71) == 0


def test_operating_point_separates() -> None:
    """Sound parts with specks of 6 px and defects of 40 px are told apart by area, without an error."""
    maps = np.stack([blob_map(6) if n % 2 else blob_map(40) for n in range(20)])
    point = choose(maps, [n % 2 == 0 for n in range(20)])
    assert (point.escapes, point.overkill) == (0, 0)
    assert 6 < point.min_area_px <= 40
    assert point.min_area_px in AREAS_PX
    assert point.threshold in THRESHOLDS
    assert "0 of 10" in point.evidence("somewhere")[1]


def test_operating_point_without_good_parts() -> None:
    """Where there is nothing to weigh the point is 0.5 and one pixel."""
    point = choose(np.stack([blob_map(6)]), [True])
    assert (point.threshold, point.min_area_px) == (0.5, 1)


def hand_made() -> tuple[list[Item], np.ndarray]:
    """An escape, an overkill, a good hit and a sound part."""
    true = (blob_map(40) > 0).astype(np.uint8)
    nothing = np.zeros((32, 32), np.uint8)
    grey = np.full((32, 32), 90, np.uint8)
    items = [
        Item("escape", grey, true, "1", "crack", True),
        Item("overkill", grey, nothing, "2", GOOD, False),
        Item("hit", grey, true, "3", "crack", True),
        Item("sound", grey, nothing, "4", GOOD, False),
    ]
    return items, np.stack([blob_map(0), blob_map(12), blob_map(20), blob_map(0)])


def test_figures_by_hand() -> None:
    """IoU over the set, Dice over images, escapes, overkill and class recall on four images counted by hand."""
    items, maps = hand_made()
    predictor = Predictor("p", 32, 0.5, 0.25, 0.5, 1, {}, None, None)
    result = evaluate(predictor, items, maps, "by hand")
    pixels = result.at_half.pixels
    assert pixels is not None
    assert pixels.iou == pytest.approx(20 / (40 + 12 + 40))
    assert pixels.dice == pytest.approx((40 / 60) / 4)
    assert (result.at_half.escapes, result.at_half.overkill) == (1, 1)
    assert result.recall == {"crack": (1, 2)}
    assert figures_at(items, maps, 0.5, 13).overkill == 0
    assert [items[n].name for n, _ in worst(result, items, maps)] == ["escape", "overkill", "hit"]
    told = result.to_json()
    assert told["escape_rate"]["low95"] < 0.5 < told["escape_rate"]["high95"]
    json.dumps(told, allow_nan=False)


def test_from_training_to_bundle(plain_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fit, export and evaluate through the command line: the bundle loads, carries its evidence, and judges alike."""
    run = tmp_path / "run"
    fit(small(epochs=2), plain_set, run)
    made = make_bundle(run / "best.pt", tmp_path / "engine", plain_set)
    bundle = load_bundle(tmp_path / "engine")
    manifest = bundle.manifest
    assert manifest["parity"]["max_abs_diff"] < PARITY_LIMIT
    assert manifest["training"]["split_sha256"] == json.loads((run / "split.json").read_text())["sha256"]
    assert any("LSA-Net" in line for line in manifest["operating_point"]["evidence"])
    assert made.evaluation["threshold"] == bundle.threshold
    images, maps = bundle.golden()
    assert np.allclose(run_onnx(bundle.onnx_path.read_bytes(), bundle.normalise(images))[:, 0], maps, atol=2e-3)

    command = ["evaluate", "--data", str(plain_set), "--layout", "folder", "--side", "validation", "--json"]
    report = tmp_path / "report.html"
    capsys.readouterr()
    assert main([*command, "--engine", str(run / "best.pt"), "--choose", "--report", str(report)]) == 0
    by_torch = json.loads(capsys.readouterr().out)
    split = str(run / "split.json")
    assert main([*command, "--engine", str(tmp_path / "engine"), "--split", split]) == 0
    by_onnx = json.loads(capsys.readouterr().out)
    assert by_torch["at_0.5"]["iou"] == pytest.approx(by_onnx["at_0.5"]["iou"], abs=1e-3)
    assert by_torch["threshold"] == by_onnx["threshold"]
    assert "data:image/png;base64" in report.read_text()


def test_usage_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder or a missing split is told in one line, with an exit code."""
    missing = ["--data", str(tmp_path / "no"), "--layout", "folder"]
    assert main(["fit", *missing, "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("error: no image folder")


def test_summary_command(capsys: pytest.CaptureFixture[str]) -> None:
    """summary prints the pinned size of the paper-width network."""
    assert main(["summary"]) == 0
    assert "21,612,802" in capsys.readouterr().out
    assert recipe("paper", "folder").model.width == 32
