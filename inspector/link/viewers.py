"""The viewers' socket: every answer with mask and image for whoever listens. Loss is harmless and counted.

A message has six frames: topic ``answer``, header, detail (both as on the controller's link), meta (JSON), mask and
image (lossless PNG, or empty)."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import zmq

from inspector.clock import Clock
from inspector.errors import LinkError
from inspector.frame import BoolMap, Grey, Settled
from inspector.link import detail as details
from inspector.link import wire
from inspector.link.keys import ClientKeys, CurveKeys, Doorman
from inspector.link.messages import AnswerMessage
from inspector.link.sockets import bind, check_exposure, harden_tcp

TOPIC = b"answer"
MAX_FRAME_BYTES = 64 << 20
_MAX_PIXELS = 64 << 20
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@dataclass(frozen=True, slots=True)
class Viewed:
    """One publication as a viewer reads it."""

    message: AnswerMessage
    published: int
    """Running number of the publication; a gap counts what this viewer lost."""
    mask: BoolMap | None
    """H x W bool, as the engine's map; None where none was found or sent."""
    image: Grey | None
    """H x W uint8 as the engine saw the part."""
    image_png: bytes = b""
    """The same as it came, for who passes it on; empty where there is none."""


@dataclass(frozen=True, slots=True)
class ViewersStatistics:
    """Counts since ``open``."""

    published: int = 0
    failed: int = 0
    """Publications that could not be written or sent; their numbers are missing at every viewer."""
    bytes_sent: int = 0
    authenticating: bool = True


class ViewersLink:
    """A PUB socket. The thread that calls ``open`` owns it. A viewer that is too slow loses parts, nobody waits."""

    def __init__(
        self,
        endpoint: str,
        clock: Clock,
        keys: CurveKeys | None = None,
        *,
        images: bool = False,
        allow_plaintext: bool = False,
        hwm: int = 64,
    ) -> None:
        """Nothing is opened yet. Raises ConfigError where plaintext would leave this host without being allowed."""
        check_exposure(endpoint, encrypted=keys is not None, allow_plaintext=allow_plaintext)
        self._wanted, self._clock, self._keys, self._images, self._hwm = endpoint, clock, keys, images, hwm
        self._endpoint = ""
        self._owner = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._doorman: Doorman | None = None
        self._published = self._failed = self._bytes_sent = 0

    @property
    def endpoint(self) -> str:
        """The bound endpoint with its real port; empty before ``open``."""
        return self._endpoint

    def open(self) -> None:
        """Bind. Raises LinkError (port in use) or ConfigError (endpoint, keys)."""
        self._owner = threading.get_ident()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        try:
            self._socket.setsockopt(zmq.SNDHWM, self._hwm)  # per viewer; more than that is lost to that viewer
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.MAXMSGSIZE, 4096)  # viewers send subscriptions only
            harden_tcp(self._socket)
            if self._keys is not None:
                self._doorman = Doorman(self._context, self._keys)
                self._doorman.start()
                self._doorman.protect(self._socket)
            self._endpoint = bind(self._socket, self._wanted)
        except BaseException:
            self.close(0)
            raise

    def publish(self, settled: Settled, *, durable: int = 0) -> None:
        """Send a settled part to all viewers. Never blocks, never raises for a part that cannot be shown: it counts."""
        if self._socket is None or threading.get_ident() != self._owner:
            raise RuntimeError("the viewers' socket belongs to the thread that opened it, until it is closed")
        self._published += 1
        try:
            frames = encode(settled, self._published, now_ns=self._clock.now_ns(), durable=durable, images=self._images)
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except (LinkError, zmq.Again):
            self._failed += 1
            return
        self._bytes_sent += sum(map(len, frames))

    def reload_keys(self) -> None:
        """Read the allowed keys again, for viewers that connect from now on. Raises ConfigError."""
        if self._doorman is not None:
            self._doorman.reload()

    def statistics(self) -> ViewersStatistics:
        """A snapshot. Any thread."""
        alive = self._keys is None or (self._doorman is not None and self._doorman.alive)
        return ViewersStatistics(self._published, self._failed, self._bytes_sent, alive)

    def close(self, linger_s: float = 0.0) -> None:
        """Close; what viewers have not taken by then is lost. Idempotent."""
        if self._socket is not None:
            self._socket.close(linger=int(linger_s * 1000))
            self._socket = None
        if self._doorman is not None:
            self._doorman.stop()
        if self._context is not None:
            self._context.term()
            self._context = None


