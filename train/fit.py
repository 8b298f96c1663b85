"""The training loop. ``fit`` reads top to bottom; what it calls stands above it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import nn
from torch.optim import Optimizer

from inspector.engine.bundle import load_bundle
from train.begin import MEASURED_BATCHES, begin_with_bundle, seen_as
from train.checkpoint import Progress, load, load_network, save
from train.config import FitConfig, from_json, to_json
from train.data import Batch, Item, epoch_order, load_items, plain_batches, steps_in, train_batches
from train.losses import LossParts, total_loss
from train.model import LSANet
from train.monitor import Monitor
from train.ranks import mean_over_ranks, with_global_statistics
from train.split import Split, make_split, read_split, sides


class Average:
    """Exponential moving average of weights and BN statistics; slower at first, so that the start is forgotten."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            kept = self.state[name]
            if kept.is_floating_point():
                kept.lerp_(value.detach().to(kept.dtype), 1 - decay)
            else:
                kept.copy_(value)


def make_optimiser(model: nn.Module, config: FitConfig) -> Optimizer:
    """AdamW with beta1 = the paper's momentum, or SGD with momentum; BN and biases are not decayed in ``fast``."""
    decayed = [p for p in model.parameters() if p.ndim > 1 or config.recipe == "paper"]
    plain = [p for p in model.parameters() if p.ndim <= 1 and config.recipe != "paper"]
    groups: list[dict[str, Any]] = [{"params": decayed}, *([{"params": plain, "weight_decay": 0.0}] if plain else [])]
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            groups, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    betas = (config.momentum, 0.999)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay)


def learning_rate(config: FitConfig, step: int, steps: int, seconds: float) -> float:
    """Linear warm-up, then a cosine to 0 over ``steps``, or over ``max_minutes`` where that ends sooner."""
    done = step / max(steps, 1)
    if config.max_minutes:
        done = max(done, seconds / (config.max_minutes * 60))
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@torch.no_grad()
def validate(model: LSANet, items: Sequence[Item], config: FitConfig, fabric: Any) -> dict[str, float]:
    """Set IoU, image Dice and image-level errors of the validation side at 0.5."""
    model.eval()
    both = either = 0.0
    dice: list[float] = []
    wrong = {"escapes": 0, "overkill": 0}
    bad = sum(item.defective for item in items)
    at = 0
    for batch in plain_batches(items, config):
        moved = move(batch, fabric.device)
        with fabric.autocast():
            logits = model(moved.image).logits
        found, mask = logits.float() > 0, moved.mask > 0
        inter = (found & mask).flatten(1).sum(1).double()
        union = (found | mask).flatten(1).sum(1).double()
        both, either = both + float(inter.sum()), either + float(union.sum())
        dice += [float(2 * i / (i + u)) if u else 0.0 for i, u in zip(inter, union, strict=True)]
        any_found = found.flatten(1).any(1).tolist()
        for item, flagged in zip(items[at : at + len(any_found)], any_found, strict=True):
            wrong["escapes"] += item.defective and not flagged
            wrong["overkill"] += flagged and not item.defective
        at += len(any_found)
    return {
        "iou": both / max(either, 1.0),
        "dice": sum(dice) / max(len(dice), 1),
        "escapes": wrong["escapes"] / max(bad, 1),
        "overkill": wrong["overkill"] / max(len(items) - bad, 1),
    }


def move(batch: Batch, device: torch.device) -> Batch:
    """To the device, channels last."""
    to = [t.to(device, memory_format=torch.channels_last, non_blocking=True) for t in (batch.image, batch.mask)]
    return Batch(to[0], to[1], batch.boxes.to(device, non_blocking=True))


def make_fabric(config: FitConfig) -> Any:
    """One process, or as many as ``torchrun`` started: DDP over the GPUs, or over processes on a CPU."""
    from lightning_fabric import Fabric

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and config.max_minutes:
        raise ValueError("--max-minutes is for one process: each rank would read its own clock; use --epochs")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    cuda = torch.cuda.is_available()
    kind: dict[str, Any] = {"bf16": "bf16-mixed", "fp16": "16-mixed" if cuda else "bf16-mixed", "f32": "32-true"}
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=local if world > 1 else 1,
        num_nodes=max(world // local, 1),
        strategy="ddp" if world > 1 else "auto",
        precision=kind[config.precision],
    )
    fabric.launch()
    return fabric


