"""Folders of images: what is listed, what is known of each, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from inspector.errors import ConfigError
from inspector.layouts import EXCLUDED, list_samples, read_grey, read_mask, usable

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
PUBLISHED = {
    # images, defective, usable, groups as the data README and groups.csv count them
    "kolektor-sdd": (142, 37, 142),
    "magnetic-tile": (762, 338, 744),
    "neu-seg": (720, 720, 719),
}


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def grey(height: int = 20, width: int = 30, value: int = 90) -> np.ndarray:
    image = np.full((height, width), value, np.uint8)
    image[3:6, 4:9] = 200
    return image


def mask(defective: bool, height: int = 20, width: int = 30) -> np.ndarray:
    out = np.zeros((height, width), np.uint8)
    if defective:
        out[3:6, 4:9] = 255
    return out


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_listed_as_their_readme_counts_them(name: str) -> None:
    """Counts of images, defective and usable ones, and groups agree with the data README and groups.csv."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} beside the repository")
    samples = list_samples(DATA / name)
    images, defective, good_enough = PUBLISHED[name]
    assert {each.layout for each in samples} == {name}
    assert len(samples) == len({each.id for each in samples}) == images
    assert sum(each.defective is True for each in samples) == defective
    assert len(usable(samples)) == good_enough
    assert [each.id for each in samples] == sorted(each.id for each in samples)
    rows = [line.split(",") for line in (DATA / "groups.csv").read_text().splitlines()[1:]]
    assert {each.id: each.group for each in samples} == {row[1]: row[2] for row in rows if row[0] == name}
    assert all((each.cls == "good") == (not each.defective) for each in samples)
    for each in samples[:: max(1, images // 25)]:
        assert read_mask(each, read_grey(each.image).shape).any() == each.defective or each not in usable([each])


def test_every_excluded_image_exists_in_its_set() -> None:
    """The list of peculiar images names real ones: a typing error in it would exclude nothing, silently."""
    if not (DATA / "magnetic-tile").is_dir():
        pytest.skip("no data beside the repository")
    found = {f"{each.layout} {each.id}" for name in PUBLISHED for each in list_samples(DATA / name, read_masks=False)}
    assert set(EXCLUDED) <= found


def test_listing_without_masks_says_unknown_rather_than_good() -> None:
    """What only a mask tells stays None and without a class while masks are not read."""
    if not (DATA / "kolektor-sdd").is_dir():
        pytest.skip("no data beside the repository")
    samples = list_samples(DATA / "kolektor-sdd", read_masks=False)
    assert {(each.defective, each.cls) for each in samples} == {(None, "")}


def test_plain_pair_is_labelled_by_mask_content(tmp_path: Path) -> None:
    """images/ + masks/: non-empty mask = defective, empty = good, no mask = unknown; nested folders pair up."""
    for stem, defective in (("a", True), ("b", False), ("deep/c", True)):
        write(tmp_path / "images" / f"{stem}.jpg", grey())
        write(tmp_path / "masks" / f"{stem}.png", mask(defective))
    write(tmp_path / "images" / "d.bmp", grey())
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    got = {each.id: (each.defective, each.cls) for each in list_samples(tmp_path)}
    assert got == {
        "images/a.jpg": (True, "defect"),
        "images/b.jpg": (False, "good"),
        "images/d.bmp": (None, ""),
        "images/deep/c.jpg": (True, "defect"),
    }


def test_flat_folder_has_unknown_labels_and_own_groups(tmp_path: Path) -> None:
    """A directory of images without masks lists them, claims nothing about them, and each is its own group."""
    for name in ("2.png", "10.png", "1.tif"):
        write(tmp_path / name, grey())
    samples = list_samples(tmp_path, "folder")
    assert [each.id for each in samples] == ["1.tif", "10.png", "2.png"]
    assert {(each.mask, each.defective, each.cls) for each in samples} == {(None, None, "")}
    assert all(each.group == each.id for each in samples)


def test_groups_file_is_read_by_folder_name(tmp_path: Path) -> None:
    """groups.csv beside the folder gives the groups of its own rows only; an unlisted image is its own group."""
    for name in ("x.png", "y.png", "z.png"):
        write(tmp_path / "lot" / name, grey())
    (tmp_path / "groups.csv").write_text("dataset,image,group\nlot,x.png,p1\nlot,y.png,p1\nother,z.png,p9\n")
    assert [each.group for each in list_samples(tmp_path / "lot")] == ["p1", "p1", "z.png"]


def test_kolektor_without_groups_keeps_a_commutator_together(tmp_path: Path) -> None:
    """Two surfaces of one commutator are one physical part even where no groups.csv says so."""
    for part in (0, 1):
        write(tmp_path / "kos05" / f"Part{part}.jpg", grey())
        write(tmp_path / "kos05" / f"Part{part}_label.bmp", mask(part == 1))
    assert [(each.group, each.cls) for each in list_samples(tmp_path)] == [("kos05", "good"), ("kos05", "crack")]


@pytest.mark.parametrize("make", ["missing", "file", "empty", "unknown layout", "orphan mask", "bad groups"])
def test_unusable_folders_are_one_line_errors(tmp_path: Path, make: str) -> None:
    """A folder that cannot be read as asked ends with a single clear line, never with an empty list."""
    root, layout = tmp_path / "set", "auto"
    if make == "file":
        root.write_text("x")
    elif make != "missing":
        root.mkdir()
    if make == "unknown layout":
        write(root / "a.png", grey())
        layout = "coco"
    if make == "orphan mask":
        write(root / "images" / "a.png", grey())
        write(root / "masks" / "a_mask.png", mask(True))
    if make == "bad groups":
        write(root / "a.png", grey())
        (tmp_path / "groups.csv").write_text("image;group\n")
    with pytest.raises(ConfigError) as caught:
        list_samples(root, layout)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".pgm"])
