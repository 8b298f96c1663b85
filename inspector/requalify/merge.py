"""Old side against new side, part by part: what flips, and what that means where the truth is known.

Shard by shard, so that memory does not grow with the archive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

from inspector.archive.catalogue import Manifest, read_shard
from inspector.archive.opinions import read_truths
from inspector.archive.place import Place, library
from inspector.archive.table import Cells, parquet_rows
from inspector.bounds import upper_bound
from inspector.errors import LedgerError
from inspector.requalify.plan import Plan, Task

RESULTS_FILE = "results.parquet"
_ARCHIVED = (
    "epoch", "sequence", "part_id", "wall_ns", "stored_verdict", "stored_reason", "review", "score", "rules",
    "defects", "detail", "truth", "image_sha256", "mask_sha256",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flip:
    """A part whose verdict changes; rows as they lie in the files, for the pictures."""

    station: str
    part: Cells
    """Of the shard."""
    old: Cells | None
    """Of the old engine's result; None where the archived answer is the old side."""
    new: Cells
    kind: str
    """PASS>FAIL and so on."""
    classes: tuple[str, ...]


@dataclass(slots=True)
class Rates:
    """Where the truth is known: what each side lets through and rejects in vain."""

    defective: int = 0
    good: int = 0
    escapes: dict[str, int] = field(default_factory=lambda: {"old": 0, "new": 0})
    overkill: dict[str, int] = field(default_factory=lambda: {"old": 0, "new": 0})

    def add(self, defective: bool, old: str, new: str) -> None:
        """INVALID is neither: the part is rejected without a judgement."""
        self.defective, self.good = self.defective + defective, self.good + (not defective)
        for side, verdict in (("old", old), ("new", new)):
            self.escapes[side] += defective and verdict == "PASS"
            self.overkill[side] += not defective and verdict == "FAIL"

    def to_json(self) -> dict[str, Any]:
        """Counts, rates, and one-sided exact upper bounds at 95 %."""
        told: dict[str, Any] = {"defective": self.defective, "good": self.good}
        for name, found, among in (("escapes", self.escapes, self.defective), ("overkill", self.overkill, self.good)):
            told[name] = {
                side: {"count": k, "rate": k / among if among else None, "upper95": upper_bound(k, among)}
                for side, k in found.items()
            }
        return told


@dataclass(slots=True)
class Totals:
    """Figures over all parts."""

    parts: int = 0
    errors: int = 0
    mask_changes: int = 0
    other_device: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    by_station: dict[str, Counter[str]] = field(default_factory=dict)
    by_class: dict[str, Counter[str]] = field(default_factory=dict)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    reviewed: Rates = field(default_factory=Rates)
    known: Rates = field(default_factory=Rates)
    """By the truth that came with the part: synthetic and labelled ones."""
    first_errors: list[str] = field(default_factory=list)


def merged_schema() -> Any:
    """One row a part that has an image. ``flip`` is null where the verdict stays, ``error`` where it was judged."""
    pa = library("pyarrow")
    whole, text, real, yes = pa.int64(), pa.string(), pa.float64(), pa.bool_()
    return pa.schema(
        [
            ("station", text), ("epoch", whole), ("sequence", whole), ("part_id", text), ("wall_ns", whole),
            ("image_sha256", text), ("old_verdict", text), ("old_reason", text), ("old_score", real),
            ("new_verdict", text), ("new_reason", text), ("new_score", real), ("flip", text),
            ("classes", pa.list_(text)), ("mask_changed", yes), ("new_rules", pa.list_(text)), ("truth", yes),
            ("reviewed", yes), ("error", text), ("device_class", text), ("other_device", yes),
        ]
    )  # fmt: skip


