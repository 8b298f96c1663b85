"""The page's place behind the line: it runs where the line leaves a core."""

from __future__ import annotations

import os

NICENESS = 19
"""For where the kernel does not give idle priority, and for the choice ``nice``."""


def step_behind(wanted: str) -> str:
    """Lower this process, before it has threads: ``idle`` or ``nice``. Returns in words what it runs at now."""
    if os.getpriority(os.PRIO_PROCESS, 0) < NICENESS:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    if wanted == "nice":
        return f"nice {NICENESS}"
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError as error:
        return f"nice {NICENESS}: idle priority refused ({error.strerror})"
    return "idle priority"
