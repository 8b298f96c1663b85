"""What a shadow has done so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShadowStatistics:
    """Counts since the daemon's start; ``compared`` + ``skipped`` + waiting = parts answered."""

    on: bool = False
    """A bundle is configured."""
    up: bool = False
    """Its engine is proven and takes parts."""
    bundle: str = ""
    engine: str = ""
    """First 16 hex digits of its plan's hash."""
    compared: int = 0
    pass_to_fail: int = 0
    fail_to_pass: int = 0
    to_invalid: int = 0
    from_invalid: int = 0
    skipped_busy: int = 0
    """Displaced by newer parts: there was no idle time for them."""
    skipped_unjudged: int = 0
    """Late, dropped or missed: the live engine said nothing on the picture."""
    skipped_gone: int = 0
    """A frame of the part was no longer there."""
    skipped_recipe: int = 0
    """Answered with another calibration or other rules than the shadow's."""
    skipped_lost: int = 0
    """In the process when it failed, or waiting while it was away."""
    restarts: int = 0
    yields: int = 0
    """Times a part stopped the process in its work."""
    waiting: int = 0
    cpu_us: int = 0
    """Processor time of all judgements."""
    last_fault: str = ""