def test_grey_images_are_read_as_stored(tmp_path: Path, suffix: str) -> None:
    """Lossless kinds come back bit for bit, and all as 2-D contiguous uint8."""
    image = grey(33, 47)
    got = read_grey(write(tmp_path / f"a{suffix}", image))
    assert got.dtype == np.uint8 and got.shape == image.shape and got.flags.c_contiguous
    assert np.array_equal(got, image) or suffix == ".jpg"


def test_colour_file_with_equal_channels_is_grey(tmp_path: Path) -> None:
    """A grey picture saved as colour is the grey picture."""
    image = grey()
    assert np.array_equal(read_grey(write(tmp_path / "a.png", np.dstack([image] * 3))), image)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".pgm"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    """A file cut anywhere never comes back as an image: decoders would fill the rest with grey."""
    rng = np.random.default_rng(3)
    whole = write(tmp_path / f"a{suffix}", rng.integers(0, 255, (40, 60), np.uint8)).read_bytes()
    for keep in (0, 1, 7, len(whole) // 10, len(whole) // 2, len(whole) - 200):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[:keep])
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            read_grey(path)
        if keep > 7 and suffix in {".png", ".jpg", ".bmp"}:  # not left to the decoder, which may differ by release
            assert "truncated" in str(caught.value)


def test_flipped_byte_in_png_is_refused(tmp_path: Path) -> None:
    """A PNG whose checksum does not fit is damaged, even if its pixels still decode."""
    path = write(tmp_path / "a.png", grey())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="checksum"):
        read_grey(path)


def test_16_bit_colour_alpha_and_rubbish_are_refused(tmp_path: Path) -> None:
    """Only 8-bit grey is inspected; every other file says what it is."""
    colour = np.dstack([grey(), grey(value=10), grey()])
    alpha = np.dstack([grey()] * 4)
    (tmp_path / "rubbish.jpg").write_bytes(b"not an image at all")
    cases = {
        write(tmp_path / "deep.png", grey().astype(np.uint16) * 257): "16 bit",
        write(tmp_path / "colour.png", colour): "colour",
        write(tmp_path / "alpha.png", alpha): "transparent",
        tmp_path / "rubbish.jpg": "no image",
        tmp_path / "gone.png": "No such file",
    }
    for path, word in cases.items():
        with pytest.raises(ConfigError, match=word) as caught:
            read_grey(path)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_mask_values_and_size(tmp_path: Path) -> None:
    """255 and class numbers both mean defect, soft edges are cut at 127, and a mask must fit its image."""
    soft = mask(True)
    soft[10, 10] = 100
    numbers = np.where(mask(True) > 0, 3, 0).astype(np.uint8)
    for stem, values in (("soft", soft), ("numbers", numbers)):
        write(tmp_path / "images" / f"{stem}.png", grey())
        write(tmp_path / "masks" / f"{stem}.png", values)
    for each in list_samples(tmp_path):
        assert np.array_equal(read_mask(each, (20, 30)), mask(True) > 0)
        with pytest.raises(ConfigError, match="does not fit"):
            read_mask(each, (20, 31))


def test_sample_without_mask_has_none_to_read(tmp_path: Path) -> None:
    """Asking for a mask that is not there is an error, not an empty mask."""
    write(tmp_path / "a.png", grey())
    with pytest.raises(ConfigError, match="no mask"):
        read_mask(list_samples(tmp_path)[0])
