"""The network against its specification and against slow, obvious references."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from train.model import (
    FeatureExtraction,
    LocationAttention,
    LSANet,
    ModelConfig,
    PyramidPooling,
    ShapeAttention,
    StripPooling,
    flop_count,
    parameter_count,
    strip_product,
    up_to,
)
from train.summary import rows

BASE, LAM, SDM, FULL = (False, False, False), (True, False, False), (True, True, False), (True, True, True)


@pytest.mark.parametrize(
    ("width", "modules", "parameters", "gflop"),
    [
        (32, BASE, 7_849_025, 27.83),
        (32, LAM, 7_905_666, 35.21),
        (32, SDM, 20_301_058, 60.58),
        (32, FULL, 21_612_802, 61.25),
        (16, BASE, 1_963_809, 6.97),
        (16, LAM, 1_978_050, 8.81),
        (16, SDM, 5_079_170, 15.16),
        (16, FULL, 5_407_362, 15.32),
        (8, BASE, 491_729, 1.75),
        (8, LAM, 495_330, 2.21),
        (8, SDM, 1_271_746, 3.79),
        (8, FULL, 1_353_922, 3.84),
    ],
)
def test_size_is_the_specified_one(width: int, modules: tuple[bool, bool, bool], parameters: int, gflop: float) -> None:
    """Parameters are exact, FLOPs to the digits of the specification, for every row of its table."""
    model = LSANet(ModelConfig(width, *modules))
    assert parameter_count(model) == parameters
    assert round(flop_count(model) / 1e9, 2) == gflop


def test_paper_size_within_half_a_percent() -> None:
    """The paper-width network keeps to the paper's 21.60 M parameters; its 61.60 GFLOP are met to 0.6 %."""
    model = LSANet()
    assert abs(parameter_count(model) / 21.60e6 - 1) < 0.005
    assert abs(flop_count(model) / 61.60e9 - 1) < 0.006


def test_summary_adds_up() -> None:
    """The layer table's parameters and FLOPs sum to the whole network's."""
    config = ModelConfig(8)
    table = rows(config)
    assert sum(row[2] for row in table) == parameter_count(LSANet(config))
    assert sum(row[3] for row in table) == pytest.approx(flop_count(LSANet(config)) / 1e9, rel=1e-9)


def slow_strip_product(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Eq. 1 by loops: split in groups, mean of each row and of each column, outer product, concatenate."""
    n, channels, height, width = x.shape
    size = channels // groups
    parts = []
    for g in range(groups):
        part = x[:, g * size : (g + 1) * size]
        out = torch.empty_like(part)
        for i in range(n):
            for c in range(size):
                for y in range(height):
                    row = sum(part[i, c, y, k] for k in range(width)) / width
                    for k in range(width):
                        column = sum(part[i, c, j, k] for j in range(height)) / height
                        out[i, c, y, k] = row * column
        parts.append(out)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_strip_product_equals_loops(groups: int) -> None:
    """Row means times column means, channel by channel, whatever the number of groups."""
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(strip_product(x, groups), slow_strip_product(x, groups), atol=1e-12)


def test_strip_product_refuses_uneven_groups() -> None:
    """Channels that do not split evenly are a programming error."""
    with pytest.raises(ValueError, match="groups"):
        strip_product(torch.zeros(1, 6, 4, 4), 4)


def slow_up(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear without aligned corners, pixel by pixel."""
    out = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype)
    for y in range(height):
        for k in range(width):
            v = min(max((y + 0.5) * x.shape[2] / height - 0.5, 0), x.shape[2] - 1)
            u = min(max((k + 0.5) * x.shape[3] / width - 0.5, 0), x.shape[3] - 1)
            top, left = int(v), int(u)
            low, right = min(top + 1, x.shape[2] - 1), min(left + 1, x.shape[3] - 1)
            b, a = v - top, u - left
            out[:, :, y, k] = (1 - b) * ((1 - a) * x[:, :, top, left] + a * x[:, :, top, right]) + b * (
                (1 - a) * x[:, :, low, left] + a * x[:, :, low, right]
            )
    return out


def test_up_equals_loops() -> None:
    """``up`` is bilinear with pixel centres at half positions, for strips too."""
    for shape in ((3, 4), (6, 2), (1, 8)):
        x = torch.randn(1, 2, *shape, dtype=torch.float64)
        assert torch.allclose(up_to(x, torch.empty(1, 1, 8, 8)), slow_up(x, 8, 8), atol=1e-12)


