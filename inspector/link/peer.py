"""The controller as the link sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Peer:
    """Who said HELLO, and when it was last heard."""

    identity: bytes
    user_id: str
    heard_ns: int
    up: bool = True

    @property
    def name(self) -> str:
        """For people."""
        return self.identity.decode("ascii", "backslashreplace")[:64]
