"""Beginning a training with the network of a bundle: the BN that export folded away is put back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from inspector.engine.bundle import Bundle
from train.config import FitConfig
from train.data import Batch
from train.model import LSANet, ModelConfig

HEAD = "lam.head."
"""LAM's head serves training alone: no bundle holds it, so it stays as it was drawn."""
MEASURED_BATCHES = 16
"""From so many of the first epoch's batches BN's statistics are measured."""


def seen_as(config: FitConfig, bundle: Bundle) -> FitConfig:
    """``config`` for a training that begins with ``bundle``: with its hash, and with the normalisation of grey values
    that its weights know. Raises ValueError where the bundle's training made a network of another shape."""
    own = bundle.manifest["training"].get("config", {}).get("model")
    if own is not None and ModelConfig(**own) != config.model:
        raise ValueError(f"{bundle.path} holds a {ModelConfig(**own)}, this training makes a {config.model}")
    return replace(config, mean=bundle.mean, std=bundle.std, started_from=bundle.onnx_sha256)


def begin_with_bundle(network: LSANet, bundle: Bundle, batches: Iterable[Batch]) -> None:
    """Give ``network``, in place, the weights of ``bundle``; LAM's head stays fresh. Left in eval mode.

    ``batches``: images of the training to come. Raises ValueError where a weight is missing or of another shape.
    """
    network.eval()
    unfold(network, bundle_weights(bundle.onnx_path))
    restore_statistics(network, batches)


@torch.no_grad()
def unfold(network: LSANet, weights: dict[str, Tensor]) -> None:
    """Convolutions take their weights, each BN the bias of the conv before it and no scale: in eval mode this is the
    bundle's network. In training it is not yet, as BN then divides by a spread that the weights already contain."""
    taken = set()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not f"{name}.".startswith(HEAD):
            taken.add(f"{name}.weight")
            module.weight.copy_(_checked(weights, f"{name}.weight", module.weight))
            if module.bias is not None:
                taken.add(f"{name}.bias")
                module.bias.copy_(_checked(weights, f"{name}.bias", module.bias))
    for conv, norm in conv_and_norm(network):
        module = network.get_submodule(norm)
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_var is not None
        taken.add(f"{conv}.bias")
        module.reset_parameters()
        module.running_var.fill_(1 - module.eps)
        module.bias.copy_(_checked(weights, f"{conv}.bias", module.bias))
    if left := sorted(weights.keys() - taken):
        raise ValueError(f"the bundle holds weights this network has not: {', '.join(left[:4])}")


@torch.no_grad()
def restore_statistics(network: LSANet, batches: Iterable[Batch]) -> None:
    """Measure what comes out of every convolution before a BN, over ``batches``, in eval mode; make these BN's
    statistics and set its scale and offset to undo them.

    Eval mode gives what it gave before, whatever was measured; training, where BN takes each batch's own statistics,
    now gives nearly the same.
    """
    norms = [network.get_submodule(norm) for _, norm in conv_and_norm(network)]
    sums: dict[nn.Module, Tensor] = {}

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        count = torch.full((x.shape[1],), x.numel() / x.shape[1], dtype=x.dtype)
        found = torch.stack([count, x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
        sums[norm] = sums[norm] + found if norm in sums else found

    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    for batch in batches:
        network(batch.image)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        count, total, squares = sums[norm]
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.add_(mean)


def conv_and_norm(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of each convolution and the BN behind it, as ``train.export.fold_batch_norm`` makes them one."""
    for name, parent in network.named_modules():
        if isinstance(parent, nn.Sequential):
            for (conv, first), (norm, second) in itertools.pairwise(parent.named_children()):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    yield f"{name}.{conv}", f"{name}.{norm}"


def bundle_weights(onnx_path: Path) -> dict[str, Tensor]:
    """Weights by the network's own names, float32, from an ONNX file that ``train.export`` wrote."""
    import onnx

    found: dict[str, Tensor] = {}
    for tensor in onnx.load(onnx_path).graph.initializer:
        prefix, dot, name = tensor.name.removesuffix(".half").partition(".")
        if dot and prefix == "network":  # the rest are sizes of the exporter's own
            found[name] = torch.from_numpy(onnx.numpy_helper.to_array(tensor).astype("float32"))
    mix = "sdm.sppm.mix"
    if f"{mix}.weight" not in found and "sdm.sppm.large.weight" in found:  # exported in two halves
        halves = [found.pop(f"sdm.sppm.{part}.weight") for part in ("large", "small")]
        found[f"{mix}.weight"], found[f"{mix}.bias"] = torch.cat(halves, 1), found.pop("sdm.sppm.large.bias")
    return found


def _checked(weights: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    if name not in weights:
        raise ValueError(f"the bundle holds no {name}; was it exported from this network?")
    if weights[name].shape != like.shape:
        raise ValueError(f"{name} is {tuple(weights[name].shape)} in the bundle, {tuple(like.shape)} in this network")
    return weights[name]
