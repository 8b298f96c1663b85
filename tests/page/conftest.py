"""A ledger and pictures that the real line wrote, and the page over them."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from inspector.engine import Engine
from inspector.errors import EngineError
from inspector.frame import FloatMap
from inspector.page.app import Page
from inspector.page.users import Users
from tests.page.page_kit import PASSWORD, USERS, Journal, browsing, count_all, make_page
from tests.station_kit import Wrapped, finish, settings

PARTS = 30


def quick(_: Engine, batch: FloatMap) -> FloatMap:
    """In place of the network, so that a busy machine is quick enough: by the picture, some parts have a defect."""
    found = np.zeros_like(batch)
    number = zlib.crc32(batch.tobytes()) % 8
    if number == 7:
        raise EngineError("planted")
    if number < 4:
        found[:, :, 100:130, 60 + 10 * number : 90 + 10 * number] = 0.9
    return found


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a station that ran PARTS parts; not to be changed."""
    folder = tmp_path_factory.mktemp("line")
    wanted = settings(
        folder,
        store={"save": ["PASS", "FAIL", "INVALID"]},
        camera={"rate_hz": 25.0, "distinct": 20},
        timing={"gate_ms": 100_000.0, "queue": 64},
    )
    seen = finish(wanted, PARTS, wrap_engine=lambda engine: Wrapped(engine, quick))
    assert len(seen.arrivals) == PARTS
    return folder / "state"


@pytest.fixture(scope="session")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: each password takes a tenth of a second."""
    users = Users(tmp_path_factory.mktemp("users"))
    for name, role in USERS.items():
        users.add(name, role, PASSWORD)
    return users.path


@pytest.fixture
def state(written: Path, tmp_path: Path) -> Path:
    """A copy of the line's state directory."""
    shutil.copytree(written, tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def page(state: Path, journal: Journal) -> Page:
    """A page without users, not open yet."""
    return make_page(state, journal=journal)


@pytest.fixture
def with_users(page: Page, users_file: Path) -> Page:
    """The same with one user of each role."""
    shutil.copy2(users_file, page.users.path)
    return page


@pytest.fixture
def client(page: Page) -> Iterator[TestClient]:
    """A browser at the open page without users, which has counted the ledger."""
    with browsing(page) as made:
        count_all(page)
        yield made


@pytest.fixture
def guest(with_users: Page) -> Iterator[TestClient]:
    """A browser at the page with users, not logged in."""
    with browsing(with_users) as made:
        count_all(with_users)
        yield made
