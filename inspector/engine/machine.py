"""What this machine can do, as far as it decides which plan fits it."""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path

ISA = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16")
"""The CPU flags that change an engine's arithmetic or its speed."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """The CPU as the kernel describes it."""

    name: str
    isa: tuple[str, ...]

    @property
    def bf16(self) -> bool:
        """Whether products of bfloat16 are native."""
        return "avx512_bf16" in self.isa or "amx_bf16" in self.isa

    @property
    def int8(self) -> bool:
        """Whether dot products of int8 are native (VNNI or AMX)."""
        return any(flag in self.isa for flag in ("avx_vnni", "avx512_vnni", "amx_int8"))


@functools.cache
def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Cpu:
    """Name and instruction sets of the first CPU; empty where the kernel does not tell."""
    name, flags = "", set[str]()
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Cpu("unknown CPU", ())
    for line in text.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        match key.strip():
            case "model name":
                name = value.strip()
            case "flags" | "Features":
                flags = set(value.split())
    return Cpu(name or "unknown CPU", tuple(flag for flag in ISA if flag in flags))


def physical_cores(
    topology: Path = Path("/sys/devices/system/cpu"), quota: Path = Path("/sys/fs/cgroup/cpu.max")
) -> int:
    """Physical cores that this process may use: its affinity, threads of one core counted once, cut by a CPU quota."""
    allowed = os.sched_getaffinity(0)
    cores = set[tuple[str, str]]()
    for number in allowed:
        place = topology / f"cpu{number}" / "topology"
        try:
            cores.add(((place / "physical_package_id").read_text(), (place / "core_id").read_text()))
        except OSError:
            cores.add(("", str(number)))
    count = len(cores)
    try:
        limit, period = quota.read_text().split()
        if limit != "max":
            count = min(count, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError):
        pass  # no quota, or a kernel that tells it elsewhere
    return max(1, count)


def device_class() -> str:
    """What decides an engine's arithmetic on this CPU, and so which results compare: equal classes, equal bits."""
    return "cpu " + "+".join(cpu().isa)
