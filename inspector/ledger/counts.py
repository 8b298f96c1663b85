"""Small counters of the book: which numbers are committed, and how long commits took."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BookStatistics:
    """Counts since ``open``; durations in microseconds, within 9 %."""

    epoch: int
    rows: int
    """Answers committed."""
    commits: int
    batch_peak: int
    failures: int
    """Writes that were refused (disk full, locked, fault); each was rolled back whole."""
    commit_p50_us: float
    commit_p99_us: float
    commit_max_us: float
    wal_bytes: int
    """What stands in the WAL since it last began at its start."""
    lag_ns: int
    """Age of the oldest commit that is not yet durable."""
    durable: int
    committed: int
    """Like ``durable``, for kill -9: every number up to this one has a committed row."""


class Numbers:
    """A set of whole numbers >= 1, kept as intervals: memory grows with the holes, not with the numbers."""

    def __init__(self) -> None:
        self._start_of: dict[int, int] = {}
        self._end_of: dict[int, int] = {}

    def add(self, number: int) -> None:
        """Put ``number``."""
        if number in self:
            return
        start = self._start_of.pop(number - 1, number)
        end = self._end_of.pop(number + 1, number)
        if start < number:
            del self._end_of[start]
        if end > number:
            del self._start_of[end]
        self._end_of[start] = end
        self._start_of[end] = start

    def __contains__(self, number: int) -> bool:
        if number <= self.contiguous:
            return number >= 1
        return any(start <= number <= end for start, end in self._end_of.items())

    def spans(self) -> list[tuple[int, int]]:
        """The ranges (first, last) without a hole, ascending."""
        return sorted(self._end_of.items())

    @property
    def contiguous(self) -> int:
        """The highest n for which 1..n are all in the set; 0 while 1 is missing."""
        return self._end_of.get(1, 0)


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Different whole numbers in any order -> the ranges (first, last) without a hole that they make, ascending."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


class Durations:
    """A histogram of durations with 8 buckets an octave: percentiles within 9 %, in constant memory."""

    def __init__(self) -> None:
        self._buckets = [0] * 256
        self.count = 0
        self.longest_us = 0.0

    def add(self, nanoseconds: int) -> None:
        """Count one duration."""
        us = nanoseconds / 1000
        self._buckets[min(255, max(0, int(math.log2(us + 1) * 8)))] += 1
        self.count += 1
        self.longest_us = max(self.longest_us, us)

    def percentile_us(self, share: float) -> float:
        """The upper edge of the bucket that holds this share of the durations; 0 when there are none."""
        wanted, seen = share * self.count, 0
        for index, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(self.longest_us, 2 ** ((index + 1) / 8) - 1)
        return 0.0
