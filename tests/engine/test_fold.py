"""Upsampling folded into the convolution behind it: the same map but for the border, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inspector.engine.fold import fold_upsampling, phase_kernels
from inspector.frame import FloatMap

openvino = pytest.importorskip("openvino")
SIZE = (12, 16)


def stage(scale: int = 2, up_first: bool = True, kernel: int = 3, mode: str = "half_pixel") -> Any:
    """image -> x (strided) -> upsampled, stacked with a skip -> convolution -> sigmoid: one stage of a decoder."""
    from openvino import opset13 as op

    rng = np.random.default_rng(0)

    def weights(outputs: int, inputs: int, side: int) -> Any:
        return op.constant(rng.standard_normal((outputs, inputs, side, side)).astype(np.float32))

    image = op.parameter([1, 1, *SIZE], np.float32, name="image")
    skip = op.convolution(image, weights(3, 1, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    low = op.convolution(image, weights(4, 1, 1), [scale, scale], [0, 0], [0, 0], [1, 1])
    up = op.interpolate(
        low, op.constant(np.array(SIZE)), "linear_onnx", "sizes", axes=op.constant(np.array([2, 3])),
        coordinate_transformation_mode=mode,
    )  # fmt: skip
    stacked = op.concat([up, skip] if up_first else [skip, up], 1)
    pad = [kernel // 2] * 2
    found = op.convolution(stacked, weights(2, 7, kernel), [1, 1], pad, pad, [1, 1])
    found.set_friendly_name("stage")
    return openvino.Model([op.sigmoid(found)], [image])


def run(model: Any) -> FloatMap:
    image = np.random.default_rng(1).standard_normal((1, 1, *SIZE)).astype(np.float32)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(image)[0])


@pytest.mark.parametrize("up_first", [True, False])
def test_the_map_is_the_same_inside_two_pixels(up_first: bool) -> None:
    """Interpolation and concatenation are gone; only the outermost two rows and columns may differ."""
    model = stage(up_first=up_first)
    before = run(model)
    assert fold_upsampling(model) == ["stage"]
    kinds = {node.get_type_name() for node in model.get_ordered_ops()}
    assert not kinds & {"Interpolate", "Concat"}
    gap = np.abs(run(model) - before)
    assert gap[..., 2:-2, 2:-2].max() < 1e-5
    assert gap.max() > 1e-3


@pytest.mark.parametrize("other", [{"scale": 4}, {"kernel": 1}, {"mode": "align_corners"}])
def test_what_has_another_form_stays(other: dict[str, Any]) -> None:
    """Other factors, kernels and coordinates are left as they are."""
    model = stage(**other)
    before = run(model)
    assert fold_upsampling(model) == []
    assert np.array_equal(run(model), before)


def test_a_flat_map_keeps_its_level() -> None:
    """The shares of an interpolated pixel add up to one, so each phase's kernel has the sum of the old one."""
    weights = np.random.default_rng(2).standard_normal((2, 3, 3, 3)).astype(np.float32)
    sums = phase_kernels(weights).reshape(2, 4, 3, 9).sum(-1)
    assert sums == pytest.approx(np.repeat(weights.sum((2, 3))[:, None], 4, axis=1), abs=1e-5)
