"""What loading, augmenting and logging cost: images/s of ``fit``'s own loop against bare forward + backward."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import cv2
import torch

from train.checkpoint import Progress
from train.config import FitConfig
from train.data import train_batches
from train.fit import channels_last, make_fabric, make_optimiser, move, prepare, train_step
from train.model import LSANet
from train.monitor import Monitor


def compare(config: FitConfig, data: Path, out: Path, steps: int) -> dict[str, Any]:
    """Alternate short stretches of both loops, so that other load on the machine meets both; median of the ratios."""
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    fabric = make_fabric(config)
    out.mkdir(parents=True, exist_ok=True)
    training, _, _ = prepare(config, data, out)
    torch.manual_seed(config.seed)
    network = channels_last(LSANet(config.model))
    model, optimiser = fabric.setup(network, make_optimiser(network, config))
    model.train()
    batches = (batch for epoch in range(10**6) for batch in train_batches(training, config, epoch))
    fixed = move(next(batches), fabric.device)
    stretch, ratios, speeds = 5, [], []
    with Monitor(out, config, steps, quiet=False, done=0) as monitor:
        monitor.epoch_starts(Progress())
        for turn in range(max(steps // stretch, 2) + 1):
            start = time.perf_counter()
            for _ in range(stretch):
                train_step(model, optimiser, fixed, 1e-4, config, fabric)
            middle = time.perf_counter()
            for _ in range(stretch):
                parts = train_step(model, optimiser, move(next(batches), fabric.device), 1e-4, config, fabric)
                monitor.step(parts, 1e-4, config.batch)
            end = time.perf_counter()
            if turn:  # the first stretch warms up
                ratios.append((end - middle) / (middle - start))
                speeds.append(stretch * config.batch / (end - middle))
    return {
        "images_per_s_fit": round(statistics.median(speeds), 2),
        "cost_of_loading_and_logging_percent": round(100 * (statistics.median(ratios) - 1), 2),
        "stretches": len(ratios),
    }
