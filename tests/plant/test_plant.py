"""The plant's files against what a station really exports: rules, alerts, dashboards, and Prometheus itself."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from inspector.clock import SystemClock
from tests.plant.fetch_prometheus import program
from tests.station_kit import ROOT, Running, running, settings
from tests.tiny_bundles import bundle, eager_shadow

DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
BOARDS = ("station", "plant")
MAY_BE_EMPTY = {"Firing"}
"""Panels that show nothing where all is well."""
PATIENCE_S = 90

needs_promtool = pytest.mark.skipif(program("promtool") is None, reason="promtool is not here: make build/prometheus")
needs_prometheus = pytest.mark.skipif(program("prometheus") is None, reason="no Prometheus: make build/prometheus")

Labels = dict[str, str]
Exported = dict[str, list[Labels]]
"""Label sets by the name of the sample."""


# -- what stands in the files ------------------------------------------------------------------------------------------


def rules(*names: str) -> list[dict[str, Any]]:
    """Every rule of these files, or of all."""
    paths = [PROMETHEUS / "rules" / f"{name}.yml" for name in names or ("recording", "alerts", "plant")]
    return [rule for path in paths for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def board(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def panels(name: str) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in board(name)["panels"] if panel["type"] != "row"]


def queries(name: str, station: str = "test") -> list[tuple[str, str]]:
    """(panel, expression) with the variable filled in as Grafana does."""
    return [
        (panel["title"], target["expr"].replace("$station", station))
        for panel in panels(name)
        for target in panel["targets"]
    ]


_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def selectors(expression: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """(metric, matchers) of every series that an expression asks for; grouping labels and functions are none."""
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", expression)
    found = []
    for name, matchers in _SELECTOR.findall(bare):
        if name.startswith("inspector") or name == "up":
            found.append((name, _MATCHER.findall(matchers)))
    return found


def grouped_by(expression: str) -> set[str]:
    """The labels an expression groups by or joins on."""
    lists = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
    return {label.strip() for labels in lists for label in labels.split(",")}


def matches(labels: Labels, matchers: list[tuple[str, str, str]]) -> bool:
    for label, how, wanted in matchers:
        found = labels.get(label, "")
        same = re.fullmatch(wanted, found) is not None if "~" in how else found == wanted
        if same == how.startswith("!"):
            return False
    return True


# -- a station to be watched -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    seen: Running
    address: str
    exported: Exported


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A running station with a promise and a shadow, and what it exports after some parts."""
    folder = tmp_path_factory.mktemp("plant")
    one = bundle(folder, "one")
    wanted = settings(
        folder,
        engine={"bundle": one.path},
        shadow={"bundle": bundle(folder, "two", shift=-0.2).path},
        review={"max_escape": 0.01},
        camera={"rate_hz": 10.0},
        health={"metrics": "127.0.0.1:0"},
    )
    with eager_shadow(), running(wanted) as seen:
        seen.wait_for(lambda arrivals: len(arrivals) >= 20, PATIENCE_S)
        address = seen.station.vitals.desk.address
        exported: Exported = {}
        ours = {"station": "test", "job": "inspector"}  # the target's labels, as hall.yml gives them
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
            for family in text_string_to_metric_families(reply.read().decode()):
                for sample in family.samples:
                    exported.setdefault(sample.name, []).append(sample.labels | ours)
        exported["up"] = [ours]
        yield Watched(seen, address, exported)


def unknown(expression: str, exported: Exported, recorded: set[str]) -> list[str]:
    """Selectors of the expression that nothing answers."""
    out = []
    for name, matchers in selectors(expression):
        if name in recorded:
            continue
        if not any(matches(labels, matchers) for labels in exported.get(name, [])):
            out.append(f"{name} {matchers}")
    return out


RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def test_every_rule_asks_for_what_a_station_exports(watched: Watched) -> None:
    """Names, labels and label values of each selector; a renamed metric cannot silence an alert."""
    for rule in rules("recording", "alerts"):
        assert selectors(rule["expr"]), rule
        assert not unknown(rule["expr"], watched.exported, RECORDED), rule


def test_every_dashboard_query_asks_for_what_a_station_exports(watched: Watched) -> None:
    """Both dashboards; the plant's uses recorded series alone, because nothing else leaves a hall."""
    for name in BOARDS:
        for title, expression in queries(name):
            assert not unknown(expression, watched.exported, RECORDED | {"inspector:alerts"}), (title, expression)
    for _, expression in queries("plant"):
        assert {metric for metric, _ in selectors(expression)} <= RECORDED | {"inspector:alerts"}, expression


def test_labels_that_are_grouped_by_exist(watched: Watched) -> None:
    """``by (station, reason)`` of a label that no series has would fold everything into one."""
    known = {label for sets in watched.exported.values() for labels in sets for label in labels}
    known |= {"le", "plant", "hall"}
    expressions = [rule["expr"] for rule in rules()]
    expressions += [expression for name in BOARDS for _, expression in queries(name)]
    for expression in expressions:
        assert grouped_by(expression) <= known, expression


