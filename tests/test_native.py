"""Whether the C functions are used, how they are built, and that they take nothing they do not understand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from inspector import native
from inspector.config import load
from inspector.errors import ConfigError
from tests.native_kit import needs_native

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "inspector" / "_native.c"


def headers() -> Path:
    return Path(sysconfig.get_paths()["include"])


needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None or not (headers() / "Python.h").exists(), reason="no gcc, or no headers of Python"
)


@needs_compiler
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_the_source_compiles_without_a_warning(tmp_path: Path, level: str) -> None:
    """-Wall -Wextra -Wconversion -Werror: nothing is converted or left unused unawares."""
    warnings = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
    done = subprocess.run(
        ["gcc", "-std=gnu11", level, "-fPIC", "-c", *warnings, f"-I{headers()}", SOURCE, "-o", tmp_path / "native.o"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@needs_compiler
def test_where_there_is_a_compiler_it_is_built() -> None:
    """An installation with gcc and Python's headers does not fall back unawares."""
    assert native.find({}) is not None, "run `make install`, or `pip install -e .`, again"


@pytest.mark.parametrize(("value", "used"), [("0", "python"), ("", "native"), ("1", "native")])
def test_the_switch(value: str, used: str) -> None:
    """INSPECTOR_NATIVE=0 leaves everything to Python, in the whole program, and is no fault of the configuration."""
    if used == "native" and native.find({}) is None:
        pytest.skip("the C functions are not built")
    code = "from inspector import native; from inspector.config import load; load(None); print(native.word())"
    environment = {**os.environ, native.VARIABLE: value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == used


def test_other_variables_are_still_faults() -> None:
    """Only the one name is let through: a variable that means nothing is told."""
    load(None, {native.VARIABLE: "0"})
    with pytest.raises(ConfigError, match="INSPECTOR_NATIV"):
        load(None, {"INSPECTOR_NATIV": "0"})


@needs_native
def test_a_build_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was built before the sources changed what it takes is left alone, and the journal says python."""
    from inspector import _native

    monkeypatch.setattr(_native, "REVISION", -1)
    assert native.find({}) is None


@needs_native
def test_without_and_back() -> None:
    """A comparison that fails leaves the C functions in place."""
    before = native.found
    with pytest.raises(ZeroDivisionError), native.without():
        assert native.word() == "python"
        raise ZeroDivisionError
    assert native.found is before and native.word() == "native"


@needs_native
def test_blobs_takes_nothing_it_does_not_understand() -> None:
    """Wrong types, sizes and counts raise; nothing is read or written beyond an array."""
    assert native.found is not None
    scores, mask = np.ones((9, 9), np.float32), np.zeros((9, 9), np.bool_)
    owner, inspected = np.zeros((9, 9), np.uint8), np.ones((9, 9), np.bool_)
    rest = (0.5, 256, True, 1.0, 1.0, 1.0, 1.0)
    wrong = [
        (scores, mask[1:], None, None, 0, *rest),
        (scores, mask.view(np.uint8), None, None, 0, *rest),
        (scores, mask, inspected[:, 1:], owner, 1, *rest),
        (scores, mask, owner, owner, 1, *rest),
        (scores, mask, inspected, owner.astype(np.int64), 1, *rest),
        (scores, mask, inspected, owner, "1", *rest),
        (scores, mask, None, None, 0, "0.5", *rest[1:]),
        (scores, mask, None, None, 0),
    ]
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError, BufferError)):
            native.found.blobs(*arguments)
    assert not mask.any()
    for left in (scores.astype(np.float64), scores.ravel(), scores[:, ::2], None):  # to the reference
        assert native.found.blobs(left, mask, None, None, 0, *rest) is None
    strange = np.full((9, 9), 200, np.uint8)  # a zone that is none counts as outside all
    found = native.found.blobs(scores, mask, inspected, strange, 1, *rest)
    assert found is not None and found[1] == 1


@needs_native
def test_survey_counts_what_it_says() -> None:
    """Saturated pixels, and sums of whole blocks alone."""
    assert native.found is not None
    image = np.random.default_rng(1).integers(250, 256, (37, 50), dtype=np.uint8)
    blocks = image[:32, :48].reshape(4, 8, 6, 8).sum(axis=(1, 3), dtype=np.int64)
    assert native.found.survey(image) == (int((image == 255).sum()), int(blocks.sum()), int((blocks**2).sum()))
    with pytest.raises(TypeError):
        native.found.survey(image.astype(np.float32))
