"""``python -m train fit|qat|evaluate|export|...``; torch is loaded only by the command that runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

LAYOUTS = ("kolektor-sdd", "magnetic-tile", "neu-seg", "folder", "synthetic")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, 1 for a failed step, 2 for bad usage."""
    args = _parser().parse_args(arguments)
    from inspector.errors import InspectorError

    try:
        code: int = args.run(args)
        return code
    except InspectorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; go on with --resume", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train", description="Train, judge and export LSA-Net.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    each = commands.add_parser("fit", help="train a network")
    _training_options(each)
    each.add_argument("--resume", action="store_true", help="go on from OUT/last.pt under its own configuration")
    each.add_argument("--init", type=Path, help="begin with the weights of this checkpoint or bundle")
    each.set_defaults(run=_fit)

    each = commands.add_parser("evaluate", help="figures, curves and a report of a bundle or checkpoint")
    each.add_argument("--engine", type=Path, required=True, help="bundle directory or checkpoint file")
    _data_options(each)
    each.add_argument("--split", type=Path, help="split.json; a checkpoint knows its own")
    each.add_argument("--side", choices=("all", "train", "validation"), default="all")
    each.add_argument("--choose", action="store_true", help="choose the operating point on these very images")
    each.add_argument("--report", type=Path, help="write the HTML report here")
    each.add_argument("--json", action="store_true")
    each.set_defaults(run=_evaluate)

    each = commands.add_parser("export", help="write a bundle from a checkpoint")
    each.add_argument("--checkpoint", type=Path, required=True)
    each.add_argument("--out", type=Path, required=True, help="such as engines/NAME")
    each.add_argument("--data", type=Path, required=True, help="the training's data: threshold and references")
    each.add_argument(
        "--judged",
        type=Path,
        help="the checkpoint it went on from over all images: split, point and figures from there",
    )
    each.add_argument("--notes", type=Path, help="TOML whose keys join the manifest's training facts")
    each.add_argument("--dynamic", type=Path, help="also write an ONNX file with a free batch size here")
    each.add_argument("--json", action="store_true")
    each.set_defaults(run=_export)

    each = commands.add_parser("qat", help="fine-tune a checkpoint so that it keeps its maps in 8 bits")
    _qat_options(each)
    each.set_defaults(run=_qat)

    each = commands.add_parser("ablate", help="rows of Tables 8, 9 and 10 as configurations of the one model")
    _training_options(each)
    each.add_argument("--rows", default="base,lam,lam+sdm,lsa-net", help="comma-separated")
    each.add_argument("--seeds", default="0", help="comma-separated")
    each.set_defaults(run=_ablate)

    each = commands.add_parser("summary", help="layer table, parameters, FLOPs")
    each.add_argument("--width", type=int, default=32)
    each.add_argument("--size", type=int, default=256)
    each.add_argument("--row", default="lsa-net", help="base, lam, lam+sdm, lsa-net, full-strips")
    each.set_defaults(run=_summary)

    each = commands.add_parser("synth", help="write a synthetic commutator set")
    each.add_argument("--out", type=Path, required=True)
    each.add_argument("--count", type=int, default=500)
    each.add_argument("--seed", type=int, default=0)
    each.add_argument("--defect-share", type=float, default=0.5)
    each.set_defaults(run=_synth)

    each = commands.add_parser("bench", help="images/s of fit against a bare forward + backward loop")
    _training_options(each)
    each.add_argument("--steps", type=int, default=30)
    each.add_argument("--json", action="store_true")
    each.set_defaults(run=_bench)
    return parser


def _qat_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="its split.json must lie beside it")
    parser.add_argument("--data", type=Path, required=True, help="the training's data")
    parser.add_argument("--out", type=Path, required=True, help="such as runs/NAME-qat")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--max-minutes", type=float, default=0.0, help="end the schedule with the time")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layout", choices=LAYOUTS, required=True)


