"""Upsampling folded into the convolution behind it, for INT8 on the CPU.

A 3 x 3 convolution over [x upsampled by two, skip] is a sum of two: one over the skip, and one over x at its own size
with four times the outputs, one for each of the four pixels that an x pixel becomes. Multiplications stay as many, but
nothing is interpolated and concatenated at full resolution, and the vector units are full. Only the outermost two rows
and columns differ, where interpolation repeats the border and a convolution pads with zeros: the plan's proof sees it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fold_upsampling(model: Any) -> list[str]:
    """Fold in place every such convolution at the size of the model's input; names of those folded.

    ``model``: an openvino.Model with a static shape. What does not have the form stays as it is.
    """
    full = tuple(model.input(0).shape)[2:]
    folded = []
    for node in list(model.get_ordered_ops()):
        parts = _parts(node, full)
        if parts is not None:
            node.output(0).replace(_sum(node, *parts))
            folded.append(str(node.get_friendly_name()))
    if folded:
        model.validate_nodes_and_infer_types()
    return folded


def phase_kernels(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Kernels o x i x 3 x 3 behind a bilinear upsampling by two -> 4o x i x 3 x 3 before it, in depth-first order."""
    phases = np.einsum("pya,qxb,oiab->opqiyx", _TAPS, _TAPS, weights)
    outputs, inputs = weights.shape[:2]
    return np.ascontiguousarray(phases.reshape(4 * outputs, inputs, 3, 3), np.float32)


def _taps() -> NDArray[np.float64]:
    """Phase x tap before x tap behind the upsampling: pixel 2i is 1/4 of i - 1 and 3/4 of i, 2i + 1 the reverse."""
    taps = np.zeros((2, 3, 3))
    for phase in (0, 1):
        for behind in (-1, 0, 1):
            pixel, odd = divmod(phase + behind, 2)
            for before, share in ((pixel, 0.75), (pixel + 1 if odd else pixel - 1, 0.25)):
                taps[phase, before + 1, behind + 1] += share
    return taps


_TAPS = _taps()


def _parts(node: Any, full: tuple[int, ...]) -> tuple[Any, Any, NDArray[np.float32], NDArray[np.float32]] | None:
    """Output before the upsampling, skip, and the weights of each; None where the node has another form."""
    if node.get_type_name() != "Convolution" or tuple(node.get_output_shape(0))[2:] != full:
        return None
    attributes = node.get_attributes()
    plain = all(list(attributes[key]) == [1, 1] for key in ("strides", "dilations", "pads_begin", "pads_end"))
    stacked, weights = (node.input_value(n).get_node() for n in (0, 1))
    if weights.get_type_name() == "Convert":  # stored as FP16
        weights = weights.input_value(0).get_node()
    if not plain or stacked.get_type_name() != "Concat" or weights.get_type_name() != "Constant":
        return None
    both = [stacked.input_value(n) for n in range(stacked.get_input_size())]
    doubled = [_is_doubling(each.get_node()) for each in both]
    if len(both) != 2 or sum(doubled) != 1 or stacked.get_attributes()["axis"] not in (1, -3):
        return None
    values = np.array(weights.data, np.float32)
    if values.shape[2:] != (3, 3):
        return None
    first = int(both[0].get_shape()[1])
    halves = values[:, :first], values[:, first:]
    up = doubled.index(True)
    return both[up].get_node().input_value(0), both[1 - up], halves[up], halves[1 - up]


def _is_doubling(node: Any) -> bool:
    if node.get_type_name() != "Interpolate":
        return False
    attributes = node.get_attributes()
    before, after = tuple(node.get_input_shape(0)), tuple(node.get_output_shape(0))
    return (
        attributes["mode"] in {"linear_onnx", "linear"}
        and attributes["coordinate_transformation_mode"] == "half_pixel"
        and not attributes["antialias"]
        and after == (*before[:2], 2 * before[2], 2 * before[3])
    )


def _sum(node: Any, low: Any, skip: Any, up_weights: NDArray[np.float32], skip_weights: NDArray[np.float32]) -> Any:
    from openvino import opset13 as op

    def convolve(source: Any, kernels: NDArray[np.float32], name: str) -> Any:
        made = op.convolution(source, op.constant(kernels), [1, 1], [1, 1], [1, 1], [1, 1])
        made.set_friendly_name(f"{node.get_friendly_name()}/{name}")
        return made

    phases = op.depth_to_space(convolve(low, phase_kernels(up_weights), "low"), "depth_first", 2)
    total = op.add(convolve(skip, np.ascontiguousarray(skip_weights), "skip"), phases)
    total.set_friendly_name(f"{node.get_friendly_name()}/sum")
    return total.output(0)
