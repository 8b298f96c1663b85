"""Image folders on disk: three published layouts and a plain one -> a sorted list of samples.

One code for replay, calibration and training, so that "the same images" means the same everywhere.
Nothing is decoded before it is asked for, except masks whose content alone tells good from defective.
"""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from inspector.errors import ConfigError
from inspector.frame import BoolMap, Grey

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff"})
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm")
GOOD = "good"

_SAME_AS_PA_101 = "the same image as Pa_101"
_EMPTY = "labelled uneven, but its mask is empty"
_SPECK = "labelled uneven, but its mask is 1 to 3 px"
_OTHER_EXPOSURE = "labelled free, but the same tile is labelled defective in another exposure"

EXCLUDED: dict[str, str] = {
    "neu-seg images/training/Pa_105.jpg": _SAME_AS_PA_101,
    **{
        f"magnetic-tile MT_Uneven/Imgs/{stem}.jpg": _EMPTY
        for stem in ("exp3_num_45042", "exp4_num_45057", "exp4_num_124690", "exp4_num_352527")
    },
    **{f"magnetic-tile MT_Uneven/Imgs/{stem}.jpg": _SPECK for stem in ("exp3_num_24829", "exp4_num_24843")},
    **{
        f"magnetic-tile MT_Free/Imgs/{stem}.jpg": _OTHER_EXPOSURE
        for stem in (
            "exp1_num_824", "exp4_num_889", "exp5_num_937", "exp5_num_117030", "exp1_num_148923", "exp2_num_148952",
            "exp4_num_148998", "exp2_num_331174", "exp3_num_331190", "exp5_num_331230", "exp2_num_346332",
            "exp4_num_346361",
        )
    },
}  # fmt: skip
"""``"<layout> <id>"`` -> why the image's label cannot be used for training or figures (the data README lists them)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a folder, with what is known about it."""

    id: str
    """Path relative to the folder, with forward slashes and suffix; the same on every machine."""
    image: Path
    mask: Path | None
    """Where its mask lies; None where there is none."""
    cls: str
    """``good``, the class of its defect (``defect`` where the layout names none), or empty where unknown."""
    group: str
    """Images of one group show the same physical piece; keep a group on one side of any split."""
    defective: bool | None
    """None where nothing tells."""
    layout: str = ""
    """The layout it was found in."""


def list_samples(root: Path, layout: str = "auto", *, read_masks: bool = True) -> list[Sample]:
    """Every image under ``root``, sorted by id.

    Layouts: ``kolektor-sdd`` (kosNN/PartM.jpg + PartM_label.png), ``magnetic-tile`` (MT_<Class>/Imgs/*.jpg + .png),
    ``neu-seg`` (images/*/STEM.jpg + annotations/*/STEM.png), ``folder`` (images/ + masks/ with the same relative
    stems, or a directory of images without masks), ``auto``. ``kolektor-sdd`` and ``folder`` tell defective from good
    by the mask's content and therefore decode every mask; with ``read_masks=False`` they leave it None.
    Groups come from ``groups.csv`` (dataset,image,group) in the parent directory, dataset being the folder's name or
    the layout's; an image it does not list is its own group (in kolektor-sdd: the commutator's folder).
    Raises ConfigError for a missing or empty folder, an unknown layout, or masks that fit no image.
    """
    root = Path(root)
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise ConfigError(f"no image folder at {root}", expected="a directory", found=found)
    if layout == "auto":
        layout = _detect(root)
    if layout not in _READERS:
        allowed = ", ".join(["auto", *_READERS])
        raise ConfigError("unknown layout", expected=f"one of {allowed}", found=repr(layout))
    samples = _READERS[layout](root)
    if not samples:
        raise ConfigError(
            f"no images in {root}",
            expected=f"layout {layout} with files {' '.join(sorted(IMAGE_SUFFIXES))}",
            found="none",
            do="Name the folder that holds them, or another --layout.",
        )
    groups = _read_groups(root, layout)
    filled = (replace(each, layout=layout, group=groups.get(each.id, each.group)) for each in samples)
    out = [_classify(each, read_masks) for each in filled]
    return sorted(out, key=lambda each: each.id)


