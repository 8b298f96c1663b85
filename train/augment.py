"""Augmentation through albumentations; every image's draw is seeded by its place, so a resumed run repeats it."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.frame import Grey
from train.config import AugmentConfig

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # the library would look for updates on import


class Augment:
    """Callable on one image and its mask; not shared between threads."""

    def __init__(self, config: AugmentConfig) -> None:
        import albumentations as A

        c = config
        steps: list[Any] = [A.VerticalFlip(p=c.vertical_flip), A.HorizontalFlip(p=c.horizontal_flip)]
        if c.transpose:
            steps.append(A.Transpose(p=c.transpose))
        if c.affine:
            steps.append(
                A.Affine(
                    translate_percent=(-c.shift, c.shift),
                    scale=(1 - c.scale, 1 + c.scale),
                    rotate=(-c.rotate_deg, c.rotate_deg),
                    border_mode=cv2.BORDER_REFLECT_101,
                    p=c.affine,
                )
            )
        if c.value:
            limit = c.value_limit
            steps.append(
                A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=0, p=c.value)
            )  # HSV of a grey image: hue and saturation have nothing to change
        if c.brightness_contrast:
            steps.append(
                A.RandomBrightnessContrast(
                    brightness_limit=c.brightness_limit, contrast_limit=c.contrast_limit, p=c.brightness_contrast
                )
            )
        if c.gamma:
            limits = (100 / c.gamma_limit, 100 * c.gamma_limit)
            steps.append(A.RandomGamma(gamma_limit=limits, p=c.gamma))
        if c.noise:
            steps.append(A.OneOf([A.GaussNoise(std_range=(0.01, 0.04)), A.GaussianBlur(blur_limit=(3, 3))], p=c.noise))
        self._compose = A.Compose(steps, seed=0)

    def __call__(self, image: Grey, mask: NDArray[np.uint8], seed: tuple[int, ...]) -> tuple[Grey, NDArray[np.uint8]]:
        """Augmented copies; the same ``seed`` gives the same result."""
        self._compose.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        result = self._compose(image=image, mask=mask)
        return np.ascontiguousarray(result["image"]), np.ascontiguousarray(result["mask"])
