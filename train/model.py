"""LSA-Net: a U-Net with location attention (LAM), shape attention (SDM = SPPM + LSPM) and feature extraction (FEM).

W. Li et al., "LSA-Net: Location and shape attention network for automatic surface defect segmentation",
Journal of Manufacturing Processes. Tensors are n x channels x height x width; w stands for the width of the
first block (the paper's is 32). Height and width must be multiples of 16, and give the strips of LSPM at least two
rows and columns after three poolings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Strips = Literal["half", "full"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that shapes the network; stands whole in every checkpoint."""

    width: int = 32
    lam: bool = True
    sdm: bool = True
    fem: bool = True
    groups: int = 4
    lspm: Strips = "half"


class Outputs(NamedTuple):
    """What training needs. Inference uses ``logits`` alone."""

    logits: Tensor
    """n x 1 x H x W segmentation logits."""
    location: Tensor | None = None
    """n x 1 x H x W location logits of LAM's head; None without LAM or outside training."""
    shapes: tuple[Tensor, Tensor] | None = None
    """SPPM's V1 and LSPM's V2, n x 12w x H/8 x W/8; None without SDM or outside training."""


def conv_bn_relu(inputs: int, outputs: int, kernel: tuple[int, int] = (3, 3), dilation: int = 1) -> nn.Sequential:
    """Convolution without bias, BN, ReLU; the size stays."""
    padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def vgg_block(inputs: int, outputs: int) -> nn.Sequential:
    """VGG_B of Table 1: [Conv3x3 + BN + ReLU] x 2."""
    return nn.Sequential(*conv_bn_relu(inputs, outputs), *conv_bn_relu(outputs, outputs))


