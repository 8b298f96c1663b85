"""Small, exact rewrites of an ONNX graph that conversions to FP16 and INT8 begin with."""

from __future__ import annotations

from typing import Any

import numpy as np


def name_nodes(model: Any) -> None:
    """Give every node a name of its own, so that islands can be named."""
    seen = set[str]()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)


def fold_batch_norms(model: Any) -> int:
    """Fold every BatchNormalization into the convolution before it, in FP32 and in place; how many were folded."""
    from onnx import numpy_helper

    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    makers = {out: node for node in model.graph.node for out in node.output}
    folded = []
    for norm in [n for n in model.graph.node if n.op_type == "BatchNormalization"]:
        conv = makers.get(norm.input[0])
        names = [*norm.input[1:5], *(conv.input[1:] if conv is not None else [])]
        if conv is None or conv.op_type != "Conv" or readers[norm.input[0]] != 1 or not set(names) <= set(weights):
            continue
        gain, shift, mean, variance = (weights[name].astype(np.float64) for name in norm.input[1:5])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        factor = gain / np.sqrt(variance + epsilon)
        kernel = weights[conv.input[1]].astype(np.float64) * factor[:, None, None, None]
        bias = (weights[conv.input[2]] if len(conv.input) > 2 else 0.0) * factor + shift - mean * factor
        new = {f"{conv.name}__folded.weight": kernel, f"{conv.name}__folded.bias": bias}
        for name, array in new.items():
            model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        source = conv.input[0]
        del conv.input[:]
        conv.input.extend([source, *new])
        conv.output[0] = norm.output[0]
        folded.append(norm)
    for norm in folded:
        model.graph.node.remove(norm)
    used = {name for node in model.graph.node for name in node.input}
    kept = [w for w in model.graph.initializer if w.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return len(folded)


def constants_to_weights(model: Any) -> None:
    """Constant nodes become initializers, so that weights have one form."""
    from onnx import helper

    kept = []
    for node in model.graph.node:
        value = next((a for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = helper.get_attribute_value(value)
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def fix_batch(model: Any) -> None:
    """Set the batch of input and output to 1, in place: TensorRT plans here have one static shape."""
    for value in [*model.graph.input, *model.graph.output]:
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        dim.dim_value = 1
    del model.graph.value_info[:]