def prepare(config: FitConfig, data: Path, out: Path) -> tuple[list[Item], list[Item], Split]:
    """Items of both sides; the split file is written once and read ever after."""
    items = load_items(data, config.layout, config.size, config.whole_every)
    path = out / "split.json"
    if path.is_file():
        split = read_split(path)
    else:
        split = make_split(items, config.layout, config.protocol, config.validation_share, config.split_seed)
        split.write(path)
    training, validation = sides(items, split)
    if config.defective_share >= 1:
        training = [item for item in training if item.defective]
    return training, validation, split


@dataclass(slots=True)
class Run:
    """What one training holds while it goes on."""

    config: FitConfig
    out: Path
    fabric: Any
    network: LSANet
    model: Any
    """``network`` as Fabric wraps it for precision and DDP."""
    optimiser: Any
    average: Average | None
    training: list[Item]
    validation: list[Item]
    split: Split
    progress: Progress
    steps_each: int
    before_s: float
    """Seconds of the runs before this one."""
    start_s: float

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole schedule."""
        return self.steps_each * self.config.epochs

    @property
    def seconds(self) -> float:
        """Training time so far, earlier runs included."""
        return self.before_s + time.perf_counter() - self.start_s

    @property
    def over(self) -> bool:
        """The schedule, or its time, has come to its end."""
        limit_s = self.config.max_minutes * 60
        return self.progress.epoch >= self.config.epochs or bool(limit_s and self.progress.seconds >= limit_s)


def fit(
    config: FitConfig, data: Path, out: Path, resume: bool = False, stop_after: int = 0, init: Path | None = None
) -> Progress:
    """Train; leaves ``last.pt``, ``best.pt`` (best validation IoU; none without a validation side), ``split.json``,
    ``config.json`` and TensorBoard files in ``out``.

    ``resume`` goes on from ``last.pt`` under the configuration that stands in it, bit for bit on the CPU in the same
    precision and thread count; an epoch that was cut short is repeated. ``stop_after`` ends after that many epochs,
    as a kill would (0 = run to the end). ``init``: the checkpoint file or bundle
    directory with whose weights a fresh training begins.
    """
    run = start(config, data, out, resume, init)
    config, progress, fabric = run.config, run.progress, run.fabric
    with Monitor(out, config, run.steps_each, quiet=fabric.global_rank != 0, done=progress.epoch) as monitor:
        while not run.over and not (stop_after and progress.epoch >= stop_after):
            run.model.train()
            monitor.epoch_starts(progress)
            for batch in train_batches(run.training, config, progress.epoch, fabric.global_rank, fabric.world_size):
                rate = learning_rate(config, progress.step, run.steps, run.seconds)
                parts = train_step(run.model, run.optimiser, move(batch, fabric.device), rate, config, fabric)
                progress.step += 1
                if run.average is not None:
                    run.average.update(run.network, progress.step)
                monitor.step(parts, rate, config.batch)
            progress.epoch += 1
            progress.seconds = run.seconds
            row = monitor.epoch_row(progress)
            if fabric.global_rank == 0:
                if run.validation and (run.over or progress.epoch % config.validate_every == 0):
                    judged = averaged(run.network, run.average)
                    row |= validate(judged, run.validation, config, fabric)
                    monitor.pictures(judged, run.validation, progress, fabric)
                progress.history.append(row)
                monitor.epoch_ends(row, progress)
                keep(run, row)
            fabric.barrier()
    return progress


def start(config: FitConfig, data: Path, out: Path, resume: bool, init: Path | None = None) -> Run:
    """Data, network, optimiser and place in the schedule, fresh or from ``last.pt``."""
    saved = load(out / "last.pt") if resume and (out / "last.pt").is_file() else None
    init = init if saved is None else None
    bundle = load_bundle(init) if init is not None and init.is_dir() else None
    if saved is not None:
        config = from_json(saved["config"])
    elif bundle is not None:
        config = seen_as(config, bundle)
    elif init is not None:
        config = replace(config, started_from=hashlib.sha256(init.read_bytes()).hexdigest())
    side = config.crop.side
    if side and (side % 16 or not 48 <= side <= config.size):
        raise ValueError(
            f"crop.side {side}: a multiple of 16 from 48 to the image's {config.size} px (0 = whole images)"
        )
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)  # images are prepared beside the network; more threads would only take its cores
    fabric = make_fabric(config)
    if fabric.global_rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(to_json(config), indent=1) + "\n", encoding="utf-8")
        prepare(config, data, out)  # writes the split, which the other ranks read
    fabric.barrier()
    training, validation, split = prepare(config, data, out)
    steps_each = steps_in(len(epoch_order(training, config, 0)), config.batch)
    if not steps_each:
        raise ValueError(f"{len(training)} training images do not fill one batch of {config.batch}")

    fabric.seed_everything(config.seed, verbose=False)
    network = channels_last(LSANet(config.model))
    if config.batch % fabric.world_size:
        raise ValueError(f"a batch of {config.batch} does not divide over {fabric.world_size} processes")
    if bundle is not None:
        begin_with_bundle(network, bundle, itertools.islice(train_batches(training, config, 0), MEASURED_BATCHES))
    elif init is not None:
        network.load_state_dict(load_network(init)[0].state_dict())
    network = with_global_statistics(network, fabric.device.type == "cuda")
    model, optimiser = fabric.setup(network, make_optimiser(network, config))
    progress = Progress()
    average = Average(network, config.ema) if config.ema else None
    if saved is not None:
        if saved["split_sha256"] != split.sha256:
            raise ValueError(f"{out}: the split changed since the checkpoint was written")
        network.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        progress = Progress(**saved["progress"])
        if average is not None:
            average.state = saved["average"]
    return Run(
        config, out, fabric, network, model, optimiser, average, training, validation, split, progress, steps_each,
        before_s=progress.seconds, start_s=time.perf_counter(),
    )  # fmt: skip


def train_step(
    model: Any, optimiser: Optimizer, batch: Batch, rate: float, config: FitConfig, fabric: Any
) -> LossParts:
    """One optimiser step."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    outputs = model(batch.image)
    with torch.autocast(batch.image.device.type, enabled=False):
        parts = total_loss(outputs, batch.mask, batch.boxes, config.loss)
    optimiser.zero_grad(set_to_none=True)
    fabric.backward(parts.total)
    if config.clip_norm:
        fabric.clip_gradients(model, optimiser, max_norm=config.clip_norm, error_if_nonfinite=False)
    optimiser.step()
    return logged(parts)