def up_to(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, corners not aligned, to the size of ``like``."""
    size = (int(like.shape[-2]), int(like.shape[-1]))
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def strip_product(x: Tensor, groups: int) -> Tensor:
    """Outer product of the row means and the column means, channel by channel (Eq. 1).

    The groups of the paper hold whole channels and each product stays inside its channel, so the result is the same
    for every number of groups; they are checked and need no arithmetic of their own.
    Average pooling with a whole-row and a whole-column window is the mean; engines run it faster than ReduceMean.
    """
    if x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} channels do not split into {groups} groups")
    height, width = int(x.shape[-2]), int(x.shape[-1])
    return functional.avg_pool2d(x, (1, width)) * functional.avg_pool2d(x, (height, 1))


class LocationAttention(nn.Module):
    """LAM: where the defects are. Its output is added to b1; its head exists for the location loss only."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.show = False
        """True also outside training gives the location logits, to look at."""
        self.reduce = vgg_block(3 * width, width)
        self.mix = nn.Conv2d(width, width, 1)
        self.refine = vgg_block(width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, b1: Tensor, b2: Tensor) -> tuple[Tensor, Tensor | None]:
        """b1 n x w x H x W and b2 n x 2w x H/2 x W/2 -> attention n x w x H x W and, in training, location logits."""
        x = self.mix(self.reduce(torch.cat([b1, up_to(b2, b1)], 1)))
        y = self.refine(strip_product(x, self.groups))
        return y, self.head(y) if self.training or self.show else None


class PyramidPooling(nn.Module):
    """SPPM (Table 2): block-shaped features, by average pooling over 5 x 5 and 3 x 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = vgg_block(channels, channels)
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        self.leave = vgg_block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enter(x)
        large = up_to(functional.avg_pool2d(a, 5, 5), a)
        small = up_to(functional.avg_pool2d(a, 3, 3), a)
        v1: Tensor = self.leave(self.mix(torch.cat([large, small], 1)))
        return v1


class StripPooling(nn.Module):
    """LSPM (Table 3): strip-shaped features, by max pooling over half (or whole) rows and columns."""

    def __init__(self, channels: int, strips: Strips) -> None:
        super().__init__()
        self.parts = 2 if strips == "half" else 1
        self.rows = nn.Sequential(*conv_bn_relu(channels, channels, (1, 3)), *conv_bn_relu(channels, channels, (1, 3)))
        self.columns = nn.Sequential(
            *conv_bn_relu(channels, channels, (3, 1)), *conv_bn_relu(channels, channels, (3, 1))
        )
        self.leave = vgg_block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[-2]), int(x.shape[-1])
        rows = functional.max_pool2d(self.rows(x), (1, width // self.parts))
        columns = functional.max_pool2d(self.columns(x), (height // self.parts, 1))
        v2: Tensor = self.leave(up_to(rows, x) + up_to(columns, x))
        return v2


class ShapeAttention(nn.Module):
    """SDM: SPPM and LSPM side by side on pool(b3) and b4; the fused W replaces b4."""

    def __init__(self, width: int, strips: Strips) -> None:
        super().__init__()
        self.sppm = PyramidPooling(12 * width)
        self.lspm = StripPooling(12 * width, strips)
        self.fuse = vgg_block(24 * width, 8 * width)

    def forward(self, b3_pooled: Tensor, b4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.cat([b3_pooled, b4], 1)
        v1, v2 = self.sppm(x), self.lspm(x)
        return self.fuse(torch.cat([v1, v2], 1)), v1, v2


class FeatureExtraction(nn.Module):
    """FEM: two dilated views (rates 2 and 4) of the deepest features, mixed back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = conv_bn_relu(channels, channels // 4, dilation=2)
        self.far = conv_bn_relu(channels, channels // 4, dilation=4)
        self.mix = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(torch.cat([self.near(x), self.far(x)], 1))
        return mixed


class LSANet(nn.Module):
    """The whole network; with all three modules off it is the plain U-Net of Table 1 ("Base")."""

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or ModelConfig()
        w = c.width
        if w % c.groups:
            raise ValueError(f"width {w} does not split into {c.groups} groups")
        self.b1, self.b2 = vgg_block(1, w), vgg_block(w, 2 * w)
        self.b3, self.b4, self.b5 = vgg_block(2 * w, 4 * w), vgg_block(4 * w, 8 * w), vgg_block(8 * w, 16 * w)
        self.lam = LocationAttention(w, c.groups) if c.lam else None
        self.sdm = ShapeAttention(w, c.lspm) if c.sdm else None
        self.fem = FeatureExtraction(16 * w) if c.fem else None
        self.d4, self.d3 = vgg_block(24 * w, 8 * w), vgg_block(12 * w, 4 * w)
        self.d2, self.d1 = vgg_block(6 * w, 2 * w), vgg_block(3 * w, w)
        self.out = nn.Conv2d(w, 1, 1)

    def forward(self, image: Tensor) -> Outputs:
        """n x 1 x H x W float, normalised; H and W multiples of 16."""
        b1 = self.b1(image)
        b2 = self.b2(functional.max_pool2d(b1, 2))
        skip1, location = b1, None
        if self.lam is not None:
            attention, location = self.lam(b1, b2)
            skip1 = b1 + attention
        b3 = self.b3(functional.max_pool2d(b2, 2))
        b3_pooled = functional.max_pool2d(b3, 2)
        skip4, shapes = self.b4(b3_pooled), None
        if self.sdm is not None:
            skip4, v1, v2 = self.sdm(b3_pooled, skip4)
            shapes = (v1, v2) if self.training else None
        x = self.b5(functional.max_pool2d(skip4, 2))
        if self.fem is not None:
            x = self.fem(x)
        for block, skip in ((self.d4, skip4), (self.d3, b3), (self.d2, b2), (self.d1, skip1)):
            x = block(torch.cat([up_to(x, skip), skip], 1))
        return Outputs(self.out(x), location, shapes)


def parameter_count(model: nn.Module) -> int:
    """Trainable parameters, LAM's head included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def flop_count(model: nn.Module, height: int = 256, width: int = 256) -> int:
    """2 x multiply-adds of all convolutions for one image, LAM's head included (torch's FlopCounterMode)."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training = model.training
    model.train()
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        image = torch.empty(2, 1, height, width)
    meta = LSANet(model.config).to("meta") if isinstance(model, LSANet) else model
    with counter:
        meta(image)
    model.train(was_training)
    return int(counter.get_total_flops()) // 2
