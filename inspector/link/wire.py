"""The wire protocol: messages as two frames of bytes. Pure functions, no sockets; docs/wire-protocol.md is its text.

Frame 1 is a fixed little-endian header of 128 bytes, frame 2 is JSON or empty. The CRC-32 covers both."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from inspector.errors import LinkError
from inspector.frame import Answer, Hashes, State, Verdict
from inspector.link import detail as details
from inspector.link.fields import check_part_id, hash_field, hash_text, part_id_field, part_id_text
from inspector.link.messages import (
    REASON_NUMBERS,
    STATE_NUMBERS,
    VERDICT_NUMBERS,
    AckMessage,
    AnnounceMessage,
    AnswerMessage,
    Flag,
    HelloMessage,
    Kind,
    Message,
    RefusedMessage,
    StateMessage,
)

MAGIC = b"INSP"
VERSION = 1
HEADER = struct.Struct("<4sBBHHBBBBHIiQqQQQ8s8s8s32sII")
HEADER_BYTES = 128
MAX_MESSAGE_BYTES = 65_536
"""Longest header + detail that is read."""
MAX_ACKS = 256
"""Sequences in one ACK message."""
_FLAGS_AT, _LEFT_AT, _DURABLE_AT, _CRC_AT = 6, 20, 56, 124


_VERDICTS = {number: verdict for verdict, number in VERDICT_NUMBERS.items()}
_REASONS = {number: reason for reason, number in REASON_NUMBERS.items()}
_STATES = {number: state for state, number in STATE_NUMBERS.items()}
_KINDS = {int(kind) for kind in Kind}
_KNOWN_FLAGS = sum(Flag)
# Plain numbers: Flag's own arithmetic takes a microsecond each time, several in a cold cache.
_RESENT, _REVIEW, _CUT = int(Flag.RESENT), int(Flag.REVIEW), int(Flag.CUT)
_PART_ID_CUT, _UNQUALIFIED = int(Flag.PART_ID_CUT), int(Flag.UNQUALIFIED)
_COUNT_LIMIT = 0xFFFF
_INT64_MAX = (1 << 63) - 1
_ALARM_LIMIT = 200


@dataclass(frozen=True, slots=True)
class _Header:
    kind: Kind
    flags: Flag
    verdict: int
    reason: int
    state: int
    defect_count: int
    epoch: int
    left_us: int
    sequence: int
    frame_id: int
    taken_ns: int
    settled_ns: int
    durable: int
    hashes: tuple[bytes, bytes, bytes]
    part_id: bytes


def pack_answer(
    answer: Answer, *, left_us: int, durable: int, resent: bool = False, qualified: bool = True
) -> list[bytes]:
    """An answer as [header, detail]. Same answer, same bytes, but for left_us, durable, RESENT, UNQUALIFIED and CRC.

    A part id above 32 bytes and a detail above 60 000 bytes are cut and flagged, never refused: an answer must go out.
    Raises LinkError for what no part of the line may produce: a number out of range, NaN, a reason that does not
    belong to the verdict, a hash that is not 16 hex digits."""
    if (answer.verdict is Verdict.INVALID) != (answer.reason is not None):
        raise LinkError("answer contradicts itself", found=f"{answer.verdict.value} with reason {answer.reason}")
    encoded, cut = details.encode(answer)
    part_id, part_id_cut = part_id_field(answer.part_id)
    flags = _RESENT * resent + _REVIEW * answer.review + _CUT * cut
    flags += _PART_ID_CUT * part_id_cut + _UNQUALIFIED * (not qualified)
    hashes = answer.hashes
    return _pack(
        Kind.ANSWER,
        encoded,
        flags=flags,
        verdict=VERDICT_NUMBERS[answer.verdict],
        reason=0 if answer.reason is None else REASON_NUMBERS[answer.reason],
        defect_count=min(len(answer.defects), _COUNT_LIMIT),
        epoch=answer.epoch,
        left_us=clamp_left_us(left_us),
        sequence=answer.sequence,
        frame_id=min(answer.frame_id, _INT64_MAX),  # some cameras say 2^64 - 1 for "none"
        taken_ns=answer.taken_ns,
        settled_ns=answer.settled_ns,
        durable=durable,
        hashes=(hash_field(hashes.engine), hash_field(hashes.calibration), hash_field(hashes.settings)),
        part_id=part_id,
    )


def pack_state(
    state: State,
    *,
    epoch: int,
    last_sequence: int,
    opened: int,
    durable: int,
    sent_ns: int,
    alarms: int = 0,
    alarm: str = "",
) -> list[bytes]:
    """The heartbeat. ``alarms``: how many began in this epoch, ``alarm``: the last of them in words."""
    encoded = details.canonical({"alarm": alarm[:_ALARM_LIMIT]}) if alarm else b""
    return _pack(
        Kind.STATE,
        encoded,
        state=STATE_NUMBERS[state],
        defect_count=min(alarms, _COUNT_LIMIT),
        epoch=epoch,
        sequence=last_sequence,
        frame_id=opened,
        durable=durable,
        settled_ns=sent_ns,
    )


def pack_refused(why: str, *, epoch: int) -> list[bytes]:
    """Reply to a message that cannot be used; ``why`` is cut to 200 characters."""
    return _pack(Kind.REFUSED, details.canonical({"why": why[:200]}), epoch=epoch)


def pack_hello(epoch: int, last_sequence: int) -> list[bytes]:
    """HELLO of a controller whose last received answer is (epoch, last_sequence)."""
    return _pack(Kind.HELLO, epoch=epoch, sequence=last_sequence)


def pack_ack(epoch: int, sequences: Sequence[int]) -> list[bytes]:
    """ACK of 1 to MAX_ACKS answers of one epoch; a single one needs no detail."""
    if not 1 <= len(sequences) <= MAX_ACKS:
        raise LinkError("ACK cannot be written", expected=f"1 to {MAX_ACKS} sequences", found=str(len(sequences)))
    if not all(0 <= sequence < 1 << 64 for sequence in sequences):
        raise LinkError("ACK cannot be written", expected="sequences of 64 bits", found=repr(sequences)[:80])
    encoded = b"" if len(sequences) == 1 else details.canonical({"sequences": list(sequences)})
    return _pack(Kind.ACK, encoded, epoch=epoch, sequence=sequences[0])


def pack_announce(counter: int, part_id: str, encoder: int, *, resent: bool = False) -> list[bytes]:
    """ANNOUNCE of one part. Raises LinkError where the part id does not fit."""
    flags = _RESENT * resent
    return _pack(Kind.ANNOUNCE, flags=flags, sequence=counter, frame_id=encoder, part_id=check_part_id(part_id))


def restamp(frames: Sequence[bytes], *, left_us: int, durable: int, resent: bool) -> list[bytes]:
    """The same answer at another time: only left_us, durable, RESENT and the CRC differ."""
    header = bytearray(frames[0])
    flags = int.from_bytes(header[_FLAGS_AT : _FLAGS_AT + 2], "little")
    flags = flags | _RESENT if resent else flags & ~_RESENT
    struct.pack_into("<H", header, _FLAGS_AT, flags)
    struct.pack_into("<i", header, _LEFT_AT, clamp_left_us(left_us))
    struct.pack_into("<Q", header, _DURABLE_AT, durable)
    struct.pack_into("<I", header, _CRC_AT, _crc(header, frames[1]))
    return [bytes(header), bytes(frames[1])]


def content_digest(frames: Sequence[bytes]) -> bytes:
    """16 bytes that name an answer's content: equal for two copies of one answer, whenever they were sent.

    UNQUALIFIED is no content: it speaks of the station, which may be qualified between two sendings."""
    still = restamp(frames, left_us=0, durable=0, resent=False)
    still[0] = _without(still[0], Flag.UNQUALIFIED)
    return hashlib.blake2b(still[0][:_CRC_AT] + still[1], digest_size=16).digest()


def _without(header: bytes, flag: Flag) -> bytes:
    flags = int.from_bytes(header[_FLAGS_AT : _FLAGS_AT + 2], "little") & ~flag
    return header[:_FLAGS_AT] + flags.to_bytes(2, "little") + header[_FLAGS_AT + 2 :]


def clamp_left_us(left_us: int) -> int:
    """Microseconds as the header holds them: 32 bits with sign, about 35 minutes either way."""
    return max(-0x8000_0000, min(0x7FFF_FFFF, left_us))


def unpack(frames: Sequence[bytes], *, max_bytes: int = MAX_MESSAGE_BYTES) -> Message:
    """Read one message. Raises LinkError, in one line, on anything that is not exactly one."""
    if len(frames) != 2:
        raise LinkError("message has the wrong form", expected="2 frames", found=str(len(frames)))
    if len(frames[0]) + len(frames[1]) > max_bytes:
        raise LinkError("message is too long", expected=f"at most {max_bytes} bytes", found=str(sum(map(len, frames))))
    header, encoded = _read_header(bytes(frames[0]), bytes(frames[1])), bytes(frames[1])
    if header.kind is Kind.ANSWER:
        return _read_answer(header, encoded)
    if header.kind is Kind.REFUSED:
        return RefusedMessage(details.text(details.parse(encoded), "why"), header.epoch)
    if header.kind is Kind.ACK:
        return AckMessage(header.epoch, _read_sequences(header, encoded))
    if header.kind is Kind.STATE:
        return _read_state(header, encoded)
    if encoded:
        raise LinkError(
            f"{header.kind.name} has a detail", expected="an empty second frame", found=f"{len(encoded)} bytes"
        )
    if header.kind is Kind.HELLO:
        return HelloMessage(header.epoch, header.sequence)
    resent = Flag.RESENT in header.flags
    return AnnounceMessage(header.sequence, part_id_text(header.part_id), header.frame_id, resent)


def _pack(
    kind: Kind,
    encoded: bytes = b"",
    *,
    flags: int = 0,
    verdict: int = 0,
    reason: int = 0,
    state: int = 0,
    defect_count: int = 0,
    epoch: int = 0,
    left_us: int = 0,
    sequence: int = 0,
    frame_id: int = 0,
    taken_ns: int = 0,
    settled_ns: int = 0,
    durable: int = 0,
    hashes: tuple[bytes, bytes, bytes] = (b"", b"", b""),
    part_id: bytes = b"",
) -> list[bytes]:
    try:
        header = HEADER.pack(
            *(MAGIC, VERSION, kind, flags, HEADER_BYTES, verdict, reason, state, 0, defect_count, epoch, left_us),
            *(sequence, frame_id, taken_ns, settled_ns, durable, *hashes, part_id, len(encoded), 0),
        )
    except struct.error as error:
        raise LinkError(f"{kind.name} cannot be written", expected="numbers in range", found=str(error)) from error
    return [header[:_CRC_AT] + struct.pack("<I", _crc(header, encoded)), encoded]


def _crc(header: bytes | bytearray, encoded: bytes) -> int:
    return zlib.crc32(encoded, zlib.crc32(header[:_CRC_AT]))


def _read_header(header: bytes, encoded: bytes) -> _Header:
    if len(header) < 8 or header[:4] != MAGIC:
        raise LinkError(
            "message has the wrong form", expected=f"a header that starts with {MAGIC.decode()}", found=repr(header[:8])
        )
    if header[4] != VERSION:
        raise LinkError("message has an unsupported version", expected=str(VERSION), found=str(header[4]))
    if len(header) != HEADER_BYTES:
        raise LinkError("header has the wrong length", expected=str(HEADER_BYTES), found=str(len(header)))
    (_, _, kind, flags, header_bytes, verdict, reason, state, reserved, *rest, detail_bytes, crc) = HEADER.unpack(
        header
    )
    if header_bytes != HEADER_BYTES or reserved != 0:
        raise LinkError(
            "header contradicts itself",
            expected=f"length {HEADER_BYTES}, reserved 0",
            found=f"{header_bytes}, {reserved}",
        )
    if detail_bytes != len(encoded):
        raise LinkError("detail has the wrong length", expected=f"{detail_bytes} bytes", found=str(len(encoded)))
    if crc != _crc(header, encoded):
        raise LinkError("message is damaged", expected="a matching CRC", found=f"{crc:08x}")
    if kind not in _KINDS:
        raise LinkError("message has an unknown kind", expected=", ".join(each.name for each in Kind), found=str(kind))
    count, epoch, left_us, sequence, frame_id, taken_ns, settled_ns, durable, engine, calibration, settings, part_id = (
        rest
    )
    return _Header(
        *(Kind(kind), Flag(flags & _KNOWN_FLAGS), verdict, reason, state, count, epoch, left_us, sequence, frame_id),
        *(taken_ns, settled_ns, durable, (engine, calibration, settings), part_id),
    )


def _read_answer(header: _Header, encoded: bytes) -> AnswerMessage:
    verdict = _VERDICTS.get(header.verdict)
    reason = _REASONS.get(header.reason)
    if (
        verdict is None
        or (reason is None and header.reason != 0)
        or (verdict is Verdict.INVALID) != (reason is not None)
    ):
        raise LinkError(
            "answer contradicts itself",
            expected="a known verdict, with a known reason exactly when it is INVALID",
            found=f"verdict {header.verdict}, reason {header.reason}",
        )
    found = details.decode(encoded)
    if part_id_field(found.part_id) != (header.part_id, Flag.PART_ID_CUT in header.flags):
        raise LinkError("part id differs between header and detail", found=repr(found.part_id)[:80])
    listed = len(found.defects)
    if listed > header.defect_count or (listed < header.defect_count and Flag.CUT not in header.flags):
        raise LinkError("defects are missing", expected=str(header.defect_count), found=str(listed))
    engine, calibration, settings = (hash_text(field) for field in header.hashes)
    answer = Answer(
        epoch=header.epoch,
        sequence=header.sequence,
        part_id=found.part_id,
        frame_id=header.frame_id,
        verdict=verdict,
        reason=reason,
        review=Flag.REVIEW in header.flags,
        rules=found.rules,
        defects=found.defects,
        score=found.score,
        taken_ns=header.taken_ns,
        due_ns=found.due_ns,
        settled_ns=header.settled_ns,
        wall_ns=found.wall_ns,
        hashes=Hashes(engine, calibration, settings),
        stages_us=found.stages_us,
        detail=found.detail,
    )
    return AnswerMessage(answer, header.left_us, header.durable, header.flags, header.defect_count)


def _read_state(header: _Header, encoded: bytes) -> StateMessage:
    state = _STATES.get(header.state)
    if state is None:
        raise LinkError("state is unknown", expected="a number of the state table", found=str(header.state))
    alarm = details.text(details.parse(encoded), "alarm") if encoded else ""
    return StateMessage(
        *(state, header.epoch, header.sequence, header.frame_id, header.durable, header.settled_ns),
        *(header.defect_count, alarm),
    )


def _read_sequences(header: _Header, encoded: bytes) -> tuple[int, ...]:
    if not encoded:
        return (header.sequence,)
    found = details.items(details.parse(encoded), "sequences")
    if not 1 <= len(found) <= MAX_ACKS or found[0] != header.sequence:
        raise LinkError(
            "ACK cannot be read", expected=f"1 to {MAX_ACKS} sequences, the header's first", found=repr(found)[:80]
        )
    for sequence in found:
        if not isinstance(sequence, int) or isinstance(sequence, bool) or not 0 <= sequence < 1 << 64:
            raise LinkError("ACK cannot be read", expected="whole numbers of 64 bits", found=repr(sequence)[:80])
    return tuple(found)
