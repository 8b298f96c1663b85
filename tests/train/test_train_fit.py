"""The loop: learns, resumes bit for bit, repeats itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from train_helpers import draw_set, small

from train.ablate import LOSSES, MODULES, ablate, row
from train.checkpoint import load, load_network
from train.config import AugmentConfig, recipe
from train.data import load_items, make_batch
from train.fit import Average, fit, learning_rate, make_fabric, make_optimiser, validate
from train.losses import LossConfig, location_target, total_loss
from train.model import LSANet, ModelConfig


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_resume_is_bit_exact(plain_set: Path, tmp_path: Path, precision: Any) -> None:
    """A run that was cut after two epochs and resumed ends with the very weights of one that was not."""
    config = small(precision=precision)
    fit(config, plain_set, tmp_path / "whole")
    fit(config, plain_set, tmp_path / "cut", stop_after=2)
    assert load(tmp_path / "cut/last.pt")["progress"]["epoch"] == 2
    fit(small(seed=99), plain_set, tmp_path / "cut", resume=True)  # its own configuration wins
    whole, cut = load(tmp_path / "whole/last.pt"), load(tmp_path / "cut/last.pt")
    assert same(whole["model"], cut["model"])
    assert same(whole["average"], cut["average"])
    assert whole["config"] == cut["config"]
    for a, b in zip(whole["progress"]["history"], cut["progress"]["history"], strict=True):
        assert {k: v for k, v in a.items() if k != "images_per_s"} == {
            k: v for k, v in b.items() if k != "images_per_s"
        }


def test_same_seed_same_weights(plain_set: Path, tmp_path: Path) -> None:
    """Two runs with one seed are equal to the last bit, a third with another seed is not."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(small(epochs=1, seed=seed), plain_set, tmp_path / name)
    a, b, c = (load(tmp_path / name / "last.pt")["model"] for name in "abc")
    assert same(a, b)
    assert not same(a, c)


def test_checkpoint_carries_everything(plain_set: Path, tmp_path: Path) -> None:
    """Configuration, split hash, optimiser and history stand in last.pt; best.pt loads as a network by itself."""
    config = small(epochs=2)
    progress = fit(config, plain_set, tmp_path)
    data = load(tmp_path / "last.pt")
    assert data["split_sha256"] == json.loads((tmp_path / "split.json").read_text())["sha256"]
    assert data["optimiser"]["state"]
    assert len(data["progress"]["history"]) == 2
    network, loaded, _ = load_network(tmp_path / "best.pt")
    assert loaded == config
    assert not network.training
    assert progress.best_iou == max(r["iou"] for r in progress.history)
    assert list((tmp_path / "tensorboard").iterdir())


def test_training_begins_with_given_weights(plain_set: Path, tmp_path: Path) -> None:
    """``init`` takes over another training's weights, and the checkpoint names where they came from."""
    fit(small(epochs=1), plain_set, tmp_path / "first")
    given = tmp_path / "first/best.pt"
    fit(small(epochs=1, learning_rate=0.0), plain_set, tmp_path / "second", init=given)
    data = load(tmp_path / "second/last.pt")
    weights = {k: v for k, v in load_network(given)[0].state_dict().items() if k.endswith("0.weight")}
    assert weights
    assert all(torch.equal(data["model"][k], v) for k, v in weights.items())
    assert data["config"]["started_from"] == hashlib.sha256(given.read_bytes()).hexdigest()


@pytest.mark.slow
def test_two_processes_learn_as_one(plain_set: Path, tmp_path: Path) -> None:
    """torchrun with two processes (gloo, CPU): the loss curve, the validation figures and the weights are those of
    one process with the same global batch; one checkpoint, one result line.

    By SGD: AdamW's first steps divide each gradient by its own size, so that rounding alone parts two runs.
    """
    config = small(epochs=2, loss=LossConfig(bce_share=1.0, batch_dice=0.5), ema=0.0, optimiser="sgd")
    one = fit(config, plain_set, tmp_path / "one")
    told = two_processes(plain_set, tmp_path / "two", tmp_path / "out.txt")
    assert told.count("best validation IoU") == 1
    two = load(tmp_path / "two/last.pt")
    assert two["progress"]["step"] == one.step == 10
    for a, b in zip(one.history, two["progress"]["history"], strict=True):
        for name in ("total", "seg", "loc", "diff", "msd", "iou", "dice", "escapes", "overkill"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), name
    alone = load(tmp_path / "one/last.pt")["model"]
    for name, value in alone.items():
        if name.endswith(("running_mean", "running_var")):
            assert torch.allclose(two["model"][name], value, rtol=1e-2, atol=1e-2), name


