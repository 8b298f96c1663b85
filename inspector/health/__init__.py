"""What the station tells about itself: counts, timings, metrics, status, and the service manager's notifications."""

from inspector.health.notify import Notifier
from inspector.health.tally import Tally

__all__ = ["Notifier", "Tally"]
