"""What is compared, and what people find of it: the flips of two replays, nothing more, and nothing of it is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from shadow_kit import Stage, answer, frame, stage

from inspector.cli import run as command
from inspector.clock import SystemClock
from inspector.errors import ConfigError
from inspector.frame import Evidence, Reason, Verdict
from inspector.recipe import read_ingredients
from inspector.replay import replay
from inspector.shadow.book import comparisons, flips
from inspector.shadow.process import Bench
from inspector.shadow.records import FLIPS, Change, Job, Live, change, comparable
from tests.station_kit import settings
from tests.tiny_bundles import bundle, images

PARTS = 24


# -- against a plain replay --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    folder: Path
    live: dict[str, dict[str, Any]]
    shadow: dict[str, dict[str, Any]]
    """Results of the replays by part."""
    stage: Stage
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Paired:
    """The same images through a station with a shadow, and through a replay of either engine."""
    folder = tmp_path_factory.mktemp("paired")
    live, shadow = bundle(folder, "live"), bundle(folder, "candidate", shift=-0.25)
    pictures = images(PARTS, seed=11)
    (folder / "images").mkdir()
    for number, image in enumerate(pictures, 1):
        cv2.imwrite(str(folder / "images" / f"{number:03d}.png"), image)
    found = []
    for one in (live, shadow):
        results = folder / f"{one.name}.jsonl"
        replay(folder / "images", settings(folder / one.name, engine={"bundle": one.path}), results=results)
        lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        found.append({line["image"]: line for line in lines})
    with stage(folder, live.path, shadow.path, health={"metrics": "127.0.0.1:0"}) as made:
        for number, (image, part) in enumerate(zip(pictures, sorted(found[0]), strict=True), 1):
            made.feed(number, image, part)
            made.wait_compared(number)
        body, _ = made.seen.station.vitals._metrics()("") if made.seen.station.vitals._metrics() else (b"", "")
    samples = [one for family in text_string_to_metric_families(body.decode()) for one in family.samples]
    told = {f"{one.name}{'/'.join(one.labels.values())}": one.value for one in samples}
    return Paired(folder, found[0], found[1], made, told)


def test_flips_are_those_of_two_replays(paired: Paired) -> None:
    """Engines that differ in one weight: the same parts flip, the same way, with the same rules and scores."""
    expected = {
        part: (paired.live[part]["verdict"], paired.shadow[part]["verdict"])
        for part in paired.live
        if paired.live[part]["verdict"] != paired.shadow[part]["verdict"]
    }
    assert 3 <= len(expected) <= PARTS - 3  # else nothing is shown
    rows = flips(paired.folder / "state" / "shadow", limit=1000)
    assert {row["part_id"]: (row["live"], row["shadow"]) for row in rows} == expected
    for row in rows:
        for who, results in (("live", paired.live), ("shadow", paired.shadow)):
            assert row[f"{who}_rules"] == results[row["part_id"]]["rules"]
            assert row[f"{who}_score"] == pytest.approx(results[row["part_id"]]["score"])


def test_every_part_is_counted_once(paired: Paired) -> None:
    """One pair of recipes, all parts compared, flips by change, in the file and in the metrics."""
    (one,) = comparisons(paired.folder / "state" / "shadow")
    counted = {kind: one.changes[kind] for kind in FLIPS}
    assert one.parts == PARTS == paired.metrics["inspector_shadow_compared_total"]
    assert one.flips == sum(counted.values()) == len(flips(paired.folder / "state" / "shadow", limit=1000))
    assert one.bundle == "candidate"
    assert one.live_engine != one.shadow_engine
    for kind, count in counted.items():
        assert paired.metrics[f"inspector_shadow_flips_total{kind.value}"] == count
    assert sum(count for name, count in paired.metrics.items() if "shadow_skipped" in name) == 0


def test_the_shadow_gets_a_part_only_after_its_answer_left(paired: Paired) -> None:
    """Each judgement begins after the answer was handed to the socket."""
    sent_ns = paired.stage.sent_ns
    assert [one.sequence for one in paired.stage.outcomes] == list(range(1, PARTS + 1))
    assert all(one.began_ns > sent_ns[one.sequence] for one in paired.stage.outcomes)


def test_nothing_of_the_shadow_is_sent(paired: Paired) -> None:
    """The controller heard one answer a part, the live one; a flip changes neither it nor the ledger."""
    arrivals = paired.stage.seen.arrivals
    heard = {one.answer.part_id: one.answer for one in arrivals}
    assert len(arrivals) == len(heard) == PARTS
    assert {part: answer.verdict.value for part, answer in heard.items()} == {
        part: line["verdict"] for part, line in paired.live.items()
    }
    assert {answer.hashes.engine for answer in heard.values()} == {line["engine"] for line in paired.live.values()}
    controller = paired.stage.seen.controller
    assert controller is not None and controller.statistics().conflicts == 0


def test_a_flip_is_kept_with_the_part_and_both_masks(paired: Paired) -> None:
    """What the engines saw, and what each marked: the masks differ where one weight differs."""
    for row in flips(paired.folder / "state" / "shadow", limit=3):
        pictures = {what: cv2.imread(path, cv2.IMREAD_GRAYSCALE) for what, path in row["pictures"].items()}
        assert set(pictures) == {"part", "live", "shadow"}
        original = cv2.imread(str(paired.folder / "images" / row["part_id"]), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(pictures["part"], original)
        assert (pictures["live"] != pictures["shadow"]).any()


def test_people_can_ask_what_the_shadow_found(paired: Paired, capsys: pytest.CaptureFixture[str]) -> None:
    """``shadow stats`` and ``shadow show``, for people and as JSON; without a shadow's file one line and 1."""
    state = str(paired.folder / "state")
    assert command(["shadow", "stats", "--state-dir", state, "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["parts"] == PARTS and 0 < pair["flips"] / PARTS < pair["flip_rate_upper"] < 1
    assert command(["shadow", "stats", "--state-dir", state]) == 0
    assert f"{PARTS} parts, {pair['flips']} flips" in capsys.readouterr().out
    for kind in ("pass_to_fail", "fail_to_pass"):
        assert command(["shadow", "show", "--state-dir", state, "--change", kind, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["flips"]
        assert len(rows) == pair[kind] and {row["change"] for row in rows} <= {kind}
    assert command(["shadow", "show", "--state-dir", state, "--limit", "2"]) == 0
    assert capsys.readouterr().out.count("shadow  ") == 2
    assert command(["shadow", "stats", "--state-dir", str(paired.folder / "nowhere")]) == 2
    assert "no shadow has run here" in capsys.readouterr().err


# -- what is compared --------------------------------------------------------------------------------------------------


def test_changes_have_names() -> None:
    """PASS and FAIL both ways; INVALID on either side; two INVALID agree."""
    p, f, i = Verdict.PASS, Verdict.FAIL, Verdict.INVALID
    assert [change(*pair) for pair in ((p, p), (f, f), (i, i))] == [Change.SAME] * 3
    assert [change(p, f), change(f, p)] == [Change.PASS_TO_FAIL, Change.FAIL_TO_PASS]
    assert [change(p, i), change(f, i)] == [Change.TO_INVALID] * 2
    assert [change(i, p), change(i, f)] == [Change.FROM_INVALID] * 2


def test_only_a_judgement_of_the_picture_is_compared() -> None:
    """An answer that was late, dropped or not recorded says nothing that another engine could contradict."""
    judged = {reason for reason in Reason if comparable(answer(1, Verdict.INVALID, reason).answer)}
    assert judged == {Reason.NOT_LOCATED, Reason.BAD_IMAGE, Reason.ENGINE_FAULT, Reason.NOT_FINITE}
    assert comparable(answer(1).answer)


def test_another_calibration_on_the_disk_is_refused(tmp_path: Path) -> None:
    """The shadow judges with what the line runs with, not with what was saved since."""
    one = bundle(tmp_path, "one")
    wanted = settings(tmp_path, engine={"bundle": one.path})
    calibration, rules = read_ingredients(wanted, SystemClock()).calibration.hash[:16], wanted.short_hash()
    order = {"tables": wanted.model_dump(mode="json"), "root": str(tmp_path / "shadow"), "keep": 3, "min_free_bytes": 0}
    with pytest.raises(ConfigError, match="Reload the daemon"):
        Bench(order | {"calibration": "0" * 16, "settings": rules})
    bench = Bench(order | {"calibration": calibration, "settings": rules})
    bench.close()


def test_only_the_newest_flips_are_kept(tmp_path: Path) -> None:
    """Counts stay for ever; rows and pictures beyond the limit go, and none is left without a row."""
    from inspector.frame import Decision
    from inspector.shadow.book import ShadowBook

    book = ShadowBook(tmp_path, keep=3, min_free_bytes=0)
    evidence = Evidence(np.zeros((4, 5), np.uint8), np.ones((4, 5), np.bool_))
    for number in range(1, 11):
        job = Job(Live.of(answer(number)), (frame(number),), np.zeros((4, 5), np.bool_))
        decision = Decision(Verdict.FAIL if number % 2 else Verdict.PASS, rules=("largest 9 px > 4",) * (number % 2))
        book.add(job, decision, evidence, engine="f" * 16, bundle="b", cpu_us=2000)
    book.close()
    assert [row["sequence"] for row in flips(tmp_path, limit=99)] == [9, 7, 5]
    assert len(list((tmp_path / "flips").iterdir())) == 9
    (pair,) = comparisons(tmp_path)
    assert (pair.parts, pair.flips, pair.changes[Change.PASS_TO_FAIL], pair.cpu_ms) == (10, 5, 5, 2.0)
