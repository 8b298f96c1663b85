"""demo, run, listen, check-config, bench: the line itself."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from inspector.cli.common import (
    Commands,
    config_option,
    engine_option,
    json_option,
    load,
    port,
    positive,
    print_figures,
    print_json,
)

if TYPE_CHECKING:
    from inspector.clock import Clock
    from inspector.demo import Demo
    from inspector.link.listen import ReferenceController


def add(commands: Commands) -> None:
    """Add these commands."""
    commands.add("demo", "Run a simulated commutator line and show it", _demo, _demo_options, json_option)
    commands.add("run", "Run the daemon", _run, config_option, _run_options, json_option)
    commands.add("listen", "Reference controller: receive, acknowledge, print", _listen, _listen_options)
    commands.add("cameras", "List the cameras each GenTL producer sees", _cameras, _cameras_options, json_option)
    commands.add("check-config", "Validate and print the effective configuration", _check_config, config_option)
    commands.add(
        "bench",
        "Latency of the bare engine loop and of the whole line",
        _bench,
        config_option,
        engine_option,
        _bench_options,
        json_option,
    )


def _demo_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--parts", type=positive, default=60, metavar="N", help="parts to inspect (default 60)")
    sub.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="parts per second (default 10)")
    sub.add_argument("--seed", type=int, default=1, metavar="S", help="which parts come (default 1)")
    sub.add_argument("--engine", type=Path, metavar="BUNDLE", help="engine bundle (default engines/commutator)")
    sub.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="pictures and ledger go here")
    sub.add_argument("--page", action="store_true", help="show it in a web page, which stays until Ctrl-C")
    sub.add_argument("--port", type=port, default=9571, metavar="N", help="the page's port (default 9571; 0 = any)")


def _demo(arguments: argparse.Namespace) -> int:
    from inspector.demo import Demo
    from inspector.demo_view import View

    demo = Demo(arguments.parts, arguments.rate, arguments.seed, arguments.out, arguments.engine)
    with contextlib.ExitStack() as beside:
        if arguments.page:
            beside.enter_context(_demo_page(demo, arguments.port))
        with View(arguments.parts, quiet=arguments.json) as view:
            demo.on_answer = view.add
            figures = demo.run()
        view.summary(figures)
    if arguments.json:
        print_json(figures)
    whole = figures["triggered"] == figures["answered"] == figures["acknowledged"]
    return 0 if whole and not figures["conflicts"] else 1


@contextlib.contextmanager
def _demo_page(demo: Demo, port: int) -> Iterator[None]:
    """The page beside the demo; after the last part it stays until Ctrl-C, so that what came can be looked at."""
    from inspector.demo_page import free_endpoint, page_process

    demo.viewers = free_endpoint()
    with page_process(demo.settings(), port) as url:
        print(f"page: {url}", flush=True)
        yield
        if demo.station.latch.reason != "SIGTERM":
            print(f"the line has ended; the page stays at {url} until Ctrl-C", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()


def _run_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--max-parts", type=positive, metavar="N", help="stop in order after N parts")


def _run(arguments: argparse.Namespace) -> int:
    from inspector.journal import close_journal
    from inspector.station import Station

    loaded = load(arguments)
    station = Station(loaded.settings, config_path=arguments.config, max_parts=arguments.max_parts)
    try:
        with station.signals():
            tally = station.run()
    finally:
        close_journal()  # before the last words, if any
    if arguments.json:
        print_json(tally.figures())
    if station.crew.left:  # a library loads an engine and cannot be interrupted: all else has ended in order
        sys.stdout.flush()
        os._exit(0)
    return 0


def _listen_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--endpoint", default="tcp://127.0.0.1:5570", help="the daemon's controller socket")
    sub.add_argument("--key", type=Path, metavar="FILE", help="this controller's secret key file (CURVE)")
    sub.add_argument("--server-key", type=Path, metavar="FILE", help="the daemon's public key file; goes with --key")
    sub.add_argument("--count", type=positive, metavar="N", help="end after N answers")
    sub.add_argument("--identity", default="controller", help="what it is called at the daemon; two need two names")


def _listen(arguments: argparse.Namespace) -> int:
    from inspector.clock import SystemClock
    from inspector.errors import ConfigError
    from inspector.link.keys import ClientKeys
    from inspector.link.listen import Arrival, ReferenceController

    def show(arrival: Arrival) -> None:
        answer = arrival.answer
        why = answer.reason.value if answer.reason is not None else "; ".join(answer.rules)
        number, left = f"{answer.epoch}-{answer.sequence:06d}", f"{arrival.left_us / 1000:.0f} ms left"
        mark = "" if arrival.qualified else "  (station not qualified)"
        print(f"{number}  {answer.part_id:<20} {answer.verdict.value:<7} {left:>12}  {why}{mark}", flush=True)

    if (arguments.key is None) != (arguments.server_key is None):
        raise ConfigError("half a pair of keys", expected="--key and --server-key, or neither")
    keys = ClientKeys.load(arguments.server_key, arguments.key) if arguments.key is not None else None
    name = arguments.identity.encode()
    if not 1 <= len(name) <= 64 or name.startswith(b"\0"):
        raise ConfigError("not an identity", expected="1 to 64 bytes, not starting with 0", found=arguments.identity)
    controller = ReferenceController(arguments.endpoint, clock=SystemClock(), identity=name, keys=keys, on_answer=show)
    tell = Ear(controller, arguments.endpoint, SystemClock())

    def until() -> bool:
        tell()
        return arguments.count is not None and controller.statistics().received >= arguments.count

    controller.run(until)
    return 0


class Ear:
    """Says on stderr whether the daemon is heard, and why not: a silent controller would look like an idle line."""

    def __init__(self, controller: ReferenceController, endpoint: str, clock: Clock) -> None:
        self._controller, self._endpoint, self._clock = controller, endpoint, clock
        self._said, self._quiet_ns = "", clock.now_ns()

    def __call__(self) -> None:
        seen, now_ns = self._controller.statistics(), self._clock.now_ns()
        if seen.states or seen.received:
            text = f"connected to {self._endpoint}" if seen.connected else f"the daemon at {self._endpoint} is silent"
        elif self._controller.refusal:
            text = f"refused by {self._endpoint}: {self._controller.refusal}"
        elif seen.auth_failures:
            text = f"refused by {self._endpoint}: this key is not allowed (`inspector keys allow`)"
        elif now_ns - self._quiet_ns < 2_000_000_000:
            return
        else:
            text = f"no answer from {self._endpoint}: no daemon there, or it wants keys"
        if text != self._said:
            self._said = text
            print(f"listen: {text}", file=sys.stderr, flush=True)


def _cameras_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--producer", type=Path, action="append", default=[], metavar="FILE.cti", help="may be repeated")


def _cameras(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from inspector.camera.genicam import list_devices

    devices = list_devices(arguments.producer)
    if arguments.json:
        print_json({"devices": [asdict(one) for one in devices]})
        return 0
    for one in devices:
        print(f"{one.model:<12} serial {one.serial:<12} {one.user_name:<16} {one.access:<10} {one.producer}")
    if not devices:
        print("no devices")
    return 0


def _check_config(arguments: argparse.Namespace) -> int:
    from inspector import native
    from inspector.cli.checkup import checkup

    loaded = load(arguments)
    rows = list(loaded.rows())
    width = max(len(name) for name, _, _ in rows)
    for name, value, source in rows:
        print(f"{name:<{width}}  {value:<40}  {source}")
    faults = checkup(loaded.settings)
    for fault in faults:
        print(f"inspector: {fault}", file=sys.stderr)
    if faults:
        return faults[0].exit_code
    print("what it names is there and fits: engine, calibration, rules, endpoints, keys, folders")
    print(f"preparing and deciding: {native.word()} code")
    return 0


def _bench_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--parts", type=positive, default=300, metavar="N", help="parts per loop (default 300)")
    sub.add_argument("--all", action="store_true", help="every runnable engine of the bundle side by side instead")
    sub.add_argument("--page", action="store_true", help="the line with the page off and with it crowded, in turn")


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.all:
        return _bench_all(arguments)
    if arguments.page:
        from inspector.bench_page import bench_page

        figures = bench_page(load(arguments).settings, parts=arguments.parts)
    else:
        from inspector.bench import bench

        figures = bench(load(arguments).settings, parts=arguments.parts)
    if arguments.json:
        print_json(figures)
    else:
        print_figures(figures)
    return 0


def _bench_all(arguments: argparse.Namespace) -> int:
    from inspector.bench_all import bench_all

    rows = bench_all(load(arguments).settings, frames=arguments.parts)
    if arguments.json:
        print_json({"engines": rows})
        return 0
    for row in rows:
        if "why_not" in row:
            print(f"{row['engine']:<28} {row['why_not']}")
        else:
            figures = f"p50 {row['p50_ms']:8.2f} ms   p99 {row['p99_ms']:8.2f} ms   {row['speedup']:5.2f} x"
            print(f"{row['engine']:<28} {figures}")
    return 0
