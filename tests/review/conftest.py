"""A small station's ledger and pictures, and a store of reviews over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from review_kit import Station

from inspector.clock import PushedClock
from inspector.review.plan import Plan
from inspector.review.store import ReviewStore


@pytest.fixture
def clock() -> PushedClock:
    return PushedClock()


@pytest.fixture
def station(tmp_path: Path, clock: PushedClock) -> Station:
    """Twelve parts: 1 to 4 FAIL, 5 INVALID with a picture, 6 and 7 borderline PASS, 8 to 12 PASS."""
    return Station(tmp_path / "state", clock)


@pytest.fixture
def open_store(station: Station, clock: PushedClock) -> Iterator[Callable[..., ReviewStore]]:
    """Opens stores of the station's reviews."""
    stores: list[ReviewStore] = []

    def opened(plan: Plan | None = None) -> ReviewStore:
        store = ReviewStore(station.reviews, sources=station.sources, plan=plan or station.plan, clock=clock)
        store.open()
        stores.append(store)
        return store

    yield opened
    for store in stores:
        store.close()
