"""What a plant does to a daemon at night: storms of reloads and reconnects, acknowledgements of nothing, odd disks."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import zmq

from inspector.clock import PushedClock
from inspector.drill.disk import mount_small_disk, unmount
from inspector.errors import LedgerError
from inspector.frame import Receipt
from inspector.ledger.audit import show, verify
from inspector.ledger.book import Book
from inspector.link import wire
from inspector.link.listen import Behaviour
from inspector.station import Station
from tests.ledger.ledger_parts import make_part
from tests.station_kit import Wrapped, running, settings, trivial

DAY_NS = 86_400_000_000_000


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the listing must not open more than itself


def test_acknowledgements_of_nothing_leave_no_trace(tmp_path: Path) -> None:
    """A controller that acknowledges numbers nobody sent: no receipt without an answer, and the line goes on."""
    wanted = settings(tmp_path, camera={"rate_hz": 50.0})
    chance = random.Random(7)
    with running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        assert seen.controller is not None
        seen.controller.behave(Behaviour(silent=True))  # this one listens; the acknowledgements come from below
        seen.wait_for(lambda arrivals: len(arrivals) >= 5)
        epoch = seen.arrivals[0].answer.epoch
        numbers = [0, 1 << 63, (1 << 64) - 1, *(chance.getrandbits(64) for _ in range(300)), 10_000_000]
        for number in numbers:
            frames = wire.pack_ack(chance.choice((epoch, epoch + 1, 0, (1 << 32) - 1)), [number])
            seen.controller._order(lambda frames=frames: seen.controller._put(frames))  # type: ignore[misc, union-attr]
        count = len(seen.arrivals)
        seen.wait_for(lambda arrivals: len(arrivals) >= count + 10)
        seen.controller.behave(Behaviour())
    assert seen.error is None
    found = verify(tmp_path / "state" / "ledger.db")
    assert [finding for finding in found.findings if not finding.known] == []


def test_a_storm_of_reconnects_leaves_nothing_open(tmp_path: Path) -> None:
    """300 clients come, say HELLO or noise, and go; the controller is served, descriptors come back."""
    wanted = settings(tmp_path, camera={"rate_hz": 20.0})
    chance = random.Random(3)
    with running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        seen.wait_for(lambda arrivals: len(arrivals) >= 3)
        before, context = descriptors(), zmq.Context()
        for number in range(300):
            client = context.socket(zmq.DEALER)
            client.setsockopt(zmq.LINGER, 0)
            client.setsockopt(zmq.ROUTING_ID, b"stranger-%d" % chance.randrange(5))
            client.connect(seen.station.endpoint)
            client.send_multipart(wire.pack_hello(1, number) if number % 2 else [b"\xff" * 128, b"{}"])
            client.close()
        context.term()
        count = len(seen.arrivals)
        seen.wait_for(lambda arrivals: len(arrivals) >= count + 10)
        assert seen.controller is not None and seen.controller.statistics().conflicts == 0
        for _ in range(100):
            if descriptors() <= before + 2:
                break
            seen.station.latch.wait(0.1)
        assert descriptors() <= before + 2
    assert seen.error is None


def test_a_storm_of_reloads_changes_nothing(tmp_path: Path) -> None:
    """Good, broken and missing files while parts run: each part is answered, the last good rules hold."""
    config = tmp_path / "config.toml"
    wanted = settings(tmp_path, camera={"rate_hz": 50.0})
    tables = wanted.model_dump(mode="json", exclude_unset=True)
    good = "\n".join(
        f"[{section}]\n" + "\n".join(f"{key} = {_toml(value)}" for key, value in table.items())
        for section, table in tables.items()
        if table
    )
    config.write_text(good)
    with running(wanted, config_path=config, wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        seen.wait_for(lambda arrivals: len(arrivals) >= 5)
        for number in range(60):
            if number % 3 == 1:
                config.write_text(good + "\n[nonsense]\n")
            elif number % 3 == 2:
                config.unlink()
            else:
                config.write_text(good + f"\n[decision.limits]\nmin_area_map_px = {number + 1}\n")
            seen.station.reload()
            seen.station.latch.wait(0.01)
        config.write_text(good)
        seen.station.reload()
        before = len(seen.arrivals)
        seen.wait_for(lambda arrivals: len(arrivals) >= before + 60)
        last = seen.arrivals[-1].answer.hashes
    assert seen.error is None
    assert last.settings == seen.arrivals[0].answer.hashes.settings
    assert verify(tmp_path / "state" / "ledger.db").ok


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_two_daemons_never_share_a_state_directory(tmp_path: Path) -> None:
    """The second one ends at once with one line, and the first does not feel it."""
    wanted = settings(tmp_path)
    with running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        seen.wait_for(lambda arrivals: len(arrivals) >= 3)
        with pytest.raises(LedgerError, match=r"in use by another process.*state_dir of its own"):
            Station(wanted).run()
        count = len(seen.arrivals)
        seen.wait_for(lambda arrivals: len(arrivals) >= count + 5)
    assert verify(tmp_path / "state" / "ledger.db").ok


def test_a_wall_clock_stepped_back_across_a_restart_confuses_nothing(tmp_path: Path) -> None:
    """Epochs count on, the chain is whole, the newest rows are those booked last, whatever their date says."""
    clock = PushedClock()
    for step_ns in (0, -400 * DAY_NS, 800 * DAY_NS, -400 * DAY_NS):
        clock.step_wall(step_ns)
        book = Book(tmp_path / "ledger.db", clock=clock, ballast_bytes=0)
        book.open()
        book.recover(clock.now_ns())
        for number in range(1, 4):
            book.mark_opened(number)
            book.write([make_part(book.epoch, number, wall_ns=clock.wall_ns()), Receipt(book.epoch, number, 1)])
        book.close()
    assert verify(tmp_path / "ledger.db").ok
    assert [(one.sent.epoch, one.sent.sequence) for one in show(tmp_path / "ledger.db", limit=3)] == [
        (4, 3),
        (4, 2),
        (4, 1),
    ]


def test_images_may_lie_on_another_disk(tmp_path: Path) -> None:
    """``images`` as a link to another file system: kept, counted and verified there; a full one sheds images alone."""
    other = tmp_path / "other"
    if not mount_small_disk(other, size_mb=8):
        pytest.skip("a small disk cannot be mounted here")
    try:
        (other / "images").mkdir()
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "images").symlink_to(other / "images")
        wanted = settings(
            tmp_path,
            camera={"rate_hz": 60.0},
            timing={"gate_ms": 30_000.0, "queue": 256},  # a loaded machine is another test's
            store={"save": ["PASS", "FAIL", "INVALID"], "quota_mb": 100.0, "min_free_mb": 1.0},
        )
        with running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
            store = seen.station.rooms.store
            seen.wait_for(lambda arrivals: store.statistics().shed > 0 or store.statistics().removed > 0, 60)
            count = len(seen.arrivals)
            seen.wait_for(lambda arrivals: len(arrivals) >= count + 20)
            answers = [one.answer for one in seen.arrivals[count:]]
        assert all(answer.reason is None for answer in answers)
        assert verify(tmp_path / "state" / "ledger.db", tmp_path / "state" / "images").ok
    finally:
        unmount(other)
