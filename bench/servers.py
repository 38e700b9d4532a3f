"""A server that a bench starts and throws away, and what a statement costs in it.

It must not measure anything by itself.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psycopg

from daybook.postgres import Cluster, find_server
from daybook.schema import migrate

Connection = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def started(
    version: int | None, *, more: Mapping[str, str | int] | None = None, migrated: bool = True
) -> Iterator[Cluster]:
    """A cluster of this major version (None: the newest), in memory where there is room.

    `more` are settings besides those of every bench; the log is installed unless `migrated` is false.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="pg-daybook-bench-", dir=memory if memory.is_dir() else None) as folder:
        Path(folder).chmod(0o755)
        settings: dict[str, str | int] = {
            "max_wal_size": "8GB",
            "checkpoint_timeout": "1h",
            "autovacuum": "off",
            "shared_buffers": "512MB",
            **(more or {}),
        }
        with Cluster(find_server(version), Path(folder) / "cluster", settings=settings) as cluster:
            if migrated:
                migrate(cluster.url())
            yield cluster


@contextmanager
def processes(target: Callable[[str, Pipe], None], url: str, number: int) -> Iterator[list[Pipe]]:
    """So many processes, each with a pipe, once each has sent that it is ready. None, sent to it, ends it."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(number):
        ours, theirs = context.Pipe()
        context.Process(target=target, args=(url, theirs), daemon=True).start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    try:
        yield pipes
    finally:
        for pipe in pipes:
            pipe.send(None)


def cpu_time(connection: Connection) -> int:
    """The CPU time of the connection's backend so far, in nanoseconds (proc(5), schedstat)."""
    return int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0])
