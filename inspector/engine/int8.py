"""INT8 by NNCF post-training quantisation: one artefact for OpenVINO, another for TensorRT.

They differ on purpose (docs/decisions/0004-int8-artefacts.md): NNCF gives unsigned activations, which OpenVINO runs as
they are, while TensorRT takes signed symmetric ones only and, of unsigned ones, silently clips the upper half.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from inspector.engine.fold import fold_upsampling
from inspector.engine.graph import constants_to_weights, fix_batch, fold_batch_norms, name_nodes
from inspector.engine.half import island_names
from inspector.engine.harm import rank_layers
from inspector.engine.proof import iou, overlap
from inspector.errors import EngineError
from inspector.frame import FloatMap

Keep = Literal["none", "first", "outer"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantise. Those of ``LADDER`` are tried in order until one is within the limits."""

    name: str
    preset: Literal["mixed", "performance"] = "mixed"
    """mixed: asymmetric activations; performance: symmetric ones."""
    ranges: Literal["default", "minmax", "quantile"] = "default"
    folded: bool = False
    """Upsampling ahead of convolutions at full resolution is folded into them (fold.py); OpenVINO only."""
    keep: Keep = "none"
    """Convolutions left in floating point: none, the first, or all at full resolution (outer)."""
    worst: int = 0
    """So many more convolutions are left in floating point, those whose quantised inputs do most harm (harm.py)."""
    floats: Literal["f32", "bf16"] = "f32"
    """Arithmetic of what is left in floating point, on the CPU; bf16 only where the CPU has it."""
    accurate: bool = False
    """Biases corrected layer by layer on the calibration images, instead of all at once."""
    subset: int = 300
    control: float | None = None
    """Revert layers, the most harmful first, until the masks overlap with FP32 by 1 - control; OpenVINO only."""


