"""8-bit rounding inside a float network, as INT8 plans compute: what quantisation-aware fine-tuning trains through.

Inputs of convolutions are rounded to 256 levels over one range a tensor, weights to 255 symmetric levels a channel:
the rules of NNCF for OpenVINO's CPU plug-in (``inspector.engine.int8``). Weights before a BN are rounded unfolded,
which is the same: one scale a channel. The first convolution is left out, as INT8 plans may (recipe "first kept").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

SLOWLY = 0.95
"""How much of the range so far stays at each look."""


class InputRounding(nn.Module):
    """Rounds a tensor to 256 levels over the mean of its images' smallest and largest values, as seen so far."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.seen = 0.0, 0.0, False
        self.looking = True
        """Whether the range follows what is seen."""

    def forward(self, x: Tensor) -> Tensor:
        if self.looking or not self.seen:
            self._look(x.detach())
        scale = max(self.high - self.low, 1e-8) / 255
        zero = min(max(round(-self.low / scale), 0), 255)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)

    def _look(self, x: Tensor) -> None:
        flat = x.flatten(1)
        low, high = min(float(flat.amin(1).mean()), 0.0), max(float(flat.amax(1).mean()), 0.0)
        keep = SLOWLY if self.seen else 0.0
        self.low, self.high = keep * self.low + (1 - keep) * low, keep * self.high + (1 - keep) * high
        self.seen = True


class WeightRounding(nn.Module):
    """Rounds a kernel to -127..127 steps of its channel's largest weight; the gradient passes."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().abs().flatten(1).amax(1).clamp(min=1e-8) / 127
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


class Rounded:
    """A network with rounding in it, until ``remove``. Its own weights are trained."""

    def __init__(self, network: nn.Module) -> None:
        self._convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)][1:]
        self._inputs = [InputRounding() for _ in self._convs]
        self._hooks = []
        for conv, rounding in zip(self._convs, self._inputs, strict=True):
            parametrize.register_parametrization(conv, "weight", WeightRounding())
            self._hooks.append(conv.register_forward_pre_hook(_hook(rounding)))

    @contextmanager
    def still(self) -> Iterator[None]:
        """Ranges do not follow what is shown meanwhile: for judging."""
        for rounding in self._inputs:
            rounding.looking = False
        try:
            yield
        finally:
            for rounding in self._inputs:
                rounding.looking = True

    def remove(self) -> None:
        """The plain float network again, with the weights as trained, not rounded."""
        for conv, hook in zip(self._convs, self._hooks, strict=True):
            hook.remove()
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=False)


def _hook(rounding: InputRounding) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    return lambda conv, given: (rounding(given[0]),)
