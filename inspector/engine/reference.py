"""What an ONNX file says of itself, and its FP32 maps by onnxruntime: the reference that every plan is held to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inspector.errors import EngineError
from inspector.frame import FloatMap


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    """The one input and the one output of a network."""

    input_name: str
    output_name: str
    size: tuple[int, int]
    """Height and width, fixed; the batch may be 1 or free."""
    opset: int
    runtime: str


def describe(onnx_bytes: bytes) -> OnnxFacts:
    """Read the interface of a network. Raises EngineError where it is not n x 1 x H x W float32 -> the same."""
    import onnx
    import onnxruntime
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(onnx_bytes)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise EngineError("this is not a valid ONNX file", found=str(error)[:200], do="Export it again.") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise EngineError(
            "the ONNX file keeps its weights elsewhere",
            expected="one self-contained file",
            do="Export with external_data=False.",
        )
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    ends = [*inputs, *model.graph.output]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise EngineError(
            "the network has the wrong interface",
            expected="one input and one output",
            found=f"{len(inputs)} inputs, {len(model.graph.output)} outputs",
            do="Export the inference graph without auxiliary outputs.",
        )
    shapes = []
    for end in ends:
        tensor = end.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
        shapes.append(shape)
        fits = len(shape) == 4 and shape[0] in {0, 1} and shape[1] == 1 and min(shape[2:]) >= 8
        if tensor.elem_type != onnx.TensorProto.FLOAT or not fits:
            raise EngineError(
                f"the network's {end.name} has the wrong shape or type",
                expected="n x 1 x H x W float32 with fixed H and W of 8 or more",
                found=f"{shape} {onnx.TensorProto.DataType.Name(tensor.elem_type)} (0 = free)",
                do="Export with a fixed image size.",
            )
    if shapes[0][2:] != shapes[1][2:]:
        raise EngineError("the map has another size than the image", expected=str(shapes[0]), found=str(shapes[1]))
    opset = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    return OnnxFacts(
        inputs[0].name,
        model.graph.output[0].name,
        (shapes[0][2], shapes[0][3]),
        opset,
        f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider fp32",
    )


def reference_maps(onnx_bytes: bytes, tensors: FloatMap) -> FloatMap:
    """n x 1 x H x W float32, normalised -> FP32 probabilities of the same shape, one image at a time.

    Raises EngineError where a value is not finite or leaves 0..1: such a network cannot be referred to.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    maps = np.concatenate([session.run(None, {name: tensor[np.newaxis]})[0] for tensor in tensors])
    if not np.isfinite(maps).all() or maps.min() < 0.0 or maps.max() > 1.0:
        raise EngineError(
            "the network's FP32 maps are not probabilities",
            expected="finite values from 0 to 1",
            found=f"{np.nanmin(maps):g} to {np.nanmax(maps):g}, {int((~np.isfinite(maps)).sum())} not finite",
            do="Check the training and export the graph with its final sigmoid.",
        )
    return np.asarray(maps, dtype=np.float32)
