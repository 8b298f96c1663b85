"""The published vectors, read by this code and by the C header that controls engineers paste."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from link_help import resealed
from make_vectors import VECTORS, vectors

from inspector.errors import LinkError
from inspector.link import wire
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

_DOCS = VECTORS.parents[1]
_NAMES = sorted(path.stem for path in VECTORS.glob("*.bin"))


def _load(name: str) -> tuple[list[bytes], dict[str, Any]]:
    content = (VECTORS / f"{name}.bin").read_bytes()
    said: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return [content[:128], content[128:]], said


def _said(message: Message) -> dict[str, Any]:
    """A message in the words of a vector's JSON."""
    fields = asdict(message)
    if isinstance(message, AnswerMessage):
        fields["answer"]["defects"] = [each._asdict() for each in message.answer.defects]
    said: dict[str, Any] = json.loads(json.dumps(fields, default=lambda word: word.value))
    if isinstance(message, AnswerMessage):
        del said["flags"], said["defect_count"]
        return {"kind": "ANSWER", "resent": Flag.RESENT in message.flags, **said}
    kinds: dict[type, str] = {
        **{StateMessage: "STATE", RefusedMessage: "REFUSED", HelloMessage: "HELLO", AckMessage: "ACK"},
        AnnounceMessage: "ANNOUNCE",
    }
    return {"kind": kinds[type(message)], **said}


@pytest.mark.parametrize("name", _NAMES)
def test_vector_reads_as_it_says(name: str) -> None:
    """Each published vector is read as its JSON says; the bad ones are refused."""
    frames, said = _load(name)
    flags = said.pop("flags")
    if said["kind"] == "none":
        with pytest.raises(LinkError):
            wire.unpack(frames)
        return
    message = wire.unpack(frames)
    assert _said(message) == said
    assert [flag.name for flag in Flag if frames[0][6] & flag] == flags


def test_vectors_are_what_is_sent_today() -> None:
    """The code writes each published vector byte for byte: the wire has not changed."""
    written = {name: b"".join(frames) for name, frames, _ in vectors()}
    assert sorted(written) == _NAMES
    assert [name for name in _NAMES if (VECTORS / f"{name}.bin").read_bytes() != written[name]] == []


def test_vectors_cover_every_kind_reason_and_state() -> None:
    """No kind, verdict, reason, state or flag is without a vector."""
    headers = [_load(name)[0][0] for name in _NAMES]
    good = [header for header, name in zip(headers, _NAMES, strict=True) if not name.startswith("bad-")]
    assert {header[5] for header in good} == set(Kind)
    assert {header[10] for header in good} == {0, *VERDICT_NUMBERS.values()}
    assert {header[11] for header in good} == {0, *REASON_NUMBERS.values()}
    assert {header[12] for header in good} == {0, *STATE_NUMBERS.values()}


_PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include "inspector_wire.h"

