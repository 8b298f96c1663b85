"""The desk's patience: no client, however slow, silent or rude, holds up the next one."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.clock import PushedClock, SystemClock
from inspector.errors import ConfigError, InspectorError
from inspector.health.asking import NotRunningError, ask
from inspector.health.desk import Desk
from inspector.health.doors import SOCKET_NAME, split_address
from tests.health_kit import desk, ended, http_socket, scrape

# -- clients -----------------------------------------------------------------------------------------------------------


def test_many_clients_that_say_nothing_hold_up_nobody(tmp_path: Path) -> None:
    """With more silent clients than the desk keeps, a scrape is still answered; the oldest had to go."""
    with desk(tmp_path, clients_max=4, patience_s=600) as made:
        silent = [http_socket(made) for _ in range(12)]
        for one in silent:
            with suppress(OSError):  # the first ones have been given up already
                one.sendall(b"GET /met")
        assert scrape(made.address) == {("up", frozenset()): 1.0}
        assert ended(silent[0])
        assert made.statistics().given_up >= 9
        for one in silent:
            one.close()


def test_a_slow_client_is_given_up_when_its_time_is_over(tmp_path: Path) -> None:
    """The time counts from the connection on, however often the client says a little."""
    clock = PushedClock()
    with desk(tmp_path, clock, patience_s=1.0) as made:
        slow = http_socket(made)
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        for _ in range(2):
            with http_socket(made) as probe:  # its answer shows that the desk has heard the first one
                probe.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                assert probe.recv(65536).startswith(b"HTTP/1.1 200")
            assert made.statistics().given_up == 0
            clock.push(600_000_000)
            with suppress(ConnectionError):  # the second time it may be gone already
                slow.sendall(b"Host: a\r\n")
        assert ended(slow)
        slow.close()


def test_a_status_client_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    """A report larger than the socket's buffer waits for its reader only so long; others get theirs meanwhile."""
    large = json.dumps({"state": "Ready", "filler": "x" * 900_000}).encode()
    clock = PushedClock()
    with desk(tmp_path, clock, status=lambda: large, patience_s=1.0) as made:
        deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deaf.connect(str(tmp_path / SOCKET_NAME))
        assert ask(tmp_path, clock=SystemClock())["state"] == "Ready"
        clock.push(2_000_000_000)
        assert ask(tmp_path, clock=SystemClock())["state"] == "Ready"
        assert made.statistics().given_up == 1
        deaf.close()


@pytest.mark.parametrize(
    ("request_text", "reply"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"HEAD /metrics HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405"),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400"),
        (b"\x00\xff\xfe\r\n\r\n", b"HTTP/1.1 400"),
        (b"x" * 20_000, b""),
    ],
)
def test_what_is_no_scrape_is_refused(tmp_path: Path, request_text: bytes, reply: bytes) -> None:
    """Only GET and HEAD of /metrics; a request that is too large ends the connection."""
    with desk(tmp_path) as made, http_socket(made) as client:
        heard = b""
        with suppress(ConnectionError):
            client.sendall(request_text)
            while piece := client.recv(65536):
                heard += piece
        assert heard.startswith(reply)
        if not reply:
            assert heard == b""
        assert b"up 1" not in heard or request_text.startswith(b"GET /metrics")


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One desk for many examples."""
    with desk(tmp_path_factory.mktemp("desk")) as made:
        yield made


@settings(deadline=None)
@given(noise=st.binary(max_size=300))
def test_no_request_kills_the_desk(lasting: Desk, noise: bytes) -> None:
    """Whatever a client sends, the next scrape is answered."""
    with http_socket(lasting) as client, suppress(ConnectionError):
        client.sendall(noise + b"\r\n\r\n")
        client.recv(65536)
    assert scrape(lasting.address) == {("up", frozenset()): 1.0}


def test_a_fault_in_telling_is_told_and_counted(tmp_path: Path) -> None:
    """Metrics that cannot be made are a 500, a status a line that says so; the desk lives on."""

    def broken(*_: object) -> Any:
        raise RuntimeError("planted")

    with desk(tmp_path, metrics=broken, status=broken) as made:
        for _ in range(2):
            with pytest.raises(urllib.error.HTTPError, match="500"):
                scrape(made.address)
        with pytest.raises(InspectorError, match="no status"):
            ask(tmp_path, clock=SystemClock())
        assert made.statistics().failed == 3


# -- doors -------------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_a_fault_of_the_configuration_in_one_line(tmp_path: Path) -> None:
    """Exit code 2, the address and what to do; nothing stays open."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        made = Desk(status=bytes, metrics=lambda accept: (b"", ""), clock=SystemClock())
        with pytest.raises(ConfigError, match="Set health") as caught:
            made.open(tmp_path, address)
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / SOCKET_NAME).exists()


@pytest.mark.parametrize("text", ["9570", ":9570", "host", "host:", "host:x", "127.0.0.1:99999", "127.0.0.1:-1", "a:²"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    """host:port, nothing guessed."""
    with pytest.raises(ConfigError, match="is no address"):
        split_address(text)
    assert split_address("[::1]:9570") == ("::1", 9570)


def test_a_socket_left_by_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    """A dead socket file answers nobody: asking says so, and the next daemon takes its place."""
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(tmp_path / SOCKET_NAME))
    dead.close()
    with pytest.raises(NotRunningError):
        ask(tmp_path, clock=SystemClock())
    with desk(tmp_path):
        assert ask(tmp_path, clock=SystemClock()) == {"state": "Ready"}


def test_a_deep_state_directory_works(tmp_path: Path) -> None:
    """A path beyond the 107 bytes of a socket address is reached all the same, from both sides."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with desk(deep):
        assert ask(deep, clock=SystemClock()) == {"state": "Ready"}
    assert not (deep / SOCKET_NAME).exists()


def test_a_daemon_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    """Exit code 1 after the given time, not 3: something is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(str(tmp_path / SOCKET_NAME))
        mute.listen(1)
        with pytest.raises(InspectorError, match="does not answer") as caught:
            ask(tmp_path, clock=SystemClock(), timeout_s=0.05)
    assert caught.value.exit_code == 1


def test_what_answers_but_is_no_daemon_is_told(tmp_path: Path) -> None:
    """A broken line of JSON is a fault, not a crash."""
    with desk(tmp_path, status=lambda: b"{half"), pytest.raises(InspectorError, match="broke off"):
        ask(tmp_path, clock=SystemClock())


def test_closing_twice_and_without_opening_is_harmless(tmp_path: Path) -> None:
    """The station closes its desk whatever happened before; no thread stays."""
    before = set(threading.enumerate())
    made = Desk(status=bytes, metrics=None, clock=SystemClock())
    made.close()
    made = Desk(status=bytes, metrics=None, clock=SystemClock())
    made.open(tmp_path)
    made.close()
    made.close()
    assert set(threading.enumerate()) <= before
