"""The users' file: names, roles and scrypt hashes, readable by its owner alone. Read again when it changes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from inspector.errors import ConfigError
from inspector.page.access import Role

FILE_NAME = "users.json"
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 256
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_N, _R, _P = 1 << 15, 8, 1
"""scrypt's cost: 32 MiB and about 0.1 s for one guess."""
_LARGEST = 1 << 20

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class User:
    """One user of the page."""

    name: str
    role: Role
    hash: str = field(repr=False, default="")
    """``scrypt$n$r$p$salt$key``, the last two in base64."""

    @property
    def fingerprint(self) -> str:
        """Changes with the password and the role, so that older sessions end."""
        return hashlib.sha256(f"{self.role.value} {self.hash}".encode()).hexdigest()[:16]


class Users:
    """The file, as it stands now. Any thread."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._read: tuple[tuple[int, int, int], dict[str, User]] | None = None

    def all(self) -> dict[str, User]:
        """By name; empty where there is no file. Raises ConfigError: damaged, or readable by others."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _unreadable(self.path, error.strerror or str(error)) from error
        if status.st_mode & 0o077:
            raise ConfigError(
                f"{self.path} is readable by others", expected="mode 0600", do=f"Run `chmod 600 {self.path}`."
            )
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if self._read is None or self._read[0] != stamp:
            self._read = (stamp, _parse(self.path))
        return self._read[1]

    def get(self, name: str) -> User | None:
        return self.all().get(name)

    def add(self, name: str, role: Role, password: str, random: Random = os.urandom) -> bool:
        """Put or replace a user; True when it is new. Raises ConfigError: bad name, password too short."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "no name for a user",
                expected="up to 32 of a-z 0-9 . _ - with a letter or digit first",
                found=repr(name)[:60],
            )
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            wanted = f"{SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
            raise ConfigError("this password is not taken", expected=wanted, found=f"{len(password)}")
        users = self.all()
        self._write({**users, name: User(name, role, hashed(password, random(16)))})
        return name not in users

    def remove(self, name: str) -> None:
        """Raises ConfigError where there is no such user."""
        users = self.all()
        if name not in users:
            raise ConfigError(f"no user {name!r}", do="`inspector page users list` names all.")
        self._write({other: user for other, user in users.items() if other != name})

    def _write(self, users: dict[str, User]) -> None:
        table = {user.name: {"role": user.role.value, "hash": user.hash} for user in users.values()}
        text = json.dumps({"version": 1, "users": table}, indent=1, sort_keys=True) + "\n"
        draft = self.path.with_name(f".{FILE_NAME}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}", found=error.strerror or str(error)) from error


def hashed(password: str, salt: bytes) -> str:
    """What is stored for a password."""
    key = _scrypt(password, salt, _N, _R, _P)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), _text(salt), _text(key)))


def fits(user: User | None, password: str) -> bool:
    """Whether this is the user's password; takes as long for a user there is not."""
    try:
        _, n, r, p, salt, key = (user.hash if user is not None else _NOBODY).split("$")
        found = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
        return hmac.compare_digest(found, base64.b64decode(key)) and user is not None
    except ValueError:  # a hash that somebody wrote by hand
        return False


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


_NOBODY = "$".join(("scrypt", str(_N), str(_R), str(_P), _text(bytes(16)), _text(bytes(32))))


def _parse(path: Path) -> dict[str, User]:
    try:
        if path.stat().st_size > _LARGEST:
            raise _unreadable(path, "more than 1 MiB")
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["version"] != 1:
            raise _unreadable(path, f"version {table['version']}")
        return {str(name): User(str(name), Role(one["role"]), str(one["hash"])) for name, one in table["users"].items()}
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}"[:120]) from error


def _unreadable(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"the users' file {path} cannot be used", expected="what `inspector page users add` writes", found=found
    )
