"""The layer table: output size, parameters and FLOPs of every block."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from train.model import LSANet, ModelConfig, flop_count, parameter_count

PAPER = {"parameters": 21.60e6, "flop": 61.60e9}


def rows(config: ModelConfig, size: int = 256) -> list[tuple[str, str, int, float]]:
    """(block, output channels x height x width, parameters, GFLOP of one image) in the order of the forward pass."""
    model = LSANet(config).to("meta").train()
    found: list[tuple[str, str]] = []

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            first = output if isinstance(output, torch.Tensor) else output[0]
            found.append((name, " x ".join(str(s) for s in first.shape[1:])))

        return hook

    blocks = dict(model.named_children())
    for name, block in blocks.items():
        block.register_forward_hook(note(name))
    counter = FlopCounterMode(display=False, depth=2)
    with counter:
        model(torch.empty(2, 1, size, size, device="meta"))
    flops = counter.get_flop_counts()
    table = []
    for name, shape in found:
        flop = sum(flops.get(f"LSANet.{name}", {}).values()) / 2
        table.append((name, shape, parameter_count(blocks[name]), flop / 1e9))
    return table


def show(config: ModelConfig, size: int = 256) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    model = LSANet(config)
    parameters, flop = parameter_count(model), flop_count(model, size, size)
    table = Table(title=f"LSA-Net, width {config.width}, input 1 x {size} x {size}")
    for column in ("block", "output", "parameters", "GFLOP"):
        table.add_column(column, justify="left" if column in ("block", "output") else "right")
    for name, shape, count, giga in rows(config, size):
        table.add_row(name, shape, f"{count:,}", f"{giga:.3f}")
    table.add_section()
    table.add_row("all", "", f"{parameters:,}", f"{flop / 1e9:.3f}")
    if config == ModelConfig():
        table.add_row("paper", "", f"{PAPER['parameters'] / 1e6:.2f} M", f"{PAPER['flop'] / 1e9:.2f}")
    Console().print(table)
