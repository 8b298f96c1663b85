"""The HTML report of an evaluation: one self-contained file with figures, curves and the worst errors."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from inspector.frame import FloatMap
from train.data import Item
from train.evaluate import AVERAGING, Evaluation
from train.operating import largest_area_px

GALLERY = 24
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;color:#1c2733}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #c8d0d8;padding:.25em .7em;text-align:right}
th:first-child,td:first-child{text-align:left}.g{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));
gap:12px}figure{margin:0}figcaption{font-size:12px;word-break:break-all}img{max-width:100%}.note{color:#56646f}"""


def write_report(path: Path, result: Evaluation, items: Sequence[Item], maps: FloatMap) -> None:
    """Write ``path``; pictures are inside."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(result.name)}</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(result.name)}</h1><p>{html.escape(result.source)}</p>",
        "<h2>Figures</h2>",
        _figures_table(result),
        f"<p class=note>{html.escape(AVERAGING)}</p>",
        "<h2>Classes</h2>",
        _class_table(result),
        "<h2>Curves</h2>",
        f'<img alt="ROC, precision and recall, scores" src="{_curves(result)}">',
        "<h2>Worst errors</h2><p class=note>Green: found rightly. Red: found, but sound. Blue: missed.</p>",
        '<div class="g">',
        *[_card(items[n], maps[n], result, loss) for n, loss in worst(result, items, maps)],
        "</div></html>",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def worst(result: Evaluation, items: Sequence[Item], maps: FloatMap, count: int = GALLERY) -> list[tuple[int, str]]:
    """Number and fault of the images to look at first: escapes, overkill, then the lowest IoU."""
    ranked: list[tuple[float, int, str]] = []
    for n, (item, probability) in enumerate(zip(items, maps, strict=True)):
        area_px = largest_area_px(probability, result.threshold)
        flagged = area_px >= result.min_area_px
        if item.defective and not flagged:
            ranked.append((-3.0 - float(item.mask.mean()), n, "escape"))
        elif flagged and not item.defective:
            ranked.append((-2.0 - area_px / probability.size, n, "overkill"))
        elif item.defective:
            found, true = probability >= result.threshold, item.mask > 0
            ranked.append((float((found & true).sum() / max(int((found | true).sum()), 1)), n, "poor outline"))
    return [(n, fault) for _, n, fault in sorted(ranked)[:count]]


def overlay(item: Item, probability: FloatMap, threshold: float) -> np.ndarray:
    """H x W x 3 BGR: the image with right, false and missed pixels coloured."""
    picture = cv2.cvtColor(item.image, cv2.COLOR_GRAY2BGR)
    found, true = probability >= threshold, item.mask > 0
    for where, colour in (
        (found & true, (60, 180, 60)),
        (found & ~true, (60, 60, 230)),
        (true & ~found, (230, 120, 40)),
    ):
        picture[where] = (0.55 * picture[where] + 0.45 * np.array(colour)).astype(np.uint8)
    return np.asarray(picture)


def _card(item: Item, probability: FloatMap, result: Evaluation, fault: str) -> str:
    pair = np.hstack([cv2.cvtColor(item.image, cv2.COLOR_GRAY2BGR), overlay(item, probability, result.threshold)])
    done, data = cv2.imencode(".jpg", pair, [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done
    source = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
    caption = f"{fault}: {item.name} ({item.cls}), highest score {float(probability.max()):.3f}"
    return f'<figure><img alt="" src="{source}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def _figures_table(result: Evaluation) -> str:
    columns = (("0.5, any area (as the paper)", result.at_half), (_point_name(result), result.at_point))
    keys = list(result.at_half.to_json())
    rows = "".join(
        f"<tr><td>{key}</td>" + "".join(f"<td>{_cell(figures.to_json()[key])}</td>" for _, figures in columns) + "</tr>"
        for key in keys
    )
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _ in columns)
    return f"<table><tr><th>figure</th>{head}</tr>{rows}</table>"


def _point_name(result: Evaluation) -> str:
    return f"operating point: {result.threshold:g}, from {result.min_area_px} px"


def _class_table(result: Evaluation) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{of}</td><td>{found}</td><td>{found / of:.3f}</td>"
        f"<td>{result.class_iou[name]:.4f}</td></tr>"
        for name, (found, of) in result.recall.items()
    )
    return (
        f"<table><tr><th>class</th><th>images</th><th>found</th><th>recall</th><th>IoU at 0.5</th></tr>{rows}</table>"
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _curves(result: Evaluation) -> str:
    """ROC, precision-recall and score histograms as one PNG, base64."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (roc, pr, scores) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    c = result.curve
    if c.good and c.defective:
        roc.plot([0, *c.false_positive_rate], [0, *c.recall])
        roc.set_title(f"ROC, area {c.roc_area:.4f}")
    if c.defective:
        pr.plot(c.recall, c.precision)
        pr.set_title(f"precision over recall, average {c.average_precision:.4f}")
    roc.set(xlabel="good images rejected", ylabel="defective images found")
    pr.set(xlabel="recall", ylabel="precision")
    bins = np.linspace(0, 1, 41)
    scores.hist(result.scores[~result.defective], bins=bins, alpha=0.6, label="good")
    scores.hist(result.scores[result.defective], bins=bins, alpha=0.6, label="defective")
    scores.axvline(result.threshold, color="black", linewidth=1)
    scores.set(xlabel="highest probability of the image", ylabel="images", yscale="symlog", title="scores")
    scores.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