def usable(samples: Iterable[Sample]) -> list[Sample]:
    """Those whose label can be trusted: without the images of EXCLUDED, in the same order."""
    return [each for each in samples if f"{each.layout} {each.id}" not in EXCLUDED]


def read_grey(path: Path) -> Grey:
    """The 8-bit grey image in a file: H x W uint8, C-contiguous, as stored (no EXIF rotation).

    A colour file is accepted when its channels are equal (and its alpha opaque). Raises ConfigError, in one line,
    for a file that is missing, truncated, damaged, 16-bit or really colour.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read image {path}", found=error.strerror or str(error)) from error
    fault = _damage(data)
    if fault:
        raise _refuse(path, fault)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # absurd sizes in a header
        pixels = None
    if pixels is None:
        raise _refuse(path, "no image that can be decoded")
    if pixels.dtype != np.uint8:
        raise _refuse(path, f"{8 * pixels.dtype.itemsize} bit a channel ({pixels.dtype})")
    if pixels.ndim == 3:
        first = pixels[..., 0]
        if not all(np.array_equal(first, pixels[..., channel]) for channel in range(1, min(3, pixels.shape[2]))):
            raise _refuse(path, "colour")
        if pixels.shape[2] in {2, 4} and int(pixels[..., -1].min()) < 255:
            raise _refuse(path, "a transparent image")
        pixels = first
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def read_mask(sample: Sample, shape: tuple[int, int] | None = None) -> BoolMap:
    """The sample's mask, H x W bool, True = defect; ``shape`` (H, W), where given, must fit.

    Values above 127 are defect; a mask that holds none above 127 is read as class numbers, anything but 0 being
    defect. Raises ConfigError where the sample has no mask, or it cannot be read, or is of another size.
    """
    if sample.mask is None:
        raise ConfigError(f"image {sample.id} has no mask", expected="a mask of the same stem", found="none")
    values = read_grey(sample.mask)
    if shape is not None and values.shape != shape:
        raise ConfigError(
            f"mask {sample.mask} does not fit its image",
            expected=f"{shape[1]} x {shape[0]} px",
            found=f"{values.shape[1]} x {values.shape[0]} px",
        )
    defect: BoolMap = values > (127 if int(values.max()) > 127 else 0)
    return defect


def _refuse(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"image {path} cannot be used",
        expected="8-bit grey",
        found=found,
        do="Take it anew, or convert it to 8-bit grey.",
    )


def _damage(data: bytes) -> str:
    """What is wrong with the bytes, or empty. Some decoders fill a truncated JPEG up with grey and only warn."""
    if not data:
        return "an empty file"
    if data.startswith(b"\xff\xd8"):
        return _jpeg_damage(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_damage(data)
    if data.startswith(b"BM") and len(data) >= 6 and struct.unpack_from("<I", data, 2)[0] > len(data):
        return "a truncated BMP file"
    return ""


def _jpeg_damage(data: bytes) -> str:
    """Walk the segments to the first scan; from there on the end marker FF D9 can only be the end of the image."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # fill byte
            at += 1
        elif data[at + 1] == 0xDA:
            return "" if data.find(b"\xff\xd9", at) > 0 else "a truncated JPEG file"
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return "a truncated JPEG file"


def _png_damage(data: bytes) -> str:
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"a damaged PNG file (checksum of {kind!r})"
        if kind == b"IEND":
            return ""
        at = end
    return "a truncated PNG file"


def _detect(root: Path) -> str:
    if any(root.glob("kos*/Part*.*")):
        return "kolektor-sdd"
    if any(root.glob("MT_*/Imgs")):
        return "magnetic-tile"
    if (root / "images").is_dir() and (root / "annotations").is_dir():
        return "neu-seg"
    return "folder"


