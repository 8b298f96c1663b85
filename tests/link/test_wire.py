"""The wire protocol as bytes."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_help import an_answer, answers, defects, resealed

from inspector.errors import LinkError
from inspector.frame import Answer, Defect, Reason, Shape, State, Verdict
from inspector.link import detail as details
from inspector.link import wire
from inspector.link.fields import check_part_id
from inspector.link.messages import (
    REASON_NUMBERS,
    STATE_NUMBERS,
    VERDICT_NUMBERS,
    AckMessage,
    AnnounceMessage,
    AnswerMessage,
    Flag,
    HelloMessage,
    RefusedMessage,
    StateMessage,
)

_lefts = st.integers(-(2**40), 2**40)
_u64 = st.integers(0, 2**64 - 1)
_SPOT = Defect(12.0, 5.0, 3.0, 100.5, 33.25, (1, 2, 3, 4), 0.8, 0.97, Shape.POINT)


@settings(deadline=None)
@given(answers, _lefts, _u64, st.booleans())
def test_answer_comes_back_equal(answer: Answer, left_us: int, durable: int, resent: bool) -> None:
    """An answer that is packed and unpacked is equal in every field, whatever its texts and numbers."""
    message = wire.unpack(wire.pack_answer(answer, left_us=left_us, durable=durable, resent=resent))
    assert isinstance(message, AnswerMessage)
    assert message.answer == answer
    assert message.left_us == wire.clamp_left_us(left_us)
    assert message.durable == durable
    assert (Flag.RESENT in message.flags) is resent
    assert message.defect_count == len(answer.defects)


@settings(deadline=None)
@given(answers, _lefts, _u64, st.booleans())
def test_same_answer_same_bytes(answer: Answer, left_us: int, durable: int, resent: bool) -> None:
    """Two sendings of one answer differ in left_us, durable, RESENT and CRC alone, and have one digest."""
    first = wire.pack_answer(answer, left_us=1, durable=0)
    again = wire.restamp(first, left_us=left_us, durable=durable, resent=resent)
    assert again == wire.pack_answer(answer, left_us=left_us, durable=durable, resent=resent)
    assert wire.content_digest(again) == wire.content_digest(first)
    changing = {6, *range(20, 24), *range(56, 64), *range(124, 128)}
    assert {at for at in range(128) if first[0][at] != again[0][at]} <= changing


@settings(deadline=None)
@given(answers)
def test_a_flagged_copy_is_the_same_answer(answer: Answer) -> None:
    """UNQUALIFIED speaks of the station, not of the part: both copies have one digest and read as one answer."""
    plain = wire.pack_answer(answer, left_us=1, durable=0)
    flagged = wire.pack_answer(answer, left_us=1, durable=0, qualified=False)
    one, other = wire.unpack(plain), wire.unpack(flagged)
    assert isinstance(one, AnswerMessage) and isinstance(other, AnswerMessage)
    assert (one.answer, one.flags | Flag.UNQUALIFIED) == (other.answer, other.flags) != (one.answer, one.flags)
    assert wire.content_digest(plain) == wire.content_digest(flagged)
    assert wire.restamp(flagged, left_us=1, durable=0, resent=False) == flagged


@settings(deadline=None)
@given(answers, st.floats(allow_nan=False, allow_infinity=False))
def test_other_content_other_digest(answer: Answer, score: float) -> None:
    """An answer with another content has another digest."""
    other = replace(answer, score=score)
    same = wire.content_digest(wire.pack_answer(answer, left_us=0, durable=0)) == wire.content_digest(
        wire.pack_answer(other, left_us=0, durable=0)
    )
    assert same == (repr(float(answer.score)) == repr(score))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(_u64, min_size=1, max_size=wire.MAX_ACKS), st.integers(-(2**63), 2**63 - 1))
def test_small_messages_come_back_equal(epoch: int, sequences: list[int], number: int) -> None:
    """HELLO, ACK, ANNOUNCE, STATE and REFUSED come back equal."""
    first = sequences[0]
    assert wire.unpack(wire.pack_hello(epoch, first)) == HelloMessage(epoch, first)
    assert wire.unpack(wire.pack_ack(epoch, sequences)) == AckMessage(epoch, tuple(sequences))
    assert wire.unpack(wire.pack_announce(first, "é-7", number)) == AnnounceMessage(first, "é-7", number)
    assert wire.unpack(wire.pack_announce(first, "", 0, resent=True)) == AnnounceMessage(first, "", 0, True)
    assert wire.unpack(wire.pack_refused("no", epoch=epoch)) == RefusedMessage("no", epoch)
    for state in State:
        packed = wire.pack_state(state, epoch=epoch, last_sequence=first, opened=abs(number) >> 1, durable=1, sent_ns=9)
        assert wire.unpack(packed) == StateMessage(state, epoch, first, abs(number) >> 1, 1, 9)


@settings(deadline=None, max_examples=300)
@given(answers, st.data())
def test_any_damage_is_noticed(answer: Answer, data: st.DataObject) -> None:
    """One changed byte anywhere, or one byte more or less, is a LinkError and never another answer."""
    frames = wire.pack_answer(answer, left_us=5000, durable=7)
    index = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(frames[index]) - 1))
    change = data.draw(st.integers(1, 255))
    damaged = bytearray(frames[index])
    damaged[at] ^= change
    frames[index] = bytes(data.draw(st.sampled_from([damaged, damaged[:at], damaged + b"\0"])))
    with pytest.raises(LinkError):
        wire.unpack(frames)


@settings(deadline=None, max_examples=500)
@given(answers, st.data())
def test_hostile_bytes_raise_link_errors_only(answer: Answer, data: st.DataObject) -> None:
    """Mutations under a fitting CRC are read or refused with a one-line LinkError, never anything else."""
    header, encoded = wire.pack_answer(answer, left_us=5000, durable=7)
    changed = bytearray(header)
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    tail = data.draw(
        st.one_of(
            st.just(encoded),
            st.binary(max_size=200),
            st.builds(lambda at, new: encoded[:at] + new + encoded[at:], st.integers(0, len(encoded)), st.binary()),
            st.sampled_from([b"[" * 5000, b'{"a":' * 3000, b"9" * 6000, b'{"sequences":[1e999]}', b"NaN", b"\xff"]),
        )
    )
    try:
        wire.unpack(resealed(bytes(changed), tail))
    except LinkError as error:
        assert "\n" not in str(error)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=4))
def test_noise_raises_link_errors_only(frames: list[bytes]) -> None:
    """Random frames, in any number, are refused with a LinkError."""
    with pytest.raises(LinkError):
        wire.unpack(frames)


_BAD_DETAILS = {
    "not an object": b"[]",
    "not JSON": b"{",
    "not UTF-8": b'{"part_id":"\xff"}',
    "NaN": b'{"score":NaN}',
    "nested beyond reason": b"[" * 50_000,
    "a number of 5000 digits": b'{"due_ns":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", _BAD_DETAILS)
def test_bad_detail_is_refused(name: str) -> None:
    """A detail that is no strict JSON object is a LinkError, also where the CRC fits."""
    header, _ = wire.pack_answer(an_answer(1, now_ns=10**10), left_us=1, durable=0)
    with pytest.raises(LinkError):
        wire.unpack(resealed(header, _BAD_DETAILS[name]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("part_id", 5), ("part_id", "other"), ("due_ns", 1.5), ("due_ns", 2**63), ("due_ns", True), ("score", "1")),
        *(("score", 10**400), ("rules", "x"), ("rules", [1]), ("stages_us", [["a"]]), ("stages_us", [["a", "b"]])),
        *(("defects", [{}]), ("defects", [1]), ("defects", []), ("detail", None)),
    ],
)
def test_wrong_detail_field_is_refused(key: str, value: object) -> None:
    """A detail field of the wrong type or range, or one that contradicts the header, is a LinkError."""
    answer = replace(an_answer(1, now_ns=10**10, verdict=Verdict.FAIL), defects=(_SPOT,))
    header, encoded = wire.pack_answer(answer, left_us=1, durable=0)
    changed = {**json.loads(encoded), key: value}
    with pytest.raises(LinkError):
        wire.unpack(resealed(header, json.dumps(changed).encode()))


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0), (4, 2), (5, 99), (8, 127), (10, 0), (10, 9), (11, 1), (11, 200), (13, 1)],
    ids=[
        "magic",
        "version",
        "kind",
        "header length",
        "no verdict",
        "verdict",
        "PASS with reason",
        "reason",
        "reserved",
    ],
)
def test_wrong_header_byte_is_refused(at: int, value: int) -> None:
    """A header byte outside its table is a LinkError though the CRC fits."""
    header, encoded = wire.pack_answer(an_answer(1, now_ns=10**10), left_us=1, durable=0)
    changed = bytearray(header)
    changed[at] = value
    with pytest.raises(LinkError):
        wire.unpack(resealed(bytes(changed), encoded))


@pytest.mark.parametrize("score", [b"1e999", b"-1e999", b"NaN", b"Infinity", b'0.125,"later":NaN'])
def test_numbers_of_the_detail_are_finite(score: bytes) -> None:
    """No infinity and no NaN comes through a detail, not even in a key that nobody reads."""
    header, encoded = wire.pack_answer(an_answer(1, now_ns=10**10), left_us=1, durable=0)
    assert b'"score":0.125' in encoded
    with pytest.raises(LinkError):
        wire.unpack(resealed(header, encoded.replace(b'"score":0.125', b'"score":' + score)))


def test_detail_length_must_fit() -> None:
    """A detail of another length than the header says is a LinkError though the CRC fits."""
    header, encoded = wire.pack_answer(an_answer(1, now_ns=10**10), left_us=1, durable=0)
    body = header[:120] + (len(encoded) + 1).to_bytes(4, "little")
    with pytest.raises(LinkError, match="detail has the wrong length"):
        wire.unpack([body + zlib.crc32(encoded, zlib.crc32(body)).to_bytes(4, "little"), encoded])


def test_oversized_message_is_refused() -> None:
    """A message above the limit is refused before it is looked at."""
    with pytest.raises(LinkError, match="too long"):
        wire.unpack([b"x" * 128, b"y" * 65_536])


def test_unknown_keys_and_flags_are_ignored() -> None:
    """A later minor revision may add detail keys and flags; today's reader takes the rest."""
    answer = an_answer(1, now_ns=10**10)
    header, encoded = wire.pack_answer(answer, left_us=1, durable=0)
    changed = bytearray(header)
    changed[7] |= 0x80
    later = json.dumps({**json.loads(encoded), "new_in_2030": [1, 2]}).encode()
    message = wire.unpack(resealed(bytes(changed), later))
    assert isinstance(message, AnswerMessage)
    assert message.answer == answer