def merge(
    archive: Place, out: Place, new: Plan, old: Plan | None, done: Set[str], on_flip: Callable[[Flip], None]
) -> Totals:
    """Join all results that are ``done`` into RESULTS_FILE; two runs give the same bytes. Raises LedgerError."""
    pa, parquet = library("pyarrow"), library("pyarrow.parquet")
    totals, schema = Totals(), merged_schema()
    truths: tuple[str, dict[tuple[int, int], bool]] = ("", {})
    by_shard = {(task.station, task.shard.name): task for task in old.tasks} if old is not None else {}
    with out.stream(RESULTS_FILE) as draft, parquet.ParquetWriter(str(draft), schema, compression="zstd") as writer:
        for task in new.tasks:
            former = by_shard.get((task.station, task.shard.name))
            if task.name not in done or (former is not None and former.name not in done):
                continue
            if truths[0] != task.station:
                truths = (task.station, read_truths(archive, task.station))
            try:
                rows = list(_joined(archive, out, task, former, truths[1], totals, on_flip))
            except LedgerError as error:  # it was whole when it was judged, in an earlier call
                totals.errors += task.shard.images
                totals.first_errors.append(str(error))
                continue
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return totals


def without_image(manifests: tuple[Manifest, ...]) -> int:
    """Archived parts that cannot be judged again."""
    return sum(shard.rows - shard.images for manifest in manifests for shard in manifest.shards)


def _joined(
    archive: Place,
    out: Place,
    task: Task,
    former: Task | None,
    truths: dict[tuple[int, int], bool],
    totals: Totals,
    on_flip: Callable[[Flip], None],
) -> Iterator[Cells]:
    parts = parquet_rows(read_shard(archive, task.station, task.shard), _ARCHIVED)
    found = {_key(row): row for row in parquet_rows(out.read(task.result))}
    olds = {_key(row): row for row in parquet_rows(out.read(former.result))} if former is not None else {}
    for part in parts:
        new = found.get(_key(part))
        if new is None:
            continue
        old = olds.get(_key(part))
        error = new["error"] or (old["error"] if old is not None else None)
        row = _row(task, part, old, new, error) | {"reviewed": truths.get(_key(part))}
        if error is None:
            if row["flip"]:
                on_flip(Flip(task.station, part, old, new, row["flip"], tuple(row["classes"])))
            _count(totals, row)
        else:
            totals.errors += 1
            if len(totals.first_errors) < 20:
                totals.first_errors.append(f"{task.station} {part['epoch']}-{part['sequence']}: {error}")
        yield row


def _row(task: Task, part: Cells, old: Cells | None, new: Cells, error: str | None) -> Cells:
    was = part["stored_verdict"] if old is None else old["verdict"]
    reason = part["stored_reason"] if old is None else old["reason"]
    before = new["archived_mask_sha256"] if old is None else old["mask_sha256"]
    flips = error is None and was != new["verdict"]
    failing = (part if old is None else old) if was == "FAIL" else new
    known = before is not None and new["mask_sha256"] is not None
    return {
        **{name: part[name] for name in ("epoch", "sequence", "part_id", "wall_ns", "image_sha256", "truth")},
        "station": task.station,
        "old_verdict": was,
        "old_reason": reason,
        "old_score": part["score"] if old is None else old["score"],
        "new_verdict": new["verdict"],
        "new_reason": new["reason"],
        "new_score": new["score"],
        "flip": f"{was}>{new['verdict']}" if flips else None,
        "classes": classes(failing) if flips else [],
        "mask_changed": before != new["mask_sha256"] if known else None,
        "new_rules": new["rules"],
        "error": error,
        "device_class": new["device_class"],
        "other_device": new["device_class"] != task.line_class,
    }


def classes(row: Cells) -> list[str]:
    """The shape classes of the defects that count; the reason of an INVALID."""
    shapes = {defect["shape"] for defect in row["defects"] or () if defect["counts"]}
    reason = row.get("reason") or row.get("stored_reason")
    return sorted(shapes) or ([reason] if reason else ["none"])


def _count(totals: Totals, row: Cells) -> None:
    totals.parts += 1
    totals.mask_changes += bool(row["mask_changed"])
    totals.other_device += row["other_device"]
    totals.verdicts[row["old_verdict"], row["new_verdict"]] += 1
    if row["flip"]:
        totals.kinds[row["flip"]] += 1
        totals.by_station.setdefault(row["station"], Counter())[row["flip"]] += 1
        for name in row["classes"]:
            totals.by_class.setdefault(name, Counter())[row["flip"]] += 1
    for rates, truth in ((totals.reviewed, row["reviewed"]), (totals.known, row["truth"])):
        if truth is not None:
            rates.add(truth, row["old_verdict"], row["new_verdict"])


def _key(row: Cells) -> tuple[int, int]:
    return row["epoch"], row["sequence"]
