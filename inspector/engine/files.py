"""Files of a bundle: hashed when read, whole when written, never outside their directory."""

from __future__ import annotations

import hashlib
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from inspector.errors import EngineError


def sha256(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary file, fsync, rename, fsync of the directory."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def utc(wall_ns: int) -> str:
    """UTC nanoseconds since 1970 as ISO 8601 to the second."""
    return datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")


def inside(root: Path, name: str) -> Path:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise EngineError(
            f"manifest of {root} names a file outside the bundle",
            expected="a file inside it",
            found=name,
            do="Do not use this bundle; export it again.",
        )
    return path


def check_trusted(bundle: str, path: Path) -> None:
    """Raise EngineError where others than its owner, us and root may change ``path`` or its directory.

    For plans that run code when they are loaded: their hash stands beside them, so whoever may write, may replace both.
    """
    for each in (path, path.parent):
        facts = each.stat()
        if facts.st_mode & stat.S_IWOTH or facts.st_uid not in {0, os.geteuid()}:
            raise EngineError(
                f"bundle {bundle}: {path.name} could have been replaced by another user",
                expected="owner root or this user, not writable by others",
                found=f"{each} owner {facts.st_uid}, mode {stat.S_IMODE(facts.st_mode):o}",
                do=f"Check where it is from, then: chown and chmod o-w {each}",
            )


def read_hashed(root: Path, bundle: str, name: str, expected: str, do: str) -> bytes:
    path = inside(root, name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(
            f"bundle {bundle}: {name} cannot be read",
            found=error.strerror or str(error),
            do=do,
        ) from error
    found = sha256(data)
    if found != expected:
        raise EngineError(
            f"bundle {bundle}: {name} is not the file that the manifest describes",
            expected=f"SHA-256 {expected[:16]}…",
            found=f"{found[:16]}…",
            do=do,
        )
    return data