def logged(parts: LossParts) -> LossParts:
    """The parts over the whole batch, other processes' shares included, for logs."""
    values = torch.stack([v.detach().float() for v in (parts.total, parts.seg, parts.loc, parts.diff, parts.msd)])
    return LossParts(*mean_over_ranks(values).unbind())


def averaged(network: LSANet, average: Average | None) -> LSANet:
    """The network to judge: a copy with the averaged weights, or the network itself."""
    if average is None:
        return network
    copy = channels_last(LSANet(network.config).to(next(network.parameters()).device))
    copy.load_state_dict(average.state)
    return copy


def channels_last(network: LSANet) -> LSANet:
    """In place, the memory order in which convolutions run fastest."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def keep(run: Run, row: dict[str, float]) -> None:
    """Write ``last.pt``, and ``best.pt`` when this epoch validated best so far."""
    progress, sha256 = run.progress, run.split.sha256
    weights = run.network.state_dict()
    average = run.average.state if run.average is not None else None
    if row.get("iou", -1.0) > progress.best_iou:
        progress.best_iou, progress.best_epoch = row["iou"], progress.epoch
        save(run.out / "best.pt", run.config, weights, progress, sha256, average=average)
    save(run.out / "last.pt", run.config, weights, progress, sha256, run.optimiser.state_dict(), average)
