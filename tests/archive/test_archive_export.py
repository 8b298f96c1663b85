"""The export into an archive: whole, sorted, checksummed, incremental, and never in the writer's way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_kit import PARTS, SHARD_PARTS, STATION, Written, export, judged, parts_of, result_files, told
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.archive import export as exporting
from inspector.archive.catalogue import read_manifest
from inspector.archive.export import SETTLING_S, Source, export_archive
from inspector.archive.opinions import read_truths, write_reviews
from inspector.archive.pages import Pages
from inspector.archive.place import Place
from inspector.archive.table import parquet_rows
from inspector.clock import PushedClock, SystemClock
from inspector.errors import ConfigError, LedgerError
from inspector.frame import Answer, Evidence, Hashes, Reason, Settled, Verdict
from inspector.ledger.book import Book, Override
from inspector.ledger.query import Reading
from inspector.ledger.store import Policy, Store

WALL_NS = 1_700_000_000_000_000_000


def part(epoch: int, sequence: int, *, wall_ns: int = 0, image: np.ndarray | None = None) -> Settled:
    """An answer a millisecond after the one before."""
    wall_ns = wall_ns or WALL_NS + sequence * 1_000_000
    answer = Answer(
        epoch=epoch, sequence=sequence, part_id=f"P-{sequence}", frame_id=sequence, verdict=Verdict.PASS, reason=None,
        review=False, rules=(), defects=(), score=0.1, taken_ns=sequence, due_ns=sequence + 9, settled_ns=sequence + 5,
        wall_ns=wall_ns, hashes=Hashes("e" * 16, "c" * 16, "5" * 16), stages_us=(("engine", 7),),
    )  # fmt: skip
    return Settled(answer, Evidence(image))


@pytest.fixture
def clock() -> PushedClock:
    return PushedClock(wall_ns=WALL_NS + 3600 * 10**9)


@pytest.fixture
def book(tmp_path: Path, clock: PushedClock) -> Any:
    """A ledger that is open for writing, as beside a running daemon."""
    (tmp_path / "state").mkdir()
    opened = Book(tmp_path / "state" / "ledger.db", clock=clock, ballast_bytes=0)
    opened.open()
    yield opened
    opened.close()


def _rows(archive: Path, station: str = "s") -> list[dict[str, Any]]:
    place = Place(archive)
    shards = read_manifest(place, station).shards
    return [row for shard in shards for row in parquet_rows(place.read(f"stations/{station}/{shard.name}"))]


def test_an_archive_holds_every_answer_once_in_order(written: Written) -> None:
    """Sorted shards of bounded size, each with the checksum that the manifest says."""
    manifest, rows = written.manifest(), parts_of(written)
    assert [(row["epoch"], row["sequence"]) for row in rows] == [(1, number) for number in range(1, PARTS + 1)]
    assert [shard.rows for shard in manifest.shards] == [32, 32, 32, 24] and SHARD_PARTS == 32
    folder = written.archive / "stations" / STATION
    for shard in manifest.shards:
        assert hashlib.sha256((folder / shard.name).read_bytes()).hexdigest() == shard.sha256
    assert {row["station"] for row in rows} == {STATION}


def test_pictures_are_named_by_their_content_and_stored_once(written: Written) -> None:
    """Every digest in a row is a file of that content; equal pictures share one, linked to the store's own."""
    digests = {row[name] for row in parts_of(written) for name in ("image_sha256", "mask_sha256") if row[name]}
    files = {path.stem: path for path in (written.archive / "pictures").glob("*/*.png")}
    assert set(files) == digests
    for digest, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        assert path.stat().st_nlink > 1


