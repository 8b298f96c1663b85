"""The review beside the line: the store that is judged into, its queue, and where the promise stands by it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

from inspector.clock import Clock
from inspector.config import Settings
from inspector.engine.bundle import Bundle, load_bundle
from inspector.errors import InspectorError
from inspector.review.agreement import Agreement, analyse
from inspector.review.learn import Learned, learn
from inspector.review.population import Population, Scope
from inspector.review.records import Review
from inspector.review.room import Room, open_room
from inspector.review.standing import Standing, stand

REVIEWS_FILE = "reviews.db"
_KEPT_NS = 10_000_000_000
"""A standing is worked out again after a verdict, or after so long."""


@dataclass(frozen=True, slots=True)
class Told:
    """Where the promise stands, and what it was made from."""

    standing: Standing | None
    """None while it cannot be worked out."""
    threshold: float | None
    min_area_px: int | None
    evidence: tuple[str, ...]
    """Of the bundle's operating point."""
    why_not: str = ""
    """Why there is no standing."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the learn page shows."""

    told: Told
    learned: Learned
    agreement: Agreement
    reviews: tuple[Review, ...]
    """The newest, newest first."""
    count: int
    reference: str


class PromiseDesk:
    """Any thread. What fails here is told on the page; watching goes on without it."""

    def __init__(self, settings: Settings, folder: Path, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        # where the page has a folder of its own it may not write into the station's
        self._path = folder / REVIEWS_FILE if settings.page.state_dir is not None else None
        self._lock = threading.Lock()
        self._room: Room | None = None
        self._population: Population | None = None
        self._bundle: Bundle | None = None
        self._fault = "the reviews are not open"
        self._told: tuple[int, Told] | None = None

    def open(self) -> None:
        """Open what can be opened."""
        with self._lock:
            self._open()

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._room is not None:
                self._room.close()
                self._room = None

    def room(self) -> Room:
        """Where verdicts go. Raises InspectorError where it cannot be opened, after one more try."""
        with self._lock:
            return self._opened()

    def changed(self) -> None:
        """A verdict was added."""
        self._told = None

    def standing(self) -> Told:
        """Where the promise stands now."""
        told = self._told
        if told is not None and self._clock.now_ns() - told[0] < _KEPT_NS:
            return told[1]
        now_ns = self._clock.now_ns()
        try:
            reviews, parts = self._evidence()
            fresh = Told(stand(learn(reviews, parts).cells, None), *self._point())
        except InspectorError as error:
            fresh = replace(Told(None, *self._point()), why_not=str(error))
        self._told = (now_ns, fresh)
        return fresh

    def report(self, reference: str) -> Report:
        """Everything the reviews say. Raises InspectorError."""
        reviews, parts = self._evidence()
        all_reviews = self.room().store.reviews()
        agreement = analyse(all_reviews, reference="truth" if reference == "truth" else "consensus")
        newest = tuple(reversed(all_reviews[-50:]))
        return Report(self.standing(), learn(reviews, parts), agreement, newest, len(all_reviews), agreement.reference)

    def _evidence(self) -> tuple[list[Review], dict]:  # type: ignore[type-arg]
        """Reviews and parts of the present hashes: a promise speaks of one set of them."""
        with self._lock:
            room = self._opened()
            population = self._population
        assert population is not None
        population.refresh()
        scope = Scope(hashes=population.newest_hashes())
        return scope.of(room.store.reviews()), population.parts(scope)

    def _point(self) -> tuple[float | None, int | None, tuple[str, ...]]:
        bundle = self._bundle
        if bundle is None:
            return None, None, ()
        evidence = tuple(str(line) for line in bundle.manifest["operating_point"]["evidence"])
        threshold = self._settings.decision.threshold
        return (bundle.threshold if threshold is None else threshold), bundle.min_area_px, evidence

    def _opened(self) -> Room:
        if self._room is None:
            self._open()
        if self._room is None:
            raise InspectorError(self._fault)
        return self._room

    def _open(self) -> None:
        try:
            self._bundle = load_bundle(self._settings.engine.bundle)
            self._room = open_room(self._settings, self._clock, self._path)
            self._population = Population(self._room.store.sources.ledger, self._room.store.plan)
        except InspectorError as error:
            self._fault = str(error)
