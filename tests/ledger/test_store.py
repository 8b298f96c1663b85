"""Images: what is saved, for how long, in how much space."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import cv2
import numpy as np
import pytest
from ledger_parts import Make, make_evidence, make_part

from inspector.clock import PushedClock
from inspector.errors import LedgerError
from inspector.frame import Evidence, Verdict
from inspector.ledger import store as store_module
from inspector.ledger.pictures import STORED, WRITING, Index, read_index
from inspector.ledger.pictures_audit import _files
from inspector.ledger.store import DAY_NS, Policy, Store

ALL = Policy(save=frozenset(Verdict), every_pass=1)


@pytest.fixture
def open_store(tmp_path: Path, clock: PushedClock) -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def opened(**options: object) -> Store:
        settings: dict[str, object] = {
            "policy": ALL,
            "quota_bytes": None,
            "keep_days": 30.0,
            "clock": clock,
            "min_free_bytes": 0,
        }
        store = Store(tmp_path / "store", **{**settings, **options})  # type: ignore[arg-type]
        store.open()
        stores.append(store)
        return store

    yield opened
    for store in stores:
        store.close()


def names(store: Store) -> list[int]:
    return [each.sequence for each in read_index(store.root) if each.state == STORED]


def du_bytes(root: Path) -> int:
    """What the files really take, as the file system counts it."""
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file())


def save(store: Store, sequence: int, verdict: Verdict = Verdict.FAIL, **options: object) -> None:
    options.setdefault("evidence", make_evidence(sequence))
    assert store.offer(make_part(1, sequence, verdict, **options))  # type: ignore[arg-type]
    store.step(0)


def test_image_and_mask_come_back_pixel_for_pixel(open_store: Callable[..., Store]) -> None:
    """PNG is lossless; masks are 0 and 255, as the published sets have them."""
    store = open_store()
    evidence = make_evidence(1)
    save(store, 7, evidence=evidence)
    (stored,) = read_index(store.root)
    image, mask = (cv2.imread(str(store.root / name), cv2.IMREAD_UNCHANGED) for name in stored.names)
    assert evidence.image is not None and evidence.mask is not None
    assert np.array_equal(image, evidence.image)
    assert np.array_equal(mask, evidence.mask * 255)
    assert stored.names == ("images/2023-11-14/000001-000000007.png", "masks/2023-11-14/000001-000000007.png")


def test_the_policy_saves_by_verdict_and_every_nth_pass(part: Make) -> None:
    """All FAIL and INVALID, each third PASS, whatever is for review; nothing else, and by number, not by chance."""
    policy = Policy(every_pass=3)
    wanted = [n for n in range(1, 10) if policy.wants(part(1, n).answer)]
    assert wanted == [3, 6, 9]
    assert policy.wants(part(1, 1, Verdict.FAIL).answer)
    assert policy.wants(part(1, 1, Verdict.INVALID).answer)
    assert policy.wants(part(1, 1, review=True).answer)
    assert not Policy(save=frozenset(), every_pass=0).wants(part(1, 6).answer)
    assert Policy(every_pass=0, pass_from_score=0.25).wants(part(1, 1).answer)  # its score is 0.25
    assert not Policy(every_pass=0, pass_from_score=0.26).wants(part(1, 1).answer)


def test_a_part_without_an_image_is_not_saved(open_store: Callable[..., Store], part: Make) -> None:
    """A missed frame has nothing to save, and that is no loss."""
    store = open_store()
    assert not store.offer(part(1, 1, Verdict.INVALID, evidence=Evidence()))
    assert store.statistics().shed == 0


def test_offer_never_waits_and_counts_what_it_sheds(open_store: Callable[..., Store]) -> None:
    """With the queue full a part is refused at once and counted; the line goes on."""
    store = open_store(capacity=2)
    taken = [store.offer(make_part(1, n, Verdict.FAIL, evidence=make_evidence(n))) for n in (1, 2, 3)]
    assert taken == [True, True, False]
    assert (store.statistics().shed, store.statistics().waiting_peak) == (1, 2)


def test_closing_saves_what_waits(open_store: Callable[..., Store]) -> None:
    """An orderly end loses no image that was taken in."""
    store = open_store()
    for number in range(1, 41):
        store.offer(make_part(1, number, Verdict.FAIL, evidence=make_evidence(number)))
    store.close()
    assert names(store) == list(range(1, 41))


@pytest.mark.parametrize("quota_kib", [6000, 9000])
def test_a_filling_run_stays_within_its_quota(open_store: Callable[..., Store], quota_kib: int) -> None:
    """Never more than 1 % above the quota after any part, as the file system counts, and nearly all of it used."""
    store = open_store(quota_bytes=quota_kib << 10)
    for number in range(1, 301):
        save(store, number, Verdict.PASS if number % 3 else Verdict.FAIL, evidence=make_evidence(number, 200))
        if number % 10 == 0:
            assert du_bytes(store.root) <= (quota_kib << 10) * 1.01
    assert du_bytes(store.root) >= (quota_kib << 10) * 0.9
    assert store.statistics().shed == 0


def test_the_oldest_pass_goes_first_then_the_oldest(open_store: Callable[..., Store]) -> None:
    """A FAIL outlives every PASS; among equals the older goes."""
    store = open_store(quota_bytes=500 << 10)
    second = 1_000_000_000
    for number in range(1, 11):
        verdict = Verdict.FAIL if number <= 5 else Verdict.PASS
        save(store, number, verdict, wall_ns=1_700_000_000_000_000_000 + number * second)
    before = names(store)
    number = 10
    while 6 in names(store):
        number += 1
        save(store, number, wall_ns=1_700_000_000_000_000_000 + number * second)
    assert {1, 2, 3, 4, 5} <= set(names(store))
    while any(each in names(store) for each in range(6, 11)):
        number += 1
        save(store, number, wall_ns=1_700_000_000_000_000_000 + number * second)
    assert 1 in names(store)
    for _ in range(3):
        number += 1
        save(store, number, wall_ns=1_700_000_000_000_000_000 + number * second)
    assert 1 not in names(store)
    assert before[0] == 1


def test_the_keep_list_outlives_quota_and_retention(open_store: Callable[..., Store], clock: PushedClock) -> None:
    """What a person marked stays, even when that leaves no room for new images: those are shed and counted."""
    store = open_store(quota_bytes=420 << 10)
    save(store, 1, Verdict.PASS)
    assert store.keep(1, 1)
    assert not store.keep(1, 99)
    for number in range(2, 60):
        save(store, number)
    clock.push(31 * DAY_NS)
    store.step(0)
    assert names(store) == [1]
    assert store.keep(1, 1, False)
    clock.push(DAY_NS)
    store.step(0)
    assert names(store) == []
    assert _files(store.root) == set()


def test_retention_ends_after_its_days(open_store: Callable[..., Store], clock: PushedClock) -> None:
    """Images go when they are older than keep_days, with their day's folder, and not before."""
    store = open_store(keep_days=2.0)
    save(store, 1, wall_ns=clock.wall_ns())
    clock.push(2 * DAY_NS)
    store.step(0)
    assert names(store) == [1]
    clock.push(DAY_NS // 4)
    save(store, 2, wall_ns=clock.wall_ns())
    assert names(store) == [2]
    assert [path.name for path in (store.root / "images").iterdir()] == ["2023-11-17"]


def test_retention_takes_a_few_at_a_time(
    open_store: Callable[..., Store], clock: PushedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is old leaves by and by, and the images that wait are saved in between."""
    monkeypatch.setattr(store_module, "_TIDY_LIMIT", 5)
    store = open_store()
    for number in range(1, 21):
        save(store, number)
    clock.push(400 * DAY_NS)
    for left in (15, 10, 5, 0):
        clock.push(11_000_000_000)
        store.step(0)
        assert len(names(store)) == left


def test_a_short_disk_gives_up_passes_then_sheds(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When somebody else fills the disk, PASS images make room; a FAIL already stored is not given up for that."""
    store = open_store(min_free_bytes=1 << 20)
    for number in range(1, 7):
        save(store, number, Verdict.FAIL if number <= 3 else Verdict.PASS)
    usage = shutil.disk_usage(store.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    for number in range(7, 11):
        save(store, number)
    assert names(store) == [1, 2, 3]
    statistics = store.statistics()
    assert (statistics.shed, statistics.short) == (4, True)
    assert "not saved" in statistics.last_error
    monkeypatch.undo()
    save(store, 11)
    assert names(store) == [1, 2, 3, 11]
    assert (store.statistics().short, store.statistics().last_error) == (False, "")


def test_a_disk_that_refuses_sheds_the_image_and_leaves_no_rest(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half-written file under its final name, no row in the index, no exception into the thread."""
    store = open_store()
    save(store, 1)

    def refuses(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuses)
    save(store, 2)
    monkeypatch.undo()
    assert names(store) == [1]
    assert len(_files(store.root)) == 2
    assert store.statistics().shed == 1
    assert "No space" in store.statistics().last_error
    save(store, 3)
    assert names(store) == [1, 3]


def test_an_image_that_is_none_is_shed_alone(open_store: Callable[..., Store]) -> None:
    """An empty array cannot be a PNG; its neighbours in the batch are saved."""
    store = open_store()
    empty = Evidence(np.zeros((0, 0), np.uint8), None)
    for number, evidence in enumerate((make_evidence(1), empty, make_evidence(3)), start=1):
        store.offer(make_part(1, number, Verdict.FAIL, evidence=evidence))
    store.step(0)
    assert names(store) == [1, 3]
    assert store.statistics().shed == 1


def test_what_a_kill_interrupted_is_finished_at_the_next_start(open_store: Callable[..., Store]) -> None:
    """Written whole: kept. Half written, or half removed: gone, with no orphan left behind."""
    store = open_store()
    for number in range(1, 5):
        save(store, number)
    rows = read_index(store.root)
    store.close()
    index = Index(store.root)
    index.set_state(rows[:2], WRITING)
    index.set_state([rows[2]], 2)
    index.close()
    (store.root / rows[1].names[1]).rename((store.root / rows[1].names[1]).with_name(".000001-000000002.png.part"))
    store = open_store()
    assert names(store) == [1, 4]
    assert _files(store.root) == {name for row in (rows[0], rows[3]) for name in row.names}
    assert store.statistics().used_bytes == rows[0].blocks_bytes + rows[3].blocks_bytes


class Killed(BaseException):
    """Stands for kill -9 at a chosen point: nothing after it runs."""


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_kill_while_removing_is_finished_at_the_next_start(
    open_store: Callable[..., Store], clock: PushedClock, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Whichever file was the last to go, index and disk agree afterwards and nothing removed comes back."""
    store = open_store(keep_days=1.0)
    for number in (1, 2):
        save(store, number)
    clock.push(2 * DAY_NS)
    real, calls = Path.unlink, 0

    def unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise Killed
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(Killed):
        store.step(0)
    monkeypatch.undo()
    store._index.close()  # type: ignore[union-attr]
    store._index = None
    again = open_store(keep_days=1.0)
    assert _files(again.root) == {name for each in read_index(again.root) for name in each.names} == set()


def test_no_reader_ever_sees_half_an_image(open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written under another, hidden name and renamed when whole."""
    store = open_store()
    real, written = Path.write_bytes, []

    def write_bytes(path: Path, data: bytes) -> int:
        written.append(path.name)
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    save(store, 1)
    assert written == [".000001-000000001.png.part"] * 2
    assert {Path(name).name for name in _files(store.root)} == {"000001-000000001.png"}


def _save_for_ever(root: Path, busy: Event) -> None:
    store = Store(
        root, policy=ALL, quota_bytes=600 << 10, keep_days=1.0, clock=PushedClock(), min_free_bytes=0, capacity=64
    )
    store.open()
    first = max((each.sequence for each in read_index(root)), default=0) + 1
    for number in range(first, first + 100_000):
        store.offer(make_part(1, number, evidence=make_evidence(number % 7)))
        store.step(0)
        if number - first == 5:
            busy.set()


def test_kill_9_leaves_no_orphan_and_no_missing_image(open_store: Callable[..., Store], tmp_path: Path) -> None:
    """Real kills of a store that saves and removes all the time; after the next start disk and index agree."""
    root = tmp_path / "store"
    context = multiprocessing.get_context("fork")
    for delay_s in (0.001, 0.013, 0.027, 0.052, 0.094):
        busy = context.Event()
        child = context.Process(target=_save_for_ever, args=(root, busy))
        child.start()
        assert busy.wait(30)
        child.join(delay_s)
        assert child.pid is not None
        os.kill(child.pid, 9)
        child.join()
        store = open_store()
        store.close()
        index = read_index(root)
        assert {name for each in index for name in each.names} == _files(root)
        assert all((root / each.names[0]).stat().st_size == each.image_bytes for each in index)
    assert read_index(root)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, clock: PushedClock) -> None:
    """A wrong path is a LedgerError at start, not a trace in the thread."""
    (tmp_path / "file").write_text("x")
    store = Store(tmp_path / "file" / "x", policy=ALL, quota_bytes=None, keep_days=1, clock=clock, min_free_bytes=0)
    with pytest.raises(LedgerError):
        store.open()