def test_a_planted_typo_is_found(watched: Watched) -> None:
    """The checks above see a wrong name, a wrong label value and a wrong label."""
    assert not unknown('rate(inspector_parts_total{verdict="INVALID"}[5m])', watched.exported, RECORDED)
    assert unknown('rate(inspector_part_total{verdict="INVALID"}[5m])', watched.exported, RECORDED)
    assert unknown('inspector_parts_total{verdict="REJECT"}', watched.exported, RECORDED)
    assert unknown('inspector_parts_total{kind="INVALID"}', watched.exported, RECORDED)
    assert unknown('inspector_parts_total{reason=~"LATER|MISS"}', watched.exported, RECORDED)
    assert grouped_by("sum by (station, cause) (x) / on (queue) y") == {"station", "cause", "queue"}


# -- alerts ------------------------------------------------------------------------------------------------------------


def test_every_alert_is_seen_to_fire_and_to_stay_silent() -> None:
    """The unit tests of the rules name each alert with the exact series that fire, and show it others beside them."""
    fired: dict[str, set[str]] = {}
    offered: dict[str, set[str]] = {}
    for path in sorted((PROMETHEUS / "tests").glob("*.yml")):
        for case in yaml.safe_load(path.read_text())["tests"]:
            there = set(re.findall(r'(?:station|from|bundle)="(\w[\w-]*)"', str(case["input_series"])))
            for check in case.get("alert_rule_test", ()):
                hit = {
                    str(labels.get("station") or labels.get("from") or labels.get("bundle"))
                    for labels in (one["exp_labels"] for one in check["exp_alerts"])
                }
                fired.setdefault(check["alertname"], set()).update(hit)
                offered.setdefault(check["alertname"], set()).update(there - hit)
    for rule in rules():
        if "alert" in rule:
            assert fired.get(rule["alert"]), f"{rule['alert']} is never seen to fire"
            assert offered.get(rule["alert"]), f"{rule['alert']} is never seen to stay silent"
            assert rule["labels"]["severity"] in {"stop", "page", "ticket"}
            assert {"summary", "do"} == set(rule["annotations"])


@needs_promtool
def test_promtool_finds_no_fault() -> None:
    """Configurations and rules; and the rules' own unit tests."""
    tests = sorted(map(str, (PROMETHEUS / "tests").glob("*.yml")))
    for arguments in (
        ["check", "config", str(PROMETHEUS / "hall.yml")],
        ["check", "config", str(PROMETHEUS / "plant.yml")],
        ["check", "rules", *sorted(map(str, (PROMETHEUS / "rules").glob("*.yml")))],
        ["test", "rules", *tests],
    ):
        done = subprocess.run([str(program("promtool")), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}{done.stderr}"


# -- dashboards --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_whole(name: str) -> None:
    """What Grafana needs to import it, and what people need to read it: units, legends, words, no overlap."""
    made = board(name)
    assert made["uid"] == f"inspector-{name}" and made["schemaVersion"] >= 36 and made["title"] and made["description"]
    variables = {one["name"]: one for one in made["templating"]["list"]}
    assert set(variables) == {"datasource", "station"} and variables["datasource"]["type"] == "datasource"
    numbers = [panel["id"] for panel in made["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in panels(name):
        assert panel["type"] in {"timeseries", "stat", "bargauge", "state-timeline", "table"}
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert (
            defaults["unit"] == "none"
            or defaults["unit"] in {"s", "percentunit", "bytes"}
            or re.fullmatch(r"suffix:[a-z/]+", defaults["unit"])
        ), panel["title"]
        levels = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert levels[0] is None and levels[1:] == sorted(levels[1:]), panel["title"]
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFG"[: len(panel["targets"])])
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert (target["legendFormat"] != "") == (panel["type"] != "table"), panel["title"]
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in target["expr"] or label in {"state", "condition", "queue", "why", "change", "station"}


@pytest.mark.parametrize("name", BOARDS)
def test_units_fit_what_is_shown(name: str) -> None:
    """Seconds as s, shares as percent, bytes as bytes: by the name of the metric."""
    for panel in panels(name):
        unit = panel["fieldConfig"]["defaults"]["unit"]
        text = " ".join(target["expr"] for target in panel["targets"])
        first = selectors(text)[0][0]
        if re.search(r"_seconds(_|:|$)", first):
            assert unit == "s", panel["title"]
        if re.search(r":(share5m|ratio1h|ratio)$", first) or ("max_escape" in first and panel["title"] == "Promise"):
            assert unit == "percentunit", panel["title"]
        if first.endswith("_bytes"):
            assert unit == "bytes", panel["title"]


# -- Prometheus itself -------------------------------------------------------------------------------------------------


@contextmanager
def prometheus(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """A Prometheus with this configuration beside the deployed rules, on a port that it took itself; its address."""
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        "--log.level=info",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(program("prometheus")), *arguments], stdout=log, stderr=log)
    listening = re.compile(r'msg="Listening on".* address=(\S+)')
    try:
        wait_until(
            lambda: bool(listening.search((folder / "log").read_text())) or process.poll() is not None, "no port"
        )
        found = listening.search((folder / "log").read_text())
        assert found is not None, (folder / "log").read_text()
        yield found[1]
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def ask(address: str, expression: str) -> list[dict[str, Any]]:
    """An instant query; an error of the query fails the test."""
    query = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=10) as reply:
            found: list[dict[str, Any]] = json.loads(reply.read())["data"]["result"]
            return found
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return []
        raise AssertionError(f"{expression}: {error.read().decode()}") from error
    except (urllib.error.URLError, ConnectionError):
        return []  # not up yet


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """For what another process does in its own time."""
    clock, beat = SystemClock(), threading.Event()
    until_ns = clock.now_ns() + PATIENCE_S * 1_000_000_000
    while not holds():
        assert clock.now_ns() < until_ns, what
        beat.wait(0.2)


def deployed(name: str, every: str, targets: str, labels: Labels) -> dict[str, Any]:
    """hall.yml or plant.yml as it is, but faster, with absolute paths and this one target."""
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / f"{name}.yml").read_text(encoding="utf-8"))
    config["global"] |= {"scrape_interval": every, "evaluation_interval": every, "scrape_timeout": every}
    config["rule_files"] = [str(PROMETHEUS / path) for path in config["rule_files"]]
    (job,) = config["scrape_configs"]
    del job["file_sd_configs"]
    job["static_configs"] = [{"targets": [targets], "labels": labels}]
    return config


