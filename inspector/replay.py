"""Replay: the line's own judgement over recorded images, every one of them, in order, deterministic.

Two runs over the same images with the same engine, calibration and rules write byte-identical results files.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from inspector.clock import Clock, SystemClock
from inspector.config import Settings
from inspector.decision import decide
from inspector.errors import ConfigError
from inspector.examine import examine
from inspector.figures import Tally, percentiles
from inspector.fittings import Recipe
from inspector.frame import BoolMap, Crop, Decision, Defect, Evidence, FloatMap, Frame, Hashes, Reason, invalid
from inspector.layouts import Sample, list_samples, read_grey, read_mask
from inspector.overlay import draw
from inspector.preprocess.pixels import resize_mask
from inspector.recipe import engine_opener, open_proven, read_ingredients

AHEAD = 4  # images decoded ahead: enough to hide decoding, few enough to keep memory flat
CHUNK = 64  # images handed to a throughput engine at once: its start and end cost one image's time per chunk
FIRST = 8  # ... of the first, twice as many each time: the engine does not wait for 64 images to be decoded

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Replayed:
    """One image's outcome."""

    sample: Sample
    decision: Decision
    evidence: Evidence
    truth: BoolMap | None
    engine_us: int


@dataclass(frozen=True, slots=True)
class _Read:
    """One image from the disk; no frame where it could not be read."""

    sample: Sample
    frame: Frame | None
    fault: str
    truth: BoolMap | None


@dataclass(frozen=True, slots=True)
class _Prepared:
    read: _Read
    crop: Crop | Decision | None