@settings(deadline=None, max_examples=20)
@given(st.lists(defects, min_size=1, max_size=3), st.integers(300, 2000), st.text(min_size=0, max_size=100))
def test_answer_with_too_many_defects_still_goes_out(some: list[Defect], times: int, rule: str) -> None:
    """A detail above the limit lists fewer defects, keeps their count, verdict and reason, and says CUT."""
    many = (tuple(some) * times)[:2000]
    answer = replace(an_answer(1, now_ns=10**10, verdict=Verdict.FAIL), defects=many, rules=(rule,) * times)
    frames = wire.pack_answer(answer, left_us=1, durable=0)
    assert sum(map(len, frames)) <= wire.MAX_MESSAGE_BYTES
    assert frames == wire.pack_answer(answer, left_us=1, durable=0)
    message = wire.unpack(frames)
    assert isinstance(message, AnswerMessage)
    assert Flag.CUT in message.flags
    assert message.defect_count == len(many) > len(message.answer.defects)
    assert message.answer.verdict is Verdict.FAIL


def test_endless_texts_are_cut() -> None:
    """No text of any length makes an answer too long to send."""
    long = replace(
        an_answer(1, now_ns=10**10, verdict=Verdict.INVALID),
        part_id="p" * 100_000,
        rules=("r" * 10_000,) * 1000,
        detail="\u00e9" * 100_000,
        stages_us=(("s" * 10_000, 1),) * 1000,
    )
    frames = wire.pack_answer(long, left_us=1, durable=0)
    assert sum(map(len, frames)) <= wire.MAX_MESSAGE_BYTES
    message = wire.unpack(frames)
    assert isinstance(message, AnswerMessage)
    assert message.answer.reason is Reason.LATE
    assert Flag.CUT in message.flags
    assert Flag.PART_ID_CUT in message.flags


