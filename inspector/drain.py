"""Ends a line in order: no new parts, every open one answered, rows written, then the threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from inspector.clock import Clock, sleep_s
from inspector.conditions import Conditions
from inspector.crew import Crew
from inspector.errors import LedgerError
from inspector.frame import State
from inspector.journal import Log
from inspector.rooms import MS, Rooms


def drain(rooms: Rooms, *, crew: Crew, conditions: Conditions, clock: Clock, gate_ns: int, log: Log) -> None:
    """Decide what can still be decided in time; the rest is STOPPED; then close, answers first."""

    def wait_until(done: Callable[[], bool], patience_ns: int) -> None:
        give_up_ns = clock.now_ns() + patience_ns
        while not done() and clock.now_ns() < give_up_ns:
            sleep_s(0.002)

    def end(*names: str) -> bool:
        stuck = [name for name in names if not crew.end(name)]
        for name in stuck:
            log.error("stage did not end", stage=name)
        return not stuck

    line, link, book, docket = rooms.line, rooms.link, rooms.book, rooms.line.docket
    conditions.enter(State.HALTED)
    link.set_state(State.HALTED)  # whoever announces parts must know before the last one is taken
    end("acquire")
    wait_until(lambda: docket.undecided == 0, min(gate_ns, 1000 * MS))
    line.stop()
    if crew.runs("answer"):
        wait_until(lambda: docket.unanswered == 0, 500 * MS)
        docket.hurry(clock.now_ns())  # a ledger that is stuck holds no answer back
        link.wake()
        wait_until(lambda: docket.unanswered == 0, 100 * MS)
        wait_until(lambda: link.unacknowledged == 0 or not link.statistics().connected, 300 * MS)
    wait_until(lambda: line.rows.statistics().waiting == 0, 200 * MS)
    end("inspect", "answer")
    booked = end("book")
    end("sync")
    line.hand_over()
    end("store", "show", "tell")
    if any(condition.name == "ledger" for condition in conditions.present()):
        book.ballast.release()
    if not booked:  # it hangs in the disk, and whoever writes now would hang beside it
        log.error("rows not written: the disk does not answer", rows=len(line.unwritten()))
        return
    with contextlib.suppress(LedgerError):
        book.write(line.unwritten())  # receipts of the last answers
