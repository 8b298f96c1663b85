"""drill: faults on purpose, and a certificate."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.common import Commands, engine_option, json_option, positive, print_json
from inspector.errors import ConfigError

if TYPE_CHECKING:
    from inspector.drill.certificate import Certificate


def add(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "drill",
        "Inject faults into the real line and certify the outcome",
        _drill,
        engine_option,
        _options,
        json_option,
    )


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--parts", type=positive, default=600, metavar="N", help="answers to play for (default 600)")
    sub.add_argument("--faults", metavar="LIST", help="comma-separated fault names (default: all)")
    sub.add_argument("--rate", type=float, default=20.0, metavar="HZ", help="parts per second (default 20)")
    sub.add_argument("--gate-ms", type=float, default=400.0, help="from frame to gate (default 400)")
    sub.add_argument("--report", type=Path, metavar="FILE.html", help="write the certificate to read")
    sub.add_argument(
        "--simulate", type=positive, metavar="SCHEDULES", help="seeded schedules in simulated time instead"
    )
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="first seed of the simulation")
    sub.add_argument("--keep", type=Path, metavar="DIR", help="keep ledger, journal and configuration there")


def _drill(arguments: argparse.Namespace) -> int:
    return _simulated(arguments) if arguments.simulate else _real(arguments)


def _simulated(arguments: argparse.Namespace) -> int:
    from inspector.drill.simulate import figures, simulate

    with tempfile.TemporaryDirectory(prefix="inspector-drill-") as folder:
        results = []
        for seed in range(arguments.seed, arguments.seed + arguments.simulate):
            results.append(simulate(seed, 100, Path(folder) / str(seed)))
    found = figures(results)
    if arguments.json:
        print_json(found)
    else:
        _print_rows({key: value for key, value in found.items() if key != "first_violations"})
    for line in found["first_violations"]:
        print(f"VIOLATION {line}")
    return 1 if found["violations"] else 0


def _real(arguments: argparse.Namespace) -> int:
    from inspector.demo import embedded
    from inspector.drill.real import drill

    if arguments.report is not None and not arguments.report.absolute().parent.is_dir():
        raise ConfigError("the report has no folder to go to", found=str(arguments.report), do="Make it first.")
    names = [name.strip() for name in arguments.faults.split(",")] if arguments.faults else None
    with tempfile.TemporaryDirectory(prefix="inspector-drill-") as scratch:
        certificate = drill(
            parts=arguments.parts,
            bundle=arguments.engine or embedded("engines/commutator"),
            folder=arguments.keep or Path(scratch),
            names=names,
            rate_hz=arguments.rate,
            gate_ms=arguments.gate_ms,
            on_scene=lambda name, done, total: (
                None if arguments.json else print(f"{done:>7}/{total}  {name}", flush=True)
            ),
        )
    if arguments.json:
        print_json(certificate.figures)
    else:
        _print_certificate(certificate)
    if arguments.report is not None:
        from inspector.drill.report import write_report

        write_report(arguments.report, certificate)
    return 0 if certificate.ok else 1


def _print_rows(figures: dict[str, Any]) -> None:
    for key, value in figures.items():
        print(f"{key:>14}  {value}")


def _print_certificate(certificate: Certificate) -> None:
    figures = certificate.figures
    heads = f"{'rounds':>7}{'parts':>8}{'unanswered':>12}{'false PASS':>12}{'past due':>10}{'recovered':>13}"
    print(f"\n{'fault':<36}{heads}  invalid")
    for row in figures["faults"]:
        recovered = f"{row['recovered_ms']:.0f} ms" if row["recovered_ms"] is not None else "-"
        reasons = ", ".join(f"{count} {name}" for name, count in row["invalid"].items())
        counts = f"{row['rounds']:>7}{row['parts']:>8}{row['unanswered']:>12}{row['false_pass']:>12}"
        times = f"{row['lateness_max_ms']:>7.1f} ms{recovered:>13}"
        print(f"{row['name']:<36}{counts}{times}  {reasons} {row['note']}")
    hidden = {"about", "bars", "faults", "violations", "epochs", "timeline"}
    print()
    _print_rows({key: value for key, value in figures.items() if key not in hidden})
    for bar in figures["bars"]:
        if not bar["met"]:
            print(f"missed: {bar['what']}, at most {bar['bar']:g}, found {bar['found']:.1f}")
    for line in figures["violations"]:
        print(f"VIOLATION {line}")
    print("certificate:", certificate.verdict)