LADDER = (
    Recipe("folded", folded=True),
    Recipe("folded, first kept", folded=True, keep="first"),
    Recipe("mixed"),
    Recipe("first kept", keep="first"),
    Recipe("min-max ranges", ranges="minmax"),
    Recipe("first kept, accurate bias", keep="first", accurate=True),
    Recipe("first and worst 4 kept, bf16", keep="first", worst=4, floats="bf16"),
    Recipe("first and worst 4 kept", keep="first", worst=4),
    Recipe("first and worst 8 kept", keep="first", worst=8),
    Recipe("full resolution kept, bf16", keep="outer", floats="bf16"),
    Recipe("first and worst 16 kept", keep="first", worst=16),
    Recipe("first kept, layers chosen by mask IoU", keep="first", control=0.01),
)
"""Ordered by speed, roughly. What each gave on two networks: docs/decisions/0004-int8-artefacts.md."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What a network is quantised with: n x 1 x H x W float32, normalised, and what FP32 makes of it."""

    tensors: FloatMap
    maps: FloatMap
    threshold: float
    source: str = ""
    """Where the images are from, in words."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.tensors.shape[2], self.tensors.shape[3]

    def facts(self, recipe: Recipe) -> dict[str, Any]:
        """For the passport: how and with what a plan was quantised."""
        count = min(len(self.tensors), recipe.subset)
        return {"recipe": recipe.name, "calibration_images": count, "calibration_source": self.source}


def quantise_openvino(onnx_path: Path, calibration: Calibration, recipe: Recipe, target: Path) -> list[str]:
    """Quantise for OpenVINO's CPU plug-in; write ``target`` (.xml, and .bin beside it). Names of the layers kept.

    Raises EngineError where NNCF is missing or fails.
    """
    nncf = _nncf()
    import openvino

    model = openvino.Core().read_model(str(onnx_path))
    model.reshape([1, 1, *calibration.size])
    if recipe.folded:
        fold_upsampling(model)
    kept = _openvino_layers(model, recipe.keep, calibration.size)
    if recipe.worst:
        ranking = harmful_layers(onnx_path.read_bytes(), calibration)
        kept += [layer for layer in ranking if layer not in kept][: recipe.worst]
    items = [tensor[np.newaxis] for tensor in calibration.tensors]
    quantised = _quantise(nncf, model, items, recipe, kept, calibration)
    openvino.save_model(quantised, str(target), compress_to_fp16=False)
    return kept


@functools.lru_cache(maxsize=1)
def harmful_layers(onnx_bytes: bytes, calibration: Calibration) -> tuple[str, ...]:
    """Names of the convolutions, the one whose quantised inputs change the map most first. Kept for the next call."""
    nncf = _nncf()
    import openvino

    model = openvino.Core().read_model(onnx_bytes)
    model.reshape([1, 1, *calibration.size])
    quantised = _quantise(nncf, model, [t[np.newaxis] for t in calibration.tensors], Recipe("mixed"), [], calibration)
    return rank_layers(quantised, calibration.tensors, calibration.maps)


def quantise_onnx(onnx_bytes: bytes, calibration: Calibration, recipe: Recipe) -> tuple[bytes, list[str]]:
    """Quantise to explicit, signed, symmetric Q/DQ for TensorRT: the ONNX file and the names of the layers kept.

    Raises EngineError where NNCF is missing or fails, or where the result is not symmetric.
    """
    nncf = _nncf()
    import onnx

    model = onnx.load_model_from_string(onnx_bytes)
    fix_batch(model)
    name_nodes(model)
    constants_to_weights(model)
    fold_batch_norms(model)  # NNCF leaves Conv -> BN alone, and TensorRT cannot fuse an INT8 convolution then
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    kept = list(dict.fromkeys([*island_names(model), *_onnx_layers(model, recipe.keep, calibration.size)]))
    if recipe.worst:
        # OpenVINO names a convolution with a bias after its node and says so.
        ranking = [layer.removesuffix("/WithoutBiases") for layer in harmful_layers(onnx_bytes, calibration)]
        kept += [layer for layer in ranking if layer not in kept][: recipe.worst]
    name = model.graph.input[0].name
    # The performance preset: symmetric ranges, so that every zero point is 0.
    symmetric = replace(recipe, preset="performance", control=None)
    items = [{name: tensor[np.newaxis]} for tensor in calibration.tensors]
    quantised = _quantise(nncf, model, items, symmetric, kept, calibration)
    make_signed(quantised)
    data: bytes = quantised.SerializeToString()
    check_symmetric(data)
    return data, kept


def make_signed(model: Any) -> int:
    """Rewrite every UINT8 pair with zero point 0 to INT8 with the scale stretched by 255/127, in place; how many.

    The range stays, at half the resolution.
    """
    from onnx import numpy_helper

    weights = {w.name: w for w in model.graph.initializer}
    scales = set[str]()
    for node in model.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"} or len(node.input) < 3:
            continue
        zero = weights.get(node.input[2])
        if zero is None or zero.data_type != _UINT8 or numpy_helper.to_array(zero).any():
            continue
        scales.add(node.input[1])
    zeros = {n.input[2] for n in model.graph.node if len(n.input) > 2 and n.input[1] in scales}
    for name in scales:
        values = numpy_helper.to_array(weights[name]) * np.float32(255.0 / 127.0)
        weights[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    for name in zeros:
        values = numpy_helper.to_array(weights[name])
        weights[name].CopyFrom(numpy_helper.from_array(values.astype(np.int8), name))
    del model.graph.value_info[:]  # it still says UINT8
    return len(scales)


def check_symmetric(onnx_bytes: bytes) -> int:
    """Number of quantisers. Raises EngineError for any that is unsigned, has a zero point, or if there is none.

    TensorRT only warns of an unsigned zero point and then computes with a scale that is 2x too small.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(onnx_bytes)
    weights = {w.name: w for w in model.graph.initializer}
    count, bad = 0, list[str]()
    for node in model.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        count += node.op_type == "QuantizeLinear"
        zero = weights.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is None:
            bad.append(f"{node.name}: zero point missing or computed")
        elif zero.data_type != onnx.TensorProto.INT8:
            bad.append(f"{node.name}: {onnx.TensorProto.DataType.Name(zero.data_type)}")
        elif numpy_helper.to_array(zero).any():
            bad.append(f"{node.name}: zero point {numpy_helper.to_array(zero).ravel()[0]}")
    if bad or not count:
        raise EngineError(
            "TensorRT cannot take this INT8 network",
            expected="QuantizeLinear/DequantizeLinear pairs of INT8 with zero point 0",
            found=("; ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")) or "none",
            do="Quantise it with `inspector build-engine ... --backend tensorrt --precision int8`.",
        )
    return count


