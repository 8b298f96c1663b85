"""FP16 pass over an ONNX network: half precision where it is safe, FP32 islands where it is not, FP32 at both ends.

TensorRT 11 takes every precision from the ONNX, so the conversion happens here (docs/decisions/0003-fp16-pass.md).
Islands, found by their structure:

* strip means (a mean over a whole row or column), and a convolution of them: an FP16 sum of 256 values overflows from
  a mean of 256 on;
* their outer product and the convolution behind it: 1e-3 x 1e-3 is subnormal in FP16, 2e-4 squared is off by half;
* the final sigmoid: FP16 has no value between 0.9995 and 1.

Everything else that FP16 kernels exist for becomes FP16; what is not known here stays FP32 and is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from inspector.engine.graph import constants_to_weights, fold_batch_norms, name_nodes
from inspector.errors import EngineError

_CARRIERS = frozenset(
    ("Concat", "Split", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Identity", "Flatten")
)
"""They move values without arithmetic: an island reaches through them."""
_RESTORERS = frozenset(("Conv", "ConvTranspose", "Gemm"))
"""An island ends behind the first of them: their weights bring the values back to normal magnitudes."""
_HALF_OPS = (
    _CARRIERS
    | _RESTORERS
    | {"Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "Clip", "Add", "Sub", "Mul", "MatMul", "Resize", "Pad"}
    | {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"}
)
_KEPT_INPUTS = {"Resize": {1, 2}}
"""Float inputs that are parameters of the operator rather than data: roi and scales."""
_HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Half:
    """The converted network and what stayed FP32."""

    onnx_bytes: bytes
    islands: tuple[str, ...]
    """Names of the nodes kept in FP32 for their arithmetic, in graph order."""
    unknown: tuple[str, ...]
    """``operator name`` of the nodes kept in FP32 because nothing is known of them in FP16."""
    casts: int


def to_half(onnx_bytes: bytes, keep: Iterable[str] = ()) -> Half:
    """Convert; ``keep`` names further nodes to leave in FP32. The input and the output stay FP32.

    Raises EngineError for weights that FP16 cannot hold, for a division (it belongs to training) and for a ``keep``
    that names no node.
    """
    import onnx

    model = onnx.load_model_from_string(onnx_bytes)
    name_nodes(model)
    fold_batch_norms(model)
    constants_to_weights(model)
    shaped = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    graph = _Graph(shaped)
    _refuse_division(graph)
    unknown_names = set(keep) - {node.name for node in model.graph.node}
    if unknown_names:
        raise EngineError("no such node to keep in FP32", found=", ".join(sorted(unknown_names)))
    islands = find_islands(graph) | set(keep)
    unknown = [n for n in graph.nodes if n.op_type not in _HALF_OPS and graph.has_float(n) and n.name not in islands]
    single = islands | {n.name for n in unknown}
    casts = _convert(model, graph, single)
    converted = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(converted, full_check=True)
    return Half(
        model.SerializeToString(),
        tuple(n.name for n in graph.nodes if n.name in islands),
        tuple(f"{n.op_type} {n.name}" for n in unknown),
        casts,
    )


def island_names(model: Any) -> list[str]:
    """Names of the nodes of a named, shape-inferred model that reduced precision would damage, in graph order."""
    graph = _Graph(model)
    found = find_islands(graph)
    return [node.name for node in graph.nodes if node.name in found]


class _Graph:
    """Who makes, who reads, and what shape and type each tensor has."""

    def __init__(self, model: Any) -> None:
        import onnx

        self.nodes = list(model.graph.node)
        self.producer = {out: node for node in self.nodes for out in node.output}
        self.consumers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.shape: dict[str, list[int]] = {}
        self.floats: set[str] = set()
        for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
            tensor = value.type.tensor_type
            self.shape[value.name] = [d.dim_value for d in tensor.shape.dim]
            if tensor.elem_type == onnx.TensorProto.FLOAT:
                self.floats.add(value.name)
        self.weights = {w.name: w for w in model.graph.initializer}
        for weight in self.weights.values():
            self.shape[weight.name] = list(weight.dims)
            if weight.data_type == onnx.TensorProto.FLOAT:
                self.floats.add(weight.name)
        self.outputs = {value.name for value in model.graph.output}

    def has_float(self, node: Any) -> bool:
        return any(name in self.floats for name in [*node.input, *node.output])


def find_islands(graph: _Graph) -> set[str]:
    """The nodes that FP16 would damage, by structure."""
    strips, products, behind = set[str](), set[str](), set[str]()
    for node in graph.nodes:  # in topological order: makers come before readers
        makers = [graph.producer[name] for name in node.input if name in graph.producer]
        all_strips = bool(makers) and all(maker.name in strips for maker in makers)
        if _is_strip_mean(graph, node) or (node.op_type in _CARRIERS | _RESTORERS and all_strips):
            strips.add(node.name)  # LAM's 1x1 convolution may stand before its product
        elif node.op_type in {"Mul", "MatMul"} and len(makers) == 2 and all_strips:
            products.add(node.name)
        elif any(m.name in products or (m.name in behind and m.op_type not in _RESTORERS) for m in makers):
            behind.add(node.name)
    return strips | products | behind | _final_sigmoid(graph)


def _final_sigmoid(graph: _Graph) -> set[str]:
    found = set[str]()
    for name in graph.outputs:
        node = graph.producer.get(name)
        while node is not None and node.op_type in _CARRIERS:
            found.add(node.name)
            node = graph.producer.get(node.input[0])
        if node is None or node.op_type != "Sigmoid":
            return set()
        found.add(node.name)
    return found


def _is_strip_mean(graph: _Graph, node: Any) -> bool:
    """Whether the node averages over a whole row, a whole column or a whole image."""
    shape = graph.shape.get(node.input[0], []) if node.input else []
    if len(shape) != 4:
        return False
    if node.op_type in {"GlobalAveragePool", "ReduceMean"}:
        return True
    if node.op_type == "AveragePool":
        kernel = next(list(a.ints) for a in node.attribute if a.name == "kernel_shape")
        return any(k == size and k > 1 for k, size in zip(kernel, shape[2:], strict=True))
    return False


def _refuse_division(graph: _Graph) -> None:
    bad = [n.name for n in graph.nodes if n.op_type in {"Div", "Reciprocal"} and n.output[0] in graph.floats]
    if bad:
        raise EngineError(
            "the network divides, which only its loss does",
            expected="the inference graph",
            found=", ".join(bad[:3]),
            do="Export it in eval mode with one output.",
        )


def _convert(model: Any, graph: _Graph, single: set[str]) -> int:
    """Rewrite nodes, weights and borders in place; number of casts."""
    import onnx
    from onnx import TensorProto, helper

    stored = {value.name: TensorProto.FLOAT for value in model.graph.input}
    nodes: list[Any] = []
    cast_of: dict[tuple[str, int], str] = {}
    half_weights: dict[str, Any] = {}
    end = {value.name for value in model.graph.output}
    for node in model.graph.node:
        kind = TensorProto.FLOAT if node.name in single or not graph.has_float(node) else TensorProto.FLOAT16
        for position, name in enumerate(node.input):
            if name not in graph.floats or position in _KEPT_INPUTS.get(node.op_type, set()):
                continue
            if name in graph.weights:
                if kind == TensorProto.FLOAT16:
                    half_weights.setdefault(name, _half_weight(graph.weights[name]))
                    node.input[position] = half_weights[name].name
            elif stored[name] != kind:
                key = (name, kind)
                if key not in cast_of:
                    cast_of[key] = f"{name}__{'fp16' if kind == TensorProto.FLOAT16 else 'fp32'}"
                    nodes.append(helper.make_node("Cast", [name], [cast_of[key]], name=cast_of[key], to=kind))
                node.input[position] = cast_of[key]
        nodes.append(node)
        for index, out in enumerate(node.output):
            if out not in graph.floats:
                continue
            stored[out] = kind
            if out in end and kind == TensorProto.FLOAT16:
                node.output[index] = f"{out}__half"
                cast_of[out, kind] = node.output[index]
                nodes.append(helper.make_node("Cast", [node.output[index]], [out], name=out + "__end", to=1))
                stored[out] = TensorProto.FLOAT
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    weights = [w for w in model.graph.initializer if w.name in used] + list(half_weights.values())
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
    del model.graph.value_info[:]
    return sum(isinstance(n, onnx.NodeProto) and n.op_type == "Cast" for n in nodes)


def _half_weight(weight: Any) -> Any:
    from onnx import numpy_helper

    values = numpy_helper.to_array(weight)
    largest = float(np.abs(values).max()) if values.size else 0.0
    if not np.isfinite(values).all() or largest > _HALF_MAX:
        raise EngineError(
            f"weight {weight.name} does not fit FP16",
            expected=f"finite, at most {_HALF_MAX:g}",
            found=f"{largest:g}",
            do="Keep its node in FP32, or train with weight decay.",
        )
    return numpy_helper.from_array(values.astype(np.float16), weight.name + "__fp16")
