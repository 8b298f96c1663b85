"""Records to rows and back."""

from __future__ import annotations

import math
from dataclasses import replace

import apsw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_parts import make_part

from inspector.frame import Answer, Defect, Hashes, Reason, Settled, Shape, Verdict
from inspector.ledger import schema
from inspector.ledger.rows import (
    ANSWER_COLUMNS,
    GENESIS,
    Note,
    Override,
    answer_cells,
    answer_of,
    chain,
    note_cells,
    overridden,
    override_cells,
    picture_name,
    settled_of,
)

whole = st.integers(-(1 << 63), (1 << 63) - 1)
real = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
defects = st.builds(
    Defect,
    *[real] * 5,
    box=st.tuples(*[st.integers(-1000, 1000)] * 4),
    score_mean=real,
    score_max=real,
    shape=st.sampled_from(Shape),
    zone=text,
    area_mm2=st.none() | real,
    length_mm=st.none() | real,
    width_mm=st.none() | real,
    counts=st.booleans(),
)
answers = st.builds(
    Answer,
    epoch=st.integers(0, (1 << 63) - 1),
    sequence=st.integers(0, (1 << 63) - 1),
    part_id=text,
    frame_id=whole,
    verdict=st.just(Verdict.PASS),
    reason=st.none(),
    review=st.booleans(),
    rules=st.lists(text, max_size=3).map(tuple),
    defects=st.lists(defects, max_size=3).map(tuple),
    score=real,
    taken_ns=whole,
    due_ns=whole,
    settled_ns=whole,
    wall_ns=whole,
    hashes=st.builds(Hashes, text, text, text),
    stages_us=st.lists(st.tuples(text, whole), max_size=4).map(tuple),
    detail=text,
)
verdicts = st.one_of(
    st.tuples(st.sampled_from([Verdict.PASS, Verdict.FAIL]), st.none()),
    st.tuples(st.just(Verdict.INVALID), st.sampled_from(Reason)),
)


@pytest.fixture(scope="module")
def table() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.execute(schema.ANSWERS)
    return connection


@settings(max_examples=300, deadline=None)
@given(answer=answers, verdict=verdicts, truth=st.none() | st.booleans())
def test_an_answer_comes_back_from_sqlite_as_it_was(
    table: apsw.Connection, answer: Answer, verdict: tuple[Verdict, Reason | None], truth: bool | None
) -> None:
    """Answer -> row -> SQLite -> row -> Answer is the identity, and the row's hash can be computed again."""
    settled = Settled(replace(answer, verdict=verdict[0], reason=verdict[1]), truth=truth)
    cells = answer_cells(1, settled)
    table.execute("DELETE FROM answers")
    table.execute(schema.insert("answers", ANSWER_COLUMNS), (*cells, chain(GENESIS, cells)))
    *back, stored = table.execute("SELECT * FROM answers").fetchone()
    assert settled_of(tuple(back)) == settled
    assert chain(GENESIS, tuple(back)) == stored


@given(answer=answers)
def test_numbers_keep_their_kind(answer: Answer) -> None:
    """A resent answer has the same bytes on the wire: 12 stays 12 and 12.0 stays 12.0."""
    back = answer_of(answer_cells(1, Settled(answer)))
    assert [repr(defect) for defect in back.defects] == [repr(defect) for defect in answer.defects]


def test_numpy_numbers_are_stored_as_pythons_own() -> None:
    """A numpy scalar must neither stop the batch nor change the hash."""
    plain = make_part(1, 2, Verdict.FAIL)
    defect = plain.answer.defects[0]._replace(
        area_px=np.float32(12.5),
        box=tuple(np.array([10, 20, 7, 3])),
        counts=np.bool_(True),
    )
    answer = replace(plain.answer, score=np.float32(0.25), frame_id=np.int64(2), defects=(defect,))
    assert ascii(answer_cells(1, Settled(answer))) == ascii(answer_cells(1, plain))


@pytest.mark.parametrize("bad", ["caf\udce9", "\ud800"])
def test_text_that_is_no_unicode_does_not_stop_a_batch(table: apsw.Connection, bad: str) -> None:
    """A part named after a file with stray bytes is stored, its bytes escaped."""
    settled = make_part(1, 1, part_id=bad)
    cells = answer_cells(1, settled)
    table.execute("DELETE FROM answers")
    table.execute(schema.insert("answers", ANSWER_COLUMNS), (*cells, chain(GENESIS, cells)))
    assert "\\ud" in table.execute("SELECT part_id FROM answers").get


def test_a_score_that_is_no_number_stays_none_and_a_negative_zero_loses_its_sign() -> None:
    """SQLite knows neither; both must come back with the same hash."""
    answer = make_part(1, 1).answer
    assert math.isnan(answer_of(answer_cells(1, Settled(replace(answer, score=math.nan)))).score)
    assert math.copysign(1, answer_cells(1, Settled(replace(answer, score=-0.0)))[8]) == 1  # type: ignore[arg-type]


def test_a_frame_id_beyond_64_bits_is_clipped() -> None:
    """A controller may announce any counter; it must not make the batch unwritable."""
    assert answer_cells(1, Settled(replace(make_part(1, 1).answer, frame_id=1 << 64)))[4] == (1 << 63) - 1


def test_rows_of_different_tables_never_hash_alike() -> None:
    """Tables differ in the number of cells, so no event can be passed off as an answer."""
    tables = [schema.CHAINED[name] for name in schema.CHAINED]
    assert len({len(columns) for columns in tables}) == len(tables)
    assert len(note_cells(1, Note(1, "a", "b"))) == len(schema.CHAINED["events"])
    override = Override(1, 2, Reason.UNRECORDED, 3)
    assert len(override_cells(1, override)) == len(schema.CHAINED["overrides"])


def test_what_was_sent_instead_is_invalid_with_nothing_of_the_decision() -> None:
    """The overriding answer carries the identity and times of the part, and no verdict of it."""
    stored = make_part(1, 2, Verdict.FAIL).answer
    sent = overridden(stored, Override(1, 2, Reason.UNRECORDED, 77, "too late"))
    assert (sent.verdict, sent.reason, sent.defects, sent.rules, sent.stages_us) == (
        Verdict.INVALID,
        Reason.UNRECORDED,
        (),
        (),
        (),
    )
    assert (sent.part_id, sent.due_ns, sent.settled_ns, sent.detail) == (stored.part_id, stored.due_ns, 77, "too late")


def test_picture_names_are_dated_in_utc_and_sort_by_number() -> None:
    """Epoch and sequence make the name unique; the day is the part's, not the writer's."""
    answer = replace(make_part(3, 42).answer, wall_ns=1_700_006_399_999_999_999)
    assert picture_name(answer) == "2023-11-14/000003-000000042.png"
    assert picture_name(replace(answer, wall_ns=answer.wall_ns + 1)).startswith("2023-11-15/")
