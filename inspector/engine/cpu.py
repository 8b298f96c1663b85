"""What the two CPU back ends share: their options, the check of a batch, and the plan hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inspector.engine import EngineInfo
from inspector.engine.machine import physical_cores
from inspector.errors import ConfigError, EngineError
from inspector.frame import FloatMap


@dataclass(frozen=True, slots=True)
class CpuOptions:
    """How a CPU engine may use the machine."""

    threads: int = 0
    """0 = the physical cores that this process may use."""
    pinning: bool = False
    """Bind threads to cores and let them spin: for dedicated hosts. On shared ones it was the slowest choice."""
    cache_dir: Path | None = None
    """Where compiled models are kept for a quicker second start; None = nowhere."""
    throughput: bool = False
    """Several images at a time (replay) instead of one as fast as possible (the line)."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ConfigError("threads", expected="0 (all cores of this process) or more", found=str(self.threads))

    @property
    def thread_count(self) -> int:
        return self.threads or physical_cores()


def check_batch(info: EngineInfo, batch: FloatMap) -> None:
    """Raise EngineError unless ``batch`` is n x 1 x H x W float32 with n >= 1; it may be non-contiguous."""
    size = (1, info.input_height, info.input_width)
    if batch.ndim != 4 or batch.shape[0] < 1 or batch.shape[1:] != size or batch.dtype != np.float32:
        raise EngineError(
            f"engine {info.bundle} was given the wrong input",
            expected=f"n x {' x '.join(map(str, size))} float32, n >= 1",
            found=f"{' x '.join(map(str, batch.shape)) or 'a scalar'} {batch.dtype}",
            do="This is a fault of the caller; nothing on this machine needs changing.",
        )


def closed(info: EngineInfo) -> EngineError:
    """The error of using an engine after ``close``."""
    return EngineError(f"engine {info.bundle} ({info.backend}) is closed", do="Open it again.")


def plan_hash(files: Sequence[str], backend: str, version: str, precision: str, arithmetic: str = "") -> str:
    """SHA-256 in hex over the hashes of the plan's files, back end, version, precision and arithmetic."""
    text = "\0".join([*files, backend, version, precision, arithmetic])
    return hashlib.sha256(text.encode()).hexdigest()
