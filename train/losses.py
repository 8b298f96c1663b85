"""Losses in stable forms, always in FP32, and the location target.

loss = 1.4 seg + 0.4 loc + 0.2 diff (LSA-Net, Eq. 3 and 4). Eq. 4 as printed has only the positive term of the BCE
and no reduction over pixels; here stands the full BCE, averaged over pixels, plus Dice, per image, averaged over the
batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from train.model import Outputs
from train.ranks import total_over_ranks

SMOOTH = 1.0
"""Pixels added to both sides of the soft Dice, so that an empty mask predicted empty costs nothing."""
EPS = 1e-3
"""Added to the mean squared difference of V1 and V2 before its reciprocal."""


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Weights of the three parts; 0 leaves a part out (Table 10). ``shape_free`` is the scale-free variant of diff."""

    seg: float = 1.4
    loc: float = 0.4
    diff: float = 0.2
    shape_free: bool = False
    bce_share: float = 0.5
    batch_dice: float = 0.0
    """Share of the Dice term that is taken over the whole batch instead of per image: there, sound images count."""


@dataclass(frozen=True, slots=True)
class LossParts:
    """``total`` carries the gradient; the rest is detached, for logs."""

    total: Tensor
    seg: Tensor
    loc: Tensor
    diff: Tensor
    msd: Tensor
    """Mean squared difference of V1 and V2: watch it, it grows with BN's gain alone."""


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """n x 1 x H x W logits and 0/1 target -> n soft Dice values, sums over each image's pixels in FP32."""
    probability, target = torch.sigmoid(logits.float()).flatten(1), target.float().flatten(1)
    both = (probability * target).sum(1)
    return (2 * both + SMOOTH) / (probability.sum(1) + target.sum(1) + SMOOTH)


def whole_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice over all pixels of the batch together, the shares of other processes included: a scalar."""
    probability, target = torch.sigmoid(logits.float()), target.float()
    sums = torch.stack([(probability * target).sum(), probability.sum(), target.sum()])
    both, found, true = total_over_ranks(sums).unbind()
    return (2 * both + SMOOTH) / (found + true + SMOOTH)


def mask_loss(logits: Tensor, target: Tensor, bce_share: float = 0.5, batch_dice: float = 0.0) -> Tensor:
    """``bce_share`` x BCE + (1 - soft Dice), per image, averaged over the batch: a scalar.

    ``batch_dice`` is the share of the Dice term computed over all pixels of the batch together. Per image, a sound
    image's term is about 1 and flat until almost nothing is predicted in it, so it teaches little; over the batch
    every false pixel costs.
    """
    bce = functional.binary_cross_entropy_with_logits(logits.float(), target.float())
    dice = soft_dice(logits, target).mean()
    if batch_dice:
        dice = (1 - batch_dice) * dice + batch_dice * whole_dice(logits, target)
    return bce_share * bce + 1 - dice


def mean_squared_difference(v1: Tensor, v2: Tensor, shape_free: bool = False) -> Tensor:
    """n values in FP32; ``shape_free`` first scales each image's V1 and V2 to unit mean square."""
    a, b = v1.float().flatten(1), v2.float().flatten(1)
    if shape_free:
        a = a * torch.rsqrt(a.square().mean(1, keepdim=True) + 1e-6)
        b = b * torch.rsqrt(b.square().mean(1, keepdim=True) + 1e-6)
    return (a - b).square().mean(1)


def difference_loss(v1: Tensor, v2: Tensor, shape_free: bool = False) -> Tensor:
    """Eq. 3: 1 / (msd + eps), averaged over the batch."""
    return (1 / (mean_squared_difference(v1, v2, shape_free) + EPS)).mean()


def total_loss(outputs: Outputs, mask: Tensor, boxes: Tensor, config: LossConfig) -> LossParts:
    """All parts for one batch; ``mask`` and ``boxes`` are n x 1 x H x W with 0 and 1."""
    zero = outputs.logits.new_zeros((), dtype=torch.float32)
    seg = mask_loss(outputs.logits, mask, config.bce_share, config.batch_dice)
    loc, diff, msd = zero, zero, zero
    total = config.seg * seg
    if outputs.location is not None:
        loc = mask_loss(outputs.location, boxes, config.bce_share, config.batch_dice)
        total = total + config.loc * loc  # weight 0 keeps the head in the graph, as DDP needs
    if outputs.shapes is not None:
        with torch.no_grad():
            msd = mean_squared_difference(*outputs.shapes).mean()
        if config.diff:
            diff = difference_loss(*outputs.shapes, shape_free=config.shape_free)
            total = total + config.diff * diff
    return LossParts(total, seg.detach(), loc.detach(), diff.detach(), msd.detach())


def location_target(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """H x W mask -> H x W 0/1: the filled axis-aligned bounding box of every 8-connected defect."""
    boxes = np.zeros(mask.shape, np.uint8)
    binary = np.ascontiguousarray(mask != 0).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    for label in range(1, count):
        x, y, width, height = (int(v) for v in stats[label, :4])
        boxes[y : y + height, x : x + width] = 1
    return boxes
