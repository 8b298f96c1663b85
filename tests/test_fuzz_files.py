"""Damaged configuration, manifest and calibration files; benchmarks/fuzz_files.py does the same at full scale."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.file_damage import Target, a_file, nested, toml
from benchmarks.fuzz_files import targets
from inspector.config import load
from inspector.errors import ConfigError, EngineError, InspectorError
from inspector.preprocess import Preprocess, load_calibration

KINDS = ("config", "manifest", "calibration")
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    yield {target.name: target for target in targets(tmp_path_factory.mktemp("files"))}


@pytest.mark.parametrize("name", KINDS)
def test_good_files_are_read(kinds: dict[str, Target], name: str) -> None:
    """What is mutated is good as it stands, and stays so when it is written again: else nothing is tested."""
    target = kinds[name]
    for seed in target.seeds:
        assert target.try_out(seed)
        assert target.try_out(target.write(target.parse(seed)))


@pytest.mark.parametrize("name", KINDS)
@given(seed=st.integers(0, 2**32))
@FEW
def test_a_damaged_file_is_read_or_refused(kinds: dict[str, Target], name: str, seed: int) -> None:
    """Whatever became of a file, the loader reads it or refuses it in words; nothing else comes out."""
    kinds[name].try_out(a_file(random.Random(seed), kinds[name]))


@pytest.mark.parametrize("name", KINDS)
@given(data=st.binary(max_size=400))
@FEW
def test_bytes_that_were_never_a_file_are_refused(kinds: dict[str, Target], name: str, data: bytes) -> None:
    """Noise is refused in words, or holds nothing that is asked for."""
    kinds[name].try_out(data)


DEEP_OR_HUGE = {
    "deep list": toml({"x": nested(60, False)}).replace(b"[" * 60, b"[" * 4000),
    "deep table": b"a" + b".a" * 4000 + b" = 1\n",
    "decimal of 5000 digits": b"x = " + b"9" * 5000,
    "no UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("text", DEEP_OR_HUGE.values(), ids=DEEP_OR_HUGE.keys())
@pytest.mark.parametrize("read", [lambda path: load(path, {}), load_calibration], ids=["config", "calibration"])
def test_toml_that_exhausts_its_reader_is_refused(tmp_path: Path, read: Callable[[Path], object], text: bytes) -> None:
    """Depth and digits beyond the reader's limits are a fault of the file, told as one."""
    path = tmp_path / "file.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=r"file\.toml"):
        read(path)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"schema_version": ' + b"9" * 5000 + b"}", b'{"a":' * 5000])
def test_json_that_exhausts_its_reader_is_refused(kinds: dict[str, Target], text: bytes) -> None:
    """A manifest too deep or with too many digits is damaged, and told so."""
    target = kinds["manifest"]
    target.path.write_bytes(text)
    with pytest.raises(EngineError, match=r"manifest\.json"):
        target.read(target.path)


@pytest.mark.parametrize(
    "line",
    [
        "[timing]\ngate_ms = inf",
        "[timing]\ngate_ms = 1e308",
        "[camera]\ndistinct = 10000000000",
        "[camera]\nseed = -1",
        "[alarm]\nfails = 0x" + "f" * 5000,
        '[camera]\nfeatures = [["Gain", 0x' + "f" * 5000 + "]]",
    ],
    ids=lambda line: line[:30].replace("\n", " "),
)
def test_numbers_that_no_line_can_use_are_refused_at_the_start(tmp_path: Path, line: str) -> None:
    """A number that would overflow a clock, a queue or the memory is a fault of the file, quoted in short."""
    path = tmp_path / "config.toml"
    path.write_text(line)
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    assert len(str(refused.value)) < 1000


def test_a_refusal_stays_short(tmp_path: Path) -> None:
    """However much is wrong, the refusal fits in a journal."""
    path = tmp_path / "config.toml"
    keys = "\n".join(f"{'k' * 1500}{number} = 1" for number in range(500))
    path.write_text(f"[camera]\n{keys}")
    with pytest.raises(InspectorError) as refused:
        load(path, {})
    assert len(str(refused.value)) < 30_000
    assert "500 faults" in str(refused.value)


def test_tiles_that_overlap_wholly_are_refused_at_the_start(kinds: dict[str, Target]) -> None:
    """A calibration that no tile could serve is refused before the first part, not at it."""
    target = kinds["calibration"]
    tiled = next(seed for seed in target.seeds if b"enabled = true\noverlap_px" in seed)
    target.path.write_bytes(tiled.replace(b"overlap_px = 32", b"overlap_px = 256"))
    calibration = load_calibration(target.path)
    with pytest.raises(ConfigError, match="overlap"):
        Preprocess(calibration, height=256, width=256, mean=0.5, std=0.25)


@pytest.mark.parametrize(
    "text",
    (
        '[part]\ncalibration = "' + "[" * 100_000 + '"\n',
        '[engine]\nbundle = "' + "b" * 100_000 + '"\n',
        '[[decision.zones]]\nname = "z"\nrectangle = [0, 0, 0x' + "9" * 5000 + ", 1]\n",
    ),
    ids=("path of a calibration", "path of a bundle", "number of thousands of digits"),
)
def test_a_refusal_is_short_whatever_it_quotes(kinds: dict[str, Target], text: str) -> None:
    """Found by the run over 100,000 files: paths and numbers without bound in a file made refusals without bound."""
    assert not kinds["config"].try_out(text.encode())
