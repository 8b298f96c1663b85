"""Images in memory, batches made of them. Preprocessing is the daemon's own code (``inspector.preprocess``)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inspector.errors import ConfigError
from inspector.frame import Grey
from inspector.layouts import GOOD, Sample, list_samples, read_grey, read_mask, usable
from inspector.preprocess import normalise, resize_to_input
from train.augment import Augment
from train.config import FitConfig, Layout
from train.crop import paste, patches_of, window
from train.draw import draw
from train.losses import location_target

Mask = NDArray[np.uint8]

KSDD_CROP = 500
"""KolektorSDD images are 500 wide; the paper cuts 500 x 500 crops (196 of 52 images, hence four an image)."""
KSDD_CROPS = 4


@dataclass(frozen=True, slots=True)
class Item:
    """One image as the network sees it before normalisation."""

    name: str
    """Path below the data folder, with ``#n`` for crop n."""
    image: Grey
    """size x size uint8."""
    mask: Mask
    """size x size, 0 sound and 1 defect."""
    group: str
    cls: str
    """Class of defect; ``good`` for a sound image."""
    defective: bool


def resize_mask(mask: Grey, size: int) -> Mask:
    """0/255 mask -> size x size 0/1, half covered counts; what would vanish keeps its best-covered pixel."""
    soft = resize_to_input(np.where(mask > 127, 255, 0).astype(np.uint8), size, size)
    small = (soft > 127).astype(np.uint8)
    if not small.any() and soft.any():
        small = (soft == soft.max()).astype(np.uint8)
    return small


def load_items(root: Path, layout: Layout, size: int, whole_every: int = 0) -> list[Item]:
    """All usable images of a data set in the order of their names; images with contradicting labels are left out
    (``inspector.layouts.EXCLUDED``). ``synthetic`` cuts the part out of its frame by its known pose, and adds every
    ``whole_every``-th frame uncut. Raises ConfigError for data that is missing or damaged."""
    poses = read_poses(root) if layout == "synthetic" else {}
    items: list[Item] = []
    for number, sample in enumerate(usable(list_samples(root, "folder" if layout == "synthetic" else layout))):
        image = read_grey(sample.image)
        mask = _mask_of(sample, image)
        pieces = [("", image, mask)]
        if layout == "kolektor-sdd":
            pieces = [(f"#{n}", *crop) for n, crop in enumerate(ksdd_crops(image, mask))]
        elif sample.id in poses:
            whole = pieces if whole_every and number % whole_every == 0 else []
            pieces = [("", *poses[sample.id].cut(image, mask, size)), *[("#frame", *w[1:]) for w in whole]]
        group = poses[sample.id].group if sample.id in poses else sample.group
        cls = poses[sample.id].cls if sample.id in poses else sample.cls
        for suffix, part, part_mask in pieces:
            small = resize_mask(part_mask, size)
            defective = bool(small.any())
            resized = resize_to_input(part, size, size)
            items.append(Item(sample.id + suffix, resized, small, group, cls if defective else GOOD, defective))
    return items


def _mask_of(sample: Sample, image: Grey) -> Grey:
    """0/255 mask of a sample. Without a mask only an image that its layout calls sound is sound: a forgotten mask
    must not teach that a defect is a good part."""
    if sample.mask is None and sample.defective is False:
        return np.zeros_like(image)
    if sample.mask is None:
        raise ConfigError(
            f"image {sample.id} has no mask, so nothing tells whether it is sound",
            expected="a mask of the same stem, all black for a sound part",
            found="none",
            do="Write its mask, or take the image out of the folder.",
        )
    return np.where(read_mask(sample, (image.shape[0], image.shape[1])), 255, 0).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Pose:
    """What ``python -m train synth`` notes of a part in ``parts.csv``."""

    group: str
    cls: str
    matrix: NDArray[np.float64]
    """2 x 3: pixel centre of the part's crop, 0 to 1 over its sides -> pixel centre of the frame."""

    def cut(self, image: Grey, mask: Grey, size: int) -> tuple[Grey, Grey]:
        """The part upright, size x size or at its own size where that is larger, as the daemon warps it."""
        sides = np.linalg.norm(self.matrix[:, :2], axis=0)
        width, height = (max(round(float(side)), size) for side in sides)
        to_unit = np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        part, part_mask = (
            cv2.warpAffine(each, self.matrix @ to_unit, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            for each in (image, mask)
        )
        return np.asarray(part, np.uint8), np.asarray(part_mask, np.uint8)


def read_poses(root: Path) -> dict[str, Pose]:
    """``parts.csv`` of a synthetic set: image id -> pose; empty where there is none."""
    path = root / "parts.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row["image"]: Pose(
                row["group"], row["cls"], np.array([float(v) for v in row["matrix"].split()]).reshape(2, 3)
            )
            for row in csv.DictReader(file)
        }


def ksdd_crops(image: Grey, mask: Grey, crops: int = KSDD_CROPS) -> list[tuple[Grey, Grey]]:
    """``crops`` square windows as wide as the image, spread evenly from its top to its bottom."""
    rows, side = image.shape[0], min(KSDD_CROP, *image.shape)
    tops = [round(i * (rows - side) / (crops - 1)) for i in range(crops)]
    return [(image[top : top + side, :side], mask[top : top + side, :side]) for top in tops]


