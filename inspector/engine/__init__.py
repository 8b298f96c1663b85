"""Engines: what the line needs of one, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from inspector.frame import FloatMap


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Which plan runs where; stands in the first log line and, as ``plan_hash``, in every answer."""

    bundle: str
    backend: str
    """openvino | onnxruntime | tensorrt | trivial"""
    backend_version: str
    precision: str
    """fp32 | fp16 | bf16 | int8"""
    device: str
    onnx_hash: str
    """SHA-256 in hex of model.onnx."""
    plan_hash: str
    """SHA-256 in hex over plan bytes, back end, version and precision."""
    input_height: int = 256
    input_width: int = 256


class Engine(Protocol):
    """A compiled network. One thread opens, runs and closes it."""

    @property
    def info(self) -> EngineInfo:
        """What runs."""

    def infer(self, batch: FloatMap) -> FloatMap:
        """n x 1 x H x W float32, normalised -> n x 1 x H x W float32 probabilities, owned by the caller.

        Raises EngineError on a wrong shape or dtype and on any failure of the back end."""

    def close(self) -> None:
        """Release; idempotent, never raises."""
