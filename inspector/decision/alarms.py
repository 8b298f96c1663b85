"""Alarms over the run of verdicts. They tell people and the controller; they change no verdict."""

from __future__ import annotations

from collections import deque

from inspector.errors import ConfigError
from inspector.frame import Verdict


class Alarms:
    """``fails`` of the last ``among`` parts failed; or no part failed in a run of ``no_reject_run``.

    INVALID parts enter neither: they have their own counts, and they say nothing about what the inspection sees.
    Not for several threads.
    """

    def __init__(self, fails: int, among: int, no_reject_run: int = 0) -> None:
        """0 switches an alarm off. Raises ConfigError where it could never sound."""
        if fails < 0 or no_reject_run < 0 or (fails > 0 and among < fails):
            raise ConfigError(
                "alarm settings cannot be met",
                expected="0 <= alarm.fails <= alarm.among and alarm.no_reject_run >= 0",
                found=f"fails {fails}, among {among}, no_reject_run {no_reject_run}",
            )
        self._fails, self._among, self._no_reject_run = fails, among, no_reject_run
        self._window: deque[bool] = deque(maxlen=among if fails else 0)
        self._sounding = False
        self._passes = 0

    def update(self, verdict: Verdict) -> list[str]:
        """Take the next answered part's verdict; returns the alarms that begin with it, in words with figures.

        The alarm for fails sounds once and again only after the window fell below its limit; the one for missing
        rejects sounds every ``no_reject_run`` parts.
        """
        if verdict is Verdict.INVALID:
            return []
        begun = []
        failed = verdict is Verdict.FAIL
        if self._fails:
            self._window.append(failed)
            count = sum(self._window)
            if count >= self._fails and not self._sounding:
                begun.append(f"{count} of the last {len(self._window)} parts failed, alarm at {self._fails}")
            self._sounding = count >= self._fails
        self._passes = 0 if failed else self._passes + 1
        if self._no_reject_run and self._passes and self._passes % self._no_reject_run == 0:
            begun.append(f"no reject in {self._passes} parts, alarm every {self._no_reject_run}")
        return begun
