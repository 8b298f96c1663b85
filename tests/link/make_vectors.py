"""Writes docs/wire/vectors: one .bin (header, then detail) and one .json (what it says) for each vector.

Run it only when a vector is added: ``python tests/link/make_vectors.py``. A vector that is published never changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from inspector.frame import Answer, Defect, Hashes, Reason, Shape, State, Verdict
from inspector.link import wire
from inspector.link.messages import Flag

VECTORS = Path(__file__).resolve().parents[2] / "docs" / "wire" / "vectors"

_PASS = Answer(
    epoch=7,
    sequence=1,
    part_id="C-000001",
    frame_id=1001,
    verdict=Verdict.PASS,
    reason=None,
    review=False,
    rules=(),
    defects=(),
    score=0.125,
    taken_ns=81_000_000_000,
    due_ns=81_140_000_000,
    settled_ns=81_023_500_000,
    wall_ns=1_790_000_000_000_000_000,
    hashes=Hashes("0123456789abcdef", "fedcba9876543210", "00000000000000ff"),
    stages_us=(("locate", 812), ("infer", 20_950), ("decide", 240)),
)
_SCRATCH = Defect(
    area_px=84.0,
    length_px=31.5,
    width_px=2.75,
    x_px=412.25,
    y_px=96.5,
    box=(101, 22, 30, 9),
    score_mean=0.8125,
    score_max=0.984375,
    shape=Shape.STRIP,
    zone="contact",
    area_mm2=0.21,
    length_mm=1.575,
    width_mm=0.1375,
)
_DUST = Defect(3.0, 2.0, 1.5, 10.0, 20.0, (2, 5, 2, 2), 0.53125, 0.5625, Shape.POINT, counts=False)
_FAIL = replace(
    _PASS,
    sequence=2,
    part_id="Läufer 7",
    frame_id=1002,
    verdict=Verdict.FAIL,
    review=True,
    rules=("length 31.5 px > 20 px",),
    defects=(_SCRATCH, _DUST),
    score=0.984375,
)
_MISSED = replace(
    _PASS,
    sequence=2**53 + 1,
    part_id="",
    frame_id=-1,
    verdict=Verdict.INVALID,
    reason=Reason.MISSED,
    score=0.0,
    hashes=Hashes(),
    stages_us=(),
    detail="frame 1003 never came",
)
_LONG_ID = replace(_PASS, sequence=3, part_id="batch-2026-11-22/line-4/part-000000003.png", epoch=2**32 - 1)


def _answer_fields(answer: Answer, left_us: int, durable: int, resent: bool) -> dict[str, Any]:
    fields = asdict(answer)
    fields["verdict"] = answer.verdict.value
    fields["reason"] = None if answer.reason is None else answer.reason.value
    fields["defects"] = tuple(each._asdict() | {"shape": each.shape.value} for each in answer.defects)
    return {"kind": "ANSWER", "answer": fields, "left_us": left_us, "durable": durable, "resent": resent}


def vectors() -> Iterator[tuple[str, list[bytes], dict[str, Any]]]:
    """(name, frames, what they say) of each vector."""
    for name, answer, left_us, durable, resent in (
        ("answer-pass", _PASS, 116_500, 0, False),
        ("answer-pass-resent", _PASS, 66_000, 1, True),
        ("answer-pass-too-late", _PASS, -1, 1, True),
        ("answer-fail", _FAIL, 100_000, 1, False),
        ("answer-invalid-missed", _MISSED, 2**31 - 1, 2**53, False),
        ("answer-long-part-id", _LONG_ID, 5_000, 2, False),
        *(
            (
                f"answer-invalid-{reason.value.lower().replace('_', '-')}",
                replace(_MISSED, reason=reason),
                -5000,
                0,
                False,
            )
            for reason in Reason
            if reason is not Reason.MISSED
        ),
    ):
        frames = wire.pack_answer(answer, left_us=left_us, durable=durable, resent=resent)
        yield name, frames, _answer_fields(answer, left_us, durable, resent)
    yield (
        "answer-pass-unqualified",
        wire.pack_answer(_PASS, left_us=116_500, durable=0, qualified=False),
        _answer_fields(_PASS, 116_500, 0, False),
    )
    for state in State:
        fields = {"epoch": 7, "last_sequence": 12, "opened": 14, "durable": 11, "sent_ns": 81_200_000_000}
        yield (
            f"state-{state.value.lower()}",
            wire.pack_state(state, **fields),
            {"kind": "STATE", "state": state.value, **fields, "alarms": 0, "alarm": ""},
        )
    told = {"alarms": 2, "alarm": "5 of the last 10 parts failed, alarm at 5"}
    yield (
        "state-alarm",
        wire.pack_state(State.CONTINUOUS_EXECUTION, **fields, alarms=2, alarm=str(told["alarm"])),
        {"kind": "STATE", "state": State.CONTINUOUS_EXECUTION.value, **fields, **told},
    )
    yield "refused", wire.pack_refused("version 9", epoch=7), {"kind": "REFUSED", "why": "version 9", "epoch": 7}
    yield "hello-first", wire.pack_hello(0, 0), {"kind": "HELLO", "epoch": 0, "last_sequence": 0}
    yield "hello", wire.pack_hello(7, 12), {"kind": "HELLO", "epoch": 7, "last_sequence": 12}
    yield "ack", wire.pack_ack(7, [12]), {"kind": "ACK", "epoch": 7, "sequences": [12]}
    yield (
        "ack-batch",
        wire.pack_ack(7, [12, 13, 2**64 - 1]),
        {"kind": "ACK", "epoch": 7, "sequences": [12, 13, 2**64 - 1]},
    )
    for name, counter, part_id, encoder, resent in (
        ("announce", 41, "bar-41", -123_456_789_012, False),
        ("announce-resent", 41, "bar-41", -123_456_789_012, True),
        ("announce-bare", 42, "", 0, False),
    ):
        said = {"kind": "ANNOUNCE", "counter": counter, "part_id": part_id, "encoder": encoder, "resent": resent}
        yield name, wire.pack_announce(counter, part_id, encoder, resent=resent), said
    yield from _refused()


def _refused() -> Iterator[tuple[str, list[bytes], dict[str, Any]]]:
    header, detail = wire.pack_answer(_PASS, left_us=116_500, durable=0)
    for name, changed, why in (
        ("bad-magic", b"INSQ" + header[4:], "wrong magic"),
        ("bad-version", header[:4] + b"\x02" + header[5:], "version 2"),
        ("bad-crc", header[:10] + b"\x02" + header[11:], "verdict changed on the way: the CRC does not fit"),
        ("bad-crc-field", header[:-1] + bytes([header[-1] ^ 1]), "the CRC field itself is damaged"),
        ("bad-length", header[:120] + b"\x01\x00\x00\x00" + header[124:], "detail length does not fit"),
    ):
        yield name, [changed, detail], {"kind": "none", "why": why}


def main() -> None:
    """Write all vectors; refuses to change one that stands."""
    VECTORS.mkdir(parents=True, exist_ok=True)
    for name, frames, said in vectors():
        said = {**said, "flags": [flag.name for flag in Flag if frames[0][6] & flag]}
        for path, content in (
            (VECTORS / f"{name}.bin", b"".join(frames)),
            (VECTORS / f"{name}.json", (json.dumps(said, indent=1, sort_keys=True) + "\n").encode()),
        ):
            if path.exists() and path.read_bytes() != content:
                raise SystemExit(f"{path} would change; a published vector never does. Add a new one.")
            path.write_bytes(content)


if __name__ == "__main__":
    main()
