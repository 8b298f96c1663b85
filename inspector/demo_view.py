"""The demo's terminal view: the last parts, the yield so far, the latency."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from inspector.frame import Answer, Settled, Verdict

_STYLES = {Verdict.PASS: "bold green", Verdict.FAIL: "bold red", Verdict.INVALID: "bold yellow"}


class View:
    """A live table on a terminal; plain lines elsewhere; nothing at all when quiet."""

    def __init__(self, parts: int, *, quiet: bool, console: Console | None = None) -> None:
        self._console = console or Console(stderr=quiet)
        self._quiet, self._parts = quiet, parts
        self._rows: deque[tuple[Answer, float]] = deque(maxlen=12)
        self._counts: Counter[Verdict] = Counter()
        self._live: Live | None = None
        if not quiet and self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, get_renderable=self._picture)

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        elif not self._quiet:
            self._console.print(f"demo: {self._parts} parts of a simulated commutator line")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()

    def add(self, settled: Settled, latency_ms: float) -> None:
        """One answered part; called from the answering thread, so it only notes."""
        self._rows.append((settled.answer, latency_ms))
        self._counts[settled.answer.verdict] += 1

    def summary(self, figures: dict[str, Any]) -> None:
        """The closing table."""
        if self._quiet:
            return
        table = Table(title="summary", show_header=False, title_justify="left")
        times = figures["latency_ms"]
        rows = {
            "triggered = answered = acknowledged": "{triggered} = {answered} = {acknowledged}".format(**figures),
            "pass / fail / invalid": "{pass} / {fail} / {invalid}".format(**figures),
            "escapes of defective": "{escapes} of {defective}".format(**figures),
            "overkill of good": "{overkill} of {good}".format(**figures),
            "frame to answer at the controller": _times(times),
            "annotated pictures": figures["pictures"],
        }
        for name, value in rows.items():
            table.add_row(name, str(value))
        self._console.print(table)

    def _picture(self) -> Panel:
        table = Table(expand=True, box=None, pad_edge=False)
        for name in ("part", "verdict", "defects", "largest", "ms"):
            table.add_column(name, justify="right" if name == "ms" else "left")
        for answer, latency_ms in list(self._rows):
            word = answer.reason.value if answer.reason is not None else answer.verdict.value
            table.add_row(
                answer.part_id,
                Text(word, _STYLES[answer.verdict]),
                _kinds(answer),
                _largest(answer),
                f"{latency_ms:.1f}",
            )
        done = self._counts.total()
        good = self._counts[Verdict.PASS]
        line = Text.assemble(
            (f" {done}/{self._parts} ", "bold"),
            (f" pass {good} ", _STYLES[Verdict.PASS]),
            (f" fail {self._counts[Verdict.FAIL]} ", _STYLES[Verdict.FAIL]),
            (f" invalid {self._counts[Verdict.INVALID]} ", _STYLES[Verdict.INVALID]),
            f" yield {100 * good / done:.1f} %" if done else "",
        )
        return Panel(Group(table, line, ProgressBar(self._parts, done)), title="inspector demo", title_align="left")


def _kinds(answer: Answer) -> str:
    kinds = Counter(defect.shape.value for defect in answer.defects if defect.counts)
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "-"


def _largest(answer: Answer) -> str:
    counted = [defect for defect in answer.defects if defect.counts]
    if not counted:
        return ""
    worst = max(counted, key=lambda defect: defect.area_px)
    return f"{worst.area_px:.0f} px at {worst.x_px:.0f},{worst.y_px:.0f}"


def _times(times: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {value:.1f} ms" for name, value in times.items() if value is not None) or "-"