def test_the_archive_holds_what_parts_were_decided_with(written: Written) -> None:
    """Calibration with its template, and rules, by the hashes in the rows: nothing of the station is needed."""
    recipes = written.archive / "recipes"
    assert written.manifest().missing_recipes == []
    assert {row["calibration"] for row in parts_of(written)} == {p.name for p in (recipes / "calibrations").iterdir()}
    assert {row["settings"] for row in parts_of(written)} == {path.stem for path in (recipes / "rules").iterdir()}
    assert len(list((recipes / "calibrations").glob("*/*.png"))) == 1


def test_a_second_call_changes_nothing(written: Written, tmp_path: Path) -> None:
    """Idempotent: the same files with the same bytes."""
    archive = tmp_path / "archive"
    export(written, archive)
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    done = export(written, archive)
    assert (done.parts, done.shards, done.parts_in_all) == (0, 0, PARTS)
    assert {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()} == before


def test_each_call_adds_what_is_new(tmp_path: Path, book: Book, clock: PushedClock) -> None:
    """Old shards are never touched; beside a running daemon the youngest answers wait for the next call."""
    source, archive = Source("s", tmp_path / "state"), tmp_path / "archive"
    book.write([part(1, number) for number in range(1, 51)])
    young = part(1, 51, wall_ns=clock.wall_ns() - int(SETTLING_S * 0.5e9))
    book.write([young])
    first = export_archive(source, Place(archive), clock=clock, shard_rows=20)
    assert (first.parts, first.shards) == (50, 3)
    before = {path: path.read_bytes() for path in archive.glob("stations/s/parts-*.parquet")}
    clock.push(int(SETTLING_S * 1e9))
    second = export_archive(source, Place(archive), clock=clock, shard_rows=20)
    assert (second.parts, second.parts_in_all) == (1, 51)
    assert {path: path.read_bytes() for path in before} == before
    assert [row["sequence"] for row in _rows(archive)] == list(range(1, 52))


@settings(max_examples=10, deadline=None)
@given(
    batches=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    shard_rows=st.integers(1, 40),
    swaps=st.randoms(use_true_random=False),
)
def test_however_answers_come_each_is_exported_once(batches: list[int], shard_rows: int, swaps: Any) -> None:
    """Any order of booking, any pace of exports, any size of shards: all answers, once, and no shard too large."""
    import tempfile

    clock = PushedClock(wall_ns=WALL_NS + 3600 * 10**9)
    with tempfile.TemporaryDirectory() as folder:
        state, archive = Path(folder) / "state", Path(folder) / "archive"
        state.mkdir()
        book = Book(state / "ledger.db", clock=clock, ballast_bytes=0)
        book.open()
        number = 0
        for size in batches:
            numbers = list(range(number + 1, number + size + 1))
            swaps.shuffle(numbers)
            book.write([part(1, each) for each in numbers])
            number += size
            export_archive(Source("s", state), Place(archive), clock=clock, shard_rows=shard_rows)
        book.close()
        rows = _rows(archive)
        assert sorted(row["sequence"] for row in rows) == list(range(1, number + 1))
        for shard in read_manifest(Place(archive), "s").shards:
            assert shard.rows <= shard_rows and shard.first <= shard.last


def test_since_says_where_the_archive_begins_and_leaves_no_hole_later(
    tmp_path: Path, book: Book, clock: PushedClock
) -> None:
    """The first call begins there; later ones go on where the last ended, whatever --since says; never backwards."""
    source, archive = Source("s", tmp_path / "state"), Place(tmp_path / "archive")
    book.write([part(1, number) for number in range(1, 101)])
    since_ns = WALL_NS + 41 * 1_000_000
    assert export_archive(source, archive, clock=clock, since_ns=since_ns).parts == 60
    book.write([part(1, number) for number in range(101, 201)])
    assert export_archive(source, archive, clock=clock, since_ns=WALL_NS + 190 * 1_000_000).parts == 100
    assert [row["sequence"] for row in _rows(tmp_path / "archive")] == list(range(41, 201))
    with pytest.raises(ConfigError, match="cannot grow backwards"):
        export_archive(source, archive, clock=clock, since_ns=since_ns - 1)


