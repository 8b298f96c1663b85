"""Damage to good files: bytes as a failing disk leaves them, values and keys as nobody should write them."""

from __future__ import annotations

import contextlib
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.errors import InspectorError


@dataclass(frozen=True)
class Target:
    """One kind of file: where it lies, good ones, how it is written, and who reads it."""

    name: str
    path: Path
    seeds: tuple[bytes, ...]
    parse: Callable[[bytes], dict[str, Any]]
    write: Callable[[Any], bytes]
    read: Callable[[Path], object]

    def try_out(self, data: bytes) -> bool:
        """True when it was read, False when it was refused; anything but InspectorError comes through."""
        self.path.write_bytes(data)
        try:
            self.read(self.path)
        except InspectorError as error:
            text = str(error)
            if not text.strip() or len(text) > 30_000:
                raise AssertionError(f"a refusal of {len(text)} characters") from error
            return False
        return True


# -- what may be in a file -------------------------------------------------------------------------------------------


def nested(depth: int, table: bool) -> Any:
    """Lists in lists, or tables in tables."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if table else [value]
    return value


def nasty() -> tuple[Any, ...]:
    """Values that no reader expects; made anew, since a later change may change them."""
    return (
        *(0, -1, 1, 2**31, 2**63 - 1, 2**64, -(2**63), 10**30, 10**400, 10**5000, 10**5000 + 1, True, False),
        *(0.0, -0.0, 1e-320, 1e308, -1e308, math.inf, -math.inf, math.nan, 0.5, 255.0),
        *("", " ", "a" * 10_000, "\x00", "a\x00b", "\n", "../../etc/passwd", "/", "é\u202e\U0001f600", "nan", "1e999"),
        *("%s%n{}", "commutator", "2026-01-01T00:00:00Z", "0" * 64, "f" * 64, "tcp://", "fp32", "null", "/dev/null"),
        *([], {}, [[]], [0] * 2000, [1.5, "x", None], {"": 1}, {"a": {"b": {}}}, None),
        *(nested(30, False), nested(30, True), nested(400, False), nested(2000, True)),
    )


WORDS = (b"[", b"]", b"{", b"}", b"=", b'"', b"'", b"#", b"\n", b".", b",", b"1e999", b"nan", b"-inf", b"\\u", b"\x00")
DEEP = (b"x = " + b"[" * 3000, b'{"a":' * 3000, b"[" * 100_000, b"a" + b".a" * 3000 + b" = 1", b"x = " + b"9" * 5000)


def slots(tree: Any, depth: int = 8) -> Iterator[tuple[Any, Any]]:
    """Every place of a tree: (container, key)."""
    if isinstance(tree, dict | list) and depth:
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from slots(tree[key], depth - 1)


def bend(chance: random.Random, tree: dict[str, Any]) -> None:
    """One change of what the file says; ``tree`` is changed in place."""
    places = list(slots(tree))
    if not places:
        return
    holder, key = chance.choice(places)
    other_holder, other_key = chance.choice(places)
    deed = chance.randrange(8)
    if deed <= 2:
        holder[key] = chance.choice(nasty())
    elif deed == 3:
        del holder[key]
    elif deed == 4:
        holder[key], other_holder[other_key] = other_holder[other_key], holder[key]
    elif deed == 5 and isinstance(holder, dict):
        holder[chance.choice((str(key) + "x", str(key)[:-1], str(other_key), "a" * 5000, "\x00"))] = holder.pop(key)
    elif deed == 6 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        scaled = chance.choice((-1.0, 0.0, 1e-9, 1e9, 1e300, chance.random() * 4))
        with contextlib.suppress(OverflowError):  # what is beyond a float stays as it is
            value = holder[key] * scaled
            holder[key] = int(value) if isinstance(holder[key], int) and math.isfinite(value) else value
    else:
        holder[key] = [holder[key]] if chance.random() < 0.5 else str(holder[key])


def damage(chance: random.Random, data: bytes) -> bytes:
    """One change of a file's bytes, as a failing disk, an editor or a merge makes it."""
    raw = bytearray(data)
    deed, at = chance.randrange(8), chance.randrange(len(raw) + 1)
    if deed == 0:
        return bytes(raw[:at])
    if deed == 1:
        raw[at:at] = chance.randbytes(chance.randrange(1, 8))
    elif deed == 2:
        raw[at:at] = chance.choice(WORDS)
    elif deed == 3:
        raw[at : at + chance.randrange(1, 40)] = b""
    elif deed == 4:
        raw[at:at] = chance.choice(DEEP)
    elif deed == 5:
        lines = bytes(raw).split(b"\n")
        first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[first] = lines[second]
        return b"\n".join(lines)
    else:
        for _ in range(chance.randrange(1, 6)):
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8) if raw else 0
    return bytes(raw)


def a_file(chance: random.Random, target: Target) -> bytes:
    """A good file with one to three changes; seldom something that never was one."""
    seed = chance.choice(target.seeds)
    kind = chance.random()
    if kind < 0.02:
        return chance.choice((b"", chance.randbytes(chance.randrange(300)), chance.choice(DEEP), b"null", b"[]", b"1"))
    changes = chance.choice((1, 1, 1, 2, 3))
    if kind < 0.65:
        tree = target.parse(seed)
        with unbounded():
            for _ in range(changes):
                bend(chance, tree)
            seed = target.write(tree)
        if kind < 0.6:
            return seed
    for _ in range(changes):
        seed = damage(chance, seed) if seed else seed
    return seed


# -- writing without a check -----------------------------------------------------------------------------------------


def toml(tree: Any) -> bytes:
    """TOML of anything, tables inline, without minding what a reader allows. None leaves its key out."""
    if not isinstance(tree, dict):
        return b"x = " + _toml_value(tree).encode()
    plain = [(key, value) for key, value in tree.items() if not isinstance(value, dict)]
    lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in plain if value is not None]
    for section, table in tree.items():
        if isinstance(table, dict):
            lines.append(f"[{_toml_key(section)}]")
            rows = [(key, value) for key, value in table.items() if value is not None]
            lines += [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in rows]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _toml_key(key: Any) -> str:
    text = str(key)
    return text if text.isascii() and text.isidentifier() else json.dumps(text)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        rows = [f"{_toml_key(key)} = {_toml_value(one)}" for key, one in value.items() if one is not None]
        return "{" + ", ".join(rows) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(one) for one in value if one is not None) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and value.bit_length() > 10_000 and value % 2 == 0:
        return hex(value)  # readers limit the digits of decimals only
    if isinstance(value, int | float):
        return repr(value)
    return value.isoformat() if hasattr(value, "isoformat") else '""'


@contextlib.contextmanager
def unbounded() -> Iterator[None]:
    """Depth and digits without a limit, for the writer alone; the readers must do with the usual ones."""
    depth, digits = sys.getrecursionlimit(), sys.get_int_max_str_digits()
    sys.setrecursionlimit(20_000)
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.setrecursionlimit(depth)
        sys.set_int_max_str_digits(digits)
