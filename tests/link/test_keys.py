"""CURVE: who is not allowed gets nothing in and nothing out. Real sockets throughout."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from link_help import EPOCH, an_answer, serve

from inspector.clock import SystemClock
from inspector.errors import ConfigError
from inspector.frame import Settled
from inspector.link import keys, wire
from inspector.link.controller import ControllerLink
from inspector.link.events import Acked, ControllerDown, ControllerUp, Event, Handed, Refused
from inspector.link.keys import ClientKeys, CurveKeys
from inspector.link.listen import ReferenceController
from inspector.link.router import RouterSocket
from inspector.link.viewers import ViewerFeed, ViewersLink

CLOCK = SystemClock()
LOCAL = "tcp://127.0.0.1:*"


@pytest.fixture
def keys_dir(tmp_path: Path) -> Path:
    """A daemon's key directory with one controller and one viewer allowed; their secrets beside it."""
    directory = tmp_path / "keys"
    keys.new(directory)
    for role, name in (("controllers", "plc"), ("viewers", "desk")):
        public, _ = keys.new(tmp_path / "clients", name)
        keys.allow(directory, public, role)  # type: ignore[arg-type]
    keys.new(tmp_path / "clients", "stranger")
    return directory


def _client(keys_dir: Path, name: str) -> ClientKeys:
    return ClientKeys.load(keys_dir / "server.key", keys_dir.parent / "clients" / f"{name}.key_secret")


@pytest.fixture
def link(keys_dir: Path) -> Iterator[ControllerLink]:
    """A keyed link, owned by the test's thread."""
    made = ControllerLink(
        LOCAL, epoch=EPOCH, clock=CLOCK, keys=CurveKeys.load(keys_dir, "controllers"), resend_s=0.02, heartbeat_s=0.05
    )
    made.open()
    yield made
    made.close(0)


class Stranger:
    """A bare DEALER that tries its luck and keeps what its socket's monitor tells."""

    def __init__(self, endpoint: str, client: ClientKeys | None = None, *, identity: bytes = b"stranger") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTING_ID, identity)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 10)
        if client is not None:
            client.protect(self.socket)
        self.monitor = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_DISCONNECTED
        )
        self.socket.connect(endpoint)

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)
        self._context.term()


def _is_up(seen: list[Event]) -> bool:
    return any(isinstance(event, ControllerUp) for event in seen)


def test_an_allowed_controller_is_served(link: ControllerLink, keys_dir: Path) -> None:
    """A controller whose key is allowed gets its answers and is heard."""
    other = ReferenceController(link.endpoint, clock=CLOCK, keys=_client(keys_dir, "plc")).start()
    try:
        serve(link, _is_up)
        assert link.statistics().authenticating
        assert link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0) is Handed.SENT
        serve(link, lambda seen: any(isinstance(event, Acked) for event in seen))
        assert other.statistics().received == 1
    finally:
        other.stop()


@pytest.mark.parametrize("who", ["stranger", "desk", "plaintext", "wrong server key"])
def test_who_is_not_allowed_gets_nothing_in_and_nothing_out(link: ControllerLink, keys_dir: Path, who: str) -> None:
    """A stranger's key, a viewer's key, no key and a wrong server key: the handshake fails, no message passes."""
    client = None if who == "plaintext" else _client(keys_dir, "desk" if who == "desk" else "stranger")
    if who == "wrong server key":
        plc = _client(keys_dir, "plc")
        client = ClientKeys(_client(keys_dir, "stranger").public, plc.public, plc.secret)
    stranger = Stranger(link.endpoint, client)
    try:
        link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0)
        for _ in range(3):
            with contextlib.suppress(zmq.Again):  # a refused client's socket has no way out
                stranger.socket.send_multipart(wire.pack_hello(0, 0), zmq.NOBLOCK)
        serve(link, lambda _: bool(stranger.monitor.poll(0)))
        serve(link, lambda _: link.service(CLOCK.now_ns()) == [])
        assert link.statistics().received == 0
        assert link.statistics().sent == 0
        assert not stranger.socket.poll(0)
    finally:
        stranger.close()


def test_a_stopped_authenticator_admits_nobody(link: ControllerLink, keys_dir: Path) -> None:
    """If the authenticator's thread ends, allowed clients too are refused, and the statistics say so."""
    router = link._router
    assert isinstance(router, RouterSocket) and router._doorman is not None
    router._doorman.stop()
    assert not link.statistics().authenticating
    stranger = Stranger(link.endpoint, _client(keys_dir, "plc"), identity=b"plc")
    try:
        with contextlib.suppress(zmq.Again):
            stranger.socket.send_multipart(wire.pack_hello(0, 0), zmq.NOBLOCK)
        serve(link, lambda _: bool(stranger.monitor.poll(0)))
        assert link.statistics().received == 0
    finally:
        stranger.close()


def test_another_key_cannot_take_an_identity(link: ControllerLink, keys_dir: Path, tmp_path: Path) -> None:
    """A client with an allowed key of its own that takes the controller's identity is refused and gets no answer."""
    public, _ = keys.new(tmp_path / "clients", "second")
    keys.allow(keys_dir, public, "controllers")
    link.reload_keys()
    first = Stranger(link.endpoint, _client(keys_dir, "plc"), identity=b"plc")
    first.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, _is_up)
    second = Stranger(link.endpoint, _client(keys_dir, "second"), identity=b"plc")
    try:
        second.socket.send_multipart(wire.pack_hello(0, 0))
        seen = serve(link, lambda seen: any(isinstance(event, Refused) for event in seen))
        assert any(isinstance(event, ControllerDown) for event in seen), "its way leads to another one now"
        assert link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0) is Handed.KEPT
        received = link.statistics().received
        second.socket.send_multipart(wire.pack_hello(0, 0))
        seen = serve(link, lambda _: link.statistics().received > received)
        assert not _is_up(seen)
        assert link.unacknowledged == 1
    finally:
        first.close()
        second.close()