def _read_groups(root: Path, layout: str) -> dict[str, str]:
    path = root.resolve().parent / "groups.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"dataset", "image", "group"} <= set(rows.fieldnames or ()):
            found = ",".join(rows.fieldnames or ()) or "nothing"
            raise ConfigError(f"cannot read {path}", expected="columns dataset,image,group", found=found)
        table = [(row["dataset"], row["image"], row["group"]) for row in rows]
    datasets = {dataset for dataset, _, _ in table}
    name = root.resolve().name
    wanted = name if name in datasets else layout
    return {image: group for dataset, image, group in table if dataset == wanted and group}


def _classify(sample: Sample, read_masks: bool) -> Sample:
    """Fill what only the mask tells."""
    if sample.defective is not None or sample.mask is None:
        return sample
    if not read_masks:
        return replace(sample, cls="")
    defective = bool(read_mask(sample).any())
    return replace(sample, defective=defective, cls=sample.cls if defective else GOOD)


def _images(folder: Path, pattern: str) -> list[Path]:
    return [
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def _sibling(stem: Path) -> Path | None:
    """The mask file at ``stem`` plus one of the suffixes masks have."""
    for suffix in MASK_SUFFIXES:
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return path
    return None


def _kolektor(root: Path) -> list[Sample]:
    out = []
    for path in _images(root, "kos*/Part*.*"):
        if path.stem.endswith("_label"):
            continue
        mask = _sibling(path.with_name(path.stem + "_label"))
        name = path.relative_to(root).as_posix()
        out.append(Sample(name, path, mask, "crack" if mask else "", path.parent.name, None))
    return out


def _magnetic_tile(root: Path) -> list[Sample]:
    out = []
    for path in _images(root, "MT_*/Imgs/*.*"):
        if path.suffix.lower() not in {".jpg", ".jpeg"}:  # the .png beside it is its mask
            continue
        cls = path.parent.parent.name.removeprefix("MT_").lower()
        name = path.relative_to(root).as_posix()
        good = cls == "free"
        out.append(Sample(name, path, _sibling(path.with_suffix("")), GOOD if good else cls, name, not good))
    return out


_STRIP_CLASSES = {"In": "inclusion", "Pa": "patches", "Sc": "scratches"}


def _neu_seg(root: Path) -> list[Sample]:
    out = []
    for path in _images(root / "images", "**/*.*"):
        prefix = path.stem.split("_")[0]
        mask = _sibling(root / "annotations" / path.relative_to(root / "images").with_suffix(""))
        name = path.relative_to(root).as_posix()
        out.append(Sample(name, path, mask, _STRIP_CLASSES.get(prefix, prefix.lower()), name, True))
    return out


def _folder(root: Path) -> list[Sample]:
    if not (root / "images").is_dir():
        return [Sample(path.name, path, None, "", path.name, None) for path in _images(root, "*.*")]
    out, used = [], set()
    for path in _images(root / "images", "**/*.*"):
        mask = _sibling(root / "masks" / path.relative_to(root / "images").with_suffix(""))
        used.add(mask)
        name = path.relative_to(root).as_posix()
        out.append(Sample(name, path, mask, "defect" if mask else "", name, None))
    orphans = sorted(set(_images(root / "masks", "**/*.*")) - used)
    if out and orphans:
        raise ConfigError(
            f"{len(orphans)} mask(s) in {root} fit no image",
            expected="a mask of the same stem as its image, in " + " ".join(MASK_SUFFIXES),
            found=orphans[0].relative_to(root).as_posix(),
        )
    return out


_READERS: dict[str, Callable[[Path], list[Sample]]] = {
    "kolektor-sdd": _kolektor,
    "magnetic-tile": _magnetic_tile,
    "neu-seg": _neu_seg,
    "folder": _folder,
}
