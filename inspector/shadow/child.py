"""The line's side of the shadow's process: start it, hand it jobs, hear it, end it.

A fresh interpreter, as the camera's process is, with one end of a socket and an unnamed file for what it prints.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import inspector
from inspector.shadow.records import MESSAGE_BYTES, Job

_LOG_BYTES, _TAIL_LINES = 1 << 17, 4


class ShadowProcess:
    """One run of :mod:`inspector.shadow.process`. One thread uses it."""

    def __init__(self, order: Mapping[str, Any], *, idle: bool = True) -> None:
        """``idle``: at idle priority."""
        self.ended = False
        """True once the child has closed its end: it is dead or dying."""
        self._log_fd = os.memfd_create("inspector-shadow-log", os.MFD_CLOEXEC)
        fcntl.fcntl(self._log_fd, fcntl.F_SETFL, os.O_APPEND)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # The same code as ours, whatever else is installed under that name; -P: nothing from the current directory.
            root = str(Path(inspector.__file__).resolve().parent.parent)
            paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "inspector.shadow.process", str(theirs.fileno()), str(int(idle))],
                stdin=subprocess.DEVNULL,
                stdout=self._log_fd,
                stderr=self._log_fd,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": paths},
                process_group=0,  # a Ctrl-C in the terminal is the parent's
            )
        finally:
            theirs.close()
        self._send(json.dumps(order).encode())

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when a message waits or the child has ended."""
        return self._socket.fileno()

    def hand_over(self, job: Job) -> None:
        """Copy the job's pixels into an anonymous file and pass it on with one message. Never waits."""
        fd = os.memfd_create("inspector-shadow", os.MFD_CLOEXEC)
        try:
            for pixels in job.pixels():
                os.write(fd, pixels.data)  # the interpreter is free while the kernel copies
            self._send(json.dumps(job.to_json()).encode(), fd)
        finally:
            os.close(fd)

    def _send(self, data: bytes, *fds: int) -> None:
        if len(data) > MESSAGE_BYTES:
            raise ValueError(f"a message of {len(data)} bytes")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # died: shows as ended
            socket.send_fds(self._socket, [data], fds, socket.MSG_DONTWAIT)

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when there is none now, or when the child ended."""
        try:
            data = self._socket.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data = b""
        if not data:
            self.ended = True
            return None
        return dict(json.loads(data))

    def kill(self) -> None:
        """Ends a child that hangs, held still or not."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def finish(self, grace_s: float) -> str:
        """Hangs up, waits, kills what is left, and says how it ended and what it printed last; idempotent."""
        if self._log_fd < 0:
            return "ended"
        self._socket.close()
        try:
            code = self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        text = os.pread(self._log_fd, _LOG_BYTES, 0).decode(errors="replace")
        os.close(self._log_fd)
        self._log_fd = -1
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        crash = next((n for n, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
        tail = lines[-_TAIL_LINES:] if crash is None else lines[crash : crash + _TAIL_LINES]
        return f"{how}; it printed: {' | '.join(tail)}" if tail else how
