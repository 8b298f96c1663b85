"""Builds the drill's GenTL producer (producer.c) and drives its faults while it runs.

The producer is a real ``.cti``: harvesters loads it like a vendor's. It serves raw frames from a file, or a pattern,
and shares one page of 64-bit words with :class:`ProducerControl`, so that faults are switched from outside, in another
process than the camera's. The indices below are those of the enum in producer.c.
"""

from __future__ import annotations

import enum
import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from types import TracebackType

from inspector.errors import CameraError

CONTROL_VARIABLE = "DRILL_GENTL_CONTROL"
"""Environment variable that tells the producer where its control page lies."""
SERIAL, MODEL, USER_NAME = "DRILL-1", "Drill", "bench"
_PAGE_BYTES, _PATH_AT, _MAGIC = 4096, 1024, 0x314C524450534E49
_FLAGS = ("-O2", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden")


class Fault(enum.IntEnum):
    """Words that a test or the drill sets. "Next" words are used up by the producer and fall back to 0."""

    INCOMPLETE_EVERY = 5
    """Every n-th frame since the start comes incomplete; 0 = none."""
    INCOMPLETE_NEXT = 6
    SKIP_EVERY = 7
    """Every n-th frame is taken and numbered but never delivered (a gap in the ids)."""
    SKIP_NEXT = 8
    STALL_MS = 9
    """Once: no picture is taken for so long; the ids do not advance."""
    BURST = 10
    """So many next frames come without waiting for their time."""
    TRUNCATE_NEXT = 13
    """So many next frames hold half their pixels though they call themselves complete."""
    PORT_HANG_MS = 14
    """Every register access takes so long: a dying link."""
    CRASH = 15
    """Once: the driver dies with SIGSEGV."""
    BACK = 16
    """Once: the next id lies so far behind the last one (a counter that restarts or repeats)."""
    FRAME_LIMIT = 17
    """No frame beyond so many since AcquisitionStart; 0 = no limit."""
    LINE1 = 18
    """Trigger input: each increment takes one picture while TriggerMode is On with source Line1."""
    STAMP = 19
    """1 = the first 8 bytes of each picture carry its shot number, little-endian."""
    REPEAT = 20
    """So many next frames carry the id of the frame before them."""
    CHATTER = 21
    """1 = the driver prints a line at every start."""


class Count(enum.IntEnum):
    """Words that the producer keeps."""

    SHOTS = 32
    """Pictures taken since the page was made, the lost ones included; picture n shows image n % N of the file."""
    DELIVERED = 33
    LAST_ID = 34
    UNDERRUNS = 35
    """Pictures lost because no buffer was queued."""
    INCOMPLETES = 36
    SKIPPED = 37
    STARTS = 38
    OPENS = 39
    OWNER = 40
    """Process that has the camera open; 0 = none."""
    RATE_MHZ = 41
    """Frame rate last written, in thousandths of a hertz."""
    TRIGGERS = 42
    STALLS = 43


def build_producer(cache_dir: Path) -> Path:
    """Compiles producer.c into ``cache_dir`` and returns the ``.cti``; an unchanged source is compiled once.

    Raises CameraError where gcc is missing or refuses the source."""
    source = resources.files("inspector.drill").joinpath("producer.c").read_bytes()
    name = hashlib.sha256(source + " ".join(_FLAGS).encode()).hexdigest()[:16]
    target = cache_dir / f"drill-{name}.cti"
    if target.is_file():
        return target
    compiler = shutil.which("gcc")
    if compiler is None:
        raise CameraError("the drill's GenTL producer cannot be built", expected="gcc", found="none", do="Install gcc.")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
        code, built = Path(folder) / "producer.c", Path(folder) / "drill.cti"
        code.write_bytes(source)
        done = subprocess.run(
            [compiler, *_FLAGS, "-o", str(built), str(code), "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise CameraError("gcc refuses the drill's GenTL producer", found=first)
        built.replace(target)  # atomic: a second builder finds all or nothing
    return target


class ProducerControl:
    """The control page of one producer, made before the producer is loaded.

    ``frames`` is a file of N raw Mono8 images of ``width`` x ``height`` one after the other; without it the picture
    is (x + y + shot) mod 256. ``first_id`` is the id of the first frame after each start, ``id_bits`` 16 wraps
    65535 -> 1."""

    def __init__(
        self,
        path: Path,
        *,
        width: int = 400,
        height: int = 400,
        frames: Path | None = None,
        first_id: int = 1,
        id_bits: int = 64,
        stamp: bool = True,
    ) -> None:
        if frames is not None and (frames.stat().st_size < width * height or frames.stat().st_size % (width * height)):
            raise CameraError(
                f"{frames} is not a file of raw frames",
                expected=f"a multiple of {width} x {height} bytes",
                found=f"{frames.stat().st_size} bytes",
            )
        self.path = path
        page = bytearray(_PAGE_BYTES)
        name = os.fsencode(frames.resolve()) if frames is not None else b""
        if len(name) >= _PAGE_BYTES - _PATH_AT:
            raise CameraError(f"path of the frames file is too long: {frames}")
        page[_PATH_AT : _PATH_AT + len(name)] = name
        path.write_bytes(page)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _PAGE_BYTES)
        self._words = memoryview(self._map).cast("Q")
        for word, value in enumerate((_MAGIC, width, height, first_id, id_bits)):
            self._words[word] = value
        self._words[Fault.STAMP] = int(stamp)

    @property
    def environment(self) -> dict[str, str]:
        """What the process that loads the producer needs in its environment."""
        return {CONTROL_VARIABLE: str(self.path)}

    def set(self, fault: Fault, value: int) -> None:
        """Switches a fault; takes effect with the next frame."""
        self._words[fault] = value

    def get(self, word: Fault | Count) -> int:
        """Reads a fault or a count."""
        return self._words[word]

    def trigger(self, pulses: int = 1) -> None:
        """Pulses the trigger input Line1."""
        self._words[Fault.LINE1] += pulses

    def pull(self) -> None:
        """Pulls the cable: no frames, every access fails, the device is no longer listed."""
        self._words[_PULL_COUNT] += 1
        self._words[_PULLED] = 1

    def plug(self) -> None:
        """Puts the cable back: the camera is listed again, with its power-on settings."""
        self._words[_PULLED] = 0

    @property
    def pulled(self) -> bool:
        return bool(self._words[_PULLED])

    def close(self) -> None:
        """Releases the page; the file stays, since a producer may still read it."""
        self._words.release()
        self._map.close()

    def __enter__(self) -> ProducerControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_PULLED, _PULL_COUNT = 11, 12
