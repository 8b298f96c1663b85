"""Change control: what a station is qualified for is a chain of records, and every answer says when it is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inspector.camera.render import render_part
from inspector.cli import run
from inspector.clock import SystemClock
from inspector.config import load
from inspector.errors import ConfigError
from inspector.frame import Hashes
from inspector.page.access import Role
from inspector.page.users import Users
from inspector.qualification import (
    ACCEPTED,
    FILE_NAME,
    REPLAY,
    WITHDRAWN,
    RecipeCard,
    Record,
    Register,
    append,
    differences,
    read,
    stand,
)
from inspector.qualify import accept, present, qualify
from inspector.recipe import read_ingredients
from tests.station_kit import BUNDLE, running, settings

CARD = RecipeCard(
    Hashes("e" * 16, "c" * 16, "5" * 16),
    engine="commutator openvino fp32",
    calibration="line-1",
    settings={"decision": {"threshold": 0.5}, "features": [["ExposureTime", 180.0]]},
)


def record(how: str = REPLAY, card: RecipeCard = CARD, by: str = "anna", note: str = "") -> Record:
    return Record(how, by, 1_800_000_000_000_000_000, card, note, {"images": 3})


def other(**hashes: str) -> RecipeCard:
    return replace(CARD, hashes=replace(CARD.hashes, **hashes))


# -- records ---------------------------------------------------------------------------------------------------------


def test_records_come_back_as_they_were_added(tmp_path: Path) -> None:
    """Nothing is lost or rounded on the way through the file."""
    assert read(tmp_path) == ()
    added = [record(), record(ACCEPTED, other(engine="f" * 16), "bob", "new plan")]
    for one in added:
        append(tmp_path, one)
    assert list(read(tmp_path)) == added


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [lines[0].replace(b'"by":"anna"', b'"by":"otto"'), lines[1]],
        lambda lines: lines[1:],
        lambda lines: lines[::-1],
        lambda lines: [lines[0], lines[1][:-9]],
        lambda lines: [*lines, b"[" * 5000 + b"\n"],
        lambda lines: [lines[0], b"\xff\n"],
    ],
    ids=["another name", "first line gone", "order", "cut", "nested", "no text"],
)
def test_a_file_that_was_changed_qualifies_nothing(tmp_path: Path, spoil: Any) -> None:
    """A record that is edited, removed or damaged is refused, and the station says why it is not qualified."""
    append(tmp_path, record())
    append(tmp_path, record(ACCEPTED, by="bob"))
    register = Register(tmp_path)
    assert register.look(CARD).qualified
    path = tmp_path / FILE_NAME
    path.write_bytes(b"".join(spoil(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ConfigError, match="changed or damaged at line"):
        read(tmp_path)
    standing = register.look(CARD)
    assert not standing.qualified and "changed or damaged" in standing.why
    assert register.qualified == frozenset()
    with pytest.raises(ConfigError, match="changed or damaged"):
        append(tmp_path, record())


def test_a_register_reads_what_was_added_since(tmp_path: Path) -> None:
    """No restart is needed to be qualified, or to lose it."""
    register = Register(tmp_path)
    assert register.look(CARD).why == "nobody has qualified this station"
    append(tmp_path, record())
    assert register.look(CARD).qualified
    append(tmp_path, record(WITHDRAWN, by="bob", note="an escape came back"))
    standing = register.look(CARD)
    assert (standing.qualified, standing.why) == (False, "withdrawn by bob: an escape came back")
    assert register.qualified == frozenset()


# -- standing --------------------------------------------------------------------------------------------------------


def test_the_newest_record_of_a_recipe_counts() -> None:
    """Going back to an earlier recipe needs no new qualification; what was withdrawn stays so until someone acts."""
    newer = other(engine="f" * 16)
    assert stand([record(), record(ACCEPTED, newer)], CARD).qualified
    assert stand([record(), record(ACCEPTED, newer)], newer).why == "accepted by anna"
    assert not stand([record(), record(WITHDRAWN)], CARD).qualified
    assert stand([record(), record(WITHDRAWN), record(ACCEPTED)], CARD).qualified


def test_not_qualified_says_what_changed() -> None:
    """Engine and calibration by name and hash, settings by key."""
    changed = replace(
        CARD,
        hashes=Hashes("f" * 16, "d" * 16, "6" * 16),
        engine="commutator openvino int8",
        settings={"decision": {"threshold": 0.4}, "features": [["ExposureTime", 200.0]], "views": 2},
    )
    assert differences(CARD, changed) == [
        f"engine commutator openvino int8 {'f' * 16} instead of commutator openvino fp32 {'e' * 16}",
        f"calibration line-1 {'d' * 16} instead of line-1 {'c' * 16}",
        "decision.threshold 0.4 instead of 0.5, "
        'features [["ExposureTime", 200.0]] instead of [["ExposureTime", 180.0]], views 2 instead of unset',
    ]
    assert stand([record()], changed).why == "; ".join(differences(CARD, changed))


def test_an_operating_point_in_the_bundle_changes_the_hash(tmp_path: Path) -> None:
    """A threshold that `calibrate threshold` writes into the bundle decides verdicts: it stands in every answer."""
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(BUNDLE, copy)
    wanted = settings(tmp_path, engine={"bundle": copy})
    before = read_ingredients(wanted, SystemClock())
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["operating_point"]["threshold"] /= 2
    (copy / "manifest.json").write_text(json.dumps(manifest))
    after = read_ingredients(wanted, SystemClock())
    assert after.settings_hash != before.settings_hash
    own = settings(tmp_path, engine={"bundle": copy}, decision={"threshold": 0.5, "limits": {"min_area_px": 3}})
    assert read_ingredients(own, SystemClock()).settings_hash == own.short_hash()


# -- qualify ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten rendered frames, some with defects."""
    root = tmp_path_factory.mktemp("set")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for index in range(1, 11):
        part = render_part(31, index)
        cv2.imwrite(str(root / "images" / f"{index}.png"), part.image)
        cv2.imwrite(str(root / "masks" / f"{index}.png"), part.mask.astype(np.uint8) * 255)
    return root


