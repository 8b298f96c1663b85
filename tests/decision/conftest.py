"""Every rule of the decision holds by the C functions and by the Python code that they stand for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inspector import native


@pytest.fixture(scope="module", autouse=True, params=["native", "python"])
def code(request: pytest.FixtureRequest) -> Iterator[None]:
    """Which of the two decides."""
    if request.param == "python":
        with native.without():
            yield
        return
    if native.found is None:
        pytest.skip("the C functions are not built, or INSPECTOR_NATIVE=0")
    yield
