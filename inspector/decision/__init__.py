"""Map -> defects -> verdict. Pure: the same map, rules and geometry give the same decision, bit for bit.

rules.py      what a station forbids: limits, review band, zones
runs.py       row runs of the thresholded map, and which of them are connected
blobs.py      connected blobs, their sums and shapes
callipers.py  their hulls, lengths, widths and boxes
judge.py      decide one view, and the worst of several
views.py      wait for the views of a part
alarms.py     alarms over the run of verdicts
"""

from inspector.decision.alarms import Alarms
from inspector.decision.judge import decide, worst
from inspector.decision.rules import Limits, Rules, Zone
from inspector.decision.views import Views

__all__ = ["Alarms", "Limits", "Rules", "Views", "Zone", "decide", "worst"]
