"""show, stats and verify over real ledgers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_parts import Kill, Make, Open, make_evidence, make_part

from inspector.clock import PushedClock
from inspector.errors import LedgerError
from inspector.frame import Evidence, Reason, Receipt, Settled, Verdict
from inspector.ledger.audit import Filter, Finding, Verification, show, stats, verify
from inspector.ledger.book import Book, Note, Override
from inspector.ledger.pictures import Index, read_index
from inspector.ledger.removed import REMOVED
from inspector.ledger.store import Policy, Store

WALL_NS = 1_700_000_000_000_000_000


def kinds(found: Verification) -> list[str]:
    """Kinds of the findings that make the audit fail."""
    return [finding.kind for finding in found.findings if not finding.known]


def fill(book: Book, count: int, part: Make) -> None:
    for number in range(1, count + 1):
        book.mark_opened(number)
    book.write([part(book.epoch, number) for number in range(1, count + 1)])
    book.write([Receipt(book.epoch, number, 5) for number in range(1, count + 1)])


def tamper(path: Path, *statements: str) -> None:
    with apsw.Connection(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_whole_ledger_is_ok(open_book: Open, path: Path, part: Make, kill: Kill) -> None:
    """opened = answers = receipts over orderly ends, kills and restarts: nothing to report."""
    book = open_book()
    fill(book, 10, part)
    kill(book)
    book = open_book()
    book.recover(0)
    fill(book, 5, part)
    book.close()
    found = verify(path)
    assert (found.ok, found.findings) == (True, ())
    assert [(each.epoch, each.opened, each.answers, each.receipts, each.closed) for each in found.epochs] == [
        (1, 10, 10, 10, False),
        (2, 5, 5, 5, True),
    ]
    assert found.rows == 18


def test_a_running_daemons_ledger_is_ok_too(open_book: Open, path: Path, part: Make) -> None:
    """Numbers on their way are no gap while the daemon holds the ledger; they are once it is dead."""
    book = open_book()
    fill(book, 3, part)
    book.mark_opened(4)
    book.mark_opened(5)
    found = verify(path)
    assert found.ok
    assert [(each.kind, each.first, each.last) for each in found.findings] == [("in flight", 4, 5)]
    book._release()
    assert kinds(verify(path)) == ["gap"]


@pytest.mark.parametrize("column", ["part_id", "verdict", "score", "taken_ns", "engine", "defects", "hash", "truth"])
def test_any_changed_cell_breaks_the_chain_in_one_place(open_book: Open, path: Path, part: Make, column: str) -> None:
    """Each cell is under the hash; one change is one finding, at its row."""
    book = open_book()
    fill(book, 10, part)
    book.close()
    value = "zeroblob(32)" if column == "hash" else "1" if column.endswith("_ns") or column == "truth" else "'0.75'"
    tamper(path, f"UPDATE answers SET {column} = {value} WHERE sequence = 5")
    found = verify(path)
    rows = [finding.text.split(":")[0] for finding in found.findings]
    assert kinds(found) == ["chain"] * len(rows)
    assert rows == (["row 6", "row 7"] if column == "hash" else ["row 6"])


@pytest.mark.parametrize("table", ["epochs", "events", "overrides"])
def test_the_other_tables_are_in_the_chain_as_well(open_book: Open, path: Path, part: Make, table: str) -> None:
    """History, epochs and overrides cannot be edited unseen either."""
    book = open_book()
    fill(book, 3, part)
    book.write([Note(1, "reload", "limits"), Override(1, 2, Reason.UNRECORDED, 7)])
    book.close()
    column = {"epochs": "version", "events": "text", "overrides": "detail"}[table]
    tamper(path, f"UPDATE {table} SET {column} = 'edited' WHERE link = (SELECT min(link) FROM {table})")
    assert kinds(verify(path)) == ["chain"]


def test_a_removed_row_is_a_break_and_a_gap(open_book: Open, path: Path, part: Make) -> None:
    """Removing an answer shows in the chain, in the numbers and in its stray receipt."""
    book = open_book()
    fill(book, 10, part)
    book.close()
    tamper(path, "DELETE FROM answers WHERE sequence = 5")
    assert kinds(verify(path)) == ["chain", "receipt", "gap"]


def test_rows_cut_off_at_the_end_are_noticed(open_book: Open, path: Path, part: Make) -> None:
    """The chain of what is left is whole; the mark of the last committed row is not fooled."""
    book = open_book()
    fill(book, 10, part)
    book.close()
    tamper(path, "DELETE FROM events", "DELETE FROM answers WHERE sequence > 8", "DELETE FROM receipts")
    found = verify(path)
    assert kinds(found) == ["truncated", "gap"]
    assert found.findings[0].count == 3


def test_a_dropped_unique_and_a_second_row_are_found(open_book: Open, path: Path, part: Make) -> None:
    """Two rows for one number need the UNIQUE gone: both are reported."""
    book = open_book()
    fill(book, 3, part)
    book.close()
    tamper(
        path,
        "CREATE TABLE copy AS SELECT * FROM answers",
        "DROP TABLE answers",
        "ALTER TABLE copy RENAME TO answers",
        "INSERT INTO answers SELECT 99, epoch, sequence, part_id, frame_id, verdict, reason, review, score, taken_ns, "
        "due_ns, settled_ns, wall_ns, engine, calibration, settings, stages, defects, rules, detail, truth, hash "
        "FROM answers WHERE sequence = 2",
    )
    assert {"schema", "duplicate", "chain"} <= set(kinds(verify(path)))


def test_silence_of_the_controller_is_reported_and_an_error_only_when_strict(
    open_book: Open, path: Path, part: Make
) -> None:
    """An answer without an acknowledgement may have arrived: it is counted, and an error for those who ask."""
    book = open_book()
    book.mark_opened(1)
    book.write([part(1, 1)])
    book.close()
    found = verify(path)
    assert found.ok
    assert [(each.kind, each.count) for each in found.findings] == [("unacknowledged", 1)]
    assert not verify(path, strict=True).ok


def test_a_noted_gap_is_reported_and_known(open_book: Open, path: Path, part: Make) -> None:
    """What the ledger accounts for is shown and does not fail the audit for ever."""
    book = open_book()
    for number in range(1, 5):
        book.mark_opened(number)
    book.write([part(1, 1), part(1, 4), Note(1, "gap", "displaced", epoch=1, first=2, last=2)])
    book.close()
    found = verify(path)
    assert [(each.kind, each.first, each.last, each.known) for each in found.findings[:2]] == [
        ("gap", 2, 2, True),
        ("gap", 3, 3, False),
    ]
    assert found.epochs[0].noted == 1


def test_strays_of_a_noted_gap_are_known(open_book: Open, path: Path, part: Make) -> None:
    """The answer was displaced, its receipt and its override were not: told, and no error for ever."""
    book = open_book()
    for number in range(1, 7):
        book.mark_opened(number)
    book.write([part(1, 1), part(1, 6), Note(1, "gap", "displaced", epoch=1, first=2, last=5)])
    book.write([Receipt(1, number, 9) for number in (1, 2, 3, 5)])
    book.write([Override(1, 4, Reason.UNRECORDED, 8), Override(1, 6, Reason.UNRECORDED, 8)])
    book.close()
    found = verify(path)
    assert found.ok
    strays = [
        (each.kind, each.first, each.last, each.count) for each in found.findings if "without an answer" in each.text
    ]
    assert strays == [("receipt", 2, 5, 3), ("override", 4, 4, 1)]
    assert "a gap event accounts for them" in found.findings[0].text
    assert [each.count for each in found.findings if each.kind == "unacknowledged"] == [1]
    assert not verify(path, strict=True).ok


def test_strays_outside_the_gap_stay_errors(open_book: Open, path: Path, part: Make) -> None:
    """Those inside it, and another epoch's gap, excuse nothing."""
    book = open_book()
    for number in range(1, 7):
        book.mark_opened(number)
    book.write([part(1, 1), part(1, 6), Note(1, "gap", "x", epoch=1, first=2, last=3)])
    book.write([Note(1, "gap", "x", epoch=7, first=4, last=5)])
    book.write([*(Receipt(1, number, 9) for number in range(2, 6)), Override(1, 5, Reason.UNRECORDED, 8)])
    book.close()
    found = [each for each in verify(path).findings if "without an answer" in each.text]
    assert [(each.kind, each.known, each.first, each.last, each.count) for each in found] == [
        ("receipt", True, 2, 3, 2),
        ("receipt", False, 4, 5, 2),
        ("override", False, 5, 5, 1),
    ]


