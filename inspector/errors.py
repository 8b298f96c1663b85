"""Our errors. Each says what was expected, what was found and what to do, in one line."""

from __future__ import annotations


class InspectorError(Exception):
    """A fault of ours. ``exit_code`` is what the command line ends with."""

    exit_code = 1

    def __init__(self, what: str, *, expected: str = "", found: str = "", do: str = "") -> None:
        self.what, self.expected, self.found, self.do = _bounded(what, 16_000), expected, _bounded(found, 4000), do
        super().__init__(self.what)

    def __str__(self) -> str:
        parts = [self.what]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.found:
            parts.append(f"found {self.found}")
        line = "; ".join(parts)
        return f"{line}. {self.do}" if self.do else line

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.expected, self.found, self.do))


def _bounded(text: str, most: int) -> str:
    """A path or a key from a damaged file may be of any length; its two ends tell enough."""
    return text if len(text) <= most else f"{text[:200]} ... {text[-200:]}"


def _rebuild(kind: type[InspectorError], what: str, expected: str, found: str, do: str) -> InspectorError:
    return kind(what, expected=expected, found=found, do=do)


class ConfigError(InspectorError):
    """Bad usage, configuration, calibration or rules."""

    exit_code = 2


class CameraError(InspectorError):
    """The camera is not there, was lost, or refuses a feature."""

    exit_code = 3


class EngineError(InspectorError):
    """The engine or its bundle is missing, stale, damaged or fails."""

    exit_code = 3


class LinkError(InspectorError):
    """A socket cannot be opened or a message cannot be read."""

    exit_code = 1


class LedgerError(InspectorError):
    """The ledger or the store cannot be written or read."""

    exit_code = 1

    full = False
    """True when the disk is full: the same write works again once space returns."""


class LedgerFullError(LedgerError):
    """The disk is full."""

    full = True


def quoted(value: object) -> str:
    """A value as an error quotes it: short, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; nested too deeply
        return f"{type(value).__name__} too long to show"
    return shortened(text)


def shortened(text: str) -> str:
    """A text from elsewhere as an error tells it."""
    return text if len(text) <= 200 else text[:197] + "..."
