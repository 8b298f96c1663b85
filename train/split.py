"""Train and validation sides: grouped (honest) or at random over images (the paper's, which leaks). Written, hashed."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from train.data import Item


@dataclass(frozen=True, slots=True)
class Split:
    """Which image stands on which side."""

    layout: str
    protocol: Literal["grouped", "paper"]
    seed: int
    train: tuple[str, ...]
    validation: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Over the canonical JSON; stands in checkpoints and manifests."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """As JSON with its own hash."""
        path.write_text(json.dumps({**asdict(self), "sha256": self.sha256}, indent=1) + "\n", encoding="utf-8")


def read_split(path: Path) -> Split:
    """Raises ValueError when the file does not match its hash."""
    data = json.loads(path.read_text(encoding="utf-8"))
    told = data.pop("sha256")
    split = Split(**{**data, "train": tuple(data["train"]), "validation": tuple(data["validation"])})
    if split.sha256 != told:
        raise ValueError(f"{path}: the split was changed by hand: hash {split.sha256[:16]}, written {told[:16]}")
    return split


def make_split(
    items: Sequence[Item], layout: str, protocol: Literal["grouped", "paper"], share: float, seed: int
) -> Split:
    """Stratified by class. ``grouped`` keeps each group whole; ``paper`` deals single images (crops stay together).
    ``share`` 0 puts every image on the training side."""
    cells: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        cells[item.group if protocol == "grouped" else item.name.partition("#")[0]].append(item)
    names = sorted(cells)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    wanted: dict[str, float] = defaultdict(float)
    for item in items:
        wanted[item.cls] += share
    missing = dict(wanted)
    chosen: set[str] = set()
    for name in order if share > 0 else ():
        counts: dict[str, int] = defaultdict(int)
        for item in cells[name]:
            counts[item.cls] += 1
        before = sum((missing[c] / wanted[c]) ** 2 for c in counts)
        after = sum(((missing[c] - n) / wanted[c]) ** 2 for c, n in counts.items())
        if after < before:
            chosen.add(name)
            for c, n in counts.items():
                missing[c] -= n
    validation = {item.name for name in chosen for item in cells[name]}
    return Split(
        layout=layout,
        protocol=protocol,
        seed=seed,
        train=tuple(sorted(i.name for i in items if i.name not in validation)),
        validation=tuple(sorted(validation)),
    )


def sides(items: Sequence[Item], split: Split) -> tuple[list[Item], list[Item]]:
    """Train and validation items. Raises ValueError when the split names images that are not there."""
    by_name = {item.name: item for item in items}
    absent = [name for name in (*split.train, *split.validation) if name not in by_name]
    if absent:
        raise ValueError(f"split names {len(absent)} images that are not in the data, first {absent[0]}")
    return [by_name[n] for n in split.train], [by_name[n] for n in split.validation]
