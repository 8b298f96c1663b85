"""The store of reviews: rows are added, never changed, and what is wrong with them is found."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import apsw
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from review_kit import Open, Station, brushed, judge, part

from inspector.clock import PushedClock
from inspector.errors import ConfigError, LedgerError
from inspector.frame import Reason, Verdict
from inspector.ledger.book import Override
from inspector.ledger.schema import CHAINED, link_hash
from inspector.review import masks, rows
from inspector.review.records import Judgement, Opinion, PartKey, Stratum
from inspector.review.store import Where, read_reviews
from inspector.review.verify import verify


def test_a_judgement_comes_back_with_what_the_ledger_says(open_store: Open, station: Station) -> None:
    """Machine verdict, score, hashes and the answer's own hash are the ledger's, not the client's."""
    store = open_store()
    review = judge(store, station.key(2), Opinion.GOOD, note="only dust", took_ms=1800)
    assert (review.link, review.opinion, review.note, review.took_ms) == (1, Opinion.GOOD, "only dust", 1800)
    assert (review.machine_verdict, review.machine_reason, review.machine_score) == (Verdict.FAIL, None, 0.9)
    assert (review.stratum, review.probability, review.part_id) == (Stratum.FAIL, 1.0, "part-2")
    with apsw.Connection(str(station.sources.ledger)) as ledger:
        link = ledger.execute("SELECT link FROM answers WHERE sequence = 2").get
        stored = link_hash(ledger, link)
    assert "answers" in CHAINED and stored is not None and review.answer_hash == stored.hex()
    assert store.reviews() == [review] == read_reviews(station.reviews)
    picture = (station.sources.images / "images/2023-11-14/000001-000000002.png").read_bytes()
    assert hashlib.sha256(picture).hexdigest() == review.picture_sha256
    assert store.blob(review.picture_sha256) == picture


def test_the_same_reviewer_again_is_a_later_row_and_a_second_reviewer_another(
    open_store: Open, station: Station
) -> None:
    """Nothing is replaced; all rows of a part stay, in order."""
    store = open_store()
    told = [("ann", Opinion.GOOD), ("bob", Opinion.DEFECT), ("ann", Opinion.DEFECT)]
    for reviewer, opinion in told:
        judge(store, station.key(1), opinion, reviewer)
    judge(store, station.key(3), Opinion.GOOD)
    found = store.reviews(Where(key=station.key(1)))
    assert [(each.reviewer, each.opinion) for each in found] == told
    assert [each.link for each in store.reviews(Where(after_link=2))] == [3, 4]
    assert [each.link for each in store.reviews(Where(reviewer="bob"))] == [2]


def test_a_part_that_was_replaced_by_invalid_is_judged_as_invalid(open_store: Open, station: Station) -> None:
    """What the controller was told counts, not what was decided too late."""
    station.book.write([Override(1, 8, Reason.UNRECORDED, 9, "too late")])
    review = judge(open_store(), station.key(8), Opinion.GOOD)
    assert (review.machine_verdict, review.machine_reason) == (Verdict.INVALID, Reason.UNRECORDED)
    assert review.stratum is Stratum.INVALID


def test_what_was_not_asked_for_or_not_blind_is_kept_apart(open_store: Open, station: Station) -> None:
    """Parts that a person picked, or judged with the machine's answer in sight, never enter an estimate."""
    store = open_store()
    seen = judge(store, station.key(1), Opinion.DEFECT, blind=False)
    assert (seen.stratum, seen.probability, seen.blind) == (Stratum.PICKED, 0.0, False)
    from dataclasses import replace

    store.plan = replace(station.plan, pass_rate=0.0)
    picked = judge(store, station.key(9), Opinion.DEFECT)
    assert (picked.stratum, picked.probability, picked.blind) == (Stratum.PICKED, 0.0, True)