def test_strays_of_rows_that_left_by_age_are_known(open_book: Open, path: Path, part: Make) -> None:
    """As the event of the removal says."""
    book = open_book()
    book.mark_opened(4)
    book.write([part(1, 3), Note(1, REMOVED, "", epoch=1, first=1, last=2), Receipt(1, 2, 9), Receipt(1, 4, 9)])
    book.close()
    found = [each for each in verify(path).findings if each.kind == "receipt"]
    assert [(each.known, each.first, each.last) for each in found] == [(True, 2, 2), (False, 4, 4)]
    assert "left by age" in found[0].text


def _is_range(each: tuple[int, int]) -> bool:
    return each[1] == 0 or each[0] <= each[1]


@given(
    noted=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)).filter(_is_range), max_size=3),
    strays=st.sets(st.integers(1, 12)),
)
@settings(max_examples=30, deadline=None)
def test_a_stray_is_an_error_exactly_where_no_event_accounts_for_it(
    noted: list[tuple[int, int]], strays: set[int]
) -> None:
    """Number by number; last = 0 means all above."""
    with tempfile.TemporaryDirectory() as folder:
        book = Book(Path(folder) / "ledger.db", clock=PushedClock(), ballast_bytes=0)
        book.open()
        book.write([*(Note(1, "gap", "x", 1, *each) for each in noted), *(Receipt(1, each, 9) for each in strays)])
        book.close()
        found = [each for each in verify(book.path).findings if each.kind == "receipt"]
    covered = {each for each in strays if any(first <= each <= (last or 12) for first, last in noted)}
    assert sum(each.count for each in found if each.known) == len(covered)
    assert sum(each.count for each in found if not each.known) == len(strays - covered)


