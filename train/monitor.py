"""Live progress, TensorBoard and the line per epoch. Costs under a few per cent of a step."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from train.checkpoint import Progress
from train.config import FitConfig
from train.data import Item, make_batch
from train.losses import LossParts
from train.model import LSANet

PARTS = ("total", "seg", "loc", "diff", "msd")
READ_EVERY = 10
"""Steps between two readings of the loss for the bar; reading waits for the device."""


class Monitor:
    """What a person sees of a training. ``quiet`` (other ranks) counts but shows nothing."""

    def __init__(self, out: Path, config: FitConfig, steps_each: int, quiet: bool, done: int) -> None:
        self.config, self.quiet, self.steps_each = config, quiet, steps_each
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._rate = 0.0
        self._iou = float("nan")
        self._start = time.perf_counter()
        self._bar: Any = None
        self._board: Any = None
        if not quiet:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=done * steps_each)
            self._bar = _progress_bar()

    def __enter__(self) -> Monitor:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self.config.epochs * self.steps_each, parts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()

    def epoch_starts(self, progress: Progress) -> None:
        """Forget the last epoch's means."""
        self._sums, self._steps, self._start = {}, 0, time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.step, description=f"epoch {progress.epoch + 1}")

    def step(self, parts: LossParts, rate: float, images: int) -> None:
        """Add up without waiting for the device; read only every few steps."""
        self._rate = rate
        self._steps += 1
        for name in PARTS:
            value = getattr(parts, name).detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        if self._bar is not None:
            self._bar.advance(self._task)
            if self._steps % READ_EVERY == 0:
                speed = self._steps * images / (time.perf_counter() - self._start)
                shown = " ".join(f"{n} {float(self._sums[n]) / self._steps:.3f}" for n in ("seg", "loc", "diff"))
                self._bar.update(self._task, parts=f"{shown} lr {rate:.1e} IoU {self._iou:.3f} {speed:.1f} images/s")

    def epoch_row(self, progress: Progress) -> dict[str, float]:
        """Means over the epoch that just ended."""
        elapsed = time.perf_counter() - self._start
        row = {name: float(total) / max(self._steps, 1) for name, total in self._sums.items()}
        row |= {"lr": self._rate, "images_per_s": self._steps * self.config.batch / elapsed, "epoch": progress.epoch}
        return row

    def epoch_ends(self, row: dict[str, float], progress: Progress) -> None:
        """Scalars to TensorBoard, one line to the console."""
        if self.quiet:
            return
        self._iou = row.get("iou", self._iou)
        for name, value in row.items():
            self._board.add_scalar(f"{'validation' if name in VALIDATION else 'train'}/{name}", value, progress.step)
        figures = " ".join(
            f"{name} {row[name]:.4f}" for name in ("total", "seg", "loc", "diff", "msd", *VALIDATION) if name in row
        )
        left_s = self._left_s(progress)
        line = f"epoch {progress.epoch}/{self.config.epochs} {figures} lr {row['lr']:.2e} "
        line += f"{row['images_per_s']:.1f} images/s, {progress.seconds / 60:.1f} min done, {left_s / 60:.0f} min left"
        self._bar.console.print(line, highlight=False, soft_wrap=True)
        sys.stdout.flush()

    def _left_s(self, progress: Progress) -> float:
        left = progress.seconds / max(progress.epoch, 1) * (self.config.epochs - progress.epoch)
        if self.config.max_minutes:
            left = min(left, self.config.max_minutes * 60 - progress.seconds)
        return left

    @torch.no_grad()
    def pictures(self, model: LSANet, items: Sequence[Item], progress: Progress, fabric: Any) -> None:
        """Image, mask, location map and prediction of the first defective validation images."""
        if self.quiet:
            return
        shown = _spread([item for item in items if item.defective] or list(items), 6)
        batch = make_batch([(item.image, item.mask) for item in shown], self.config.mean, self.config.std)
        model.eval()
        if model.lam is not None:
            model.lam.show = True
        with fabric.autocast():
            outputs = model(batch.image.to(fabric.device))
        if model.lam is not None:
            model.lam.show = False
        columns = [batch.image * self.config.std + self.config.mean, batch.mask]
        if outputs.location is not None:
            columns.append(torch.sigmoid(outputs.location.float()).cpu())
        columns.append(torch.sigmoid(outputs.logits.float()).cpu())
        sheet = torch.cat([torch.cat(list(c), 1) for c in columns], 2)
        self._board.add_image("validation/image-mask-location-prediction", sheet.clamp(0, 1), progress.step)


VALIDATION = ("iou", "dice", "escapes", "overkill")


def _spread(items: list[Item], count: int) -> list[Item]:
    """``count`` items spread over the classes."""
    by_class: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_class[item.cls].append(item)
    rounds = [group[i] for i in range(count) for group in by_class.values() if i < len(group)]
    return rounds[:count]


def _progress_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[parts]}"),
        console=Console(),
        refresh_per_second=2,
    )
