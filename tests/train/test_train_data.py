"""Data sets, splits, sampling and augmentation."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_helpers import draw_set

from inspector.camera.render import render_part
from inspector.errors import ConfigError
from inspector.preprocess import normalise, resize_to_input
from train.augment import Augment
from train.config import AugmentConfig, FitConfig, from_json, overridden, recipe, to_json
from train.data import Item, epoch_order, ksdd_crops, load_items, make_batch, resize_mask, train_batches
from train.evaluate import select_items
from train.losses import location_target
from train.predict import Predictor
from train.split import Split, make_split, read_split, sides
from train.synth import write_set

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public image sets are not beside the checkout")


def item(name: str, group: str, cls: str) -> Item:
    """A tiny item; only name, group and class matter."""
    image = np.full((8, 8), 100, np.uint8)
    mask = np.full((8, 8), int(cls != "good"), np.uint8)
    return Item(name, image, mask, group, cls, cls != "good")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.lists(st.tuples(st.integers(0, 15), st.sampled_from("abg")), min_size=20, max_size=80))
def test_grouped_split_never_leaks(seed: int, pieces: list[tuple[int, str]]) -> None:
    """No group stands on both sides, every image on exactly one, whatever the groups look like."""
    items = [item(f"{n}", f"g{group}", "good" if c == "g" else c) for n, (group, c) in enumerate(pieces)]
    split = make_split(items, "folder", "grouped", 0.25, seed)
    train, validation = sides(items, split)
    assert not {i.group for i in train} & {i.group for i in validation}
    assert Counter(split.train + split.validation) == Counter(i.name for i in items)


def test_split_is_stratified() -> None:
    """Each class keeps about the wanted share on the validation side."""
    items = [item(f"{c}{n}", f"{c}{n // 3}", c) for c in ("good", "a", "b") for n in range(90)]
    validation = sides(items, make_split(items, "folder", "grouped", 0.2, 0))[1]
    for count in Counter(i.cls for i in validation).values():
        assert abs(count - 18) <= 3


def test_crops_of_one_image_stay_together() -> None:
    """Even the paper's split over images never puts two crops of one image on two sides."""
    items = [item(f"p{n}#{k}", f"p{n}", "a") for n in range(40) for k in range(4)]
    train, validation = sides(items, make_split(items, "kolektor-sdd", "paper", 0.25, 0))
    assert not {i.group for i in train} & {i.group for i in validation}


