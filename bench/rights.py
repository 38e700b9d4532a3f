"""`make bench-rights`: what row-level security, authentication and recording add to reading the first page.

The first page's statements as `audit_reader`, under row-level security, against the same ones as the owner, past it,
with the workspace in their WHERE: backend CPU (first field of /proc/<pid>/schedstat) and the plan's indexes. Requests
a second of the whole app in one process: as it is, without authentication, and with a reading that is noted each time.
All take turns within a round. It must not assert anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import psycopg

from daybook import keys, queries
from daybook.app import create_app
from daybook.authentication import Authentication
from daybook.credentials import Reader, Visitor
from daybook.settings import Settings

from .servers import Connection, cpu_time, started

ENTRIES = 200_000
QUERIES = 200
STATEMENTS = ("count", "50 rows")
OWNER, READER = "audit_owner", "audit_reader"
REQUESTS = 300
WORKSPACE_PATH = "/api/v1/notification/workspace/"
FILL = """
insert into audit.entry (
    id, created_at, workspace_id, event, operation, table_schema, table_name, resource_type, resource_id, resource_name,
    actor_type, actor_id, actor_name, row_count, before, after, database_user, transaction_id)
select audit.new_entry_id(moment), moment, case when mod(n, 10) < 6 then 'acme' else 'workspace ' || mod(n, 40) end,
       'resource_updated', 'UPDATE', 'public', 'document', 'document', mod(n, 5000)::text, 'Document ' || mod(n, 5000),
       'user', mod(n, 50)::text, 'User ' || mod(n, 50), 1, '{"state": "draft"}', '{"state": "final"}', 'app', '1'
from (
    select n, %(first)s::timestamptz + n * (interval '29 days' / %(entries)s) as moment
    from generate_series(1, %(entries)s) n) s
"""


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(prog="make bench-rights", description=__doc__)
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the server (newest)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, after one that does not (7)")
    options = parser.parse_args()
    with started(options.postgres) as cluster:
        with psycopg.connect(cluster.url(), autocommit=True) as connection:
            fill(connection)
            print(f"PostgreSQL {cluster.server.version}, {ENTRIES:,} entries, medians of {options.rounds} rounds\n")
            compare_statements(connection, options.rounds)
            key = keys.create_key(connection, "acme", "bench", "admin")
        asyncio.run(compare_requests(cluster.url(), key, options.rounds))


def fill(connection: Connection) -> None:
    """A log of 30 days, 60 % of it of workspace acme."""
    first = datetime.now(UTC) - timedelta(days=29)
    for day in range(31):
        connection.execute("select audit.create_day(audit.utc_day(%s))", [first + timedelta(days=day)])
    connection.execute(FILL, {"first": first, "entries": ENTRIES})
    connection.execute("vacuum analyze")


def compare_statements(connection: Connection, rounds: int) -> None:
    """Print what the first page's statements cost under row-level security and past it."""
    filters = {"not_reading": True}
    bounds = {"lower": datetime.now(UTC) - timedelta(days=90), "upper": datetime.now(UTC) + timedelta(days=1)}
    values = {**filters, **bounds, "limit": 50, "offset": 0}
    page = (queries.count_statement(filters), queries.select_statement(filters))
    statements = {
        (what, role): statement if role == READER else statement.replace("where", "where workspace_id = 'acme' and")
        for what, statement in zip(STATEMENTS, page, strict=True)
        for role in (OWNER, READER)
    }
    cost: dict[tuple[str, str], list[float]] = defaultdict(list)
    connection.execute("select set_config('audit.reader_workspace', 'acme', false)")
    connection.execute("set plan_cache_mode = force_custom_plan")
    for number in range(rounds + 1):
        for (what, role), statement in statements.items():
            connection.execute(f"set role {role}".encode())
            times = QUERIES // 20 if what == "count" else QUERIES
            before = cpu_time(connection)
            for _ in range(times):
                connection.execute(statement.encode(), values, prepare=False).fetchall()
            if number:
                cost[what, role].append((cpu_time(connection) - before) / 1000 / times)
    print("| statement of the first page | as owner, µs CPU | under row-level security, µs CPU | ratio | index |")
    print("| --- | ---: | ---: | ---: | --- |")
    for what in STATEMENTS:
        owner, reader = (median(cost[what, role]) for role in (OWNER, READER))
        used = [plan(connection, role, statements[what, role], values) for role in (OWNER, READER)]
        same = ", ".join(sorted(used[1])) + (
            ", the same" if used[0] == used[1] else f"; owner: {', '.join(sorted(used[0]))}"
        )
        print(f"| {what} | {owner:.0f} | {reader:.0f} | {reader / owner:.2f} | {same} |")
    connection.execute("reset role")


