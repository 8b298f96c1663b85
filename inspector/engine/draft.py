"""What compiling hands to proving."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspector.engine.manifest import Machine


@dataclass(frozen=True)
class Draft:
    """A compiled plan that is not proven yet."""

    files: tuple[Path, ...]
    """The first is the one to open; those outside the staging directory belong to the bundle already."""
    version: str
    machine: Machine
    hint: str
    """Arithmetic of the floating-point layers on the CPU: f32 or bf16; empty on a GPU."""
    settings: dict[str, Any] = field(default_factory=dict)
    islands: tuple[str, ...] = ()
