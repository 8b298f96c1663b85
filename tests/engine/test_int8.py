"""INT8: two artefacts from one calibration, and none that TensorRT would misread."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inspector.engine.int8 import (
    LADDER,
    Calibration,
    Recipe,
    check_symmetric,
    make_signed,
    quantise_onnx,
    quantise_openvino,
)
from inspector.engine.reference import reference_maps
from inspector.errors import EngineError

SIZE = (64, 64)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    pixels = networks.images(12, SIZE, seed=2).astype(np.float32)
    tensors = ((pixels / 255 - 0.5) / 0.25)[:, np.newaxis].astype(np.float32)
    return Calibration(tensors, reference_maps(networks.lsa_like(), tensors)[:, 0], 0.5)


def pairs(kind: str, zero: int, scale: float = 0.1) -> bytes:
    """A network of one Q/DQ pair."""
    types = {"uint8": np.uint8, "int8": np.int8}
    weights = [
        numpy_helper.from_array(np.float32(scale), "scale"),
        numpy_helper.from_array(np.array(zero, types[kind]), "zero"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8]) for name in ("x", "y")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="restore"),
    ]
    graph = helper.make_graph(nodes, "pair", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class TestSymmetric:
    def test_signed_pairs_without_zero_point_pass(self) -> None:
        """INT8 with zero point 0 is what TensorRT computes."""
        assert check_symmetric(pairs("int8", 0)) == 1

    @pytest.mark.parametrize(
        ("kind", "zero", "word"), [("uint8", 0, "UINT8"), ("uint8", 128, "UINT8"), ("int8", 3, "3")]
    )
    def test_all_others_are_refused(self, kind: str, zero: int, word: str) -> None:
        """Unsigned or shifted quantisers are refused by name."""
        with pytest.raises(EngineError, match=rf"quantise.*{word}"):
            check_symmetric(pairs(kind, zero))

    def test_a_network_without_quantisers_is_refused(self) -> None:
        """FP32 under the name of INT8 is no INT8 plan."""
        with pytest.raises(EngineError, match="found none"):
            check_symmetric(networks.tiny())

    def test_unsigned_pairs_become_signed_over_the_same_range(self) -> None:
        """Rewritten, a pair covers 0..255 scales as before with half the steps; naively relabelled it would clip."""
        model = onnx.load_model_from_string(pairs("uint8", 0))
        assert make_signed(model) == 1
        data = model.SerializeToString()
        assert check_symmetric(data) == 1
        import onnxruntime

        x = np.linspace(0.0, 25.5, 64, dtype=np.float32).reshape(1, 1, 8, 8)
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": x})[0]
        step = 0.1 * 255 / 127
        assert np.abs(found - x).max() <= step / 2 + 1e-5
        naive = np.clip(np.round(x / 0.1), -128, 127) * 0.1
        assert np.abs(naive - x).max() > 10


class TestQuantising:
    def test_the_tensorrt_artefact_is_signed_and_keeps_the_islands(self, calibration: Calibration) -> None:
        """Every quantiser is symmetric INT8, and none stands in or before an FP32 island."""
        data, kept = quantise_onnx(networks.lsa_like(), calibration, Recipe("mixed"))
        assert check_symmetric(data) >= 4
        assert kept == ["lam.rows", "lam.cols", "lam.outer", "lam.out", "map"]
        model = onnx.load_model_from_string(data)
        makers = {out: node for node in model.graph.node for out in node.output}
        for node in model.graph.node:
            if node.name in kept:
                assert not any(makers[name].op_type == "DequantizeLinear" for name in node.input if name in makers)

    def test_the_tensorrt_artefact_computes_the_network(self, calibration: Calibration) -> None:
        """Signed INT8 stays near FP32 on the mean."""
        data, _ = quantise_onnx(networks.lsa_like(), calibration, Recipe("minmax", ranges="minmax", keep="first"))
        found = reference_maps(data, calibration.tensors)[:, 0]
        assert np.abs(found - calibration.maps).mean() < 0.01

    @pytest.mark.parametrize("recipe", LADDER[:-1], ids=lambda recipe: recipe.name)
    def test_every_recipe_works(self, calibration: Calibration, recipe: Recipe, tmp_path: Path) -> None:
        """Each step of the ladder gives an OpenVINO model that computes the network."""
        import openvino

        (tmp_path / "m.onnx").write_bytes(networks.lsa_like())
        kept = quantise_openvino(tmp_path / "m.onnx", calibration, recipe, tmp_path / "q.xml")
        assert {"none": 0, "first": 1, "outer": 5}[recipe.keep] + min(recipe.worst, 5) == len(kept)
        compiled = openvino.Core().compile_model(
            str(tmp_path / "q.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        )
        found = np.concatenate([compiled(tensor[np.newaxis])[0][0] for tensor in calibration.tensors])
        assert 0.0 < np.abs(found - calibration.maps).mean() < 0.03

    @pytest.mark.slow
    def test_layers_can_be_chosen_by_mask_overlap(self, calibration: Calibration, tmp_path: Path) -> None:
        """The last recipe reverts layers until the masks overlap."""
        import openvino

        (tmp_path / "m.onnx").write_bytes(networks.lsa_like())
        quantise_openvino(tmp_path / "m.onnx", calibration, LADDER[-1], tmp_path / "q.xml")
        compiled = openvino.Core().compile_model(str(tmp_path / "q.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = np.concatenate([compiled(tensor[np.newaxis])[0][0] for tensor in calibration.tensors])
        a, b = found >= 0.5, calibration.maps >= 0.5
        assert (a & b).sum() / (a | b).sum() > 0.97


def test_a_missing_nncf_says_what_to_install(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the build extra INT8 is refused with the command, not with a traceback."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "nncf" or name.startswith("nncf."):
            raise ImportError("No module named 'nncf'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineError, match=r"pip install 'inspector\[build\]'"):
        quantise_openvino(tmp_path / "m.onnx", calibration, LADDER[0], tmp_path / "q.xml")
