"""Recipes: everything a training is, as data. It stands whole, as JSON, in every checkpoint and bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from train.losses import LossConfig
from train.model import ModelConfig

Layout = Literal["kolektor-sdd", "magnetic-tile", "neu-seg", "folder", "synthetic"]
LAYOUTS: tuple[Layout, ...] = ("kolektor-sdd", "magnetic-tile", "neu-seg", "folder", "synthetic")

MEAN = {"kolektor-sdd": 187 / 255, "magnetic-tile": 109 / 255, "neu-seg": 111 / 255}
STD = {"kolektor-sdd": 23 / 255, "magnetic-tile": 46 / 255, "neu-seg": 54 / 255}
"""Grey mean and standard deviation over each set; others take 0.5 and 0.25."""


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Chances and ranges. The paper: vertical flip, HSV (on grey: value), brightness, contrast."""

    vertical_flip: float = 0.5
    horizontal_flip: float = 0.0
    transpose: float = 0.0
    """Chance of swapping x and y: only for parts that look alike from both sides."""
    value: float = 0.5
    """Chance of a shift of the grey value by up to ``value_limit``; the paper's HSV on a grey image."""
    value_limit: float = 0.08
    brightness_contrast: float = 0.5
    brightness_limit: float = 0.2
    contrast_limit: float = 0.2
    affine: float = 0.0
    """Chance of a small shift, scale and turn."""
    shift: float = 0.05
    scale: float = 0.1
    rotate_deg: float = 5.0
    noise: float = 0.0
    """Chance of sensor noise or a slight blur."""
    gamma: float = 0.0
    """Chance of a gamma between 1 / ``gamma_limit`` and ``gamma_limit``: as if exposed otherwise."""
    gamma_limit: float = 1.5


@dataclass(frozen=True, slots=True)
class CropConfig:
    """Training on windows of the images instead of whole ones: more of them a second, small defects at full size."""

    side: int = 0
    """Of the window, px, a multiple of 16; 0 = whole images."""
    focus: float = 0.5
    """Chance that a window of an image with a defect is laid around one of its defective pixels."""
    zoom: float = 1.0
    """Windows up to so many times as wide are cut and scaled down; most stay near the image's own scale."""


@dataclass(frozen=True, slots=True)
class PasteConfig:
    """Small defects of training images copied onto other training images, sound ones too."""

    chance: float = 0.0
    most: int = 3
    """Copies an image gets at most."""
    largest_share: float = 0.04
    """Of an image's area; larger defects are not copied."""
    scale: float = 1.5
    """Copies are scaled by a factor between its inverse and it."""
    turn_deg: float = 45.0
    weakest: float = 0.5
    strongest: float = 1.2
    """Range of the factor on a copy's contrast to its surroundings."""


@dataclass(frozen=True, slots=True)
class DrawConfig:
    """Defects drawn by rule: cracks and worn patches, where a set holds too few of them to learn from."""

    chance: float = 0.0
    patches: float = 0.25
    """Share of worn patches; the rest are cracks."""
    weakest: float = 0.25
    strongest: float = 0.7
    """Range of the part of the light that a drawn defect takes away."""
    upright: float = 0.0
    """Share of cracks that run down the image, as the marks of grinding do, among which they are hard to see."""
    shortest_px: float = 12.0
    longest_px: float = 250.0
    thinnest_px: float = 1.0
    widest_px: float = 4.5
    largest_share: float = 0.15
    """Of an image's area, for a worn patch."""


@dataclass(frozen=True, slots=True)
class FitConfig:
    """One training."""

    layout: Layout = "folder"
    recipe: str = "paper"
    size: int = 256
    mean: float = 0.5
    std: float = 0.25
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    paste: PasteConfig = field(default_factory=PasteConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)
    batch: int = 16
    epochs: int = 500
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    warmup_steps: int = 0
    clip_norm: float = 0.0
    """0 leaves gradients as they are."""
    ema: float = 0.0
    """Decay of the averaged weights that are validated and exported; 0 = none."""
    defective_share: float = 0.5
    """Share of defective images in an epoch where the set has sound ones; 0 = as they come, 1 = defective only."""
    balance: float = 0.0
    """0: each defective image once an epoch; 1: as many draws for each class, and within it for each group (tile)."""
    protocol: Literal["grouped", "paper"] = "grouped"
    """grouped: whole groups on one side. paper: at random over images, which leaks in the published sets."""
    validation_share: float = 0.2
    split_seed: int = 0
    seed: int = 0
    precision: Literal["bf16", "fp16", "f32"] = "bf16"
    threads: int = 2
    max_minutes: float = 0.0
    """0 = no limit. Otherwise the schedule ends with the time, so a resumed run is no longer bit-exact."""
    validate_every: int = 1
    half_size_epochs: int = 0
    """The first epochs run at half the size, four times as fast: a start for large defects on a small machine."""
    started_from: str = ""
    """SHA-256 of the checkpoint, or of the bundle's ONNX file, whose weights this training began with; empty = random
    ones."""
    whole_every: int = 0
    """Synthetic parts only: every n-th part is shown as the whole frame too."""
    steps_per_epoch: int = 0
    """0 = each defective image once an epoch."""


def recipe(name: str, layout: Layout, width: int = 32) -> FitConfig:
    """``paper``: the published protocol. ``fast``: few epochs on a CPU, with what helps there."""
    base = FitConfig(
        layout=layout,
        recipe=name,
        size=512 if layout == "kolektor-sdd" and name == "paper" else 256,
        mean=round(MEAN.get(layout, 0.5), 4),
        std=round(STD.get(layout, 0.25), 4),
        model=ModelConfig(width=width),
    )
    if name == "paper":
        return base
    if name != "fast":
        raise ValueError(f"recipe {name!r}: paper or fast")
    return replace(
        base,
        epochs=60,
        learning_rate=2e-3,
        weight_decay=1e-2,
        warmup_steps=100,
        clip_norm=5.0,
        ema=0.99,
        augment=AugmentConfig(horizontal_flip=0.5, affine=0.5),
    )


def to_json(config: FitConfig) -> dict[str, Any]:
    """Plain data, ready for JSON."""
    return asdict(config)


def from_json(data: dict[str, Any]) -> FitConfig:
    """The inverse of ``to_json``; an unknown key is a TypeError."""
    plain = dict(data)
    return FitConfig(
        **{
            **plain,
            "model": ModelConfig(**plain["model"]),
            "loss": LossConfig(**plain["loss"]),
            "augment": AugmentConfig(**plain["augment"]),
            "crop": CropConfig(**plain.get("crop", {})),
            "paste": PasteConfig(**plain.get("paste", {})),
            "draw": DrawConfig(**plain.get("draw", {})),
        }
    )


def overridden(config: FitConfig, changes: dict[str, Any], settings: list[str]) -> FitConfig:
    """``changes`` by name, then ``KEY=VALUE`` settings such as ``augment.vertical_flip=0``.

    Raises ValueError for a key that is not there or a value that is none of JSON's.
    """
    data = to_json(replace(config, **changes))
    for setting in settings:
        key, equals, text = setting.partition("=")
        *path, last = key.split(".")
        place = data
        for name in path:
            place = place.get(name, {})
        if not equals or not isinstance(place, dict) or last not in place:
            raise ValueError(f"no setting {key!r}; there are {', '.join(sorted(place or data))}")
        try:
            place[last] = json.loads(text)
        except json.JSONDecodeError:
            place[last] = text
    return from_json(data)
