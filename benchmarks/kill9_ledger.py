"""kill -9 of a writing ledger at random instants: nothing that was answered may be missing or changed.

Each round forks a child that opens the book, recovers, then opens numbers, commits, "answers" (a record into a pipe,
after the commit) and stores acknowledgements, with the sync and checkpoint thread beside it. The parent kills it at a
random instant, in the start-up too, and compares what it was told with what is stored. The last round ends in order,
then the whole file is verified. On any surprise the files are kept.

    python benchmarks/kill9_ledger.py --kills 300 --json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from inspector.clock import SystemClock
from inspector.frame import Answer, Hashes, Reason, Receipt, Settled, Verdict
from inspector.ledger.audit import records, verify
from inspector.ledger.book import Book
from inspector.ledger.rows import answer_cells

_TOLD = struct.Struct("<cQQ16s")
"""Kind, epoch, sequence, digest. O opened, A answered, R restarted, S resent, E epoch ready, K acknowledged."""
_GATE_NS = 30_000_000_000


def _digest(answer: Answer) -> bytes:
    return hashlib.sha256(ascii(answer_cells(0, Settled(answer))[:-1]).encode()).digest()[:16]


@dataclass
class Told:
    """What the parent was told over all rounds: the controller's memory."""

    opened: dict[int, int] = field(default_factory=dict)
    answered: dict[tuple[int, int], bytes] = field(default_factory=dict)
    acknowledged: set[tuple[int, int]] = field(default_factory=set)
    restarted: set[tuple[int, int]] = field(default_factory=set)
    resent: int = 0
    epochs: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    kills_in_start: int = 0

    def hear(self, data: bytes) -> None:
        """Take in everything one child said."""
        ready = False
        for kind, epoch, sequence, digest in _TOLD.iter_unpack(data[: len(data) // _TOLD.size * _TOLD.size]):
            number = (epoch, sequence)
            if kind == b"E":
                ready = True
                if self.epochs and epoch <= self.epochs[-1]:
                    self.problems.append(f"epoch {epoch} came after {self.epochs[-1]}")
                self.epochs.append(epoch)
            elif kind == b"O":
                self.opened[epoch] = max(sequence, self.opened.get(epoch, 0))
            elif kind == b"K":
                self.acknowledged.add(number)
            else:
                self._answer(kind, number, digest)
        self.kills_in_start += not ready

    def _answer(self, kind: bytes, number: tuple[int, int], digest: bytes) -> None:
        known = self.answered.setdefault(number, digest)
        if known != digest:
            self.problems.append(f"{number} was answered twice with different content ({kind.decode()})")
        if kind == b"R":
            self.restarted.add(number)
        if kind == b"S":
            self.resent += 1
            if number in self.acknowledged:
                self.problems.append(f"{number} was acknowledged and sent again")


def child(path: Path, pipe: int, seed: int, last: bool) -> None:
    """The daemon in small."""
    clock, rng = SystemClock(), random.Random(seed)
    book = Book(path, clock=clock, ballast_bytes=0)
    book.open()

    def tell(kind: bytes, epoch: int, sequence: int, digest: bytes = b"") -> None:
        os.write(pipe, _TOLD.pack(kind, epoch, sequence, digest))

    recovery = book.recover(clock.now_ns())
    tell(b"E", book.epoch, 0)
    for answer in recovery.restarted:
        tell(b"R", answer.epoch, answer.sequence, _digest(answer))
    for answer in recovery.resend:
        tell(b"S", answer.epoch, answer.sequence, _digest(answer))
    stop = threading.Event()

    def sync() -> None:
        while not stop.wait(0.005):
            book.sync()
            book.checkpoint()

    thread = threading.Thread(target=sync)
    thread.start()
    number = 0
    acknowledgements: list[Receipt] = []
    for _ in range(20 if last else 1_000_000):
        batch = []
        for _ in range(rng.choice((1, 1, 2, 8, 40))):
            number += 1
            book.mark_opened(number)
            tell(b"O", book.epoch, number)
            batch.append(Settled(_answer(book.epoch, number, clock.now_ns(), rng)))
        rng.shuffle(batch)
        book.write([*batch, *acknowledgements])
        for receipt in acknowledgements:
            tell(b"K", receipt.epoch, receipt.sequence)
        acknowledgements = []
        for settled in batch:
            tell(b"A", book.epoch, settled.answer.sequence, _digest(settled.answer))
            if rng.random() < 0.5:
                acknowledgements.append(Receipt(book.epoch, settled.answer.sequence, clock.now_ns()))
    stop.set()
    thread.join()
    book.close()


def _answer(epoch: int, number: int, now_ns: int, rng: random.Random) -> Answer:
    verdict = rng.choice((Verdict.PASS, Verdict.FAIL, Verdict.INVALID))
    return Answer(
        epoch=epoch,
        sequence=number,
        part_id=f"part-{number}",
        frame_id=number,
        verdict=verdict,
        reason=Reason.LATE if verdict is Verdict.INVALID else None,
        review=False,
        rules=("area 12.5 px over 10 px",) if verdict is Verdict.FAIL else (),
        defects=(),
        score=rng.random(),
        taken_ns=now_ns,
        due_ns=now_ns + _GATE_NS,
        settled_ns=now_ns + 1,
        wall_ns=1_700_000_000_000_000_000 + now_ns,
        hashes=Hashes("e" * 16, "c" * 16, "5" * 16),
        stages_us=(("engine", rng.randrange(20000)),),
        detail="x" * rng.randrange(200),
    )


def one_round(path: Path, seed: int, kill_after_s: float | None) -> bytes:
    """Fork a child, kill it after that time; returns all it said."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(receiving)
            child(path, sending, seed, kill_after_s is None)
            status = 0
        finally:
            os._exit(status)
    os.close(sending)
    said = bytearray()
    kill_at = time.perf_counter() + (1e9 if kill_after_s is None else kill_after_s)
    while True:
        left_s = kill_at - time.perf_counter()
        if left_s <= 0:
            os.kill(pid, signal.SIGKILL)
            kill_at = float("inf")
            continue
        if select.select([receiving], [], [], min(left_s, 1.0))[0]:
            data = os.read(receiving, 1 << 16)
            if not data:
                break
            said += data
    os.close(receiving)
    _, status = os.waitpid(pid, 0)
    if kill_after_s is None and status != 0:
        raise SystemExit(f"the last round failed with status {status}")
    return bytes(said)


def compare(path: Path, told: Told, *, rows_settled: bool) -> None:
    """Every answer that was told is stored with that content; with ``rows_settled`` every number has a row."""
    stored = {(each.sent.epoch, each.sent.sequence): _digest(each.sent) for each in records(path)}
    for number, digest in told.answered.items():
        if number not in stored:
            told.problems.append(f"{number} was answered and is not in the ledger")
        elif stored[number] != digest:
            told.problems.append(f"{number} was answered with other content than is stored")
    received = {(each.sent.epoch, each.sent.sequence) for each in records(path) if each.received_ns is not None}
    told.problems.extend(f"the acknowledgement of {number} is lost" for number in told.acknowledged - received)
    if rows_settled:
        for epoch, last in told.opened.items():
            missing = [number for number in range(1, last + 1) if (epoch, number) not in stored]
            told.problems.extend(f"({epoch}, {number}) was opened and has no row" for number in missing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest-ms", type=float, default=300.0, help="kills fall evenly in 0..this after the fork")
    parser.add_argument("--check-each", action="store_true", help="compare after every kill, not only the newest rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng, told = random.Random(options.seed), Told()
    folder = Path(tempfile.mkdtemp(prefix="kill9-ledger-"))
    path = folder / "ledger.db"
    started = time.perf_counter()
    for kill in range(options.kills):
        told.hear(one_round(path, rng.randrange(1 << 32), rng.random() * options.longest_ms / 1000))
        if options.check_each and path.is_file() and told.epochs:
            compare(path, told, rows_settled=False)
        if told.problems:
            break
        if sys.stderr.isatty():
            print(f"\r{kill + 1} kills, {len(told.answered)} answers", end="", file=sys.stderr)
    told.hear(one_round(path, rng.randrange(1 << 32), None))
    compare(path, told, rows_settled=True)
    verified = verify(path)
    told.problems.extend(finding.text for finding in verified.findings if not finding.known)
    result = {
        "kills": options.kills,
        "seed": options.seed,
        "kills_in_start": told.kills_in_start,
        "epochs": len(told.epochs),
        "opened": sum(told.opened.values()),
        "answered": len(told.answered),
        "acknowledged": len(told.acknowledged),
        "restarted": len(told.restarted),
        "resent": told.resent,
        "rows": verified.rows,
        "verify_ok": verified.ok,
        "problems": len(told.problems),
        "first_problems": told.problems[:10],
        "seconds": round(time.perf_counter() - started, 1),
    }
    if told.problems:
        result["kept"] = str(folder)
    else:
        shutil.rmtree(folder)
    if not options.json:
        for name, value in result.items():
            print(f"{name:16} {value}")
    else:
        print(json.dumps(result))
    return 1 if told.problems else 0


if __name__ == "__main__":
    sys.exit(main())