def test_garbage_and_nothing_are_one_line(tmp_path: Path) -> None:
    """A missing, empty or foreign file is a LedgerError, not a trace."""
    for name, data in (("none.db", None), ("empty.db", b""), ("garbage.db", b"garbage" * 1000)):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(LedgerError) as caught:
            verify(tmp_path / name)
        assert "\n" not in str(caught.value)


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(open_book: Open, tmp_path: Path, clock: PushedClock) -> Callable[[], tuple[Path, Path]]:
    def made() -> tuple[Path, Path]:
        book = open_book()
        policy = Policy(save=frozenset(Verdict), every_pass=1)
        store = Store(tmp_path / "store", policy=policy, quota_bytes=None, keep_days=9, clock=clock, min_free_bytes=0)
        store.open()
        for number in range(1, 6):
            book.mark_opened(number)
            one = make_part(1, number, evidence=make_evidence(number))
            book.write([one, Receipt(1, number, 5)])
            store.offer(one)
        store.close()
        book.close()
        return book.path, store.root

    return made


def test_images_ledger_and_index_agree(stored: Callable[[], tuple[Path, Path]]) -> None:
    """An untouched store has no findings, also when every file is read."""
    path, root = stored()
    found = verify(path, root, deep=True)
    assert (found.ok, found.findings, found.pictures) == (True, (), 5)


def test_a_missing_and_a_changed_image_are_found(stored: Callable[[], tuple[Path, Path]]) -> None:
    """A file that is gone or cut shows at once; one changed in place shows when files are read."""
    path, root = stored()
    images = sorted((root / "images").rglob("*.png"))
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:-1])
    data = bytearray(images[2].read_bytes())
    data[100] ^= 1
    images[2].write_bytes(data)
    assert kinds(verify(path, root)) == ["missing image", "changed image"]
    assert kinds(verify(path, root, deep=True)) == ["missing image", "changed image", "changed image"]


def test_orphans_are_quarantined_when_asked_and_never_deleted(stored: Callable[[], tuple[Path, Path]]) -> None:
    """A file of no part, and files of a part the ledger does not have, are moved with their content; then all is ok."""
    path, root = stored()
    orphan = root / "images" / "2023-11-14" / "somebody.png"
    orphan.write_bytes(b"mine")
    (row, *_) = read_index(root)
    tamper(path, "CREATE TABLE kept AS SELECT * FROM answers WHERE sequence = 1")
    tamper(path, "DELETE FROM answers WHERE sequence = 1", "DELETE FROM receipts WHERE sequence = 1")
    assert kinds(verify(path, root)).count("orphan") == 2
    assert orphan.exists()
    verify(path, root, quarantine=True)
    assert (root / "quarantine" / "images" / "2023-11-14" / "somebody.png").read_bytes() == b"mine"
    assert all((root / "quarantine" / name).is_file() for name in row.names)
    assert "orphan" not in kinds(verify(path, root))
    orphan.write_bytes(b"mine, too")
    verify(path, root, quarantine=True)
    assert sorted(p.read_bytes() for p in (root / "quarantine").rglob("somebody*")) == [b"mine", b"mine, too"]


