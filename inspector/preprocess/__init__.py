"""From a frame to what the engine sees: checks, locating, flat field, size, normalisation. One code for daemon,
replay and training."""

from inspector.preprocess.pixels import normalise, resize_to_input

__all__ = ["normalise", "resize_to_input"]
