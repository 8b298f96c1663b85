"""The line's side of the camera process: start it, hear it, end it.

A fresh interpreter is started (no fork of a process with threads, no second run of ``__main__``); it gets one page for
the heartbeat, one end of a socket, and an unnamed file for whatever it and its drivers print.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import inspector
from inspector.camera.acquirer import MESSAGE_BYTES, Pulse
from inspector.camera.session import Order

_NOISE = "GenTL producer does not implement"  # the binding's remark about optional functions
_LOG_BYTES, _TAIL_LINES = 1 << 17, 6

Message = tuple[dict[str, Any], list[int]]
"""What the child says, and the descriptors that came with it, which belong to the receiver."""


class CameraProcess:
    """One run of :mod:`inspector.camera.acquirer`. One thread uses it; the pulse may be read from any."""

    def __init__(self, task: str, order: Order, *, first: bool, hang_s: float, connect_s: float) -> None:
        self.ended = False
        """True once the child has closed its end: it is dead or dying."""
        page_fd = os.memfd_create("inspector-pulse", os.MFD_CLOEXEC)
        self._log_fd = os.memfd_create("inspector-camera-log", os.MFD_CLOEXEC)
        fcntl.fcntl(self._log_fd, fcntl.F_SETFL, os.O_APPEND)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            os.ftruncate(page_fd, Pulse.BYTES)
            self.pulse = Pulse(page_fd)
            # The same code as ours, whatever else is installed under that name; -P: nothing from the current directory.
            root = str(Path(inspector.__file__).resolve().parent.parent)
            paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "inspector.camera.acquirer", str(page_fd), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log_fd,
                stderr=self._log_fd,
                pass_fds=(page_fd, theirs.fileno()),
                env={**os.environ, "PYTHONPATH": paths},
                process_group=0,  # a Ctrl-C in the terminal is the parent's
            )
        finally:
            os.close(page_fd)
            theirs.close()
        message = {
            "task": task, "order": asdict(order), "first": first, "hang_s": hang_s, "connect_s": connect_s
        }  # fmt: skip
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # died at once: shows as ended
            self._socket.send(json.dumps(message).encode())

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when a message waits or the child has ended."""
        return self._socket.fileno()

    def wait(self, timeout_ms: float) -> bool:
        """Waits for a message or the end."""
        poll = select.poll()
        poll.register(self, select.POLLIN)
        return bool(poll.poll(timeout_ms))

    def receive(self) -> Message | None:
        """The next message; None when there is none now, or when the child ended."""
        try:
            data, extra, _, _ = self._socket.recvmsg(
                MESSAGE_BYTES, socket.CMSG_SPACE(3 * 4), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data, extra = b"", []
        fds: list[int] = []
        for level, kind, raw in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.extend(int.from_bytes(raw[n : n + 4], sys.byteorder) for n in range(0, len(raw) - len(raw) % 4, 4))
        if not data:
            self.ended = True
            return None
        return dict(json.loads(data)), fds

    def kill(self) -> None:
        """Ends a child that hangs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def finish(self, grace_s: float) -> str:
        """Hangs up, waits, kills what is left, and says how it ended and what it printed last."""
        self._socket.close()
        try:
            code = self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        tail = self._tail()
        os.close(self._log_fd)
        return f"{how}; it printed: {tail}" if tail else how

    def _tail(self) -> str:
        text = os.pread(self._log_fd, _LOG_BYTES, 0).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip() and _NOISE not in line]
        crash = next((n for n, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
        return " | ".join(lines[-_TAIL_LINES:] if crash is None else lines[crash : crash + _TAIL_LINES])
