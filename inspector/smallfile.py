"""Reads files that people write, up to a size that none of them needs: a wrong path must not fill the memory."""

from __future__ import annotations

from pathlib import Path

from inspector.errors import ConfigError


def read_small(path: Path, max_bytes: int) -> bytes:
    """The file's bytes, not more of them than it needs to see that there are too many (a device has no end).

    Raises OSError, and ConfigError for more than ``max_bytes``.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ConfigError(f"{path} is too large", expected=f"at most {max_bytes} bytes", found="more")
    return data
