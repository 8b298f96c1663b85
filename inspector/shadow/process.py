"""The shadow's own process: idle priority, one thread, one engine, the line's own judgement, and a file of results.

Started as ``python -m inspector.shadow.process SOCKET_FD IDLE`` by :mod:`inspector.shadow.child`. The socket
(SOCK_SEQPACKET) carries one JSON message per event; the pixels of a job come as an anonymous file beside it. It has no
controller, no ledger and no camera: what it finds goes into its own file and, as one message, to the line's process.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """SIGKILL when the parent's thread that started us ends, however it ends and also while we are held still."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def step_back() -> str:
    """Take idle priority; returns what the kernel refused. Before anything heavy is loaded, and inherited by threads.

    A thread at idle priority runs only where no other wants the core, and gives it up at once when one does."""
    os.nice(19)  # never refused
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError as error:
        return f"idle priority refused ({error.strerror}), running at nice 19"
    return ""


class Link:
    """The child's end of the socket."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def receive(self) -> tuple[dict[str, Any], int] | None:
        """The next message and the descriptor that came with it (-1 without); None when the parent hung up."""
        from inspector.shadow.records import MESSAGE_BYTES

        data, fds, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES, 1)
        return (dict(json.loads(data)), fds[0] if fds else -1) if data else None

    def tell(self, event: str, **details: object) -> None:
        """One message. Raises OSError where the parent is gone."""
        self._socket.send(json.dumps({"event": event, **details}).encode())


class Bench:
    """The shadow's engine on the line's own way from frame to verdict."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        """Open and prove the engine. ``order``: the settings as tables and their hash, the live calibration's, where
        to write.

        Raises ConfigError, EngineError or LedgerError."""
        import cv2

        from inspector.clock import SystemClock
        from inspector.config import load
        from inspector.errors import ConfigError
        from inspector.recipe import engine_opener, open_proven, read_ingredients
        from inspector.shadow.book import ShadowBook

        cv2.setNumThreads(1)
        self._clock = SystemClock()
        settings = load(None, {}, **order["tables"]).settings
        ingredients = read_ingredients(settings, self._clock)
        here = ingredients.calibration.hash[:16], settings.short_hash()
        if here != (order["calibration"], order["settings"]):
            raise ConfigError(
                "the calibration on the disk is not the one that the line runs with",
                expected=f"calibration {order['calibration']}, settings {order['settings']}",
                found=f"calibration {here[0]}, settings {here[1]}",
                do="Reload the daemon.",
            )
        root = Path(order["root"])
        self._book = ShadowBook(root, keep=order["keep"], min_free_bytes=order["min_free_bytes"])
        self.opened = open_proven(ingredients.bundle, engine_opener(settings))
        self._recipe = ingredients.recipe(self.opened.engine)

    def judge(self, fields: Mapping[str, Any], memory_fd: int) -> dict[str, Any]:
        """One job, compared and written; the outcome as JSON fields. Raises LedgerError."""
        import numpy as np

        from inspector.decision import worst
        from inspector.examine import examine
        from inspector.frame import Evidence
        from inspector.shadow.records import Change, Job, Outcome

        began_ns, used_us = self._clock.now_ns(), _cpu_us()
        memory = bytearray(os.fstat(memory_fd).st_size)
        os.preadv(memory_fd, [memory], 0)
        job = Job.from_json(fields, np.frombuffer(memory, np.uint8))
        decisions, evidence = [], Evidence()
        for frame in job.frames:
            decision, evidence, _ = examine(frame, self._recipe, self._clock)
            decisions.append(decision)
        whole, live, info = worst(decisions), job.live, self.opened.engine.info
        spent_us = _cpu_us() - used_us
        engine = self._recipe.hashes.engine
        found = self._book.add(job, whole, evidence, engine=engine, bundle=info.bundle, cpu_us=spent_us)
        text = ""
        if found is not Change.SAME:
            why = "; ".join(whole.rules) or (whole.reason.value if whole.reason else "nothing found")
            text = f"part {live.part_id}: live {live.verdict.value}, shadow {whole.verdict.value}: {why}"[:400]
        return Outcome(live.epoch, live.sequence, found, text, began_ns, spent_us).to_json()

    def close(self) -> None:
        self.opened.engine.close()
        self._book.close()


def _cpu_us() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int((used.ru_utime + used.ru_stime) * 1e6)


def _work(link: Link, remark: str) -> None:
    ordered = link.receive()
    if ordered is None:
        return
    bench = Bench(ordered[0])
    info = bench.opened.engine.info
    why = "; ".join(filter(None, (bench.opened.reason, remark)))
    link.tell("ready", engine=asdict(info), why=why)
    try:
        while (message := link.receive()) is not None:
            fields, memory_fd = message
            try:
                outcome = bench.judge(fields, memory_fd)
            finally:
                os.close(memory_fd)
            link.tell("done", outcome=outcome)
    finally:
        bench.close()


def main() -> int:
    """Entry of the shadow's process; returns its exit code."""
    remark = step_back() if int(sys.argv[2]) else "at ordinary priority"
    faulthandler.enable()
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent decides; a service manager signals the whole group
    from inspector.errors import InspectorError

    link = Link(int(sys.argv[1]))
    try:
        link.tell("begun")
        _work(link, remark)
    except InspectorError as error:
        link.tell("failed", what=str(error))
        return error.exit_code
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone: nobody to tell
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
