"""The ring between two processes, and the frame counter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.camera.counter import FrameCounter
from inspector.camera.ring import Kind, Layout, Put, RingReader, RingWriter
from inspector.errors import CameraError


@contextmanager
def both_ends(layout: Layout) -> Iterator[tuple[RingWriter, RingReader]]:
    writer = RingWriter(layout)
    reader = RingReader(layout, *(os.dup(fd) for fd in writer.fds))
    try:
        yield writer, reader
    finally:
        writer.close()
        reader.close()


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return (np.arange(height * width, dtype=np.uint32) * 7 + seed * 13).astype(np.uint8).reshape(height, width)


@settings(max_examples=150, deadline=None)
@given(
    slots=st.integers(1, 4),
    records=st.integers(1, 8),
    steps=st.lists(st.sampled_from(["frame", "incomplete", "take"]), max_size=60),
)
def test_nothing_unread_is_overwritten(slots: int, records: int, steps: list[str]) -> None:
    """What is taken is what was put, in order; what found no slot is an OVERRUN, what found no record UNRECORDED."""
    unread: deque[tuple[Kind, int]] = deque()
    with both_ends(Layout(slots, 12, records)) as (writer, reader):
        for number, step in enumerate(steps):
            if step == "take":
                record = reader.take()
                if not unread:
                    assert record is None
                    continue
                kind, frame_id = unread.popleft()
                assert record is not None
                assert (record.kind, record.frame_id, record.taken_ns) == (kind, frame_id, frame_id * 10)
                if kind is Kind.FRAME:
                    assert record.pixels is not None
                    assert np.array_equal(record.pixels, picture(frame_id, 3, 4))
                else:
                    assert record.pixels is None
                continue
            full = sum(kind is Kind.FRAME for kind, _ in unread) == slots
            kind = Kind.INCOMPLETE if step == "incomplete" else Kind.FRAME
            put = writer.put(kind, number, number * 10, 0, picture(number, 3, 4) if step == "frame" else None)
            if len(unread) == records:
                assert put is Put.UNRECORDED
            elif step == "frame" and full:
                assert put is Put.OVERRUN
                unread.append((Kind.OVERRUN, number))
            else:
                assert put is Put.STORED
                unread.append((kind, number))


def test_a_window_is_copied_once_and_belongs_to_the_reader() -> None:
    """A strided window arrives as an owned, C-contiguous array that later writes do not change."""
    source = picture(1, 20, 30)
    with both_ends(Layout(1, 6 * 8)) as (writer, reader):
        writer.put(Kind.FRAME, 1, 0, 0, source[4:10, 5:13])
        record = reader.take()
        assert record is not None
        assert record.pixels is not None
        expected = source[4:10, 5:13].copy()
        source[:] = 0
        writer.put(Kind.FRAME, 2, 0, 0, np.zeros((6, 8), np.uint8))
        assert record.pixels.flags.c_contiguous
        assert record.pixels.flags.owndata
        assert np.array_equal(record.pixels, expected)


def test_what_was_put_outlives_the_writer() -> None:
    """Frames put before the camera process died can still be read."""
    layout = Layout(2, 12)
    writer = RingWriter(layout)
    reader = RingReader(layout, *(os.dup(fd) for fd in writer.fds))
    writer.put(Kind.FRAME, 5, 1, 2, picture(5, 3, 4))
    writer.close()
    record = reader.take()
    assert record is not None
    assert record.frame_id == 5
    assert reader.take() is None
    reader.close()


def test_a_torn_record_is_an_error() -> None:
    """A record whose sequence number does not match is refused, never handed on as a frame."""
    with both_ends(Layout(2, 12)) as (writer, reader):
        writer.put(Kind.FRAME, 1, 0, 0, picture(1, 3, 4))
        writer._memory.heads[0, 0] = 99
        with pytest.raises(CameraError, match="torn"):
            reader.take()


def test_a_ring_of_another_size_is_refused() -> None:
    """Both ends must agree on the layout."""
    writer = RingWriter(Layout(1, 12))
    fds = [os.dup(fd) for fd in writer.fds]
    with pytest.raises(CameraError, match="size"):
        RingReader(Layout(64, 100_000), *fds)
    writer.close()
    for fd in fds:
        os.close(fd)


WRITER = """
import sys, numpy as np
from inspector.camera.ring import Kind, Layout, Put, RingReader, RingWriter
import socket
writer = RingWriter(Layout(8, 5000))
end = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(end, [b"ring"], list(writer.fds))
stored = lost = 0
for n in range(int(sys.argv[2])):
    put = writer.put(Kind.FRAME, n, n, n, np.full((50, 100), n % 251, np.uint8))
    stored += put is Put.STORED
    lost += put is Put.OVERRUN
