"""Random requests to the page's own routes, made from their table, over real sockets to the real server.

Each request follows from (seed, number) alone, but for the tokens of the parts on the table, which the server draws.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import random
import re
import socket
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

import cv2
import numpy as np

from inspector.clock import Clock
from inspector.page.access import RULES, Rule
from inspector.page.app import Page, static_folder
from inspector.page.sessions import COOKIE
from tests.page.page_kit import USERS

ALARMS = 8
"""Alarms that the page should hold."""
ANSWER_S = 20.0
"""No answer for so long is a hang."""
_BODY_MAX = 3 << 20
_FILES = [str(path.relative_to(static_folder())) for path in sorted(static_folder().rglob("*")) if path.is_file()]
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "BREW")
JUDGES = ("quentin",)
FIELDS = ("name", "password", "back", "opinion", "note", "mask", "number")
QUERIES = ("verdict", "reason", "shape", "zone", "part", "since", "until", "before", "window", "reference", "back")
PLAIN = (
    "PASS", "FAIL", "INVALID", "LATE", "MISSED", "strip", "bar", "-", "part-1", "2026-11-22", "1", "30", "24h", "truth",
    "defect", "good", "cannot_tell", "/rejects", "000001-000000005", "000001-000000005.png", "page.js", "",
)  # fmt: skip
NASTY = (
    "../../../../etc/passwd", "..\\..\\users.json", "/etc/passwd", "....//users.json", "\0", "a\0b", "-1", "0", "1e999",
    "NaN", "9" * 18, "9" * 19, str((1 << 63) - 1), str(1 << 63), "9" * 5000, "٣", "²", "0001-01-01", "9999-12-31",
    "2026-02-30", "10000-01-01", "' OR 1=1 --", "%_%", "{{7*7}}", "<script>alert(1)</script>", "\r\nSet-Cookie: a=b",
    "\U0001f600", "\ufeff", "\U0010ffff", "e\u0301" * 50, "=1+1", "//evil.example/", "/\\evil.example", "\x7f",
    "000000-000000000", "999999-999999999", "9999999999999999999-9999999999999999999", "000001-000000005-",
    "x" * 300, "x" * 9000,
)  # fmt: skip
_RUBBISH = b"zz\r\n"
"""Where a chunk should begin."""
_RAW = ("%", "%zz", "%ff%fe", "%ed%a0%80", "%2e%2e%2f%2e%2e%2fusers.json", "%252e%252e", "..;/", "%00", "%2f%2f", "~")
_JUNK_HEADERS = (
    ("Range", "bytes=0-0"), ("Range", "bytes=5-1"), ("Range", "bytes=-0"), ("Range", "bytes=0-1,2-3,0-99999999999"),
    ("Range", "lines=1-"), ("Range", "bytes=" + "0-1," * 400), ("If-None-Match", "*"), ("If-Range", "x"),
    ("If-Modified-Since", "yesterday"), ("Accept", "text/html"), ("Accept", "\xff"), ("HX-Request", "true"),
    ("Expect", "100-continue"), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Last-Event-ID", "9" * 400),
    ("X-Forwarded-For", "127.0.0.1"), ("Content-Encoding", "gzip"), ("Accept-Encoding", "gzip;q=nan"), ("Cookie", "a"),
    ("Cookie", f"{COOKIE}=" + "x" * 400), ("Cookie", ";;=;=" * 50), ("Big", "x" * 12_000), ("Big", "x" * 40_000),
    ("X-\xe9", "y"), ("Referer", "\x01"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-origin"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shot:
    """One request."""

    number: int
    rule: Rule
    head: bytes
    body: bytes
    may: bool
    """Whether this rule admits whoever asks; a POST also only from our own page."""
    is_cut: bool
    """The connection ends in the middle of it; no answer is expected."""
    is_straight: bool
    """Its address is the rule's own, so that the rule must have decided."""


@dataclass(slots=True)
class Found:
    """What came of it."""

    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    admitted: Counter[str] = field(default_factory=Counter)
    """Requests by route that were answered with 2xx, or sent on to another page than the login."""
    slowest_ms: float = 0.0
    faults: list[str] = field(default_factory=list)
    """500s, unexplained 503s, hangs, answers that are none, and what was let in that must not be."""


