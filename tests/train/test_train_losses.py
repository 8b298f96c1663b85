"""Losses by hand, and the location target by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from train.losses import (
    EPS,
    SMOOTH,
    LossConfig,
    difference_loss,
    location_target,
    mask_loss,
    mean_squared_difference,
    soft_dice,
    total_loss,
)
from train.model import Outputs


def test_mask_loss_by_hand() -> None:
    """0.5 BCE + (1 - soft Dice) per image, averaged over the batch, equals the sum written out in plain Python."""
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 1, 3, 4)), rng.integers(0, 2, (2, 1, 3, 4))
    total = 0.0
    for image, truth in zip(logits, target, strict=True):
        bce = both = sizes = 0.0
        for z, t in zip(image.ravel(), truth.ravel(), strict=True):
            p = 1 / (1 + math.exp(-z))
            bce -= t * math.log(p) + (1 - t) * math.log(1 - p)
            both, sizes = both + p * t, sizes + p + t
        total += 0.5 * bce / 12 + 1 - (2 * both + SMOOTH) / (sizes + SMOOTH)
    ours = mask_loss(torch.tensor(logits), torch.tensor(target, dtype=torch.float32))
    assert float(ours) == pytest.approx(total / 2, rel=1e-5)


def test_empty_mask_predicted_empty_costs_nothing() -> None:
    """A sound image judged sound has no Dice loss and no BCE; a single wrong pixel costs."""
    empty, target = torch.full((1, 1, 8, 8), -40.0), torch.zeros(1, 1, 8, 8)
    assert float(mask_loss(empty, target)) == pytest.approx(0, abs=1e-6)
    empty[0, 0, 0, 0] = 40.0
    assert float(mask_loss(empty, target)) > 0.5


def test_batch_dice_by_hand() -> None:
    """Its share of the Dice term counts all pixels of the batch together, so that false pixels of sound images cost."""
    logits, target = torch.randn(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    target[0, 0, :2] = 1
    p = torch.sigmoid(logits)
    whole = (2 * (p * target).sum() + SMOOTH) / (p.sum() + target.sum() + SMOOTH)
    bce = torch.nn.functional.binary_cross_entropy(p, target)
    expected = 0.5 * bce + 1 - 0.3 * soft_dice(logits, target).mean() - 0.7 * whole
    assert float(mask_loss(logits, target, batch_dice=0.7)) == pytest.approx(float(expected), rel=1e-5)
    assert float(mask_loss(logits, target, batch_dice=0.0)) == pytest.approx(float(mask_loss(logits, target)))


def test_losses_stay_finite_and_in_fp32() -> None:
    """Huge bf16 logits give finite FP32 losses and gradients."""
    logits = torch.tensor([[[[300.0, -300.0]]]], dtype=torch.bfloat16, requires_grad=True)
    loss = mask_loss(logits, torch.tensor([[[[0.0, 1.0]]]]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(float(loss.detach()))
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert soft_dice(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16), torch.ones(1, 1, 4, 4)).dtype == torch.float32


def test_difference_loss_by_hand() -> None:
    """Eq. 3: per image 1 / (mean squared difference + eps), averaged."""
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    by_hand = 0.0
    for x, y in zip(a, b, strict=True):
        msd = sum((float(u) - float(v)) ** 2 for u, v in zip(x.ravel(), y.ravel(), strict=True)) / 48
        by_hand += 1 / (msd + EPS) / 2
    assert float(difference_loss(a, b)) == pytest.approx(by_hand, rel=1e-4)
    assert float(difference_loss(a, a)) == pytest.approx(1 / EPS, rel=1e-4)


def test_scale_free_difference_cannot_be_lowered_by_gain() -> None:
    """Ten times larger features lower Eq. 3, but not its scale-free variant."""
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert float(difference_loss(10 * a, 10 * b)) < 0.05 * float(difference_loss(a, b))
    free = mean_squared_difference(a, b, shape_free=True)
    assert torch.allclose(mean_squared_difference(10 * a, 10 * b, shape_free=True), free, rtol=1e-3)


def test_total_is_the_weighted_sum() -> None:
    """1.4 seg + 0.4 loc + 0.2 diff; a part that is absent or switched off adds nothing."""
    logits, location = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    shapes = (torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2))
    mask, boxes = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    parts = total_loss(Outputs(logits, location, shapes), mask, boxes, LossConfig())
    seg, loc = mask_loss(logits, mask), mask_loss(location, boxes)
    assert float(parts.total) == pytest.approx(float(1.4 * seg + 0.4 * loc + 0.2 * difference_loss(*shapes)), rel=1e-5)
    bare = total_loss(Outputs(logits), mask, boxes, LossConfig())
    assert float(bare.total) == pytest.approx(float(1.4 * seg), rel=1e-6)
    off = total_loss(Outputs(logits, location, shapes), mask, boxes, LossConfig(loc=0.0, diff=0.0))
    assert float(off.total) == pytest.approx(float(1.4 * seg), rel=1e-6)


def test_loss_gradients_are_right() -> None:
    """Finite differences agree with the gradient of the difference loss in float64 arithmetic."""
    a = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: (1 / ((x - b).flatten(1).square().mean(1) + EPS)).mean(), (a,), fast_mode=True
    )
    difference_loss(a, b).backward()
    x = a.detach().clone().requires_grad_()
    (1 / ((x - b).flatten(1).square().mean(1) + EPS)).mean().backward()
    assert a.grad is not None
    assert x.grad is not None
    assert torch.allclose(a.grad, x.grad, atol=1e-5)


def slow_location_target(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Flood each defect over its eight neighbours, keep the extremes, fill the rectangle."""
    seen, out = np.zeros(mask.shape, bool), np.zeros(mask.shape, np.uint8)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if not mask[y, x] or seen[y, x]:
                continue
            stack, members = [(y, x)], []
            seen[y, x] = True
            while stack:
                v, u = stack.pop()
                members.append((v, u))
                for dv in (-1, 0, 1):
                    for du in (-1, 0, 1):
                        p, q = v + dv, u + du
                        inside = 0 <= p < mask.shape[0] and 0 <= q < mask.shape[1]
                        if inside and mask[p, q] and not seen[p, q]:
                            seen[p, q] = True
                            stack.append((p, q))
            vs, us = [m[0] for m in members], [m[1] for m in members]
            out[min(vs) : max(vs) + 1, min(us) : max(us) + 1] = 1
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.5))
def test_location_target_equals_loops(seed: int, share: float) -> None:
    """Every 8-connected defect becomes its filled bounding box, diagonal neighbours being one defect."""
    mask = (np.random.default_rng(seed).random((11, 13)) < share).astype(np.uint8)
    assert np.array_equal(location_target(mask), slow_location_target(mask))
