"""The questions of docs/requalify.md run as they stand there, and their answers agree with the rows."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from archive_kit import STATION, Written, judged, parts_of, result_rows

Answers = list[list[dict[str, Any]]]
DOC = Path(__file__).resolve().parents[2] / "docs" / "requalify.md"
RECIPES = re.findall(r"```sql\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def out(written: Written, engines: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("recipes") / "out"
    judged(written.archive, engines[1], place, workers=1)
    return place


@pytest.fixture(scope="module")
def answers(written: Written, out: Path) -> Answers:
    """The rows of each recipe."""
    if importlib.util.find_spec("duckdb") is None:
        pytest.skip("duckdb is not installed: pip install 'inspector[archive]'")
    queries = [recipe.replace("ARCHIVE", str(written.archive)).replace("OUT/", f"{out}/") for recipe in RECIPES]
    command = [sys.executable, str(Path(__file__).with_name("ask.py"))]
    asked = subprocess.run(command, input=json.dumps(queries), capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    found: Answers = json.loads(asked.stdout)
    return found


def test_the_document_has_recipes() -> None:
    """An empty list of recipes would pass every test of them."""
    assert len(RECIPES) == 8


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_each_recipe_runs(number: int, answers: Answers) -> None:
    """As it stands in the document, over an archive that the line wrote; all but two must have something to say."""
    rows = answers[number]
    may_be_empty = "verdict = 'INVALID'" in RECIPES[number] or "coalesce(reviewed" in RECIPES[number]
    assert rows or may_be_empty


def test_yield_by_batch_is_the_share_of_pass(written: Written, answers: Answers) -> None:
    """Counted again by hand."""
    rows = parts_of(written)
    (found,) = answers[0]
    passed = sum(row["verdict"] == "PASS" for row in rows)
    assert found == {
        "station": STATION, "batch": "S5", "parts": len(rows), "yield_percent": round(100 * passed / len(rows), 2)
    }  # fmt: skip


def test_the_worst_zones_count_every_defect_that_counts(written: Written, answers: Answers) -> None:
    """Counted again by hand, by zone and shape."""
    counted = Counter(
        (defect["zone"], defect["shape"]) for row in parts_of(written) for defect in row["defects"] if defect["counts"]
    )
    assert counted
    assert {(row["zone"], row["shape"]): row["defects"] for row in answers[2]} == dict(counted)


def test_flips_by_week_are_all_flips(out: Path, answers: Answers) -> None:
    """No flip is lost in the grouping."""
    flips = sum(row["flip"] is not None for row in result_rows(out))
    assert sum(row["parts"] for row in answers[6]) == flips > 0


def test_escapes_are_the_defective_parts_that_pass(out: Path, answers: Answers) -> None:
    """By the known truth."""
    expected = {row["sequence"] for row in result_rows(out) if row["truth"] and row["new_verdict"] == "PASS"}
    assert {row["sequence"] for row in answers[7]} == expected
