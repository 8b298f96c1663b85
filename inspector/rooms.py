"""From settings to the rooms of a line: ledger, store, link, viewers, camera, docket, and the line itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2

from inspector.archive.recipes import keep_recipe
from inspector.camera import Camera
from inspector.cameras import make_camera
from inspector.clock import Clock
from inspector.conditions import Conditions
from inspector.config import Settings
from inspector.decision import Alarms
from inspector.docket import Docket
from inspector.errors import LedgerError
from inspector.fittings import Pace
from inspector.frame import Settled, Verdict
from inspector.ledger.book import Book
from inspector.ledger.retention import Retention
from inspector.ledger.store import Policy, Store
from inspector.line import Line
from inspector.link.controller import ControllerLink
from inspector.link.keys import CurveKeys
from inspector.link.viewers import ViewersLink
from inspector.recipe import Ingredients
from inspector.sections import LinkSettings, StoreSettings
from inspector.shadow.keeper import Shadow

__all__ = ["MS", "Rooms", "fit_out", "keep_recipe"]

MS = 1_000_000
CHECKPOINT_BYTES = 4 << 20
"""WAL size from which the sync thread copies it into the file; a commit never does."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """What a station is made of. The book is open (its epoch numbers the answers); nothing else runs yet."""

    book: Book
    retention: Retention
    store: Store
    link: ControllerLink
    viewers: ViewersLink | None
    """None where no viewers' socket is configured."""
    line: Line
    shadow: Shadow

    def keep_book(self) -> None:
        """The book thread's step: settlements first, then a few old rows leave."""
        self.line.book()
        self._retain(self.retention.remove)

    def keep_durable(self) -> None:
        """The sync thread's step: what is committed to the disk, how far that is to the link, the log kept short."""
        _, durable = self.book.sync()
        self.link.set_progress(opened=self.line.docket.statistics().opened, durable=durable)
        try:
            if self.book.wal_bytes > CHECKPOINT_BYTES:
                self.book.checkpoint()
        except LedgerError as error:
            self.line.conditions.raise_fault("checkpoint", str(error))
        else:
            self.line.conditions.clear("checkpoint")

    def keep_store(self, wait_s: float) -> None:
        """The store thread's step: images first, then some old rows are copied."""
        self.store.step(wait_s)
        self._retain(self.retention.copy)

    def _retain(self, step: Callable[[], object]) -> None:
        with contextlib.suppress(LedgerError):  # the fault is told, the rows stay, and it is tried again
            step()
        if self.retention.fault:
            self.line.conditions.tell_of("retention", self.retention.fault)
        else:
            self.line.conditions.clear("retention")

    def close(self) -> None:
        """End the shadow, close the book; the other rooms are closed by the threads that own them."""
        self.shadow.stop()
        self.retention.close()
        self.book.close()


def fit_out(
    settings: Settings,
    ingredients: Ingredients,
    *,
    clock: Clock,
    conditions: Conditions,
    on_settled: Callable[[Settled], None],
    on_event: Callable[[str, str], None],
    wrap_camera: Callable[[Camera], Camera],
) -> Rooms:
    """Open the book and fit the rest around it. Raises ConfigError, LedgerError, CameraError."""
    cv2.setNumThreads(1)  # small pictures gain nothing from a pool, and the engine needs the cores
    state = settings.station.state_dir
    camera = make_camera(settings.camera, clock=clock, window=ingredients.preprocess.window)
    alarms = Alarms(settings.alarm.fails, settings.alarm.among, settings.alarm.no_reject_run)
    store = _store(settings.store, settings, clock)
    viewers = _viewers(settings.link, clock)
    controller_keys = _keys(settings.link, "controllers")
    book = Book(
        state / "ledger.db", clock=clock, sync=settings.ledger.sync, ballast_bytes=settings.ledger.ballast_bytes
    )
    book.open()
    try:
        keep_recipe(state, ingredients.settings_source, ingredients.calibration)
        link = ControllerLink(
            settings.link.endpoint,
            epoch=book.epoch,
            clock=clock,
            keys=controller_keys,
            allow_plaintext=settings.link.allow_plaintext,
            max_message_bytes=settings.link.max_message_bytes,
            heartbeat_s=settings.link.heartbeat_ms / 1000,
            resend_s=settings.link.resend_ms / 1000,
        )
        docket = _docket(settings, book)
        idle = partial(_is_idle, docket)
        hashes = ingredients.station_hashes
        shadow = Shadow(settings, hashes, clock=clock, conditions=conditions, on_event=on_event, idle=idle)
        line = Line(
            camera=shadow.watch(wrap_camera(camera)),
            docket=docket,
            ledger=book,
            link=link,
            clock=clock,
            conditions=conditions,
            alarms=alarms,
            pace=Pace(
                views=settings.camera.views,
                view_gap_ns=int(settings.camera.view_gap_ms * MS),
                announcements=settings.link.announcements,
                frame_earliest_ns=int(settings.link.frame_earliest_ms * MS),
                frame_latest_ns=int(settings.link.frame_latest_ms * MS),
                keep_alive_ns=int(settings.engine.keep_alive_s * 1e9),
            ),
            queue=settings.timing.queue,
            on_settled=partial(_left, on_settled, shadow),
            on_event=on_event,
            on_booked=store.offer,
            on_unbooked=book.unbooked.note,
        )
    except BaseException:
        book.close()
        raise
    return Rooms(book, _retention(settings, book, clock), store, link, viewers, line, shadow)


def _is_idle(docket: Docket) -> bool:
    return docket.unanswered == 0


def _left(on_settled: Callable[[Settled], None], shadow: Shadow, settled: Settled) -> None:
    """An answer has left: whoever counts it hears of it first, then the shadow."""
    on_settled(settled)
    shadow.answered(settled)


def _docket(settings: Settings, book: Book) -> Docket:
    return Docket(
        epoch=book.epoch,
        gate_ns=int(settings.timing.gate_ms * MS),
        slack_ns=int(settings.timing.slack_ms * MS),
        commit_margin_ns=int(settings.timing.commit_margin_ms * MS),
        on_open=book.mark_opened,
    )


def _retention(settings: Settings, book: Book, clock: Clock) -> Retention:
    wanted = settings.ledger
    return Retention(book, keep_days=wanted.keep_days, keep_copy=wanted.keep_copy, clock=clock)


def _store(wanted: StoreSettings, settings: Settings, clock: Clock) -> Store:
    return Store(
        settings.station.state_dir / "images",
        policy=Policy(frozenset(Verdict(word) for word in wanted.save), wanted.every_pass, wanted.pass_from_score),
        quota_bytes=int(wanted.quota_mb * 1e6),
        keep_days=wanted.keep_days,
        clock=clock,
        min_free_bytes=int(wanted.min_free_mb * 1e6),
    )


def _viewers(wanted: LinkSettings, clock: Clock) -> ViewersLink | None:
    if not wanted.viewers:
        return None
    return ViewersLink(
        wanted.viewers,
        clock=clock,
        keys=_keys(wanted, "viewers"),
        allow_plaintext=wanted.allow_plaintext,
        images=wanted.viewer_images,
    )


def _keys(wanted: LinkSettings, role: str) -> CurveKeys | None:
    if wanted.keys_dir is None:
        return None
    return CurveKeys.load(wanted.keys_dir, "controllers" if role == "controllers" else "viewers")