def two_processes(data: Path, out: Path, log: Path) -> str:
    """``fit`` with the recipe of ``small``, two epochs, under torchrun; what was printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "train"]
    command += ["fit", "--data", str(data), "--layout", "folder", "--out", str(out), "--recipe", "fast"]
    command += ["--width", "4", "--batch", "4", "--epochs", "2", "--precision", "f32", "--threads", "1"]
    command += ["--ema", "0", "--optimiser", "sgd"]
    for setting in ("size=64", "warmup_steps=2", "loss.bce_share=1", "loss.batch_dice=0.5"):
        command += ["--set", setting]
    root = Path(__file__).resolve().parents[2]
    with log.open("w") as file:
        group = subprocess.Popen(command, cwd=root, stdout=file, stderr=file, start_new_session=True)
        try:
            code = group.wait(timeout=200)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group.pid, signal.SIGKILL)  # the workers too, or they would outlive a failed test
    told = log.read_text()
    assert code == 0, told
    return told


def test_validation_counts_the_whole_side(plain_set: Path) -> None:
    """IoU is a quotient of sums over all images, not a mean over batches: the same whatever the batches hold."""
    items = load_items(plain_set, "folder", 64)
    uneven = [*[i for i in items if i.defective][:9], *[i for i in items if not i.defective][:10]]  # batches of 16, 3
    torch.manual_seed(1)
    network = LSANet(ModelConfig(4)).eval()
    with torch.no_grad():
        network.out.bias.fill_(
            float(-network(make_batch([(i.image, i.mask) for i in uneven], 0.5, 0.25).image)[0].mean())
        )
    config = small()
    told = validate(network, uneven, config, make_fabric(config))
    batch = make_batch([(i.image, i.mask) for i in uneven], config.mean, config.std)
    with torch.no_grad():
        found = network(batch.image).logits > 0
    mask = batch.mask > 0
    inter, union = (found & mask).flatten(1).sum(1).double(), (found | mask).flatten(1).sum(1).double()
    assert told["iou"] == pytest.approx(float(inter.sum() / union.sum()), rel=1e-3)
    halves = [float(inter[part].sum() / union[part].sum()) for part in (slice(0, 16), slice(16, 19))]
    assert abs(sum(halves) / 2 - told["iou"]) > 0.01  # a mean of means would be something else here
    dice = torch.where(union > 0, 2 * inter / (inter + union).clamp(min=1), 0.0)
    assert told["dice"] == pytest.approx(float(dice.mean()), rel=1e-3)
    assert told["escapes"] == pytest.approx(float((~found[:9].flatten(1).any(1)).double().mean()))
    assert told["overkill"] == pytest.approx(float(found[9:].flatten(1).any(1).double().mean()))


def test_time_limit_is_for_one_process(plain_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes would read several clocks, part ways and wait for each other for ever: refused."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        fit(small(max_minutes=1.0), plain_set, tmp_path)


def test_resume_refuses_another_split(plain_set: Path, tmp_path: Path) -> None:
    """Going on with other sides would mix training and validation images."""
    fit(small(epochs=2), plain_set, tmp_path, stop_after=1)
    (tmp_path / "split.json").unlink()
    from train.split import make_split

    other = make_split(load_items(plain_set, "folder", 64), "folder", "grouped", 0.4, 5)
    other.write(tmp_path / "split.json")
    with pytest.raises(ValueError, match="split changed"):
        fit(small(epochs=2), plain_set, tmp_path, resume=True)


def test_rate_warms_up_and_anneals() -> None:
    """From almost nothing up to the base rate, then by a cosine to zero; a time limit shortens the way."""
    config = replace(recipe("paper", "folder"), warmup_steps=10)
    rates = [learning_rate(config, step, 1000, 0.0) for step in range(1001)]
    assert rates[0] < 0.1 * config.learning_rate
    assert max(rates) == pytest.approx(config.learning_rate, rel=0.01)
    assert rates[505] == pytest.approx(config.learning_rate / 2, rel=0.02)
    assert rates[1000] == pytest.approx(0, abs=1e-9)
    assert learning_rate(replace(config, max_minutes=1.0), 10, 1000, 60.0) == pytest.approx(0, abs=1e-9)


def test_optimisers_read_the_recipe() -> None:
    """AdamW takes the paper's momentum as beta1, SGD as momentum."""
    model = LSANet(ModelConfig(4))
    adam = make_optimiser(model, recipe("paper", "folder"))
    assert isinstance(adam, torch.optim.AdamW)
    assert adam.param_groups[0]["betas"] == (0.9, 0.999)
    assert adam.param_groups[0]["weight_decay"] == 1e-4
    sgd = make_optimiser(model, replace(recipe("paper", "folder"), optimiser="sgd"))
    assert sgd.param_groups[0]["momentum"] == 0.9