@pytest.mark.parametrize(("strips", "parts"), [("half", 2), ("full", 1)])
def test_strip_pooling_equals_loops(strips: str, parts: int) -> None:
    """LSPM takes the maximum over half (or whole) rows and columns of its two branches, adds them and blends."""
    torch.manual_seed(0)
    module = StripPooling(4, strips).double().eval()  # type: ignore[arg-type]
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    rows_in, columns_in = module.rows(x), module.columns(x)
    rows_out = torch.empty(1, 4, 8, parts, dtype=torch.float64)
    columns_out = torch.empty(1, 4, parts, 8, dtype=torch.float64)
    step = 8 // parts
    for c in range(4):
        for y in range(8):
            for p in range(parts):
                rows_out[0, c, y, p] = max(rows_in[0, c, y, k] for k in range(p * step, (p + 1) * step))
                columns_out[0, c, p, y] = max(columns_in[0, c, k, y] for k in range(p * step, (p + 1) * step))
    expected = module.leave(slow_up(rows_out, 8, 8) + slow_up(columns_out, 8, 8))
    assert torch.allclose(module(x), expected, atol=1e-10)


def test_pyramid_pooling_equals_loops() -> None:
    """SPPM averages 5 x 5 and 3 x 3 fields (those that fit), brings both back to size and mixes them."""
    torch.manual_seed(0)
    module = PyramidPooling(3).double().eval()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    a = module.enter(x)
    pooled = []
    for field in (5, 3):
        count = 16 // field
        out = torch.empty(1, 3, count, count, dtype=torch.float64)
        for c in range(3):
            for y in range(count):
                for k in range(count):
                    out[0, c, y, k] = a[0, c, y * field : (y + 1) * field, k * field : (k + 1) * field].sum() / field**2
        pooled.append(slow_up(out, 16, 16))
    assert torch.allclose(module(x), module.leave(module.mix(torch.cat(pooled, 1))), atol=1e-10)


def test_feature_extraction_is_two_dilated_views() -> None:
    """FEM's branches see rates 2 and 4 at a quarter of the channels each, then mix back to all of them."""
    module = FeatureExtraction(16)
    near, far = module.near[0], module.far[0]
    assert isinstance(near, nn.Conv2d)
    assert isinstance(far, nn.Conv2d)
    assert (near.dilation, far.dilation) == ((2, 2), (4, 4))
    assert near.out_channels == far.out_channels == 4
    assert module.mix.in_channels == 8
    assert module(torch.zeros(2, 16, 16, 16)).shape == (2, 16, 16, 16)


def test_lam_is_added_to_the_first_skip() -> None:
    """With LAM's output forced to zero the network is exactly the one without LAM."""
    torch.manual_seed(0)
    with_lam = LSANet(ModelConfig(8, True, False, False)).eval()
    without = LSANet(ModelConfig(8, False, False, False)).eval()
    without.load_state_dict({k: v for k, v in with_lam.state_dict().items() if not k.startswith("lam.")})
    assert with_lam.lam is not None
    last_norm = with_lam.lam.refine[4]
    nn.init.zeros_(last_norm.weight)  # type: ignore[arg-type]
    nn.init.zeros_(last_norm.bias)  # type: ignore[arg-type]
    x = torch.randn(1, 1, 64, 64)
    assert torch.equal(with_lam(x).logits, without(x).logits)


def test_shape_attention_replaces_b4() -> None:
    """SDM sees pool(b3) and b4 as 12w channels, and its W has b4's 8w."""
    module = ShapeAttention(4, "half").eval()
    w, v1, v2 = module(torch.randn(1, 16, 8, 8), torch.randn(1, 32, 8, 8))
    assert w.shape == (1, 32, 8, 8)
    assert v1.shape == v2.shape == (1, 48, 8, 8)


def test_auxiliary_outputs_only_in_training() -> None:
    """Inference has one output; location map and V1, V2 exist in training."""
    model = LSANet(ModelConfig(8))
    x = torch.randn(2, 1, 64, 64)
    out = model.train()(x)
    assert out.location.shape == out.logits.shape == (2, 1, 64, 64)
    assert out.shapes[0].shape == out.shapes[1].shape == (2, 96, 8, 8)
    out = model.eval()(x)
    assert out.location is None
    assert out.shapes is None


@pytest.mark.parametrize("piece", ["lam", "strips", "pyramid", "fem"])
def test_gradients_are_right(piece: str) -> None:
    """Analytic gradients of each module agree with finite differences in float64."""
    torch.manual_seed(3)
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    if piece == "lam":
        lam = LocationAttention(4, 4).double().eval()
        b2 = torch.randn(1, 8, 4, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda a, b: lam(a, b)[0], (x, b2), fast_mode=True)
        return
    modules: dict[str, nn.Module] = {
        "strips": StripPooling(4, "half"),
        "pyramid": PyramidPooling(4),
        "fem": FeatureExtraction(4),
    }
    module = modules[piece].double().eval()
    assert torch.autograd.gradcheck(module, (x,), fast_mode=True)
