"""The bench on which the real drill stands: daemon process, camera producer, controller, and their paths."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from inspector.camera.render import render_part
from inspector.clock import Clock
from inspector.config import load
from inspector.drill.producer import SERIAL, ProducerControl, build_producer
from inspector.drill.subject import Knobs
from inspector.errors import InspectorError
from inspector.examine import examine
from inspector.frame import Frame, State, Verdict
from inspector.health.asking import ask
from inspector.link.listen import Arrival, ReferenceController
from inspector.recipe import engine_opener, open_proven, read_ingredients

SIDE_PX = 400
IMAGES = 16
SLICE_S = 0.25
READY_S = 120.0
"""A start may take so long on a machine that is busy with other work."""


class Testbed:
    """Starts, kills and restarts the daemon; keeps what the controller heard."""

    __test__ = False  # no class of tests, whatever its name looks like

    def __init__(self, folder: Path, bundle: Path, rate_hz: float, gate_ms: float, clock: Clock, state: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.clock, self.state, self.rate_hz = folder, clock, state, rate_hz
        self.arrivals: list[Arrival] = []
        self.heard = threading.Condition()
        self.knobs = Knobs(folder / "knobs")
        self._frames = folder / "frames.raw"
        images = [render_part(4711, index).image for index in range(1, IMAGES + 1)]
        self._frames.write_bytes(b"".join(image.tobytes() for image in images))
        self.camera = ProducerControl(
            folder / "producer.page", width=SIDE_PX, height=SIDE_PX, frames=self._frames, stamp=True
        )
        self.endpoint = f"tcp://127.0.0.1:{_free_port()}"
        self.config = folder / "config.toml"
        self.tables = self._tables(bundle, build_producer(folder / "build"), gate_ms)
        self.write_config()
        self.expected = self._expected(images)
        self.controller = ReferenceController(
            self.endpoint, clock=clock, on_answer=self._hear, hello_s=0.2, keep=1_000_000
        ).start()
        self.ended_ns = 0
        self._daemon: subprocess.Popen[bytes] | None = None
        self._log = (folder / "daemon.log").open("ab")

    # -- the daemon ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon; returns when its first answer has come."""
        count = len(self.arrivals)
        self.launch()
        if not self.wait_for(lambda: len(self.arrivals) > count, READY_S):
            raise InspectorError("the daemon under the drill gave no answer", found=self.last_words())

    def launch(self) -> None:
        """Start the daemon and do not wait for it."""
        command = [sys.executable, "-P", "-m", "inspector.drill.subject", str(self.config), str(self.folder / "knobs")]
        self._daemon = subprocess.Popen(
            [*command, str(self.folder / "shots")],
            stderr=self._log,
            env=os.environ | self.camera.environment,
        )

    def tell(self, number: signal.Signals) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(number)

    def end(self, number: signal.Signals, patience_s: float = 60.0) -> int:
        """Signal and wait; the exit code."""
        if self._daemon is None:
            return 0
        self.tell(number)
        code = self._daemon.wait(patience_s)
        self.ended_ns = self.clock.now_ns()
        self._daemon = None
        return code

    @property
    def alive(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is None

    def close(self) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.kill()
            self._daemon.wait()
        self.controller.stop()
        self.camera.close()
        self._log.close()

    def last_words(self) -> str:
        lines = (self.folder / "daemon.log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:400] if lines else "nothing in its journal"

    # -- waiting -------------------------------------------------------------------------------------------------

    def wait_for(self, holds: Any, timeout_s: float) -> bool:
        """Until ``holds()``, asked after each answer; False after ``timeout_s`` in which this process ran."""
        with self.heard:
            for _ in range(max(1, round(timeout_s / SLICE_S))):  # a machine that stood still has not kept us waiting
                if self.heard.wait_for(holds, SLICE_S):
                    return True
            return bool(holds())

    def wait_parts(self, parts: int, timeout_s: float | None = None) -> bool:
        """Until so many more answers came."""
        target = len(self.arrivals) + parts
        return self.wait_for(lambda: len(self.arrivals) >= target, timeout_s or 20.0 + 4 * parts / self.rate_hz)

    def pause(self, seconds: float) -> None:
        """Let the plant run on for so long."""
        threading.Event().wait(seconds)

    def until(self, holds: Any, timeout_s: float, every_s: float = 0.05) -> bool:
        """Until ``holds()``, asked again and again; False after ``timeout_s``."""
        for _ in range(max(1, round(timeout_s / every_s))):
            if holds():
                return True
            self.pause(every_s)
        return bool(holds())

    def status(self) -> dict[str, Any]:
        """What the daemon tells of itself."""
        return ask(self.state, clock=self.clock)

    @property
    def told_state(self) -> State | None:
        """The state in the last heartbeat."""
        heartbeat = self.controller.state
        return heartbeat.state if heartbeat is not None else None

    def decided_after(self, taken_ns: int, since: int = 0) -> int | None:
        """When the first PASS or FAIL for a frame taken after this came; looks from arrival ``since`` on."""
        for arrival in self.arrivals[since:]:
            if arrival.answer.taken_ns > taken_ns and arrival.answer.verdict is not Verdict.INVALID:
                return arrival.arrived_ns
        return None

    def shots(self) -> dict[tuple[int, int], tuple[str, int]]:
        """(epoch, frame id) -> (FRAME or the reason of its loss, the number in the picture)."""
        found = {}
        for line in (self.folder / "shots").read_text(encoding="ascii").splitlines():
            epoch, frame_id, word, shot = line.split()
            found[int(epoch), int(frame_id)] = (word, int(shot))
        return found

    # -- making --------------------------------------------------------------------------------------------------

    def write_config(self, **changes: dict[str, Any]) -> None:
        """Write config.toml, with changes on top."""
        lines = []
        for section, table in (self.tables | {k: self.tables.get(k, {}) | v for k, v in changes.items()}).items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _tables(self, bundle: Path, producer: Path, gate_ms: float) -> dict[str, dict[str, Any]]:
        features = [["AcquisitionFrameRate", float(self.rate_hz)]]
        return {
            "station": {"name": "drill", "state_dir": str(self.state)},
            "camera": {
                "kind": "genicam",
                "producers": [str(producer)],
                "serial": SERIAL,
                "features": features,
            },
            "engine": {"bundle": str(bundle.resolve())},
            "timing": {"gate_ms": gate_ms},
            "alarm": {"fails": 0},
            "link": {"endpoint": self.endpoint, "viewers": f"tcp://127.0.0.1:{_free_port()}"},
            "store": {"quota_mb": 32.0, "min_free_mb": 16.0},
            "health": {"metrics": "", "stale_ms": 20000.0},
            "log": {"format": "json", "level": "warning", "parts": False},
        }

    def _expected(self, images: list[Any]) -> list[Verdict]:
        """What the same engine and rules say of each image, outside the line."""
        settings = load(self.config, {}).settings
        ingredients = read_ingredients(settings, self.clock)
        opened = open_proven(ingredients.bundle, engine_opener(settings))
        try:
            recipe = ingredients.recipe(opened.engine)
            frames = [Frame(1, image, 0) for image in images]
            return [examine(frame, recipe, self.clock)[0].verdict for frame in frames]
        finally:
            opened.engine.close()

    def _hear(self, arrival: Arrival) -> None:
        with self.heard:
            self.arrivals.append(arrival)
            self.heard.notify_all()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