@pytest.mark.parametrize("part_id", ["p" * 33, "é" * 17, "a\0b", "\udcff"])
def test_part_id_that_does_not_fit(part_id: str) -> None:
    """Edges refuse a part id that 32 header bytes cannot hold; an answer that has one says so and still goes out."""
    with pytest.raises(LinkError, match="does not fit"):
        check_part_id(part_id)
    with pytest.raises(LinkError):
        wire.pack_announce(1, part_id, 0)
    answer = replace(an_answer(1, now_ns=10**10), part_id=part_id)
    message = wire.unpack(wire.pack_answer(answer, left_us=1, durable=0))
    assert isinstance(message, AnswerMessage)
    assert Flag.PART_ID_CUT in message.flags
    assert message.answer == answer


@pytest.mark.parametrize(
    "change",
    [
        {"score": float("nan")},
        {"sequence": -1},
        {"epoch": 2**32},
        {"reason": Reason.LATE},
        {"verdict": Verdict.INVALID},
        {"defects": (_SPOT._replace(area_px=float("inf")),)},
    ],
    ids=["NaN", "negative sequence", "epoch of 33 bits", "PASS with reason", "INVALID without reason", "infinite area"],
)
def test_impossible_answer_is_refused(change: dict[str, object]) -> None:
    """What no part of the line may produce is a LinkError at the sender, not a strange message at the receiver."""
    with pytest.raises(LinkError):
        wire.pack_answer(replace(an_answer(1, now_ns=10**10), **change), left_us=1, durable=0)  # type: ignore[arg-type]


