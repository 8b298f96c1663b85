"""Quantisation-aware fine-tuning: rounding as INT8 plans round, and a network that learns to live with it."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from train_helpers import small

from train.__main__ import main
from train.checkpoint import Progress, load_network, save
from train.data import load_items
from train.model import LSANet, ModelConfig
from train.qat import Plan, agreement, distance, tune
from train.rounding import InputRounding, Rounded, WeightRounding
from train.split import Split, make_split


@pytest.fixture(scope="module")
def trained(plain_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its split beside it; weights at random, for what is asked here needs no skill."""
    out, config = tmp_path_factory.mktemp("qat"), small()
    split = make_split(load_items(plain_set, "folder", 64), "folder", "grouped", 0.25, 0)
    split.write(out / "split.json")
    torch.manual_seed(0)
    network = LSANet(config.model)
    with torch.no_grad():
        network.out.weight *= 8  # maps that reach from 0 to 1
    save(out / "best.pt", config, network.state_dict(), Progress(), split.sha256)
    return out / "best.pt"


class TestRounding:
    def test_a_tensor_keeps_256_values(self) -> None:
        """Over the range seen; zero stays zero, as padding needs it."""
        rounding = InputRounding()
        x = torch.linspace(-1.0, 3.0, 4096).reshape(1, 1, 64, 64)
        y = rounding(x)
        assert len(y.unique()) <= 256
        assert float((y - x).abs().max()) <= 4.0 / 255
        assert float(rounding(torch.zeros_like(x)).abs().max()) == 0.0

    def test_a_still_range_clips(self) -> None:
        """Once it does not look, larger values end at the range, and no gradient passes there."""
        rounding = InputRounding()
        rounding(torch.ones(1, 1, 4, 4))
        rounding.looking = False
        x = torch.full((1, 1, 4, 4), 5.0, requires_grad=True)
        y = rounding(x)
        assert float(y.detach().max()) == pytest.approx(1.0)
        y.sum().backward()
        assert x.grad is not None
        assert float(x.grad.abs().max()) == 0.0

    def test_weights_have_a_scale_a_channel(self) -> None:
        """A small channel beside a large one keeps its own 255 levels, and the gradient passes whole."""
        weight = torch.randn(2, 3, 3, 3, requires_grad=True)
        scaled = weight * torch.tensor([1.0, 1e-3])[:, None, None, None]
        rounded = WeightRounding()(scaled)
        for channel in range(2):
            largest = float(scaled[channel].detach().abs().max())
            assert float((rounded - scaled)[channel].detach().abs().max()) <= largest / 127 / 2 * 1.01
        rounded.sum().backward()
        assert weight.grad is not None

    def test_removing_leaves_the_network_as_it_was(self) -> None:
        """Weights, names and maps; only while rounding stands in it the maps differ."""
        torch.manual_seed(0)
        network = LSANet(ModelConfig(4)).eval()
        image = torch.randn(1, 1, 64, 64)
        with torch.no_grad():
            plain, names = network(image).logits, set(network.state_dict())
            rounded = Rounded(network)
            assert not torch.equal(network(image).logits, plain)
            rounded.remove()
            assert torch.equal(network(image).logits, plain)
        assert set(network.state_dict()) == names

    def test_the_first_convolution_is_left_alone(self) -> None:
        """INT8 plans keep it in floating point."""
        network = LSANet(ModelConfig(4)).eval()
        Rounded(network)
        convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert [hasattr(conv, "parametrizations") for conv in convs[:3]] == [False, True, True]


def test_distance_is_zero_only_where_maps_agree() -> None:
    """The loss has nothing left to want once the maps are equal, and grows with the difference."""
    logits = torch.randn(1, 1, 8, 8)
    target = torch.sigmoid(logits)
    assert float(distance(logits, target)) == pytest.approx(0.0, abs=1e-6)
    assert float(distance(logits + 1, target)) > float(distance(logits + 0.1, target)) > 0


def test_agreement_is_over_all_images() -> None:
    """Intersections over unions, summed."""
    a, b = np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 4), np.float32)
    a[0, :2], b[0, :1] = 1, 1
    assert agreement(b, a).mask_iou == pytest.approx(0.5)
    assert agreement(a, a).mask_iou == 1.0


def test_fine_tuning_brings_8_bits_nearer_to_fp32(trained: Path, plain_set: Path, tmp_path: Path) -> None:
    """After it the rounded maps are nearer to the teacher's; the checkpoint is one like any other."""
    tuned = tune(trained, plain_set, tmp_path / "tuned", Plan(steps=20, learning_rate=3e-4, threads=1))
    assert tuned.steps == 20
    assert tuned.after.mean_abs_diff < tuned.before.mean_abs_diff
    assert tuned.drift.mean_abs_diff < 0.05
    network, config, _ = load_network(tmp_path / "tuned" / "best.pt")
    assert config.started_from
    before = load_network(trained)[0].state_dict()
    for name, value in network.state_dict().items():
        if "running" in name:  # statistics stay, weights have moved
            assert torch.equal(value, before[name])
    assert not torch.equal(network.d1[0].weight, before["d1.0.weight"])
    notes = tomllib.loads((tmp_path / "tuned" / "notes.toml").read_text())["quantisation_aware"]
    assert notes["after"]["mask_iou"] == tuned.after.mask_iou


def test_a_step_of_no_length_changes_nothing(trained: Path, plain_set: Path, tmp_path: Path) -> None:
    """With a learning rate of 0 the weights that come out are those that went in."""
    tuned = tune(trained, plain_set, tmp_path / "tuned", Plan(steps=3, learning_rate=0.0, threads=1))
    assert tuned.drift.mean_abs_diff == 0.0
    assert tuned.after.mean_abs_diff == pytest.approx(tuned.before.mean_abs_diff, rel=1e-6)


def test_another_split_is_refused(trained: Path, plain_set: Path, tmp_path: Path) -> None:
    """A split that is not the checkpoint's would let it learn from its validation side."""
    for name in ("best.pt", "split.json"):
        shutil.copyfile(trained.parent / name, tmp_path / name)
    told = json.loads((tmp_path / "split.json").read_text())
    told["train"], told["validation"] = told["validation"], told["train"]
    del told["sha256"]
    Split(**{**told, "train": tuple(told["train"]), "validation": tuple(told["validation"])}).write(
        tmp_path / "split.json"
    )
    with pytest.raises(ValueError, match="not the split"):
        tune(tmp_path / "best.pt", plain_set, tmp_path / "out", Plan(steps=1))


def test_the_command_says_what_it_did(trained: Path, plain_set: Path, tmp_path: Path, capsys: object) -> None:
    """`python -m train qat` prints the agreement before and after."""
    words = ["qat", "--checkpoint", str(trained), "--data", str(plain_set), "--out", str(tmp_path / "out")]
    assert main([*words, "--steps", "1", "--threads", "1"]) == 0
    assert "8 bits to FP32, after" in capsys.readouterr().out  # type: ignore[attr-defined]
