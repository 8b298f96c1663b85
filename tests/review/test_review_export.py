"""Reviewed parts as training data: nothing is guessed, nothing is lost, and other tools read it."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from review_kit import Open, Station, brushed, judge, part

from inspector.errors import LedgerError
from inspector.frame import Verdict
from inspector.layouts import list_samples, read_grey, read_mask
from inspector.ledger.query import records
from inspector.review.export import DATASET, export_reviewed
from inspector.review.records import Opinion
from inspector.review.runs import brush_rle, coco_counts

GOOD, DEFECT, UNSURE = Opinion.GOOD, Opinion.DEFECT, Opinion.CANNOT_TELL


@pytest.fixture
def judged(open_store: Open, station: Station) -> Station:
    """1 FAIL agreed; 2 FAIL brushed by two; 3 FAIL false call; 4 FAIL disputed; 5 INVALID; 6 PASS escape without a
    mask; 7 PASS brushed; 8 PASS good; 9 nobody could tell; 10 FAIL-less part judged good by one who had said defect."""
    store = open_store()
    judge(store, station.key(1), DEFECT)
    judge(store, station.key(1), UNSURE, "bob")
    judge(store, station.key(2), DEFECT, mask_png=brushed((1, 1, 4, 4)))
    judge(store, station.key(2), DEFECT, "bob", mask_png=brushed((20, 10, 5, 2)))
    judge(store, station.key(3), GOOD, note="dust")
    judge(store, station.key(4), DEFECT)
    judge(store, station.key(4), GOOD, "bob")
    judge(store, station.key(5), DEFECT)
    judge(store, station.key(6), DEFECT, mask_png=brushed())
    judge(store, station.key(7), DEFECT, mask_png=brushed((9, 9, 1, 1)))
    judge(store, station.key(8), GOOD)
    judge(store, station.key(9), UNSURE)
    judge(store, station.key(10), DEFECT, mask_png=brushed((9, 9, 1, 1)))
    judge(store, station.key(10), GOOD)
    store.close()
    return station


def _rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def _name(sequence: int) -> str:
    return f"test-000001-{sequence:09d}.png"


def test_every_reviewed_part_is_in_exactly_one_list(judged: Station, tmp_path: Path) -> None:
    """Trained with, waiting for a mask, or left out with a reason; never two of them, never none."""
    out = tmp_path / "out"
    done = export_reviewed(judged.reviews, out)
    lists = [set(_rows(out / name)) for name in ("sources.csv", "needs-mask.csv", "left-out.csv")]
    assert lists == [{_name(n) for n in (1, 2, 3, 7, 8, 10)}, {_name(6)}, {_name(n) for n in (4, 5, 9)}]
    assert (done.good, done.defective, done.needs_mask, done.left_out, done.groups) == (3, 3, 1, 3, 6)
    reasons = {name: row["mask_from"] for name, row in _rows(out / "left-out.csv").items()}
    assert reasons[_name(4)] == "reviewers disagree" and reasons[_name(9)] == "nobody could tell"
    assert {path.name for path in (out / DATASET / "images").iterdir()} == lists[0]
    assert {path.name for path in (out / DATASET / "masks").iterdir()} == lists[0]
    assert [path.name for path in (out / "needs-mask").iterdir()] == [_name(6)]


def test_the_trainers_reader_finds_pictures_masks_and_groups(judged: Station, tmp_path: Path) -> None:
    """Brushed masks are joined, the machine's stands where it was agreed with, a good part has an empty one."""
    out = tmp_path / "out"
    export_reviewed(judged.reviews, out)
    samples = {sample.image.name: sample for sample in list_samples(out / DATASET, "folder")}
    assert {name for name, sample in samples.items() if sample.defective} == {_name(n) for n in (1, 2, 7)}
    assert int(read_mask(samples[_name(1)]).sum()) == 120  # the machine's square
    assert int(read_mask(samples[_name(2)]).sum()) == 16 + 10
    original = part(2, Verdict.FAIL).evidence.image
    assert original is not None and np.array_equal(read_grey(samples[_name(2)].image), original)
    assert {sample.group for sample in samples.values()} == {f"test part-{n}" for n in (1, 2, 3, 7, 8, 10)}


def test_pictures_of_one_part_share_a_group(open_store: Open, station: Station, tmp_path: Path) -> None:
    """A part that came twice must not stand on both sides of a split; days and runs can be kept together too."""
    store = open_store()
    day_ns = 86_400_000_000_000
    station.add([part(13, part_id="part-8", wall_ns=1_700_000_000_000_000_000 + day_ns), part(14, part_id="")])
    for sequence in (8, 13, 14):
        judge(store, station.key(sequence), GOOD)
    for grouping, groups in {
        "part": ["test part-8", "test part-8", "test 000001-000000014"],
        "day": ["test 2023-11-14", "test 2023-11-15", "test 2023-11-14"],
        "run": ["test 000001"] * 3,
    }.items():
        out = tmp_path / grouping
        export_reviewed(station.reviews, out, grouping=grouping)  # type: ignore[arg-type]
        assert [row["group"] for row in _rows(out / "sources.csv").values()] == groups


