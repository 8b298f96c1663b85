"""Small networks and small sets: the tests share two cores with everything else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # train/ is run from the checkout, not installed
torch = pytest.importorskip("torch", reason="training needs the train extra")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread: sums run in one order, and a busy neighbour cannot hold up a second one at every barrier."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def plain_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of 64 x 64, half of them defective."""
    from train_helpers import draw_set

    return draw_set(tmp_path_factory.mktemp("plain") / "set", 24)