def encode(settled: Settled, published: int, *, now_ns: int, durable: int = 0, images: bool = False) -> list[bytes]:
    """The six frames of a publication. Raises LinkError for an answer or an image that cannot be written."""
    answer, evidence = settled.answer, settled.evidence
    header, detail = wire.pack_answer(answer, left_us=(answer.due_ns - now_ns) // 1000, durable=durable)
    mask = b"" if evidence.mask is None else _to_png(evidence.mask.astype(np.uint8) * np.uint8(255), bilevel=True)
    image = _to_png(evidence.image, bilevel=False) if images and evidence.image is not None else b""
    meta = details.canonical({"published": published})
    return [TOPIC, header, detail, meta, mask, image]


def decode(frames: list[bytes]) -> Viewed:
    """Read a publication. Raises LinkError on anything malformed."""
    if len(frames) != 6 or frames[0] != TOPIC:
        raise LinkError("publication has the wrong form", expected="6 frames, topic 'answer'", found=str(len(frames)))
    message = wire.unpack(frames[1:3])
    if not isinstance(message, AnswerMessage):
        raise LinkError("publication has the wrong form", expected="an answer", found=type(message).__name__)
    published = details.whole(details.parse(frames[3]), "published")
    mask = _from_png(frames[4])
    return Viewed(message, published, None if mask is None else mask > 0, _from_png(frames[5]), frames[5])


class ViewerFeed:
    """A viewer's end: a SUB socket that counts what it lost. One thread opens, reads and closes it."""

    def __init__(self, endpoint: str, keys: ClientKeys | None = None, *, hwm: int = 16) -> None:
        self.received = self.lost = self.malformed = 0
        self._last = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, hwm)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        harden_tcp(self._socket)
        if keys is not None:
            keys.protect(self._socket)
        self._socket.setsockopt(zmq.SUBSCRIBE, TOPIC)
        self._socket.connect(endpoint)

    def next(self, timeout_s: float) -> Viewed | None:
        """The next publication; None when none came in time. A malformed one is counted and skipped."""
        while self._socket.poll(int(timeout_s * 1000)):
            try:
                viewed = decode(self._socket.recv_multipart(zmq.NOBLOCK))
            except LinkError:
                self.malformed += 1
                continue
            if 0 < self._last < viewed.published:
                self.lost += viewed.published - self._last - 1
            self._last = viewed.published
            self.received += 1
            return viewed
        return None

    def close(self) -> None:
        """Close; idempotent."""
        self._socket.close(linger=0)
        self._context.term()


def _to_png(image: Grey, *, bilevel: bool) -> bytes:
    import cv2  # only a daemon with viewers pays for loading it

    options = [cv2.IMWRITE_PNG_BILEVEL, 1] if bilevel else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    try:
        written, encoded = cv2.imencode(".png", image, options)
    except cv2.error as error:
        raise LinkError("image cannot be written", expected="H x W uint8", found=str(image.shape)) from error
    if not written:
        raise LinkError("image cannot be written", expected="H x W uint8", found=str(image.shape))
    return bytes(encoded)


def _from_png(encoded: bytes) -> Grey | None:
    if not encoded:
        return None
    import cv2

    # the size is checked before a decoder allocates what a few bytes may claim
    width, height = (int.from_bytes(encoded[at : at + 4], "big") for at in (16, 20))
    if not encoded.startswith(_PNG) or not 0 < width * height <= _MAX_PIXELS:
        raise LinkError("image cannot be read", expected="a PNG of at most 64 Mpx", found=f"{width} x {height}")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error as error:
        raise LinkError("image cannot be read", expected="a PNG", found=str(error)[:80]) from error
    if image is None:
        raise LinkError("image cannot be read", expected="a PNG", found=f"{len(encoded)} bytes")
    return np.asarray(image, np.uint8)
