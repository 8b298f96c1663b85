"""Small random networks as ONNX, made without training: enough to run every path of the engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inspector.engine.build import Limits
from inspector.engine.bundle import Bundle
from inspector.engine.choose import open_engine
from inspector.engine.tensorrt import TensorRtEngine
from inspector.frame import FloatMap

SIZE = (48, 64)
LOOSE = Limits(verdict_flips=1000, mask_iou=0.0)
"""Nothing is refused."""

MakeBundle = Callable[..., Bundle]
"""The fixture ``make_bundle``: (onnx_bytes, size, name, golden) -> Bundle on disk."""


class Sketch:
    """Collects nodes and weights; each call adds one node and names its output."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: tuple[int, int], name: str, relu: bool = True) -> str:
        spread = np.sqrt(2.0 / (inputs * kernel[0] * kernel[1]))
        w = self.random.normal(0.0, spread, (outputs, inputs, *kernel)).astype(np.float32)
        b = self.random.normal(0.0, 0.1, outputs).astype(np.float32)
        pads = [kernel[0] // 2, kernel[1] // 2] * 2
        y = self.node("Conv", x, self.weight(f"{name}.weight", w), self.weight(f"{name}.bias", b), name=name, pads=pads)
        return self.node("Relu", y, name=f"{name}.relu") if relu else y

    def model(self, output: str, height: int, width: int, batch: int | str) -> bytes:
        shape = [batch, 1, height, width]
        graph = helper.make_graph(
            self.nodes,
            "sketch",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        opset = helper.make_opsetid("", 18)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10, producer_name="tests")
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def tiny(seed: int = 0, size: tuple[int, int] = (64, 48), batch: int | str = "n") -> bytes:
    """Two convolutions and a sigmoid."""
    s = Sketch(seed)
    x = s.conv("image", 1, 8, (3, 3), "first")
    x = s.conv(x, 8, 1, (3, 3), "last", relu=False)
    return s.model(s.node("Sigmoid", x, name="map"), *size, batch)


def lsa_like(seed: int = 0, size: tuple[int, int] = (64, 64), strips: str = "mean", batch: int | str = "n") -> bytes:
    """A U-Net of two levels with LAM's strip means, outer product and 1x1 convolution, a resize and a concat.

    ``strips``: "mean" (ReduceMean over one axis), "pool" (AveragePool with a whole-row and a whole-column window) or
    "mixed" (the same, and a 1x1 convolution of each strip, as training exports it).
    """
    s = Sketch(seed)
    height, width = size
    top = s.conv("image", 1, 8, (3, 3), "b1")
    down = s.node("MaxPool", top, name="pool", kernel_shape=[2, 2], strides=[2, 2])
    deep = s.conv(down, 8, 16, (3, 3), "b2")
    scales = s.weight("up.scales", np.array([1, 1, 2, 2], np.float32))
    up = s.node("Resize", deep, "", scales, name="up", mode="linear", coordinate_transformation_mode="half_pixel")
    joined = s.node("Concat", top, up, name="join", axis=1)
    value = s.conv(joined, 24, 8, (1, 1), "lam.in")
    if strips == "mean":
        rows = s.node("ReduceMean", value, s.weight("axis3", np.array([3], np.int64)), name="lam.rows", keepdims=1)
        columns = s.node("ReduceMean", value, s.weight("axis2", np.array([2], np.int64)), name="lam.cols", keepdims=1)
    else:
        rows = s.node("AveragePool", value, name="lam.rows", kernel_shape=[1, width], strides=[1, 1])
        columns = s.node("AveragePool", value, name="lam.cols", kernel_shape=[height, 1], strides=[1, 1])
    if strips == "mixed":
        rows = s.conv(rows, 8, 8, (1, 1), "lam.rows.mix", relu=False)
        columns = s.conv(columns, 8, 8, (1, 1), "lam.cols.mix", relu=False)
    outer = s.node("Mul", rows, columns, name="lam.outer")
    attention = s.conv(outer, 8, 8, (1, 1), "lam.out")
    skip = s.node("Add", top, attention, name="skip")
    x = s.conv(s.node("Concat", skip, up, name="join2", axis=1), 24, 8, (3, 3), "d1")
    x = s.conv(x, 8, 1, (1, 1), "head", relu=False)
    return s.model(s.node("Sigmoid", x, name="map"), height, width, batch)


def images(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise with a few blobs and lines, n x H x W uint8: what the tests show the networks."""
    random = np.random.default_rng(seed)
    height, width = size
    out = random.normal(128.0, 12.0, (count, height, width))
    for image in out:
        y, x = random.integers(4, height - 12), random.integers(4, width - 12)
        image[y : y + 8, x : x + 8] += random.choice([-90.0, 90.0])
        image[:, random.integers(0, width)] -= 70.0
    return np.clip(out, 0, 255).astype(np.uint8)


def judge(found: FloatMap) -> str:
    """A verdict that small errors leave alone."""
    return "FAIL" if (found >= 0.5).mean() > 0.5 else "PASS"


def image() -> FloatMap:
    """One normalised image of ``SIZE``, always the same."""
    return np.random.default_rng(1).normal(size=(1, 1, *SIZE)).astype(np.float32)


def on_fake_gpu(bundle: Bundle) -> TensorRtEngine:
    """The bundle's FP16 plan, opened on the fakes of TensorRT."""
    engine = open_engine(bundle, backend="tensorrt", precision="fp16").engine
    assert isinstance(engine, TensorRtEngine)
    return engine
