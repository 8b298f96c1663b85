"""Which plan runs: named ones are opened or refused, auto chooses and says why, and nothing unproven gets through."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from networks import MakeBundle

import inspector.engine.machine as machine_module
from inspector.engine import choose
from inspector.engine.build import Limits, build_plan
from inspector.engine.bundle import Bundle, load_bundle
from inspector.engine.choose import candidates, open_engine, self_test, warm_up
from inspector.engine.machine import Cpu, cpu, physical_cores
from inspector.errors import ConfigError, EngineError
from inspector.frame import FloatMap

SIZE = (48, 64)
LOOSE = Limits(verdict_flips=100, mask_iou=0.0)


def judge(found: FloatMap) -> str:
    return "FAIL" if (found >= 0.5).mean() > 0.5 else "PASS"


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an OpenVINO fp16 and an onnxruntime fp32 plan; tests copy it."""
    from inspector.engine.bundle import write_bundle

    path = tmp_path_factory.mktemp("pattern") / "lsa"
    bundle = write_bundle(
        path,
        name="lsa",
        onnx_bytes=networks.lsa_like(3, SIZE),
        mean=0.5,
        std=0.25,
        classes=["defect"],
        threshold=0.5,
        min_area_px=4,
        training={},
        parity={},
        cite=[],
        golden_images=networks.images(3, SIZE, seed=7),
    )
    for backend, precision in (("openvino", "fp16"), ("onnxruntime", "fp32")):
        build_plan(bundle, backend, precision, judge=judge, runs=50, limits=LOOSE)
    return path


Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def bundle(pattern: Path, tmp_path: Path) -> Bundle:
    import shutil

    shutil.copytree(pattern, tmp_path / "lsa")
    return load_bundle(tmp_path / "lsa")


def changed(bundle: Bundle, change: Change, which: str = "openvino-fp16") -> Bundle:
    """The bundle with one passport rewritten."""
    path = bundle.path / "manifest.json"
    raw = json.loads(path.read_text())
    change(next(plan for plan in raw["plans"] if plan["id"].startswith(which)))
    path.write_text(json.dumps(raw))
    return load_bundle(bundle.path)


def set_speed(bundle: Bundle, speeds: dict[str, float]) -> Bundle:
    for which, speed in speeds.items():
        bundle = changed(bundle, lambda plan, speed=speed: plan.update(speedup=speed), which)  # type: ignore[misc]
    return bundle


class TestAuto:
    def test_the_fastest_proven_plan_runs(self, bundle: Bundle) -> None:
        """Of the plans that fit, the largest speed-up over FP32 in its own run is taken, and the reason says so."""
        for fast, slow in (("openvino-fp16", "onnxruntime-fp32"), ("onnxruntime-fp32", "openvino-fp16")):
            opened = open_engine(set_speed(bundle, {fast: 3.0, slow: 1.5}))
            assert fast in f"{opened.engine.info.backend}-{opened.engine.info.precision}"
            assert "fastest of 2" in opened.reason
            assert "3.0x FP32" in opened.reason
            opened.engine.close()

    def test_without_plans_fp32_is_compiled_from_the_onnx(self, make_bundle: MakeBundle) -> None:
        """A bundle without plans runs in OpenVINO FP32, and says that it has none."""
        opened = open_engine(make_bundle(networks.tiny(), (64, 48)))
        assert (opened.engine.info.backend, opened.engine.info.precision) == ("openvino", "fp32")
        assert "no plan" in opened.reason
        opened.engine.close()

    def test_plans_slower_than_fp32_are_left(self, bundle: Bundle) -> None:
        """A plan that lost against FP32 does not run by itself."""
        opened = open_engine(set_speed(bundle, {"openvino-fp16": 0.9, "onnxruntime-fp32": 0.8}))
        assert opened.engine.info.precision == "fp32"
        assert "0.90x FP32, slower" in opened.reason
        opened.engine.close()

    def test_a_named_precision_runs_however_slow(self, bundle: Bundle) -> None:
        """Where FP32 from the ONNX would be another thing than was named, the plan runs although it is slower."""
        opened = open_engine(set_speed(bundle, {"openvino-fp16": 0.9}), precision="fp16")
        assert opened.engine.info.precision == "fp16"
        opened.engine.close()

    def test_a_forced_plan_runs_only_by_name(self, bundle: Bundle) -> None:
        """What was installed beyond the limits is not chosen by auto, and says so where it is named."""
        bundle = set_speed(bundle, {"openvino-fp16": 5.0, "onnxruntime-fp32": 0.5})
        bundle = changed(bundle, lambda plan: plan.update(forced=True))
        opened = open_engine(bundle)
        assert opened.engine.info.precision == "fp32"
        assert "beyond its limits" in opened.reason
        opened.engine.close()
        with pytest.raises(EngineError, match="name it: --precision fp16"):
            open_engine(bundle, precision="fp16")
        named = open_engine(bundle, backend="openvino", precision="fp16")
        assert "beyond its limits" in named.reason
        named.engine.close()

    def test_a_cache_that_cannot_be_written_is_said(self, bundle: Bundle, tmp_path: Path) -> None:
        """No directory for compiled models: the engine runs, and the reason tells."""
        (tmp_path / "file").write_text("")
        opened = open_engine(bundle, cache_dir=tmp_path / "file" / "cache")
        assert "not kept" in opened.reason
        opened.engine.close()


