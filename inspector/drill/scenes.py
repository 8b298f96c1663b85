"""The faults of the real drill, one function each: inject, and return when the cause is gone again."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from inspector.drill.disk import Filler, shrink_log
from inspector.drill.producer import Fault
from inspector.drill.subject import Knob
from inspector.drill.testbed import Testbed
from inspector.errors import InspectorError
from inspector.frame import Reason, State
from inspector.link.listen import Behaviour
from inspector.link.viewers import ViewerFeed

Inject = Callable[[Testbed], None]


class NotFeltError(InspectorError):
    """The fault was injected and nothing came of it: the scene would prove nothing."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One fault. ``inject`` returns when its cause has ended; recovery is counted from there."""

    name: str
    inject: Inject
    does: str
    """What is done, for the certificate."""
    felt: tuple[Reason, ...] = ()
    """One of these must stand in an answer of the scene, or the fault was not felt."""
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
    """Images go first, then rows; each step must be felt."""
    filler = Filler(bed.state)
    try:
        shed = bed.status()["store"]["shed"]
        filler.leave(int(bed.tables["store"]["min_free_mb"] * 1e6) // 2)
        if not bed.until(lambda: bed.status()["store"]["shed"] > shed, 10.0):
            raise NotFeltError("disk full: a short disk was not felt", expected="images are shed")
        if any(one.answer.reason is Reason.UNRECORDED for one in bed.arrivals[-3:]):
            raise NotFeltError("disk full: rows were lost while there was room for them")
        shrink_log(bed.state / "ledger.db")
        filler.leave(0)
        for what, holds in (
            ("INVALID UNRECORDED", lambda: any(one.answer.reason is Reason.UNRECORDED for one in bed.arrivals[-5:])),
            ("state Error", lambda: bed.told_state is State.ERROR),
        ):
            if not bed.wait_for(holds, 10.0):
                raise NotFeltError("disk full: it was not felt", expected=what, found=bed.last_words())
        bed.pause(1.0)
    finally:
        filler.gone()


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
    shutil.copyfile(ledger, bed.folder / f"ledger-before-damage-{len(bed.arrivals)}.db")
    data = bytearray(ledger.read_bytes())
    for at in range(4096 + 100, len(data), 4096):
        data[at : at + 64] = b"\xff" * 64
    ledger.write_bytes(bytes(data))
    bed.start()


SCENES = (
    Scene("incomplete frames", _incomplete, "five frames come in part", (Reason.INCOMPLETE,)),
    Scene("frame-id gaps", _gaps, "four frames are numbered and never delivered", (Reason.MISSED,)),
    Scene("camera lost and back", _camera_lost, "the cable is out for 1.5 s"),
    Scene("camera driver crash", _driver_crash, "the driver dies with SIGSEGV"),
    Scene("stalled camera", _stalled, "no picture is taken for 0.7 s"),
    Scene("burst above capacity", _burst, "25 frames at once", (Reason.DROPPED, Reason.LATE)),
    Scene("engine hang", _hang, "one inference takes 1.5 s", (Reason.LATE, Reason.DROPPED)),
    Scene("engine error", _engine_error, "five inferences raise", (Reason.ENGINE_FAULT,)),
    Scene("non-finite output", _not_finite, "five maps hold a NaN", (Reason.NOT_FINITE,)),
    Scene("slow engine", _slow, "each inference outlasts the gate, for 2 s", (Reason.LATE, Reason.DROPPED)),
    Scene("controller silent", _silent, "it acknowledges nothing for 1.5 s"),
    Scene("controller reconnecting", _reconnect, "it drops its connection three times"),
    Scene("acknowledgements lost and doubled", _acks, "half are lost, a third comes twice"),
    Scene("viewer too slow", _slow_viewer, "a viewer connects and reads nothing"),
    Scene("ledger locked", _ledger_locked, "another process holds the write lock for 1 s", (Reason.UNRECORDED,)),
    Scene("disk full", _disk_full, "first too full for images, then for rows, for 1 s", (Reason.UNRECORDED,)),
    Scene("clock stepped", _clock_stepped, "wall clock 1 h back, 1 day ahead, and right again"),
    Scene("config reload", _reload, "new rules, a broken file, the old rules"),
    Scene("SIGTERM", _sigterm, "the daemon ends in order and starts again", restarts=True),
    Scene("kill -9", _kill, "the daemon is killed and starts again", restarts=True),
    Scene("ledger corrupted", _corrupted, "every page of the ledger is damaged between two runs", restarts=True),
)