def test_masks_are_kept_in_one_form_and_refused_in_any_other(open_store: Open, station: Station) -> None:
    """8-bit and 1-bit grey of the picture's size; nothing else, and nothing is kept of what is refused."""
    import cv2

    store = open_store()
    kept = judge(store, station.key(1), Opinion.DEFECT, mask_png=brushed((3, 4, 5, 6)))
    assert kept.mask_sha256 is not None
    mask = cv2.imdecode(np.frombuffer(store.blob(kept.mask_sha256), np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (48, 56) and set(np.unique(mask)) == {0, 255} and int((mask > 0).sum()) == 30
    one_bit = cv2.imencode(".png", (mask > 0).astype(np.uint8), [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()
    assert one_bit[24] == 1, "the codec did not write one bit"
    colour = cv2.imencode(".png", np.zeros((48, 56, 3), np.uint8))[1].tobytes()
    for bad in (
        brushed(width=55),
        colour,
        b"",
        b"GIF89a" * 9,
        brushed((1, 1, 2, 2))[:-20],
        b"\x89PNG" + bytes(3 << 20),
    ):
        with pytest.raises(ConfigError, match="mask"):
            judge(store, station.key(1), Opinion.DEFECT, mask_png=bad)
    same = judge(store, station.key(1), Opinion.DEFECT, mask_png=one_bit)
    assert same.mask_sha256 is not None
    assert len(store.reviews()) == 2


def test_a_browsers_canvas_becomes_a_mask() -> None:
    """Painted is where the canvas is more than half opaque, whatever the colour; anything else is refused."""
    import cv2

    canvas = np.zeros((5, 7, 4), np.uint8)
    canvas[1, 2], canvas[3, 4], canvas[4, 4] = (0, 0, 255, 255), (255, 0, 0, 128), (255, 255, 255, 127)
    png = cv2.imencode(".png", canvas)[1].tobytes()
    made = masks.from_canvas(png, (7, 5))
    assert np.argwhere(masks.read(made, (7, 5))).tolist() == [[1, 2], [3, 4]]
    assert masks.checked(made, (7, 5)) == made
    for bad, size in ((png, (5, 7)), (made, (7, 5)), (png[:-30], (7, 5)), (b"", (7, 5))):
        with pytest.raises(ConfigError, match="mask"):
            masks.from_canvas(bad, size)


def test_a_mask_that_claims_to_be_huge_is_refused_unopened() -> None:
    """The header is read before anything is unpacked."""
    png = bytearray(brushed((1, 1, 2, 2)))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ConfigError, match="60000 x 60000"):
        masks.checked(bytes(png), (56, 48))


@pytest.mark.parametrize(
    "wrong",
    [
        {"reviewer": ""},
        {"reviewer": "a" * 65},
        {"reviewer": "ann\n"},
        {"reviewer": "<b>"},
        {"note": "x" * 2001},
        {"note": "a\0b"},
        {"took_ms": -1},
        {"picture_sha256": "0" * 64},
    ],
)
def test_a_wrong_judgement_is_refused_whole(open_store: Open, station: Station, wrong: dict[str, object]) -> None:
    """Names, notes, times and the picture are checked before anything is written."""
    store = open_store()
    told = {"picture_sha256": store.picture(station.key(1)).sha256, "reviewer": "ann", "opinion": Opinion.GOOD} | wrong
    if wrong == {"reviewer": "ann\n"}:
        assert store.add(Judgement(station.key(1), **told)).reviewer == "ann"  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError):
        store.add(Judgement(station.key(1), **told))  # type: ignore[arg-type]
    assert store.reviews() == []


def test_parts_that_are_not_there_are_refused(open_store: Open, station: Station) -> None:
    """No row without an answer in this station's ledger and a picture."""
    store = open_store()
    station.add([part(13, picture=False)])
    for key in (PartKey("test", 1, 99), PartKey("other", 1, 1), station.key(13)):
        with pytest.raises(LedgerError):
            judge(store, key, Opinion.GOOD)


def test_a_picture_outlives_the_image_store(open_store: Open, station: Station) -> None:
    """Once judged, picture and machine mask are kept with the review: a second reviewer sees the same."""
    store = open_store()
    before = store.picture(station.key(1))
    judge(store, station.key(1), Opinion.DEFECT)
    for path in station.sources.images.rglob("*.png"):
        path.unlink()
    assert store.picture(station.key(1)) == before
    judge(store, station.key(1), Opinion.GOOD, "bob")
    with pytest.raises(LedgerError, match="no picture"):
        store.picture(station.key(2))


def test_one_process_writes_any_number_read(open_store: Open, station: Station, clock: PushedClock) -> None:
    """A second writer is refused; threads of the one may add at once."""
    store = open_store()
    with pytest.raises(LedgerError, match="in use"):
        open_store()
    threads = [
        threading.Thread(target=judge, args=(store, station.key(n), Opinion.GOOD, f"r{n}")) for n in range(1, 13)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.link for each in read_reviews(station.reviews)] == list(range(1, 13))
    assert verify(station.reviews, station.sources.ledger).ok


def test_rows_cannot_be_changed_through_sql(open_store: Open, station: Station) -> None:
    """The file itself refuses UPDATE and DELETE."""
    judge(open_store(), station.key(1), Opinion.GOOD)
    with apsw.Connection(str(station.reviews)) as other:
        for statement in (
            "UPDATE reviews SET opinion = 'defect'",
            "DELETE FROM reviews",
            "UPDATE blobs SET bytes = x'00'",
            "DELETE FROM blobs",
        ):
            with pytest.raises(apsw.ConstraintError, match="never changed"):
                other.execute(statement)


def _filled(open_store: Open, station: Station) -> None:
    store = open_store()
    for sequence in range(1, 7):
        judge(store, station.key(sequence), Opinion.DEFECT, mask_png=brushed((sequence, 1, 3, 3)), note="n")
    store.close()


def _tamper(path: Path, statement: str, values: tuple[object, ...] = ()) -> None:
    """What somebody with the file and time can do: drop the triggers, change, put them back."""
    with apsw.Connection(str(path)) as other:
        triggers = list(other.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"))
        for name, _ in triggers:
            other.execute(f"DROP TRIGGER {name}")
        other.execute(statement, values)
        for _, sql in triggers:
            other.execute(sql)


@pytest.mark.parametrize("column", [*rows.COLUMNS, "hash"])
def test_any_changed_cell_is_found(open_store: Open, station: Station, column: str) -> None:
    """Whatever cell of whatever row."""
    _filled(open_store, station)
    assert verify(station.reviews, station.sources.ledger).ok
    number = column in {"link", "epoch", "sequence", "part_wall_ns", "decided_at_ns", "took_ms", "blind", "truth"}
    value: object = 77 if number else 0.123 if column in {"machine_score", "probability"} else "other"
    value = bytes(32) if column == "hash" else value
    _tamper(station.reviews, f"UPDATE reviews SET {column} = ? WHERE link = 4", (value,))
    found = verify(station.reviews)
    assert not found.ok and any(each.kind == "chain" for each in found.findings)


@pytest.mark.parametrize("link", [1, 3, 6])
def test_a_missing_row_is_found_the_last_one_too(open_store: Open, station: Station, link: int) -> None:
    """The chain shows a hole; the mark beside the file shows a cut end, and the store refuses to go on."""
    _filled(open_store, station)
    _tamper(station.reviews, "DELETE FROM reviews WHERE link = ?", (link,))
    found = verify(station.reviews)
    assert not found.ok
    assert {each.kind for each in found.findings} == ({"truncated"} if link == 6 else {"chain"})
    if link == 6:
        with pytest.raises(LedgerError, match="cut off"):
            open_store()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_changed_byte_of_the_file_is_found_or_without_meaning(
    open_store: Open, station: Station, tmp_path: Path, share: float, bit: int
) -> None:
    """A flipped bit anywhere is a finding, an unreadable file, or every row and picture is still as it was."""
    if not station.reviews.exists():
        _filled(open_store, station)
    data = bytearray(station.reviews.read_bytes())
    assert data.count(b"part-") == 6, "the rows are not in the file yet"
    data[int(share * len(data))] ^= 1 << bit
    copy = tmp_path / "copy.db"
    for suffix in ("-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    copy.write_bytes(data)
    copy.with_name("copy.db.marks").write_bytes(station.reviews.with_name("reviews.db.marks").read_bytes())
    try:
        if not verify(copy).ok:
            return
    except LedgerError:
        return
    assert read_reviews(copy) == read_reviews(station.reviews)
    contents = []
    for path in (copy, station.reviews):
        with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as one:
            contents.append(sorted(one.execute("SELECT sha256, bytes FROM blobs")))
    assert contents[0] == contents[1]


def test_a_changed_or_missing_picture_is_found(open_store: Open, station: Station) -> None:
    """The picture that was judged is part of the evidence."""
    _filled(open_store, station)
    first = read_reviews(station.reviews)[0]
    _tamper(station.reviews, "UPDATE blobs SET bytes = x'00' WHERE sha256 = ?", (first.picture_sha256,))
    assert [each.kind for each in verify(station.reviews).findings] == ["blob"]
    _tamper(station.reviews, "DELETE FROM blobs WHERE sha256 = ?", (first.mask_sha256,))
    assert len(verify(station.reviews).findings) == 2


def test_a_dropped_trigger_is_found(open_store: Open, station: Station) -> None:
    """A file that would take changes is no evidence."""
    _filled(open_store, station)
    with apsw.Connection(str(station.reviews)) as other:
        other.execute("DROP TRIGGER reviews_no_update")
    assert [each.kind for each in verify(station.reviews).findings] == ["schema"]


def test_an_answer_that_is_no_longer_the_judged_one_is_found(open_store: Open, station: Station) -> None:
    """Review and ledger are joined by the answer's own hash."""
    _filled(open_store, station)
    station.book.close()
    with apsw.Connection(str(station.sources.ledger)) as other:
        other.execute("UPDATE answers SET hash = x'00' WHERE sequence = 2")
        other.execute("DELETE FROM answers WHERE sequence = 3")
    assert verify(station.reviews).ok
    found = verify(station.reviews, station.sources.ledger)
    assert [each.kind for each in found.findings] == ["answer", "answer"]


def test_reading_where_nothing_was_judged_yet(tmp_path: Path) -> None:
    """No file is no reviews; a file that is none of ours is refused."""
    assert read_reviews(tmp_path / "none.db") == []
    (tmp_path / "other.db").write_bytes(b"no database" * 100)
    with pytest.raises(LedgerError):
        read_reviews(tmp_path / "other.db")
    with pytest.raises(LedgerError):
        verify(tmp_path / "none.db")
