"""How much the line adds to the bare engine loop: the same frames, the same engine, in turn, in one run.

Both loops rest as long before each frame, and the clock starts in the thread that rested. Bare: rest, then the engine
on the prepared frame. Line: rest, then the frame is the camera's (``taken_ns``), until the answer is handed to the
controller's socket. The controller is a process of its own; when it has the answer is told beside that.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspector.bench_far import FarController
from inspector.camera import Camera, CameraStatistics
from inspector.cameras import make_camera
from inspector.clock import Clock, SystemClock, sleep_s
from inspector.config import Settings, load
from inspector.errors import InspectorError, LinkError
from inspector.figures import percentiles
from inspector.frame import Decision, FloatMap, Frame, Missed, Settled
from inspector.recipe import engine_opener, open_proven, read_ingredients
from inspector.sections import CameraSettings
from inspector.station import Hooks, Station

BLOCK = 5
"""Frames per turn: short enough that both loops see the same disturbances of the machine."""
PACE_S = 0.010
"""Pause before each frame in both loops: a line has one between parts, and what is done behind an answer (images,
viewers, journal) belongs there. Without it that work would be counted against the next part."""


MEASURED = (
    "engine_ms: one inference of a prepared frame; line_ms: frame taken by the camera to answer handed to the socket; "
    "outside_ms: the same less the part's own inference; controller_ms: frame taken to answer in the controller's "
    "process. The same frames, the same rest before each."
)


class OneAtATime:
    """A camera that hands over a given frame when it is told to."""

    name = "bench"
    exhausted = False

    def __init__(self, clock: Clock, rest_s: float = 0.0) -> None:
        """``rest_s``: how long it rests before it takes a frame that was given."""
        self._clock, self._rest_s, self._frames = clock, rest_s, queue.SimpleQueue[Frame]()

    def open(self) -> None:
        return

    def push(self, frame: Frame) -> None:
        """The frame is the next to be taken."""
        self._frames.put(frame)

    def next(self, timeout_s: float) -> Frame | Missed | None:
        try:
            frame = self._frames.get(timeout=timeout_s)
        except queue.Empty:
            return None
        sleep_s(self._rest_s)
        return replace(frame, taken_ns=self._clock.now_ns())

    def close(self) -> None:
        return

    def statistics(self) -> CameraStatistics:
        return CameraStatistics(connected=True)


def bench(settings: Settings, *, parts: int, clock: Clock | None = None) -> dict[str, Any]:
    """Figures with the keys of ``bench --json``. Latencies in milliseconds."""
    clock = clock or SystemClock()
    with tempfile.TemporaryDirectory(prefix="inspector-bench-") as scratch:
        wanted = scratch_settings(settings, Path(scratch))
        ingredients = read_ingredients(wanted, clock)
        frames = taken_frames(wanted.camera, ingredients.preprocess.window, clock)
        opened = open_proven(ingredients.bundle, engine_opener(wanted))
        tensors = _tensors(frames, ingredients.preprocess.prepare)
        camera = OneAtATime(clock, PACE_S)
        running = RunningLine(wanted, camera)
        try:
            engine_ms, line_ms = [], []
            for start in range(0, parts, BLOCK):
                numbers = range(start, min(start + BLOCK, parts))
                for number in numbers:
                    sleep_s(PACE_S)
                    t0 = clock.now_ns()
                    opened.engine.infer(tensors[number % len(tensors)])
                    engine_ms.append((clock.now_ns() - t0) / 1e6)
                for number in numbers:
                    frame = replace(frames[number % len(frames)], frame_id=number + 1, part_id=f"bench-{number + 1}")
                    line_ms.append(running.once(camera, frame))
        finally:
            running.stop()
            opened.engine.close()
    engine, line = percentiles(engine_ms).to_json(), percentiles(line_ms).to_json()
    info = opened.engine.info
    return {
        "engine_ms": engine,
        "line_ms": line,
        "overhead_ms": {key: _difference(line[key], engine[key]) for key in ("p50", "p99")},
        "outside_ms": percentiles(running.outside_ms).to_json(),
        "controller_ms": percentiles(running.controller_ms).to_json(),
        "engine": f"{info.bundle} {info.backend} {info.precision} {info.plan_hash[:16]}",
        "parts": parts,
        "pace_ms": PACE_S * 1000,
        "stages_us": running.stages(),
        "measured": MEASURED,
    }


class RunningLine:
    """A station in a thread, and a controller in a process."""

    def __init__(self, settings: Settings, camera: Camera) -> None:
        self._sent: queue.SimpleQueue[tuple[Settled, int]] = queue.SimpleQueue()
        self._taken_ns: dict[int, int] = {}
        self._stages: dict[str, list[int]] = {}
        self._controller: FarController | None = None
        self.outside_ms: list[float] = []
        """What each part took less its own inference: steadier than a difference of two loops on a busy machine."""
        self.controller_ms: list[float] = []
        """Frame taken -> answer in the controller's process; complete after ``stop``."""
        self._ready = threading.Event()
        hooks = Hooks(
            wrap_camera=lambda _: camera, on_linked=self._connect, on_ready=self._ready.set, on_settled=self._heard
        )
        self._station = Station(settings, hooks=hooks)
        self._fault: InspectorError | None = None
        self._thread = threading.Thread(target=self._run, name="station", daemon=True)
        self._thread.start()
        self._ready.wait(60)
        if self._fault is not None:
            raise self._fault
        self._await_controller()

    def _run(self) -> None:
        try:
            self._station.run()
        except InspectorError as fault:
            self._fault = fault
        finally:
            self._ready.set()

    def _connect(self) -> None:
        self._controller = FarController(self._station.endpoint)

    def _await_controller(self) -> None:
        """Until it has said HELLO: an answer into the void costs less."""
        clock, link = self._station.clock, self._station.rooms.link
        give_up_ns = clock.now_ns() + 20_000_000_000
        while not link.statistics().connected:
            if clock.now_ns() > give_up_ns:
                self.stop()
                raise LinkError("the bench's controller did not connect", expected="a HELLO within 20 s")
            sleep_s(0.01)

    def _heard(self, settled: Settled) -> None:
        self._sent.put((settled, self._station.clock.now_ns()))

    def once(self, camera: OneAtATime, frame: Frame) -> float:
        """Milliseconds from the frame to its answer handed to the socket."""
        camera.push(frame)
        settled, sent_ns = self._sent.get(timeout=30)
        answer = settled.answer
        self._taken_ns[answer.sequence] = answer.taken_ns
        for name, us in (*answer.stages_us, ("to the wire", (sent_ns - answer.settled_ns) // 1000)):
            self._stages.setdefault(name, []).append(us)
        line_ms = (sent_ns - answer.taken_ns) / 1e6
        self.outside_ms.append(line_ms - dict(answer.stages_us).get("engine", 0) / 1e3)
        return line_ms

    def stages(self) -> dict[str, float | None]:
        """Median of each stage in microseconds; "to the wire" is from settled to sent: booked, committed, packed."""
        return {name: percentiles(values).p50 for name, values in self._stages.items()}

    def stop(self) -> None:
        """The station first: what it still sends is acknowledged."""
        self._station.stop("bench done")
        self._thread.join(10)
        if self._controller is not None:
            came = self._controller.stop()
            known = came.keys() & self._taken_ns.keys()
            self.controller_ms = [(came[sequence] - self._taken_ns[sequence]) / 1e6 for sequence in sorted(known)]


def scratch_settings(settings: Settings, scratch: Path) -> Settings:
    """These settings on free ports, with a state of their own, and time enough for every part."""
    tables = settings.model_dump(exclude_defaults=True)
    tables.setdefault("station", {})["state_dir"] = scratch / "state"
    tables.setdefault("link", {}).update(endpoint="tcp://127.0.0.1:*", viewers="tcp://127.0.0.1:*")
    tables.setdefault("timing", {}).update(gate_ms=20_000.0)
    tables.setdefault("log", {}).update(parts=False, level="error")
    tables.setdefault("health", {})["metrics"] = ""
    tables.setdefault("engine", {})["keep_alive_s"] = 0.0
    return load(None, {}, **tables).settings


def taken_frames(settings: CameraSettings, window: tuple[int, int, int, int] | None, clock: Clock) -> list[Frame]:
    """Up to 50 frames of that camera, as fast as they come."""
    camera = make_camera(settings.model_copy(update={"rate_hz": 0.0}), clock=clock, window=window, count=50)
    camera.open()
    try:
        found: list[Frame] = []
        while len(found) < 50 and not camera.exhausted:
            arrived = camera.next(5.0)
            if isinstance(arrived, Frame):
                found.append(arrived)
        return found
    finally:
        camera.close()


def _tensors(frames: list[Frame], prepare: Callable[[Frame], Any]) -> list[FloatMap]:
    crops = [prepare(frame) for frame in frames]
    return [crop.tensor for crop in crops if not isinstance(crop, Decision)]


def _difference(line: float | None, engine: float | None) -> float | None:
    return None if line is None or engine is None else line - engine
