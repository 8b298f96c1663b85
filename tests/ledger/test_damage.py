"""A damaged ledger never keeps the line from starting: it is set aside, told of, and a new file goes on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from inspector.clock import SystemClock
from inspector.frame import Answer, Hashes, Settled, Verdict
from inspector.ledger.book import Book


def _write_some(path: Path, count: int) -> int:
    book = Book(path, clock=SystemClock(), ballast_bytes=0)
    book.open()
    for sequence in range(1, count + 1):
        book.mark_opened(sequence)
        answer = Answer(
            book.epoch, sequence, f"p{sequence}", sequence, Verdict.PASS, None, False, (), (), 0.1, 1, 2, 1, 1, Hashes()
        )
        book.write([Settled(answer)])
    epoch = book.epoch
    book.close()
    return epoch


@pytest.mark.parametrize("seed", range(60))
def test_any_damage_lets_the_line_start_with_a_new_epoch(tmp_path: Path, seed: int) -> None:
    """Whatever bytes are wrong: open() works, the epoch goes up, and nothing of the old file is deleted."""
    dice = random.Random(seed)
    path = tmp_path / "ledger.db"
    epoch = _write_some(path, 60)
    data = bytearray(path.read_bytes())
    for _ in range(dice.randrange(1, 8)):
        at = dice.randrange(len(data))
        data[at : at + dice.randrange(1, 200)] = dice.randbytes(dice.randrange(1, 200))
    if dice.random() < 0.2:
        del data[dice.randrange(len(data)) :]
    path.write_bytes(bytes(data))
    book = Book(path, clock=SystemClock(), ballast_bytes=0)
    book.open()
    book.recover(1_000)
    assert book.epoch > epoch
    kept = bool(list(tmp_path.glob("ledger.db.damaged-*")))
    told = any(note.kind == "continues" for note in book.notes)
    assert kept == told
    book.write([Settled(_answer(book.epoch))])
    book.close()


def _answer(epoch: int) -> Answer:
    return Answer(epoch, 1, "p", 1, Verdict.PASS, None, False, (), (), 0.1, 1, 2, 1, 1, Hashes())