def replay(
    folder: Path,
    settings: Settings,
    *,
    layout: str = "auto",
    results: Path | None = None,
    overlays: Path | None = None,
    limit: int | None = None,
    throughput: bool = False,
    clock: Clock | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Judge every image of ``folder``; returns the figures (keys as ``replay --json``).

    ``throughput``: many images in the engine at a time instead of the line's one.
    Raises ConfigError for a folder without images, EngineError for an engine that is not proven.
    """
    clock = clock or SystemClock()
    cv2.setNumThreads(1)  # small pictures gain nothing from a pool, and the engine needs the cores
    samples = list_samples(folder, layout)[:limit]
    ingredients = read_ingredients(settings, clock)
    if throughput and ingredients.preprocess.tiled:
        raise ConfigError("throughput goes with whole parts, not with tiles", do="Replay without --throughput")
    opened = open_proven(ingredients.bundle, engine_opener(settings, throughput=throughput))
    try:
        return replay_with(
            ingredients.recipe(opened.engine),
            samples,
            results=results,
            overlays=overlays,
            throughput=throughput,
            clock=clock,
            on_progress=on_progress,
        )
    finally:
        opened.engine.close()


def replay_with(
    recipe: Recipe,
    samples: list[Sample],
    *,
    results: Path | None = None,
    overlays: Path | None = None,
    throughput: bool = False,
    clock: Clock | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Judge ``samples`` with an engine that is open already, and stays so; returns the figures, as ``replay``."""
    clock = clock or SystemClock()
    judge = judge_fast if throughput else judge_all
    tally, times_ms, started_ns = Tally(), [], clock.now_ns()
    with _results_file(results) as write:
        for done, one in enumerate(judge(samples, recipe, clock), start=1):
            tally.add(one.decision.verdict, one.sample.defective, one.evidence.mask, one.truth)
            times_ms.append(one.engine_us / 1000)
            write(result_line(one, recipe.hashes))
            if overlays is not None:
                _save_overlay(overlays, one)
            on_progress(done, len(samples))
    seconds = (clock.now_ns() - started_ns) / 1e9
    info = recipe.engine.info
    return {
        **tally.figures().to_json(),
        "engine": info.plan_hash[:16],
        "backend": info.backend,
        "precision": info.precision,
        "engine_ms": percentiles(times_ms).to_json(),
        "images_per_s": len(samples) / seconds if seconds > 0 else None,
    }


def judge_all(samples: list[Sample], recipe: Recipe, clock: Clock) -> Iterator[Replayed]:
    """Judge in order, one image at a time as the line does; images are decoded ahead while the engine runs."""
    size = (recipe.engine.info.input_height, recipe.engine.info.input_width)
    with ThreadPoolExecutor(1, "decode") as pool:
        for read in _ahead(pool, AHEAD, [partial(_read, recipe, size, clock, *one) for one in enumerate(samples, 1)]):
            if read.frame is None:
                yield Replayed(read.sample, invalid(Reason.BAD_IMAGE, read.fault), Evidence(), read.truth, 0)
                continue
            decision, evidence, stages = examine(read.frame, recipe, clock)
            yield Replayed(read.sample, decision, evidence, read.truth, dict(stages).get("engine", 0))


def judge_fast(samples: list[Sample], recipe: Recipe, clock: Clock) -> Iterator[Replayed]:
    """Judge in order, many images in the engine at a time: decoding, engine and decision overlap in three threads.

    An engine that computes several images at a time may round otherwise than one that computes one.
    """
    size = (recipe.engine.info.input_height, recipe.engine.info.input_width)
    numbered = list(enumerate(samples, start=1))
    chunks = list(_chunks(numbered))
    with ThreadPoolExecutor(1, "decode") as decoder, ThreadPoolExecutor(1, "engine") as runner:
        prepared = _ahead(decoder, 2, [partial(_prepare_chunk, recipe, size, clock, chunk) for chunk in chunks])
        running: list[tuple[list[_Prepared], Future[tuple[FloatMap, int]]]] = []
        for chunk in prepared:
            running.append((chunk, runner.submit(_infer_chunk, chunk, recipe, clock)))
            if len(running) > 1:
                yield from _decided(*running.pop(0), recipe)
        for chunk, future in running:
            yield from _decided(chunk, future, recipe)


def _chunks(numbered: list[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
    start, size = 0, FIRST
    while start < len(numbered):
        yield numbered[start : start + size]
        start, size = start + size, min(2 * size, CHUNK)


def _ahead(pool: ThreadPoolExecutor, depth: int, calls: list[Callable[[], T]]) -> Iterator[T]:
    """The results of the calls in their order, ``depth`` of them running or done ahead."""
    waiting = iter(calls)
    futures = deque(pool.submit(call) for call in islice(waiting, depth))
    while futures:
        result = futures.popleft().result()
        futures.extend(pool.submit(call) for call in islice(waiting, 1))
        yield result


def _prepare_chunk(
    recipe: Recipe, size: tuple[int, int], clock: Clock, chunk: list[tuple[int, Sample]]
) -> list[_Prepared]:
    reads = [_read(recipe, size, clock, number, sample) for number, sample in chunk]
    return [_Prepared(read, recipe.preprocess.prepare(read.frame) if read.frame else None) for read in reads]


def _infer_chunk(chunk: list[_Prepared], recipe: Recipe, clock: Clock) -> tuple[FloatMap, int]:
    """n x 1 x H x W maps of those that were prepared, and the engine's microseconds per image."""
    tensors = [one.crop.tensor for one in chunk if isinstance(one.crop, Crop)]
    if not tensors:
        return np.empty((0, 1, 1, 1), np.float32), 0
    started_ns = clock.now_ns()
    maps = recipe.engine.infer(np.concatenate(tensors))
    return maps, (clock.now_ns() - started_ns) // 1000 // len(tensors)


def _decided(chunk: list[_Prepared], running: Future[tuple[FloatMap, int]], recipe: Recipe) -> Iterator[Replayed]:
    maps, engine_us = running.result()
    rest = iter(maps)
    for one in chunk:
        sample, truth = one.read.sample, one.read.truth
        if isinstance(one.crop, Crop):
            decision, mask = decide(next(rest)[0], recipe.rules, one.crop.geometry)
            yield Replayed(sample, decision, Evidence(one.crop.image, mask, one.crop.geometry), truth, engine_us)
        elif one.crop is not None:
            yield Replayed(sample, one.crop, Evidence(), truth, 0)
        else:
            yield Replayed(sample, invalid(Reason.BAD_IMAGE, one.read.fault), Evidence(), truth, 0)


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
    fields = {name: getattr(defect, name) for name in Defect._fields}
    return fields | {"shape": defect.shape.value, "box": list(defect.box)}


def _read(recipe: Recipe, size: tuple[int, int], clock: Clock, number: int, sample: Sample) -> _Read:
    try:
        pixels = read_grey(sample.image)
    except ConfigError as error:
        return _Read(sample, None, str(error), _truth(sample, recipe, None, size))
    full_px = (pixels.shape[1], pixels.shape[0])
    frame = Frame(number, pixels, clock.now_ns(), full_px=full_px, part_id=sample.id, truth=sample.defective)
    return _Read(sample, frame, "", _truth(sample, recipe, frame, size))


def _truth(sample: Sample, recipe: Recipe, frame: Frame | None, size: tuple[int, int]) -> BoolMap | None:
    """The labelled mask at the size of the score map; known only where the whole frame is the part."""
    if sample.mask is None and sample.defective is not False:
        return None
    if frame is None or recipe.preprocess.window is not None:
        return None
    # A sound part's mask is empty: it need not be decoded.
    return np.zeros(size, bool) if sample.defective is False else resize_mask(read_mask(sample), *size)


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
