"""Calibrations and rules by their hash, so that what an answer was decided with can be had again years later.

The daemon keeps each one that it ever decided with below ``state_dir/recipes``; an archive holds the same files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from inspector.errors import ConfigError, LedgerError
from inspector.preprocess.calibration import Calibration, load_calibration, write_beside, write_calibration

RECIPES = "recipes"
CALIBRATION_FILE = "calibration.toml"


def calibration_folder(short_hash: str) -> str:
    """Relative to the state directory or the archive; holds CALIBRATION_FILE and the files that it names."""
    return f"{RECIPES}/calibrations/{short_hash}"


def rules_name(short_hash: str) -> str:
    """Relative to the state directory or the archive."""
    return f"{RECIPES}/rules/{short_hash}.json"


def keep_recipe(state: Path, settings_source: str, calibration: Calibration) -> None:
    """Write this calibration and these rules below the state directory where they are not yet. Raises LedgerError.

    ``settings_source``: the text whose hash stands in the answers as ``Hashes.settings``."""
    text = settings_source.encode()
    try:
        rules = state / rules_name(hashlib.sha256(text).hexdigest()[:16])
        if not rules.is_file():
            write_beside(rules.parent, rules.name, text)
        folder = state / calibration_folder(calibration.hash[:16])
        if (folder / CALIBRATION_FILE).is_file():
            return
        for name, sha256 in named_files(calibration):
            source = (calibration.path or folder).parent / name
            if write_beside(folder, name, source.read_bytes()) != sha256:
                raise LedgerError(f"{source} was changed while it was read", do="Start again.")
        write_calibration(folder / CALIBRATION_FILE, calibration.file)  # last: a folder that has it is whole
    except OSError as error:
        found = f"{error.filename}: {error.strerror}"
        raise LedgerError(f"the recipe cannot be kept in {state / RECIPES}", found=found, do="Make room.") from error


def named_files(calibration: Calibration) -> list[tuple[str, str]]:
    """(name, SHA-256) of the files that lie beside the TOML."""
    file, found = calibration.file, []
    if file.locate.template is not None and file.locate.sha256 is not None and file.locate.enabled:
        found.append((file.locate.template, file.locate.sha256))
    if file.flat_field is not None:
        found.append((file.flat_field.file, file.flat_field.sha256))
    return found


def read_kept_calibration(folder: Path, short_hash: str) -> Calibration:
    """The calibration in ``folder``, proven to be the one of this hash. Raises ConfigError."""
    found = load_calibration(folder / CALIBRATION_FILE)
    if found.hash[:16] != short_hash:
        what = f"calibration {folder / CALIBRATION_FILE} is not the one it is kept as"
        raise ConfigError(what, expected=short_hash, found=found.hash[:16], do="Restore the file.")
    return found


def parse_rules(data: bytes, short_hash: str, source: str) -> dict[str, Any]:
    """What was hashed as ``Hashes.settings``: decision, timing, views, features, and the bundle's operating point where
    the decision leaves something to it. Raises ConfigError."""
    found = hashlib.sha256(data).hexdigest()[:16]
    if found != short_hash:
        raise ConfigError(f"rules {source} are not the ones they are kept as", expected=short_hash, found=found)
    parsed: dict[str, Any] = json.loads(data)
    return parsed