def test_a_revoked_key_gets_nothing_more(link: ControllerLink, keys_dir: Path) -> None:
    """After its key was removed and the keys read again, a controller still connected is neither heard nor told."""
    other = Stranger(link.endpoint, _client(keys_dir, "plc"), identity=b"plc")
    try:
        other.socket.send_multipart(wire.pack_hello(0, 0))
        serve(link, _is_up)
        (keys_dir / "controllers" / "plc.key").unlink()
        link.reload_keys()
        assert link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0) is Handed.KEPT
        other.socket.send_multipart(wire.pack_hello(0, 0))
        seen = serve(link, lambda seen: any(isinstance(event, Refused) for event in seen))
        assert not _is_up(seen)
        assert link.statistics().sent == 0
    finally:
        other.close()


def test_a_key_allowed_later_is_admitted_after_reload(link: ControllerLink, keys_dir: Path) -> None:
    """A key that is allowed while the daemon runs is admitted once the keys were read again."""
    keys.allow(keys_dir, keys_dir.parent / "clients" / "stranger.key", "controllers")
    link.reload_keys()
    other = ReferenceController(link.endpoint, clock=CLOCK, keys=_client(keys_dir, "stranger")).start()
    try:
        serve(link, _is_up)
    finally:
        other.stop()


def test_viewers_need_a_key_of_their_own(keys_dir: Path) -> None:
    """An allowed viewer sees the parts; a controller's key, a stranger's and none see nothing."""
    link = ViewersLink(LOCAL, CLOCK, CurveKeys.load(keys_dir, "viewers"))
    link.open()
    feeds = {name: ViewerFeed(link.endpoint, _client(keys_dir, name)) for name in ("desk", "plc", "stranger")}
    feeds["plaintext"] = ViewerFeed(link.endpoint)
    try:
        seen = None
        for sequence in range(1, 500):
            link.publish(Settled(an_answer(sequence, now_ns=CLOCK.now_ns())))
            seen = feeds["desk"].next(0.02)
            if seen is not None:
                break
        assert seen is not None
        for sequence in range(500, 520):
            link.publish(Settled(an_answer(sequence, now_ns=CLOCK.now_ns())))
            assert feeds["desk"].next(5) is not None
        assert all(feed.next(0.02) is None for name, feed in feeds.items() if name != "desk")
    finally:
        for feed in feeds.values():
            feed.close()
        link.close()


def test_secret_files_are_private_from_the_start(keys_dir: Path) -> None:
    """A new secret has mode 0600; one that others can read is refused, with the command that mends it."""
    secret = keys_dir / "server.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    for mode in (0o640, 0o604, 0o644, 0o620):
        secret.chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            CurveKeys.load(keys_dir, "controllers")


def test_a_key_is_never_overwritten_and_shown(keys_dir: Path, tmp_path: Path) -> None:
    """A second pair under a name is refused, and no secret stands in a repr."""
    with pytest.raises(ConfigError, match="exists already"):
        keys.new(keys_dir)
    loaded = CurveKeys.load(keys_dir, "controllers")
    assert loaded.secret.decode() not in repr(loaded)
    client = _client(keys_dir, "plc")
    assert client.secret.decode() not in repr(client)


def test_allowed_keys_are_listed(keys_dir: Path) -> None:
    """The list names role, name and key of each admitted client; allowing one twice changes nothing."""
    keys.allow(keys_dir, keys_dir.parent / "clients" / "plc.key", "controllers")
    found = keys.listed(keys_dir)
    assert [(entry.role, entry.name) for entry in found] == [("controllers", "plc"), ("viewers", "desk")]
    assert found[0].public.encode() == keys.read_public(keys_dir.parent / "clients" / "plc.key")
    with pytest.raises(ConfigError, match="in use for another key"):
        keys.allow(keys_dir, keys_dir.parent / "clients" / "stranger.key", "controllers", name="plc")


def _missing(keys_dir: Path) -> None:
    (keys_dir / "server.key_secret").unlink()


def _no_folder(keys_dir: Path) -> None:
    (keys_dir / "controllers" / "plc.key").unlink()
    (keys_dir / "controllers").rmdir()


def _malformed(keys_dir: Path) -> None:
    (keys_dir / "controllers" / "bad.key").write_text("public-key = nonsense")


def _secret_in_folder(keys_dir: Path) -> None:
    (keys_dir / "controllers" / "oops.key").write_bytes((keys_dir / "server.key_secret").read_bytes())


def _mismatch(keys_dir: Path) -> None:
    _, secret = zmq.curve_keypair()
    path = keys_dir / "server.key_secret"
    path.write_bytes(b'public-key = "%b"\nsecret-key = "%b"\n' % (keys.read_public(keys_dir / "server.key"), secret))


@pytest.mark.parametrize("damage", [_missing, _no_folder, _malformed, _secret_in_folder, _mismatch])
def test_damaged_key_directory_is_a_config_error(keys_dir: Path, damage: Callable[[Path], None]) -> None:
    """A missing, malformed or contradictory key directory is a one-line ConfigError, never an open door."""
    damage(keys_dir)
    with pytest.raises(ConfigError) as caught:
        CurveKeys.load(keys_dir, "controllers")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "a b"])
def test_strange_key_names_are_refused(tmp_path: Path, name: str) -> None:
    """A key name cannot lead out of its directory."""
    with pytest.raises(ConfigError, match="not usable"):
        keys.new(tmp_path, name)
