"""status, keys, ledger, install-service, engines: what people type, and what comes back."""

from __future__ import annotations

import csv
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import cv2
import numpy as np
import pytest

from inspector.cli import run
from inspector.cli.engines import judge
from inspector.cli.install import pieces
from inspector.cli.service import status_lines
from inspector.clock import SystemClock
from inspector.config import load
from inspector.engine.bundle import write_bundle
from inspector.errors import ConfigError
from inspector.link.keys import ClientKeys, allow, new
from inspector.link.listen import Arrival, ReferenceController
from inspector.recipe import read_ingredients
from tests.conftest import ROOT
from tests.engine import networks
from tests.station_kit import BUNDLE, Running, Wrapped, running, settings, trivial
from tests.station_more_kit import AMPLE, PATIENCE_S, Journal, finish_acknowledged


@dataclass
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on the last line."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command in this process."""
    monkeypatch.chdir(ROOT)

    def run_it(*words: object) -> Said:
        capsys.readouterr()
        code = run([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return run_it


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A station that runs while its status is asked."""
    wanted = settings(tmp_path_factory.mktemp("station"), camera={"rate_hz": 50.0, "distinct": 5})
    with running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as station:
        station.wait_for(lambda arrivals: len(arrivals) >= 20)
        yield station


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a line that has ended in order: parts judged by the real engine, and acknowledged."""
    folder = tmp_path_factory.mktemp("ledger")
    camera = {"rate_hz": 20.0, "distinct": 10, "seed": 5}
    finish_acknowledged(settings(folder, camera=camera, engine={"threads": 0}, timing=AMPLE), 16)
    return folder / "state"


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_prints_state_counts_engine_and_margin(seen: Running, say: Any) -> None:
    """For people in lines, for programs as one JSON object; exit code 0."""
    state_dir = seen.station.settings.station.state_dir
    said = say("status", "--state-dir", state_dir)
    assert said.code == 0
    assert said.out.startswith("test: ContinuousExecution, epoch 1, up ")
    for word in ("PASS", "margin", "commutator", "hashes", "connected yes", seen.station.endpoint):
        assert word in said.out
    told = say("status", "--state-dir", state_dir, "--json").json
    assert told["state"] == "ContinuousExecution"
    assert told["counts"]["answered"] >= 20


def test_status_in_error_tells_what_to_do_and_ends_with_1(seen: Running, say: Any) -> None:
    """The condition, its text and its hint; a script sees it by the exit code."""
    seen.station.conditions.raise_fault("controller", "nobody is there")
    try:
        said = say("status", "--state-dir", seen.station.settings.station.state_dir)
    finally:
        seen.station.conditions.clear("controller")
    assert said.code == 1
    assert "test: Error" in said.out
    assert "nobody is there (parts are not inspected)" in said.out
    assert "Check the controller" in said.out


def test_status_without_a_daemon_is_one_line_and_3(tmp_path: Path, say: Any) -> None:
    """Where no daemon runs, the command says so and how to name another."""
    said = say("status", "--state-dir", tmp_path)
    assert (said.code, said.out) == (3, "")
    assert said.err.count("\n") == 1
    assert "no daemon runs" in said.err


def test_status_before_the_engine_is_seated_is_whole() -> None:
    """The report of a daemon that still starts has no engine and no latency, and can be printed."""
    empty: dict[str, Any] = {"p50": None, "p99": None, "max": None, "min": None, "p1": None}
    counts = dict.fromkeys(("triggered", "answered", "acknowledged", "pass", "fail", "invalid"), 0) | {"reasons": {}}
    link = dict.fromkeys(("connected", "sent", "resent", "unacknowledged", "expired", "refused"), 0)
    station = {"name": "a", "epoch": 1, "uptime_s": 4000.0, "camera": "c", "endpoint": "", "viewers": "", "metrics": ""}
    lines = status_lines(
        {
            "state": "Preoperational",
            "conditions": [],
            "station": station,
            "counts": counts,
            "latency_ms": empty,
            "margin_ms": empty,
            "camera": {"connected": False},
            "link": link,
            "ledger": {"rows": 0, "commit_p99_us": 0.0},
            "store": {"used_bytes": 0, "shed": 0},
            "disk": {},
            "engine": {},
            "hashes": {},
        }
    )
    assert lines[0] == "a: Preoperational, epoch 1, up 1 h 06 min"
    assert any("unknown free" in line for line in lines)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_keys_are_made_admitted_and_listed(tmp_path: Path, say: Any) -> None:
    """The daemon's pair, a client's pair, its public key admitted; a secret or a stranger's file is refused with 2."""
    daemon, plc = tmp_path / "daemon", tmp_path / "plc"
    assert say("keys", "new", "--keys-dir", daemon).code == 0
    made = say("keys", "new", "plc-7", "--keys-dir", plc, "--json").json
    assert Path(made["secret"]).stat().st_mode & 0o777 == 0o600
    refused = say("keys", "allow", made["secret"], "--keys-dir", daemon)
    assert refused.code == 2
    assert "holds a secret" in refused.err
    assert say("keys", "allow", made["public"], "--keys-dir", daemon).code == 0
    listed = say("keys", "list", "--keys-dir", daemon, "--json").json["keys"]
    assert [(one["role"], one["name"]) for one in listed] == [("controllers", "plc-7")]
    assert "plc-7" in say("keys", "list", "--keys-dir", daemon).out
    again = say("keys", "new", "--keys-dir", daemon)
    assert again.code == 2
    assert "exists already" in again.err


def test_a_key_taken_away_shuts_its_controller_out_at_the_reload(tmp_path: Path) -> None:
    """The controller is served while its key lies there, and gone after the reload; no restart is needed."""
    keys, client = tmp_path / "keys", tmp_path / "client"
    server_public, _ = new(keys)
    public, secret = new(client, "plc")
    admitted = allow(keys, public, "controllers")
    answered = threading.Event()

    def on_answer(_: Arrival) -> None:
        answered.set()

    wanted = settings(tmp_path, link={"keys_dir": keys})
    with running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as station:
        journal = Journal()
        station.station.log = journal
        ours = ClientKeys.load(server_public, secret)
        controller = ReferenceController(
            station.station.endpoint, clock=SystemClock(), identity=b"plc", keys=ours, on_answer=on_answer
        ).start()
        try:
            assert answered.wait(PATIENCE_S)
            admitted.unlink()
            station.station.reload()
            journal.wait_for("controller down")
        finally:
            controller.stop()
        assert station.arrivals == []  # the one without a key


# -- ledger ------------------------------------------------------------------------------------------------------------


def test_show_lists_the_newest_first_and_filters(ledger: Path, say: Any) -> None:
    """By verdict, part and time; --json carries defects, stages and the acknowledgement."""
    answers = say("ledger", "show", "--state-dir", ledger, "--json").json["answers"]
    assert [one["sequence"] for one in answers] == list(range(16, 0, -1))
    assert all(one["acknowledged"] for one in answers)
    decided = next(one for one in answers if one["verdict"] in {"PASS", "FAIL"})  # a late part has no stages
    assert set(decided["stages_us"]) == {"queue", "prepare", "engine", "decide"}
    fails = say("ledger", "show", "--state-dir", ledger, "--verdict", "FAIL", "--json").json["answers"]
    assert [one["sequence"] for one in fails] == [one["sequence"] for one in answers if one["verdict"] == "FAIL"]
    assert fails
    assert fails[0]["defects"][0]["shape"] in {"point", "strip", "block"}
    part = answers[3]["part_id"]
    assert f" {part} " in say("ledger", "show", "--state-dir", ledger, "--part", part).out
    assert "no answers" in say("ledger", "show", "--state-dir", ledger, "--until", "2001-01-01").out
    assert len(say("ledger", "show", "--state-dir", ledger, "--since", "8h", "--limit", "2").out.splitlines()) == 2


def test_stats_agree_with_show(ledger: Path, say: Any) -> None:
    """Counts by verdict, yield, Pareto and latency over the same rows."""
    answers = say("ledger", "show", "--state-dir", ledger, "--json").json["answers"]
    figures = say("ledger", "stats", "--state-dir", ledger, "--json").json
    passed = sum(one["verdict"] == "PASS" for one in answers)
    assert (figures["answers"], figures["passed"], figures["acknowledged"]) == (16, passed, 16)
    assert figures["yield"] == figures["fpy"] == passed / 16
    assert sum(line["share"] for line in figures["pareto"]) == pytest.approx(1.0)
    assert figures["latency_ms"]["p50"] > 0
    assert "defect" in say("ledger", "stats", "--state-dir", ledger).out


def test_export_writes_tables_and_images(ledger: Path, tmp_path: Path, say: Any) -> None:
    """One line a part; image and mask of each kept part under the same name, as training reads them."""
    said = say(
        "ledger", "export", "--state-dir", ledger, "--csv", tmp_path / "a.csv", "--images", tmp_path / "set", "--json"
    )
    assert said.json["csv"]["parts"] == 16
    with (tmp_path / "a.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 16
    images = sorted(path.name for path in (tmp_path / "set" / "images").iterdir())
    assert len(images) == said.json["images"]["images"] > 0
    assert images == sorted(path.name for path in (tmp_path / "set" / "masks").iterdir())
    nothing = say("ledger", "export", "--state-dir", ledger)
    assert nothing.code == 2
    assert "--csv" in nothing.err


def test_verify_is_silent_on_a_whole_ledger_and_ends_with_1_on_a_changed_row(
    ledger: Path, tmp_path: Path, say: Any
) -> None:
    """triggers = answers = acknowledgements; one flipped verdict is a finding, and so is a lost image."""
    whole = say("ledger", "verify", "--state-dir", ledger, "--deep", "--strict", "--json")
    assert whole.code == 0
    epoch = whole.json["epochs"][0]
    assert (epoch["opened"], epoch["answers"], epoch["receipts"], epoch["closed"]) == (16, 16, 16, True)
    copy = tmp_path / "state"
    shutil.copytree(ledger, copy)
    connection = apsw.Connection(str(copy / "ledger.db"))
    connection.execute("UPDATE answers SET verdict = 'PASS' WHERE verdict = 'FAIL'")
    connection.close()
    changed = say("ledger", "verify", "--state-dir", copy)
    assert changed.code == 1
    assert "FINDING  chain" in changed.out
    assert "NOT ok" in changed.out
    lost = tmp_path / "lost"
    shutil.copytree(ledger, lost)
    next((lost / "images" / "images").rglob("*.png")).unlink()
    assert say("ledger", "verify", "--state-dir", lost).code == 1
    assert say("ledger", "verify", "--state-dir", lost, "--no-images").code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--since", "yesterday"), "a time cannot be read"),
        (("--reason", "TIRED"), "--reason is unknown"),
        (("--state-dir", "/nowhere"), "no ledger in /nowhere"),
    ],
)
def test_a_wrong_question_is_one_line_and_2(ledger: Path, say: Any, words: tuple[str, ...], expected: str) -> None:
    """Bad usage of the ledger's commands names what was meant."""
    place = () if "--state-dir" in words else ("--state-dir", ledger)
    said = say("ledger", "show", *place, *words)
    assert said.code == 2
    assert expected in said.err
    assert said.err.count("\n") == 1


# -- install-service ---------------------------------------------------------------------------------------------------


def test_install_service_writes_what_the_dry_run_shows(tmp_path: Path, say: Any) -> None:
    """Unit with this installation's command, chosen drop-ins, user and directories; a second run changes nothing."""
    words = ("install-service", "--prefix", tmp_path, "--exec", "/opt/x/bin/inspector", "--gpu")
    dry = say(*words, "--dry-run")
    assert dry.code == 0
    assert not any(tmp_path.iterdir())
    files = say(*words, "--json").json["files"]
    assert set(files.values()) == {"written"}
    for name in files:
        assert name in dry.out
        assert Path(name).read_text() in dry.out
    unit = tmp_path / "etc/systemd/system/inspector.service"
    assert "\nExecStart=/opt/x/bin/inspector run --config /etc/inspector/config.toml\n" in unit.read_text()
    assert (tmp_path / "etc/systemd/system/inspector.service.d/50-gpu.conf").is_file()
    assert not (tmp_path / "etc/systemd/system/inspector.service.d/60-realtime.conf").exists()
    assert set(say(*words, "--json").json["files"].values()) == {"unchanged"}
    say(*words, "--realtime")
    rules = tmp_path / "etc/udev/rules.d/71-inspector-realtime.rules"
    assert 'KERNEL=="cpu_dma_latency", GROUP="inspector"' in rules.read_text()


def test_install_service_keeps_the_plants_configuration(tmp_path: Path, say: Any) -> None:
    """The unit is written anew; a configuration that is there stays as it is, and the first one is valid."""
    words = ("install-service", "--prefix", tmp_path, "--exec", "/opt/x/bin/inspector", "--json")
    say(*words)
    config = tmp_path / "etc/inspector/config.toml"
    assert say("check-config", "--config", config).code == 0
    config.write_text("# ours\n")
    unit = tmp_path / "etc/systemd/system/inspector.service"
    unit.write_text("# edited by hand\n")
    files = say(*words).json["files"]
    assert files[str(config)] == "kept"
    assert files[str(unit)] == "changed"
    assert config.read_text() == "# ours\n"


def test_an_installation_that_the_unit_hides_is_refused(say: Any) -> None:
    """Under /home or /tmp the daemon would not find its own command."""
    said = say("install-service", "--exec", "/home/me/bin/inspector")
    assert said.code == 2
    assert "hides this installation" in said.err


@pytest.mark.parametrize("command", ["bin/inspector", "/opt/my inspector", "/opt/$HOME/x", "/opt/%n", "/a;b"])
def test_a_path_that_would_mean_something_else_in_a_unit_is_refused(command: str) -> None:
    """Relative, blank, variable, specifier: nothing is quoted by guessing."""
    with pytest.raises(ConfigError, match="cannot stand in the unit"):
        pieces(Path(command), Path("/etc/inspector/config.toml"), [])


# -- engines -----------------------------------------------------------------------------------------------------------


def test_engines_lists_bundles_and_refuses_what_is_none(tmp_path: Path, say: Any) -> None:
    """The committed bundle with its plans; a directory that is no bundle gives its fault and exit code 3."""
    said = say("engines", BUNDLE, "--json")
    assert said.code == 0
    assert said.json["bundles"][0]["fault"] == ""
    wrong = say("engines", BUNDLE, tmp_path)
    assert wrong.code == 3
    assert "no engine bundle" in wrong.out


def test_a_plan_is_built_proven_and_listed(tmp_path: Path, say: Any) -> None:
    """build-engine on a folder's images, with the line's own decision; the new plan is listed and fits."""
    bundle = write_bundle(
        tmp_path / "engines" / "tiny",
        name="tiny",
        onnx_bytes=networks.tiny(),
        mean=0.5,
        std=0.25,
        classes=["defect"],
        threshold=0.5,
        min_area_px=4,
        training={"data": "random weights"},
        parity={"torch": None},
        cite=["chosen by hand for tests"],
        golden_images=networks.images(3, (64, 48), seed=7),
        created_wall_ns=1_700_000_000_000_000_000,
    )
    (tmp_path / "seen").mkdir()
    for number, image in enumerate(networks.images(5, (64, 48), seed=1)):
        cv2.imwrite(str(tmp_path / "seen" / f"{number}.png"), image)
    words = ("build-engine", bundle.path, "--precision", "fp32", "--images", tmp_path / "seen", "--json")
    report = say(*words).json
    assert report["installed"]
    assert (report["images"], report["verdict_flips"]) == (5, 0)
    assert report["plan"]["parity"]["source"] == "5 images of seen"
    refused = say("build-engine", bundle.path, "--limit", "3")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--limit without images" in refused.err
    plans = say("engines", bundle.path, "--json").json["bundles"][0]["plans"]
    assert [(one["id"], one["fits"]) for one in plans] == [(report["plan"]["id"], True)]
    assert " fits" in say("engines", bundle.path).out


def test_the_judge_of_a_plan_is_the_lines_own_decision() -> None:
    """A map with a large spot is a FAIL, an empty one a PASS, by the rules of the configuration."""
    wanted = load(None, {}, engine={"bundle": BUNDLE}).settings
    verdict = judge(read_ingredients(wanted, SystemClock()))
    scores = np.zeros((256, 256), np.float32)
    assert verdict(scores) == "PASS"
    scores[40:80, 40:80] = 1.0
    assert verdict(scores) == "FAIL"
