"""Whoever is at the page in ``inspector bench --page``: live pages that read on, and clients that ask without a pause.

``python -m inspector.bench_crowd URL VIEWERS CLIENTS PATH`` goes on until its standard input ends; then one JSON object
on its output. Its own process, at the lowest priority: it stands for other computers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from inspector.page.priority import step_behind

_PIECE = 1 << 16
_RETRY_S = 0.1


async def crowd(url: str, viewers: int, clients: int, path: str) -> dict[str, int]:
    """Counts by what came: ``parts`` on all live pages, answers by status, connections that broke."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    counts: Counter[str] = Counter()

    async def view() -> None:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 24)
        writer.write(_request("/live", port))
        try:
            while line := await reader.readline():
                counts["parts"] += line.startswith(b"event: part")
        finally:
            writer.close()

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            while True:
                writer.write(_request(path, port))
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
                while length > 0:
                    length -= len(piece := await reader.read(min(length, _PIECE)))
                    if not piece:
                        raise ConnectionError
                counts[head[9:12].decode()] += 1
        finally:
            writer.close()

    async def again(one: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await one()
            except (OSError, EOFError):
                counts["broken"] += 1
            await asyncio.sleep(_RETRY_S)

    tasks = [asyncio.create_task(again(one)) for one in [view] * viewers + [ask] * clients]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    return dict(counts)


def _request(path: str, port: int) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode()


def main(url: str, viewers: str, clients: str, path: str) -> None:
    """The process."""
    step_behind("idle")
    json.dump(asyncio.run(crowd(url, int(viewers), int(clients), path)), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