def _judge(wanted: Any, data: Path, **more: Any) -> Any:
    return qualify(wanted, data, by="anna", clock=SystemClock(), **{"max_escape": 0.9, **more})


def test_a_set_qualifies_and_its_verdicts_are_what_is_compared_next(tmp_path: Path, data: Path) -> None:
    """The first time nothing can flip; a recipe that judges otherwise is refused by name of the image."""
    wanted = settings(tmp_path, part={"calibration": BUNDLE.parent.parent / "calibration" / "synthetic.toml"})
    first = _judge(wanted, data)
    assert first.qualified and first.figures["compared"] == 0
    assert first.figures["escapes"] == 0 < first.figures["defective"]
    again = _judge(wanted, data)
    assert again.qualified and (again.figures["compared"], again.figures["flips"]) == (10, 0)
    blind = wanted.model_copy(update={"decision": wanted.decision.model_copy(update={"threshold": 0.999999})})
    refused = _judge(blind, data, max_escape=0.9)
    assert not refused.qualified
    flips = refused.figures["flips"]
    assert flips == first.figures["defective"] and f"{flips} of 10 verdicts differ" in refused.reasons[0]
    assert "images/" in refused.reasons[0]
    assert len(read(wanted.station.state_dir)) == 2, "what is refused is not recorded"
    standing = stand(read(wanted.station.state_dir), present(blind, SystemClock()))
    assert standing.why.startswith("decision.threshold 0.999999 instead of unset")


def test_too_few_parts_promise_nothing(tmp_path: Path, data: Path) -> None:
    """No escape among a handful says little: the bound is held to the promise, and the missing parts are counted."""
    outcome = _judge(settings(tmp_path), data, max_escape=0.01)
    assert not outcome.qualified
    assert "299 defective parts would show it" in outcome.reasons[-1]
    assert read(tmp_path / "state") == ()


def test_without_a_promise_nothing_is_qualified(tmp_path: Path, data: Path) -> None:
    """A set without a promise to hold it to is bad usage, not a pass."""
    with pytest.raises(ConfigError, match="no escape rate is promised"):
        qualify(settings(tmp_path), data, by="anna", clock=SystemClock())


