"""What a station may ask of the kernel for its due times: priority for a thread, cores that do not fall asleep."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from inspector.journal import Log

WAKE_DEVICE = Path("/dev/cpu_dma_latency")
_DO = "`inspector install-service --realtime` gives the right"


def take_priority(thread: str, priority: int, log: Log) -> None:
    """Give the calling thread this SCHED_FIFO priority; 0 = none. Without the right it runs on as any other."""
    if not priority:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        log.warning(
            "no real time",
            thread=thread,
            priority=priority,
            fault=error.strerror,
            do=f"{_DO}, up to LimitRTPRIO=",
        )
    else:
        log.info("real time", thread=thread, priority=priority)


@contextlib.contextmanager
def awake(wake_us: int | None, log: Log, device: Path = WAKE_DEVICE) -> Iterator[None]:
    """Meanwhile no core sleeps so deeply that it takes more than ``wake_us`` microseconds to wake; 0 = none sleeps.

    None leaves it to the kernel. The kernel keeps the promise as long as the file is open (pm_qos_interface.rst), so
    it ends with the process, too. Without the right the station runs on as any other, and the journal says so.
    """
    if wake_us is None:
        yield
        return
    try:
        held = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        log.warning("cores may fall asleep", wake_us=wake_us, fault=f"{device}: {error.strerror}", do=_DO)
        yield
        return
    try:
        os.write(held, struct.pack("=i", wake_us))
        log.info("cores stay awake", wake_us=wake_us)
        yield
    finally:
        os.close(held)
