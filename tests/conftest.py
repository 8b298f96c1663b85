"""What every room's tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The published image sets beside the checkout; skips where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the published image sets are not beside this checkout (../shared/data)")
    return SHARED
