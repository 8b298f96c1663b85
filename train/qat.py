"""Quantisation-aware fine-tuning: a trained network learns to give the same maps when it computes in 8 bits.

The teacher is the network itself as it was trained, in FP32; no label is used. BN statistics stay. What comes out is an
ordinary checkpoint: it is evaluated, exported, quantised and proven like any other, and its operating point is chosen
anew, on its own maps.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inspector.preprocess import normalise
from train.checkpoint import Progress, load_network, save
from train.config import FitConfig
from train.data import Item, load_items, train_batches
from train.model import LSANet
from train.rounding import Rounded
from train.split import read_split, sides

LOOKS = 8
"""Batches over which ranges settle before the first step."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast."""

    steps: int = 400
    max_minutes: float = 0.0
    """0 = no limit; otherwise the schedule ends with the time."""
    learning_rate: float = 1e-4
    batch: int = 4
    threads: int = 2
    judged: int = 64
    """Validation images that the agreement is told on, spread over the list."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Masks in 8 bits against masks in FP32, at 0.5, over images of the validation side."""

    images: int
    mask_iou: float
    mean_abs_diff: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """What the fine-tuning did. ``before`` and ``after``: rounded against the FP32 of the same weights."""

    steps: int
    seconds: float
    before: Agreement
    after: Agreement
    drift: Agreement
    """FP32 after against FP32 before: what the fine-tuning itself changed."""


def distance(logits: Tensor, target: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the pixels' probabilities from ``target``, n x 1 x H x W; 0 where equal."""
    cross = functional.binary_cross_entropy_with_logits(logits, target)
    return cross - functional.binary_cross_entropy(target, target)


def tune(checkpoint: Path, data: Path, out: Path, plan: Plan) -> Tuned:
    """Fine-tune ``checkpoint`` on the training side of its own split; leaves ``best.pt``, ``split.json`` and
    ``notes.toml`` (for ``export --notes``) in ``out``.

    Raises ValueError where the split that lies beside the checkpoint is not the one it was trained on.
    """
    torch.set_num_threads(plan.threads)
    teacher, config, raw = load_network(checkpoint)
    split = read_split(checkpoint.parent / "split.json")
    if split.sha256 != raw["split_sha256"]:
        raise ValueError(f"{checkpoint.parent}/split.json is not the split that {checkpoint.name} was trained on")
    training, validation = sides(load_items(data, config.layout, config.size, config.whole_every), split)
    config = replace(config, batch=plan.batch, started_from=hashlib.sha256(checkpoint.read_bytes()).hexdigest())
    shown = validation[:: max(len(validation) // plan.judged, 1)][: plan.judged]

    network = load_network(checkpoint)[0]
    rounded = Rounded(network)
    _settle(network, training, config)
    old = _maps(teacher, shown, config)
    with rounded.still():
        before = agreement(_maps(network, shown, config), old)
    steps, seconds = _teach(network, teacher, training, config, plan)
    rounded.remove()
    new = _maps(network, shown, config)
    rounded = Rounded(network)
    _settle(network, training, config)
    with rounded.still():
        after = agreement(_maps(network, shown, config), new)
    rounded.remove()
    tuned = Tuned(steps, seconds, before, after, agreement(new, old))
    _write(out, checkpoint, network, config, raw, tuned)
    return tuned


def _teach(
    network: LSANet, teacher: LSANet, training: Sequence[Item], config: FitConfig, plan: Plan
) -> tuple[int, float]:
    """The loop: steps done and seconds taken."""
    optimiser = torch.optim.Adam(network.parameters(), lr=plan.learning_rate)
    start, step, epoch = time.perf_counter(), 0, 0
    while True:
        for batch in train_batches(training, config, config.epochs + epoch):
            seconds = time.perf_counter() - start
            done = max(step / plan.steps, seconds / (plan.max_minutes * 60) if plan.max_minutes else 0.0)
            if done >= 1:
                return step, seconds
            for group in optimiser.param_groups:
                group["lr"] = plan.learning_rate * min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * done))
            with torch.no_grad():
                target = torch.sigmoid(teacher(batch.image).logits)
            loss = distance(network(batch.image).logits, target)  # in eval mode: BN statistics stay
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            step += 1
        epoch += 1
        if not step:
            raise ValueError(f"{len(training)} training images do not fill one batch of {config.batch}")


@torch.no_grad()
def _settle(network: LSANet, training: Sequence[Item], config: FitConfig) -> None:
    for number, batch in enumerate(train_batches(training, config, config.epochs)):
        if number == LOOKS:
            break
        network(batch.image)


@torch.no_grad()
def _maps(network: LSANet, items: Sequence[Item], config: FitConfig) -> np.ndarray:
    """n x H x W probabilities."""
    tensors = (torch.from_numpy(normalise(item.image, config.mean, config.std)) for item in items)
    return np.concatenate([torch.sigmoid(network(tensor).logits)[:, 0].numpy() for tensor in tensors])


def agreement(found: np.ndarray, reference: np.ndarray) -> Agreement:
    """Over all images together."""
    a, b = found >= 0.5, reference >= 0.5
    either = int(np.count_nonzero(a | b))
    mask_iou = int(np.count_nonzero(a & b)) / either if either else 1.0
    return Agreement(len(found), mask_iou, float(np.abs(found - reference).mean()))


def _write(out: Path, checkpoint: Path, network: LSANet, config: FitConfig, raw: dict[str, Any], tuned: Tuned) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint.parent / "split.json", out / "split.json")
    save(out / "best.pt", config, network.state_dict(), Progress(**raw["progress"]), raw["split_sha256"])
    lines = ["[quantisation_aware]", f"steps = {tuned.steps}"]
    for name in ("before", "after", "drift"):
        values = ", ".join(f"{key} = {value!r}" for key, value in asdict(getattr(tuned, name)).items())
        lines.append(f"{name} = {{ {values} }}")
    (out / "notes.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def told(tuned: Tuned) -> str:
    """For the terminal."""

    def line(name: str, found: Agreement) -> str:
        return f"{name:<24} mask IoU {found.mask_iou:.4f}, mean difference {found.mean_abs_diff:.5f}"

    return "\n".join(
        (
            f"{tuned.steps} steps in {tuned.seconds / 60:.1f} minutes; {tuned.before.images} validation images",
            line("8 bits to FP32, before", tuned.before),
            line("8 bits to FP32, after", tuned.after),
            line("FP32 after to before", tuned.drift),
        )
    )


def as_json(tuned: Tuned) -> str:
    """JSON text."""
    return json.dumps(asdict(tuned), indent=1)
