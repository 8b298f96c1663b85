"""The controller's side of ``inspector bench``: a process of its own, as on a line. Tells when each answer came.

``python -m inspector.bench_far ENDPOINT`` receives and acknowledges until its standard input ends; then one JSON object
on its output, ``{sequence: CLOCK_MONOTONIC nanoseconds}``. It says nothing before: the one that measures must not read.
"""

from __future__ import annotations

import json
import subprocess
import sys

from inspector.clock import SystemClock
from inspector.link.listen import Arrival, ReferenceController

_END_S = 10.0


class FarController:
    """Starts that process, and asks for its times at the end."""

    def __init__(self, endpoint: str) -> None:
        command = [sys.executable, "-P", "-m", "inspector.bench_far", endpoint]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def stop(self) -> dict[int, int]:
        """When each answer came, by its sequence; empty where the process did not live to tell. Once."""
        try:
            told, _ = self._process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            told, _ = self._process.communicate()
        return {int(sequence): at_ns for sequence, at_ns in json.loads(told or "{}").items()}


def main(endpoint: str) -> None:
    """The process."""
    came: dict[int, int] = {}

    def heard(arrival: Arrival) -> None:
        came[arrival.answer.sequence] = arrival.arrived_ns

    controller = ReferenceController(endpoint, clock=SystemClock(), on_answer=heard).start()
    sys.stdin.read()
    controller.stop()
    json.dump(came, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
