"""Checkpoint -> ONNX -> bundle: BN folded, sigmoid inside, one input, one output, parity against torch proven."""

from __future__ import annotations

import copy
import itertools
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from train.model import LocationAttention, LSANet, PyramidPooling, up_to

OPSET = 18
"""TensorRT 10 and 11, OpenVINO and onnxruntime all read it."""
PARITY_LIMIT = 1e-4
"""Largest allowed difference of a probability between torch and onnxruntime, FP32."""
INPUT, OUTPUT = "image", "probability"
Net = TypeVar("Net", bound=nn.Module)


def fold_batch_norm(module: Net) -> Net:
    """A copy in which every Conv + BN pair of a Sequential is one convolution. Eval mode only."""
    folded = copy.deepcopy(module).eval()
    for parent in list(folded.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        layers = list(parent.named_children())
        for (name, conv), (norm_name, norm) in itertools.pairwise(layers):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return folded


class StripsFirst(nn.Module):
    """LAM with its 1x1 convolution behind the strip means instead of before them.

    Both are linear, so it is the same arithmetic, on H + W pixels instead of H x W.
    """

    def __init__(self, lam: LocationAttention) -> None:
        super().__init__()
        self.reduce, self.mix, self.refine = lam.reduce, lam.mix, lam.refine

    def forward(self, b1: Tensor, b2: Tensor) -> tuple[Tensor, None]:
        x = self.reduce(torch.cat([b1, up_to(b2, b1)], 1))
        height, width = int(x.shape[-2]), int(x.shape[-1])
        rows, columns = functional.avg_pool2d(x, (1, width)), functional.avg_pool2d(x, (height, 1))
        return self.refine(self.mix(rows) * self.mix(columns)), None


class MixFirst(nn.Module):
    """SPPM with its 1x1 convolution before the upsampling instead of behind it, one part for each pooling.

    The weights of an interpolated pixel add up to 1, so bias and channels may be mixed first.
    """

    def __init__(self, sppm: PyramidPooling) -> None:
        super().__init__()
        self.enter, self.leave = sppm.enter, sppm.leave
        self.large, self.small = _halves(sppm.mix)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enter(x)
        large = up_to(self.large(functional.avg_pool2d(a, 5, 5)), a)
        small = up_to(self.small(functional.avg_pool2d(a, 3, 3)), a)
        v1: Tensor = self.leave(large + small)
        return v1


def _halves(conv: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A 1x1 convolution of two stacked inputs as two whose results are added; the first has the bias."""
    channels = conv.in_channels // 2
    first, second = (nn.Conv2d(channels, conv.out_channels, 1, bias=bias) for bias in (True, False))
    first.weight, second.weight = (
        nn.Parameter(part.clone()) for part in torch.split(conv.weight.detach(), channels, 1)
    )
    first.bias = conv.bias
    return first, second


class Inference(nn.Module):
    """What is exported: image in, probability out, with what can be computed cheaper at the same arithmetic."""

    def __init__(self, network: LSANet) -> None:
        super().__init__()
        self.network = folded = fold_batch_norm(network)
        if folded.lam is not None:
            folded.lam = StripsFirst(folded.lam)  # type: ignore[assignment]
        if folded.sdm is not None:
            folded.sdm.sppm = MixFirst(folded.sdm.sppm)  # type: ignore[assignment]

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.network(image).logits)


def to_onnx(network: LSANet, height: int, width: int, dynamic_batch: bool = False) -> bytes:
    """The self-contained ONNX file: 1 x 1 x H x W (or n x 1 x H x W) float32 -> the same."""
    import onnx

    example = torch.zeros(2 if dynamic_batch else 1, 1, height, width)
    shapes = {"image": {0: torch.export.Dim("n", min=1, max=64)}} if dynamic_batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on its own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # and on torchvision, which is not needed
        program = torch.onnx.export(
            Inference(network).eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for each in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        each.doc_string = ""
        del each.metadata_props[:]  # source lines and paths of the exporting machine
    del model.graph.metadata_props[:], model.metadata_props[:], model.graph.value_info[:]
    model.graph.doc_string = ""
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def half_weights(onnx_bytes: bytes) -> bytes:
    """Weights of 16 and more values stored as FP16 and cast back to FP32 where they are used: half the file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_model_from_string(onnx_bytes)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < 16:
            continue
        name = tensor.name
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=TensorProto.FLOAT))
    for number, node in enumerate(casts):
        model.graph.node.insert(number, node)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def run_onnx(onnx_bytes: bytes, tensors: NDArray[np.float32]) -> NDArray[np.float32]:
    """n x 1 x H x W -> probabilities, one image at a time, FP32 on the CPU by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    maps = [session.run([OUTPUT], {INPUT: tensors[i : i + 1]})[0] for i in range(len(tensors))]
    return np.asarray(np.concatenate(maps), np.float32)


@dataclass(frozen=True, slots=True)
class Parity:
    """Torch against the exported file, FP32, on the images named."""

    images: int
    max_abs_diff: float
    mean_abs_diff: float
    flipped_pixels: int
    """Pixels on the other side of the threshold."""

    def facts(self, weights: str) -> dict[str, Any]:
        """For the manifest."""
        return {
            "against": f"torch {torch.__version__} eager, float32",
            "images": self.images,
            "max_abs_diff": self.max_abs_diff,
            "mean_abs_diff": self.mean_abs_diff,
            "flipped_pixels": self.flipped_pixels,
            "limit": PARITY_LIMIT,
            "stored_weights": weights,
        }


@torch.no_grad()
def parity(network: LSANet, onnx_bytes: bytes, tensors: NDArray[np.float32], threshold: float = 0.5) -> Parity:
    """Largest and mean difference of the probability maps; the network as trained, BN not folded."""
    network = network.eval()
    torch_maps = np.concatenate(
        [torch.sigmoid(network(torch.from_numpy(tensors[i : i + 1])).logits).numpy() for i in range(len(tensors))]
    )
    onnx_maps = run_onnx(onnx_bytes, tensors)
    gap = np.abs(torch_maps.astype(np.float64) - onnx_maps)
    flipped = int(np.count_nonzero((torch_maps >= threshold) != (onnx_maps >= threshold)))
    return Parity(len(tensors), float(gap.max()), float(gap.mean()), flipped)


def export_checked(
    network: LSANet, tensors: Sequence[NDArray[np.float32]], threshold: float, dynamic_batch: bool = False
) -> tuple[bytes, dict[str, Any]]:
    """The ONNX file and its parity facts; FP16-stored weights where they stay within the limit, else FP32.

    Raises RuntimeError where even FP32 weights miss the limit: such a file must not be shipped.
    """
    images = np.concatenate(list(tensors))
    full = to_onnx(network, images.shape[2], images.shape[3], dynamic_batch)
    half = half_weights(full)
    tried = parity(network, half, images, threshold)
    if tried.max_abs_diff < PARITY_LIMIT:
        return half, tried.facts("float16")
    exact = parity(network, full, images, threshold)
    if exact.max_abs_diff >= PARITY_LIMIT:
        raise RuntimeError(f"ONNX differs from torch by {exact.max_abs_diff:.2e}, limit {PARITY_LIMIT:.0e}")
    facts = exact.facts("float32")
    facts["float16_weights_max_abs_diff"] = tried.max_abs_diff  # why they were not taken
    return full, facts
