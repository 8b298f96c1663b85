"""From a frame to what the engine sees: checks, locating, flat field, size, normalisation. One code for daemon,
replay and training."""

from inspector.preprocess.calibration import Calibration, CalibrationFile, load_calibration
from inspector.preprocess.locate import Locator, NotFound, Pose
from inspector.preprocess.pixels import apply_flat_field, normalise, resize_to_input
from inspector.preprocess.prepare import Preprocess, TiledCrop
from inspector.preprocess.tiles import Tile, cut_tiles, stitch, tile_grid

__all__ = [
    "Calibration",
    "CalibrationFile",
    "Locator",
    "NotFound",
    "Pose",
    "Preprocess",
    "Tile",
    "TiledCrop",
    "apply_flat_field",
    "cut_tiles",
    "load_calibration",
    "normalise",
    "resize_to_input",
    "stitch",
    "tile_grid",
]
