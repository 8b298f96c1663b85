"""A worker: holds its engines, takes one task after the other, leaves one result file each."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from inspector.archive.catalogue import picture_path, read_shard
from inspector.archive.place import Place, sha256
from inspector.archive.recipes import CALIBRATION_FILE, calibration_folder, parse_rules, rules_name
from inspector.archive.recipes import read_kept_calibration as read_calibration
from inspector.archive.table import Cells, parquet_bytes, parquet_rows
from inspector.clock import Clock, SystemClock
from inspector.config import load
from inspector.engine import Engine
from inspector.engine.bundle import Bundle, load_bundle
from inspector.engine.choose import open_engine, self_test
from inspector.errors import EngineError, InspectorError, LedgerError
from inspector.examine import examine, judge
from inspector.fittings import Recipe
from inspector.frame import Crop, Frame, Geometry, Grey, Hashes
from inspector.ledger.imprint import geometry_of
from inspector.preprocess import Calibration, Preprocess, TiledCrop
from inspector.recipe import read_rules
from inspector.requalify.plan import THREADS, EngineChoice, Side, Task, buckets, engine_class
from inspector.requalify.results import error_row, mask_of, mask_sha256, result_row, result_schema

AHEAD = 8
"""Pictures fetched and decoded ahead of the engine."""
FETCHERS = 8
"""Threads that fetch from an object store; a local disk needs one."""
_PART_COLUMNS = (
    "station", "epoch", "sequence", "part_id", "stored_reason", "calibration", "settings", "image_sha256", "mask_sha256"
)  # fmt: skip
_FRAMES = ("NOT_LOCATED", "BAD_IMAGE")
"""Their stored picture is the frame itself: it never became a part."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task."""

    task: Task
    parts: int = 0
    errors: int = 0
    seconds: float = 0.0
    fault: str = ""
    """Why the shard could not be judged at all."""


@dataclass(frozen=True, slots=True)
class _Picture:
    part: Cells
    image: Grey
    geometry: Geometry | None
    archived_mask: str | None