def test_average_follows_the_weights() -> None:
    """The averaged weights equal the recursion written out."""
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, 0.8)
    expected = float(model.weight.detach())
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(model, step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.state["weight"]) == pytest.approx(expected, rel=1e-5)


def test_ablation_rows_are_configurations(plain_set: Path, tmp_path: Path) -> None:
    """Each row changes its own switch only, and a short ablation leaves its table."""
    base = small(epochs=1)
    assert row("base", base).model == ModelConfig(4, False, False, False)
    assert row("lsa-net", base) == base
    assert row("seg", base).loss.loc == row("seg", base).loss.diff == 0
    weighed = small(loss=LossConfig(bce_share=1.0, batch_dice=0.5))
    assert row("seg+loc", weighed).loss == LossConfig(bce_share=1.0, batch_dice=0.5, diff=0.0)
    assert all(row(name, base) for name in (*MODULES, *LOSSES))
    with pytest.raises(ValueError, match="no row"):
        row("lan", base)
    results = ablate(base, plain_set, tmp_path, ["base", "lsa-net"], [0, 1])
    assert [r["row"] for r in results] == ["base", "lsa-net"]
    assert len(results[0]["last_iou"]) == 2
    table = (tmp_path / "ablation.md").read_text().splitlines()
    assert table[3].startswith("| lsa-net |")
    assert len({line.count("|") for line in table}) == 1
    ended = [load(tmp_path / f"base-seed{seed}/last.pt")["progress"]["history"][-1] for seed in (0, 1)]
    assert results[0]["escapes"] == pytest.approx(sum(last["escapes"] for last in ended) / 2)


@pytest.mark.slow
def test_overfits_eight_images(tmp_path: Path) -> None:
    """The whole network and loss learn eight images by heart: IoU over 0.9 within a minute."""
    items = load_items(draw_set(tmp_path / "set", 16), "folder", 64)
    items = [i for i in items if i.defective][:8]
    batch = make_batch([(i.image, i.mask) for i in items], 0.5, 0.25)
    torch.manual_seed(0)
    config = small(augment=AugmentConfig())
    model = LSANet(ModelConfig(8)).train()
    optimiser = make_optimiser(model, config)
    iou = 0.0
    for _ in range(150):
        parts = total_loss(model(batch.image), batch.mask, batch.boxes, config.loss)
        optimiser.zero_grad()
        parts.total.backward()
        optimiser.step()
        assert math.isfinite(float(parts.total.detach()))
        with torch.no_grad():
            found, mask = model(batch.image).logits > 0, batch.mask > 0
        iou = float((found & mask).sum() / (found | mask).sum())
        if iou > 0.95:
            break
    assert iou > 0.9
    assert location_target(items[0].mask).any()