@dataclass(frozen=True)
class Plant:
    hall: str
    plant: str


@pytest.fixture(scope="module")
def plant(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """The deployed configurations at work: a hall that scrapes the station, a plant that federates the hall."""
    folder = tmp_path_factory.mktemp("prometheus")
    hall_config = deployed("hall", "1s", watched.address, {"station": "test"})
    with (
        prometheus(folder / "hall", hall_config) as hall,
        prometheus(folder / "plant", deployed("plant", "1s", hall, {"from": "hall-a"})) as above,
    ):
        wait_until(lambda: bool(ask(hall, "inspector:latency_seconds:p99_5m >= 0")), "no latency in the hall")
        wait_until(lambda: bool(ask(hall, "inspector:shadow_compared:increase1h >= 0")), "no shadow in the hall")
        wait_until(lambda: bool(ask(above, "inspector:latency_seconds:p99_5m >= 0")), "no latency in the plant")
        wait_until(lambda: bool(ask(above, "inspector:plant_parts:rate5m > 0")), "no parts in the plant")
        wait_until(lambda: bool(ask(above, "inspector:shadow_compared:increase1h > 0")), "nothing compared")
        yield Plant(hall, above)


@needs_prometheus
def test_every_query_returns_data(plant: Plant) -> None:
    """Each panel of both dashboards where it is meant to be used; the plant's in a hall's Prometheus as well."""
    empty = [
        f"{name} in {where}: {title}: {expression}"
        for name, where, address in (
            ("station", "hall", plant.hall),
            ("plant", "hall", plant.hall),
            ("plant", "plant", plant.plant),
        )
        for title, expression in queries(name)
        if title not in MAY_BE_EMPTY and not ask(address, expression)
    ]
    assert not empty, "\n".join(empty)


@needs_prometheus
def test_every_recorded_series_is_recorded_and_federated(plant: Plant) -> None:
    """All of them in the hall, and with its labels in the plant."""
    hall = {rule["record"] for rule in rules("recording")}
    above = {rule["record"] for rule in rules("plant") if "record" in rule}
    missing = {name for name in hall if not ask(plant.hall, name)}
    missing |= {name for name in above if not ask(plant.plant, name)}
    assert not missing
    for name in hall:
        found = ask(plant.plant, name)
        assert found, name
        assert all((one["metric"]["plant"], one["metric"]["hall"]) == ("plant-1", "hall-a") for one in found), name
        assert all(one["metric"]["station"] == "test" for one in found), name


@needs_prometheus
def test_a_fault_of_the_station_reaches_the_plant_as_an_alert(plant: Plant, watched: Watched) -> None:
    """Nothing fires while all is well but what holds by design; a controller that goes puts the station in Error."""
    station = watched.seen.station
    assert not ask(plant.hall, 'ALERTS{alertname=~"InspectorError|InspectorSilent"}')
    station.conditions.raise_fault("camera", "pulled for the test")
    station.watch._camera = lambda: None  # type: ignore[method-assign]  # else the next round finds it well
    try:
        wait_until(lambda: bool(ask(plant.hall, 'ALERTS{alertname="InspectorError", alertstate="firing"}')), "no alert")
        wait_until(lambda: bool(ask(plant.plant, 'inspector:alerts{alertname="InspectorError"}')), "not federated")
        assert ask(plant.plant, 'ALERTS{alertname="InspectorError"}') == []
    finally:
        del station.watch._camera
        station.conditions.clear("camera")