class Fuzzer:
    """Shoots at one page with users that is served at ``url``."""

    def __init__(self, page: Page, url: str, seed: int, clock: Clock) -> None:
        parts = urlsplit(url)
        self._place, self._own = (parts.hostname or "", parts.port or 0), f"http://localhost:{parts.port}"
        self._seed, self._clock, self._alarms = seed, clock, page.alarms
        self._cookies = {name: page.sessions.issue(user) for name in USERS if (user := page.users.get(name))}
        self._tokens: list[str] = []
        self.found = Found()

    def run(self, requests: int) -> Found:
        """So many requests, one after another."""
        for number in range(ALARMS):
            self._alarms.tell(f"alarm {number}", "for the fuzz", "none", self._clock.wall_ns())
        for number in range(requests):
            chance = random.Random(f"{self._seed}/{number}")
            if number % 50 == 0:
                self._fetch_token()
            self._fire(self._shot(number, chance))
        return self.found

    # -- making ------------------------------------------------------------------------------------------------------

    def _shot(self, number: int, chance: random.Random) -> Shot:
        rule = chance.choice(RULES)
        method = rule.method if chance.random() < 0.85 else chance.choice(METHODS)
        path, is_straight = self._path(rule, chance)
        query = self._query(chance)
        headers = [("Host", self._own.removeprefix("http://"))]
        user = chance.choice([*USERS, *JUDGES, *JUDGES, None, "forged"])
        headers += self._cookie(user, chance)
        is_ours = chance.random() < 0.8
        if is_ours:
            headers.append(("Origin", self._own))
        elif chance.random() < 0.7:
            headers.append(("Origin", chance.choice(["http://evil.example", "null", "", "http://localhost", "\xff"])))
        body, kind = self._body(rule, chance) if method not in {"GET", "HEAD"} or chance.random() < 0.1 else (b"", "")
        if kind:
            headers.append(("Content-Type", kind))
        extra = [chance.choice(_JUNK_HEADERS) for _ in range(chance.choice([0, 0, 1, 2, 4]))]
        framing, sent, is_cut = _framed(body, chance)
        lines = [f"{method} {path}{query} HTTP/1.1", *(f"{name}: {value}" for name, value in headers + extra + framing)]
        role = USERS.get(user or "")
        # a header that vouches for the request may be among the extra ones
        vouched = is_ours or any(name == "Sec-Fetch-Site" for name, _ in extra)
        may = (rule.roles is None or role in rule.roles) and (rule.method == "GET" or vouched)
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        return Shot(number, rule, head, sent, may, is_cut, is_straight)

    def _path(self, rule: Rule, chance: random.Random) -> tuple[str, bool]:
        """An address of the rule, and whether it is its own without any doubt."""
        kind = chance.random()
        if kind < 0.04:
            return chance.choice(
                ["*", "//", "/../" * 9 + "etc/passwd", "http://evil.example/", "/" + "a/" * 3000]
            ), False
        if "{" not in rule.path:
            return (rule.path, True) if kind < 0.9 else (rule.path + chance.choice(["/", "//", "/..", *_RAW]), False)

        def filled(match: re.Match[str]) -> str:
            name = match[1].partition(":")[0]
            if name == "token" and self._tokens and chance.random() < 0.9:
                return chance.choice(self._tokens)
            if chance.random() < 0.1:
                return chance.choice(_RAW)
            if chance.random() < 0.6:
                return _right(name, chance)
            return quote(_value(chance), safe="")

        return re.sub(r"{(.*?)}", filled, rule.path), False

    def _query(self, chance: random.Random) -> str:
        if chance.random() < 0.4:
            return ""
        pairs = [(chance.choice([*QUERIES, "x", ""]), _value(chance)) for _ in range(chance.choice([1, 1, 2, 3, 60]))]
        return "?" + urlencode(pairs)[:30_000] + (chance.choice(_RAW) if chance.random() < 0.1 else "")

    def _cookie(self, user: str | None, chance: random.Random) -> list[tuple[str, str]]:
        if user is None:
            return []
        value = self._cookies.get(user)
        if value is None:
            good = bytearray(chance.choice(list(self._cookies.values())).encode())
            good[chance.randrange(len(good) - 2)] ^= 1 << chance.randrange(6)  # the last sign has bits that say nothing
            value = good.decode("latin-1") if chance.random() < 0.7 else quote(_value(chance))
        return [("Cookie", f"{COOKIE}={value}")]

    def _body(self, rule: Rule, chance: random.Random) -> tuple[bytes, str]:
        form, kind = "application/x-www-form-urlencoded", chance.random()
        if kind < 0.7:
            fields = {name: _value(chance) for name in FIELDS if chance.random() < 0.4}
            if chance.random() < 0.7:
                fields["opinion"] = chance.choice(["defect", "good", "cannot_tell"])
            if chance.random() < 0.5:
                fields["mask"] = _mask(chance)
            return urlencode(fields).encode(), form
        if kind < 0.8:
            return chance.randbytes(chance.randrange(2000)), form
        if kind < 0.85:
            return b"&".join(b"a%d=1" % n for n in range(chance.choice([31, 32, 33, 2000]))), form
        if kind < 0.9:
            return b"note=" + b"x" * chance.choice([rule.body_bytes, 9000, 1 << 20, _BODY_MAX]), form
        return chance.randbytes(50), chance.choice(["application/json", "multipart/form-data; boundary=", "\xff", ";"])

    # -- shooting ----------------------------------------------------------------------------------------------------

    def _fetch_token(self) -> None:
        """Two parts on the table of the one who judges, so that some decisions get through."""
        cookie = f"{COOKIE}={self._cookies['quentin']}"
        for _ in range(2):
            connection = http.client.HTTPConnection(*self._place, timeout=ANSWER_S)
            connection.request("GET", "/judge", headers={"Cookie": cookie})
            found = re.search(rb"/judge/([\w-]{10,})", connection.getresponse().read())
            connection.close()
            if found is not None:
                self._tokens = [*self._tokens[-6:], found[1].decode()]

    def _fire(self, shot: Shot) -> None:
        found, began_ns = self.found, self._clock.now_ns()
        found.requests += 1
        found.routes[shot.rule.name] += 1
        try:
            status, text = self._answer(shot)
        except TimeoutError:
            status, text = "hang", b""
        except (http.client.HTTPException, ValueError) as error:
            status, text = f"no HTTP: {type(error).__name__}", b""
        found.slowest_ms = max(found.slowest_ms, (self._clock.now_ns() - began_ns) / 1e6)
        found.statuses[status] += 1
        found.admitted[shot.rule.name] += status.startswith("2") or (
            status == "303" and not text.startswith(b"/login?")
        )
        why = _wrong(shot, status, text)
        if why and len(found.faults) < 200:
            line = shot.head[:300].decode("latin-1")
            found.faults.append(f"request {shot.number} of seed {self._seed}: {why}: {line!r} {shot.body[:200]!r}")

    def _answer(self, shot: Shot) -> tuple[str, bytes]:
        with socket.create_connection(self._place, ANSWER_S) as door:
            refused = False
            try:
                door.sendall(shot.head)
                door.sendall(shot.body)
            except ConnectionError:  # refused before all was sent; the answer may still be there
                refused = True
            if shot.is_cut:
                return "cut", b""
            answer = http.client.HTTPResponse(door, method=shot.head.split(b" ", 1)[0].decode())
            try:
                answer.begin()
                text = b"" if answer.getheader("content-type", "").startswith("text/event-stream") else answer.read()
            except ConnectionError:
                early = refused or len(shot.head) > 8192 or shot.body  # who answers before the body is read may reset
                return ("reset while sending" if early else "reset"), b""
            finally:
                with contextlib.suppress(OSError):
                    answer.close()
            return str(answer.status), answer.getheader("location", "").encode() if answer.status == 303 else text


