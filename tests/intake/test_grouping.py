"""A part is judged by its own views, by all of them, or not at all."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.docket import Docket
from inspector.frame import Decision, Frame, Missed, Reason
from inspector.intake import Grouping

MS = 1_000_000
VIEWS, GAP_MS = 3, 30
PIXELS = np.zeros((2, 2), np.uint8)


def play(fates: str, *, first_id: int = 1, views: int = VIEWS, pause_ms: int = 50) -> dict[str, list[str]]:
    """Per part that was opened, what came for it: the names of its views (A1, A2, ...) or INVALID.

    ``fates`` has one letter a view: t taken, l lost (a gap in the ids tells), s slipped (lost without a trace),
    i incomplete, o the host was behind (lost, with its own time), n nobody was there yet, a taken with ids anew,
    u it lay unread until the next one that is not u comes."""
    docket = Docket(epoch=1, gate_ns=10_000 * MS, slack_ns=10 * MS, commit_margin_ns=0)
    grouping = Grouping(docket, lambda: 0, views=views, gap_ns=GAP_MS * MS)
    found: dict[str, list[str]] = defaultdict(list)
    names: dict[int, str] = {}
    at_ms, frame_id, lost, unread = 1000, first_id, list[int](), list[int]()

    def place(arrived: Frame | Missed | None) -> None:
        for one in grouping.place(arrived):
            invalid = isinstance(one.what, Decision)
            found[one.entry.part_id].append("INVALID" if isinstance(one.what, Decision) else names[one.what.frame_id])
            assert not invalid or one.what.reason is Reason.VIEW_MISSING  # type: ignore[union-attr]

    for number, fate in enumerate(fates):
        at_ms += 20 if number % views else pause_ms
        name = f"{chr(ord('A') + number // views)}{number % views + 1}"
        if fate in "ns":
            continue
        frame_id += 50 * (fate == "a")
        if fate == "u":
            names[frame_id] = name
            unread.append(frame_id)
            frame_id += 1
            continue
        for one in unread:
            place(Frame(one, PIXELS, at_ms * MS, timely=False))
        unread.clear()
        if fate == "l":
            lost.append(frame_id)
        else:
            for one in lost:
                place(Missed(one, at_ms * MS))
            lost.clear()
            names[frame_id] = name
            if fate in "ta":
                place(Frame(frame_id, PIXELS, at_ms * MS))
            else:
                place(Missed(frame_id, at_ms * MS, Reason.INCOMPLETE if fate == "i" else Reason.MISSED))
        frame_id += 1
    place(None)
    assert docket.statistics().opened >= len(found)
    return dict(found)


def passes(found: dict[str, list[str]], views: int = VIEWS) -> list[str]:
    """The parts that have all their views and no objection, by their letter."""
    whole = [names for names in found.values() if "INVALID" not in names and len(names) == views]
    for names in whole:
        assert names == [f"{names[0][0]}{number + 1}" for number in range(views)], names
    return [names[0][0] for names in whole]


@settings(max_examples=500, deadline=None)
@given(st.text("ttttttlsioau", min_size=1, max_size=36), st.integers(0, 3), st.integers(0, 4))
def test_no_part_is_judged_by_views_of_two(fates: str, first_id: int, absent: int) -> None:
    """Whatever is lost, wherever the ids begin, and in the middle of whichever part the camera is there."""
    fates = "n" * absent + fates[absent:]
    parts = [fates[at : at + VIEWS] for at in range(0, len(fates), VIEWS)]
    whole = {chr(ord("A") + number) for number, views in enumerate(parts) if set(views) <= set("ta")}
    seen = set(passes(play(fates, first_id=first_id)))
    assert seen <= whole
    if not set(fates) & set("snu") and len(parts[-1]) == VIEWS:  # every loss is told, so no good part is suspected
        assert seen == whole


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 12).flatmap(lambda parts: st.text("ttttlio", min_size=3 * parts, max_size=3 * parts)))
def test_every_part_is_opened_once_where_losses_are_told(fates: str) -> None:
    """A controller may count answers: there is one for each part, as far as the camera has told of it."""
    fates = fates[:-1] + "t"  # what is lost behind the last frame cannot be known
    parts = len(fates) // VIEWS
    assert len(play(fates)) == parts
    assert len(play(fates, pause_ms=31)) == parts


def test_ids_may_begin_at_zero() -> None:
    """As 32 and 64 bit ids do."""
    assert passes(play("ttt" * 4, first_id=0)) == list("ABCD")
    assert passes(play("tt" * 4, first_id=0, views=2), 2) == list("ABCD")


def test_parts_without_a_pause_are_invalid() -> None:
    """The first may be whole; what follows without a pause cannot be told apart."""
    found = play("ttt" * 3, pause_ms=20)
    assert passes(found) == ["A"]
    assert len(found) == 3


def test_recorded_frames_are_counted_by_their_ids() -> None:
    """They are never lost without a trace, and may come as fast as they are read."""
    docket = Docket(epoch=1, gate_ns=1000, slack_ns=10, commit_margin_ns=0)
    grouping = Grouping(docket, lambda: 0, views=2)
    placed = [one for number in range(6) for one in grouping.place(Frame(number, PIXELS, 5))]
    assert [one.entry.sequence for one in placed] == [1, 1, 2, 2, 3, 3]
    assert [one.entry.frame_id for one in placed] == [0, 0, 2, 2, 4, 4]
    assert grouping.place(None) == []


def test_one_frame_a_part() -> None:
    """A loss is a part, too."""
    docket = Docket(epoch=1, gate_ns=1000, slack_ns=10, commit_margin_ns=0)
    grouping = Grouping(docket, lambda: 0)
    (one,), (two,) = grouping.place(Frame(0, PIXELS, 5)), grouping.place(Missed(1, 6, Reason.INCOMPLETE, "p"))
    assert isinstance(one.what, Frame)
    assert isinstance(two.what, Decision)
    assert (two.what.reason, two.what.detail, two.entry.part_id) == (Reason.INCOMPLETE, "frame 1: incomplete", "p")
