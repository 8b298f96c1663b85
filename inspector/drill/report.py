"""The certificate as a page to read and print: one HTML file, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import platform
from pathlib import Path
from typing import Any

from inspector import __version__
from inspector.drill.real import Certificate

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.5rem; } .seal { padding: .8rem 1.2rem; border-radius: .4rem; color: #fff; font-weight: 600; }
.good { background: #38794a; } .bad { background: #b3261e; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; } th, td { padding: .35rem .6rem; text-align: left; }
th { border-bottom: 2px solid #8a929b; } td { border-bottom: 1px solid #dde1e6; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { color: #57606a; }
@media (prefers-color-scheme: dark) { body { background: #14171a; color: #e4e7ea; } td { border-color: #333a41; } }
"""


def write_report(path: Path, certificate: Certificate) -> None:
    """Write the page; the folder must exist."""
    path.write_text(render(certificate), encoding="utf-8")


def render(certificate: Certificate) -> str:
    """The page as text."""
    figures = certificate.figures
    seal = "No violation" if certificate.ok else f"{len(certificate.violations)} violations"
    lateness = figures["lateness_ms"]
    facts = {
        "Parts triggered": figures["parts"],
        "Answers at the controller": figures["answered"],
        "Unanswered": figures["unanswered"],
        "Answered twice with different content": figures["conflicting"],
        "PASS for a part not fully inspected": figures["false_pass"],
        "Verdict of another picture": figures["wrong_verdict"],
        "Past the due time, p50 / p99 / max": " / ".join(_ms(lateness[key]) for key in ("p50", "p99", "max")),
        "Runs of the daemon": len(figures["epochs"]),
        "Machine": f"{platform.machine()}, Python {platform.python_version()}, inspector {__version__}",
    }
    terms = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())
    rows = "".join(_row(row) for row in figures["faults"])
    problems = "".join(f"<li>{html.escape(line)}</li>" for line in certificate.violations[:200])
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>inspector drill</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<h1>Drill certificate</h1><p class='seal {'good' if certificate.ok else 'bad'}'>{seal}</p><dl>{terms}</dl>"
        + (f"<h2>Violations</h2><ul>{problems}</ul>" if problems else "")
        + "<h2>Faults</h2><table><tr><th>Fault</th><th class='number'>Rounds</th><th class='number'>Parts</th>"
        "<th class='number'>Longest recovery</th><th>INVALID, by reason</th></tr>"
        f"{rows}</table><p>Recovery: from the end of the cause (for restarts: the end of the process) to the first "
        "PASS or FAIL for a part taken afterwards.</p></body></html>"
    )


def _row(row: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count} {name}" for name, count in row["invalid"].items()) or row["note"] or "none"
    cells = [
        f"<td>{html.escape(row['name'])}</td>",
        f"<td class='number'>{row['rounds']}</td>",
        f"<td class='number'>{row['parts']}</td>",
        f"<td class='number'>{_ms(row['recovered_ms'])}</td>",
        f"<td>{html.escape(reasons)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _ms(value: float | None) -> str:
    return f"{value:.1f} ms" if value is not None else "-"