def _training_options(parser: argparse.ArgumentParser) -> None:
    _data_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="such as runs/NAME")
    parser.add_argument("--recipe", choices=("paper", "fast"), default="paper")
    parser.add_argument("--width", type=int, help="channels of the first block: 32 (paper), 16, 8")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--optimiser", choices=("adamw", "sgd"))
    parser.add_argument("--ema", type=float, help="decay of averaged weights; 0 = none")
    parser.add_argument("--protocol", choices=("grouped", "paper"), help="grouped = honest, paper = random over images")
    parser.add_argument("--validation-share", type=float)
    parser.add_argument("--defective-share", type=float, help="share of defective images in an epoch; 1 = only those")
    parser.add_argument("--split-seed", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--precision", choices=("bf16", "fp16", "f32"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--max-minutes", type=float, help="end the schedule with the time (not bit-reproducible)")
    parser.add_argument("--validate-every", type=int, help="epochs")
    parser.add_argument("--steps-per-epoch", type=int)
    parser.add_argument("--whole-every", type=int, help="synthetic: every n-th part as the whole frame too")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as augment.vertical_flip=0"
    )


def configured(args: argparse.Namespace) -> Any:
    """The recipe with what the command line changed."""
    from train.config import overridden, recipe

    names = (
        *("epochs", "batch", "learning_rate", "optimiser", "ema", "protocol", "validation_share", "defective_share"),
        *("split_seed", "seed", "precision", "threads", "max_minutes", "validate_every", "steps_per_epoch"),
        "whole_every",
    )
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return overridden(recipe(args.recipe, args.layout, args.width or 32), changes, args.set)


def _fit(args: argparse.Namespace) -> int:
    from train.fit import fit

    progress = fit(configured(args), args.data, args.out, resume=args.resume, init=args.init)
    if os.environ.get("RANK", "0") != "0":
        return 0
    if not progress.best_epoch:
        print(f"nothing was validated; {args.out}/last.pt")
        return 0
    print(f"best validation IoU {progress.best_iou:.4f} in epoch {progress.best_epoch}; {args.out}/best.pt")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from train.evaluate import dump, run, table

    judged = run(args.engine, args.data, args.layout, args.split, args.side, args.choose)
    if args.report is not None:
        from train.report import write_report

        write_report(args.report, judged.result, judged.items, judged.maps)
    print(dump(judged.result) if args.json else table(judged.result))
    return 0


def _export(args: argparse.Namespace) -> int:
    import json

    from train.bundle import make_bundle, write_dynamic

    made = make_bundle(args.checkpoint, args.out, args.data, notes=args.notes, judged=args.judged)
    if args.dynamic:
        write_dynamic(args.checkpoint, args.dynamic)
    if args.json:
        print(json.dumps({"onnx_sha256": made.bundle.onnx_sha256, **made.bundle.manifest["parity"]}, indent=1))
        return 0
    point = made.bundle.manifest["operating_point"]
    print(
        f"{made.bundle.path}: parity {made.bundle.manifest['parity']['max_abs_diff']:.1e}", *point["evidence"], sep="\n"
    )
    return 0


def _qat(args: argparse.Namespace) -> int:
    from train.qat import Plan, as_json, told, tune

    plan = Plan(args.steps, args.max_minutes, args.learning_rate, args.batch, args.threads)
    tuned = tune(args.checkpoint, args.data, args.out, plan)
    print(as_json(tuned) if args.json else told(tuned))
    return 0


def _ablate(args: argparse.Namespace) -> int:
    from train.ablate import ablate, markdown

    args.out.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    print(markdown(ablate(configured(args), args.data, args.out, args.rows.split(","), seeds)))
    return 0


def _summary(args: argparse.Namespace) -> int:
    from train.ablate import row
    from train.config import recipe
    from train.summary import show

    show(row(args.row, recipe("paper", "folder", args.width)).model, args.size)
    return 0


def _synth(args: argparse.Namespace) -> int:
    from train.synth import write_set

    write_set(args.out, args.count, args.seed, args.defect_share)
    return 0


def _bench(args: argparse.Namespace) -> int:
    import json

    from train.bench import compare

    result = compare(configured(args), args.data, args.out, args.steps)
    print(json.dumps(result, indent=1) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
