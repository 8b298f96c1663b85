"""Peers that attack the socket itself. The link lives in a process of its own: libzmq ends a process by abort()."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x00NULL" + b"\0" * 48
_PROPERTY = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
_READY = b"\x04" + bytes([len(_PROPERTY)]) + _PROPERTY
_MESSAGE = b"\x01\x80" + b"x" * 128 + b"\x00\x00"

# Serves one message for each line on stdin, so that the test decides when the queue is full.
_SERVER = """
import sys
from inspector.clock import SystemClock
from inspector.link.controller import ControllerLink
link = ControllerLink("tcp://127.0.0.1:*", epoch=1, clock=SystemClock())
link.open()
print(link.endpoint, flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        link.wait(0.02)
        link.service(SystemClock().now_ns())
    print(link.statistics().received, flush=True)
link.close(0)
"""


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    """A link in a process of its own; ends by itself when its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    )
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _flood_and_reset(port: int) -> int:
    """Fill the peer's queue with whole messages until it stops reading, then reset the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        peer.sendall(_GREETING)
        greeting = b""
        while len(greeting) < 64:
            greeting += peer.recv(64 - len(greeting))
        peer.sendall(_READY)
        assert peer.recv(2)
        peer.settimeout(0.05)
        sent = 0
        try:
            while sent < 60_000:
                peer.sendall(_MESSAGE)
                sent += 1
        except TimeoutError:
            pass
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return sent


def test_flood_and_reset_does_not_end_the_process(server: subprocess.Popen[str]) -> None:
    """A peer that fills the queue of a busy daemon and resets its connection cannot end it.

    With ZMTP heartbeats on the daemon's socket this aborts libzmq 4.3.5: they must stay off."""
    assert server.stdin is not None and server.stdout is not None
    port = int(server.stdout.readline().rpartition(":")[2])
    for _ in range(3):
        assert _flood_and_reset(port) > 256
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.5)  # longer than the timers that would abort it
        server.stdin.write("15\n")
        server.stdin.flush()
        assert int(server.stdout.readline()) > 0
    server.stdin.close()
    assert server.wait(20) == 0


def test_heartbeats_of_the_transport_are_off() -> None:
    """No module of the link switches ZMTP heartbeats on."""
    sources = (_ROOT / "inspector" / "link").glob("*.py")
    assert [path.name for path in sources if "zmq.HEARTBEAT" in path.read_text("utf-8")] == []


def test_fuzzing_at_small_scale() -> None:
    """The fuzz benchmark at small scale: nothing breaks, no answer is lost, memory stays."""
    run = subprocess.run(
        [sys.executable, "benchmarks/fuzz_link.py", "--messages", "4000"],
        cwd=_ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["messages"] >= 4000
    assert result["crashes"] == result["conflicts"] == 0
    assert result["answers"] == result["received"]


# Answers wait unread in the controller's queue when its daemon goes; "go" is said once they are there and it is gone.
_BACKLOG = """
import threading, time
import zmq
from inspector.clock import SystemClock
from inspector.link import wire
from inspector.link.listen import ReferenceController
from tests.link.link_help import an_answer

router = zmq.Context().socket(zmq.ROUTER)
router.setsockopt(zmq.LINGER, 0)
router.setsockopt(zmq.SNDHWM, 0)
port = router.bind_to_random_port("tcp://127.0.0.1")
go, first = threading.Event(), threading.Event()

def heard(arrival):
    first.set()
    go.wait()

controller = ReferenceController(f"tcp://127.0.0.1:{port}", clock=SystemClock(), on_answer=heard).start()
identity = router.recv_multipart()[0]
for number in range(1, 1500):
    router.send_multipart([identity, *wire.pack_answer(an_answer(number, now_ns=1), left_us=1, durable=0)])
assert first.wait(10)
time.sleep(0.2)  # libzmq tells nobody when bytes have reached the peer's queue, nor when the peer has seen the end
router.close()
time.sleep(0.2)
go.set()
print(controller.wait_for(lambda counts: counts.received >= 1000, 20))
controller.stop()
"""


def test_a_controller_outlives_its_daemon_with_answers_unread() -> None:
    """With ZMQ_IMMEDIATE libzmq aborts such a process: the connection is taken away between two frames of a message."""
    done = subprocess.run(
        [sys.executable, "-c", _BACKLOG], cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
