"""Change control as the page shows it: of a running station, from what its daemon says."""

from __future__ import annotations

from pathlib import Path

from page_kit import HTML, browsing, make_page, wait

from inspector.qualification import ACCEPTED, Record, append
from tests.station_kit import Wrapped, running, settings, trivial


def test_the_page_says_what_is_not_qualified_and_who_accepted_it(tmp_path: Path) -> None:
    """On the watch page and the station page, with the reason; a name and a note where a person answered for it."""
    with running(settings(tmp_path), wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        seen.wait_for(lambda came: len(came) >= 1)
        page = make_page(tmp_path / "state")
        with browsing(page) as client:

            def told(address: str, words: str) -> bool:
                return words in " ".join(client.get(address, headers=HTML).text.split())

            wait(lambda: told("/station", "▲ Not qualified <small>nobody has qualified this station"), "the reason")
            wait(lambda: told("/watch", "▲ Not qualified, because nobody has qualified this station."), "the notice")
            recipe = seen.station.line.recipe
            assert recipe is not None
            card = seen.station.ingredients.card(recipe)
            append(tmp_path / "state", Record(ACCEPTED, "anna", 1_800_000_000_000_000_000, card, "a <b>trial</b>"))
            wait(lambda: told("/station", "✓ Qualified <small>accepted by anna"), "the name")
            assert told("/station", "a &lt;b&gt;trial&lt;/b&gt;")
            wait(lambda: not told("/watch", "Not qualified"), "the notice goes")
