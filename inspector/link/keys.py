"""CURVE keys: who may connect. Set up so that whatever is missing refuses (ZeroMQ by itself admits).

Layout of a key directory: ``server.key`` (public) and ``server.key_secret`` (mode 0600) of this daemon,
``controllers/*.key`` and ``viewers/*.key``: the public keys that each socket admits."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import zmq

from inspector.errors import ConfigError, LinkError

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

Role = Literal["controllers", "viewers"]
SERVER = "server"
_ZAP_DOMAIN = "line"
_KEY_LINE = re.compile(
    rb"""^\s*(public|secret)-key\s*=\s*["']([0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40})["']\s*$""", re.MULTILINE
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_KEY_FILE_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """The daemon's side: its own pair, and the directory of public keys it admits."""

    public: bytes
    secret: bytes = field(repr=False)
    allowed_dir: Path

    @classmethod
    def load(cls, keys_dir: Path, role: Role) -> CurveKeys:
        """The daemon's pair and ``keys_dir/role``. Raises ConfigError: missing, malformed, readable by others."""
        public, secret = read_secret(keys_dir / f"{SERVER}.key_secret")
        keys = cls(public, secret, keys_dir / role)
        read_allowed(keys.allowed_dir)
        return keys


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A controller's or viewer's side: the daemon's public key and its own pair."""

    server_public: bytes
    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def load(cls, server_file: Path, secret_file: Path) -> ClientKeys:
        """Read both files. Raises ConfigError as CurveKeys.load does."""
        return cls(read_public(server_file), *read_secret(secret_file))

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Set the client's CURVE options; call before connect."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server_public)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One admitted key."""

    role: str
    name: str
    public: str


def new(directory: Path, name: str = SERVER) -> tuple[Path, Path]:
    """Make a pair: ``name.key`` and ``name.key_secret`` (0600 from its first byte on). Never overwrites.

    Raises ConfigError for a bad name or an existing file, LinkError where the directory cannot be written."""
    _check_name(name)
    public, secret = zmq.curve_keypair()
    public_file, secret_file = directory / f"{name}.key", directory / f"{name}.key_secret"
    for path in (public_file, secret_file):
        if path.exists():
            raise ConfigError("key file exists already", found=str(path), do="Choose another name, or remove it first.")
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if name == SERVER:
            for role in ("controllers", "viewers"):
                (directory / role).mkdir(exist_ok=True, mode=0o700)
        _write(secret_file, 0o600, b'curve\n    public-key = "%b"\n    secret-key = "%b"\n' % (public, secret))
        _write(public_file, 0o644, b'curve\n    public-key = "%b"\n' % public)
    except OSError as error:
        raise LinkError("key files cannot be written", found=str(error), do="Check the directory's owner.") from error
    return public_file, secret_file


def allow(keys_dir: Path, public_file: Path, role: Role, name: str | None = None) -> Path:
    """Admit a client: copy its public key to ``keys_dir/role``. A running daemon takes it up at its next reload.

    Raises ConfigError for a file without a public key, one that holds a secret, or a name in use for another key."""
    public = read_public(public_file)
    name = public_file.name.removesuffix(".key") if name is None else name
    _check_name(name)
    target = keys_dir / role / f"{name}.key"
    if target.exists() and read_public(target) != public:
        raise ConfigError("name is in use for another key", found=str(target), do="Give another name with --name.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not target.exists():
            _write(target, 0o644, b'curve\n    public-key = "%b"\n' % public)
    except OSError as error:
        raise LinkError("key file cannot be written", found=str(error)) from error
    return target


def listed(keys_dir: Path) -> list[KeyEntry]:
    """The admitted keys of both sockets, by role and name. Raises ConfigError for a malformed file."""
    entries = []
    for role in ("controllers", "viewers"):
        if (keys_dir / role).is_dir():
            entries += [KeyEntry(role, name, key) for key, name in read_allowed(keys_dir / role).items()]
    return sorted(entries, key=lambda entry: (entry.role, entry.name))


def read_public(path: Path) -> bytes:
    """The public key of a file, 40 bytes of Z85. Raises ConfigError; a file that also holds a secret is refused."""
    found = _read(path)
    if "secret" in found:
        raise ConfigError("key file holds a secret", expected="a public key", found=str(path), do="Give the .key file.")
    return found["public"]


def read_secret(path: Path) -> tuple[bytes, bytes]:
    """(public, secret) of a file that only its owner can read. Raises ConfigError."""
    found = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            "secret key file is readable by others",
            expected="mode 600",
            found=f"{mode:o} {path}",
            do=f"chmod 600 {path}",
        )
    if "secret" not in found:
        raise ConfigError("key file holds no secret key", found=str(path))
    if zmq.curve_public(found["secret"]) != found["public"]:
        raise ConfigError("key file is damaged", expected="a public key that belongs to the secret", found=str(path))
    return found["public"], found["secret"]


def read_allowed(directory: Path) -> dict[str, str]:
    """Public key -> name, of each ``*.key`` in a directory. Raises ConfigError: missing, or a malformed file."""
    if not directory.is_dir():
        raise ConfigError("directory of allowed keys is missing", found=str(directory), do="Run: inspector keys new")
    return {read_public(path).decode("ascii"): path.stem for path in sorted(directory.glob("*.key"))}


class Doorman:
    """Admits clients by key on the sockets of one context. Started and stopped by the thread that owns the sockets."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys) -> None:
        self._context, self._keys = context, keys
        self._authenticator: ThreadAuthenticator | None = None
        self._allowed: frozenset[str] = frozenset()

    def start(self) -> None:
        """Start the authenticator's thread; before it runs, nobody is admitted. Raises ConfigError."""
        from zmq.auth.thread import ThreadAuthenticator  # brings asyncio: only where keys are used

        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self.reload()

    def reload(self) -> None:
        """Read the directory of allowed keys again. On ConfigError the keys admitted so far stay."""
        allowed = frozenset(read_allowed(self._keys.allowed_dir))
        if self._authenticator is None:
            raise RuntimeError("the doorman is not started")
        # the domain must be equal on both sides; "*" would mean "only sockets without a domain"
        self._authenticator.configure_curve(_ZAP_DOMAIN, str(self._keys.allowed_dir))
        self._allowed = allowed

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket refuse whoever is not admitted, also while no authenticator runs; call before bind."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public)
        # without these two, a stopped authenticator admits every client that knows our public key
        socket.setsockopt(zmq.ZAP_DOMAIN, _ZAP_DOMAIN.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def admits(self, user_id: str) -> bool:
        """Whether a message's User-Id, the client's public key, is admitted now.

        Asked for each message, because the connection of a revoked key stays open."""
        return user_id in self._allowed

    @property
    def alive(self) -> bool:
        """Whether new clients can be admitted at all."""
        return self._authenticator is not None and bool(self._authenticator.is_alive())

    def stop(self) -> None:
        """Stop the thread; idempotent."""
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "key name is not usable", expected="letters, digits, . _ -, at most 64", found=repr(name)[:80]
        )


def _read(path: Path) -> dict[str, bytes]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ConfigError("key file cannot be read", found=str(error), do="Run: inspector keys new") from error
    found = {kind.decode(): key for kind, key in _KEY_LINE.findall(content)}
    if "public" not in found:
        raise ConfigError(
            "key file holds no public key", expected='a line public-key = "40 characters"', found=str(path)
        )
    return found


def _write(path: Path, mode: int, content: bytes) -> None:
    # O_EXCL with the mode: a secret is never readable by others, not even for a moment
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.write(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)
