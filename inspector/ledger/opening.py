"""What happens before the first row is written: the lock, the check of the old file, setting a damaged one aside."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import apsw

from inspector.errors import LedgerError, LedgerFullError
from inspector.ledger import schema
from inspector.ledger.rows import GENESIS

_QUICK_CHECK_LIMIT_BYTES = 1 << 30
"""Above this a start-up would wait seconds for a full read; ``ledger verify`` does it at night."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What the file beside us is, before anything in it is changed."""

    exists: bool
    damage: str = ""
    """Why the file cannot be continued; empty when it can."""
    unchecked_bytes: int = 0
    """Size of a file too large to be checked in full at start-up."""
    head: bytes = GENESIS
    """The last hash that could be read."""


def suffixed(path: Path, suffix: str) -> Path:
    """ledger.db -> ledger.db-wal, ledger.db.marks, ..."""
    return path.with_name(path.name + suffix)


def to_disk(path: Path) -> None:
    """A file, or the names in a folder, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> int:
    """Take the ledger for this process; the descriptor holds it. Raises LedgerError when another daemon has it."""
    try:
        descriptor = os.open(suffixed(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise cannot_open(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise _held(path) from error
    return descriptor


def is_held(path: Path) -> bool:
    """True while a daemon has the ledger open."""
    try:
        descriptor = os.open(suffixed(path, ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def examine(path: Path, *, tail_rows: int, busy_ms: int, vfs: str | None) -> Examined:
    """Check the structure of the file and the chain of its last rows, without changing either.

    Raises LedgerError when the file is locked, cannot be opened, or was written by a newer inspector.
    """
    if not path.exists() and not suffixed(path, "-wal").exists():
        return Examined(exists=False)
    size_bytes = path.stat().st_size if path.exists() else 0
    last = GENESIS
    try:
        connection = schema.connect(path, busy_ms=busy_ms, vfs=vfs)
        try:
            if schema.check_version(connection, path) == 0:
                return Examined(exists=True)
            link, last = schema.head(connection)
            checked = size_bytes <= _QUICK_CHECK_LIMIT_BYTES
            if checked:
                said = connection.execute("PRAGMA quick_check(1)").get
                if said != "ok":
                    return Examined(True, f"quick_check says {said}", head=last)
            for broken, what in schema.broken_links(connection, max(1, link - tail_rows + 1)):
                return Examined(True, f"chain broken at row {broken}: {what}", head=last)
            return Examined(True, unchecked_bytes=0 if checked else size_bytes, head=last)
        finally:
            connection.close()
    except apsw.BusyError as error:
        raise _held(path) from error
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError) as error:
        raise LedgerError(f"cannot open the ledger {path}", expected="a writable file", found=str(error)) from error
    except (apsw.Error, ValueError, TypeError) as error:  # a damaged page also gives text or numbers of the wrong kind
        return Examined(True, str(error), head=last)


def set_aside(path: Path, stamp: str) -> Path:
    """Rename db, wal and shm, byte for byte as they are; returns where the db went. Raises OSError."""
    target = suffixed(path, f".damaged-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = suffixed(path, f".damaged-{stamp}-{number}")
    for suffix in ("-shm", "-wal", ""):
        source = suffixed(path, suffix)
        if source.exists():
            source.rename(suffixed(target, suffix))
    return target


class Ballast:
    """A file that only takes space, so that there is some to free when the disk is full."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path, self.size_bytes = path, size_bytes

    def restore(self) -> bool:
        """Write it, unless that would itself fill the disk; True when it is there."""
        if self.size_bytes == 0:
            return False
        try:
            if self.path.exists() and self.path.stat().st_size >= self.size_bytes:
                return True
            if shutil.disk_usage(self.path.parent).free < 4 * self.size_bytes:
                return False
            self.path.write_bytes(b"\0" * self.size_bytes)
        except OSError:
            self.path.unlink(missing_ok=True)
            return False
        return True

    def release(self) -> bool:
        """Free its space; False when it was not there."""
        try:
            self.path.unlink()
        except OSError:
            return False
        return True


def cannot_open(path: Path, error: OSError) -> LedgerError:
    """What the system said, in our words."""
    found = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LedgerFullError(f"the disk is full: the ledger {path} cannot be opened", found=found, do="Make room.")
    expected = "a writable directory as station.state_dir"
    return LedgerError(f"cannot open the ledger {path}", expected=expected, found=found)


def _held(path: Path) -> LedgerError:
    return LedgerError(
        f"the ledger {path} is in use by another process",
        expected="one daemon for one ledger",
        do="Stop the other one, or give this station a station.state_dir of its own.",
    )