def test_what_a_crash_leaves_is_removed_and_done_again(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any write of the call: the next one ends with the archive that an unbroken call makes."""
    whole = tmp_path / "whole"
    export(written, whole)
    expected = {p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    names: list[str] = []
    counted = Place(tmp_path / "counted")
    original = Place.write
    monkeypatch.setattr(Place, "write", lambda self, name, data: (names.append(name), original(self, name, data)))
    export_archive(written.source, counted, clock=SystemClock(), shard_rows=SHARD_PARTS)
    assert len(names) > 8
    for fatal in range(len(names)):
        archive, left = tmp_path / f"cut-{fatal}", [fatal]

        def dies(self: Place, name: str, data: bytes, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            original(self, name, data)

        monkeypatch.setattr(Place, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            export(written, archive)
        monkeypatch.setattr(Place, "write", original)
        export(written, archive)
        found = {p.relative_to(archive): p.read_bytes() for p in archive.rglob("*") if p.is_file()}
        assert found == expected, f"cut before {names[fatal]}"


def test_a_shard_that_no_manifest_names_does_not_stay(
    tmp_path: Path, book: Book, clock: PushedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between shard and manifest, and more answers since: a reader of all files finds each answer once."""
    source, archive = Source("s", tmp_path / "state"), tmp_path / "archive"
    book.write([part(1, number) for number in range(1, 8)])

    def dies(export: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exporting._Export, "_save", dies)
        with pytest.raises(KeyboardInterrupt):
            export_archive(source, Place(archive), clock=clock)
    assert len(list(archive.glob("stations/s/parts-*.parquet"))) == 1
    book.write([part(1, number) for number in range(8, 12)])
    export_archive(source, Place(archive), clock=clock)
    rows = [row for path in archive.glob("stations/s/parts-*.parquet") for row in parquet_rows(path.read_bytes())]
    assert sorted(row["sequence"] for row in rows) == list(range(1, 12))


def test_the_wal_does_not_grow_while_it_is_exported(
    tmp_path: Path, book: Book, clock: PushedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer goes on after every page; the WAL starts again. One reading of the whole ledger makes it grow."""

    def peak(read: Callable[[Callable[[], None]], None], first: int) -> int:
        most, number = 0, first

        def write_on() -> None:
            nonlocal most, number
            for _ in range(6 if number < first + 1500 else 0):
                book.write([part(1, number + each) for each in range(1, 11)])
                number += 10
                if book.wal_bytes > 64 << 10:
                    book.checkpoint()
                most = max(most, book.wal_bytes)

        read(write_on)
        return most

    book.write([part(1, number) for number in range(1, 2001)])
    book.checkpoint()
    source = Source("s", tmp_path / "state")

    def in_pages(write_on: Callable[[], None]) -> None:
        def next_page(pages: Pages, after: int, limit: int) -> Any:
            found = original(pages, after, limit)
            write_on()
            return found

        original = Pages.next
        with monkeypatch.context() as patch:
            patch.setattr(Pages, "next", next_page)
            done = export_archive(source, Place(tmp_path / "archive"), clock=clock, shard_rows=100)
        assert done.parts > 2000

    def in_one_go(write_on: Callable[[], None]) -> None:
        with Reading(book.path) as connection:
            for count, _ in enumerate(connection.execute("SELECT * FROM answers WHERE link <= 2001")):
                if count % 100 == 0:
                    write_on()

    paged, held = peak(in_pages, 10_000), peak(in_one_go, 100_000)
    assert paged < 256 << 10
    assert held > 2 * paged


def test_damaged_and_missing_pictures_stay_out(tmp_path: Path, book: Book, clock: PushedClock) -> None:
    """The part is archived without its picture, and the call says how many and why."""
    store = Store(
        tmp_path / "state" / "images", policy=Policy(every_pass=1), quota_bytes=None, keep_days=36500, clock=clock,
        min_free_bytes=0,
    )  # fmt: skip
    store.open()
    parts = [part(1, n, image=np.random.default_rng(n).integers(0, 255, (32, 32), np.uint8)) for n in (1, 2, 3)]
    for each in parts:
        assert store.offer(each)
    store.step(0)
    store.close()
    book.write(parts)
    files = sorted((tmp_path / "state" / "images" / "images").rglob("*.png"))
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"X")
    files[1].unlink()
    done = export_archive(Source("s", tmp_path / "state"), Place(tmp_path / "archive"), clock=clock)
    assert (done.parts, done.images, done.images_damaged, done.images_gone) == (3, 1, 1, 1)
    assert [row["image_sha256"] is not None for row in _rows(tmp_path / "archive")] == [False, False, True]


def test_an_override_that_is_booked_later_is_told_beside(tmp_path: Path, book: Book, clock: PushedClock) -> None:
    """The shard stays as it is; the second table says what the controller was really told."""
    source, archive = Source("s", tmp_path / "state"), tmp_path / "archive"
    book.write([part(1, 1), part(1, 2)])
    export_archive(source, Place(archive), clock=clock)
    book.write([Override(1, 2, Reason.UNRECORDED, 77, "late commit")])
    assert export_archive(source, Place(archive), clock=clock).late == 1
    assert export_archive(source, Place(archive), clock=clock).late == 0
    late = [row for path in archive.glob("stations/s/late-*.parquet") for row in parquet_rows(path.read_bytes())]
    assert late == [{"station": "s", "epoch": 1, "sequence": 2, "reason": "UNRECORDED", "sent_ns": 77}]


def test_two_stations_of_one_name_are_not_mixed(tmp_path: Path, book: Book, clock: PushedClock) -> None:
    """Another ledger with the same epochs under the same name is refused; under its own name it goes in."""
    book.write([part(1, 1)])
    export_archive(Source("s", tmp_path / "state"), Place(tmp_path / "archive"), clock=clock)
    (tmp_path / "other").mkdir()
    other = Book(tmp_path / "other" / "ledger.db", clock=PushedClock(wall_ns=WALL_NS), ballast_bytes=0)
    other.open()
    other.write([part(1, 1)])
    with pytest.raises(ConfigError, match="another ledger"):
        export_archive(Source("s", tmp_path / "other"), Place(tmp_path / "archive"), clock=clock)
    assert export_archive(Source("t", tmp_path / "other"), Place(tmp_path / "archive"), clock=clock).parts_in_all == 1
    other.close()


def test_two_exports_of_a_station_do_not_run_at_once(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is told to wait: it would take the first one's shards for leavings."""
    second: list[BaseException] = []

    def on_shard(done: Any) -> None:
        def again() -> None:
            try:
                export(written, tmp_path / "archive")
            except LedgerError as error:
                second.append(error)

        thread = threading.Thread(target=again)
        thread.start()
        thread.join()

    export(written, tmp_path / "archive", on_shard=on_shard)
    assert len(second) == 4 and "another export" in str(second[0])


def test_the_archive_may_lie_in_an_object_store(written: Written, engines: tuple[Path, Path], tmp_path: Path) -> None:
    """Through fsspec, here in memory: the same judgement, the same bytes as from a directory."""
    import fsspec

    url = "memory://plant/archive"
    export(written, url)
    assert fsspec.filesystem("memory").exists("/plant/archive/stations/line-7/manifest.json")
    there = judged(url, engines[1], tmp_path / "there", workers=1)
    here = judged(written.archive, engines[1], tmp_path / "here", workers=1)
    assert there["flips"] == here["flips"] > 0
    assert result_files(tmp_path / "there") == result_files(tmp_path / "here")
    judged(url, engines[1], "memory://plant/out", workers=1)
    assert (
        fsspec.filesystem("memory").cat_file("/plant/out/results.parquet")
        == (tmp_path / "here" / "results.parquet").read_bytes()
    )


def test_the_archive_may_lie_in_s3(
    written: Written, engines: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through Arrow's own client, against a server that speaks the protocol."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed: the S3 client is not tried")
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    serving = server.ThreadedMotoServer(port=0)
    serving.start()
    try:
        host, port = serving.get_host_and_port()
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="plant")
        url = f"s3://plant/archive?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        assert export(written, url).parts == PARTS
        assert export(written, url).parts == 0
        there = judged(url, engines[1], tmp_path / "there", workers=2)
        here = judged(written.archive, engines[1], tmp_path / "here", workers=1)
        assert there["flips"] == here["flips"] > 0
        assert result_files(tmp_path / "there") == result_files(tmp_path / "here")
    finally:
        serving.stop()


def test_reviews_come_to_one_truth_a_part(written: Written, engines: tuple[Path, Path], tmp_path: Path) -> None:
    """The latest word of each blind reviewer counts; who disagrees or cannot tell decides nothing."""
    archive = tmp_path / "archive"
    shutil.copytree(written.archive, archive)
    said = [
        (1, "ann", "good", True), (1, "ann", "defect", True), (1, "bob", "defect", True), (2, "ann", "good", True),
        (2, "bob", "defect", True), (3, "ann", "cannot_tell", True), (4, "ann", "good", False),
        (5, "ann", "good", True),
    ]  # fmt: skip
    empty = dict.fromkeys(("note", "stratum", "machine_verdict", "engine", "picture_sha256", "mask_sha256"), "")
    rows = [
        {"station": STATION, "epoch": 1, "sequence": n, "reviewer": who, "opinion": opinion, "blind": blind}
        | {"decided_at_ns": at, "probability": 1.0} | empty
        for at, (n, who, opinion, blind) in enumerate(said)
    ]  # fmt: skip
    assert write_reviews(Place(archive), STATION, rows) == len(said)
    assert read_truths(Place(archive), STATION) == {(1, 1): True, (1, 5): False}
    found = judged(archive, engines[1], tmp_path / "out", workers=1)["reviewed"]
    assert (found["defective"], found["good"]) == (1, 1)
    assert "Parts that people reviewed" in (tmp_path / "out" / "report.html").read_text()


def test_the_command_refuses_filters_that_an_archive_cannot_keep(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An archive of rejects alone could never be added to; --since alone is taken. A file is still one table."""
    base = ["ledger", "export", "--state-dir", str(written.state), "--json"]
    from inspector.cli import run

    assert run([*base, "--parquet", str(tmp_path / "a"), "--verdict", "FAIL"]) == 2
    capsys.readouterr()
    code, found = told(capsys, *base, "--parquet", str(tmp_path / "a"), "--station", "x", "--since", "2020-01-01")
    assert code == 0 and found["archive"]["parts"] == PARTS
    code, found = told(capsys, *base, "--parquet", str(tmp_path / "one.parquet"))
    assert code == 0 and found["parquet"]["parts"] == PARTS
    assert json.loads((tmp_path / "a" / "stations" / "x" / "manifest.json").read_text())["since_ns"] > 0


def test_a_draft_is_never_taken_for_a_file(written: Written, tmp_path: Path) -> None:
    """What is being written has a name that no reader lists."""
    archive = tmp_path / "archive"
    place = Place(archive)
    seen: list[list[str]] = []
    original = os.fsync

    def look(descriptor: int) -> None:
        original(descriptor)
        seen.append(place.names("a"))

    exporting_os = __import__("inspector.archive.place", fromlist=["os"]).os
    try:
        exporting_os.fsync = look
        place.write("a/b.parquet", b"x")
    finally:
        exporting_os.fsync = original
    assert seen == [[]] and place.names("a") == ["b.parquet"]
    assert exporting.SHARD_ROWS > 0
