"""The header's fields of text and hash: 32 bytes of part id, 8 bytes of SHA-256. Pure functions."""

from __future__ import annotations

from inspector.errors import LinkError

PART_ID_BYTES = 32


def check_part_id(part_id: str) -> bytes:
    """The 32 header bytes of a part id. Raises LinkError where it does not fit, for edges that can still refuse."""
    field, cut = part_id_field(part_id)
    if cut:
        raise LinkError(
            "part id does not fit",
            expected=f"at most {PART_ID_BYTES} bytes of UTF-8 without NUL",
            found=repr(part_id)[:80],
        )
    return field


def part_id_field(part_id: str) -> tuple[bytes, bool]:
    """32 bytes, and whether they hold less than the id. Cut between characters, and before a NUL."""
    encoded = part_id.encode("utf-8", "replace").split(b"\0")[0]
    field = encoded[:PART_ID_BYTES].decode("utf-8", "ignore").encode("utf-8")
    try:
        cut = field != part_id.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, as in a file name that is not UTF-8
        cut = True
    return field.ljust(PART_ID_BYTES, b"\0"), cut


def part_id_text(field: bytes) -> str:
    """The id in 32 header bytes. Raises LinkError."""
    encoded = field.rstrip(b"\0")
    if b"\0" in encoded:
        raise LinkError("part id cannot be read", expected="text, then only NUL", found=repr(field))
    try:
        return encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LinkError("part id cannot be read", expected="UTF-8", found=repr(field)) from error


def hash_field(digits: str) -> bytes:
    """16 hex digits as 8 bytes; no hash, and one of zeros only, as 8 zero bytes. Raises LinkError."""
    try:
        field = bytes.fromhex(digits)
    except ValueError:
        field = b""
    if digits and (len(digits) != 16 or field.hex() != digits):
        raise LinkError("hash cannot be written", expected="16 lower-case hex digits, or none", found=repr(digits)[:40])
    return field


def hash_text(field: bytes) -> str:
    """16 hex digits; empty where the field is all zero."""
    return field.hex() if any(field) else ""
