"""Move a proven plan into its bundle: files first, then the manifest in one step, then the plan it replaces goes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inspector.engine.bundle import Bundle, load_bundle, write_manifest
from inspector.engine.files import sha256
from inspector.errors import EngineError

PLANS = "plans"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the bundle's lock: two builds at a time must not lose each other's passport."""
    with (root / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def file_entries(bundle: Bundle, files: tuple[Path, ...], plan_id: str) -> list[dict[str, str]]:
    """The passport's ``files``: those still in a staging directory will lie under ``plans/<id>/``."""
    entries = []
    for path in files:
        name = path.name if path.parent == bundle.path else f"{PLANS}/{plan_id}/{path.name}"
        entries.append({"file": name, "sha256": sha256(path.read_bytes())})
    return entries


def install(bundle: Bundle, passport: dict[str, Any], files: tuple[Path, ...]) -> None:
    """Enter ``passport`` into the manifest; an older plan of the same back end, precision and machine is replaced.

    Raises EngineError where the bundle has become another network in the meantime.
    """
    with locked(bundle.path):
        now = load_bundle(bundle.path)
        if now.onnx_sha256 != passport["onnx_sha256"]:
            raise EngineError(
                f"bundle {bundle.name} was exported anew while the plan was built",
                do="Build the plan again.",
            )
        target = bundle.path / PLANS / str(passport["id"])
        moving = [path for path in files if path.parent != bundle.path]
        if moving:
            target.mkdir(parents=True, exist_ok=True)
            for path in moving:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                path.replace(target / path.name)
            for directory in (target, target.parent, bundle.path):
                _sync(directory)
        raw = dict(now.manifest)
        replaced = [plan for plan in raw["plans"] if _place(plan) == _place(passport)]
        kept = [plan for plan in raw["plans"] if _place(plan) != _place(passport)]
        raw["plans"] = sorted([*kept, passport], key=lambda plan: str(plan["id"]))
        write_manifest(bundle.path, raw)
        for plan in replaced:
            if plan["id"] != passport["id"]:
                shutil.rmtree(bundle.path / PLANS / plan["id"], ignore_errors=True)


def _place(plan: dict[str, Any]) -> tuple[Any, ...]:
    machine = plan["machine"]
    where = (machine["device"], tuple(machine.get("isa", ())), machine.get("compute_capability", ""))
    return (plan["backend"], plan["precision"], *where)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
