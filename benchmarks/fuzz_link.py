"""Random and mutated messages against a real controller's link: no crash, no hang, no growth, no answer lost.

Two links are attacked over real sockets by a process of its own. At the first, strangers send while a well-behaved
controller takes answers all the while; at the second, the attacker is the accepted controller. Prints one JSON line.

    python benchmarks/fuzz_link.py --messages 1000000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import socket
import struct
import sys
import threading
import time
import zlib
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event as Flag
from pathlib import Path

import zmq

from inspector.clock import SystemClock
from inspector.frame import Answer, Hashes, Reason, State, Verdict
from inspector.link import wire
from inspector.link.controller import ControllerLink
from inspector.link.events import Acked, Refused
from inspector.link.listen import Arrival, ReferenceController

EPOCH = 3
_CLOCK = SystemClock()
_CORPUS = [
    wire.pack_hello(EPOCH, 5),
    wire.pack_ack(EPOCH, [1]),
    wire.pack_ack(EPOCH, list(range(1, 200))),
    wire.pack_announce(7, "bar-7", -1),
    wire.pack_announce(7, "bar-7", 1 << 40, resent=True),
    wire.pack_state(State.READY, epoch=EPOCH, last_sequence=1, opened=1, durable=1, sent_ns=1),
    wire.pack_refused("no", epoch=EPOCH),
]
_NASTY = [
    b"",
    b"[" * 4000,
    b'{"sequences":[' + b"1," * 400 + b"1]}",
    b'{"sequences":[1e400]}',
    b"9" * 6000,
    b"\xff" * 64,
]


def resealed(header: bytes, detail: bytes) -> list[bytes]:
    """The message with its length and CRC made to fit."""
    body = header[:120] + struct.pack("<I", len(detail))
    return [body + struct.pack("<I", zlib.crc32(detail, zlib.crc32(body))), detail]


def a_message(chance: random.Random) -> list[bytes]:
    """Noise, or a valid message with a few bytes changed, with or without a fitting CRC."""
    kind = chance.random()
    if kind < 0.1:
        return [chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(1, 6))]
    header, detail = chance.choice(_CORPUS)
    changed = bytearray(header)
    for _ in range(chance.randrange(4)):
        changed[chance.randrange(128)] = chance.randrange(256)
    if kind < 0.3:
        detail = chance.choice(_NASTY)
    elif kind < 0.4 and detail:
        at = chance.randrange(len(detail))
        detail = detail[:at] + chance.randbytes(chance.randrange(4)) + detail[at + 1 :]
    if kind < 0.8:
        return resealed(bytes(changed), detail)
    return [bytes(changed[: chance.randrange(90, 129)]), detail]


def attack(endpoint: str, seed: int, insider: bool, taken: Synchronized[int], stop: Flag) -> None:
    """Send until told to stop; now and then an oversized message, a new connection, and bytes that are no ZeroMQ.

    A stranger comes back under another name each time. The insider keeps its name, and waits until it was heard before
    it goes: one that does not can leave a descriptor behind in libzmq (docs/wire-protocol.md, known limits)."""
    chance = random.Random(seed)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    count = 0
    while not stop.is_set():
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.ROUTING_ID, b"insider" if insider else b"stranger-" + chance.randbytes(8))
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.SNDTIMEO, 200)
        dealer.connect(endpoint)
        try:
            if insider:
                dealer.send_multipart(wire.pack_hello(0, 0))
            for _ in range(20_000):
                dealer.send_multipart(a_message(chance))
                count += 1
                while count % 64 == 0 and dealer.poll(0):
                    dealer.recv_multipart(zmq.NOBLOCK)
                if stop.is_set():
                    break
        except zmq.Again:
            pass  # the daemon takes less than is sent
        if insider:
            wait_until_heard(dealer, taken, stop)
        with contextlib.suppress(zmq.Again):
            dealer.send(b"x" * 70_000)  # above the limit: the daemon cuts this connection
        dealer.close(linger=0)
        try:
            with socket.create_connection((host, int(port)), timeout=1) as junk:
                junk.sendall(chance.randbytes(200))
        except OSError:
            pass
    context.term()


def wait_until_heard(dealer: zmq.Socket[bytes], taken: Synchronized[int], stop: Flag) -> None:
    """Read replies until the daemon has taken all that was sent: its count stands still."""
    before = -1
    while not stop.wait(0.2) and taken.value != before:
        before = taken.value
        while dealer.poll(0):
            dealer.recv_multipart(zmq.NOBLOCK)


def an_answer(sequence: int) -> Answer:
    """An answer with two seconds left."""
    now_ns = _CLOCK.now_ns()
    return Answer(
        epoch=EPOCH,
        sequence=sequence,
        part_id=f"C-{sequence}",
        frame_id=sequence,
        verdict=Verdict.INVALID if sequence % 3 == 0 else Verdict.PASS,
        reason=Reason.LATE if sequence % 3 == 0 else None,
        review=False,
        rules=(),
        defects=(),
        score=0.5,
        taken_ns=now_ns,
        due_ns=now_ns + 2_000_000_000,
        settled_ns=now_ns,
        wall_ns=0,
        hashes=Hashes(),
    )


class Served(threading.Thread):
    """One link in its own thread, sending an answer each 5 ms."""

    def __init__(self, wanted: int) -> None:
        super().__init__(name="served")
        self.wanted, self.ready = wanted, threading.Event()
        self.enough, self.finish = threading.Event(), threading.Event()
        self.link = ControllerLink("tcp://127.0.0.1:*", epoch=EPOCH, clock=_CLOCK)
        self.taken: Synchronized[int] = multiprocessing.get_context("spawn").Value("Q", 0)
        self.sent = self.acknowledged = self.told = 0
        self.slowest_ns = 0
        self.endpoint = ""
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            self.link.open()
            self.endpoint = self.link.endpoint
            self.ready.set()
            self._serve()
        except BaseException as error:
            self.fault = error
            self.ready.set()
            self.enough.set()
            raise

    def _serve(self) -> None:
        next_ns = _CLOCK.now_ns()
        end_ns = 0
        while True:
            self.link.wait(max(0.0, (next_ns - _CLOCK.now_ns()) / 1e9))
            before_ns = _CLOCK.now_ns()
            for event in self.link.service(before_ns):
                self.acknowledged += isinstance(event, Acked)
                self.told += isinstance(event, Refused)
            now_ns = _CLOCK.now_ns()
            self.slowest_ns = max(self.slowest_ns, now_ns - before_ns)
            self.taken.value = self.link.statistics().received
            if self.taken.value >= self.wanted:
                self.enough.set()
            if self.finish.is_set():
                end_ns = end_ns or now_ns + 3_000_000_000
                if self.link.unacknowledged == 0 or now_ns > end_ns:
                    return
                next_ns = now_ns + 5_000_000
            elif now_ns >= next_ns:
                self.sent += 1
                self.link.send(an_answer(self.sent), durable=0)
                next_ns = now_ns + 5_000_000


def rss_mb() -> float:
    """Resident memory of this process."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def handles() -> int:
    """Open descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def figures(values_ns: list[int]) -> dict[str, float]:
    """p50, p99 and max in milliseconds."""
    values = sorted(values_ns) or [0]
    pick = {"p50": len(values) // 2, "p99": min(len(values) - 1, len(values) * 99 // 100), "max": len(values) - 1}
    return {name: round(values[at] / 1e6, 3) for name, at in pick.items()}


def main() -> int:
    """Run the attack; 0 where nothing broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000, help="messages that must reach the two links")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began_s = time.monotonic()
    arrivals_ns: list[int] = []

    def arrived(arrival: Arrival) -> None:
        arrivals_ns.append(arrival.arrived_ns - arrival.answer.settled_ns)

    strangers, insider = Served(arguments.messages // 2), Served(arguments.messages - arguments.messages // 2)
    served = [strangers, insider]
    for each in served:
        each.start()
        each.ready.wait()
    controller = ReferenceController(strangers.endpoint, clock=_CLOCK, on_answer=arrived).start()
    controller.wait_for(lambda counts: counts.connected, 10)
    first_mb, first_handles = rss_mb(), handles()
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    attackers = [
        spawn.Process(target=attack, args=(each.endpoint, arguments.seed + number, each is insider, each.taken, stop))
        for number, each in enumerate(served)
    ]
    for attacker in attackers:
        attacker.start()
    for each in served:
        each.enough.wait()
    stop.set()
    for attacker in attackers:
        attacker.join()
    for each in served:
        each.finish.set()
    for each in served:
        each.join()
    last_mb, last_handles = rss_mb(), handles()
    counts, heard = strangers.link.statistics(), controller.statistics()
    controller.stop()
    faults = [repr(each.fault) for each in served if each.fault is not None]
    result = {
        "messages": sum(each.link.statistics().received for each in served),
        "refused": sum(each.link.statistics().refused for each in served),
        "refusals_told": sum(each.told for each in served),
        "crashes": len(faults),
        "faults": faults,
        "rss_growth_mb": round(last_mb - first_mb, 1),
        "descriptor_growth": last_handles - first_handles,
        "service_max_ms": round(max(each.slowest_ns for each in served) / 1e6, 3),
        "answers": strangers.sent,
        "acknowledged": strangers.acknowledged,
        "received": heard.received,
        "conflicts": heard.conflicts,
        "expired": counts.expired,
        "answer_ms": figures(arrivals_ns),
        "seconds": round(time.monotonic() - began_s, 1),
        "seed": arguments.seed,
    }
    print(json.dumps(result))
    lost = strangers.sent - heard.received
    return 0 if not faults and lost == 0 and heard.conflicts == 0 and last_mb - first_mb < 64 else 1


if __name__ == "__main__":
    sys.exit(main())