end.send(f"{stored} {lost}".encode())
end.recv(1)
"""


def test_between_two_processes_no_frame_is_torn_or_unaccounted() -> None:
    """At full speed across processes every frame arrives whole or as an OVERRUN, each id once and in order."""
    import socket

    count = 8000
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(theirs.fileno()), str(count)], pass_fds=[theirs.fileno()]
    )
    theirs.close()
    _, fds, _, _ = socket.recv_fds(ours, 16, 3)
    reader = RingReader(Layout(8, 5000), *fds)
    frames = overruns = 0
    told: list[int] | None = None
    expected = 0
    while told is None or frames + overruns < sum(told):
        record = reader.take()
        if record is None:
            if told is None:
                import select

                ready, _, _ = select.select([reader, ours], [], [], 10)
                assert ready, "the writer stands still"
                if ours in ready:
                    told = [int(word) for word in ours.recv(64).split()]
            continue
        if record.kind is Kind.FRAME:
            assert record.pixels is not None
            assert record.pixels.min() == record.pixels.max() == record.frame_id % 251
            frames += 1
        else:
            overruns += 1
        assert record.frame_id >= expected
        expected = record.frame_id + 1
    assert [frames, overruns] == told
    assert frames > 0
    ours.close()
    assert child.wait(10) == 0
    reader.close()


# -- frame ids ----------------------------------------------------------------------------------------------------


def next_raw(raw: int, bits: int) -> int:
    """The camera's counter: GigE Vision 1.x leaves out 0."""
    if bits == 16:
        return 1 if raw == 65535 else raw + 1
    return (raw + 1) % (1 << bits)


@settings(max_examples=200, deadline=None)
@given(
    bits=st.sampled_from([16, 32, 64]),
    from_end=st.integers(0, 400),
    fates=st.lists(st.booleans(), min_size=1, max_size=300),
)
def test_every_id_is_delivered_or_reported_lost_once(bits: int, from_end: int, fates: list[bool]) -> None:
    """Across a wrap too, delivered and lost ids together are consecutive, and exactly the lost ones are reported."""
    raw = (1 << bits) - 1 - from_end
    counter = FrameCounter(bits)
    delivered: list[int] = []
    reported: list[int] = []
    dropped = 0
    fates[0] = True
    for arrives in fates:
        if arrives:
            step = counter.step(raw)
            assert step.frame_id is not None
            assert len(step.lost) == dropped
            dropped = 0
            reported += step.lost
            delivered.append(step.frame_id)
        else:
            dropped += 1
        raw = next_raw(raw, bits)
    first = delivered[0]
    assert sorted(delivered + reported) == list(range(first, delivered[-1] + 1))
    expected = [first + n for n, arrives in enumerate(fates) if arrives]
    assert delivered == expected
    assert counter.resyncs == 0


def test_a_camera_that_counts_through_zero_is_believed() -> None:
    """A 16-bit counter that shows a 0 wraps 65535 -> 0, without a loss."""
    counter = FrameCounter(16)
    steps = [counter.step(raw) for raw in (65534, 65535, 0, 1)]
    assert [step.frame_id for step in steps] == [65534, 65535, 65536, 65537]
    assert not any(len(step.lost) for step in steps)


def test_numbers_go_on_after_a_restart() -> None:
    """After a reconnect the camera's ids begin anew, ours go on without a hole and without a loss."""
    counter = FrameCounter()
    ids = [counter.step(raw).frame_id for raw in (1, 2, 3)]
    counter.restart()
    step = counter.step(1)
    assert [*ids, step.frame_id] == [1, 2, 3, 4]
    assert len(step.lost) == 0
    assert counter.resyncs == 0


def test_a_repeated_id_is_not_a_second_frame() -> None:
    """Once ids were seen to advance, the same id twice passes once; after a reconnect too."""
    counter = FrameCounter()
    assert [counter.step(raw).frame_id for raw in (6, 7, 7, 8)] == [6, 7, None, 8]
    counter.restart()
    assert [counter.step(raw).frame_id for raw in (1, 1, 2)] == [9, None, 10]
    assert counter.repeated == 2


