"""What lies where in an archive, and each station's manifest: the list of its shards with their hashes.

recipes/calibrations/<hash>/calibration.toml     and the files it names
recipes/rules/<hash>.json
pictures/<2 hex>/<SHA-256>.png                   images and masks, each once
stations/<station>/manifest.json                 what counts; replaced whole
stations/<station>/parts-<epoch>-<sequence>-<16 hex>.parquet
stations/<station>/late-<link>.parquet           INVALID that was sent instead, booked after its part was exported
stations/<station>/reviews.parquet               where a review store was given
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from inspector.archive.place import Place, sha256
from inspector.errors import ConfigError, LedgerError

FORMAT = 1
STATIONS = "stations"
PARTS_GLOB = f"{STATIONS}/*/parts-*.parquet"


@dataclass(frozen=True, slots=True)
class Shard:
    """One Parquet file of parts: never changed once it is in the manifest."""

    name: str
    sha256: str
    bytes: int
    rows: int
    images: int
    """Rows that have an image."""
    first: tuple[int, int]
    """Lowest (epoch, sequence)."""
    last: tuple[int, int]
    first_wall_ns: int
    last_wall_ns: int


@dataclass(slots=True)
class Manifest:
    """One station's part of an archive; only the export of that station writes it."""

    station: str
    since_ns: int | None = None
    """Where the archive begins (wall time)."""
    last_link: int = 0
    """The ledger's rows up to this one are in the shards."""
    last_override: int = 0
    ledger: str = ""
    """Hash of the ledger's first row: another ledger of the same station does not go on here."""
    device: str = ""
    """The machine that exported, which is the line's own."""
    device_class: str = ""
    missing_recipes: list[str] = field(default_factory=list)
    """Calibrations and rules that rows name and that were not to be had."""
    shards: list[Shard] = field(default_factory=list)

    def to_json(self) -> bytes:
        """The file's bytes."""
        told = {"format": FORMAT, **asdict(self)}
        shards = ",\n  ".join(json.dumps(shard, sort_keys=True) for shard in told.pop("shards"))
        head = json.dumps(told, sort_keys=True)
        return f'{head[:-1]},\n "shards": [\n  {shards}\n]}}\n'.encode()


def manifest_name(station: str) -> str:
    return f"{STATIONS}/{station}/manifest.json"


def shard_path(station: str, name: str) -> str:
    return f"{STATIONS}/{station}/{name}"


def picture_path(digest: str) -> str:
    """Of an image or a mask by the SHA-256 of its file."""
    return f"pictures/{digest[:2]}/{digest}.png"


def stations(place: Place) -> list[str]:
    """Stations with a manifest, sorted. Raises ConfigError where there is none: no archive."""
    found = [name for name in place.folders(STATIONS) if place.exists(manifest_name(name))]
    if not found:
        raise ConfigError(
            f"no archive at {place.url}",
            expected=manifest_name("<station>"),
            do="Make one: inspector ledger export --parquet DIR.",
        )
    return found


def read_manifest(place: Place, station: str) -> Manifest:
    """Raises LedgerError for one that is missing, damaged or of a later format."""
    name = manifest_name(station)
    try:
        raw: dict[str, Any] = json.loads(place.read(name))
        found = raw.pop("format")
        if found != FORMAT:
            raise LedgerError(f"{name} of {place.url}", expected=f"format {FORMAT}", found=f"format {found}")
        shards = [
            Shard(**(each | {"first": tuple(each["first"]), "last": tuple(each["last"])})) for each in raw.pop("shards")
        ]
        return Manifest(**raw, shards=shards)
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{name} of {place.url} is damaged", found=str(error), do="Restore it.") from error


def read_shard(place: Place, station: str, shard: Shard) -> bytes:
    """The shard's bytes, proven. Raises LedgerError for one that is missing or is not what the manifest says."""
    name = shard_path(station, shard.name)
    data = place.read(name)
    if sha256(data) != shard.sha256:
        raise LedgerError(
            f"shard {name} of {place.url} is corrupt",
            expected=f"SHA-256 {shard.sha256[:16]}, {shard.bytes} bytes",
            found=f"{sha256(data)[:16]}, {len(data)} bytes",
            do="Restore the file; its parts were not judged.",
        )
    return data
