"""The questions of docs/requalify.md run as they stand there, and their answers agree with the rows."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from archive_kit import STATION, Written, judged, parts_of, result_rows

DOC = Path(__file__).resolve().parents[2] / "docs" / "requalify.md"
RECIPES = re.findall(r"```sql\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def out(written: Written, engines: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("recipes") / "out"
    judged(written.archive, engines[1], place, workers=1)
    return place


def asked(recipe: str, written: Written, out: Path) -> list[dict[str, Any]]:
    """The rows of one recipe."""
    found = duckdb.sql(recipe.replace("ARCHIVE", str(written.archive)).replace("OUT/", f"{out}/"))
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def test_the_document_has_recipes() -> None:
    """An empty list of recipes would pass every test of them."""
    assert len(RECIPES) == 8


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_each_recipe_runs(number: int, written: Written, out: Path) -> None:
    """As it stands in the document, over an archive that the line wrote; all but two must have something to say."""
    rows = asked(RECIPES[number], written, out)
    may_be_empty = "verdict = 'INVALID'" in RECIPES[number] or "coalesce(reviewed" in RECIPES[number]
    assert rows or may_be_empty


def test_yield_by_batch_is_the_share_of_pass(written: Written, out: Path) -> None:
    """Counted again by hand."""
    rows = parts_of(written)
    (found,) = asked(RECIPES[0], written, out)
    passed = sum(row["verdict"] == "PASS" for row in rows)
    assert found == {
        "station": STATION, "batch": "S5", "parts": len(rows), "yield_percent": round(100 * passed / len(rows), 2)
    }  # fmt: skip


def test_the_worst_zones_count_every_defect_that_counts(written: Written, out: Path) -> None:
    """Counted again by hand, by zone and shape."""
    counted = Counter(
        (defect["zone"], defect["shape"]) for row in parts_of(written) for defect in row["defects"] if defect["counts"]
    )
    assert counted
    assert {(row["zone"], row["shape"]): row["defects"] for row in asked(RECIPES[2], written, out)} == dict(counted)


def test_flips_by_week_are_all_flips(written: Written, out: Path) -> None:
    """No flip is lost in the grouping."""
    flips = sum(row["flip"] is not None for row in result_rows(out))
    assert sum(row["parts"] for row in asked(RECIPES[6], written, out)) == flips > 0


def test_escapes_are_the_defective_parts_that_pass(written: Written, out: Path) -> None:
    """By the known truth."""
    expected = {row["sequence"] for row in result_rows(out) if row["truth"] and row["new_verdict"] == "PASS"}
    assert {row["sequence"] for row in asked(RECIPES[7], written, out)} == expected
