"""Replay: the line's own judgement over recorded images, every one of them, in order, deterministic.

Two runs over the same images with the same engine, calibration and rules write byte-identical results files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2

from inspector.clock import Clock, SystemClock
from inspector.config import Settings
from inspector.errors import ConfigError
from inspector.examine import examine
from inspector.figures import Tally, percentiles
from inspector.fittings import Recipe
from inspector.frame import BoolMap, Decision, Defect, Evidence, Frame, Hashes, Reason, invalid
from inspector.layouts import Sample, list_samples, read_grey, read_mask
from inspector.overlay import draw
from inspector.preprocess.pixels import resize_mask
from inspector.recipe import engine_opener, open_proven, read_ingredients

AHEAD = 4  # images decoded ahead: enough to hide decoding, few enough to keep memory flat


@dataclass(frozen=True, slots=True)
class Replayed:
    """One image's outcome."""

    sample: Sample
    decision: Decision
    evidence: Evidence
    truth: BoolMap | None
    engine_us: int


def replay(
    folder: Path,
    settings: Settings,
    *,
    layout: str = "auto",
    results: Path | None = None,
    overlays: Path | None = None,
    limit: int | None = None,
    clock: Clock | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Judge every image of ``folder``; returns the figures (keys as ``replay --json``).

    Raises ConfigError for a folder without images, EngineError for an engine that is not proven.
    """
    clock = clock or SystemClock()
    samples = list_samples(folder, layout)[:limit]
    ingredients = read_ingredients(settings, clock)
    opened = open_proven(ingredients.bundle, engine_opener(settings))
    tally, times_ms, started_ns = Tally(), [], clock.now_ns()
    try:
        recipe = ingredients.recipe(opened.engine)
        with _results_file(results) as write:
            for done, one in enumerate(judge_all(samples, recipe, clock), start=1):
                tally.add(one.decision.verdict, one.sample.defective, one.evidence.mask, one.truth)
                times_ms.append(one.engine_us / 1000)
                write(result_line(one, recipe.hashes))
                if overlays is not None:
                    _save_overlay(overlays, one)
                on_progress(done, len(samples))
    finally:
        opened.engine.close()
    seconds = (clock.now_ns() - started_ns) / 1e9
    return {
        **tally.figures().to_json(),
        "engine": opened.engine.info.plan_hash[:16],
        "backend": opened.engine.info.backend,
        "precision": opened.engine.info.precision,
        "engine_ms": percentiles(times_ms).to_json(),
        "images_per_s": len(samples) / seconds if seconds > 0 else None,
    }


def judge_all(samples: list[Sample], recipe: Recipe, clock: Clock) -> Iterator[Replayed]:
    """Judge in order; images are decoded ahead in one thread while the engine runs."""
    size = (recipe.engine.info.input_height, recipe.engine.info.input_width)
    waiting = iter(enumerate(samples, start=1))
    with ThreadPoolExecutor(1, "decode") as pool:
        ahead = [pool.submit(_read, number, sample, clock) for number, sample in islice(waiting, AHEAD)]
        while ahead:
            sample, frame, fault = ahead.pop(0).result()
            ahead += [pool.submit(_read, number, following, clock) for number, following in islice(waiting, 1)]
            truth = _truth(sample, recipe, frame, size)
            if frame is None:
                yield Replayed(sample, invalid(Reason.BAD_IMAGE, fault), Evidence(), truth, 0)
                continue
            decision, evidence, stages = examine(frame, recipe, clock)
            yield Replayed(sample, decision, evidence, truth, dict(stages).get("engine", 0))


def result_line(one: Replayed, hashes: Hashes) -> str:
    """One line of the results file: everything that must be equal in a second run, no timings."""
    decision = one.decision
    mask = one.evidence.mask
    record = {
        "image": one.sample.id,
        "verdict": decision.verdict.value,
        "reason": decision.reason.value if decision.reason is not None else None,
        "review": decision.review,
        "rules": list(decision.rules),
        "score": decision.score,
        "defects": [_defect(defect) for defect in decision.defects],
        "mask_sha256": hashlib.sha256(mask.tobytes()).hexdigest() if mask is not None else None,
        "engine": hashes.engine,
        "calibration": hashes.calibration,
        "settings": hashes.settings,
        "detail": decision.detail,
    }
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _defect(defect: Defect) -> dict[str, Any]:
    fields = {name: getattr(defect, name) for name in Defect.__dataclass_fields__}
    return fields | {"shape": defect.shape.value, "box": list(defect.box)}


def _read(number: int, sample: Sample, clock: Clock) -> tuple[Sample, Frame | None, str]:
    try:
        pixels = read_grey(sample.image)
    except ConfigError as error:
        return sample, None, str(error)
    return sample, Frame(number, pixels, clock.now_ns(), part_id=sample.id, truth=sample.defective), ""


def _truth(sample: Sample, recipe: Recipe, frame: Frame | None, size: tuple[int, int]) -> BoolMap | None:
    """The labelled mask at the size of the score map; known only where the whole frame is the part."""
    if sample.mask is None and sample.defective is not False:
        return None
    if frame is None or recipe.preprocess.window is not None:
        return None
    return resize_mask(read_mask(sample), *size)


class _results_file:
    """Writes lines beside the target and renames at the end, so that a cut run leaves no half file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part") if path is not None else None

    def __enter__(self) -> Callable[[str], None]:
        if self._part is None:
            return lambda line: None
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part.open("w", encoding="utf-8", newline="\n")
        return lambda line: print(line, file=self._file)

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._part is None or self._path is None:
            return
        self._file.close()
        if kind is None:
            self._part.replace(self._path)


def _save_overlay(folder: Path, one: Replayed) -> None:
    target = folder / one.decision.verdict.value / (one.sample.id.replace("/", "_").rsplit(".", 1)[0] + ".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = draw(one.sample.id, one.decision, one.evidence, one.truth)
    if not cv2.imwrite(str(target), picture):
        raise ConfigError(f"the overlay {target} cannot be written", do="Check the folder's rights and the disk space")
