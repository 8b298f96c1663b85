"""The rows of Table 8 (modules) and Table 10 (losses), and more, as configurations of the one model."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.config import FitConfig
from train.fit import fit
from train.model import LSANet, ModelConfig, parameter_count

MODULES: dict[str, dict[str, Any]] = {
    "base": {"lam": False, "sdm": False, "fem": False},
    "lam": {"lam": True, "sdm": False, "fem": False},
    "lam+sdm": {"lam": True, "sdm": True, "fem": False},
    "lsa-net": {"lam": True, "sdm": True, "fem": True},
    "full-strips": {"lam": True, "sdm": True, "fem": True, "lspm": "full"},
}
"""Table 8 from top to bottom; the last row is Table 9's other LSPM."""
LOSSES: dict[str, dict[str, Any]] = {
    "seg": {"loc": 0.0, "diff": 0.0},
    "seg+loc": {"diff": 0.0},
    "seg+loc+diff": {},
    "seg+loc+diff-scale-free": {"shape_free": True},
}
"""Table 10, and the variant of diff that growing activations cannot lower."""

BESIDES = ("dice", "escapes", "overkill")


def row(name: str, base: FitConfig) -> FitConfig:
    """The configuration of one row: a module row sets which modules there are, a loss row which losses weigh."""
    if name in MODULES:
        return replace(base, model=replace(base.model, **MODULES[name]))
    if name in LOSSES:
        return replace(base, loss=replace(base.loss, **LOSSES[name]))
    raise ValueError(f"no row {name!r}: one of {', '.join([*MODULES, *LOSSES])}")


def ablate(base: FitConfig, data: Path, out: Path, names: list[str], seeds: list[int]) -> list[dict[str, Any]]:
    """Train every row with every seed on the same split, one after the other; finished ones are not repeated.

    Leaves ``ablation.json`` and ``ablation.md`` in ``out``: best validation IoU and the last one, mean and spread;
    of the last epoch also the means of image Dice, escapes and overkill (any pixel at 0.5).
    """
    results = []
    for name in names:
        best: list[float] = []
        last: list[dict[str, float]] = []
        for seed in seeds:
            place = out / f"{name}-seed{seed}"
            progress = fit(replace(row(name, base), seed=seed), data, place, resume=True)
            best.append(progress.best_iou)
            last.append(progress.history[-1])
        iou = [ended["iou"] for ended in last]
        results.append(
            {
                "row": name,
                "parameters": parameters_of(row(name, base).model),
                "seeds": seeds,
                "best_iou": best,
                "last_iou": iou,
                "best_mean": statistics.fmean(best),
                "last_mean": statistics.fmean(iou),
                "last_spread": statistics.stdev(iou) if len(iou) > 1 else None,
                **{key: statistics.fmean(ended[key] for ended in last) for key in BESIDES},
            }
        )
        (out / "ablation.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (out / "ablation.md").write_text(markdown(results), encoding="utf-8")
    return results


def parameters_of(model: ModelConfig) -> int:
    """Parameters of a row's network."""
    return parameter_count(LSANet(model))


def markdown(results: list[dict[str, Any]]) -> str:
    """The table for people."""
    lines = ["| row | parameters | IoU, last epoch, each seed | mean | standard deviation | best epoch, mean |"]
    lines[0] += "".join(f" {name} |" for name in BESIDES)
    lines.append("|---" * (6 + len(BESIDES)) + "|")
    for r in results:
        spread = "-" if r["last_spread"] is None else f"{r['last_spread']:.4f}"
        each = ", ".join(f"{v:.4f}" for v in r["last_iou"])
        lines.append(
            f"| {r['row']} | {r['parameters']:,} | {each} | {r['last_mean']:.4f} | {spread} | {r['best_mean']:.4f} |"
            + "".join(f" {r[name]:.4f} |" for name in BESIDES)
        )
    return "\n".join(lines) + "\n"
