"""check-config beyond the file itself: what it names is there and can be used. Nothing is bound or started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from inspector.clock import SystemClock
from inspector.config import Settings
from inspector.engine.bundle import load_bundle
from inspector.engine.choose import open_engine
from inspector.errors import ConfigError, InspectorError
from inspector.health.doors import split_address
from inspector.layouts import list_samples
from inspector.link.keys import CurveKeys
from inspector.link.sockets import check_endpoint, check_exposure
from inspector.recipe import read_ingredients


def checkup(settings: Settings) -> list[InspectorError]:
    """Every fault that can be found without a socket or a camera; none where ``run`` has what it needs."""
    faults = []
    for check in _checks(settings):
        try:
            check()
        except InspectorError as fault:
            faults.append(fault)
    return faults


def _checks(settings: Settings) -> Iterator[Callable[[], object]]:
    link, camera = settings.link, settings.camera
    yield lambda: read_ingredients(settings, SystemClock())
    yield lambda: _engine(settings)
    for endpoint in filter(None, (link.endpoint, link.viewers)):
        yield partial(_endpoint, endpoint, settings)
    if link.keys_dir is not None:
        yield partial(CurveKeys.load, link.keys_dir, "controllers")
    if settings.health.metrics:
        yield lambda: split_address(settings.health.metrics)
    if camera.kind == "folder":
        yield lambda: list_samples(camera.folder, camera.layout, read_masks=False)
    if camera.kind == "genicam":
        yield from (partial(_there, path, "camera.producers") for path in camera.producers)
    if settings.shadow.bundle is not None:
        yield partial(load_bundle, settings.shadow.bundle)
    for name, path in (("page.certificate", settings.page.certificate), ("page.key", settings.page.key)):
        if path is not None:
            yield partial(_there, path, name)


def _engine(settings: Settings) -> None:
    wanted = settings.engine
    try:
        bundle = load_bundle(wanted.bundle)
    except InspectorError:
        return  # told with the recipe
    open_engine(bundle, backend=wanted.backend, precision=wanted.precision, threads=wanted.threads).engine.close()


def _endpoint(endpoint: str, settings: Settings) -> None:
    check_endpoint(endpoint)
    encrypted = settings.link.keys_dir is not None
    check_exposure(endpoint, encrypted=encrypted, allow_plaintext=settings.link.allow_plaintext)


def _there(path: Path, key: str) -> None:
    if not path.is_file():
        raise ConfigError(f"{key} names no file", found=str(path))
