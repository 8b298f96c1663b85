"""Frame -> located crop -> score map -> verdict. The same for the line, replay and bench."""

from __future__ import annotations

from inspector.clock import Clock
from inspector.decision import decide
from inspector.errors import EngineError
from inspector.fittings import Recipe, Stages
from inspector.frame import Crop, Decision, Evidence, FloatMap, Frame, Reason, invalid
from inspector.preprocess import TiledCrop


def examine(frame: Frame, recipe: Recipe, clock: Clock) -> tuple[Decision, Evidence, Stages]:
    """The decision on one frame, what was seen, and how long each stage took. Raises nothing of ours."""
    sight = recipe.preprocess
    t0 = clock.now_ns()
    crop = sight.prepare_tiles(frame) if sight.tiled else sight.prepare(frame)
    t1 = clock.now_ns()
    prepared = ("prepare", (t1 - t0) // 1000)
    if isinstance(crop, Decision):
        return crop, Evidence(image=frame.pixels), (prepared,)
    decision, evidence, stages = judge(crop, recipe, clock)
    return decision, evidence, (prepared, *stages)


def judge(crop: Crop | TiledCrop, recipe: Recipe, clock: Clock) -> tuple[Decision, Evidence, Stages]:
    """What follows once the part is cut out, from a frame or from the archive. Raises nothing of ours."""
    t1 = clock.now_ns()
    try:
        scores = _scores(crop, recipe)
    except EngineError as error:
        return invalid(Reason.ENGINE_FAULT, str(error)), Evidence(crop.image, geometry=crop.geometry), ()
    t2 = clock.now_ns()
    decision, mask = decide(scores, recipe.rules, crop.geometry)
    stages = (("engine", (t2 - t1) // 1000), ("decide", (clock.now_ns() - t2) // 1000))
    return decision, Evidence(crop.image, mask, crop.geometry), stages


def _scores(crop: Crop | TiledCrop, recipe: Recipe) -> FloatMap:
    if isinstance(crop, Crop):
        scores: FloatMap = recipe.engine.infer(crop.tensor)[0, 0]
        return scores
    return crop.stitch([recipe.engine.infer(tile.tensor) for tile in crop.crops])
