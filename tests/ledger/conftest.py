"""Parts, books and failing disks for the ledger's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger_parts import Make, make_evidence, make_part

from inspector.clock import PushedClock
from inspector.frame import Evidence
from inspector.ledger.book import Book


@pytest.fixture
def clock() -> PushedClock:
    return PushedClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def part() -> Make:
    return make_part


@pytest.fixture
def evidence() -> Callable[..., Evidence]:
    return make_evidence


@pytest.fixture
def open_book(path: Path, clock: PushedClock) -> Iterator[Callable[..., Book]]:
    """Opens books on one path."""
    books: list[Book] = []

    def opened(**options: object) -> Book:
        options.setdefault("ballast_bytes", 0)
        book = Book(path, clock=clock, **options)  # type: ignore[arg-type]
        book.open()
        books.append(book)
        return book

    yield opened
    for book in books:
        book.close()


@pytest.fixture
def kill() -> Callable[[Book], None]:
    """End a book without its orderly end: connections closed, nothing copied, nothing noted."""

    def ended(book: Book) -> None:
        book._release()

    return ended
