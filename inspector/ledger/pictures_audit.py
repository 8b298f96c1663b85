"""Images against index against ledger. Orphans can be put in quarantine; nothing is ever deleted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import apsw

from inspector.errors import LedgerError
from inspector.ledger.finding import Finding
from inspector.ledger.pictures import STORED, Index, Stored, read_index
from inspector.ledger.removed import removed_numbers

QUARANTINE = "quarantine"


def check_pictures(
    connection: apsw.Connection, root: Path, *, quarantine: bool, deep: bool
) -> tuple[int, list[Finding]]:
    """How many parts have images, and what is wrong with them. Raises LedgerError when the store cannot be read.

    Beside a running daemon files come and go: the disk is read first, then the index, and what looks wrong is
    looked at once more.
    """
    if not root.is_dir():
        raise LedgerError("no image store", expected=f"a directory {root}", found="nothing")
    on_disk = _files(root)
    index = {(each.epoch, each.sequence): each for each in read_index(root)}
    expected = {name for each in index.values() for name in each.names}
    strays = sorted(name for name in on_disk - expected if (root / name).exists())
    partless = [each for each in index.values() if each.state == STORED and not _has_answer(connection, each)]
    findings = [_moved(root, Finding("orphan", f"{name} belongs to no part"), [name], quarantine) for name in strays]
    for each in partless:
        text = f"{each.names[0]} is of part {each.epoch}/{each.sequence}, which the ledger does not have"
        finding = Finding("orphan", text, each.epoch, each.sequence, each.sequence)
        findings.append(_moved(root, finding, list(each.names), quarantine))
    if quarantine and partless:
        _forget(root, partless)
    suspects = []
    for each in index.values():
        if each.state == STORED and each not in partless:
            found = _compare(root, each, deep=deep)
            if found is not None:
                suspects.append((each, found))
    if suspects:
        now = {(each.epoch, each.sequence): each for each in read_index(root)}
        findings += [found for each, found in suspects if now.get((each.epoch, each.sequence)) == each]
    return len(index), findings


def _files(root: Path) -> set[str]:
    """Every file below images/ and masks/, relative to the root."""
    return {
        str(path.relative_to(root))
        for folder in ("images", "masks")
        for path in (root / folder).rglob("*")
        if path.is_file()
    }


def _has_answer(connection: apsw.Connection, each: Stored) -> bool:
    query = "SELECT 1 FROM answers WHERE epoch = ? AND sequence = ?"
    if connection.execute(query, (each.epoch, each.sequence)).get is not None:
        return True
    return any(first <= each.sequence <= last for first, last in removed_numbers(connection, each.epoch))


def _compare(root: Path, each: Stored, *, deep: bool) -> Finding | None:
    """A finding when a file is gone or is not what was stored."""
    digest = hashlib.sha256()
    for name, size_bytes in zip(each.names, (each.image_bytes, each.mask_bytes), strict=False):
        path = root / name
        try:
            data = path.read_bytes() if deep else b""
            found_bytes = len(data) if deep else path.stat().st_size
        except OSError:
            return Finding("missing image", f"{name} is gone", each.epoch, each.sequence, each.sequence)
        if found_bytes != size_bytes:
            text = f"{name} has {found_bytes} bytes, {size_bytes} were stored"
            return Finding("changed image", text, each.epoch, each.sequence, each.sequence)
        digest.update(data)
    if deep and digest.hexdigest()[:16] != each.digest:
        text = f"{each.names[0]} or its mask was changed"
        return Finding("changed image", text, each.epoch, each.sequence, each.sequence)
    return None


def _moved(root: Path, finding: Finding, names: list[str], quarantine: bool) -> Finding:
    """The finding, after its files were put in quarantine where that was asked for."""
    if not quarantine:
        return finding
    for name in names:
        source, target = root / name, root / QUARANTINE / name
        number = 1
        while target.exists():
            number += 1
            target = (root / QUARANTINE / name).with_name(f"{Path(name).stem}-{number}{Path(name).suffix}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LedgerError(f"cannot move {source} to {target}", found=error.strerror or str(error)) from error
    text = f"{finding.text}; moved to {QUARANTINE}/"
    return Finding(finding.kind, text, finding.epoch, finding.first, finding.last, finding.count)


def _forget(root: Path, parts: list[Stored]) -> None:
    index = Index(root)
    try:
        index.drop(parts)
    except apsw.Error as error:
        raise LedgerError(f"cannot change the image index below {root}", found=str(error)) from error
    finally:
        index.close()
