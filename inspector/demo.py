"""The demo: a simulated commutator line, its engine, real sockets, and a controller that acknowledges every answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from inspector.config import Settings, load
from inspector.figures import percentiles
from inspector.frame import Settled
from inspector.link.listen import Arrival, ReferenceController
from inspector.overlay import draw
from inspector.station import Hooks, Station

KEEP_PICTURES = 24
CHECKOUT = Path(__file__).resolve().parent.parent
"""Where the embedded default lies: the bundle and the calibration of the simulated station."""


@dataclass
class Demo:
    """A station and a controller in one process; ``run`` returns the summary."""

    parts: int
    rate_hz: float
    seed: int
    folder: Path
    engine: Path | None = None
    viewers: str = "tcp://127.0.0.1:*"
    """Endpoint of the viewers' socket; one that is known where a page looks at it."""
    hooks: Hooks = field(default_factory=Hooks)
    on_answer: Callable[[Settled, float], None] = lambda settled, latency_ms: None
    recent: deque[Settled] = field(default_factory=lambda: deque(maxlen=KEEP_PICTURES))

    def settings(self) -> Settings:
        """The embedded default with the demo's own choices."""
        overrides: dict[str, dict[str, Any]] = {
            "station": {"name": "demo", "state_dir": self.folder / "state"},
            "camera": {"kind": "synthetic", "rate_hz": self.rate_hz, "seed": self.seed},
            "part": {"calibration": embedded("calibration/synthetic.toml")},
            "engine": {"bundle": self.engine or embedded("engines/commutator")},
            "timing": {"gate_ms": 600.0},
            "alarm": {"fails": 0},
            "link": {"endpoint": "tcp://127.0.0.1:*", "viewers": self.viewers},
            "log": {"parts": False, "level": "warning"},
            "health": {"metrics": ""},
        }
        return load(None, {}, **overrides).settings

    def run(self) -> dict[str, Any]:
        """Run all parts; the summary has the keys of ``demo --json``."""
        controller_box: list[ReferenceController] = []
        latencies_ms: list[float] = []

        def arrived(arrival: Arrival) -> None:
            latencies_ms.append((arrival.arrived_ns - arrival.answer.taken_ns) / 1e6)

        self.hooks.on_settled = self._remember

        def connect() -> None:
            controller = ReferenceController(station.endpoint, clock=station.clock, on_answer=arrived)
            controller_box.append(controller.start())

        self.hooks.on_linked = connect
        station = Station(self.settings(), hooks=self.hooks, max_parts=self.parts)
        self.station = station
        try:
            if threading.current_thread() is threading.main_thread():
                with station.signals():
                    tally = station.run()
            else:
                tally = station.run()
        finally:
            for controller in controller_box:
                controller.stop()
        figures = tally.figures()
        controller = controller_box[0]
        figures["received"] = controller.statistics().received
        figures["conflicts"] = controller.statistics().conflicts
        figures["latency_ms"] = percentiles(latencies_ms).to_json()
        figures["pictures"] = str(self.save_pictures())
        return figures

    def save_pictures(self) -> Path:
        """Annotated images of the last parts, newest last."""
        folder = self.folder / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        for settled in self.recent:
            answer = settled.answer
            name = f"{answer.sequence:06d}-{answer.verdict.value}.png"
            cv2.imwrite(str(folder / name), draw(answer.part_id, answer, settled.evidence))
        return folder

    def _remember(self, settled: Settled) -> None:
        self.recent.append(settled)
        self.on_answer(settled, self.station.tally.latencies_ms.last)


def embedded(name: str) -> Path:
    """A file of the embedded default: below the working directory, else beside the package."""
    here = Path(name)
    return here if here.exists() else CHECKOUT / name