def test_numbers_never_change() -> None:
    """The numbers on the wire are those that controllers were programmed with; zero is none of them."""
    assert {verdict.value: number for verdict, number in VERDICT_NUMBERS.items()} == {
        "PASS": 1,
        "FAIL": 2,
        "INVALID": 3,
    }
    assert [reason.value for reason in sorted(REASON_NUMBERS, key=REASON_NUMBERS.__getitem__)] == [
        *("LATE", "DROPPED", "MISSED", "INCOMPLETE", "NOT_LOCATED", "BAD_IMAGE"),
        *("ENGINE_FAULT", "NOT_FINITE", "VIEW_MISSING", "UNRECORDED", "STOPPED", "RESTARTED"),
    ]
    assert sorted(REASON_NUMBERS.values()) == list(range(1, 13))
    assert {state.value: number for state, number in STATE_NUMBERS.items()} == {
        **{"Preoperational": 1, "Halted": 2, "Error": 3, "Initialized": 5, "Ready": 6},
        **{"SingleExecution": 7, "ContinuousExecution": 8},
    }


def test_detail_is_canonical() -> None:
    """A detail is ASCII with sorted keys and no spaces, so that equal answers are equal bytes."""
    encoded, cut = details.encode(replace(an_answer(1, now_ns=10**10), detail="Prüfung"))
    assert not cut
    assert encoded.isascii()
    assert list(json.loads(encoded)) == sorted(json.loads(encoded))
    assert b" " not in encoded


def test_an_alarm_travels_with_every_heartbeat() -> None:
    """Its count stands in the header for controllers that read no JSON, the last one's words in the detail."""
    fields = {"epoch": 3, "last_sequence": 4, "opened": 5, "durable": 2, "sent_ns": 9}
    packed = wire.pack_state(State.READY, **fields, alarms=2, alarm="5 of the last 10 parts failed")
    message = wire.unpack(packed)
    assert isinstance(message, StateMessage)
    assert (message.alarms, message.alarm) == (2, "5 of the last 10 parts failed")
    assert wire.unpack(wire.pack_state(State.READY, **fields)) == StateMessage(State.READY, 3, 4, 5, 2, 9)
