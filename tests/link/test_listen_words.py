"""What `inspector listen` says on stderr about its daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from controller_kit import CLOCK, is_up, serve

from inspector.cli import run
from inspector.cli.line import Ear
from inspector.clock import PushedClock
from inspector.link.controller import ControllerLink
from inspector.link.listen import ReferenceController


def test_a_listener_says_that_it_is_refused_and_by_whom_the_line_is_taken(
    link: ControllerLink, controller: Callable[..., ReferenceController], capsys: pytest.CaptureFixture[str]
) -> None:
    """A second controller hears nothing; it says so, with the daemon's own words."""
    controller(identity=b"plc-7")
    serve(link, is_up)
    second = controller(identity=b"controller")
    ear = Ear(second, link.endpoint, CLOCK)
    serve(link, lambda _: bool(second.refusal))
    ear()
    ear()
    assert capsys.readouterr().err == f"listen: refused by {link.endpoint}: another controller is connected: plc-7\n"


def test_a_listener_without_a_daemon_says_so_after_two_seconds(
    link: ControllerLink, controller: Callable[..., ReferenceController], capsys: pytest.CaptureFixture[str]
) -> None:
    """Until the daemon is heard; then it says that, once."""
    clock = PushedClock()
    first = controller()
    ear = Ear(first, link.endpoint, clock)
    ear()
    assert capsys.readouterr().err == ""
    clock.push(2_000_000_000)
    ear()
    assert capsys.readouterr().err.startswith(f"listen: no answer from {link.endpoint}")
    serve(link, lambda _: first.statistics().states > 0)
    ear()
    ear()
    assert capsys.readouterr().err == f"listen: connected to {link.endpoint}\n"


def test_half_a_pair_of_keys_is_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Going on in the clear, or with half of it, would look like a broken daemon."""
    assert run(["listen", "--key", str(tmp_path / "plc.key_secret")]) == 2
    assert run(["listen", "--server-key", str(tmp_path / "server.key")]) == 2
    assert capsys.readouterr().err.count("half a pair of keys") == 2


def test_what_is_no_endpoint_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Not by a traceback of the socket library."""
    assert run(["listen", "--endpoint", "foo"]) == 2
    assert capsys.readouterr().err.startswith("inspector: endpoint cannot be used; expected tcp://ADDRESS:PORT")