int main(int count, char **names)
{
    for (int i = 1; i < count; i++) {
        unsigned char bytes[INSPECTOR_MAX_MESSAGE_BYTES];
        FILE *file = fopen(names[i], "rb");
        if (!file) return 2;
        size_t length = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        struct inspector_header h;
        int rc = inspector_read(bytes, INSPECTOR_HEADER_BYTES, bytes + INSPECTOR_HEADER_BYTES,
                                length - INSPECTOR_HEADER_BYTES, &h);
        printf("{\"rc\":%d,\"kind\":%u,\"flags\":%u,\"verdict\":%u,\"reason\":%u,\"state\":%u,\"defect_count\":%u,"
               "\"epoch\":%u,\"left_us\":%d,\"sequence\":%llu,\"frame_id\":%lld,\"taken_ns\":%llu,"
               "\"settled_ns\":%llu,\"durable\":%llu,\"engine0\":%u,\"settings7\":%u,\"part_id\":\"%.32s\","
               "\"accept\":%d}\n",
               rc, h.kind, h.flags, h.verdict, h.reason, h.state, h.defect_count, h.epoch, h.left_us,
               (unsigned long long)h.sequence, (long long)h.frame_id, (unsigned long long)h.taken_ns,
               (unsigned long long)h.settled_ns, (unsigned long long)h.durable, h.engine[0], h.settings[7], h.part_id,
               rc == 0 && inspector_accept(&h));
    }
    struct inspector_header out;
    FILE *file = fopen("written.bin", "wb");
    inspector_write(&out, INSPECTOR_HELLO, 7, 12, 0, NULL);
    fwrite(&out, sizeof out, 1, file);
    inspector_write(&out, INSPECTOR_ACK, 7, 12, 0, NULL);
    fwrite(&out, sizeof out, 1, file);
    inspector_write(&out, INSPECTOR_ANNOUNCE, 0, 41, -123456789012LL, "bar-41");
    fwrite(&out, sizeof out, 1, file);
    return fclose(file);
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C header in a small program, compiled with all warnings as errors."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("c")
    (folder / "read.c").write_text(_PROGRAM)
    options = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsanitize=undefined", f"-I{_DOCS / 'wire'}"]
    subprocess.run([compiler, *options, "read.c", "-o", "read"], cwd=folder, check=True)
    return folder


def _expected(said: dict[str, Any]) -> dict[str, Any]:
    """The C fields that a vector's JSON gives."""
    kind = said["kind"]
    if kind == "ANSWER":
        answer = said["answer"]
        numbers = {
            "verdict": {v.value: number for v, number in VERDICT_NUMBERS.items()}[answer["verdict"]],
            "reason": {r.value: number for r, number in REASON_NUMBERS.items()}.get(answer["reason"], 0),
            "defect_count": len(answer["defects"]),
            "left_us": said["left_us"],
            "durable": said["durable"],
            "engine0": int(answer["hashes"]["engine"][:2] or "0", 16),
            "settings7": int(answer["hashes"]["settings"][-2:] or "0", 16),
            "part_id": answer["part_id"][:32],
            "accept": int(answer["verdict"] == "PASS" and said["left_us"] > 0),
        }
        same = ("epoch", "sequence", "frame_id", "taken_ns", "settled_ns")
        return {**numbers, **{name: answer[name] for name in same}}
    if kind == "STATE":
        state = {s.value: number for s, number in STATE_NUMBERS.items()}[said["state"]]
        renamed = {"sequence": said["last_sequence"], "frame_id": said["opened"], "settled_ns": said["sent_ns"]}
        return {"state": state, "epoch": said["epoch"], "durable": said["durable"], **renamed, "accept": 0}
    if kind == "ACK":
        return {"epoch": said["epoch"], "sequence": said["sequences"][0], "accept": 0}
    if kind == "HELLO":
        return {"epoch": said["epoch"], "sequence": said["last_sequence"], "accept": 0}
    if kind == "ANNOUNCE":
        return {"sequence": said["counter"], "frame_id": said["encoder"], "part_id": said["part_id"], "accept": 0}
    return {"accept": 0}


def test_c_header_reads_every_vector(compiled: Path) -> None:
    """The C struct compiles without a warning and reads every vector as its JSON says; bad ones it refuses."""
    files = [str(VECTORS / f"{name}.bin") for name in _NAMES]
    run = subprocess.run(["./read", *files], cwd=compiled, check=True, capture_output=True)
    assert not run.stderr, run.stderr
    lines = run.stdout.decode("utf-8").splitlines()
    for name, line in zip(_NAMES, lines, strict=True):
        found, (_, said) = json.loads(line), _load(name)
        assert (found["rc"] == 0) == (said["kind"] != "none"), name
        if said["kind"] != "none":
            assert found["kind"] == Kind[said["kind"]], name
            expected = _expected(said)
            assert {key: found[key] for key in expected} == expected, name


def test_c_header_writes_the_controllers_messages(compiled: Path) -> None:
    """HELLO, ACK and ANNOUNCE written in C are the published vectors byte for byte."""
    subprocess.run(["./read"], cwd=compiled, check=True, capture_output=True)
    written = (compiled / "written.bin").read_bytes()
    assert written == b"".join((VECTORS / f"{name}.bin").read_bytes() for name in ("hello", "ack", "announce"))


def test_document_names_every_number() -> None:
    """The tables of docs/wire-protocol.md name each kind, verdict, reason, state and flag with its number."""
    text = (_DOCS / "wire-protocol.md").read_text("utf-8")
    numbers = {
        **{kind.name: int(kind) for kind in Kind},
        **{verdict.value: number for verdict, number in VERDICT_NUMBERS.items()},
        **{reason.value: number for reason, number in REASON_NUMBERS.items()},
        **{state.value: number for state, number in STATE_NUMBERS.items()},
        **{str(flag.name): int(flag) for flag in Flag},
    }
    assert [name for name, number in numbers.items() if f"| {number} | {name} |" not in text] == []


def test_resealing_is_the_published_crc() -> None:
    """The tests' own CRC agrees with the published bytes, so that their mutations pass the CRC."""
    frames, _ = _load("answer-fail")
    assert resealed(frames[0], frames[1]) == frames
