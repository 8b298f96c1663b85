"""The promise: what is promised holds, and what the data cannot support is not promised."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from inspector.bounds import needed_n, upper_bound
from inspector.calibrate.threshold import (
    GRID,
    OperatingPoint,
    Outcomes,
    Refusal,
    choose,
    curve_svg,
    install,
    outcomes_of_images,
    outcomes_of_scores,
)
from inspector.errors import ConfigError
from inspector.frame import FloatMap, Geometry
from inspector.layouts import Sample

Floats = NDArray[np.float64]


def of_arrays(defective: Floats, good: Floats, grid: tuple[float, ...] = GRID) -> Outcomes:
    """n x A scores of defective parts, m x A of good images."""
    steps = np.asarray(grid)
    areas = tuple(range(1, defective.shape[1] + 1))
    return Outcomes(grid, areas, defective[:, :, None] < steps, good[:, :, None] >= steps, "0" * 64)


# ------------------------------------------------------------------------------------------------------- the promise

PROMISE, PARTS, SPLITS = 0.05, 200, 1000


def broken(
    choose_step: object, areas: int, images: int = 1, per_image: bool = False, seed: int = 5
) -> tuple[float, float]:
    """Share of resampled calibrations whose promise does not hold in the whole population, and their mean overkill.

    Population: 40,000 defective parts of ``images`` images whose scores share most of their luck, ``areas`` areas
    that differ a little in it; 4,000 good images.
    """
    rng = np.random.default_rng(seed)
    luck = rng.normal(size=(40_000, 1, 1))
    noise = rng.normal(size=(40_000, images, areas)) * 0.5
    scores = 1.0 / (1.0 + np.exp(-(2.2 + luck + noise)))
    part = scores.min(axis=1)
    good = 1.0 / (1.0 + np.exp(-(rng.normal(size=(4000, areas)) - 1.5)))
    wrong, overkill = 0, []
    for _ in range(SPLITS):
        chosen = rng.integers(0, len(part), PARTS)
        seen = scores[chosen].reshape(-1, areas) if per_image else part[chosen]
        result = choose_step(of_arrays(seen, good[rng.integers(0, len(good), 300)]))  # type: ignore[operator]
        assert isinstance(result, OperatingPoint)
        truth = float((part[:, result.min_area_map_px - 1] < result.threshold).mean())
        wrong += truth > PROMISE
        overkill.append(float((good[:, result.min_area_map_px - 1] >= result.threshold).mean()))
    return wrong / SPLITS, float(np.mean(overkill))


def promised(outcomes: Outcomes) -> OperatingPoint | Refusal:
    return choose(outcomes, PROMISE, 0.95)


def empirical(outcomes: Outcomes) -> OperatingPoint | Refusal:
    """What one is tempted to do: the loosest threshold whose escapes in the sample are within the promise."""
    result = choose(outcomes, PROMISE, 0.95)
    escapes = outcomes.missed[:, 0].sum(axis=0)
    step = int(np.flatnonzero(escapes <= PROMISE * len(outcomes.missed))[-1])
    assert isinstance(result, OperatingPoint)
    return replace(result, threshold=outcomes.grid[step], min_area_map_px=1)


@pytest.mark.parametrize(("areas", "images"), [(1, 1), (5, 1), (1, 6)])
def test_promise_holds_in_95_percent_of_resampled_splits(areas: int, images: int) -> None:
    """Of 1000 calibrations on resampled parts at most 5 % promise what the population does not keep, with several
    areas to choose from and with several correlated images a part too; and the rule is not idle: overkill is low."""
    wrong, overkill = broken(promised, areas, images)
    assert wrong <= 0.05
    assert overkill < 0.5


def test_tempting_ways_break_the_promise() -> None:
    """The simulation can fail: the best threshold in the sample, or images counted as parts, break the promise."""
    assert broken(empirical, 1)[0] > 0.25
    assert broken(promised, 1, images=6, per_image=True)[0] > 0.25


# --------------------------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize(("parts", "kept"), [(299, True), (298, False)])
def test_the_known_sample_size_decides(parts: int, kept: bool) -> None:
    """1 % at 95 % needs 299 defective parts without an escape; with 298 it is refused, and the refusal says: 1 more."""
    outcomes = outcomes_of_scores({f"p{i}": [0.905] for i in range(parts)}, [0.2, 0.5])
    result = choose(outcomes, 0.01, 0.95)
    if kept:
        assert isinstance(result, OperatingPoint)
        assert (result.threshold, result.escapes, result.overkill) == (0.51, 0, 0)
        assert result.escape_upper == upper_bound(0, 299) <= 0.01
    else:
        assert isinstance(result, Refusal) and result.needs == 1
        assert "1 more defective parts" in str(result) and "\n" not in str(result)


def test_refusal_counts_on_from_the_escapes_it_saw() -> None:
    """With escapes at the safest threshold already, the parts still needed allow for them: 473 for one at 1 %."""
    scores = {f"p{i}": [0.9] for i in range(299)} | {"hopeless": [0.001]}
    result = choose(outcomes_of_scores(scores, []), 0.01, 0.95)
    assert isinstance(result, Refusal)
    assert (result.parts, result.escapes, result.needs) == (300, 1, needed_n(0.01, 0.95, 1) - 300)


def test_walk_stops_at_the_first_failure() -> None:
    """A looser threshold that looks fine again behind a failed one may not be promised."""
    missed = np.zeros((100, 1, 4), np.bool_)
    missed[:30, 0, 2] = True  # fails at the third, none escapes at the fourth
    rejected = np.array([[[True, True, True, False]]])
    outcomes = Outcomes((0.2, 0.4, 0.6, 0.8), (0,), missed, rejected, "")
    result = choose(outcomes, 0.05, 0.95)
    assert isinstance(result, OperatingPoint) and result.threshold == 0.2  # equal overkill: the safer of the two


def test_least_overkill_among_the_promised() -> None:
    """Among thresholds and areas that may be promised the one with the least overkill is taken."""
    missed = np.zeros((150, 2, 3), np.bool_)
    missed[:20, 1, 2] = True
    rejected = np.zeros((10, 2, 3), np.bool_)
    rejected[:7, 0, :], rejected[:4, 0, 1:], rejected[:5, 1, 0], rejected[:2, 1, 1] = True, True, True, True
    outcomes = Outcomes((0.3, 0.5, 0.7), (4, 16), missed, rejected, "")
    result = choose(outcomes, 0.05, 0.95)
    assert isinstance(result, OperatingPoint)
    assert (result.min_area_map_px, result.threshold, result.overkill) == (16, 0.5, 2)
    assert result.escape_upper == upper_bound(0, 150, 0.975)  # the confidence is shared by two areas


def test_several_areas_need_more_parts() -> None:
    """What one area may promise with 59 parts at 5 %, five areas together may not: their confidence is shared."""
    one, five = np.full((59, 1), 0.9), np.full((59, 5), 0.9)
    assert isinstance(choose(of_arrays(one, np.zeros((1, 1))), 0.05, 0.95), OperatingPoint)
    result = choose(of_arrays(five, np.zeros((1, 5))), 0.05, 0.95)
    assert isinstance(result, Refusal) and result.needs == needed_n(0.05, 0.99) - 59


def test_any_missed_image_is_an_escape_of_its_part() -> None:
    """A part with one image below the threshold escapes, however clear the others are; parts count, not images."""
    scores = {f"p{i}": [0.95, 0.9, 0.99] for i in range(99)} | {"weak": [0.99, 0.15, 0.99]}
    result = choose(outcomes_of_scores(scores, [0.5]), 0.05, 0.95)
    assert isinstance(result, OperatingPoint)
    assert (result.parts, result.escapes, result.threshold) == (100, 1, 0.51)


def test_evidence_is_complete_and_json() -> None:
    """n, k, bound, grid, areas and the hash of the data list stand in the evidence, and in plain sentences."""
    scores = {f"p{i}": [0.5 + i / 1000] for i in range(400)}
    result = choose(outcomes_of_scores(scores, [0.1, 0.6]), 0.01, 0.95)
    assert isinstance(result, OperatingPoint)
    evidence = json.loads(json.dumps(result.evidence(), allow_nan=False))
    assert (evidence["parts"], evidence["escapes"], evidence["grid"]) == (400, result.escapes, [0.01, 0.99, 99])
    assert len(evidence["data_sha256"]) == 64 and evidence["escape_upper"] <= 0.01
    text = " ".join(result.sentences())
    assert "of 400 defective parts" in text and evidence["data_sha256"] in text
    assert f"needs {result.next_needs} more" in text


def test_data_hash_names_the_list_and_not_its_order() -> None:
    """The same parts in another order give the same hash; one score changed gives another."""
    a = outcomes_of_scores({"p": [0.9], "q": [0.8]}, [0.1, 0.2])
    b = outcomes_of_scores({"q": [0.8], "p": [0.9]}, [0.2, 0.1])
    c = outcomes_of_scores({"q": [0.8], "p": [0.91]}, [0.2, 0.1])
    assert a.data_sha256 == b.data_sha256 != c.data_sha256


@pytest.mark.parametrize(("max_escape", "confidence"), [(0.0, 0.95), (1.0, 0.95), (0.01, 1.0), (0.01, 0.3)])
def test_senseless_promises_are_refused(max_escape: float, confidence: float) -> None:
    """No part may ever escape, or certainty: not to be had from data, said in one line."""
    with pytest.raises(ConfigError, match="no such promise"):
        choose(outcomes_of_scores({"p": [0.9]}, []), max_escape, confidence)


# ------------------------------------------------------------------------------------------------------- from images


def sample(name: str, group: str, defective: bool | None) -> Sample:
    return Sample(name, Path(name), None, "", group, defective)


def blob_map(side: int, value: float) -> FloatMap:
    out = np.zeros((32, 32), np.float32)
    out[4 : 4 + side, 4 : 4 + side] = value
    return out


def test_images_run_through_the_stations_own_decision() -> None:
    """An image fails exactly where decide() says so: by threshold, by area in map pixels, and by the other rules."""
    maps = {"a1": blob_map(4, 0.8), "a2": blob_map(2, 0.6), "b": blob_map(3, 0.7), "g": blob_map(2, 0.3)}
    samples = [sample("a1", "A", True), sample("a2", "A", True), sample("b", "B", True), sample("g", "G", False)]
    grid = (0.2, 0.5, 0.75)
    scale = Geometry(scale_x=3.0, scale_y=3.0)  # map pixels, not frame pixels, decide the area

    def run(**rules: float) -> Outcomes:
        return outcomes_of_images(samples, lambda each: (maps[each.id], scale), (0, 9), grid, rules)

    got = run()
    assert got.missed.tolist() == [
        [[False, False, True], [True, True, True]],  # part A: its weakest image decides
        [[False, False, True], [False, False, True]],
    ]
    assert got.rejected.tolist() == [[[True, False, False], [False, False, False]]]
    assert run(max_count=1).missed.all()


def test_images_that_cannot_calibrate_are_refused() -> None:
    """No label, no defective image, a map that is not finite, a falling grid: one line each, never a wrong figure."""
    good_map = (blob_map(3, 0.9), Geometry())
    nan_map = (np.full((32, 32), np.nan, np.float32), Geometry())
    cases = [
        ([sample("u", "U", None)], good_map, GRID, "no label"),
        ([sample("g", "G", False)], good_map, GRID, "no defective image"),
        ([sample("b", "B", True)], nan_map, GRID, "INVALID"),
        ([sample("b", "B", True)], good_map, (0.5, 0.4), "no such grid"),
    ]
    for samples, answer, grid, words in cases:
        with pytest.raises(ConfigError, match=words):
            outcomes_of_images(samples, lambda _, answer=answer: answer, (0,), grid)  # type: ignore[misc]


def test_operating_point_goes_into_the_bundle(tmp_path: Path) -> None:
    """Threshold, area and evidence stand in the manifest afterwards, and the bundle still loads."""
    onnx = pytest.importorskip("onnx")
    from inspector.engine.bundle import load_bundle, write_bundle

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Sigmoid", ["image"], ["map"])],
        "probe",
        [value("image", onnx.TensorProto.FLOAT, [1, 1, 16, 16])],
        [value("map", onnx.TensorProto.FLOAT, [1, 1, 16, 16])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    write_bundle(
        tmp_path / "probe", name="probe", onnx_bytes=model.SerializeToString(), mean=0.5, std=0.25, classes=["defect"],
        threshold=0.5, min_area_px=1, training={}, parity={}, cite=["default"],
        golden_images=np.zeros((1, 16, 16), np.uint8),
    )  # fmt: skip
    point = choose(outcomes_of_scores({f"p{i}": [0.9] for i in range(80)}, [0.3]), 0.05, 0.95)
    assert isinstance(point, OperatingPoint)
    install(tmp_path / "probe", replace(point, min_area_map_px=7))
    bundle = load_bundle(tmp_path / "probe")
    assert (bundle.threshold, bundle.min_area_px) == (point.threshold, 7)
    assert bundle.manifest["operating_point"]["evidence"] == replace(point, min_area_map_px=7).sentences()
    promise = bundle.manifest["operating_point"]["promise"]
    assert (promise["max_escape"], promise["parts"], promise["escapes"]) == (0.05, 80, 0)


@pytest.mark.parametrize("parts", [20, 400])
def test_trade_off_curve_is_drawn(parts: int) -> None:
    """The picture is well-formed SVG with one point a threshold on every line, for a promise and for a refusal."""
    rng = np.random.default_rng(2)
    outcomes = outcomes_of_scores(
        {f"p{i}": [float(s)] for i, s in enumerate(rng.beta(9, 2, parts))}, rng.beta(2, 9, 200)
    )
    result = choose(outcomes, 0.02, 0.95)
    assert isinstance(result, OperatingPoint) == (parts == 400)
    root = ElementTree.fromstring(curve_svg(outcomes, result))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [len(GRID)] * 4