def test_images_being_written_are_not_orphans(stored: Callable[[], tuple[Path, Path]]) -> None:
    """The index names a file before it appears, so a running store never looks broken."""
    path, root = stored()
    index = Index(root)
    index.set_state(read_index(root)[:2], 0)
    index.close()
    assert verify(path, root).ok


# -- figures -----------------------------------------------------------------------------------------------------------


def test_show_filters_by_time_verdict_part_and_number(open_book: Open, path: Path, part: Make) -> None:
    """Newest first, within the limits, by what was sent."""
    book = open_book()
    verdicts = (Verdict.PASS, Verdict.FAIL, Verdict.PASS, Verdict.INVALID)
    for number, verdict in enumerate(verdicts, start=1):
        book.write([part(1, number, verdict, wall_ns=WALL_NS + number)])
    book.write([Override(1, 3, Reason.UNRECORDED, 9), Receipt(1, 2, 55)])

    def found(**wanted: object) -> list[int]:
        return [record.sent.sequence for record in show(path, Filter(**wanted))]  # type: ignore[arg-type]

    assert found() == [4, 3, 2, 1]
    assert found(verdict=Verdict.PASS) == [1]
    assert found(verdict=Verdict.INVALID) == [4, 3]
    assert found(reason=Reason.UNRECORDED) == [3]
    assert found(part_id="part-2") == [2]
    assert found(since_ns=WALL_NS + 2, until_ns=WALL_NS + 4) == [3, 2]
    assert found(epoch=1, sequence=4) == [4]
    assert found(epoch=2) == []
    assert len(show(path, limit=2)) == 2
    (record,) = show(path, Filter(sequence=2))
    assert record.received_ns == 55
    (record,) = show(path, Filter(sequence=3))
    assert (record.settled.answer.verdict, record.sent.verdict) == (Verdict.PASS, Verdict.INVALID)


def test_a_part_id_is_a_value_and_never_sql(open_book: Open, path: Path, part: Make) -> None:
    """Names come from outside."""
    book = open_book()
    name = "x' OR 1=1; DROP TABLE answers; --"
    book.write([part(1, 1, part_id=name), part(1, 2)])
    assert [record.sent.part_id for record in show(path, Filter(part_id=name))] == [name]


def test_stats_are_what_the_rows_say(open_book: Open, path: Path, part: Make) -> None:
    """Yield by a part's last answer, FPY by its first, Pareto over FAIL, percentiles without RESTARTED."""
    book = open_book()
    answers = [("a", Verdict.FAIL), ("a", Verdict.PASS), ("b", Verdict.PASS), ("", Verdict.PASS), ("", Verdict.FAIL)]
    book.write([part(1, n, verdict, part_id=name) for n, (name, verdict) in enumerate(answers, start=1)])
    restarted = part(1, 6, Verdict.INVALID, reason=Reason.RESTARTED, part_id="c").answer
    book.write([Settled(replace(restarted, settled_ns=restarted.taken_ns + 1_000_000_000)), Receipt(1, 1, 9)])
    found = stats(path)
    assert (found.answers, found.passed, found.failed, found.invalid) == (6, 3, 2, 1)
    assert found.reasons == {"RESTARTED": 1}
    assert (found.parts, found.yield_, found.fpy) == (5, 3 / 5, 2 / 5)
    assert found.acknowledged == 1
    assert found.latency_ms == {"p50": 20.0, "p99": 20.0, "p999": 20.0, "max": 20.0}
    (line,) = found.pareto
    assert (line.shape, line.zone, line.defects, line.parts, line.share, line.cumulated) == ("strip", "bar", 2, 2, 1, 1)


def test_an_override_counts_as_what_was_sent(open_book: Open, path: Path, part: Make) -> None:
    """A stored PASS that went out as INVALID is no yield, and a stored FAIL that did is not in the Pareto."""
    book = open_book()
    book.write([part(1, 1), part(1, 2, Verdict.FAIL)])
    book.write([Override(1, 1, Reason.UNRECORDED, 9), Override(1, 2, Reason.UNRECORDED, 9)])
    found = stats(path)
    assert (found.passed, found.invalid, found.yield_, found.overridden, found.pareto) == (0, 2, 0.0, 2, ())


def test_stats_of_nothing_divide_by_nothing(open_book: Open, path: Path) -> None:
    """An empty ledger has no yield, not a yield of 0 or 1."""
    open_book()
    found = stats(path)
    assert (found.answers, found.yield_, found.fpy, found.pareto) == (0, None, None, ())
    assert found.latency_ms["p50"] is None
    assert Finding("gap", "x").known is False
    assert Evidence().image is None
