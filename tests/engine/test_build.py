"""Building: what is proven is installed, what is not is refused, and the passport tells all of it."""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from networks import MakeBundle

from inspector.engine import build
from inspector.engine.build import Limits, ProofImages, build_plan
from inspector.engine.bundle import Bundle, load_bundle
from inspector.engine.choose import candidates, open_engine, self_test
from inspector.engine.install import install, locked
from inspector.engine.int8 import Recipe
from inspector.engine.manifest import Passport
from inspector.engine.measure import Reference
from inspector.errors import ConfigError, EngineError
from inspector.frame import FloatMap

SIZE = (48, 64)
LOOSE = Limits(verdict_flips=1000, mask_iou=0.0)
QUICK = (Recipe("mixed"), Recipe("min-max ranges, full resolution kept", ranges="minmax", keep="outer"))


def judge(found: FloatMap) -> str:
    return "FAIL" if (found >= 0.5).mean() > 0.5 else "PASS"


def strict(found: FloatMap) -> str:
    """A verdict on a knife's edge: any change of the map flips it."""
    return str(found.tobytes())


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    return make_bundle(networks.lsa_like(3, SIZE), SIZE)


@pytest.fixture
def noise() -> ProofImages:
    return ProofImages(networks.images(6, SIZE, seed=5), "noise", tuple(f"{i}.png" for i in range(6)))


