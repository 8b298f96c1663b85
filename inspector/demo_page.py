"""The demo's page: the real one, in its own process, beside the simulated line."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from inspector.config import ENV_PREFIX, Settings
from inspector.errors import InspectorError

_PR_SET_PDEATHSIG = 1


def free_endpoint() -> str:
    """A viewers' socket address that is free now, known before the line starts."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{door.getsockname()[1]}"


def environment(settings: Settings, port: int) -> dict[str, str]:
    """The line's settings as the page's environment."""
    chosen = {
        "station__name": settings.station.name,
        "station__state_dir": str(settings.station.state_dir.resolve()),
        "engine__bundle": str(settings.engine.bundle.resolve()),
        "part__calibration": str(settings.part.calibration.resolve()) if settings.part.calibration else "",
        "link__viewers": settings.link.viewers,
        "store__every_pass": str(settings.store.every_pass),
        "log__level": "warning",
        "page__port": str(port),
    }
    return {f"{ENV_PREFIX}{key}".upper(): value for key, value in chosen.items() if value}


@contextmanager
def page_process(settings: Settings, port: int) -> Iterator[str]:
    """Runs ``inspector page`` until the block ends; gives its address. Raises InspectorError: it does not start."""
    command = [sys.executable, "-P", "-m", "inspector", "page"]
    with subprocess.Popen(
        command,
        env={**os.environ, **environment(settings, port)},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_end_with_parent,  # noqa: PLW1509 - the line's threads do not run yet
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            if not first.startswith("page: "):
                raise InspectorError("the page did not start", found=first.strip() or "nothing", do="See above.")
            yield first.removeprefix("page: ").strip()
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _end_with_parent() -> None:
    """In the child: the page of a demo that was killed must not go on by itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
