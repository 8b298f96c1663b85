"""The faults of the real drill, one function each: inject, and return when the cause is gone again."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inspector.drill.producer import Fault
from inspector.drill.subject import Knob
from inspector.drill.testbed import Testbed
from inspector.frame import Reason
from inspector.link.listen import Behaviour
from inspector.link.viewers import ViewerFeed

Inject = Callable[[Testbed], None]


@dataclass(frozen=True, slots=True)
class Scene:
    """One fault. ``inject`` returns when its cause has ended; recovery is counted from there."""

    name: str
    inject: Inject
    restarts: bool = False
    """The daemon ends in it, in order or not."""


def _incomplete(bed: Testbed) -> None:
    bed.camera.set(Fault.INCOMPLETE_NEXT, 5)
    bed.wait_parts(6)


def _gaps(bed: Testbed) -> None:
    bed.camera.set(Fault.SKIP_NEXT, 4)
    bed.wait_parts(6)


def _camera_lost(bed: Testbed) -> None:
    bed.camera.pull()
    bed.pause(1.5)
    bed.camera.plug()


def _driver_crash(bed: Testbed) -> None:
    bed.camera.set(Fault.CRASH, 1)
    bed.pause(0.3)


def _stalled(bed: Testbed) -> None:
    bed.camera.set(Fault.STALL_MS, 700)
    bed.pause(0.75)


def _burst(bed: Testbed) -> None:
    bed.camera.set(Fault.BURST, 25)
    bed.wait_parts(25)


def _hang(bed: Testbed) -> None:
    bed.knobs.set(Knob.HANG_MS, 1500)
    bed.pause(1.6)


def _engine_error(bed: Testbed) -> None:
    bed.knobs.set(Knob.ERRORS, 5)
    bed.wait_parts(6)


def _not_finite(bed: Testbed) -> None:
    bed.knobs.set(Knob.NOT_FINITE, 5)
    bed.wait_parts(6)


def _slow(bed: Testbed) -> None:
    bed.knobs.set(Knob.SLOW_MS, int(bed.tables["timing"]["gate_ms"]))
    bed.pause(2.0)
    bed.knobs.set(Knob.SLOW_MS, 0)


def _silent(bed: Testbed) -> None:
    bed.controller.behave(Behaviour(silent=True))
    bed.pause(1.5)
    bed.controller.behave(Behaviour())


def _reconnect(bed: Testbed) -> None:
    for _ in range(3):
        bed.controller.reconnect()
        bed.wait_parts(3)


def _acks(bed: Testbed) -> None:
    bed.controller.behave(Behaviour(drop_ack=0.5, duplicate_ack=0.3))
    bed.wait_parts(20)
    bed.controller.behave(Behaviour())


def _slow_viewer(bed: Testbed) -> None:
    feed = ViewerFeed(str(bed.tables["link"]["viewers"]))
    bed.wait_parts(25)
    feed.close()


def _ledger_locked(bed: Testbed) -> None:
    connection = sqlite3.connect(bed.state / "ledger.db", isolation_level=None, timeout=5)
    try:
        connection.execute("BEGIN IMMEDIATE")
        bed.pause(1.0)
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def _disk_full(bed: Testbed) -> None:
    filler = bed.state / "filler"
    free = shutil.disk_usage(bed.state).free
    try:
        with filler.open("wb", buffering=0) as file:
            block = b"\0" * 65536
            while free > 0:
                free -= file.write(block)
    except OSError:
        pass  # the disk is full, as wanted
    reasons = (Reason.UNRECORDED,)
    # Pages of the log that are there already take rows for a while longer.
    bed.wait_for(lambda: any(one.answer.reason in reasons for one in bed.arrivals[-5:]), 8.0)
    bed.pause(1.0)
    filler.unlink()


def _clock_stepped(bed: Testbed) -> None:
    for seconds in (-3600, 86_400, 0):
        bed.knobs.set(Knob.WALL_STEP_S, seconds)
        bed.wait_parts(5)


def _reload(bed: Testbed) -> None:
    bed.write_config(decision={"limits": {"min_area_map_px": 13}})
    bed.tell(signal.SIGHUP)
    bed.wait_parts(5)
    bed.config.write_text("[nonsense]\n", encoding="utf-8")
    bed.tell(signal.SIGHUP)
    bed.wait_parts(5)
    bed.write_config()
    bed.tell(signal.SIGHUP)
    bed.wait_parts(5)


def _sigterm(bed: Testbed) -> None:
    bed.end(signal.SIGTERM)
    bed.start()


def _kill(bed: Testbed) -> None:
    bed.end(signal.SIGKILL)
    bed.start()


def _corrupted(bed: Testbed) -> None:
    bed.end(signal.SIGTERM)
    ledger = bed.state / "ledger.db"
    shutil.copyfile(ledger, bed.folder / "ledger-before-damage.db")
    data = bytearray(ledger.read_bytes())
    for at in range(4096 + 100, len(data), 4096):
        data[at : at + 64] = b"\xff" * 64
    ledger.write_bytes(bytes(data))
    bed.start()


SCENES = (
    Scene("incomplete frames", _incomplete),
    Scene("frame-id gaps", _gaps),
    Scene("camera lost and back", _camera_lost),
    Scene("camera driver crash", _driver_crash),
    Scene("stalled camera", _stalled),
    Scene("burst above capacity", _burst),
    Scene("engine hang", _hang),
    Scene("engine error", _engine_error),
    Scene("non-finite output", _not_finite),
    Scene("slow engine", _slow),
    Scene("controller silent", _silent),
    Scene("controller reconnecting", _reconnect),
    Scene("acknowledgements lost and doubled", _acks),
    Scene("viewer too slow", _slow_viewer),
    Scene("ledger locked", _ledger_locked),
    Scene("disk full", _disk_full),
    Scene("clock stepped", _clock_stepped),
    Scene("config reload", _reload),
    Scene("SIGTERM", _sigterm, restarts=True),
    Scene("kill -9", _kill, restarts=True),
    Scene("ledger corrupted", _corrupted, restarts=True),
)


def mount_small_disk(folder: Path, size_mb: int = 48) -> bool:
    """A small tmpfs for the ledger, so that it can be filled; False where this process may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    if mount is None:
        return False
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def unmount(folder: Path) -> None:
    """Take the small disk away again."""
    umount = shutil.which("umount")
    if umount is not None:
        subprocess.run([umount, "-l", str(folder)], capture_output=True, check=False)
