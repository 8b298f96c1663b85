"""The page's place behind the line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_ASK = """
import os, sys
from inspector.page import priority
if sys.argv[2] == "refused":
    def refuse(*_): raise PermissionError(1, "Operation not permitted")
    os.sched_setscheduler = refuse
print(priority.step_behind(sys.argv[1]), os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), sep="|")
"""


@pytest.mark.parametrize(
    ("wanted", "kernel", "said", "policy"),
    [
        ("idle", "gives", "idle priority", os.SCHED_IDLE),
        ("nice", "gives", "nice 19", os.SCHED_OTHER),
        ("idle", "refused", "nice 19: idle priority refused (Operation not permitted)", os.SCHED_OTHER),
    ],
)
def test_the_process_is_lowered_and_says_how_far(wanted: str, kernel: str, said: str, policy: int) -> None:
    """Idle where the kernel gives it, the lowest niceness in any case."""
    told = subprocess.run([sys.executable, "-c", _ASK, wanted, kernel], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == f"{said}|{policy}|19"
