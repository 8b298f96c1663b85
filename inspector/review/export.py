"""Reviewed parts as training data: what ``python -m train`` reads, COCO, a Label Studio import, and the sources."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.errors import LedgerError
from inspector.ledger.query import Reading
from inspector.ledger.rows import utc_time
from inspector.review import rows
from inspector.review.coco import LABELING_CONFIG, coco, label_studio
from inspector.review.labels import Grouping, Label, make_labels
from inspector.review.store import Where, read_blob, select

DATASET = "reviewed"
"""The folder below the target that is the data set; ``groups.csv`` lies beside it, where the layout reader looks."""
POLICY = (
    "Latest opinion of each reviewer; those that cannot tell are not counted; all others must agree. "
    "Good: empty mask. Defect: union of the brushed masks, else the machine's own where it failed the part. "
    "INVALID parts, disagreements and defects without a mask are listed, not trained with."
)
SOURCE_COLUMNS = (
    "image", "label", "mask_from", "group", "station", "epoch", "sequence", "part_id", "taken", "machine", "engine",
    "calibration", "settings", "reviewers", "reviews", "picture_sha256", "mask_sha256", "answer_hash",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    good: int
    defective: int
    needs_mask: int
    """Judged defect, but nobody brushed where: in ``needs-mask.csv``, with their pictures in ``needs-mask/``."""
    left_out: int
    """In ``left-out.csv``, with the reason."""
    groups: int
    head: str
    """Hash of the last review that was read."""


def export_reviewed(
    path: Path, out: Path, *, grouping: Grouping = "part", url: str = "/data/local-files/?d="
) -> Exported:
    """Write the reviews at ``path`` below ``out``, which must be empty or new.

    ``out/reviewed/images`` and ``masks`` (the plain layout), ``out/groups.csv``, ``coco.json``, ``label-studio.json``
    with its ``label-studio.xml``, ``sources.csv``, ``needs-mask.csv`` + ``needs-mask/``, ``left-out.csv`` and
    ``export.json``. The same reviews give the same bytes. Raises LedgerError.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise LedgerError(f"cannot export to {out}", expected="an empty or new folder", found="files in it")
    try:
        with Reading(path, rows.STEPS) as connection:
            reviews = select(connection, Where())
            head = reviews[-1].hash if reviews else ""

            def blob(name: str) -> bytes:
                return read_blob(connection, name)

            labels = make_labels(reviews, blob, grouping)
            return _write(out, labels, blob, head, url)
    except OSError as error:
        raise LedgerError(f"cannot write {out}", found=error.strerror or str(error)) from error


def _write(out: Path, labels: Sequence[Label], blob: Callable[[str], bytes], head: str, url: str) -> Exported:
    usable = [label for label in labels if label.mask_png is not None]
    wanting = [label for label in labels if label.state == "needs-mask"]
    left = [label for label in labels if label.state == "left-out"]
    images, mask_folder = out / DATASET / "images", out / DATASET / "masks"
    for folder in (images, mask_folder, out / "needs-mask"):
        folder.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}
    for label in usable:
        assert label.mask_png is not None
        digests[_name(label)] = hashlib.sha256(label.mask_png).hexdigest()
        (images / _name(label)).write_bytes(blob(label.reviews[0].picture_sha256))
        (mask_folder / _name(label)).write_bytes(label.mask_png)
    for label in wanting:
        (out / "needs-mask" / _name(label)).write_bytes(blob(label.reviews[0].picture_sha256))
    _csv(
        out / "groups.csv",
        ("dataset", "image", "group"),
        ((DATASET, f"images/{_name(label)}", label.group) for label in usable),
    )
    _csv(out / "sources.csv", SOURCE_COLUMNS, (_source(label, digests[_name(label)]) for label in usable))
    _csv(out / "needs-mask.csv", SOURCE_COLUMNS, (_source(label, "") for label in wanting))
    _csv(out / "left-out.csv", SOURCE_COLUMNS, (_source(label, "") for label in left))
    named = [(label, f"{DATASET}/images/{_name(label)}") for label in usable]
    _json(out / "coco.json", coco(named, f"Parts reviewed by people, up to review {head[:16]}"))
    open_tasks = [(label, f"needs-mask/{_name(label)}") for label in wanting]
    _json(out / "label-studio.json", label_studio([*named, *open_tasks], url))
    (out / "label-studio.xml").write_text(LABELING_CONFIG, encoding="utf-8")
    done = Exported(
        good=sum(label.state == "good" for label in usable),
        defective=sum(label.state == "defect" for label in usable),
        needs_mask=len(wanting),
        left_out=len(left),
        groups=len({label.group for label in usable}),
        head=head,
    )
    facts = {name: getattr(done, name) for name in ("good", "defective", "needs_mask", "left_out", "groups", "head")}
    _json(out / "export.json", {"policy": POLICY, **facts})
    return done


def _name(label: Label) -> str:
    """The image's name; stations are told apart, so that several exports can be put together."""
    return f"{label.key.station}-{label.key.text}.png"


def _source(label: Label, mask_sha256: str) -> tuple[object, ...]:
    first, said = label.reviews[0], label.reviews
    return (
        _name(label), label.state, label.why, label.group, label.key.station, label.key.epoch, label.key.sequence,
        first.part_id, utc_time(first.part_wall_ns), first.machine_verdict.value, first.engine, first.calibration,
        first.settings, " ".join(each.reviewer.replace(" ", "_") for each in said),
        " ".join(f"{each.link}:{each.opinion.value}:{each.hash[:16]}" for each in said), first.picture_sha256,
        mask_sha256, first.answer_hash,
    )  # fmt: skip


def _csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)


def _json(path: Path, content: dict[str, Any] | list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")