class TestStale:
    """A plan from elsewhere is refused where it is named, and skipped aloud by auto."""

    def check(self, bundle: Bundle, word: str) -> None:
        seen = next(c for c in candidates(bundle) if c.plan.backend == "openvino")
        assert not seen.fits
        assert word in seen.why_not
        with pytest.raises(EngineError) as caught:
            open_engine(bundle, backend="openvino", precision="fp16")
        assert word in str(caught.value)
        command = f"inspector build-engine {bundle.path} --backend openvino --precision fp16"
        assert command in str(caught.value)
        opened = open_engine(set_speed(bundle, {"openvino-fp16": 9.0, "onnxruntime-fp32": 0.5}))
        assert opened.engine.info.precision == "fp32"
        assert word in opened.reason
        opened.engine.close()

    def test_another_release(self, bundle: Bundle) -> None:
        """Proven with another OpenVINO."""
        self.check(changed(bundle, lambda plan: plan.update(backend_version="2025.1.0")), "2025.1.0, here is")

    def test_another_network(self, bundle: Bundle) -> None:
        """Built from another model.onnx."""
        self.check(changed(bundle, lambda plan: plan.update(onnx_sha256="0" * 64)), "another model.onnx")

    def test_other_instruction_sets(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        """Proven on a CPU with other instruction sets."""
        bundle = changed(bundle, lambda plan: plan["machine"].update(device="Old CPU", isa=["avx2", "amx_int8"]))
        monkeypatch.setattr(choose, "cpu", lambda: Cpu("New CPU", ("avx2", "avx512_vnni")))
        self.check(bundle, "Old CPU, this is New CPU without amx_int8 with avx512_vnni")

    def test_a_missing_file(self, bundle: Bundle) -> None:
        """A file of the plan is gone."""
        bundle.file(bundle.plans[1].files[0].file).unlink()
        self.check(bundle, "is missing")

    def test_a_changed_file(self, bundle: Bundle) -> None:
        """A plan whose bytes are not those of its passport is refused even by auto: it was chosen and is damaged."""
        bundle = set_speed(bundle, {"openvino-fp16": 9.0})
        path = bundle.file(next(p for p in bundle.plans if p.backend == "openvino").files[1].file)
        path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
        for wanted in ({}, {"backend": "openvino", "precision": "fp16"}):
            with pytest.raises(EngineError, match="not the file that the manifest describes") as caught:
                open_engine(bundle, **wanted)
            assert f"inspector build-engine {bundle.path} --backend openvino" in str(caught.value)
        listed = next(c for c in candidates(bundle) if c.plan.backend == "openvino")
        assert not listed.fits and "is not the file that was proven; rebuild it" in listed.why_not


class TestNamed:
    def test_what_is_not_built_is_refused_with_the_command(self, bundle: Bundle) -> None:
        """A named precision without a plan says how to build it."""
        with pytest.raises(EngineError) as caught:
            open_engine(bundle, precision="int8")
        assert caught.value.exit_code == 3
        assert f"inspector build-engine {bundle.path} --backend openvino --precision int8" in str(caught.value)

    def test_what_is_not_installed_is_refused_with_the_command(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A named back end whose packages are missing says what to install."""
        monkeypatch.setitem(choose._MODULES, "tensorrt", ("surely_not_installed_tensorrt",))
        with pytest.raises(EngineError, match=r"pip install 'inspector\[tensorrt\]'"):
            open_engine(bundle, backend="tensorrt")

    @pytest.mark.parametrize(
        ("backend", "precision"),
        [("tensorflow", "auto"), ("auto", "fp8"), ("onnxruntime", "int8"), ("tensorrt", "bf16"), ("", "")],
    )
    def test_words_that_mean_nothing(self, bundle: Bundle, backend: str, precision: str) -> None:
        """An unknown back end, or a precision that it does not offer, is a configuration error that lists what is."""
        with pytest.raises(ConfigError, match="openvino: fp32, fp16, bf16, int8") as caught:
            open_engine(bundle, backend=backend, precision=precision)
        assert caught.value.exit_code == 2

    def test_fp32_needs_no_plan(self, bundle: Bundle) -> None:
        """Both CPU back ends run FP32 from the ONNX, and agree."""
        maps = []
        for backend in ("openvino", "onnxruntime"):
            opened = open_engine(bundle, backend=backend, precision="fp32")
            assert opened.reason.startswith(f"named: {backend} fp32")
            maps.append(opened.engine.infer(np.ones((1, 1, *SIZE), np.float32)))
            opened.engine.close()
        assert np.abs(maps[0] - maps[1]).max() < 1e-5

    def test_bf16_on_a_cpu_without_it(self, bundle: Bundle) -> None:
        """A precision that the CPU lacks is refused by the engine, not emulated."""
        from inspector.engine import EngineInfo
        from inspector.engine.cpu import CpuOptions
        from inspector.engine.openvino import OpenVinoEngine

        info = EngineInfo("lsa", "openvino", "x", "bf16", "cpu", "0" * 64, "0" * 64, *SIZE)
        if cpu().bf16:
            engine = OpenVinoEngine(bundle.onnx_path, info, CpuOptions())
            engine.close()
        else:
            with pytest.raises(EngineError, match="no bf16"):
                OpenVinoEngine(bundle.onnx_path, info, CpuOptions())


class TestSelfTest:
    def test_it_measures_what_it_says(self, bundle: Bundle) -> None:
        """FP32 differs from the references by their storage error alone."""
        engine = open_engine(bundle, backend="openvino", precision="fp32").engine
        result = self_test(engine, bundle)
        assert result.images == 3
        assert 0.0 < result.max_abs_diff < 5e-4
        assert result.mask_iou == 1.0
        engine.close()

    def test_another_network_fails(self, bundle: Bundle, make_bundle: MakeBundle) -> None:
        """An engine of other weights does not pass as this bundle's."""
        other = open_engine(make_bundle(networks.lsa_like(4, SIZE), SIZE), precision="fp32").engine
        with pytest.raises(EngineError, match="fails its self-test"):
            self_test(other, bundle)
        other.close()

    def test_values_that_are_not_finite_fail(self, bundle: Bundle) -> None:
        """NaN in a map is refused before any comparison."""
        engine = open_engine(bundle, precision="fp32").engine
        broken = Spoiled(engine, np.nan)
        with pytest.raises(EngineError, match="not"):
            self_test(broken, bundle)
        engine.close()

    @pytest.mark.parametrize(("offset", "passes"), [(0.001, True), (0.01, False)])
    def test_a_plan_is_held_to_its_passport(self, bundle: Bundle, offset: float, passes: bool) -> None:
        """A plan may differ by what its passport says plus the slack, and no more."""
        engine = open_engine(bundle, backend="openvino", precision="fp16").engine
        shifted = Spoiled(engine, offset)
        if passes:
            self_test(shifted, bundle)
        else:
            with pytest.raises(EngineError, match="inspector build-engine"):
                self_test(shifted, bundle)
        engine.close()

    def test_reduced_precision_without_a_passport_fails(self, bundle: Bundle) -> None:
        """An engine that says fp16 but whose plan is in no passport is refused."""
        engine = open_engine(bundle, backend="openvino", precision="fp16").engine
        without = changed(bundle, lambda plan: plan.update(plan_hash="0" * 64))
        with pytest.raises(EngineError, match="without a passport"):
            self_test(engine, without)
        engine.close()

    def test_warming_up_runs_the_engine(self, bundle: Bundle) -> None:
        """As many inferences as asked."""
        engine = Spoiled(open_engine(bundle, precision="fp32").engine, 0.0)
        warm_up(engine, 7)
        assert engine.runs == 7
        engine.close()


class Spoiled:
    """A working engine whose maps are shifted."""

    def __init__(self, engine: Any, offset: float) -> None:
        self._engine, self._offset, self.runs = engine, offset, 0

    @property
    def info(self) -> Any:
        return self._engine.info

    def infer(self, batch: FloatMap) -> FloatMap:
        self.runs += 1
        maps: FloatMap = self._engine.infer(batch)
        maps[:, :, 0, 0] += np.float32(self._offset)
        return maps

    def close(self) -> None:
        self._engine.close()


class TestMachine:
    CPUINFO = (
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni sse\n\n"
        "processor\t: 1\nflags\t: amx_int8\n"
    )

    def test_the_cpu_is_read(self, tmp_path: Path) -> None:
        """Name and relevant flags of the first CPU, in a fixed order."""
        (tmp_path / "cpuinfo").write_text(self.CPUINFO)
        found = cpu(tmp_path / "cpuinfo")
        assert found == Cpu("Some CPU", ("avx2", "avx512_vnni"))
        assert found.int8
        assert not found.bf16
        assert cpu(tmp_path / "none").isa == ()

    def test_threads_of_one_core_count_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Physical cores within the affinity, and no more than the quota lets run."""
        for number in range(8):
            place = tmp_path / f"cpu{number}" / "topology"
            place.mkdir(parents=True)
            (place / "physical_package_id").write_text("0\n")
            (place / "core_id").write_text(f"{number // 2}\n")
        monkeypatch.setattr(machine_module.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5})
        quota = tmp_path / "cpu.max"
        assert physical_cores(tmp_path, quota) == 3
        for text, wanted in (("max 100000", 3), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1)):
            quota.write_text(text)
            assert physical_cores(tmp_path, quota) == wanted
        assert physical_cores(tmp_path / "nothing", quota) == 1
