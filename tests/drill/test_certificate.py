"""The certificate: each promise that is broken is told, and told in the row of its fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from inspector.clock import SystemClock
from inspector.drill.certificate import Played, certify
from inspector.drill.disk import Filler, mount_small_disk, shrink_log, unmount
from inspector.drill.report import render
from inspector.drill.scenes import SCENES
from inspector.drill.testbed import Testbed
from inspector.errors import LedgerFullError
from inspector.frame import Answer, Reason, Settled, Verdict
from inspector.ledger.book import Book
from inspector.link.listen import Arrival, ListenStatistics
from tests.ledger.ledger_parts import make_part as part

HANG = next(scene for scene in SCENES if scene.name == "engine hang")


class Bench:
    """What ``certify`` asks of a test bench: 20 parts, all heard, number 7 answered LATE."""

    def __init__(self, folder: Path, conflicts: int = 0, orderly: bool = True) -> None:
        self.folder, self.state, self.expected = folder, folder / "state", [Verdict.PASS]
        self.state.mkdir()
        book = Book(self.state / "ledger.db", clock=SystemClock(), ballast_bytes=0)
        book.open()
        answers = [self._answer(book.epoch, number) for number in range(1, 21)]
        for answer in answers:
            book.mark_opened(answer.sequence)
        book.write([Settled(answer) for answer in answers])
        if orderly:
            book.close()
        else:
            book._release()
        self.arrivals = [Arrival(answer, 1000, answer.due_ns - 1_000_000) for answer in answers]
        self.frames = {(one.epoch, one.frame_id): ("FRAME", 0) for one in answers}
        self.controller = SimpleNamespace(statistics=lambda: ListenStatistics(conflicts=conflicts))

    @staticmethod
    def _answer(epoch: int, number: int) -> Answer:
        answer = replace(part(epoch, number).answer, verdict=Verdict.PASS, reason=None, frame_id=number)
        answer = replace(answer, taken_ns=number * 10**9, due_ns=number * 10**9 + 10**8)
        return replace(answer, verdict=Verdict.INVALID, reason=Reason.LATE) if number == 7 else answer

    def shots(self) -> dict[tuple[int, int], tuple[str, int]]:
        return self.frames

    def certify(self) -> Any:
        about = {"began": "", "seconds": 20.0, "rounds": 1, "rate_hz": 1.0, "gate_ms": 110.0, "engine": {}}
        about |= {"machine": "m", "cores": 2, "load_1min": 0.0, "system": "s", "version": "v"}
        return certify(cast(Testbed, self), [Played(HANG, 5, 15)], about)


def test_a_clean_run_has_no_violation(tmp_path: Path) -> None:
    """All counts agree, and the fault's row holds its parts."""
    certificate = Bench(tmp_path).certify()
    assert certificate.ok and certificate.figures["parts"] == certificate.figures["answered"] == 20
    (row,) = certificate.figures["faults"]
    assert (row["parts"], row["answered"], row["late"], row["invalid"]) == (10, 10, 1, {"LATE": 1})
    assert "No violation" in render(certificate)


def test_a_part_that_the_controller_never_heard_of_is_told_with_its_fault(tmp_path: Path) -> None:
    """It stands in the ledger, and still it is unanswered."""
    bench = Bench(tmp_path)
    del bench.arrivals[8]
    certificate = bench.certify()
    assert certificate.figures["unanswered"] == 1 and any(
        "1-9 never reached" in line for line in certificate.violations
    )
    assert certificate.figures["faults"][0]["unanswered"] == 1
    assert "never reached" in render(certificate)


def test_what_a_kill_cut_off_is_no_lie_and_counted(tmp_path: Path) -> None:
    """Decided, recorded, and its run was killed: the answer may not change, and silence is a reject."""
    bench = Bench(tmp_path, orderly=False)
    del bench.arrivals[19]
    certificate = bench.certify()
    assert certificate.ok and (certificate.figures["unanswered"], certificate.figures["cut_off"]) == (0, 1)


@pytest.mark.parametrize("frame", [("MISSED", -1), ("INCOMPLETE", 0), None])
def test_a_pass_without_a_whole_frame_is_false(tmp_path: Path, frame: tuple[str, int] | None) -> None:
    """Whatever the answer says, the frame's own record decides."""
    bench = Bench(tmp_path)
    bench.frames |= {(1, 10): frame} if frame else {}
    bench.frames = bench.frames if frame else {key: value for key, value in bench.frames.items() if key != (1, 10)}
    certificate = bench.certify()
    assert certificate.figures["false_pass"] == 1 and certificate.figures["faults"][0]["false_pass"] == 1


def test_a_pass_of_a_picture_that_fails_is_false(tmp_path: Path) -> None:
    """Frames and verdicts must not be mixed up."""
    bench = Bench(tmp_path)
    bench.expected = [Verdict.FAIL]
    assert bench.certify().figures["false_pass"] == 19


def test_conflicts_late_answers_and_gaps_are_told(tmp_path: Path) -> None:
    """Two contents under one number; an answer past its time; a fault that nobody felt."""
    bench = Bench(tmp_path, conflicts=1)
    late = bench.arrivals[11]
    bench.arrivals[11] = replace(late, arrived_ns=late.answer.due_ns + 30_000_000)
    bench.arrivals[6] = replace(bench.arrivals[6], answer=replace(bench.arrivals[6].answer, reason=Reason.BAD_IMAGE))
    certificate = bench.certify()
    told = "\n".join(certificate.violations)
    assert "different content" in told and "engine hang: was not felt" in told
    missed = [bar["what"] for bar in certificate.figures["bars"] if not bar["met"]]
    assert any("max ms" in what for what in missed) and any("different content" in what for what in missed)


def test_a_full_disk_is_felt_at_the_next_row(tmp_path: Path) -> None:
    """The log is cut down first; otherwise rows fit into the room it once had, and the scene would prove nothing."""
    if not mount_small_disk(tmp_path / "small", size_mb=24):
        pytest.skip("a small disk cannot be mounted here")
    book, filler = (
        Book(tmp_path / "small" / "ledger.db", clock=SystemClock(), ballast_bytes=0),
        Filler(tmp_path / "small"),
    )
    try:
        book.open()
        book.write([part(book.epoch, number) for number in range(1, 2000)])
        assert shrink_log(book.path) == 0
        filler.leave(0)
        with pytest.raises(LedgerFullError):
            for number in range(2000, 2020):
                book.write([part(book.epoch, number)])
        filler.gone()
        book.write([part(book.epoch, 2020)])
    finally:
        book.close()
        unmount(tmp_path / "small")
