"""The client's side of the local socket: one connection, one line of JSON, within a time."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from inspector.clock import Clock
from inspector.errors import InspectorError
from inspector.health.doors import SOCKET_NAME, short

_ANSWER_BYTES = 1 << 20


class NotRunningError(InspectorError):
    """No daemon runs with this state directory."""

    exit_code = 3


def ask(state_dir: Path, *, clock: Clock, timeout_s: float = 3.0) -> dict[str, Any]:
    """The status of the daemon with this state directory.

    Raises NotRunningError where there is none, InspectorError where it does not answer in time or not in JSON."""
    path = state_dir / SOCKET_NAME
    give_up_ns = clock.now_ns() + int(timeout_s * 1e9)
    heard = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(timeout_s)
            with short(path) as name:
                channel.connect(name)
            while not heard.endswith(b"\n") and len(heard) < _ANSWER_BYTES:
                channel.settimeout(max(0.001, (give_up_ns - clock.now_ns()) / 1e9))
                piece = channel.recv(65536)
                if not piece:
                    break
                heard += piece
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunningError(
            f"no daemon runs with the state directory {state_dir}",
            do="Start it with `inspector run`, or name its configuration with --config.",
        ) from None
    except PermissionError:
        raise InspectorError(
            f"not allowed to ask the daemon at {path}", do="Ask as the user it runs as, or as root."
        ) from None
    except OSError as error:
        raise InspectorError(
            f"the daemon at {path} does not answer", found=str(error), do="See its journal: it may be stuck."
        ) from None
    try:
        answer = json.loads(heard)
    except ValueError:
        raise InspectorError(f"the daemon at {path} broke off", found=f"{len(heard)} bytes that are no JSON") from None
    if not isinstance(answer, dict) or "state" not in answer:
        raise InspectorError(f"the daemon at {path} has no status", found=str(answer)[:120])
    return answer
