"""Who is asking: signed cookies that name a user, and a brake on guessing passwords. Nothing is kept on the server."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

from itsdangerous import BadSignature, Signer

from inspector.clock import Clock
from inspector.errors import ConfigError
from inspector.page.users import User, Users

COOKIE = "inspector_session"
SECRET_FILE = "session.secret"
_SECRET_BYTES = 32
_S = 1_000_000_000
FREE_GUESSES = 5
"""Wrong passwords before waiting begins; then 1 s, doubled with each, at most LONGEST_WAIT_S."""
LONGEST_WAIT_S = 60
_REMEMBERED = 2048


class Sessions:
    """Cookies: made at the login, read at every request."""

    def __init__(self, users: Users, secret: bytes, clock: Clock, *, hours: float) -> None:
        self._users, self._clock, self._longest_ns = users, clock, int(hours * 3600 * _S)
        self._signer = Signer(secret, salt="inspector.page.session", digest_method=hashlib.sha256)

    def issue(self, user: User) -> str:
        """The cookie's value."""
        return self._signer.sign(f"{user.name}:{self._clock.wall_ns() // _S}:{user.fingerprint}").decode("ascii")

    def user_of(self, cookie: str | None) -> User | None:
        """The user, as the file has it now; None: no cookie, forged, too old, or the user was changed meanwhile."""
        if not cookie or len(cookie) > 256:
            return None
        try:
            name, issued, fingerprint = self._signer.unsign(cookie).decode("ascii").split(":")
            age_ns = self._clock.wall_ns() - int(issued) * _S
        except (BadSignature, ValueError):
            return None
        # a minute of grace: the wall clock may be stepped back after the login
        if not -60 * _S <= age_ns <= self._longest_ns:
            return None
        user = self._users.get(name)
        return user if user is not None and user.fingerprint == fingerprint else None


class Brake:
    """Slows down who guesses passwords: by name and address together, and by address alone. One event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def wait_s(self, *keys: str) -> float:
        """Seconds until the next guess is taken; 0 = now."""
        now_ns = self._clock.now_ns()
        return max((max(0, self._failures.get(key, (0, 0))[1] - now_ns) / _S for key in keys), default=0.0)

    def failed(self, *keys: str) -> None:
        """A wrong password."""
        now_ns = self._clock.now_ns()
        for key in keys:
            count, _ = self._failures.pop(key, (0, 0))
            pause_s = 0 if count + 1 < FREE_GUESSES else min(LONGEST_WAIT_S, 1 << min(count + 1 - FREE_GUESSES, 6))
            self._failures[key] = (count + 1, now_ns + pause_s * _S)
            while len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)

    def passed(self, *keys: str) -> None:
        """The right password."""
        for key in keys:
            self._failures.pop(key, None)


def read_secret(folder: Path) -> bytes:
    """The key that signs cookies; made once, so that sessions outlive a restart. Raises ConfigError."""
    path = folder / SECRET_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            secret, mode = path.read_bytes(), path.stat().st_mode
            if len(secret) == _SECRET_BYTES and not mode & 0o077:
                return secret
            raise ConfigError(
                f"{path} cannot be used",
                expected=f"{_SECRET_BYTES} bytes, mode 0600",
                found=f"{len(secret)} bytes, mode {mode & 0o777:04o}",
                do="Remove it: a new one is made, and everybody logs in again.",
            ) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret := os.urandom(_SECRET_BYTES))
        return secret
    except OSError as error:
        raise ConfigError(f"cannot use {path}", found=error.strerror or str(error)) from error