def test_kept_verdicts_that_were_changed_are_refused(tmp_path: Path, data: Path) -> None:
    """The comparison rests on them."""
    wanted = settings(tmp_path)
    assert _judge(wanted, data).qualified
    kept = next((tmp_path / "state" / "qualifications").iterdir())
    kept.write_bytes(kept.read_bytes().replace(b"FAIL", b"PASS", 1))
    with pytest.raises(ConfigError, match="was changed since"):
        _judge(wanted, data)


def test_only_setup_may_accept(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Where there are users, name, role and password are asked for; a reason always."""
    state = tmp_path / "state"
    users = Users(state / "page")
    users.add("olga", Role.OPERATOR, "long enough 1")
    users.add("sven", Role.SETUP, "long enough 2")
    config = tmp_path / "config.toml"
    config.write_text(f'[station]\nstate_dir = "{state}"\n[engine]\nbundle = "{BUNDLE}"\n')

    def attempt(by: str, password: str, *more: str) -> int:
        monkeypatch.setattr("sys.stdin", __import__("io").StringIO(password + "\n"))
        return run(["qualify", "--config", str(config), "--accept", "--by", by, "--password-stdin", *more])

    reason = ("--note", "trial run")
    assert attempt("olga", "long enough 1", *reason) == 2
    assert attempt("sven", "wrong password", *reason) == 2
    assert attempt("nobody", "long enough 2", *reason) == 2
    assert attempt("sven", "long enough 2") == 2
    assert read(state) == ()
    assert attempt("sven", "long enough 2", *reason) == 0
    assert [(one.how, one.by, one.note) for one in read(state)] == [(ACCEPTED, "sven", "trial run")]
    told = capsys.readouterr()
    assert "may not qualify" in told.err and "long enough" not in told.err + told.out
    assert run(["qualify", "--config", str(config), "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["qualified"] is True


# -- the running station ---------------------------------------------------------------------------------------------


def test_every_answer_says_whether_the_station_is_qualified(tmp_path: Path) -> None:
    """Flagged from the first answer on; accepted while it runs, then not; changed by a reload, then flagged again."""
    path = tmp_path / "config.toml"
    wanted = settings(tmp_path)
    tables = wanted.model_dump(mode="json", exclude_defaults=True)

    def write(**decision: float) -> None:
        lines = []
        for section, table in {**tables, "decision": decision}.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        path.write_text("\n".join(lines))

    write(threshold=0.5)
    with running(load(path, {}).settings, config_path=path) as seen:
        seen.wait_for(lambda came: len(came) >= 5)
        assert not any(one.qualified for one in seen.arrivals[:5])
        assert seen.station.vitals.look().to_json()["qualification"]["why"] == "nobody has qualified this station"
        accept(load(path, {}).settings, by="anna", note="trial", clock=SystemClock())
        seen.wait_for(lambda came: came[-1].qualified)
        write(threshold=0.4)
        seen.station.reload()
        seen.wait_for(lambda came: not came[-1].qualified)
        seen.wait_for(lambda came: "instead of" in seen.station.watch.standing.why)
        flagged = [one.answer.hashes.settings for one in seen.arrivals if not one.qualified]
        good = {one.answer.hashes.settings for one in seen.arrivals if one.qualified}
        assert len(good) == 1 and flagged[-1] not in good
    assert seen.error is None
    status = seen.station.vitals.look().to_json()["qualification"]
    assert status == {
        **{"qualified": False, "why": "decision.threshold 0.4 instead of 0.5"},
        **{"how": None, "by": None, "wall_ns": None, "note": None},
    }
    notes = [one for one in _notes(tmp_path / "state") if "qualified" in one[0]]
    assert [kind for kind, _ in notes] == ["not qualified", "qualified", "not qualified"]


def _notes(state: Path) -> list[tuple[str, str]]:
    import apsw

    with apsw.Connection(str(state / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY) as connection:
        return list(connection.execute("SELECT kind, text FROM events ORDER BY link"))
