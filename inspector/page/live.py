"""The live part of the watch page: what is sent to every viewer when a part comes, when counts change, each second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from jinja2 import Environment

from inspector import __version__
from inspector.clock import Clock
from inspector.page.alarms import Alarms
from inspector.page.digest import Digest
from inspector.page.feed import Feed, LivePart
from inspector.page.hub import Hub, event
from inspector.page.outline import path_of
from inspector.page.parts import Overlay
from inspector.page.pulse import Beat, Pulse
from inspector.page.questions import Totals, epoch_totals, pareto, totals
from inspector.page.shown import STATES, Strip, card_of, card_of_row, strip_of

TICK_S = 1.0
KINDS, KINDS_HOURS = 6, 8
"""Lines of the Pareto on the watch page, and over how long."""
_HOUR_NS = 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Numbers:
    """The figures beside the picture."""

    strip: Strip
    hour: Totals
    epoch: int
    run: Totals
    beat: Beat
    behind: int
    """Rows of the ledger that are still to be counted."""
    ledger_error: str


class Live:
    """``run`` is one task of the event loop; ``wake`` is for any thread."""

    def __init__(
        self,
        templates: Environment,
        hub: Hub,
        feed: Feed,
        digest: Digest,
        pulse: Pulse,
        alarms: Alarms,
        clock: Clock,
        *,
        updates_hz: float,
        stale_s: float,
    ) -> None:
        self._templates, self._hub, self._feed, self._digest = templates, hub, feed, digest
        self._pulse, self._alarms, self._clock = pulse, alarms, clock
        self._pause_s, self.stale_s = 1.0 / updates_hz, stale_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._came = asyncio.Event()
        self._sent: dict[str, bytes] = {}
        self._panels: dict[str, Callable[[], str]] = {
            "numbers": self._numbers,
            "alarms": self._calling,
            "kinds": self._kinds,
        }

    def wake(self) -> None:
        """A part came. Only marks it: a loop that is busy must not find a heap of calls."""
        loop = self._loop
        if loop is not None and not self._came.is_set():
            loop.call_soon_threadsafe(self._came.set)

    async def run(self) -> None:
        """Until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._feed.on_part = self.wake
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._parts())
            tasks.create_task(self._rest())

    def first(self) -> list[bytes]:
        """What a new viewer is sent at once, so that a page that was away is whole again."""
        part = self._feed.newest()
        messages = [self._part(part)] if part is not None else []
        rest = [event(name, render()) for name, render in self._panels.items()]
        return [*messages, *rest, self.tick()]

    def tick(self) -> bytes:
        """How old the last picture is by the server's clock; the browser only adds what passed since on its own."""
        newest = self._feed.newest()
        age_s = None if newest is None else newest.age_s(self._clock.now_ns())
        state = self._pulse.last.state
        told: dict[str, Any] = {
            "version": __version__,
            "now_ms": self._clock.wall_ns() // 1_000_000,
            "age_ms": None if age_s is None else round(age_s * 1000),
            "stale_ms": round(self.stale_s * 1000),
            "state": STATES.get(state, state),
            "wrong": state in {"Error", "No answer"},
            "calling": len(self._alarms.calling()),
            "lost": self._feed.statistics().lost,
            "viewers": asdict(self._hub.statistics())["viewers"],
        }
        return event("tick", json.dumps(told))

    def part_html(self) -> str:
        """The last part as it stands on the page, from the feed or else from the ledger."""
        part = self._feed.newest()
        if part is not None:
            return self._render_part(part)
        row = self._digest.recent[-1] if self._digest.recent else None
        card = None if row is None else card_of_row(row)
        return self._templates.get_template("_part.html").render(card=card, overlay=None, live=False)

    def panels_html(self) -> dict[str, str]:
        """The other panels by name: figures, alarms, kinds of defect."""
        return {name: render() for name, render in self._panels.items()}

    # -- the tasks ---------------------------------------------------------------------------------------------------

    async def _parts(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            part = self._feed.take()
            if part is not None and self._hub.watched:
                self._hub.publish(self._part(part))
                await asyncio.sleep(self._pause_s)

    async def _rest(self) -> None:
        rounds = 0
        while True:
            if self._hub.watched:
                for name, render in self._panels.items():
                    self._changed(name, await asyncio.to_thread(render))
                if rounds % 2 == 0:
                    self._hub.publish(self.tick())
            rounds += 1
            await asyncio.sleep(TICK_S / 2)

    def _changed(self, name: str, html: str) -> None:
        """Sent only where it differs from what every viewer has: a part of a page that is replaced loses its focus."""
        message = event(name, html)
        if self._sent.get(name) != message:
            self._sent[name] = message
            self._hub.publish(message)

    # -- rendering ---------------------------------------------------------------------------------------------------

    def _part(self, part: LivePart) -> bytes:
        head = {"age_ms": round(part.age_s(self._clock.now_ns()) * 1000), "stale_ms": round(self.stale_s * 1000)}
        return event("part", f"{json.dumps(head)}\n{self._render_part(part)}")

    def _render_part(self, part: LivePart) -> str:
        image, mask = part.viewed.image, part.viewed.mask
        overlay = None
        if image is not None:
            overlay = Overlay(image.shape[1], image.shape[0], "" if mask is None else path_of(mask))
        card = card_of(part.answer)
        return self._templates.get_template("_part.html").render(card=card, overlay=overlay, live=True)

    def _numbers(self) -> str:
        return self._templates.get_template("_numbers.html").render(numbers=self.numbers())

    def numbers(self) -> Numbers:
        """Any thread."""
        followed = self._digest.followed()
        with self._digest.reading() as connection:
            hour = totals(connection, self._clock.wall_ns() - _HOUR_NS)
            epoch, run = epoch_totals(connection)
        strip = strip_of(list(self._digest.recent))
        return Numbers(strip, hour, epoch, run, self._pulse.last, max(0, followed.behind), followed.error)

    def _kinds(self) -> str:
        since_ns = self._clock.wall_ns() - KINDS_HOURS * _HOUR_NS
        with self._digest.reading() as connection:
            lines = pareto(connection, since_ns)[:KINDS]
        return self._templates.get_template("_kinds.html").render(kinds=lines, hours=KINDS_HOURS)

    def _calling(self) -> str:
        return self._templates.get_template("_alarms.html").render(alarms=self._alarms.calling())
