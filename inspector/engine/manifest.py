"""The schema of a bundle's manifest.json, version 1. Loaded only where a manifest is read or written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

SCHEMA = 1
"""Raised when a reader of the old schema would misread the new one."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=200)
]
"""Relative, with forward slashes; no part may begin with a dot, so that no name leads out of the bundle."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]
Milliseconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Backend = Literal["openvino", "onnxruntime", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class _Strict(BaseModel):
    """Unknown keys are errors: a misspelt key must not be read as its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HashedFile(_Strict):
    file: FileName
    sha256: Sha256


class Onnx(HashedFile):
    opset: Annotated[int, Field(ge=1)]


class Input(_Strict):
    name: str
    shape: tuple[Literal[1], Literal[1], Annotated[int, Field(ge=8, le=4096)], Annotated[int, Field(ge=8, le=4096)]]
    dtype: Literal["float32"]
    normalisation: Literal["(pixel / 255 - mean) / std"]
    mean: float
    std: Annotated[float, Field(gt=0.0)]


class Output(_Strict):
    name: str
    shape: tuple[Literal[1], Literal[1], int, int]


class Promise(_Strict):
    """Of defective parts like the calibration's at most ``max_escape`` pass; ``evidence`` says the same in words."""

    max_escape: Annotated[float, Field(gt=0.0, lt=1.0)]
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)]
    parts: Count
    """Defective parts it was made from."""
    escapes: Count
    escape_upper: Probability
    data_sha256: Sha256


class OperatingPoint(_Strict):
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)]
    min_area_px: Count
    evidence: list[str]
    promise: Promise | None = None
    """None where the threshold was chosen without one."""


class References(HashedFile):
    """golden.npz: ``images`` n x H x W uint8 and ``maps`` n x H x W float16, the FP32 probabilities."""

    images: Annotated[int, Field(ge=1)]
    computed_by: str
    storage_error: Annotated[float, Field(ge=0.0)]
    """Largest rounding error that float16 storage of the maps added."""


class Percentiles(_Strict):
    """Of single inferences, batch 1; p99.9 of fewer than 1000 runs is their maximum."""

    runs: Annotated[int, Field(ge=1)]
    p50: Milliseconds
    p99: Milliseconds
    p999: Milliseconds


class Limits(_Strict):
    """Beyond these a plan is not installed, and at start-up not made ready."""

    verdict_flips: Count = 0
    mask_iou: Probability = 0.98
    max_abs_diff: Probability = 1.0
    iou_loss: Probability = 0.005
    """Set IoU with the true masks, lost against FP32; counts only where the images have masks."""


class Parity(_Strict):
    """The plan against the FP32 reference, on the images named."""

    images: Annotated[int, Field(ge=1)]
    source: str
    max_abs_diff: Annotated[float, Field(ge=0.0)]
    mean_abs_diff: Annotated[float, Field(ge=0.0)]
    mask_iou: Probability
    """Intersections over unions, summed over all images."""
    mask_iou_worst: Probability
    verdict_flips: Count
    flipped: list[str] = []
    iou: Probability | None = None
    """Set IoU with the true masks at the operating threshold; None where the images have none."""
    fp32_iou: Probability | None = None
    input_mean: float
    input_std: float
    input_min: float
    input_max: float


class Machine(_Strict):
    """Where the plan was built and proven. What decides whether it fits is in choose.py."""

    device: str
    isa: list[str] = []
    """Instruction sets of the CPU that change the arithmetic or its speed."""
    threads: Count = 0
    driver: str = ""
    cuda: str = ""
    compute_capability: str = ""
    multiprocessors: Count = 0


class Passport(_Strict):
    """One plan: what it is, where it was proven, and how it compared with FP32."""

    id: Name
    backend: Backend
    backend_version: str
    precision: Precision
    files: Annotated[list[HashedFile], Field(min_length=1)]
    """The first is the one that the back end opens."""
    onnx_sha256: Sha256
    plan_hash: Sha256
    built: AwareDatetime
    machine: Machine
    settings: dict[str, Any]
    fp32_islands: list[str] = []
    parity: Parity
    limits: Limits
    forced: bool
    """True where a person installed it by name although it is beyond the limits."""
    reference_max_abs_diff: Annotated[float, Field(ge=0.0)]
    """On the bundle's own reference images; the self-test at start-up holds the plan to it."""
    reference_mask_iou: Probability
    latency_ms: Percentiles
    fp32_latency_ms: Percentiles
    """OpenVINO FP32 on the CPU of the same machine, in alternation with the plan."""
    speedup: Annotated[float, Field(gt=0.0)]
    notes: list[str] = []


class Manifest(_Strict):
    schema_version: Literal[1]
    name: Name
    created: AwareDatetime
    onnx: Onnx
    input: Input
    output: Output
    classes: Annotated[list[str], Field(min_length=1)]
    operating_point: OperatingPoint
    training: dict[str, Any]
    parity: dict[str, Any]
    references: References
    split: HashedFile | None = None
    """Names of the images on each side of the training's split: plans are calibrated on one, proven on the other."""
    plans: list[Passport]