def _wrong(shot: Shot, status: str, text: bytes) -> str:
    """Why this answer must not be; empty where it may."""
    if status == "500" or not (status.isdecimal() or status in {"cut", "reset while sending"}):
        return status
    if status == "503" and b"Too many live pages" not in text:
        return "503: " + text[-300:].decode("utf-8", "replace")
    if b"root:x:" in text or b"scrypt" in text:
        return "a file from outside"
    if shot.is_straight and not shot.may and status.startswith("2"):
        return f"let in with {status}"
    return ""


def _right(name: str, chance: random.Random) -> str:
    """What a page of ours could have asked for."""
    if name == "key":
        return f"{chance.choice([1, 1, 1, 2]):06d}-{chance.randrange(40):09d}{chance.choice(['', '.png'])}"
    if name == "number":
        return str(chance.randrange(ALARMS + 2))
    return chance.choice(_FILES) if name == "file" else quote(_value(chance), safe="")


def _value(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.45:
        return chance.choice(PLAIN)
    if kind < 0.9:
        return chance.choice(NASTY)
    return "".join(chr(chance.choice([chance.randrange(128), chance.randrange(0xD800)])) for _ in range(12))


def _mask(chance: random.Random) -> str:
    """A canvas as a browser sends it, whole or not."""
    height, width = chance.choice([(256, 256), (256, 256), (1, 1), (300, 200)])
    canvas = np.zeros((height, width, chance.choice([4, 4, 3, 1])), np.uint8)
    canvas[: height // 2] = 255
    png = bytearray(cv2.imencode(".png", canvas)[1].tobytes())
    kind = chance.random()
    if kind < 0.3:
        png[chance.randrange(len(png))] ^= 255
    elif kind < 0.4:
        png = png[: chance.randrange(len(png))]
    text = "data:image/png;base64," + base64.b64encode(png).decode()
    return (
        text if kind < 0.9 else chance.choice([text[:-1], text[5:], text + "=", text + "ü", "data:image/png;base64,"])
    )


def _framed(body: bytes, chance: random.Random) -> tuple[list[tuple[str, str]], bytes, bool]:
    """Headers that tell the length, what is sent, and whether it breaks off."""
    kind = chance.random()
    if kind < 0.03:
        return [("Content-Length", str(len(body) + 100))], body, True
    if kind < 0.08:
        wrong = chance.choice(["-1", "9" * 30, "9" * 12, "1, 2", "0x10", "", "٣"])
        return [("Content-Length", wrong)], b"", False
    if kind < 0.14:
        pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return [("Transfer-Encoding", "chunked")], chunks + b"0\r\n\r\n", False
    if kind < 0.16:
        return [("Transfer-Encoding", "chunked")], _RUBBISH, chance.random() < 0.5
    if not body and chance.random() < 0.9:
        return [], b"", False
    return [("Content-Length", str(len(body)))], body, False
