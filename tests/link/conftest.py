"""A link on a free port, and who may be at its other end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from controller_kit import CLOCK, LOCAL, Raw
from link_help import EPOCH

from inspector.link.controller import ControllerLink
from inspector.link.listen import ReferenceController


@pytest.fixture
def link() -> Iterator[ControllerLink]:
    """A link on a free port, owned by the test's thread."""
    made = ControllerLink(LOCAL, epoch=EPOCH, clock=CLOCK, resend_s=0.02, heartbeat_s=0.05)
    made.open()
    yield made
    made.close(0)


@pytest.fixture
def controller(link: ControllerLink) -> Iterator[Callable[..., ReferenceController]]:
    """Makes reference controllers that are stopped at the test's end."""
    made: list[ReferenceController] = []

    def make(**options: object) -> ReferenceController:
        made.append(ReferenceController(link.endpoint, clock=CLOCK, **options).start())  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def raw(link: ControllerLink) -> Iterator[Raw]:
    """A bare DEALER connected to the link."""
    made = Raw(link.endpoint)
    yield made
    made.close()
