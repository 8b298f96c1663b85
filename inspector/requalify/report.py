"""The report as a page to read: one HTML file, beside it the flips' pictures and the Parquet file."""

from __future__ import annotations

import html
import json
from typing import Any

from inspector import __version__
from inspector.archive.place import Place
from inspector.requalify.pictures import Shown

REPORT_FILE = "report.html"
SUMMARY_FILE = "summary.json"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.5rem; } .seal { padding: .8rem 1.2rem; border-radius: .4rem; color: #fff; font-weight: 600; }
.good { background: #38794a; } .bad { background: #b3261e; } .open { background: #8a6100; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .35rem .8rem; text-align: left; }
th { border-bottom: 2px solid #8a929b; } td { border-bottom: 1px solid #dde1e6; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { color: #57606a; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; } figcaption { color: #57606a; }
@media (prefers-color-scheme: dark) { body { background: #14171a; color: #e4e7ea; } td { border-color: #333a41; } }
"""


def write_report(out: Place, figures: dict[str, Any], shown: list[Shown]) -> None:
    """Write the page and the figures. Raises LedgerError."""
    out.write(SUMMARY_FILE, (json.dumps(figures, indent=1, sort_keys=True) + "\n").encode())
    out.write(REPORT_FILE, render(figures, shown).encode())


def render(figures: dict[str, Any], shown: list[Shown]) -> str:
    """The page as text."""
    flips, errors, parts = figures["flips"], figures["errors"], figures["parts"]
    kind = "bad" if errors else "open" if flips else "good"
    seal = f"{flips} of {parts} verdicts change" + (f"; {errors} parts could not be judged" if errors else "")
    ms = figures["engine_ms"]
    facts = {
        "Candidate": figures["engine"],
        "Against": figures["against"],
        "Parts judged": parts,
        "Archived without an image": figures["without_image"],
        "PASS to FAIL": figures["pass_to_fail"],
        "FAIL to PASS": figures["fail_to_pass"],
        "Masks that change": figures["mask_changes"],
        "Engine, p50 / p99, one thread": f"{ms['p50']} / {ms['p99']} ms",
        "Judged on": ", ".join(figures["devices"]) or "-",
        "On another class of device than the line": figures["other_device"],
        "Shards": f"{figures['shards']}, of which {figures['resumed_shards']} were done before",
        "Made by": f"inspector {__version__}",
    }
    terms = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items())
    problems = "".join(f"<li>{_text(line)}</li>" for line in figures["faults"])
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>inspector requalify</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<h1>Requalification</h1><p class='seal {kind}'>{_text(seal)}</p><dl>{terms}</dl>"
        + (f"<h2>Not judged</h2><ul>{problems}</ul>" if problems else "")
        + _counts("By kind", "Old &gt; new", {"all parts": figures["verdicts"]})
        + _counts("Flips by station", "Station", figures["flips_by_station"])
        + _counts("Flips by class", "Class of the defect", figures["flips_by_class"])
        + _rates("Parts that people reviewed", figures["reviewed"], _REVIEWED)
        + _rates("Parts whose truth came with them", figures["known_truth"], _KNOWN)
        + (f"<h2>Flips</h2><p>{len(shown)} of {flips} shown.</p>" if shown else "")
        + "".join(_figure(each) for each in shown)
        + "</body></html>"
    )


_REVIEWED = (
    "Blind reviewers of one voice. Rates are of the reviewed parts, which are not drawn evenly: rejects are reviewed "
    "more often than PASS. The review report weighs them."
)
_KNOWN = "Synthetic and labelled parts."


def _counts(title: str, head: str, found: dict[str, dict[str, int]]) -> str:
    if not found:
        return ""
    kinds = sorted({kind for counts in found.values() for kind in counts})
    heads = "".join(f"<th>{_text(kind)}</th>" for kind in kinds)
    rows = "".join(
        f"<tr><td>{_text(name)}</td>" + "".join(f"<td class='number'>{counts.get(k, 0)}</td>" for k in kinds) + "</tr>"
        for name, counts in found.items()
    )
    return f"<h2>{title}</h2><table><tr><th>{head}</th>{heads}</tr>{rows}</table>"


def _rates(title: str, rates: dict[str, Any], note: str) -> str:
    if not rates["defective"] + rates["good"]:
        return ""
    rows = ""
    for name, among in (("escapes", "defective"), ("overkill", "good")):
        for side, found in rates[name].items():
            rate = "-" if found["rate"] is None else f"{found['rate']:.3%}"
            cells = (name, side, f"{found['count']} of {rates[among]} {among}", rate, f"{found['upper95']:.3%}")
            rows += "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>"
    heads = "".join(f"<th>{head}</th>" for head in ("", "Side", "Count", "Rate", "Upper bound, 95 %"))
    return f"<h2>{title}</h2><table><tr>{heads}</tr>{rows}</table><p>{note}</p>"


def _figure(shown: Shown) -> str:
    told = f"{shown.station} {shown.part_id} ({shown.number}), {shown.kind}, {', '.join(shown.classes)}"
    return (
        f"<figure><img loading='lazy' src='{_text(shown.file)}' alt='{_text(told)}'><figcaption>{_text(told)}<br>"
        f"old: {_text(shown.old_why)}<br>new: {_text(shown.new_why)}</figcaption></figure>"
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
