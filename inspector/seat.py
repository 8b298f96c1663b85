"""One engine in its own thread. A hot swap prepares a second seat beside the first and changes over between parts."""

from __future__ import annotations

import threading
from collections.abc import Callable

from inspector.engine import Engine
from inspector.errors import InspectorError
from inspector.fittings import Recipe
from inspector.line import POLL_S, Line
from inspector.recipe import Ingredients, OpenEngine, open_proven


class Seat:
    """Opens, proves, runs and closes an engine, all in the thread of the stage that gets these three methods."""

    def __init__(
        self, line: Line, ingredients: Ingredients, opener: OpenEngine, wrap: Callable[[Engine], Engine]
    ) -> None:
        self._line, self._opener, self._wrap = line, opener, wrap
        self.ingredients = ingredients
        self.recipe: Recipe | None = None
        self.why = ""
        self.fault: InspectorError | None = None
        self._taken = threading.Event()

    def setup(self) -> None:
        """Open, warm up and self-test. A fault is kept for whoever prepared the seat; it does not stop the line."""
        try:
            opened = open_proven(self.ingredients.bundle, self._opener)
        except InspectorError as fault:
            self.fault = fault
            return
        self.why = opened.reason
        self.recipe = self.ingredients.recipe(self._wrap(opened.engine))

    def take(self) -> None:
        """From now on the line's parts are decided here."""
        if self.recipe is None:
            raise self.fault or InspectorError("this seat has no engine")
        self._line.use(self.recipe)
        self._taken.set()

    def step(self) -> None:
        if self._taken.is_set() or self._taken.wait(POLL_S):
            self._line.inspect()

    def teardown(self) -> None:
        if self.recipe is not None:
            self.recipe.engine.close()
