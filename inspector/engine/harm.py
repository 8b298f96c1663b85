"""Which layers of a quantised OpenVINO model do the harm: each quantiser of activations is tried alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from inspector.frame import FloatMap

IMAGES = 24
"""So many calibration images are looked at: those with the most to decide."""


def rank_layers(model: Any, tensors: FloatMap, maps: FloatMap) -> tuple[str, ...]:
    """Names of the convolutions of an INT8 model, the most harmful first.

    ``tensors``: n x 1 x H x W float32, normalised; ``maps``: n x H x W float32, what FP32 makes of them. The harm of a
    convolution is the mean change of the map with none but its own inputs quantised, summed over them, less the change
    with no input quantised: quantised weights stay in both.
    """
    chosen = np.argsort(-(maps * (1.0 - maps)).mean(axis=(1, 2)), kind="stable")[:IMAGES]
    tensors, maps = tensors[chosen], maps[chosen]
    readers = {node.get_friendly_name(): _convolutions(node) for node in _quantisers(model)}
    base = _change(_with_only(model, ""), tensors, maps)
    harm: dict[str, float] = {}
    for name, layers in readers.items():
        change = _change(_with_only(model, name), tensors, maps) - base
        for layer in layers:
            harm[layer] = harm.get(layer, 0.0) + change
    return tuple(sorted(harm, key=lambda layer: (-harm[layer], layer)))


def _quantisers(model: Any) -> list[Any]:
    """Those of activations: weights are constants, stored as INT8 already or quantised from one."""
    found = [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    return [node for node in found if node.input_value(0).get_node().get_type_name() != "Constant"]


def _convolutions(quantiser: Any) -> list[str]:
    """The convolutions that compute with this quantiser's values, through what only moves or pools them."""
    found, seen, waiting = list[str](), set[str](), [quantiser]
    while waiting:
        node = waiting.pop()
        for output in node.outputs():
            for target in output.get_target_inputs():
                reader = target.get_node()
                name, kind = reader.get_friendly_name(), reader.get_type_name()
                if name in seen:
                    continue
                seen.add(name)
                if kind in {"Convolution", "GroupConvolution"}:
                    found.append(name)
                elif kind != "FakeQuantize":
                    waiting.append(reader)
    return found


def _with_only(model: Any, name: str) -> Any:
    """A copy in which every quantiser of activations but ``name`` is bridged."""
    copy = model.clone()
    for node in _quantisers(copy):
        if node.get_friendly_name() != name:
            source = node.input_value(0)
            for target in list(node.output(0).get_target_inputs()):
                target.replace_source_output(source)
    copy.validate_nodes_and_infer_types()
    return copy


def _change(model: Any, tensors: FloatMap, maps: FloatMap) -> float:
    """Mean absolute difference to ``maps``, computed in f32."""
    import openvino

    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(model, "CPU", properties)
    request = compiled.create_infer_request()
    total = 0.0
    for tensor, reference in zip(tensors, maps, strict=True):
        request.infer({0: tensor[np.newaxis]})
        total += float(np.abs(request.get_output_tensor().data[0, 0] - reference).mean())
    return total / len(tensors)
