"""The app's first page against the least that could answer it, and where the rest of the time goes.

The floor is the smallest ASGI application, in the same server, that sends the statements of the app's first page in one
transaction of the same kind, with finished parameters, asks for no key, and returns the bytes of the app's answer. The
statements are those that the app itself sent when it was asked once, so the floor follows the product. The layers are
the app with one part after the other replaced by what that part said the first time. All take turns within a round;
each is one process with one worker. `python -m bench.read.floor` is one of these servers. It must not assert anything.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from statistics import median
from typing import Any

import psycopg
import uvicorn
from psycopg import AsyncConnection, IsolationLevel
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from daybook import answers, queries, routes
from daybook.app import serve
from daybook.authentication import Authentication
from daybook.settings import Settings

from .contents import LARGEST
from .generate import Log
from .loads import cpu_of_process, cpu_of_readers, spent_since
from .questions import WORKSPACE
from .recording import Response, Transaction, get, recorded, running
from .serving import App, ask_for, ask_once, served

CLIENTS = (1, 16)
TURN = 1.0
KEY = "BENCH_KEY"
FLOOR, FLOOR_READING_ROWS, FLOOR_IN_TURN = "floor", "floor-reading-rows", "floor-in-turn"

# What the app is without, one part more in each line: the owner of the function, its name, and what it does.
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("the key check", Authentication, "reader"),
    ("reading the parameters", routes, "parse_listing"),
    ("building the answer", answers, "entry_page"),
    ("the statements and their rows", queries, "find_entries"),
)
SERVERS = {
    "floor": FLOOR,
    "floor, its rows read as the app reads them": FLOOR_READING_ROWS,
    "floor, each statement's rows read before the next is sent": FLOOR_IN_TURN,
    "the app": "0",
    **{f"… without {what}{' either' if number else ''}": str(number + 1) for number, (what, *_) in enumerate(PARTS)},
}


@dataclass(slots=True)
class Speed:
    """What was measured of one server: a value a round."""

    rates: list[float] = field(default_factory=list)
    app_cpu: list[float] = field(default_factory=list)
    backend_cpu: list[float] = field(default_factory=list)


async def compare(logs: list[Log], apps: list[App], rounds: int) -> None:
    """Print the requests a second and the CPU time of each server for each log."""
    print("| log | server of the first page | clients | requests/s | of the floor | app CPU, µs | backend CPU, µs |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for log, app in zip(logs, apps, strict=True):
        if (status := (await ask_once(app, WORKSPACE)).status) != 200:
            print(f"| {log.entries:,} | the app answered {status} | | | | | |", flush=True)
            continue
        with ExitStack() as stack:
            servers = {
                name: app if way == "0" else stack.enter_context(one_of_these(log, app.key, way))
                for name, way in SERVERS.items()
            }
            speeds = await measure(log, servers, rounds)
        for clients in CLIENTS:
            whole = median(speeds["floor", clients].rates)
            for name in servers:
                speed = speeds[name, clients]
                rate, share = median(speed.rates), median(speed.rates) / whole
                spent = f"{median(speed.app_cpu):,.0f} | {median(speed.backend_cpu):,.0f}"
                print(f"| {log.entries:,} | {name} | {clients} | {rate:,.0f} | {share:.0%} | {spent} |", flush=True)


async def measure(log: Log, servers: dict[str, App], rounds: int) -> dict[tuple[str, int], Speed]:
    """What each server does with so many clients; all take turns within a round, after one that does not count."""
    speeds: dict[tuple[str, int], Speed] = defaultdict(Speed)
    with psycopg.connect(log.url, autocommit=True) as connection:
        for number in range(rounds + 1):
            for clients in CLIENTS:
                for name, server in servers.items() if number % 2 else reversed(servers.items()):
                    backends, process = cpu_of_readers(connection), cpu_of_process(server.process_id)
                    begun = asyncio.get_running_loop().time()
                    found = await ask_for(server, WORKSPACE, clients, TURN if number else 0)
                    seconds = asyncio.get_running_loop().time() - begun
                    assert {answer.status for answer in found} == {200}, name
                    if number:
                        speed = speeds[name, clients]
                        speed.rates.append(len(found) / seconds)
                        speed.app_cpu.append((cpu_of_process(server.process_id) - process) / 1000 / len(found))
                        spent = spent_since(backends, cpu_of_readers(connection))
                        speed.backend_cpu.append(spent / 1000 / len(found))
    return speeds


@contextmanager
def one_of_these(log: Log, key: str, way: str) -> Iterator[App]:
    """One of the servers of this module, in a process of its own."""
    program = ("bench.read.floor", "--way", way)
    with served(log.reader_url, key, program, **{KEY: key}) as app:
        yield app


# Inside such a process


def main() -> None:
    """Serve the floor, or the app without its first so many parts."""
    parser = argparse.ArgumentParser(prog="python -m bench.read.floor", description=__doc__)
    parser.add_argument("--way", required=True, help="a floor's name, or how many parts are left out")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    settings = Settings.from_environment()
    if options.way.isdigit():
        for _, owner, name in PARTS[: int(options.way)]:
            setattr(owner, name, saying_the_same_again(getattr(owner, name)))
        serve(settings, port=options.port)
        return
    transaction, answer = asyncio.run(first_page(settings.database_url, os.environ[KEY]))
    floor = Floor(settings, transaction, answer, options.way)
    uvicorn.run(floor, port=options.port, loop="auto", ws="none", access_log=False, log_level="warning", lifespan="on")


def saying_the_same_again(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose first result stands for all later ones."""
    said: list[Any] = []
    if asyncio.iscoroutinefunction(function):

        @wraps(function)
        async def awaited(*arguments: Any, **named: Any) -> Any:
            if not said:
                said.append(await function(*arguments, **named))
            return said[0]

        return awaited

    @wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        if not said:
            said.append(function(*arguments, **named))
        return said[0]

    return called


async def first_page(url: str, key: str) -> tuple[Transaction, Response]:
    """The statements by which the app reads its first page, and its answer; without the key check."""
    async with running(url) as app:
        await get(app, WORKSPACE, key)
        with recorded() as transactions:
            answer = await get(app, WORKSPACE, key)
    # The key check is a transaction of its own, which names no workspace when it begins.
    reading = [transaction for transaction in transactions if LARGEST in dict(transaction[0].parameters).values()]
    return [statement for transaction in reading for statement in transaction], answer


class Floor:
    """An ASGI application that answers everything alike."""

    def __init__(self, settings: Settings, transaction: Transaction, answer: Response, way: str) -> None:
        self._transaction = transaction
        self._way = way
        self._start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        self._body = {"type": "http.response.body", "body": answer.body}
        self._pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            settings.conninfo,
            kwargs={"autocommit": True, "row_factory": dict_row, "prepare_threshold": None},
            min_size=1,
            max_size=settings.pool_size,
            configure=_configure,
            open=False,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        async with self._pool.connection() as connection, connection.pipeline(), connection.transaction():
            cursors = []
            for query, values in self._transaction:
                cursors.append(await connection.execute(query, values))
                if self._way == FLOOR_IN_TURN:
                    await cursors.pop().fetchall()
            if self._way == FLOOR_READING_ROWS:
                for cursor in cursors:
                    await cursor.fetchall()
        await send(self._start)
        await send(self._body)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        await self._pool.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._pool.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _configure(connection: AsyncConnection[Any]) -> None:
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)


if __name__ == "__main__":
    main()