def test_sources_prove_where_each_picture_is_from(judged: Station, tmp_path: Path) -> None:
    """Digests of picture and mask as they lie there, and of the answer in the ledger."""
    import hashlib

    out = tmp_path / "out"
    export_reviewed(judged.reviews, out)
    answers = {record.settled.answer.sequence: record for record in records(judged.sources.ledger)}
    for name, row in _rows(out / "sources.csv").items():
        for folder, column in (("images", "picture_sha256"), ("masks", "mask_sha256")):
            assert hashlib.sha256((out / DATASET / folder / name).read_bytes()).hexdigest() == row[column]
        assert row["part_id"] == answers[int(row["sequence"])].settled.answer.part_id
        assert len(row["answer_hash"]) == 64 and ":" in row["reviews"]


def test_the_same_reviews_give_the_same_bytes_and_nothing_is_written_over(judged: Station, tmp_path: Path) -> None:
    """An export can be done again and compared; a folder that holds something is refused."""
    for name in ("a", "b"):
        export_reviewed(judged.reviews, tmp_path / name)
    found = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("a", "b")
    ]
    assert found[0] == found[1] and len(found[0]) == 21
    with pytest.raises(LedgerError, match="empty or new"):
        export_reviewed(judged.reviews, tmp_path / "a")


def test_coco_is_read_by_its_own_tools(judged: Station, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every annotation decodes to the exported mask, pixel for pixel, with its own area and box."""
    tools = pytest.importorskip("pycocotools.coco")
    out = tmp_path / "out"
    export_reviewed(judged.reviews, out)
    read = tools.COCO(str(out / "coco.json"))
    capsys.readouterr()
    seen = 0
    for image in read.loadImgs(read.getImgIds()):
        stored = read_grey(out / image["file_name"])
        assert stored.shape == (image["height"], image["width"])
        mask = np.zeros(stored.shape, np.uint8)
        for each in read.loadAnns(read.getAnnIds(image["id"])):
            spot = read.annToMask(each)
            x, y, w, h = each["bbox"]
            assert int(spot.sum()) == each["area"] == int(spot[y : y + h, x : x + w].sum())
            mask |= spot
            seen += 1
        name = Path(image["file_name"]).name
        assert np.array_equal(mask > 0, read_grey(out / DATASET / "masks" / name) > 127)
    assert seen == 4


def test_the_label_studio_import_carries_verdict_and_brush(judged: Station, tmp_path: Path) -> None:
    """One task a usable part, and one without a brush for each that needs a mask."""
    out = tmp_path / "out"
    export_reviewed(judged.reviews, out, url="/files/")
    tasks = {task["data"]["part"]: task for task in json.loads((out / "label-studio.json").read_text())}
    assert len(tasks) == 7 and tasks["000001-000000003"]["data"]["note"] == "dust"
    waiting = tasks["000001-000000006"]
    assert waiting["data"]["image"] == f"/files/needs-mask/{_name(6)}"
    assert [each["type"] for each in waiting["annotations"][0]["result"]] == ["choices"]
    verdict, brush = tasks["000001-000000002"]["annotations"][0]["result"]
    assert verdict["value"]["choices"] == ["defect"] and brush["value"]["brushlabels"] == ["defect"]
    assert (brush["original_width"], brush["original_height"]) == (56, 48)
    assert int(_unpacked(brush["value"]["rle"]).reshape(48, 56, 4)[..., 3].astype(bool).sum()) == 26


def _unpacked(rle: list[int]) -> np.ndarray[Any, Any]:
    """rle-pack read by its description, the other way round than our writer."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        same = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if same else [take(word) for _ in range(length)]
    return np.array(values, np.uint8)


SMALL = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=150, deadline=None)
@given(SMALL)
def test_brush_runs_decode_to_the_mask(mask: np.ndarray[Any, Any]) -> None:
    """Four channels, row by row, whatever the mask."""
    assert np.array_equal(_unpacked(brush_rle(mask)).reshape(*mask.shape, 4)[..., 0] > 0, mask)


@settings(max_examples=50, deadline=None)
@given(SMALL)
def test_brush_runs_are_read_by_label_studios_own_converter(mask: np.ndarray[Any, Any]) -> None:
    """Their decoder, where it is installed."""
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    assert np.array_equal(brush.decode_rle(brush_rle(mask)).reshape(*mask.shape, 4)[..., 3] > 0, mask)


def test_long_brush_runs_are_cut_where_their_length_ends() -> None:
    """A run longer than 16 bit can tell is written in pieces."""
    mask = np.zeros((300, 400), np.bool_)
    mask[200:] = True
    assert np.array_equal(_unpacked(brush_rle(mask)).reshape(300, 400, 4)[..., 2] > 0, mask)


@settings(max_examples=150, deadline=None)
@given(SMALL)
def test_coco_runs_decode_to_the_mask(mask: np.ndarray[Any, Any]) -> None:
    """Columns first, background first; pycocotools packs and unpacks the same."""
    tools = pytest.importorskip("pycocotools.mask")
    height, width = mask.shape
    packed = tools.frPyObjects({"size": [height, width], "counts": coco_counts(mask)}, height, width)
    assert np.array_equal(tools.decode(packed) > 0, mask)


def test_the_trainer_loads_the_export(judged: Station, tmp_path: Path) -> None:
    """``python -m train`` sees the same parts, masks and groups, at its own size."""
    pytest.importorskip("torch")
    data = importlib.import_module("train.data")
    out = tmp_path / "out"
    export_reviewed(judged.reviews, out)
    items = data.load_items(out / DATASET, "folder", 64)
    assert {item.group for item in items if item.defective} == {f"test part-{n}" for n in (1, 2, 7)}
    assert all(item.mask.any() == item.defective for item in items) and len(items) == 6
