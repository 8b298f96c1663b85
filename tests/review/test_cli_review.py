"""From a line that ran to figures and training data, by the commands, over the real line's own files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from inspector.cli import run
from inspector.clock import SystemClock
from inspector.config import Settings
from inspector.frame import Verdict
from inspector.ledger.audit import records
from inspector.ledger.audit import stats as ledger_stats
from inspector.review.population import Population, Scope
from inspector.review.records import Judgement, Opinion, Stratum
from inspector.review.room import FILE, open_room, read_promise, report
from inspector.review.store import read_reviews
from tests import station_kit


@dataclass
class Judged:
    """A station whose parts were judged."""

    state: Path
    settings: Settings
    promised: Path
    """A configuration file that promises something."""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    """Forty decided parts of the synthetic line; ann judges all by the truth, bob half of them and one wrongly."""
    folder = tmp_path_factory.mktemp("station")
    settings = station_kit.settings(
        folder,
        timing={"gate_ms": 60_000.0},
        store={"every_pass": 1},
        review={"second_rate": 0.5},
    )
    with station_kit.running(settings) as line:  # until forty are decided, however fast this machine is
        line.wait_for(lambda came: sum(one.answer.verdict is not Verdict.INVALID for one in came) >= 40, 100)
    room = open_room(settings, SystemClock())
    room.queue.refresh()
    for reviewer in ("ann", "bob"):
        number = 0
        while (item := room.queue.next(reviewer)) is not None:
            truth = room.store.sources.part(item.key).record.settled.truth
            assert truth is not None
            number += 1
            opinion = Opinion.DEFECT if truth != (reviewer == "bob" and number == 1) else Opinion.GOOD
            room.store.add(Judgement(item.key, room.store.picture(item.key).sha256, reviewer, opinion, took_ms=1500))
            room.queue.refresh()
    room.close()
    promised = folder / "promised.toml"
    promised.write_text(
        f'[station]\nname = "test"\nstate_dir = "{settings.station.state_dir}"\n'
        f'[engine]\nbundle = "{settings.engine.bundle}"\n[store]\nevery_pass = 1\n'
        "[review]\nmax_escape = 0.9\n",
        encoding="utf-8",
    )
    yield Judged(settings.station.state_dir, settings, promised)


def _json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    assert run([*map(str, arguments), "--json"]) == 0
    told: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return told


def test_the_population_of_a_real_line_is_its_ledger(judged: Judged) -> None:
    """Counts by stratum add up to what the ledger counts by verdict."""
    room = open_room(judged.settings, SystemClock())
    counted = Population(room.store.sources.ledger, room.store.plan)
    room.close()
    counted.refresh()
    parts, ledger = counted.parts(Scope()), ledger_stats(judged.state / "ledger.db")
    assert parts[Stratum.FAIL] == ledger.failed and parts[Stratum.INVALID] == ledger.invalid
    assert parts[Stratum.BORDERLINE] + parts[Stratum.PASS] == ledger.passed and ledger.failed > 0 < ledger.passed


def test_stats_tell_the_promise_and_the_rates(
    judged: Judged, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Escapes are those of the ledger's truth; the configured promise holds; without one nothing was promised."""
    config = ("--config", judged.promised)
    found = _json(capsys, "review", "stats", *config, "--html", tmp_path / "stats.html")
    standing = found["standing"]
    passed = [each for each in records(judged.state / "ledger.db") if each.sent.verdict is Verdict.PASS]
    escaped = sum(each.settled.truth is True for each in passed)
    assert isinstance(standing, dict) and standing["state"] == "holds" and standing["escaped"] == escaped
    assert (tmp_path / "stats.html").read_text().count("<table>") == 2
    assert run(["review", "stats", *map(str, config)]) == 0
    text = capsys.readouterr().out
    assert "Promised: at most 0.9 of defective parts pass" in text and "escapes, of defective parts" in text
    assert read_promise(judged.settings) is None  # the synthetic bundle promises nothing
    counted = Population(judged.state / "ledger.db", open_plan(judged))
    counted.refresh()
    assert report(judged.settings, read_reviews(judged.state / FILE), counted).standing.state.value == "no promise"


def open_plan(judged: Judged):  # type: ignore[no-untyped-def]
    """The plan of the station's settings."""
    from inspector.review.room import read_plan

    return read_plan(judged.settings)


def test_agreement_names_who_differs(judged: Judged, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Against the truth ann is never wrong, bob once."""
    place = ("--state-dir", judged.state)
    found = _json(capsys, "review", "agreement", *place, "--reference", "truth", "--html", tmp_path / "a.html")
    against = {each["rater"]: each for each in found["against"]}  # type: ignore[attr-defined]
    wrong = {name: each["misses"]["k"] + each["false_alarms"]["k"] for name, each in against.items()}
    assert wrong["ann"] == 0 and wrong["bob"] == 1 and set(wrong) == {"ann", "bob", "machine"}
    assert "bob" in (tmp_path / "a.html").read_text()
    assert run(["review", "agreement", *map(str, place)]) == 0
    assert "all reviewers (Fleiss)" in capsys.readouterr().out


def test_show_lists_the_newest_first(judged: Judged, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as asked for."""
    shown = _json(capsys, "review", "show", "--state-dir", judged.state, "--limit", 3)["reviews"]
    assert isinstance(shown, list) and len(shown) == 3 and {each["reviewer"] for each in shown} <= {"ann", "bob"}
    assert run(["review", "show", "--state-dir", str(judged.state), "--limit", "7"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_verify_joins_reviews_and_ledger(judged: Judged, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """0 when all is well, 1 with the finding when a row was changed."""
    assert run(["review", "verify", "--state-dir", str(judged.state)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("ok")
    copy = tmp_path / "changed.db"
    copy.write_bytes((judged.state / FILE).read_bytes())
    with apsw.Connection(str(copy)) as other:
        other.execute("DROP TRIGGER reviews_no_update")
        other.execute("UPDATE reviews SET opinion = 'cannot_tell' WHERE link = 2")
    assert run(["review", "verify", "--state-dir", str(judged.state), "--reviews", str(copy)]) == 1
    assert "row 2" in capsys.readouterr().out


def test_the_export_is_what_was_judged(judged: Judged, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """By the ledger's command; counts add up to the parts that were judged."""
    found = _json(capsys, "ledger", "export", "--state-dir", judged.state, "--reviewed", "--images", tmp_path / "set")
    done = found["reviewed"]
    assert isinstance(done, dict)
    parts = len({each.key for each in read_reviews(judged.state / FILE)})
    assert done["good"] + done["defective"] + done["needs_mask"] + done["left_out"] == parts
    assert done["good"] > 0 < done["defective"]
    assert run(["ledger", "export", "--state-dir", str(judged.state), "--reviewed", "--csv", "x.csv"]) == 2


def test_where_nothing_was_judged_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad usage, exit code 2, and the way on."""
    for command in (["review", "stats"], ["ledger", "export", "--reviewed", "--images", str(tmp_path / "x")]):
        assert run([*command, "--state-dir", str(tmp_path)]) == 2
        assert "inspector page" in capsys.readouterr().err