def plan(connection: Connection, role: str, statement: str, values: dict[str, Any]) -> set[str]:
    """The nodes by which the plan reads partitions, with their indexes by the name of the log's own."""
    connection.execute(f"set role {role}".encode())
    found = connection.execute(f"explain (format json) {statement}".encode(), values).fetchone()
    assert found is not None
    text = json.dumps(found[0])
    nodes = {f"{node['Node Type']} on {_column_list(node)}" for node in _nodes(json.loads(text)[0]["Plan"])}
    return {node for node in nodes if "Scan" in node and "Subquery" not in node}


def _nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(below for child in node.get("Plans", []) for below in _nodes(child))]


def _column_list(node: dict[str, Any]) -> str:
    # entry_20260314_workspace_id_created_at_id_idx: the day is left out.
    name = str(node.get("Index Name", "the table"))
    return name.partition("_")[2].lstrip("0123456789_") or name


async def compare_requests(url: str, key: str, rounds: int) -> None:
    """Print the requests a second of the app with and without authentication and recording."""
    app = create_app(Settings(database_url=url, pool_size=4))
    authenticate = Authentication.reader
    known: list[Reader] = []

    async def nobody_asks(*_: Any) -> Reader:
        return replace(known[0])

    async def noted_each_time(self: Authentication, headers: Any, visitor: Visitor) -> Reader:
        return replace(await authenticate(self, headers, visitor), is_noted=False)

    async def remembered(self: Authentication, headers: Any, visitor: Visitor) -> Reader:
        known[:] = [await authenticate(self, headers, visitor)]
        return known[0]

    ways: dict[str, Callable[..., Awaitable[Reader]]] = {
        "as it is: authenticated, reading noted": authenticate,
        "without authentication": nobody_asks,
        "reading noted anew each time (never so)": noted_each_time,
    }
    speed: dict[str, list[float]] = defaultdict(list)
    async with app.lifespan():
        Authentication.reader = remembered  # type: ignore[method-assign]
        await get(app, key)
        await get(app, key)
        for number in range(rounds + 1):
            for name, way in ways.items():
                Authentication.reader = way  # type: ignore[method-assign, assignment]
                begun = time.perf_counter()
                for _ in range(REQUESTS):
                    await get(app, key)
                if number:
                    speed[name].append(REQUESTS / (time.perf_counter() - begun))
    print("\n| first page over HTTP (ASGI, one at a time) | requests a second | ratio |")
    print("| --- | ---: | ---: |")
    whole = median(next(iter(speed.values())))
    for name, speeds in speed.items():
        print(f"| {name} | {median(speeds):.0f} | {median(speeds) / whole:.2f} |")


async def get(app: Any, key: str) -> None:
    """Ask for the first page, of one day so that counting is no part of it, and see it answered."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": WORKSPACE_PATH,
        "raw_path": WORKSPACE_PATH.encode(),
        "root_path": "",
        "query_string": b"days=1",
        "headers": [(b"host", b"log.example"), (b"authorization", b"Bearer " + key.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    assert statuses == [200], statuses


if __name__ == "__main__":
    main()
