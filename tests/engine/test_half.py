"""The FP16 pass: what becomes half, what stays single, and what is refused."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inspector.engine.graph import fold_batch_norms
from inspector.engine.half import to_half
from inspector.engine.reference import reference_maps
from inspector.errors import EngineError

SIZE = (64, 64)


def tensors(count: int = 4) -> Any:
    pixels = networks.images(count, SIZE, seed=2).astype(np.float32)
    return ((pixels / 255 - 0.5) / 0.25)[:, np.newaxis].astype(np.float32)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of the graph."""
    shaped = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = [*shaped.graph.input, *shaped.graph.value_info, *shaped.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.mark.parametrize(
    ("strips", "mixing"), [("mean", ()), ("pool", ()), ("mixed", ("lam.rows.mix", "lam.cols.mix"))]
)
def test_the_islands_of_lsa_net_are_found_by_structure(strips: str, mixing: tuple[str, ...]) -> None:
    """Strip means, their product, the convolution behind it and the last sigmoid stay FP32; all else is FP16."""
    half = to_half(networks.lsa_like(strips=strips, size=SIZE))
    assert half.islands == ("lam.rows", "lam.cols", *mixing, "lam.outer", "lam.out", "map")
    assert half.unknown == ()
    model = onnx.load_model_from_string(half.onnx_bytes)
    kinds = types(model)
    for node in model.graph.node:
        if node.op_type == "Cast":
            continue
        wanted = TensorProto.FLOAT if node.name in half.islands else TensorProto.FLOAT16
        assert kinds[node.output[0]] == wanted, node.name


def test_the_ends_stay_single() -> None:
    """The caller gives and gets FP32."""
    model = onnx.load_model_from_string(to_half(networks.lsa_like(size=SIZE)).onnx_bytes)
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}


def test_one_cast_per_border() -> None:
    """A tensor that several nodes read across a border is cast once: in, into LAM, out of LAM, before the sigmoid."""
    assert to_half(networks.lsa_like(size=SIZE)).casts == 4


def test_parameters_of_resize_stay_as_they_are() -> None:
    """Scales of a Resize are FP32 by its definition, whatever the data is."""
    model = onnx.load_model_from_string(to_half(networks.lsa_like(size=SIZE)).onnx_bytes)
    weights = {weight.name: weight.data_type for weight in model.graph.initializer}
    resize = next(node for node in model.graph.node if node.op_type == "Resize")
    assert weights[resize.input[2]] == TensorProto.FLOAT


@pytest.mark.parametrize("strips", ["mean", "pool"])
def test_maps_stay_near(strips: str) -> None:
    """Storage in FP16 changes a probability by less than 1e-3."""
    single = networks.lsa_like(strips=strips, size=SIZE)
    a, b = reference_maps(single, tensors()), reference_maps(to_half(single).onnx_bytes, tensors())
    assert 0.0 < np.abs(a - b).max() < 1e-3


def test_the_islands_are_what_keeps_small_products() -> None:
    """A product of two small strip means lives through the pass, and would not in FP16."""
    s = networks.Sketch(0)
    tiny = s.node("Mul", "image", s.weight("small", np.array(2e-4, np.float32)), name="shrink")
    rows = s.node("AveragePool", tiny, name="rows", kernel_shape=[1, 8], strides=[1, 1])
    columns = s.node("AveragePool", tiny, name="columns", kernel_shape=[8, 1], strides=[1, 1])
    outer = s.node("Mul", rows, columns, name="outer")
    kernel = s.weight("kernel", np.full((1, 1, 1, 1), 2.5e7, np.float32))
    x = s.node("Conv", outer, kernel, name="restore")
    model = s.model(s.node("Sigmoid", x, name="map"), 8, 8, 1)
    ones = np.ones((1, 1, 8, 8), np.float32)
    wanted = reference_maps(model, ones)
    assert np.allclose(wanted, 1 / (1 + np.exp(-1.0)), atol=1e-3)  # 2e-4 squared times 2.5e7 is 1
    half = to_half(model)
    assert half.islands == ("rows", "columns", "outer", "restore", "map")
    assert np.abs(reference_maps(half.onnx_bytes, ones) - wanted).max() < 1e-3
    in_half = np.float16(np.float16(2e-4) * np.float16(2e-4))
    assert abs(float(in_half) * 2.5e7 - 1.0) > 0.3