_UINT8 = 2  # onnx.TensorProto.UINT8, a number of the file format


def _quantise(
    nncf: Any, model: Any, items: list[Any], recipe: Recipe, kept: list[str], calibration: Calibration
) -> Any:
    presets = {"mixed": nncf.QuantizationPreset.MIXED, "performance": nncf.QuantizationPreset.PERFORMANCE}
    advanced = nncf.AdvancedQuantizationParameters()
    if recipe.ranges != "default":
        kind = nncf.quantization.range_estimator.RangeEstimatorParametersSet
        chosen = {"minmax": kind.MINMAX, "quantile": kind.MEAN_QUANTILE}[recipe.ranges]
        advanced.activations_range_estimator_params = chosen
    data = nncf.Dataset(items)
    common = {
        "preset": presets[recipe.preset],
        "subset_size": min(recipe.subset, len(items)),
        "ignored_scope": nncf.IgnoredScope(names=kept) if kept else None,
        "fast_bias_correction": not recipe.accurate,
    }
    try:
        with _quiet():
            if recipe.control is None:
                return nncf.quantize(model, data, advanced_parameters=advanced, **common)
            return nncf.quantize_with_accuracy_control(
                model,
                data,
                nncf.Dataset(list(zip(items, calibration.maps, strict=True))),
                lambda compiled, pairs: _mask_iou(compiled, pairs, calibration.threshold),
                max_drop=recipe.control,
                drop_type=nncf.DropType.ABSOLUTE,
                advanced_quantization_parameters=advanced,
                **common,
            )
    except (nncf.InternalError, nncf.ValidationError, nncf.UnsupportedModelError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"NNCF cannot quantise the network ({recipe.name})",
            found=str(error).strip()[:200],
            do="Choose another precision.",
        ) from error


def _mask_iou(compiled: Any, pairs: Any, threshold: float) -> float:
    both = either = 0
    for tensor, reference in pairs:
        found = next(iter(compiled(tensor).values()))[0]
        a, b = overlap(reference, found, threshold)
        both, either = both + a, either + b
    return iou(both, either)


def _openvino_layers(model: Any, keep: Keep, size: tuple[int, int]) -> list[str]:
    """Friendly names of the convolutions that stay in floating point."""
    layers = []
    for node in model.get_ordered_ops():
        if node.get_type_name() in {"Convolution", "GroupConvolution"}:
            shape = tuple(int(d) for d in node.get_output_shape(0))
            layers.append((node.get_friendly_name(), shape[2:] == size))
    return _chosen(layers, keep)


def _onnx_layers(model: Any, keep: Keep, size: tuple[int, int]) -> list[str]:
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in model.graph.value_info}
    layers = [
        (node.name, shapes.get(node.output[0], ())[2:] == size) for node in model.graph.node if node.op_type == "Conv"
    ]
    return _chosen(layers, keep)


def _chosen(layers: list[tuple[str, bool]], keep: Keep) -> list[str]:
    match keep:
        case "none":
            return []
        case "first":
            return [layers[0][0]] if len(layers) > 1 else []
        case "outer":
            return [name for name, full in layers if full]


def _nncf() -> Any:
    try:
        import nncf
        import nncf.quantization.range_estimator
    except ImportError as error:
        raise EngineError(
            "INT8 plans need NNCF, which is not installed",
            found=str(error),
            do="Install the extra that builds plans: pip install 'inspector[build]'.",
        ) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF draws its own progress bars on stdout, which belongs to our result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
