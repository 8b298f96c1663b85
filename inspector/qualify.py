"""Qualify a station: judge the qualification set as the line would, compare, and write down what it shows.

A recipe is qualified where no more verdicts than allowed differ from those of the last qualification over the same
images, and where the upper confidence bound of the escape rate is within the promise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2

from inspector import qualification
from inspector.bounds import needed_n, upper_bound
from inspector.clock import Clock
from inspector.config import Settings
from inspector.errors import ConfigError
from inspector.figures import Tally
from inspector.fittings import Recipe
from inspector.layouts import Sample, list_samples
from inspector.qualification import ACCEPTED, FOLDER, REPLAY, WITHDRAWN, RecipeCard, Record, Standing
from inspector.recipe import Ingredients, engine_opener, open_proven, read_ingredients
from inspector.replay import judge_all

_LISTED = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the qualification set showed."""

    qualified: bool
    reasons: tuple[str, ...]
    """Why not; empty where it is."""
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Keys of ``qualify --json``."""
        return {"qualified": self.qualified, "reasons": list(self.reasons), **self.figures}


def qualify(
    settings: Settings,
    data: Path,
    *,
    by: str,
    clock: Clock,
    note: str = "",
    layout: str = "auto",
    max_flips: int = 0,
    max_escape: float | None = None,
    confidence: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Judge every image of ``data`` and, where that is good enough, add the record that qualifies the station.

    ``max_escape`` None: what the configuration or the bundle promises. Raises ConfigError (nothing is promised, no
    labelled images, records damaged) and EngineError.
    """
    state = settings.station.state_dir
    former = _former(state)
    samples = list_samples(data, layout)
    with _ready(settings, clock) as (ingredients, recipe):
        promise = max_escape if max_escape is not None else ingredients.promised
        if promise is None:
            raise ConfigError(
                "no escape rate is promised, so nothing can be held to it",
                do="Give --max-escape, set review.max_escape, or run `inspector calibrate threshold`.",
            )
        verdicts, tally = {}, Tally()
        for done, one in enumerate(judge_all(samples, recipe, clock), start=1):
            tally.add(one.decision.verdict, one.sample.defective)
            verdicts[one.sample.id] = (_sha256(one.sample), one.decision.verdict.value)
            on_progress(done, len(samples))
        card = ingredients.card(recipe)
    sure = confidence if confidence is not None else settings.review.confidence
    figures = _figures(tally, verdicts, former, promise, sure) | {"max_flips": max_flips}
    reasons = _reasons(figures, former)
    if not reasons:
        figures["verdicts"] = _keep(state, verdicts)
        qualification.append(state, Record(REPLAY, by, clock.wall_ns(), card, note, figures))
    return Outcome(not reasons, tuple(reasons), figures)


def accept(settings: Settings, *, by: str, note: str, clock: Clock, withdraw: bool = False) -> Standing:
    """A person answers for the present recipe, or takes its qualification back. Raises ConfigError, EngineError."""
    card = present(settings, clock)
    how = WITHDRAWN if withdraw else ACCEPTED
    state = settings.station.state_dir
    qualification.append(state, Record(how, by, clock.wall_ns(), card, note))
    return qualification.stand(qualification.read(state), card)


def present(settings: Settings, clock: Clock) -> RecipeCard:
    """What a daemon with these settings would decide with. Raises ConfigError, EngineError."""
    with _ready(settings, clock) as (ingredients, recipe):
        return ingredients.card(recipe)


@contextmanager
def _ready(settings: Settings, clock: Clock) -> Iterator[tuple[Ingredients, Recipe]]:
    cv2.setNumThreads(1)
    ingredients = read_ingredients(settings, clock)
    opened = open_proven(ingredients.bundle, engine_opener(settings))
    try:
        yield ingredients, ingredients.recipe(opened.engine)
    finally:
        opened.engine.close()


@dataclass(frozen=True, slots=True)
class _Former:
    """The last qualification by replay that was not of this run: its verdicts by image."""

    record: Record
    verdicts: dict[str, tuple[str, str]]
    """Image id -> SHA-256 of the file, verdict."""


def _former(state: Path) -> _Former | None:
    replays = [record for record in qualification.read(state) if record.how == REPLAY]
    if not replays:
        return None
    path = state / str(replays[-1].evidence["verdicts"])
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}", found=error.strerror or str(error), do="Restore the file.") from error
    if path.stem != hashlib.sha256(data).hexdigest()[:16]:
        raise ConfigError(f"{path} was changed since it was written", do="Restore the file.")
    rows = [json.loads(line) for line in data.splitlines()]
    return _Former(replays[-1], {row["image"]: (row["sha256"], row["verdict"]) for row in rows})


def _figures(
    tally: Tally, verdicts: dict[str, tuple[str, str]], former: _Former | None, promise: float, confidence: float
) -> dict[str, Any]:
    seen = tally.figures()
    known = former.verdicts if former is not None else {}
    same = [image for image, (sha256, _) in verdicts.items() if known.get(image, ("", ""))[0] == sha256]
    flips = [image for image in same if known[image][1] != verdicts[image][1]]
    return {
        "images": seen.images,
        "pass": seen.passed,
        "fail": seen.failed,
        "invalid": seen.invalid,
        "defective": seen.defective,
        "good": seen.good,
        "escapes": seen.escapes or 0,
        "escape_bound": upper_bound(seen.escapes or 0, seen.defective, confidence),
        "overkill": seen.overkill or 0,
        "max_escape": promise,
        "confidence": confidence,
        "compared": len(same),
        "flips": len(flips),
        "flipped": flips[:_LISTED],
    }


def _reasons(figures: dict[str, Any], former: _Former | None) -> list[str]:
    out = []
    if figures["flips"] > figures["max_flips"] and former is not None:
        since = f"{_day(former.record.wall_ns)} by {former.record.by}"
        out.append(
            f"{figures['flips']} of {figures['compared']} verdicts differ from those qualified {since}, allowed are "
            f"{figures['max_flips']}: {', '.join(figures['flipped'])}"
        )
    bound, promise, escapes = figures["escape_bound"], figures["max_escape"], figures["escapes"]
    if bound > promise:
        needed = needed_n(promise, figures["confidence"], escapes)
        out.append(
            f"{escapes} of {figures['defective']} defective parts passed: the escape rate is at most "
            f"{percent(bound)}, promised {percent(promise)}; with {escapes} escapes {needed} defective parts "
            "would show it"
        )
    return out


def percent(share: float) -> str:
    """Two figures, never 1e+02."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _keep(state: Path, verdicts: dict[str, tuple[str, str]]) -> str:
    """Writes the verdicts under the hash of their content; the name below the state directory."""
    rows = [{"image": image, "sha256": sha256, "verdict": verdict} for image, (sha256, verdict) in verdicts.items()]
    data = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
    name = f"{FOLDER}/{hashlib.sha256(data).hexdigest()[:16]}.jsonl"
    try:
        (state / FOLDER).mkdir(parents=True, exist_ok=True)
        draft = (state / name).with_suffix(".part")
        draft.write_bytes(data)
        draft.replace(state / name)
    except OSError as error:
        raise ConfigError(f"cannot write {state / name}", found=error.strerror or str(error)) from error
    return name


def _sha256(sample: Sample) -> str:
    return hashlib.sha256(sample.image.read_bytes()).hexdigest()


def _day(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d")