def test_split_file_is_hashed(tmp_path: Path) -> None:
    """A split comes back as written; an edited file is refused, and so is one for other data."""
    items = [item(str(n), str(n), "a") for n in range(10)]
    split = make_split(items, "folder", "grouped", 0.3, 0)
    split.write(tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == split
    data = json.loads((tmp_path / "split.json").read_text())
    data["train"].append(data["validation"].pop())
    (tmp_path / "split.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="changed by hand"):
        read_split(tmp_path / "split.json")
    with pytest.raises(ValueError, match="not in the data"):
        sides(items, Split("folder", "grouped", 0, ("elsewhere",), ()))


@real_data
def test_magnetic_tile_split_keeps_tiles_whole() -> None:
    """The published set: contradicting labels are left out, no tile is on both sides, every class is on both."""
    items = load_items(DATA / "magnetic-tile", "magnetic-tile", 64)
    assert len(items) == 744
    assert not [i for i in items if i.defective and not i.mask.any()]
    train, validation = sides(items, make_split(items, "magnetic-tile", "grouped", 0.2, 0))
    assert not {i.group for i in train} & {i.group for i in validation}
    assert {i.cls for i in train} == {i.cls for i in validation} == {i.cls for i in items}


@real_data
def test_kolektor_crops_cover_the_image() -> None:
    """Four square crops a surface; crops of one commutator share its group; only crops with a crack are defective."""
    items = load_items(DATA / "kolektor-sdd", "kolektor-sdd", 64)
    assert len(items) == 4 * 142
    assert all(i.defective == bool(i.mask.any()) for i in items)
    assert {i.group for i in items if i.name.startswith("kos38/")} == {
        i.group for i in items if i.name.startswith("kos39/")
    }


def test_crops_reach_both_ends() -> None:
    """The first crop starts at the first row, the last ends at the last, neighbours overlap or touch."""
    image = np.repeat(np.arange(1260) % 251, 500).reshape(1260, 500).astype(np.uint8)
    crops = [c for c, _ in ksdd_crops(image, np.zeros_like(image))]
    assert [c.shape for c in crops] == [(500, 500)] * 4
    assert np.array_equal(crops[0], image[:500])
    assert np.array_equal(crops[3], image[-500:])


def test_small_defects_survive_resizing() -> None:
    """A defect of one pixel still has a pixel at a quarter of the size; half coverage is the rule otherwise."""
    mask = np.zeros((256, 256), np.uint8)
    mask[101, 77] = 255
    assert resize_mask(mask, 64).sum() == 1
    mask[64:128, 64:128] = 255
    assert resize_mask(mask, 64).sum() == 256
    assert not resize_mask(np.zeros((256, 256), np.uint8), 64).any()


def test_image_without_mask_is_refused(tmp_path: Path) -> None:
    """A forgotten mask does not make a sound part: training refuses the image and names it."""
    root = draw_set(tmp_path / "set", 4)
    (root / "masks/002.png").unlink()
    with pytest.raises(ConfigError, match=r"images/002\.png has no mask"):
        load_items(root, "folder", 32)


def test_preprocessing_is_the_daemons(plain_set: Path) -> None:
    """A batch holds exactly what resize_to_input and normalise of the daemon give."""
    items = load_items(plain_set, "folder", 32)
    batch = make_batch([(i.image, i.mask) for i in items[:2]], 0.4, 0.2)
    import cv2

    raw = cv2.imread(str(plain_set / items[0].name), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(batch.image[0].numpy(), normalise(resize_to_input(raw, 32, 32), 0.4, 0.2)[0])


def test_epoch_balances_good_and_defective() -> None:
    """Every defective image once an epoch, as many sound ones, and over the epochs all sound ones get their turn."""
    items = [item(f"b{n}", "x", "a") for n in range(10)] + [item(f"g{n}", "x", "good") for n in range(37)]
    config = FitConfig(defective_share=0.5)
    seen: Counter[int] = Counter()
    for epoch in range(37):
        order = epoch_order(items, config, epoch)
        assert sorted(order[order < 10]) == list(range(10))
        assert len(order) == 20
        seen.update(int(i) for i in order if i >= 10)
    assert set(seen.values()) == {10}
    assert len(seen) == 37


def test_balance_lets_rare_classes_and_tiles_come_more_often() -> None:
    """Fully balanced, each class has the same share of the draws and each tile the same share of its class; the number
    of draws stays, and every defective image comes over a few epochs."""
    items = [item(f"u{n}", f"t{n % 6}", "uneven") for n in range(60)]
    items += [item(f"c{n}", "t8" if n else "t9", "crack") for n in range(12)] + [item("g", "t7", "good")]
    config = FitConfig(defective_share=0.5, balance=1.0)
    drawn: Counter[int] = Counter()
    for epoch in range(30):
        bad = [int(i) for i in epoch_order(items, config, epoch) if items[i].defective]
        assert len(bad) == 72
        assert abs(sum(items[i].cls == "crack" for i in bad) - 36) <= 1
        assert abs(bad.count(60) - 18) <= 1, "a tile of one exposure is half of its class"
        drawn.update(bad)
    assert set(drawn) == set(range(72))
    half = epoch_order(items, replace(config, balance=0.5), 0)
    assert abs(sum(items[i].cls == "crack" for i in half) - 24) <= 1


def test_epoch_depends_on_seed_and_epoch_alone(plain_set: Path) -> None:
    """The batches of an epoch repeat bit for bit, and differ between epochs and seeds."""
    items = load_items(plain_set, "folder", 32)
    config = replace(recipe("fast", "folder", 8), batch=4, size=32)
    again = [[b.image for b in train_batches(items, config, 3)] for _ in range(2)]
    assert all(bool((a == b).all()) for a, b in zip(*again, strict=True))
    other = [b.image for b in train_batches(items, config, 4)]
    assert not all(bool((a == b).all()) for a, b in zip(again[0], other, strict=True))
    assert not np.array_equal(epoch_order(items, config, 3), epoch_order(items, replace(config, seed=1), 3))


def test_ranks_share_each_batch(plain_set: Path) -> None:
    """Two processes together see exactly the images of one process's batch."""
    items = load_items(plain_set, "folder", 32)
    config = replace(recipe("paper", "folder", 8), batch=4, size=32)
    whole = next(iter(train_batches(items, config, 0)))
    halves = [next(iter(train_batches(items, config, 0, rank, 2))) for rank in (0, 1)]
    for rank in (0, 1):
        assert bool((whole.image[rank::2] == halves[rank].image).all())


def test_target_is_made_after_augmentation(plain_set: Path) -> None:
    """Mask and image move together, stay 0/1, and the boxes fit the mask as it then is."""
    items = [i for i in load_items(plain_set, "folder", 64) if i.defective]
    config = replace(recipe("fast", "folder", 8), batch=4, size=64, defective_share=0)
    config = replace(config, augment=replace(config.augment, affine=1.0, rotate_deg=20.0))
    batch = next(iter(train_batches(items, config, 0)))
    for image, mask, boxes in zip(batch.image, batch.mask, batch.boxes, strict=True):
        assert set(np.unique(mask.numpy())) <= {0.0, 1.0}
        assert np.array_equal(boxes[0].numpy(), location_target(mask[0].numpy() > 0))
        if mask.any():
            assert float(image[mask > 0].mean()) < float(image[mask == 0].mean())


def test_half_size_epochs_halve(plain_set: Path) -> None:
    """The first epochs run at half the size, later ones at full size."""
    items = load_items(plain_set, "folder", 64)
    config = replace(recipe("fast", "folder", 8), batch=4, size=64, half_size_epochs=2)
    assert next(iter(train_batches(items, config, 1))).image.shape[-1] == 32
    assert next(iter(train_batches(items, config, 2))).boxes.shape[-1] == 64


def test_no_augmentation_is_the_identity() -> None:
    """With all chances at zero the image comes through untouched."""
    nothing = AugmentConfig(vertical_flip=0, value=0, brightness_contrast=0)
    image = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    out, mask = Augment(nothing)(image, np.zeros((32, 32), np.uint8), (1, 2))
    assert np.array_equal(out, image)
    assert not mask.any()


def test_synthetic_set_is_the_renderers(tmp_path: Path) -> None:
    """synth writes the camera's own frames; loading it cuts the parts out, upright, and finds every defect."""
    write_set(tmp_path / "set", 12, seed=5)
    import cv2

    image = cv2.imread(str(tmp_path / "set/images/000003.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(image, render_part(5, 3).image)
    items = load_items(tmp_path / "set", "synthetic", 64, whole_every=4)
    assert len(items) == 12 + 3
    for each in items:
        index = int(each.name.split("/")[1][:6])
        assert each.defective == render_part(5, index).defective
    frames = load_items(tmp_path / "set", "folder", 64)
    assert len(frames) == 12
    cut, frame = items[0].image, frames[0].image
    assert cut[:, :4].mean() > frame[:, :4].mean() + 20  # the dark nest around the part is cut away


def test_parts_are_judged_without_the_frames_shown_besides(tmp_path: Path) -> None:
    """A split that names every third frame besides the parts is found again, and only parts are judged."""
    write_set(tmp_path / "set", 12, seed=5)
    items = load_items(tmp_path / "set", "synthetic", 64, whole_every=3)
    split = make_split(items, "synthetic", "paper", 0.5, 0)
    split.write(tmp_path / "split.json")
    predictor = Predictor("p", 64, 0.5, 0.25, 0.5, 1, {}, tmp_path / "split.json", None)
    judged, source = select_items(predictor, tmp_path / "set", "synthetic", None, "validation")
    assert sorted(i.name for i in judged) == [n for n in split.validation if "#" not in n]
    assert any("#" in name for name in split.validation)
    assert f"{len(judged)} images" in source


def test_recipe_survives_json() -> None:
    """A configuration comes back from JSON as it was; settings by name change it; a misspelt one is refused."""
    config = recipe("fast", "magnetic-tile", 16)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    changed = overridden(config, {"seed": 3}, ["augment.vertical_flip=0", "loss.shape_free=true", "optimiser=sgd"])
    assert (changed.seed, changed.augment.vertical_flip, changed.loss.shape_free) == (3, 0, True)
    assert changed.optimiser == "sgd"
    with pytest.raises(ValueError, match="vertcal"):
        overridden(config, {}, ["augment.vertcal_flip=0"])
    with pytest.raises(TypeError):
        from_json({**to_json(config), "epoch": 3})


def test_paper_recipe_is_the_papers() -> None:
    """Batch 16, 500 epochs, base rate 1e-3, weight decay 1e-4, momentum 0.9, loss 1.4 / 0.4 / 0.2, width 32."""
    c = recipe("paper", "magnetic-tile")
    assert (c.batch, c.epochs, c.learning_rate, c.weight_decay, c.momentum) == (16, 500, 1e-3, 1e-4, 0.9)
    assert (c.loss.seg, c.loss.loc, c.loss.diff, c.model.width) == (1.4, 0.4, 0.2, 32)
    assert recipe("paper", "kolektor-sdd").size == 512
