"""What the camera hands over becomes parts: each trigger gets its number here, and a frame goes to its own part only.

One frame a part, several views of a part (``Grouping``), or parts that the controller announces (``Meeting``).
Rules without threads and clocks: the caller brings the times.
"""

from __future__ import annotations

from inspector.intake.grouping import Grouping
from inspector.intake.meeting import Meeting
from inspector.intake.placed import Placed

__all__ = ["Grouping", "Meeting", "Placed"]
