"""Where an archive lies: a directory, or an object store behind fsspec. Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inspector.errors import ConfigError, LedgerError

_INSTALL = "Install it: pip install 'inspector[archive]'."


def library(name: str) -> Any:
    """A module of the extra ``archive`` or ``fleet``. Raises ConfigError with the command where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name.partition('.')[0]} is not installed", found=str(error), do=_INSTALL) from error


class Place:
    """A tree of files below ``url``; names are relative, with slashes.

    A directory needs no library. ``s3://`` goes through Arrow's own client (keys and endpoint from the URL's query or
    the usual variables), any other URL through fsspec. Raises ConfigError for a URL that nobody understands.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        self.root: Path | None = None if "://" in self.url else Path(self.url)
        self._files: Any = None
        self._base = ""
        if self.root is None:
            self._files, self._base = _open(self.url)

    def read(self, name: str) -> bytes:
        """Raises LedgerError where it is not there or cannot be read."""
        try:
            if self.root is not None:
                return (self.root / name).read_bytes()
            data: bytes = self._files.cat_file(f"{self._base}/{name}")
        except OSError as error:
            found = "nothing" if isinstance(error, FileNotFoundError) else str(error)
            what = f"{name} of the archive {self.url} cannot be read"
            raise LedgerError(what, found=found, do="Restore it, or export again.") from error
        return data

    def exists(self, name: str) -> bool:
        if self.root is not None:
            return (self.root / name).is_file()
        return bool(self._files.isfile(f"{self._base}/{name}"))

    def names(self, folder: str) -> list[str]:
        """The files directly in ``folder``, sorted, without drafts; empty where there is no such folder."""
        if self.root is not None:
            place = self.root / folder
            found = [each.name for each in place.iterdir() if each.is_file()] if place.is_dir() else []
        else:
            found = self._listed(folder, "file")
        return sorted(name for name in found if not name.startswith("."))

    def folders(self, folder: str) -> list[str]:
        """The folders directly in ``folder``, sorted."""
        if self.root is not None:
            place = self.root / folder
            return sorted(each.name for each in place.iterdir() if each.is_dir()) if place.is_dir() else []
        return sorted(self._listed(folder, "directory"))

    def write(self, name: str, data: bytes) -> None:
        """Replace or make a file in one step; it is on the disk on return. Raises LedgerError."""
        try:
            if self.root is not None:
                path = self.root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f".{path.name}.{os.getpid()}.part")
                with draft.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
            else:
                self._files.makedirs(f"{self._base}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(f"{self._base}/{name}", data)  # an object appears when its upload is complete
        except OSError as error:
            raise LedgerError(f"{name} cannot be written to the archive {self.url}", found=str(error)) from error

    def adopt(self, name: str, source: Path, data: bytes) -> None:
        """``write`` of a file that lies at ``source`` with ``data``: linked where one file system holds both."""
        if self.root is None or self.root.joinpath(name).exists():
            if self.root is None and not self.exists(name):
                self.write(name, data)
            return
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            draft.unlink(missing_ok=True)
            os.link(source, draft)  # the store never writes into a file that has its name, so the content stays
            draft.replace(path)
        except OSError:  # another file system, one without links, or removed by now
            draft.unlink(missing_ok=True)
            self.write(name, data)

    @contextmanager
    def stream(self, name: str) -> Iterator[Path]:
        """A local draft to write piece by piece; it takes its name when the block ends well. Raises LedgerError."""
        if self.root is None:
            with tempfile.TemporaryDirectory(prefix="inspector-") as folder:
                draft = Path(folder) / "draft"
                yield draft
                self._files.makedirs(f"{self._base}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(draft), f"{self._base}/{name}")
            return
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no fault."""
        if self.root is not None:
            (self.root / name).unlink(missing_ok=True)
        elif self.exists(name):
            self._files.rm_file(f"{self._base}/{name}")

    def _listed(self, folder: str, kind: str) -> list[str]:
        path = f"{self._base}/{folder}"
        if not self._files.isdir(path):
            return []
        return [
            each["name"].rstrip("/").rpartition("/")[2]
            for each in self._files.ls(path, detail=True)
            if each["type"] == kind
        ]


def _open(url: str) -> tuple[Any, str]:
    """File system and the path of ``url`` in it."""
    fsspec = library("fsspec")
    try:
        if url.startswith("s3://"):
            files, path = library("pyarrow.fs").FileSystem.from_uri(url)
            wrapped = library("fsspec.implementations.arrow").ArrowFSWrapper(files)
            return wrapped, str(path).rstrip("/")
        found, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise ConfigError(f"the archive {url} cannot be opened", found=str(error)) from error
    return found, str(path).rstrip("/")


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()