def test_a_repeated_id_at_the_start_is_a_new_frame() -> None:
    """Before any id has advanced nobody knows whether this camera counts: the frame passes, and the note says so."""
    counter = FrameCounter()
    steps = [counter.step(raw) for raw in (7, 7, 8, 8, 9)]
    assert [step.frame_id for step in steps] == [7, 8, 9, None, 10]
    assert "before any id advanced" in steps[1].note
    assert (counter.repeated, counter.resyncs) == (1, 0)


def test_a_camera_that_does_not_count_is_noted_but_inspected() -> None:
    """Ids that stand still from the start cost no frame, not even at a reconnect; each time one note says that losses
    cannot be seen."""
    counter = FrameCounter()
    steps = [counter.step(0) for _ in range(6)]
    assert [step.note for step in steps if "stand still" in step.note] == [steps[3].note]
    for _ in range(3):
        counter.restart()
        again = [counter.step(0) for _ in range(6)]
        assert [step.note for step in again if step.note] == [again[1].note]
        assert "stand still" in again[1].note
        steps += again
    assert [step.frame_id for step in steps] == list(range(24))
    assert not any(step.lost for step in steps)
    assert (counter.repeated, counter.resyncs) == (0, 1)


def test_ids_that_stop_counting_leave_no_part_without_an_answer() -> None:
    """The frames taken for repeats until that shows are reported lost, and counted in the note."""
    counter = FrameCounter()
    steps = [counter.step(raw) for raw in (4, 5, 5, 5, 5, 5)]
    assert [step.frame_id for step in steps] == [4, 5, None, None, 8, 9]
    assert list(steps[4].lost) == [6, 7]
    assert "stand still" in steps[4].note
    assert "2 frames" in steps[4].note
    counter.restart()
    assert [counter.step(5).frame_id for _ in range(3)] == [10, 11, 12]


def test_ids_that_count_again_are_believed_again() -> None:
    """After a standstill an id that advances makes repeats duplicates again."""
    counter = FrameCounter()
    ids = [counter.step(raw).frame_id for raw in (5, 5, 5, 5, 6, 6, 7)]
    assert ids == [5, 6, 7, 8, 9, None, 10]


@given(raws=st.lists(st.integers(0, 3), max_size=60), restarts=st.sets(st.integers(0, 59)))
def test_whatever_the_ids_no_number_is_given_twice(raws: list[int], restarts: set[int]) -> None:
    """Numbers of frames and losses rise by one, and none is held back but repeats of an id that counts."""
    counter = FrameCounter(max_gap=2)
    given_out: list[int] = []
    for at, raw in enumerate(raws):
        if at in restarts:
            counter.restart()
        step = counter.step(raw)
        given_out += step.lost
        if step.frame_id is not None:
            given_out.append(step.frame_id)
    assert not given_out or given_out == list(range(given_out[0], given_out[0] + len(given_out)))


def test_a_late_frame_was_already_reported() -> None:
    """A frame that comes after its id was reported missing is not delivered: the first settlement wins."""
    counter = FrameCounter()
    counter.step(1)
    assert list(counter.step(4).lost) == [2, 3]
    late = counter.step(3)
    assert (late.frame_id, "late" in late.note) == (None, True)
    assert counter.step(5).frame_id == 5
    assert counter.resyncs == 0


def test_ids_that_run_backward_start_a_new_count() -> None:
    """A camera that restarts its counter goes on being inspected, noted and counted."""
    counter = FrameCounter()
    for raw in range(100, 151):
        counter.step(raw)
    step = counter.step(1)
    assert step.frame_id == 151
    assert len(step.lost) == 0
    assert "backward" in step.note
    assert counter.step(2).frame_id == 152
    assert counter.resyncs == 1


@pytest.mark.parametrize(("ahead", "lost", "resyncs"), [(11, 10, 0), (12, 0, 1)])
def test_a_gap_is_bounded(ahead: int, lost: int, resyncs: int) -> None:
    """Up to max_gap lost ids are reported one by one; beyond it the count starts anew, noted."""
    counter = FrameCounter(max_gap=10)
    counter.step(1)
    step = counter.step(1 + ahead)
    assert len(step.lost) == lost
    assert counter.resyncs == resyncs
    assert counter.unreported == (ahead - 1 if resyncs else 0)
    assert step.frame_id == (2 if resyncs else 1 + ahead)
