"""Processes that each hold a session to every system's database and run one-row transactions when told.

Processes and not threads: eight threads of one Python would wait for each other, not for the server.
"""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Protocol, Self

import psycopg

from ..servers import Connection, cpu_time

NEW_ID = "a new id"  # Among an actor's parameters: a UUID that each transaction makes anew, as a request has its own.


@dataclass(frozen=True)
class Actor:
    """How a system is told who acts: one parameterised statement, sent first in each transaction."""

    statement: str
    parameters: tuple[str, ...]

    def name(self, connection: Connection) -> None:
        connection.execute(self.statement.encode(), [str(uuid.uuid4()) if p == NEW_ID else p for p in self.parameters])


@dataclass(frozen=True)
class Task:
    """Transactions of one client: this statement once for each of the ids, after naming the actor."""

    url: str
    actor: Actor | None
    statement: str
    value: str | None
    ids: range


class Runner(Protocol):
    """What runs tasks at the same time, a client each, and returns the nanoseconds of CPU of their backends."""

    def run(self, tasks: Sequence[Task]) -> int: ...


class Clients:
    """So many processes; they end with the block."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Pipe] = []
        self.processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join()

    def run(self, tasks: Sequence[Task]) -> int:
        """Let the first clients do one task each, at the same time; return the nanoseconds of CPU of their backends."""
        for pipe, task in zip(self.pipes, tasks, strict=False):
            pipe.send(task)
        answers = [pipe.recv() for pipe, _ in zip(self.pipes, tasks, strict=False)]
        failed = [answer for answer in answers if isinstance(answer, str)]
        if failed:
            raise RuntimeError(failed[0])
        return sum(answers)


def serve(pipe: Pipe) -> None:
    """Run tasks until the pipe is closed; the answer is CPU in nanoseconds, or what went wrong."""
    sessions: dict[str, Connection] = {}
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            if task.url not in sessions:
                sessions[task.url] = psycopg.connect(task.url, autocommit=True)
            pipe.send(transact(sessions[task.url], task))
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")


def transact(connection: Connection, task: Task) -> int:
    """Run a task's transactions; return what they took of the backend's CPU, in nanoseconds."""
    statement = task.statement.encode()
    before = cpu_time(connection)
    for number in task.ids:
        with connection.transaction():
            if task.actor:
                task.actor.name(connection)
            connection.execute(statement, [number] if task.value is None else [task.value, number])
    return cpu_time(connection) - before