def test_weights_that_half_cannot_hold_are_refused() -> None:
    """Nothing is clamped: a weight beyond 65504, or not finite, is an error with its name."""
    for value in (7e4, np.inf, np.nan):
        s = networks.Sketch(0)
        kernel = s.weight("heavy", np.full((1, 1, 1, 1), value, np.float32))
        model = s.model(s.node("Sigmoid", s.node("Conv", "image", kernel, name="c"), name="map"), 8, 8, 1)
        with pytest.raises(EngineError, match="heavy"):
            to_half(model)
        assert to_half(model, keep=["c"]).islands == ("c", "map")


def test_a_kept_name_must_exist() -> None:
    """A node to keep that is not there is an error, not a pass that kept nothing."""
    with pytest.raises(EngineError, match="no such node"):
        to_half(networks.tiny(), keep=["nowhere"])


def test_a_division_is_refused() -> None:
    """1 / (mse + eps) belongs to the loss: a graph that divides was exported from training."""
    s = networks.Sketch(0)
    x = s.node("Div", s.weight("one", np.ones((1, 1, 8, 8), np.float32)), "image", name="inverse")
    with pytest.raises(EngineError, match="inverse"):
        to_half(s.model(s.node("Sigmoid", x, name="map"), 8, 8, 1))


def test_operators_that_are_not_known_stay_single_and_are_named() -> None:
    """What the pass does not know it leaves in FP32 and says so."""
    s = networks.Sketch(0)
    x = s.conv("image", 1, 1, (3, 3), "first")
    x = s.node("Softplus", x, name="odd")
    x = s.conv(x, 1, 1, (3, 3), "last", relu=False)
    half = to_half(s.model(s.node("Sigmoid", x, name="map"), 8, 8, 1))
    assert half.unknown == ("Softplus odd",)


def test_constants_and_unnamed_nodes_are_taken() -> None:
    """Constant nodes and nodes without names, as exporters write them, go through."""
    s = networks.Sketch(0)
    value = numpy_helper.from_array(np.array(0.5, np.float32), "value")
    s.nodes.append(helper.make_node("Constant", [], ["half_of_it"], value=value))
    x = s.node("Mul", "image", "half_of_it", name="scaled")
    model = s.model(s.node("Sigmoid", x, name="map"), 8, 8, 1)
    loaded = onnx.load_model_from_string(model)
    for node in loaded.graph.node:
        node.name = ""
    half = to_half(loaded.SerializeToString())
    image = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
    assert np.abs(reference_maps(half.onnx_bytes, image) - reference_maps(model, image)).max() < 1e-3


def test_batch_norms_fold_in_single_precision() -> None:
    """A convolution with its BatchNormalization becomes one convolution of the same function."""
    s = networks.Sketch(5)
    kernel = s.weight("kernel", s.random.normal(size=(4, 1, 3, 3)).astype(np.float32))
    x = s.node("Conv", "image", kernel, name="conv", pads=[1, 1, 1, 1])
    names = []
    for name, low, high in (("gain", 0.5, 2), ("shift", -1, 1), ("mean", -1, 1), ("variance", 0.01, 4)):
        names.append(s.weight(name, s.random.uniform(low, high, 4).astype(np.float32)))
    x = s.node("BatchNormalization", x, *names, name="norm", epsilon=1e-3)
    x = s.conv(x, 4, 1, (1, 1), "last", relu=False)
    before = s.model(s.node("Sigmoid", x, name="map"), 16, 16, 1)
    model = onnx.load_model_from_string(before)
    assert fold_batch_norms(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    image = s.random.normal(size=(1, 1, 16, 16)).astype(np.float32)
    assert np.allclose(reference_maps(model.SerializeToString(), image), reference_maps(before, image), atol=1e-5)


def test_a_pass_over_the_pass_changes_nothing_more() -> None:
    """A network that is FP16 already keeps its maps."""
    once = to_half(networks.lsa_like(size=SIZE)).onnx_bytes
    twice = to_half(once).onnx_bytes
    assert np.array_equal(reference_maps(once, tensors(1)), reference_maps(twice, tensors(1)))
