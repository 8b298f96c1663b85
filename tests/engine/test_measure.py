"""Parity and latency: figures whose answer is known."""

from __future__ import annotations

import itertools

import networks
import numpy as np
import pytest
from networks import MakeBundle

from inspector.clock import PushedClock
from inspector.engine import EngineInfo
from inspector.engine.bundle import Bundle
from inspector.engine.measure import ProofImages, Reference, compare, latency, percentiles, take_turns, times_faster
from inspector.frame import FloatMap

SIZE = (48, 64)


def judge(found: FloatMap) -> str:
    return "FAIL" if (found >= 0.5).mean() > 0.5 else "PASS"


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    return make_bundle(networks.lsa_like(3, SIZE), SIZE)


class Shifted:
    """FP32's own maps, a little off where the test wants it."""

    def __init__(self, maps: FloatMap) -> None:
        self._maps, self._next = maps, 0
        self.info = EngineInfo("b", "trivial", "0", "fp32", "none", "0" * 64, "0" * 64, *SIZE)

    def infer(self, batch: FloatMap) -> FloatMap:
        self._next += 1
        return self._maps[self._next - 1][np.newaxis, np.newaxis].copy()

    def close(self) -> None:
        pass


class TestMeasuring:
    def test_parity_counts_by_hand(self, bundle: Bundle) -> None:
        """Differences, overlap and flips of maps whose answer is known."""
        truth = np.zeros((2, *SIZE), np.float32)
        truth[0, :4, :5] = 0.9  # 20 pixels
        found = truth.copy()
        found[0, :4, 4] = 0.1  # 4 of them lost
        found[0, 10, :2] = 0.8  # and 2 gained
        images = ProofImages(np.zeros((2, *SIZE), np.uint8), "made", ("a", "b"))
        reference = Reference(images, truth, ("bad", "good"))
        parity = compare(
            Shifted(found), bundle, reference, lambda m: "bad" if m[0, 4] >= 0.5 else "good", lambda *_: None
        )
        assert parity["mask_iou"] == pytest.approx(16 / 22)
        assert parity["mask_iou_worst"] == pytest.approx(16 / 22)
        assert parity["max_abs_diff"] == pytest.approx(0.8)
        assert parity["verdict_flips"] == 1
        assert parity["flipped"] == ["a"]

    def test_iou_with_the_true_masks_is_over_the_set(self, bundle: Bundle) -> None:
        """Where masks are known: intersections over unions of all images, of the plan and of FP32."""
        truth = np.zeros((2, *SIZE), np.float32)
        truth[0, :4, :4] = 0.9
        found = truth.copy()
        found[0, :4, 2:4] = 0.1  # half of them lost
        masks = np.zeros((2, *SIZE), bool)
        masks[0, :4, :5] = True  # FP32 misses 4 of 20
        images = ProofImages(np.zeros((2, *SIZE), np.uint8), "made", ("a", "b"), masks)
        reference = Reference(images, truth, ("good", "good"))
        parity = compare(Shifted(found), bundle, reference, lambda _: "good", lambda *_: None)
        assert (parity["iou"], parity["fp32_iou"]) == (pytest.approx(8 / 20), pytest.approx(16 / 20))

    def test_maps_that_are_not_finite_are_as_far_as_can_be(self, bundle: Bundle) -> None:
        """NaN never passes for a small difference."""
        truth = np.zeros((1, *SIZE), np.float32)
        images = ProofImages(np.zeros((1, *SIZE), np.uint8), "made")
        reference = Reference(images, truth, ("good",))
        parity = compare(Shifted(truth * np.nan), bundle, reference, judge, lambda *_: None)
        assert parity["max_abs_diff"] == 2.0

    def test_latency_is_taken_in_alternation_until_the_budget(self) -> None:
        """Engines take turns, so that load falls on all alike; the clock is the one that was handed in."""
        clock, order = PushedClock(), []

        class Paced(Shifted):
            def __init__(self, name: str, cost_ns: int) -> None:
                super().__init__(np.zeros((1, *SIZE), np.float32))
                self.name, self.cost_ns = name, cost_ns

            def infer(self, batch: FloatMap) -> FloatMap:
                order.append(self.name)
                clock.push(self.cost_ns)
                return batch

        turns = take_turns(
            {"a": Paced("a", 1_000_000), "b": Paced("b", 3_000_000)},
            np.zeros((1, 1, *SIZE), np.float32),
            clock,
            lambda *_: None,
            budget_s=1.0,
        )
        times = latency(turns)
        assert times["a"]["p50"] == pytest.approx(1.0)
        assert times["b"]["p999"] == pytest.approx(3.0)
        assert 50 <= times["a"]["runs"] == times["b"]["runs"] < 1000
        changes = sum(one != other for one, other in itertools.pairwise(order))
        assert changes > 8

    def test_a_burst_of_load_does_not_move_the_ratio(self) -> None:
        """Ratios are taken turn by turn: a turn in which the whole machine was slow says the same."""
        slow, fast = [[30] * 10] * 5, [[10] * 10] * 5
        assert times_faster({"slow": slow, "fast": fast}, "fast", than="slow") == 3.0
        crowded = {"slow": [*slow, [900] * 10], "fast": [*fast, [300] * 10]}
        assert times_faster(crowded, "fast", than="slow") == 3.0
        spoilt = {"slow": [*slow, [30] * 10], "fast": [*fast, [500] * 10]}
        assert times_faster(spoilt, "fast", than="slow") == 3.0

    def test_percentiles_are_of_the_runs(self) -> None:
        """Milliseconds from nanoseconds."""
        found = percentiles([n * 1_000_000 for n in range(1, 1001)])
        assert found["runs"] == 1000
        assert found["p50"] == pytest.approx(500.5)
        assert found["p99"] == pytest.approx(990.01)
