"""Who does the tasks on this machine: one process a core, each with an engine of its own.

A process that dies costs the shard it had; another takes its place and the shard is done again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from inspector.archive.place import Place
from inspector.errors import InspectorError
from inspector.requalify.plan import Task
from inspector.requalify.worker import Outcome, Worker

ATTEMPTS = 3
"""Workers that a shard may cost before it is given up: a picture that kills a decoder would kill every one."""


def run_here(tasks: Sequence[Task], archive: Place, out: Place) -> Iterator[Outcome]:
    """All tasks in this process. Raises EngineError where the engine does not fit this machine."""
    worker = Worker(archive, out)
    try:
        for task in tasks:
            yield worker.run(task)
    finally:
        worker.close()


def run_processes(tasks: Sequence[Task], archive: Place, out: Place, workers: int) -> Iterator[Outcome]:
    """The tasks over ``workers`` processes, in the order in which they are done."""
    waiting, attempts = deque(tasks), dict.fromkeys((task.name for task in tasks), 0)
    crew: list[_Process] = []
    try:
        while waiting or any(each.task is not None for each in crew):
            while waiting and len(crew) < workers:
                crew.append(_Process(archive.url, out.url))
            for each in crew:
                if each.task is None and waiting:
                    each.give(waiting.popleft())
            for each in _ready([each for each in crew if each.task is not None]):
                task = each.task
                assert task is not None
                outcome = each.take()
                if outcome is not None:
                    yield outcome
                    continue
                crew.remove(each)
                each.end()
                attempts[task.name] += 1
                if attempts[task.name] < ATTEMPTS:
                    waiting.appendleft(task)
                else:
                    yield Outcome(task, errors=task.shard.images, fault=given_up(task))
    finally:
        for each in crew:
            each.end()


def given_up(task: Task) -> str:
    """The line about a shard that killed every worker it was given to."""
    return f"shard {task.station}/{task.shard.name} was given up: {ATTEMPTS} workers died over it"


@dataclass(slots=True)
class _Process:
    """One worker process and the task it has."""

    archive: str
    out: str
    task: Task | None = None
    process: Any = None
    pipe: Connection | None = None

    def __post_init__(self) -> None:
        # Started anew, not forked: the engine's threads do not outlive a fork.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.archive, self.out), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        assert self.pipe is not None
        self.task = task
        with contextlib.suppress(OSError):  # it is dead: ``take`` finds the pipe closed
            self.pipe.send(task)

    def take(self) -> Outcome | None:
        """What it says; None where it died. Raises what the worker raised."""
        assert self.pipe is not None
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            return None
        self.task = None
        if isinstance(said, InspectorError):
            raise said
        assert isinstance(said, Outcome)
        return said

    def end(self) -> None:
        assert self.pipe is not None
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _ready(crew: list[_Process]) -> list[_Process]:
    pipes = {id(each.pipe): each for each in crew}
    return [pipes[id(pipe)] for pipe in wait([each.pipe for each in crew if each.pipe is not None])]


def _serve(pipe: Connection, archive: str, out: str) -> None:
    """A worker process; ends when the pipe does, so it does not outlive its driver by more than a shard."""
    worker = Worker(Place(archive), Place(out))
    try:
        while True:
            task = pipe.recv()
            try:
                pipe.send(worker.run(task))
            except InspectorError as error:
                pipe.send(error)
            except Exception as error:  # noqa: BLE001 - a fault of ours, told by the driver instead of three dead workers
                pipe.send(
                    InspectorError(f"a worker failed on {task.shard.name}", found=f"{type(error).__name__}: {error}")
                )
    except (EOFError, OSError, KeyboardInterrupt):
        pass
    finally:
        worker.close()
