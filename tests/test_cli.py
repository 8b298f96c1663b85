"""The command line: exit codes, one clear line for each fault, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inspector.cli import build_parser, run
from tests.station_kit import BUNDLE, ROOT

CONFIG = """
[station]
state_dir = "{folder}/state"
[camera]
{camera}
[engine]
bundle = "{bundle}"
threads = 1
[timing]
gate_ms = 3000.0
[link]
endpoint = "tcp://127.0.0.1:*"
viewers = ""
[health]
metrics = ""
[log]
format = "json"
"""


def _config(folder: Path, camera: str = "rate_hz = 50.0\ndistinct = 5", bundle: Path = BUNDLE) -> Path:
    path = folder / "config.toml"
    path.write_text(CONFIG.format(folder=folder, camera=camera, bundle=bundle))
    return path


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """--help of each command works and names the exit codes."""
    parser = build_parser()
    commands = [name for action in parser._actions for name in getattr(action, "choices", None) or {}]
    assert {"demo", "run", "replay", "listen", "cameras", "check-config", "bench", "drill"} <= set(commands)
    for name in commands:
        with pytest.raises(SystemExit) as caught:
            run([name, "--help"])
        assert caught.value.code == 0
        assert "exit codes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("camera", "code", "says"),
    [
        ('kind = "genicam"\nproducers = ["/nowhere/camera.cti"]', 3, "/nowhere/camera.cti"),
        ('kind = "genicam"\nserial = "no-such-serial"', 3, "no-such-serial"),
        ('kind = "genicam"\nserial = "0"\nfeatures = [["ExposureTime", 100.0]]', 3, "ExposureTime"),
        ('kind = "genicam"\nserial = "0"\nfeatures = [["PixelFormat", "Mono8"], ["Width", 5000]]', 3, "Width"),
        ('kind = "folder"\nfolder = "/nowhere"', 2, "/nowhere"),
        ('kind = "telescope"', 2, "camera.kind"),
        ("rate = 4", 2, "camera.rate_hz?"),
    ],
)
def test_a_camera_that_cannot_be_had_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], camera: str, code: int, says: str
) -> None:
    """What, what was expected and the exit code; no traceback."""
    assert run(["run", "--config", str(_config(tmp_path, camera)), "--max-parts", "1"]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("inspector: ")]
    assert len(lines) == 1 and says in lines[0]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "--config", "/nowhere.toml"], 2),
        (["check-config", "--config", "/nowhere.toml"], 2),
        (["replay", "/nowhere"], 2),
        (["replay", str(ROOT / "docs" / "pictures"), "--engine", "/nowhere"], 3),
    ],
)
def test_bad_usage_has_its_exit_code(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """2 for configuration, 3 for an engine that is not there."""
    assert run(arguments) == code
    assert capsys.readouterr().err.count("inspector: ") == 1


def test_run_inspects_parts_from_a_real_producer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """harvesters on the viky producer, the real engine, real sockets; the counts agree."""
    camera = 'kind = "genicam"\nserial = "0"\nfeatures = [["PixelFormat", "Mono8"], ["AcquisitionFrameRate", 20.0]]'
    camera += f'\n[part]\ncalibration = "{ROOT}/calibration/viky.toml"'
    assert run(["run", "--config", str(_config(tmp_path, camera)), "--max-parts", "25", "--json"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found["triggered"] == found["answered"] == 25
    assert found["pass"] + found["fail"] > 0
    assert set(found["reasons"]) <= {"DROPPED", "LATE"}  # a busy machine may come to that


def test_sigterm_ends_the_daemon_in_order(tmp_path: Path) -> None:
    """It says READY, goes on, drains within seconds and exits 0 with every part answered."""
    command = [sys.executable, "-m", "inspector", "run", "--config", str(_config(tmp_path)), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as daemon:
        assert daemon.stderr is not None
        parts = 0
        for line in daemon.stderr:
            parts += '"event": "PASS"' in line or '"event": "FAIL"' in line
            if parts == 5:
                break
        daemon.send_signal(signal.SIGTERM)
        out, _ = daemon.communicate(timeout=30)
    found = json.loads(out.splitlines()[-1])
    assert daemon.returncode == 0
    assert found["triggered"] == found["answered"] >= 5


def test_check_config_tells_all_that_run_would_stumble_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the file names is looked for, and each fault is one line; nothing is bound or started."""
    wrong = {
        "LINK__ENDPOINT": "tcp://127.0.0.1:99999",
        "LINK__VIEWERS": "tcp://0.0.0.0:5571",
        "HEALTH__METRICS": "somewhere",
        "CAMERA__KIND": "folder",
        "CAMERA__FOLDER": str(tmp_path / "nothing"),
        "ENGINE__BACKEND": "tensorrt",
        "SHADOW__BUNDLE": str(tmp_path / "no-bundle"),
        "PART__CALIBRATION": str(tmp_path / "none.toml"),
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"INSPECTOR_{name}", value)
    assert run(["check-config"]) == 2
    told = capsys.readouterr().err.splitlines()
    words = ("none.toml", "tensorrt", "99999", "plaintext", "somewhere", "nothing", "no-bundle")
    assert len(told) == len(words)
    for line, word in zip(told, words, strict=True):
        assert line.startswith("inspector: ") and word in line, (line, word)


def test_check_config_prints_every_key_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    """The committed configuration is valid from the checkout's root."""
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        assert run(["check-config", "--config", "config.toml"]) == 0
    finally:
        os.chdir(before)
    out = capsys.readouterr().out
    assert "camera.kind" in out and "config.toml" in out
