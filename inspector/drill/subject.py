"""The daemon under the drill, in its own process: the real station, with an engine and a wall clock that obey a page.

``python -m inspector.drill.subject CONFIG KNOBS SHOTS``. Everything else (camera, sockets, ledger, signals) is real.
"""

from __future__ import annotations

import enum
import mmap
import struct
import sys
import threading
from pathlib import Path
from typing import TextIO

import numpy as np

from inspector.camera.watched import WatchedCamera
from inspector.clock import SystemClock
from inspector.config import load
from inspector.engine import Engine, EngineInfo
from inspector.errors import EngineError, InspectorError
from inspector.frame import FloatMap, Frame, Missed
from inspector.station import Hooks, Station


class Knob(enum.IntEnum):
    """Words of the page that drill and subject share."""

    ERRORS = 0
    """So many next inferences fail."""
    NOT_FINITE = 1
    """So many next maps hold a NaN."""
    SLOW_MS = 2
    """Every inference takes so much longer."""
    HANG_MS = 3
    """Once: the next inference does not return for so long."""
    WALL_STEP_S = 4
    """The wall clock is off by so many seconds (two's complement)."""
    SPOILED = 5
    """Counts inferences that failed, were spoiled or hung."""
    SOUND = 6
    """Counts inferences that came out as the engine made them."""


class Knobs:
    """A page of 64-bit words in a file, shared between two processes."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * len(Knob)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * len(Knob))

    def get(self, knob: Knob) -> int:
        value: int = struct.unpack_from("<q", self._map, 8 * knob)[0]
        return value

    def set(self, knob: Knob, value: int) -> None:
        struct.pack_into("<q", self._map, 8 * knob, value)

    def used_up(self, knob: Knob) -> bool:
        """True, and one less, while the word is above zero."""
        value = self.get(knob)
        if value > 0:
            self.set(knob, value - 1)
        return value > 0


class Obedient:
    """The real engine, spoiled on command."""

    def __init__(self, engine: Engine, knobs: Knobs) -> None:
        self._engine, self._knobs = engine, knobs
        self._never = threading.Event()

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, batch: FloatMap) -> FloatMap:
        knobs = self._knobs
        hang_ms, slow_ms = knobs.get(Knob.HANG_MS), knobs.get(Knob.SLOW_MS)
        if hang_ms:
            knobs.set(Knob.HANG_MS, 0)
        if hang_ms or slow_ms:
            self._never.wait((hang_ms + slow_ms) / 1000)
        if knobs.used_up(Knob.ERRORS):
            knobs.set(Knob.SPOILED, knobs.get(Knob.SPOILED) + 1)
            raise EngineError("the engine fails on purpose")
        out = self._engine.infer(batch)
        if knobs.used_up(Knob.NOT_FINITE):
            out[0, 0, 7, 7] = np.nan
            knobs.set(Knob.SPOILED, knobs.get(Knob.SPOILED) + 1)
        else:
            knobs.set(Knob.SOUND, knobs.get(Knob.SOUND) + 1)
        return out

    def close(self) -> None:
        self._engine.close()


class Witness:
    """Writes down each frame's own number (its first eight bytes) before the line has it."""

    def __init__(self, record: TextIO) -> None:
        self._record = record
        self.epoch = 0

    def saw(self, arrived: Frame | Missed) -> None:
        """One line: epoch, frame id, FRAME or the reason of the loss, the frame's own number or -1."""
        shot = int.from_bytes(arrived.pixels[0, :8].tobytes(), "little") if isinstance(arrived, Frame) else -1
        word = "FRAME" if isinstance(arrived, Frame) else arrived.reason.value
        self._record.write(f"{self.epoch} {arrived.frame_id} {word} {shot}\n")


class SteppedClock(SystemClock):
    """The machine's clocks, the wall clock off by what the page says."""

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs

    def wall_ns(self) -> int:
        return super().wall_ns() + self._knobs.get(Knob.WALL_STEP_S) * 1_000_000_000


def main(arguments: list[str]) -> int:
    """Run the station until it is told to stop; the exit code is the daemon's."""
    config_path, knobs, record_path = Path(arguments[0]), Knobs(Path(arguments[1])), Path(arguments[2])
    with record_path.open("a", buffering=1, encoding="ascii") as record:
        witness = Witness(record)
        hooks = Hooks(
            wrap_engine=lambda engine: Obedient(engine, knobs),
            wrap_camera=lambda camera: WatchedCamera(camera, witness.saw),
        )
        station = Station(load(config_path).settings, config_path=config_path, clock=SteppedClock(knobs), hooks=hooks)

        def numbered() -> None:
            witness.epoch = station.rooms.book.epoch

        hooks.on_linked = numbered
        try:
            with station.signals():
                station.run()
        except InspectorError as error:
            station.log.error("ended by a fault", fault=str(error))
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
