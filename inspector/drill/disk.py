"""A small disk for the station under the drill, and filling it so that it is felt."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import apsw

SMALL_DISK_MB = 160
"""Log 16 + ballast 4 + images 32 + the ledgers that the drill damages and sets aside, and as much again."""
_BLOCK = b"\0" * 65_536


def mount_small_disk(folder: Path, size_mb: int = SMALL_DISK_MB) -> bool:
    """A small tmpfs for the state directory, so that it can be filled; False where this process may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    if mount is None:
        return False
    command = [mount, "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount(folder: Path) -> None:
    """Take the small disk away again; what is on it stays in ``folder``."""
    umount = shutil.which("umount")
    if umount is None:
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        kept = Path(beside) / folder.name
        shutil.copytree(folder, kept, ignore=_no_files)
        subprocess.run([umount, "-l", str(folder)], capture_output=True, check=False)
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def _no_files(folder: str, names: list[str]) -> list[str]:
    """Sockets and the like, which cannot be copied."""
    return [name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]


class Filler:
    """A file that takes the disk's room until ``gone``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filler"

    def leave(self, free_bytes: int) -> None:
        """Grow until at most so much is free; 0 = until the disk refuses."""
        with self._path.open("ab", buffering=0) as file:
            try:
                while (left := shutil.disk_usage(self._path.parent).free - free_bytes) > 0:
                    file.write(_BLOCK[: min(left, len(_BLOCK))])
            except OSError:
                return  # full, as wanted

    def gone(self) -> None:
        self._path.unlink(missing_ok=True)


def shrink_log(ledger: Path) -> int:
    """Copy the write-ahead log into the ledger and cut it to nothing; its size in bytes afterwards.

    The log keeps the room it once had, and rows fit into that on a full disk, too. Cut down, it must grow for the next
    row. What the daemon writes between this and the filling of the disk is all the room that is left.
    """
    connection = apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(5000)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # before a first read it has no log to copy
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        connection.close()
    return ledger.with_name(f"{ledger.name}-wal").stat().st_size
