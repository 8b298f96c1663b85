"""For tests that compare the C functions with their reference."""

from __future__ import annotations

import pytest

from inspector import native

needs_native = pytest.mark.skipif(native.found is None, reason="the C functions are not built, or INSPECTOR_NATIVE=0")
