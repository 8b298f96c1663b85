"""The certificate as a page to read and print: one HTML file, nothing loaded from elsewhere."""

from __future__ import annotations

import hashlib
import html
import json
from pathlib import Path
from typing import Any

from inspector.drill.certificate import Certificate

_STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #dde1e6; --page: #fff; --pass: #38794a; --fail: #c26a12;
  --invalid: #8593a3; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #9aa4ae; --line: #333a41; --page: #14171a;
  --pass: #5fb37a; --fail: #e39b4b; --invalid: #77838f; --bad: #f2665d; } }
@media print { :root { --ink: #000; --page: #fff; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1.2rem;
  color: var(--ink); background: var(--page); }
header { display: flex; justify-content: space-between; align-items: flex-start; gap: 2rem;
  border-bottom: 3px solid var(--ink); padding-bottom: 1rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
header p, .small { color: var(--soft); margin: .2rem 0 0; font-size: .87rem; }
.seal { border: 3px solid; border-radius: .5rem; padding: .6rem 1.1rem; font-weight: 700; font-size: 1.1rem;
  text-align: center; white-space: nowrap; } .seal span { display: block; font-weight: 400; font-size: .8rem; }
.good { color: var(--pass); } .bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } th { font-weight: 600; vertical-align: bottom; }
th, td { padding: .35rem .5rem; text-align: left; } th { border-bottom: 2px solid var(--soft); }
td { border-bottom: 1px solid var(--line); vertical-align: top; } td small { color: var(--soft); display: block; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { width: 100%; height: auto; display: block; } svg text { font: 10px system-ui, sans-serif; fill: var(--soft); }
.key i { display: inline-block; width: .7rem; height: .7rem; border-radius: .15rem; margin: 0 .3rem 0 .9rem; }
tr { break-inside: avoid; } footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .6rem; }
"""
_WIDTH, _HEIGHT, _FOOT = 1000, 150, 16


def write_report(path: Path, certificate: Certificate) -> None:
    """Write the page; the folder must exist."""
    path.write_text(render(certificate), encoding="utf-8")


def render(certificate: Certificate) -> str:
    """The page as text."""
    figures = certificate.figures
    about, ok = figures["about"], certificate.ok
    seal = certificate.verdict.capitalize()
    problems = "".join(f"<li>{_text(line)}</li>" for line in certificate.violations[:200])
    missed = sum(not bar["met"] for bar in figures["bars"])
    told = f"{len(figures['faults'])} kinds of fault, {figures['parts']:,} parts"
    told += f"<br>{missed} bar{'' if missed == 1 else 's'} missed" if missed else ""
    digest = hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>inspector drill</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<header><div><h1>Drill certificate</h1><p>{_text(_when(about))}</p></div>"
        f"<div class='seal {'good' if ok else 'bad'}'>{seal}<span>{told}</span></div></header>"
        + _tiles(figures)
        + (f"<h2 class='bad'>Violations</h2><ul>{problems}</ul>" if problems else "")
        + f"<h2>What was promised</h2>{_bars(figures['bars'])}"
        + f"<h2>The run</h2>{_timeline(figures['timeline'])}"
        + f"<h2>Fault by fault</h2>{_faults(figures['faults'])}"
        + "<p class='small'>Each row: all rounds of this fault with the quiet parts after it. Lost: the frame was "
        "missed, incomplete or displaced. Late: not decided, or not recorded, in time. Both are answered INVALID, "
        "which the controller rejects. Past due: worst arrival at the controller after the due time. Recovery: from "
        "the end of the cause (for restarts: the end of the process) to the first PASS or FAIL for a part taken "
        "afterwards, longest of all rounds.</p>"
        f"<h2>Where and how</h2><table>{_about(about, figures)}</table>"
        "<p class='small'>A daemon process with its own camera process, a GenTL producer in C, real sockets, disk and "
        "engine. Three sources were held against each other: what the controller heard, what the ledger keeps, and the "
        "number that each picture carries in its own pixels. A fault that no answer felt is a violation.</p>"
        f"<footer class='small'>SHA-256 of the figures (<code>--json</code>): <code>{digest}</code></footer>"
        "</body></html>"
    )


def _when(about: dict[str, Any]) -> str:
    minutes, seconds = divmod(round(about["seconds"]), 60)
    rounds = f"{about['rounds']} round{'' if about['rounds'] == 1 else 's'}"
    return f"{about['began']}, {minutes} min {seconds} s, {rounds}, inspector {about['version']}"


def _tiles(figures: dict[str, Any]) -> str:
    tiles = (
        ("parts triggered", figures["parts"], False),
        ("answered", figures["answered"], figures["answered"] != figures["parts"]),
        ("unanswered", figures["unanswered"], bool(figures["unanswered"])),
        ("changed answers", figures["conflicting"], bool(figures["conflicting"])),
        ("false PASS", figures["false_pass"], bool(figures["false_pass"])),
        ("another part's verdict", figures["wrong_verdict"], bool(figures["wrong_verdict"])),
    )
    return (
        "<div class='tiles'>"
        + "".join(
            f"<div class='tile'><b{' class=bad' if wrong else ''}>{value:,}</b>{name}</div>"
            for name, value, wrong in tiles
        )
        + "</div>"
    )


def _bars(bars: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{_text(bar['what'])}</td><td class='number'>{bar['bar']:g}</td>"
        f"<td class='number'>{_short(bar['found'])}</td>"
        f"<td class='{'good' if bar['met'] else 'bad'}'>{'kept' if bar['met'] else 'missed'}</td></tr>"
        for bar in bars
    )
    head = "<tr><th></th><th class='number'>at most</th><th class='number'>found</th><th></th></tr>"
    return f"<table>{head}{rows}</table>"


def _timeline(line: dict[str, Any]) -> str:
    """Answers a piece of time, stacked by verdict; a tick where each scene begins."""
    columns = list(zip(line["pass"], line["fail"], line["invalid"], strict=True))
    if not columns:
        return "<p>no answers</p>"
    highest, width = max(map(sum, columns)) or 1, _WIDTH / len(columns)
    drawn = []
    for index, column in enumerate(columns):
        top = float(_HEIGHT)
        for count, colour in zip(column, ("pass", "fail", "invalid"), strict=True):
            height = count / highest * (_HEIGHT - 10)
            top -= height
            if count:
                at = f"x='{index * width:.2f}' y='{top:.1f}' width='{width * 0.86:.2f}' height='{height:.1f}'"
                drawn.append(f"<rect {at} fill='var(--{colour})'/>")
    span_s = line["bin_s"] * len(columns)
    for scene in line["scenes"]:
        x = scene["at_s"] / span_s * _WIDTH
        drawn.append(
            f"<path d='M{x:.1f} {_HEIGHT}v5' stroke='var(--soft)'><title>{_text(scene['name'])}</title></path>"
        )
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        at = f"x='{share * _WIDTH:g}' y='{_HEIGHT + _FOOT - 1}' text-anchor='{anchor}'"
        drawn.append(f"<text {at}>{share * span_s:.0f} s</text>")
    key = "".join(f"<i style='background: var(--{name})'></i>{name.upper()}" for name in ("pass", "fail", "invalid"))
    picture = f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT + _FOOT}' role='img' aria-label='answers over time'>"
    return (
        f"<p class='small key'>Answers in pieces of {line['bin_s']:.3g} s:{key}. A tick: a fault begins.</p>"
        f"{picture}{''.join(drawn)}</svg>"
    )


def _faults(rows: list[dict[str, Any]]) -> str:
    names = ("Fault", "Rounds", "Parts", "Unanswered", "False PASS", "Lost", "Late", "Past due", "Recovery")
    head = "".join(f"<th{' class=number' if index else ''}>{name}</th>" for index, name in enumerate(names))
    return f"<table><tr>{head}<th>INVALID, by reason</th></tr>{''.join(map(_fault, rows))}</table>"


def _fault(row: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count} {name}" for name, count in row["invalid"].items()) or "none"
    note = f"<small>{_text(row['note'])}</small>" if row["note"] else ""
    counts = (row["rounds"], row["parts"], row["unanswered"], row["false_pass"], row["lost"], row["late"])
    times = (f"{row['lateness_max_ms']:.1f} ms", _ms(row["recovered_ms"]))
    cells = "".join(f"<td class='number'>{value}</td>" for value in (*counts, *times))
    return (
        f"<tr><td>{_text(row['name'])}<small>{_text(row['does'])}</small></td>{cells}"
        f"<td>{_text(reasons)}{note}</td></tr>"
    )


def _about(about: dict[str, Any], figures: dict[str, Any]) -> str:
    engine = about["engine"]
    facts = {
        "Machine": f"{about['machine']}, {about['cores']} cores, load {about['load_1min']} at the end",
        "System": about["system"],
        "Engine": ", ".join(str(engine[key]) for key in ("bundle", "backend", "precision", "device") if key in engine),
        "Plan": engine.get("plan_hash", ""),
        "Line": f"{about['rate_hz']:g} parts a second, gate {about['gate_ms']:g} ms after the frame",
        "Answers": f"{figures['pass']} PASS, {figures['fail']} FAIL, {sum(figures['invalid'].values())} INVALID; "
        f"{figures['duplicates']} came again, unchanged",
        "Runs of the daemon": str(len(figures["epochs"])),
        "Cut off by a kill": f"{figures['cut_off']} parts: decided and recorded, killed before they could be told; the "
        "controller hears nothing and rejects",
    }
    return "".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in facts.items())


def _text(value: object) -> str:
    return html.escape(str(value))


def _short(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _ms(value: float | None) -> str:
    return f"{value:.0f} ms" if value is not None else "-"
