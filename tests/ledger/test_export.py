"""CSV, Parquet and training folders from a ledger."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from ledger_parts import Open, make_evidence, make_part

from inspector.clock import PushedClock
from inspector.errors import ConfigError, LedgerError
from inspector.frame import Evidence, Reason, Receipt, Verdict
from inspector.layouts import list_samples
from inspector.ledger.audit import Filter
from inspector.ledger.book import Override
from inspector.ledger.export import COLUMNS, export_csv, export_images, export_parquet
from inspector.ledger.store import Policy, Store


@pytest.fixture
def filled(open_book: Open, tmp_path: Path, clock: PushedClock) -> Callable[[], tuple[Path, Path]]:
    """1 FAIL known good (a false call), 2 FAIL, 3 PASS, 4 INVALID without a mask, 5 PASS without an image."""

    def made() -> tuple[Path, Path]:
        book = open_book()
        policy = Policy(save=frozenset(Verdict), every_pass=1)
        store = Store(tmp_path / "store", policy=policy, quota_bytes=None, keep_days=9, clock=clock, min_free_bytes=0)
        store.open()
        parts = [
            make_part(1, 1, Verdict.FAIL, truth=False, evidence=make_evidence(1)),
            make_part(1, 2, Verdict.FAIL, evidence=make_evidence(2)),
            make_part(1, 3, evidence=Evidence(make_evidence(3).image, np.zeros((64, 64), np.bool_))),
            make_part(1, 4, Verdict.INVALID, reason=Reason.NOT_LOCATED, evidence=Evidence(make_evidence(4).image)),
            make_part(1, 5),
        ]
        book.write([*parts, Receipt(1, 2, parts[1].answer.settled_ns + 1_500_000)])
        for each in parts:
            store.offer(each)
        store.close()
        return book.path, store.root

    return made


def test_csv_has_one_line_a_part_under_a_fixed_header(
    filled: Callable[[], tuple[Path, Path]], tmp_path: Path, open_book: Open
) -> None:
    """Every part that fits, in booking order, as it was sent; unknowns are empty cells."""
    path, _ = filled()
    out = tmp_path / "out" / "parts.csv"
    assert export_csv(path, out) == 5
    with out.open(encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file))
    assert tuple(header) == COLUMNS
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    assert [row["verdict"] for row in rows] == ["FAIL", "FAIL", "PASS", "INVALID", "PASS"]
    assert (rows[1]["area_px_max"], rows[1]["shapes"], rows[1]["zones"]) == ("12.5", "strip", "bar")
    assert (rows[1]["latency_ms"], rows[1]["acknowledged_ms"], rows[0]["acknowledged_ms"]) == ("20.0", "1.5", "")
    assert (rows[0]["truth"], rows[1]["truth"], rows[3]["reason"]) == ("False", "", "NOT_LOCATED")
    assert export_csv(path, out, Filter(verdict=Verdict.PASS)) == 2
    assert not list(out.parent.glob(".*"))


def test_an_override_is_exported_as_sent_beside_what_was_stored(
    filled: Callable[[], tuple[Path, Path]], open_book: Open, tmp_path: Path, clock: PushedClock
) -> None:
    """Nobody may read a PASS where the controller was told INVALID."""
    book = open_book()
    book.write([make_part(1, 1), Override(1, 1, Reason.UNRECORDED, 9, "too late")])
    out = tmp_path / "parts.csv"
    export_csv(book.path, out)
    with out.open(encoding="utf-8", newline="") as file:
        (row,) = list(csv.DictReader(file))
    assert (row["verdict"], row["reason"], row["stored_verdict"]) == ("INVALID", "UNRECORDED", "PASS")


def test_images_and_masks_are_read_by_the_trainers_own_reader(
    filled: Callable[[], tuple[Path, Path]], tmp_path: Path
) -> None:
    """The plain layout; a false call comes with an empty mask; parts without a mask are counted, not invented."""
    path, store = filled()
    out = tmp_path / "set"
    done = export_images(path, store, out)
    assert (done.images, done.defective, done.without_image) == (3, 1, 2)
    samples = list_samples(out, "folder")
    assert [sample.defective for sample in samples] == [False, True, False]
    image = cv2.imread(str(samples[1].image), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(image, make_evidence(2).image)
    with (out / "parts.csv").open(encoding="utf-8", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [sample.image.name for sample in samples]


def test_false_calls_become_sound_training_parts(filled: Callable[[], tuple[Path, Path]], tmp_path: Path) -> None:
    """With masks=empty what fits is sound, whatever the network found; with masks=found it is as found."""
    path, store = filled()
    assert export_images(path, store, tmp_path / "a", Filter(verdict=Verdict.FAIL), masks="empty").defective == 0
    assert export_images(path, store, tmp_path / "b", Filter(verdict=Verdict.FAIL), masks="found").defective == 2
    invalid = export_images(path, store, tmp_path / "c", Filter(verdict=Verdict.INVALID), masks="empty")
    assert invalid.images == 1


def test_a_missing_image_is_an_error_not_a_smaller_set(filled: Callable[[], tuple[Path, Path]], tmp_path: Path) -> None:
    """A training set must not shrink in silence."""
    path, store = filled()
    next((store / "images").rglob("*2.png")).unlink()
    with pytest.raises(LedgerError, match="ledger verify"):
        export_images(path, store, tmp_path / "set")


def test_parquet_without_pyarrow_says_what_to_do(filled: Callable[[], tuple[Path, Path]], tmp_path: Path) -> None:
    """The optional library is named, and CSV offered."""
    if importlib.util.find_spec("pyarrow"):
        pytest.skip("pyarrow is installed")
    path, _ = filled()
    with pytest.raises(ConfigError, match="pyarrow"):
        export_parquet(path, tmp_path / "parts.parquet")


def test_parquet_holds_the_same_table(filled: Callable[[], tuple[Path, Path]], tmp_path: Path) -> None:
    """Column by column what the CSV has, typed."""
    parquet = pytest.importorskip("pyarrow.parquet")
    path, _ = filled()
    assert export_parquet(path, tmp_path / "parts.parquet") == 5
    table = parquet.read_table(tmp_path / "parts.parquet").to_pydict()
    assert tuple(table) == COLUMNS
    assert table["verdict"] == ["FAIL", "FAIL", "PASS", "INVALID", "PASS"]
    assert table["truth"][:2] == [False, None]


def test_a_failed_export_leaves_no_file(tmp_path: Path) -> None:
    """Half a table is not left under its final name."""
    with pytest.raises(LedgerError):
        export_csv(tmp_path / "none.db", tmp_path / "parts.csv")
    assert list(tmp_path.iterdir()) == []
