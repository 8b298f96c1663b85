"""The real drill: a daemon process on the drill's own camera, every fault in turn, and a certificate at the end.

The controller, in this process, outlives the daemon. Afterwards three sources are held against each other: what the
controller heard, what the ledger keeps, and what the camera's frames said of themselves before the line had them.
"""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inspector import __version__
from inspector.clock import Clock, SystemClock
from inspector.drill.certificate import Certificate, Played, certify
from inspector.drill.disk import mount_small_disk, unmount
from inspector.drill.scenes import SCENES, NotFeltError, Scene
from inspector.drill.testbed import Testbed
from inspector.errors import ConfigError, InspectorError
from inspector.ledger.rows import utc_time

RECOVER_S = 60.0


def drill(
    *,
    parts: int,
    bundle: Path,
    folder: Path,
    names: list[str] | None = None,
    rate_hz: float = 20.0,
    gate_ms: float = 400.0,
    clock: Clock | None = None,
    on_scene: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Certificate:
    """Play the scenes round by round until ``parts`` answers came. Raises ConfigError for an unknown fault name."""
    clock = clock or SystemClock()
    scenes = choose(names)
    state = folder / "state"
    small_disk = mount_small_disk(state)
    played = [] if small_disk else [_skipped(scene) for scene in scenes if scene.name == "disk full"]
    scenes = [scene for scene in scenes if small_disk or scene.name != "disk full"]
    bed = Testbed(folder, bundle, rate_hz, gate_ms, clock, state)
    quiet = max(3, min(40, parts // (2 * max(1, len(scenes)))))
    began_ns, began = clock.now_ns(), utc_time(clock.wall_ns())
    rounds, broke = 0, ""
    try:
        bed.start()
        bed.wait_parts(quiet)
        engine = bed.status()["engine"]
        try:
            while scenes and (len(bed.arrivals) < parts or not rounds):
                for scene in scenes:
                    on_scene(scene.name, len(bed.arrivals), parts)
                    played.append(_play(scene, bed, quiet, clock))
                rounds += 1
        except InspectorError as error:
            broke = f"the drill ended early: {error}"
        bed.end(signal.SIGTERM if bed.alive and not broke else signal.SIGKILL)
        about = {
            "began": began,
            "seconds": round((clock.now_ns() - began_ns) / 1e9, 1),
            "rounds": rounds,
            "rate_hz": rate_hz,
            "gate_ms": gate_ms,
            "engine": {key: engine[key] for key in ("bundle", "backend", "precision", "device", "plan_hash")},
            **_machine(),
        }
        return certify(bed, played, about, broke)
    finally:
        bed.close()
        if small_disk:
            unmount(state)


def choose(names: list[str] | None) -> list[Scene]:
    """The scenes of these names, all for none."""
    known = {scene.name: scene for scene in SCENES}
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise ConfigError(f"no such fault: {', '.join(unknown)}", expected=", ".join(known))
    return [known[name] for name in names] if names else list(SCENES)


def _skipped(scene: Scene) -> Played:
    return Played(scene, 0, note="skipped: a small disk cannot be mounted here")


def _play(scene: Scene, bed: Testbed, quiet: int, clock: Clock) -> Played:
    one = Played(scene, len(bed.arrivals))
    try:
        scene.inject(bed)
    except NotFeltError as error:
        one.fault = str(error)
    over_ns = bed.ended_ns if scene.restarts else clock.now_ns()
    since = one.first if scene.restarts else len(bed.arrivals)
    if bed.wait_for(lambda: bed.decided_after(over_ns, since) is not None, RECOVER_S):
        decided_ns = bed.decided_after(over_ns, since)
        one.recovered_ms = (decided_ns - over_ns) / 1e6 if decided_ns is not None else None
    else:
        one.fault = f"did not recover: {bed.last_words()}"
        if not bed.alive:
            raise InspectorError(f"the daemon did not outlive {scene.name!r}", found=bed.last_words())
    bed.wait_parts(quiet)
    one.last = len(bed.arrivals)
    return one


def _machine() -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "machine": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "version": __version__,
    }