def epoch_order(items: Sequence[Item], config: FitConfig, epoch: int) -> NDArray[np.int64]:
    """Indices of one epoch: every defective image once (``balance`` 0), sound ones filled in to the wanted share,
    shuffled.

    Sound images are dealt from one endless shuffled deck, so that all of them get their turn over the epochs.
    Depends on seed and epoch alone, so a resumed run sees the same order.
    """
    bad = np.array([i for i, item in enumerate(items) if item.defective], np.int64)
    good = np.array([i for i, item in enumerate(items) if not item.defective], np.int64)
    if config.defective_share <= 0 or not len(good) or not len(bad):
        chosen = np.arange(len(items))
    else:
        wanted = round(len(bad) * (1 - config.defective_share) / config.defective_share)
        deck = np.arange(epoch * wanted, (epoch + 1) * wanted)
        rounds = [
            np.random.default_rng((config.seed, 1, int(r))).permutation(good) for r in np.unique(deck // len(good))
        ]
        flat = np.concatenate(rounds) if rounds else good[:0]
        bad = _balanced(bad, items, config, epoch)
        chosen = np.concatenate([bad, flat[deck - (deck[0] // len(good)) * len(good)] if wanted else good[:0]])
    order = np.random.default_rng((config.seed, 2, epoch)).permutation(chosen)
    if config.steps_per_epoch:
        order = np.resize(order, config.steps_per_epoch * config.batch)
    return order


def _balanced(bad: NDArray[np.int64], items: Sequence[Item], config: FitConfig, epoch: int) -> NDArray[np.int64]:
    """As many draws as there are defective images; a rare class and a tile of few exposures come more often.

    Drawn in even steps through the summed weights (systematic sampling), so an epoch differs from the wanted shares by
    less than one image each."""
    if config.balance <= 0:
        return bad
    classes = Counter(items[i].cls for i in bad)
    pieces = Counter((items[i].cls, items[i].group) for i in bad)
    tiles = Counter(cls for cls, _ in pieces)
    even = np.array(
        [1 / len(classes) / tiles[items[i].cls] / pieces[items[i].cls, items[i].group] for i in bad], np.float64
    )
    weight = config.balance * even + (1 - config.balance) / len(bad)
    ends = np.cumsum(weight)
    start = np.random.default_rng((config.seed, 4, epoch)).random()
    at = (np.arange(len(bad)) + start) / len(bad) * ends[-1]
    return np.asarray(bad[np.searchsorted(ends, at, "right").clip(max=len(bad) - 1)], np.int64)


@dataclass(frozen=True, slots=True)
class Batch:
    """n x 1 x H x W float32 each: normalised images, masks, location targets."""

    image: Tensor
    mask: Tensor
    boxes: Tensor


def make_batch(pairs: Sequence[tuple[Grey, Mask]], mean: float, std: float) -> Batch:
    """Normalise as the daemon does; make the location target from the mask as it now is."""
    images = np.concatenate([normalise(image, mean, std) for image, _ in pairs])
    masks = np.stack([mask for _, mask in pairs])[:, None].astype(np.float32)
    boxes = np.stack([location_target(mask) for _, mask in pairs])[:, None].astype(np.float32)
    return Batch(*(torch.from_numpy(a) for a in (images, masks, boxes)))


def halve(image: Grey, mask: Mask) -> tuple[Grey, Mask]:
    """Both at half their size, by the same rules as at loading."""
    size = image.shape[0] // 2
    return resize_to_input(image, size, size), resize_mask(mask * 255, size)


def train_batches(
    items: Sequence[Item], config: FitConfig, epoch: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """The batches of one epoch, augmented, made one ahead in a thread; the last short batch is dropped.

    With several processes each takes its share of every batch, so the batch size of the recipe stays the global one.
    """
    order = epoch_order(items, config, epoch)
    augment = Augment(config.augment)
    copied = [(item.image, item.mask) for item in items if item.defective and config.paste.chance]
    patches = patches_of(copied, config.paste)

    def pair(position: int) -> tuple[Grey, Mask]:
        """Every draw depends on seed, epoch and position alone, so that a resumed run repeats it."""
        item, seed = items[order[position]], (config.seed, epoch, position)
        rng = np.random.default_rng((*seed, 3))
        image, mask = item.image, item.mask
        if patches and rng.random() < config.paste.chance:
            image, mask = paste(image, mask, patches, config.paste, rng)
        if rng.random() < config.draw.chance:
            image, mask = draw(image, mask, config.draw, rng)
        image, mask = augment(image, mask, seed)
        if config.crop.side:
            image, mask = window(image, mask, config.crop, rng)
        return halve(image, mask) if epoch < config.half_size_epochs else (image, mask)

    def make(step: int) -> Batch:
        positions = range(step * config.batch + rank, (step + 1) * config.batch, world)
        return make_batch([pair(p) for p in positions], config.mean, config.std)

    steps = steps_in(len(order), config.batch)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, 0) if steps else None
        for step in range(steps):
            assert ahead is not None
            batch = ahead.result()
            ahead = pool.submit(make, step + 1) if step + 1 < steps else None
            yield batch


def steps_in(images: int, batch: int) -> int:
    """Full batches in an epoch."""
    return images // batch


def plain_batches(items: Sequence[Item], config: FitConfig, batch: int = 16) -> Iterator[Batch]:
    """Images in order, not augmented, the last batch short; for validation."""
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        yield make_batch([(item.image, item.mask) for item in part], config.mean, config.std)
