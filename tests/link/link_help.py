"""What the link's tests share: answers, strategies, and a link that is served in the test's own thread."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st

from inspector.clock import Clock, SystemClock
from inspector.frame import Answer, Defect, Hashes, Reason, Shape, Verdict
from inspector.link.controller import ControllerLink
from inspector.link.events import Event

EPOCH = 3


def an_answer(
    sequence: int,
    *,
    now_ns: int,
    verdict: Verdict = Verdict.PASS,
    left_s: float = 5.0,
    epoch: int = EPOCH,
    score: float = 0.125,
) -> Answer:
    """A plausible answer settled at ``now_ns`` and due ``left_s`` later."""
    return Answer(
        epoch=epoch,
        sequence=sequence,
        part_id=f"C-{sequence:06}",
        frame_id=sequence,
        verdict=verdict,
        reason=Reason.LATE if verdict is Verdict.INVALID else None,
        review=False,
        rules=(),
        defects=(),
        score=score,
        taken_ns=max(0, now_ns - 20_000_000),
        due_ns=now_ns + int(left_s * 1e9),
        settled_ns=now_ns,
        wall_ns=1_700_000_000_000_000_000,
        hashes=Hashes("ab" * 8, "cd" * 8, "ef" * 8),
    )


def resealed(header: bytes, detail: bytes) -> list[bytes]:
    """The two frames with the lengths as they are and a CRC that fits: what a hostile, but careful, sender makes."""
    if len(header) != 128:
        return [header, detail]
    body = header[:120] + struct.pack("<I", len(detail))
    return [body + struct.pack("<I", zlib.crc32(detail, zlib.crc32(body))), detail]


def serve(
    link: ControllerLink, until: Callable[[list[Event]], bool], *, clock: Clock | None = None, timeout_s: float = 10.0
) -> list[Event]:
    """Serve ``link`` until ``until(all events so far)``; fails the test after ``timeout_s`` of real time."""
    real = SystemClock()
    clock = clock or real
    end_ns = real.now_ns() + int(timeout_s * 1e9)
    seen: list[Event] = []
    while not until(seen):
        assert real.now_ns() < end_ns, f"waited {timeout_s} s in vain; seen {seen[-5:]}, {link.statistics()}"
        wake_ns = link.next_wake_ns()
        wait_s = 0.02 if wake_ns is None else min(0.02, max(0.0, (wake_ns - clock.now_ns()) / 1e9))
        link.wait(wait_s)
        seen += link.service(clock.now_ns())
    return seen


_u64 = st.integers(0, 2**64 - 1)
_i64 = st.integers(-(2**63), 2**63 - 1)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_hash = st.one_of(st.just(""), st.binary(min_size=8, max_size=8).filter(any).map(bytes.hex))
_text = st.text(max_size=40)

defects = st.builds(
    Defect,
    area_px=_finite,
    length_px=_finite,
    width_px=_finite,
    x_px=_finite,
    y_px=_finite,
    box=st.tuples(_i64, _i64, _i64, _i64),
    score_mean=_finite,
    score_max=_finite,
    shape=st.sampled_from(Shape),
    zone=_text,
    area_mm2=st.none() | _finite,
    length_mm=st.none() | _finite,
    width_mm=st.none() | _finite,
    counts=st.booleans(),
)


def _with_reason(answer: Answer, reason: Reason) -> Answer:
    return replace(answer, reason=reason if answer.verdict is Verdict.INVALID else None)


answers = st.builds(
    _with_reason,
    st.builds(
        Answer,
        epoch=st.integers(0, 2**32 - 1),
        sequence=_u64,
        part_id=_text,
        frame_id=_i64,
        verdict=st.sampled_from(Verdict),
        reason=st.none(),
        review=st.booleans(),
        rules=st.lists(_text, max_size=4).map(tuple),
        defects=st.lists(defects, max_size=3).map(tuple),
        score=_finite,
        taken_ns=_u64,
        due_ns=_i64,
        settled_ns=_u64,
        wall_ns=_i64,
        hashes=st.builds(Hashes, _hash, _hash, _hash),
        stages_us=st.lists(st.tuples(_text, _i64), max_size=4).map(tuple),
        detail=_text,
    ),
    st.sampled_from(Reason),
)
