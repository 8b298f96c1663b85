"""The simulated drill holds on the line as it is, and catches each bug that is planted on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector.docket import Docket, Overdue
from inspector.drill.simulate import figures, simulate
from inspector.frame import Decision, Frame, Missed, Reason, Settled, Verdict
from inspector.line import Line

SEEDS, PARTS = 120, 100


def test_every_invariant_holds_over_many_schedules(tmp_path: Path) -> None:
    """Thousands of parts under all faults at once: no violation, and every kind of outcome occurred."""
    results = [simulate(seed, PARTS, tmp_path / str(seed)) for seed in range(SEEDS)]
    found = figures(results)
    assert found["first_violations"] == []
    assert found["parts"] == found["answered"] > 0.9 * SEEDS * PARTS
    assert found["kills"] > 0
    wanted = {reason.value for reason in Reason} - {"VIEW_MISSING"}
    assert wanted | {"PASS", "FAIL"} <= set(found["outcomes"])


def test_the_same_seed_gives_the_same_result(tmp_path: Path) -> None:
    """A schedule that fails can be played again."""
    first, second = (simulate(11, 150, tmp_path / name) for name in "ab")
    assert (first.outcomes, first.lateness_us) == (second.outcomes, second.lateness_us)


# ---------------------------------------------------------------------------------------------------- planted bugs


def pass_after_due(line: Line) -> None:
    """The docket forgets the due time."""
    settle = line.docket._settle

    def forgetful(row: Any, decision: Decision, now_ns: int, *rest: Any) -> Settled:
        in_time = decision.verdict is Verdict.INVALID
        return settle(row, decision, now_ns if in_time else min(now_ns, row.entry.due_ns - 1), *rest)

    line.docket._settle = forgetful  # type: ignore[method-assign]


def second_settlement_wins(line: Line) -> None:
    """A part can be settled again while it waits for its answer."""
    settle = line.docket.settle

    def again(sequence: int, decision: Decision, **rest: Any) -> Settled | None:
        row = line.docket._lines.get(sequence)
        if row is not None:
            row.settled = None
        first = settle(sequence, decision, **rest)
        if first is not None and row is not None:
            row.settled = None
            return settle(sequence, decision, **{**rest, "now_ns": rest["now_ns"] + 1}) and first
        return first

    line.docket.settle = again  # type: ignore[method-assign]


def nothing_is_swept(line: Line) -> None:
    """The due-time net is gone."""
    line.docket.overdue = lambda now_ns: []  # type: ignore[method-assign]


def unrecorded_leaves_as_decided(line: Line) -> None:
    """A PASS whose row is not committed is sent all the same."""
    overdue = line.docket.overdue

    def trusting(now_ns: int) -> list[Overdue]:
        waiting = {row.entry.sequence: row.settled for row in line.docket._lines.values()}
        found = overdue(now_ns)
        return [
            replace(one, settled=waiting.get(one.settled.answer.sequence) or one.settled, overrides=False)
            for one in found
        ]

    line.docket.overdue = trusting  # type: ignore[method-assign]


def sent_before_commit(line: Line) -> None:
    """The book passes rows on before it has committed them."""
    write = line.ledger.write

    def eager(batch: Any) -> None:
        for row in batch:
            if isinstance(row, Settled):
                line.committed.offer(row)
        write(batch)

    line.ledger.write = eager  # type: ignore[method-assign]


def losses_are_not_opened(line: Line) -> None:
    """A lost frame opens no docket entry."""
    take = line.camera.next

    def deaf(timeout_s: float) -> Frame | Missed | None:
        arrived = take(timeout_s)
        return None if isinstance(arrived, Missed) else arrived

    line.camera = _Camera(line.camera, deaf)


def displaced_is_forgotten(line: Line) -> None:
    """What a full queue hands back is not settled; only the due time saves it."""
    offer = line.parts.offer
    line.parts.offer = lambda item: offer(item) and None  # type: ignore[method-assign]


def incomplete_becomes_missed(line: Line) -> None:
    """The reason that is recorded is not the cause."""
    take = line.camera.next

    def vague(timeout_s: float) -> Frame | Missed | None:
        arrived = take(timeout_s)
        return replace(arrived, reason=Reason.MISSED) if isinstance(arrived, Missed) else arrived

    line.camera = _Camera(line.camera, vague)


def not_finite_is_nothing(line: Line) -> None:
    """NaN counts as zero: a part that was not inspected passes."""
    recipe = line.recipe
    assert recipe is not None
    infer = recipe.engine.infer
    recipe.engine.infer = lambda batch: np.nan_to_num(infer(batch))  # type: ignore[method-assign]


def a_claim_always_succeeds(line: Line) -> None:
    """Two answers for one part."""
    claim = line.docket.claim
    line.docket.claim = lambda sequence: claim(sequence) or True  # type: ignore[method-assign]


def closing_settles_nothing(line: Line) -> None:
    """Open parts are dropped at the end."""
    line.docket.close = lambda now_ns: []  # type: ignore[method-assign]
    line.docket.overdue = _until_closed(line.docket, line)  # type: ignore[method-assign]


def override_is_not_booked(line: Line) -> None:
    """The ledger keeps the PASS although UNRECORDED was sent."""
    overdue = line.docket.overdue
    line.docket.overdue = lambda now_ns: [  # type: ignore[method-assign]
        replace(one, overrides=False) for one in overdue(now_ns)
    ]


def unbooked_answers_are_forgotten(line: Line) -> None:
    """kill -9 between an answer and its row: the next run tells the controller something else."""
    line._on_unbooked = lambda answer: None


def too_late_at_the_link_is_let_be(line: Line) -> None:
    """A PASS that the link refuses because its due time came meanwhile is answered with nothing."""

    def leave(settled: Settled) -> Settled:
        line.link.send(settled.answer, durable=0)
        return settled

    line._leave = leave  # type: ignore[method-assign]


def what_was_told_instead_is_not_noted(line: Line) -> None:
    """The link refuses a PASS as too late, INVALID leaves, and the ledger keeps the PASS."""
    line._leave = _without_override(line)  # type: ignore[method-assign]


class _Camera:
    """Another camera in front of the first."""

    def __init__(self, behind: Any, take: Callable[[float], Frame | Missed | None]) -> None:
        self._behind, self.next = behind, take

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)


def _without_override(line: Line) -> Callable[[Settled], Settled]:
    leave = line._leave

    def quietly(settled: Settled) -> Settled:
        book = line._to_book
        line._to_book = lambda row: None  # type: ignore[method-assign]
        try:
            return leave(settled)
        finally:
            line._to_book = book  # type: ignore[method-assign]

    return quietly


def _until_closed(docket: Docket, line: Line) -> Callable[[int], list[Overdue]]:
    overdue = docket.overdue
    return lambda now_ns: [] if line.parts._closed else overdue(now_ns)


MUTANTS = [
    pass_after_due,
    second_settlement_wins,
    nothing_is_swept,
    unrecorded_leaves_as_decided,
    sent_before_commit,
    losses_are_not_opened,
    displaced_is_forgotten,
    incomplete_becomes_missed,
    not_finite_is_nothing,
    a_claim_always_succeeds,
    closing_settles_nothing,
    override_is_not_booked,
    unbooked_answers_are_forgotten,
    too_late_at_the_link_is_let_be,
    what_was_told_instead_is_not_noted,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_planted_bug_is_caught(mutant: Callable[[Line], None], tmp_path: Path) -> None:
    """Each invariant has a test that fails when it is broken on purpose."""
    for seed in range(40):
        result = simulate(seed, PARTS, tmp_path / str(seed), sabotage=mutant)
        if result.faults:
            return
    pytest.fail(f"40 schedules did not catch: {mutant.__doc__}")
