"""What a one-row write of a tracked table costs while nobody reads the log, and while sixteen readers do.

Backend CPU and the transaction's time as the application sees it; with readers on a machine of few cores the time holds
the wait for a core. Both take turns within a round. The entries belong to a workspace of their own. It must not assert
anything.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from statistics import median

import psycopg

from ..servers import Connection, cpu_time
from ..write.tables import DOCUMENT_COLUMNS, DOCUMENT_VALUES, definitions
from .contents import COMMON_EVENT
from .generate import Log
from .questions import WORKSPACE, of
from .serving import App, Client

READERS = 16
ROWS = 1_000
TRANSACTIONS = 500
TABLE = "bench_document"


def compare(logs: Iterable[Log], apps: Iterable[App], rounds: int) -> None:
    """Print what a write costs with and without readers."""
    print("| log | readers | requests/s | backend CPU, µs | p50, µs | p99, µs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for log, app in zip(logs, apps, strict=True):
        costs: dict[int, list[tuple[float, ...]]] = {0: [], READERS: []}
        with psycopg.connect(log.url, autocommit=True) as connection:
            prepare(connection)
            for number in range(rounds + 1):
                for readers, found in costs.items() if number % 2 else reversed(costs.items()):
                    with reading(app, readers, [WORKSPACE, of(event=COMMON_EVENT), of(days=1)]) as answered:
                        cost = write(connection, f"state {number}", answered)
                    if number:
                        found.append(cost)
            connection.execute(f"drop table {TABLE}".encode())
        for readers, found in costs.items():
            rate, cpu, middle, worst = (median(values) for values in zip(*found, strict=True))
            line = f"| {log.entries:,} | {readers} | {rate:,.0f} | {cpu:,.0f} | {middle:,.0f} | {worst:,.0f} |"
            print(line, flush=True)


def prepare(connection: Connection) -> None:
    """Make the tracked table, and write once, so that no round pays for a session's first write."""
    connection.execute(f"drop table if exists {TABLE}".encode())
    connection.execute(f"create table {TABLE} ({definitions(DOCUMENT_COLUMNS)}) with (fillfactor = 50)".encode())
    connection.execute(f"insert into {TABLE} select {DOCUMENT_VALUES} from generate_series(1, {ROWS}) n".encode())
    connection.execute(
        "select audit.enable_tracking(%s::regclass, resource_name_column => 'title', workspace => 'bench-writes',"
        " excluded_columns => '{updated_at}')",
        [TABLE],
    )
    connection.execute(f"vacuum analyze {TABLE}".encode())


def write(connection: Connection, state: str, answered: Synchronized[int]) -> tuple[float, ...]:
    """Requests a second that were answered meanwhile, backend CPU a write, and its p50 and p99, in microseconds."""
    statement = f"update {TABLE} set state = %s, updated_at = now() where id = %s"
    times: list[float] = []
    cpu, before, begun = cpu_time(connection), answered.value, time.perf_counter()
    for row in range(1, TRANSACTIONS + 1):
        start = time.perf_counter()
        with connection.transaction():
            connection.execute(
                "select set_config('audit.actor_id', '42', true), set_config('audit.actor_name', 'Ada', true)"
            )
            connection.execute(statement.encode(), [f"{state} {row}", row])
        times.append((time.perf_counter() - start) * 1_000_000)
    rate = (answered.value - before) / (time.perf_counter() - begun)
    spent = (cpu_time(connection) - cpu) / 1000 / TRANSACTIONS
    times.sort()
    return rate, spent, median(times), times[int(len(times) * 0.99)]


@contextmanager
def reading(app: App, readers: int, paths: Sequence[str]) -> Iterator[Synchronized[int]]:
    """So many readers at work in a process of their own; how many of their requests were answered so far."""
    spawning = multiprocessing.get_context("spawn")
    answered = spawning.Value("q", 0)
    if not readers:
        yield answered
        return
    process = spawning.Process(target=_read, args=(app, readers, paths, answered), daemon=True)
    process.start()
    deadline = time.monotonic() + 60
    while answered.value < readers and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        yield answered
    finally:
        process.terminate()
        process.join()


def _read(app: App, readers: int, paths: Sequence[str], answered: Synchronized[int]) -> None:
    async def keep_reading(number: int) -> None:
        client = await Client.connected(app)
        while True:
            await client.ask(app.request(paths[number % len(paths)]))
            answered.value += 1

    async def all_of_them() -> None:
        await asyncio.gather(*map(keep_reading, range(readers)))

    asyncio.run(all_of_them())
