"""The images that build-engine proves a plan on, and those that it calibrates INT8 with."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from inspector.errors import ConfigError

if TYPE_CHECKING:
    from inspector.engine.build import ProofImages
    from inspector.engine.split import Split
    from inspector.frame import BoolMap
    from inspector.layouts import Sample
    from inspector.recipe import Ingredients


def proof_images(arguments: argparse.Namespace, ingredients: Ingredients) -> tuple[ProofImages, ProofImages | None]:
    """The images of ``--images`` to prove on, and where the training's split is known those to calibrate with.

    With a split the proof takes the validation side alone and the calibration the training side alone. Without one
    there is no second set (None): the proof's own are divided. Raises ConfigError where a side has no image.
    """
    from inspector.engine.build import deal
    from inspector.layouts import list_samples, usable

    samples = usable(list_samples(arguments.images, arguments.layout, read_masks=False))[: arguments.limit]
    split = _split(arguments, ingredients)
    where = f"images of {arguments.images.name}"
    if split is None:
        return _load(samples, ingredients, where), None
    proof = [one for one in samples if one.id in split.validation]
    calibration = [one for one in samples if one.id in split.train]
    if not proof or not calibration:
        raise ConfigError(
            f"{arguments.images} does not hold the images that this network was trained and validated on",
            expected=f"images of both sides of the split ({split.label})",
            found=f"{len(calibration)} of the training side, {len(proof)} of the validation side",
            do="Name the training's data, or a folder of other images with a bundle that carries no split.",
        )
    rest = len(samples) - len(proof) - len(calibration)
    if rest:
        print(f"{rest} images are left out: they are on neither side of the split", file=sys.stderr)
    dealt = [calibration[n] for n in deal(len(calibration))]
    return (
        _load(proof, ingredients, f"{where}, validation side ({split.label})"),
        _load(dealt, ingredients, f"{where}, training side ({split.label})"),
    )


def _split(arguments: argparse.Namespace, ingredients: Ingredients) -> Split | None:
    from inspector.engine.split import read_split

    bundle = ingredients.bundle
    if arguments.split is None:
        return bundle.split()
    try:
        data = arguments.split.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {arguments.split}", found=error.strerror or str(error)) from error
    return read_split(data, bundle.split_sha256, str(arguments.split))


def _load(samples: list[Sample], ingredients: Ingredients, where: str) -> ProofImages:
    """As the network sees them on the line; parts that are not found are left out and told."""
    import numpy as np

    from inspector.engine.build import ProofImages
    from inspector.frame import BoolMap, Crop, Frame
    from inspector.layouts import read_grey

    crops, names, masks, lost = [], [], list[BoolMap | None](), 0
    for number, sample in enumerate(samples, start=1):
        crop = ingredients.preprocess.prepare(Frame(number, read_grey(sample.image), 0))
        if isinstance(crop, Crop):
            crops.append(crop.image)
            names.append(sample.id)
            masks.append(_mask(sample, ingredients))
        else:
            lost += 1
    if not crops:
        raise ConfigError(f"none of the {where} shows a part", do="Give the station's --config.")
    if lost:
        print(f"{lost} images are left out: no part was found in them", file=sys.stderr)
    known = [mask for mask in masks if mask is not None]
    true = np.stack(known) if len(known) == len(masks) else None
    return ProofImages(np.stack(crops), f"{len(crops)} {where}", tuple(names), true)


def _mask(sample: Sample, ingredients: Ingredients) -> BoolMap | None:
    """The true mask at the size of the map; known only where the whole frame is the part."""
    import numpy as np

    from inspector.layouts import read_mask
    from inspector.preprocess.pixels import resize_mask

    size = (ingredients.bundle.height, ingredients.bundle.width)
    if ingredients.preprocess.window is not None or (sample.mask is None and sample.defective is not False):
        return None
    return np.zeros(size, bool) if sample.mask is None else resize_mask(read_mask(sample), *size)
