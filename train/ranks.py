"""Several processes, one network: sums over all of them, so that a batch counts as one batch wherever it lies."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

Network = TypeVar("Network", bound=nn.Module)


def world_size() -> int:
    """Processes of this training; 1 outside ``torchrun``."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total_over_ranks(x: Tensor) -> Tensor:
    """Elementwise sum over the processes, with its gradient; every process must call it in the same order."""
    if world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    summed: Tensor = all_reduce(x)  # type: ignore[no-untyped-call]
    return summed


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose mean and variance in training are those of all processes' images together.

    For processes on a CPU, where torch's SyncBatchNorm does not run. Every process must hold equally many images.
    """

    def forward(self, x: Tensor) -> Tensor:
        """n x C x H x W of this process -> the same, normalised over every process's n x H x W."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        count = x.numel() // x.shape[1] * world_size()
        values = x.float()
        mean = total_over_ranks(values.sum((0, 2, 3))) / count
        centred = values - mean[None, :, None, None]
        variance = total_over_ranks(centred.square().sum((0, 2, 3))) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * (count / (count - 1)), momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised = centred * scale[None, :, None, None] + self.bias[None, :, None, None]
        return normalised.to(x.dtype)


def with_global_statistics(network: Network, cuda: bool) -> Network:
    """The network with BN over all processes' images: torch's SyncBatchNorm on GPUs, the one above on a CPU.

    In place where it can; names and values of parameters and statistics stay.
    """
    if world_size() == 1:
        return network
    if cuda:
        synced: Network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synced
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d  # same data, another forward
    return network


@torch.no_grad()
def mean_over_ranks(values: Tensor) -> Tensor:
    """For logs: the mean over the processes, each of which holds an equal share of the batch."""
    if world_size() == 1:
        return values
    summed = values.detach().clone()
    distributed.all_reduce(summed)
    return summed / world_size()