class Worker:
    """One engine a core (or one a GPU), opened when the first task asks for it."""

    def __init__(self, archive: Place, out: Place, clock: Clock | None = None) -> None:
        self._archive, self._out, self._clock = archive, out, clock or SystemClock()
        self._engines: dict[EngineChoice, tuple[Engine, Bundle, str]] = {}
        self._recipes: dict[tuple[EngineChoice, str, str], Recipe | InspectorError] = {}
        self._mask_hash = lru_cache(maxsize=256)(self._read_mask_hash)
        local = archive.root is not None
        self._pool = ThreadPoolExecutor(1 if local else FETCHERS, "fetch")
        cv2.setNumThreads(1)

    def close(self) -> None:
        """Let go of the engines."""
        for engine, _, _ in self._engines.values():
            engine.close()
        self._engines.clear()
        self._pool.shutdown()

    def open(self, choice: EngineChoice, bundle_path: Path | None = None) -> None:
        """Open and prove the engine of this plan, once. Raises EngineError where the plan does not fit this device."""
        if choice in self._engines:
            return
        bundle = load_bundle(bundle_path or Path(choice.path))
        opened = open_engine(bundle, backend=choice.backend, precision=choice.precision, threads=THREADS)
        try:
            found = opened.engine.info
            if found.plan_hash != choice.plan_hash:
                raise EngineError(
                    f"this worker's engine of bundle {bundle.name} is another plan",
                    expected=choice.plan_hash[:16],
                    found=f"{found.plan_hash[:16]} ({found.backend} {found.backend_version} {found.precision})",
                    do="Give every worker the same bundle and the same versions.",
                )
            self_test(opened.engine, bundle)
        except BaseException:
            opened.engine.close()
            raise
        self._engines[choice] = (opened.engine, bundle, engine_class(found.backend, found.device))

    def run(self, task: Task) -> Outcome:
        """Judge one shard and write its result. A shard that is not whole comes back as a fault, and leaves none."""
        self.open(task.engine)
        engine, _, device_class = self._engines[task.engine]
        started_ns = self._clock.now_ns()
        try:
            data = read_shard(self._archive, task.station, task.shard)
        except LedgerError as error:
            return Outcome(task, errors=task.shard.images, fault=str(error))
        parts = [part for part in parquet_rows(data, _PART_COLUMNS) if part["image_sha256"] is not None]
        rows: list[Cells] = []
        times_us: list[int] = []
        pictures = _ahead(self._pool, AHEAD, [self._fetcher(part) for part in parts])
        for part, picture in zip(parts, pictures, strict=True):
            try:
                rows.append(self._judged(task.engine, picture, device_class, times_us))
            except InspectorError as error:
                rows.append(error_row(part, str(error), device_class))
        result = parquet_bytes(rows, result_schema())
        self._out.write(task.result, result)
        errors = sum(row.get("error") is not None for row in rows)
        seconds = (self._clock.now_ns() - started_ns) / 1e9
        device = engine.info.device
        side = Side(sha256(result), len(rows), errors, seconds, buckets(times_us), device, device_class)
        self._out.write(task.side, side.to_json())
        return Outcome(task, len(rows), errors, seconds)

    def _judged(
        self, choice: EngineChoice, picture: _Picture | InspectorError, device_class: str, times_us: list[int]
    ) -> Cells:
        if isinstance(picture, InspectorError):
            raise picture
        part = picture.part
        recipe = self._recipe(choice, part["calibration"], part["settings"])
        if picture.geometry is None and part["stored_reason"] in _FRAMES:
            origin_px = _origin(recipe.preprocess, picture.image)
            frame = Frame(1, picture.image, self._clock.now_ns(), origin_px, part_id=part["part_id"])
            decision, evidence, stages = examine(frame, recipe, self._clock)
        else:
            crop: Crop | TiledCrop = recipe.preprocess.recrop(picture.image, picture.geometry)
            decision, evidence, stages = judge(crop, recipe, self._clock)
        times_us += [us for name, us in stages if name == "engine"]
        return result_row(part, decision, evidence, picture.archived_mask, device_class)

    # -- pictures --------------------------------------------------------------------------------------------------

    def _fetcher(self, part: Cells) -> Callable[[], _Picture | InspectorError]:
        def fetch() -> _Picture | InspectorError:
            try:
                data = self._proven(part["image_sha256"])
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
                if pixels is None or pixels.ndim != 2 or pixels.dtype != np.uint8:
                    raise LedgerError(f"picture {part['image_sha256'][:16]} is no 8-bit grey PNG")
                mask = None if part["mask_sha256"] is None else self._mask_hash(part["mask_sha256"])
                return _Picture(part, np.asarray(pixels, np.uint8), geometry_of(data), mask)
            except InspectorError as error:
                return error

        return fetch

    def _proven(self, digest: str) -> bytes:
        data = self._archive.read(picture_path(digest))
        if sha256(data) != digest:
            what = f"picture {picture_path(digest)} of {self._archive.url} is corrupt"
            raise LedgerError(what, expected=f"SHA-256 {digest[:16]}", found=sha256(data)[:16], do="Restore it.")
        return data

    def _read_mask_hash(self, digest: str) -> str | None:
        mask = mask_of(self._proven(digest))
        return None if mask is None else mask_sha256(mask)

    # -- recipes ---------------------------------------------------------------------------------------------------

    def _recipe(self, choice: EngineChoice, calibration: str, settings: str) -> Recipe:
        """The engine with the calibration and rules that the part was decided with. Raises InspectorError."""
        key = (choice, calibration, settings)
        if key not in self._recipes:
            try:
                self._recipes[key] = self._make_recipe(choice, calibration, settings)
            except InspectorError as error:
                self._recipes[key] = error
        found = self._recipes[key]
        if isinstance(found, InspectorError):
            raise found
        return found

    def _make_recipe(self, choice: EngineChoice, calibration_hash: str, settings_hash: str) -> Recipe:
        engine, bundle, _ = self._engines[choice]
        source = rules_name(settings_hash)
        kept = parse_rules(self._archive.read(source), settings_hash, source)
        rules = read_rules(load(None, {}, decision=kept["decision"]).settings, bundle)
        with self._calibration(calibration_hash) as calibration:
            sight = Preprocess(calibration, height=bundle.height, width=bundle.width, mean=bundle.mean, std=bundle.std)
        roi, scale = calibration.file.roi, calibration.file.scale
        height, width = (roi.h, roi.w) if sight.tiled and roi is not None else (bundle.height, bundle.width)
        rules.check(height, width, scale.mm_per_px if scale is not None else None)
        return Recipe(engine, sight, rules, Hashes(choice.plan_hash[:16], calibration_hash, settings_hash))

    @contextmanager
    def _calibration(self, short_hash: str) -> Iterator[Calibration]:
        """The files that it names are there within the block: a worker that is killed later leaves nothing behind."""
        folder = calibration_folder(short_hash)
        if self._archive.root is not None:
            yield read_calibration(self._archive.root / folder, short_hash)
            return
        with tempfile.TemporaryDirectory(prefix="inspector-requalify-") as scratch:
            here = Path(scratch)
            (here / CALIBRATION_FILE).write_bytes(self._archive.read(f"{folder}/{CALIBRATION_FILE}"))
            for name in self._archive.names(folder):
                (here / name).write_bytes(self._archive.read(f"{folder}/{name}"))
            yield read_calibration(here, short_hash)


def _origin(sight: Preprocess, image: Grey) -> tuple[int, int]:
    """Where a stored frame begins: acquisition copies the window, or the whole frame."""
    window = sight.window
    return window[:2] if window is not None and image.shape == (window[3], window[2]) else (0, 0)


def _ahead(pool: ThreadPoolExecutor, depth: int, calls: list[Callable[[], T]]) -> Iterator[T]:
    """The results of the calls in their order, ``depth`` of them running or done ahead."""
    waiting = iter(calls)
    futures: deque[Future[T]] = deque(pool.submit(call) for call in islice(waiting, depth))
    while futures:
        result = futures.popleft().result()
        futures.extend(pool.submit(call) for call in islice(waiting, 1))
        yield result
