"""Who may do what: every route of the page with the roles it admits. The application is built from it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal


class Role(enum.Enum):
    """What a user of the page is."""

    OPERATOR = "operator"
    """Watches and acknowledges."""
    QUALITY = "quality"
    """Judges parts, exports, reads what was learned."""
    SETUP = "setup"
    """Sets up the station; reads what was learned, but does not judge."""


EVERYONE = frozenset(Role)
JUDGES = frozenset({Role.QUALITY})
LEARNERS = frozenset({Role.QUALITY, Role.SETUP})
PUBLIC: frozenset[Role] | None = None
"""No login needed: the login itself, its style, and the health check."""

FORM_BYTES = 8 << 10
JUDGEMENT_BYTES = 1 << 20
"""A brushed mask as base64, its note, and the opinion."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One route."""

    name: str
    method: Literal["GET", "POST"]
    path: str
    roles: frozenset[Role] | None
    """PUBLIC, or the roles that are let in."""
    body_bytes: int = 0
    """Longest body that is read."""


RULES = (
    Rule("static", "GET", "/static/{file:path}", PUBLIC),
    Rule("health", "GET", "/health", PUBLIC),
    Rule("login_form", "GET", "/login", PUBLIC),
    Rule("login", "POST", "/login", PUBLIC, FORM_BYTES),
    Rule("logout", "POST", "/logout", PUBLIC, FORM_BYTES),
    Rule("home", "GET", "/", EVERYONE),
    Rule("watch", "GET", "/watch", EVERYONE),
    Rule("live", "GET", "/live", EVERYONE),
    Rule("trends", "GET", "/trends", EVERYONE),
    Rule("trend_data", "GET", "/trends.json", EVERYONE),
    Rule("rejects", "GET", "/rejects", EVERYONE),
    Rule("part", "GET", "/part/{key}", EVERYONE),
    Rule("picture", "GET", "/picture/{key}", EVERYONE),
    Rule("alarms", "GET", "/alarms", EVERYONE),
    Rule("acknowledge", "POST", "/alarms/{number}", EVERYONE, FORM_BYTES),
    Rule("station", "GET", "/station", EVERYONE),
    Rule("judge", "GET", "/judge", JUDGES),
    Rule("judge_picture", "GET", "/judge/{token}/picture", JUDGES),
    Rule("decide", "POST", "/judge/{token}", JUDGES, JUDGEMENT_BYTES),
    Rule("learn", "GET", "/learn", LEARNERS),
    Rule("reviews", "GET", "/learn/reviews.csv", LEARNERS),
)
"""Names are unique; the application has a handler for each, and none besides."""


TABS = ("watch", "rejects", "trends", "alarms", "station", "judge", "learn")
"""Routes that stand in the bar of every page, for those whom they admit."""


def tabs(roles: frozenset[Role]) -> list[tuple[str, str]]:
    """(address, name) of the pages that these roles may see."""
    by_name = {rule.name: rule for rule in RULES}
    return [
        (rule.path, rule.name.capitalize()) for rule in map(by_name.__getitem__, TABS) if (rule.roles or roles) & roles
    ]