class TestInstalling:
    def test_a_proven_plan_gets_its_passport(self, bundle: Bundle, noise: ProofImages) -> None:
        """The manifest holds what was built, where, from what, and how it compared; the files match their hashes."""
        report = build_plan(bundle, "openvino", "fp16", judge=judge, runs=50, images=noise)
        again = load_bundle(bundle.path)
        plan = again.plans[0]
        assert report["installed"]
        assert report["plan"]["id"] == plan.id
        assert plan.onnx_sha256 == bundle.onnx_sha256
        assert plan.parity.images == 6
        assert plan.parity.source == "noise"
        assert plan.parity.input_mean == pytest.approx(noise.images.mean())
        assert 0.0 < plan.parity.max_abs_diff < 5e-3
        assert plan.latency_ms.runs >= 50
        assert report["flips_upper95"] == pytest.approx(1 - 0.05 ** (1 / 6))
        assert plan.limits.mask_iou == 0.98
        assert not plan.forced
        for entry in plan.files:
            again.read(entry.file, entry.sha256)
        assert [c.fits for c in candidates(again)] == [True]
        assert json.loads(json.dumps(report))

    def test_the_speedup_is_taken_turn_by_turn(
        self, bundle: Bundle, noise: ProofImages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """FP32's time over the plan's, side by side; one spoilt turn is in the percentiles and not in the ratio."""
        ms = 1_000_000
        turns = {"plan": [[10 * ms] * 10] * 5, "fp32": [[30 * ms] * 10] * 4 + [[900 * ms] * 10]}
        monkeypatch.setattr(build, "take_turns", lambda *_: turns)
        report = build_plan(bundle, "onnxruntime", "fp32", judge=judge, images=noise)
        assert report["speedup"] == report["plan"]["speedup"] == 3.0
        assert report["fp32_latency_ms"]["p99"] == 900.0

    def test_a_negative_number_of_threads_is_bad_usage(self, bundle: Bundle, noise: ProofImages) -> None:
        """One line before anything is compiled."""
        with pytest.raises(ConfigError, match="threads; expected 0"):
            build_plan(bundle, "openvino", "fp32", judge=judge, images=noise, threads=-2)

    def test_a_plan_without_files_of_its_own_names_the_onnx(self, bundle: Bundle, noise: ProofImages) -> None:
        """FP32 is compiled from model.onnx at start; its passport adds the measurement."""
        build_plan(bundle, "openvino", "fp32", judge=judge, runs=50, images=noise)
        plan = load_bundle(bundle.path).plans[0]
        assert [(entry.file, entry.sha256) for entry in plan.files] == [("model.onnx", bundle.onnx_sha256)]
        assert not (bundle.path / "plans").exists()

    def test_building_again_replaces(self, bundle: Bundle, noise: ProofImages) -> None:
        """One plan for a back end, precision and machine; the old one's files go."""
        for recipe in QUICK:
            build_plan(bundle, "openvino", "int8", judge=judge, runs=50, images=noise, limits=LOOSE, recipes=[recipe])
        plans = load_bundle(bundle.path).plans
        assert [plan.settings["recipe"] for plan in plans] == [QUICK[1].name]
        assert [each.name for each in (bundle.path / "plans").iterdir()] == [plans[0].id]
        assert sorted(each.name for each in (bundle.path / "plans" / plans[0].id).iterdir()) == [
            "model.bin",
            "model.xml",
        ]

    def test_nothing_stays_of_the_build(self, bundle: Bundle, noise: ProofImages) -> None:
        """No scratch directory is left in the bundle."""
        build_plan(bundle, "openvino", "fp16", judge=judge, runs=50, images=noise)
        names = {each.name for each in bundle.path.iterdir()}
        assert names == {"manifest.json", "model.onnx", "golden.npz", "plans", ".lock"}

    def test_another_machines_plan_stays(self, bundle: Bundle, noise: ProofImages) -> None:
        """A bundle that serves several hosts keeps the plan of each."""
        report = build_plan(bundle, "openvino", "fp32", judge=judge, runs=50, images=noise)
        other = json.loads(json.dumps(report["plan"]))
        other["id"], other["machine"]["device"] = "openvino-fp32-elsewhere", "Another CPU"
        install(load_bundle(bundle.path), other, ())
        build_plan(bundle, "openvino", "fp32", judge=judge, runs=50, images=noise)
        assert len(load_bundle(bundle.path).plans) == 2

    def test_a_bundle_exported_anew_gets_no_old_plan(
        self, bundle: Bundle, noise: ProofImages, make_bundle: MakeBundle
    ) -> None:
        """A plan that was built while the bundle became another network is not entered."""
        report = build_plan(bundle, "openvino", "fp32", judge=judge, runs=50, images=noise)
        make_bundle(networks.lsa_like(9, SIZE), SIZE)
        with pytest.raises(EngineError, match="exported anew"):
            install(bundle, report["plan"], ())

    def test_an_install_waits_for_the_other(self, bundle: Bundle, noise: ProofImages) -> None:
        """While one holds the bundle's lock, another does not read the manifest that it will replace."""
        report = build_plan(bundle, "openvino", "fp32", judge=judge, runs=50, images=noise)
        other = json.loads(json.dumps(report["plan"]))
        other["id"], other["machine"]["device"] = "openvino-fp32-elsewhere", "Another CPU"
        thread = threading.Thread(target=install, args=(load_bundle(bundle.path), other, ()))
        with locked(bundle.path):
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
            assert len(load_bundle(bundle.path).plans) == 1
        thread.join()
        assert len(load_bundle(bundle.path).plans) == 2

    def test_two_builds_at_a_time_lose_nothing(self, bundle: Bundle, noise: ProofImages) -> None:
        """Processes that install side by side each find their passport in the manifest."""
        report = build_plan(bundle, "openvino", "fp32", judge=judge, runs=50, images=noise)
        context = multiprocessing.get_context("spawn")
        workers = [
            context.Process(target=_install_many, args=(str(bundle.path), report["plan"], number, list(sys.path)))
            for number in range(3)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        ids = {plan.id for plan in load_bundle(bundle.path).plans}
        assert {f"made-{n}-{k}" for n in range(3) for k in range(5)} <= ids


def _install_many(path: str, passport: dict[str, object], number: int, places: list[str]) -> None:
    sys.path[:] = places
    for count in range(5):
        one = json.loads(json.dumps(passport))
        one["id"], one["machine"]["device"] = f"made-{number}-{count}", f"machine {number} {count}"
        install(load_bundle(Path(path)), one, ())


class TestRefusing:
    def test_a_plan_beyond_the_limits_is_not_installed(self, bundle: Bundle, noise: ProofImages) -> None:
        """A verdict that flips is named, the plan refused, the manifest untouched."""
        before = (bundle.path / "manifest.json").read_bytes()
        report = build_plan(bundle, "openvino", "fp16", judge=strict, runs=50, images=noise)
        assert not report["installed"]
        assert report["verdict_flips"] == 6
        assert "6 verdicts flip, 0 may" in report["beyond"]
        assert report["plan"]["parity"]["flipped"] == list(noise.names)
        assert (bundle.path / "manifest.json").read_bytes() == before
        assert not (bundle.path / "plans").exists()

    @pytest.mark.parametrize(
        ("limits", "word"),
        [
            (Limits(verdict_flips=100, mask_iou=1.0), "mask IoU"),
            (Limits(verdict_flips=100, mask_iou=0.0, max_abs_diff=1e-9), "a probability differs"),
        ],
    )
    def test_each_limit_counts(self, bundle: Bundle, noise: ProofImages, limits: Limits, word: str) -> None:
        """Mask overlap and map difference refuse a plan as verdicts do."""
        report = build_plan(bundle, "openvino", "fp16", judge=judge, runs=50, images=noise, limits=limits)
        assert not report["installed"]
        assert any(word in reason for reason in report["beyond"])

    @pytest.mark.parametrize(("loss", "refused"), [(0.05, True), (0.2, False)])
    def test_lost_iou_counts(
        self, bundle: Bundle, noise: ProofImages, loss: float, refused: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the proof has masks, a plan that finds fewer of them than FP32 is refused, whatever else agrees."""
        real = build.compare

        def poorer(*arguments: Any) -> dict[str, Any]:
            return real(*arguments) | {"iou": 0.7, "fp32_iou": 0.8}

        monkeypatch.setattr(build, "compare", poorer)
        limits = Limits(verdict_flips=100, mask_iou=0.0, iou_loss=loss)
        report = build_plan(bundle, "openvino", "fp16", judge=judge, runs=50, images=noise, limits=limits)
        assert report["installed"] is not refused
        assert any("falls by 0.1000" in reason for reason in report["beyond"]) is refused

    def test_by_force_it_is_installed_and_marked(self, bundle: Bundle, noise: ProofImages) -> None:
        """`--force` installs, the passport says that it was forced and why, and auto leaves it alone."""
        report = build_plan(bundle, "openvino", "fp16", judge=strict, runs=50, images=noise, force=True)
        assert report["installed"]
        plan = load_bundle(bundle.path).plans[0]
        assert plan.forced
        assert "although 6 verdicts flip" in plan.notes[0]
        chosen = open_engine(load_bundle(bundle.path))
        assert chosen.engine.info.precision == "fp32"
        chosen.engine.close()

    @pytest.mark.parametrize(
        "images", [np.zeros((1, 9, 9), np.uint8), np.zeros((0, *SIZE), np.uint8), np.zeros((1, *SIZE), np.float32)]
    )
    def test_wrong_images(self, bundle: Bundle, images: np.ndarray) -> None:
        """Images that the network cannot take are a configuration error."""
        with pytest.raises(ConfigError, match="do not fit"):
            build_plan(bundle, "openvino", "fp32", judge=judge, runs=50, images=ProofImages(images, "x"))

    @pytest.mark.parametrize(("backend", "precision"), [("auto", "fp32"), ("openvino", "auto"), ("openvino", "fp8")])
    def test_wrong_words(self, bundle: Bundle, backend: str, precision: str) -> None:
        """A plan is built for one back end and one precision that it offers."""
        with pytest.raises(ConfigError):
            build_plan(bundle, backend, precision, judge=judge, runs=50)

    def test_a_broken_compilation_leaves_the_bundle(
        self, bundle: Bundle, noise: ProofImages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error on the way leaves manifest and plans as they were."""
        build_plan(bundle, "openvino", "fp16", judge=judge, runs=50, images=noise)
        before = (bundle.path / "manifest.json").read_bytes()

        def die(*_: object) -> None:
            raise EngineError("no space")

        monkeypatch.setattr(build, "_race", die)
        with pytest.raises(EngineError, match="no space"):
            build_plan(load_bundle(bundle.path), "openvino", "fp16", judge=judge, runs=50, images=noise)
        assert (bundle.path / "manifest.json").read_bytes() == before
        assert [each.name for each in bundle.path.iterdir() if each.name.startswith(".building")] == []


class TestInt8:
    def test_the_first_recipe_within_the_limits_is_taken(self, bundle: Bundle) -> None:
        """Recipes are tried in order; what each gave is in the report."""
        images = ProofImages(networks.images(8, SIZE), "noise")
        report = build_plan(
            bundle, "openvino", "int8", judge=judge, runs=50, images=images, limits=LOOSE, recipes=QUICK
        )
        assert [attempt["recipe"] for attempt in report["attempts"]] == ["mixed"]
        never = Limits(verdict_flips=0, mask_iou=1.0)
        report = build_plan(
            bundle, "openvino", "int8", judge=strict, runs=50, images=images, limits=never, recipes=QUICK
        )
        assert [attempt["recipe"] for attempt in report["attempts"]] == [recipe.name for recipe in QUICK]
        assert not report["installed"]

    def test_proof_and_calibration_are_apart(self, bundle: Bundle) -> None:
        """From 40 images on, a plan is proven on images that it was not calibrated with."""
        images = ProofImages(networks.images(40, SIZE), "noise", tuple(f"{i}.png" for i in range(40)))
        report = build_plan(
            bundle,
            "openvino",
            "int8",
            judge=strict,
            runs=50,
            images=images,
            limits=LOOSE,
            recipes=QUICK[:1],
            force=True,
        )
        assert report["images"] == 20
        assert report["plan"]["settings"]["calibration_images"] == 20
        assert not set(report["plan"]["parity"]["flipped"]) & {f"{i}.png" for i in build.deal(40, 20)}
        assert "not those of the calibration" in report["plan"]["parity"]["source"]

    def test_a_calibration_of_its_own_leaves_the_proof_whole(self, bundle: Bundle) -> None:
        """Given apart, all images of the proof prove, none of them calibrates, and the passport names both."""
        proof = ProofImages(networks.images(45, SIZE, seed=1), "the proof's")
        calibration = ProofImages(networks.images(9, SIZE, seed=2), "the calibration's")
        report = build_plan(
            bundle,
            "openvino",
            "int8",
            judge=judge,
            runs=50,
            images=proof,
            calibration=calibration,
            limits=LOOSE,
            recipes=QUICK[:1],
        )
        assert report["images"] == 45
        settings = report["plan"]["settings"]
        assert (settings["calibration_images"], settings["calibration_source"]) == (9, "the calibration's")
        assert report["plan"]["parity"]["source"] == "the proof's"

    def test_the_calibration_is_dealt(self) -> None:
        """Of many images those taken are spread over the list, the same ones each time."""
        dealt = build.deal(400)
        assert len(set(dealt)) == build.CALIBRATION_MOST
        assert dealt == build.deal(400)
        assert 60 < sum(number < 100 for number in dealt) < 90

    def test_the_halves_stay_together(self, bundle: Bundle) -> None:
        """Image, name, map and verdict of a part go to the same side."""
        pixels = np.zeros((41, *SIZE), np.uint8)
        pixels[:] = np.arange(41, dtype=np.uint8)[:, None, None]
        maps = pixels.astype(np.float32) / 100
        words = tuple(str(n) for n in range(41))
        calibration, proof = build._split(bundle, Reference(ProofImages(pixels, "made", words), maps, words))
        calibrating = [round(float(each[0, 0]) * 100) for each in calibration.maps]
        assert calibration.tensors.shape == (20, 1, *SIZE)
        assert calibration.tensors[:, 0, 0, 0] == pytest.approx(bundle.normalise(pixels[calibrating])[:, 0, 0, 0])
        proving = [int(each[0, 0]) for each in proof.images.images]
        assert sorted(calibrating + proving) == list(range(41))
        assert [round(float(each[0, 0]) * 100) for each in proof.maps] == proving
        assert list(proof.verdicts) == list(proof.images.names) == [str(n) for n in proving]
        assert calibrating != sorted(calibrating)

    def test_of_many_images_all_but_the_dealt_prove(self, bundle: Bundle) -> None:
        """A large proof is not halved: 300 calibrate, the rest bounds the rate of flips."""
        pixels = np.zeros((700, *SIZE), np.uint8)
        reference = Reference(ProofImages(pixels, "made"), pixels.astype(np.float32), ("PASS",) * 700)
        calibration, proof = build._split(bundle, reference)
        assert (len(calibration.tensors), len(proof.maps)) == (build.CALIBRATION_MOST, 400)

    def test_it_starts_again_as_it_was_proven(self, bundle: Bundle) -> None:
        """The installed plan passes its self-test."""
        images = ProofImages(networks.images(8, SIZE), "noise")
        build_plan(bundle, "openvino", "int8", judge=judge, runs=50, images=images, limits=LOOSE, recipes=QUICK[1:])
        fresh = load_bundle(bundle.path)
        engine = open_engine(fresh, backend="openvino", precision="int8").engine
        assert self_test(engine, fresh).mask_iou <= 1.0
        engine.close()


def test_a_report_is_a_passport(bundle: Bundle, noise: ProofImages) -> None:
    """What is reported as the plan is what the schema of the manifest accepts."""
    report = build_plan(bundle, "onnxruntime", "fp32", judge=judge, runs=50, images=noise)
    assert Passport.model_validate(report["plan"]).backend == "onnxruntime"
