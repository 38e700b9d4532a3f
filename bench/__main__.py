"""`make bench`: one-row and bulk UPDATEs of a tracked and an untracked table, interleaved, as a table with ratios.

CPU is the backend's own (first field of /proc/<pid>/schedstat), WAL is pg_current_wal_insert_lsn(), the log's size
pg_total_relation_size: wall time on a shared machine means little. It must not assert anything.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import psycopg

from .servers import Connection, cpu_time, started

ROWS = 10_000
TRANSACTIONS = 500
TABLES = ("untracked", "tracked")

# About 600 bytes a row, as a document's row in a data catalog may be.
COLUMNS = """
    id integer primary key, workspace_id text not null, title text, description text, owner_id uuid, state text,
    stars numeric, tags text[], details jsonb, created_at timestamptz, updated_at timestamptz
"""
ROW = """
    n, 'acme', 'Document number ' || n, repeat('lorem ipsum ', 25), gen_random_uuid(), 'draft', n,
    array['finance', 'weekly'], '{"source": "warehouse", "columns": ["a", "b", "c"]}'::jsonb, now(), now()
"""


class Cost(NamedTuple):
    """What one round cost per changed row: backend CPU in microseconds, WAL in bytes, the log's growth in bytes."""

    cpu: float
    wal: float
    log: float


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the server (newest)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, after one that does not (7)")
    options = parser.parse_args()
    with started(options.postgres) as cluster:
        print_table(cluster.server.version, measure(cluster.url(), options.rounds))


def measure(url: str, rounds: int) -> dict[tuple[str, str], list[Cost]]:
    """Return the costs of each (workload, table), a Cost a round; the tables take turns within a round."""
    costs: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(url, autocommit=True) as cleaner:
        prepare(connection)
        for number in range(rounds + 1):
            for workload, run in (("one row", one_row_updates), ("10,000 rows", bulk_update)):
                for table in TABLES:
                    cost = measured(connection, partial(run, connection, table, number))
                    if number:
                        costs[workload, table].append(cost)
            for table in TABLES:
                cleaner.execute(f"vacuum {table}".encode())
    return costs


def prepare(connection: Connection) -> None:
    """Make both tables and write a row in each, so that no round pays for a session's first write."""
    for table in TABLES:
        connection.execute(f"create table {table} ({COLUMNS}) with (fillfactor = 50)".encode())
        connection.execute(f"insert into {table} select {ROW} from generate_series(1, {ROWS}) n".encode())
    connection.execute(
        "select audit.enable_tracking('tracked', resource_name_column => 'title', excluded_columns => '{updated_at}')"
    )
    connection.execute("vacuum analyze")
    connection.execute("checkpoint")


def one_row_updates(connection: Connection, table: str, number: int) -> int:
    """Update one row in each of many transactions that name their actor; return the rows changed."""
    statement = f"update {table} set state = %s, updated_at = now() where id = %s"
    for row in range(1, TRANSACTIONS + 1):
        with connection.transaction():
            connection.execute(
                "select set_config('audit.actor_id', '42', true), set_config('audit.actor_name', 'Ada', true)"
            )
            connection.execute(statement.encode(), [f"state {number}", row])
    return TRANSACTIONS


def bulk_update(connection: Connection, table: str, number: int) -> int:
    """Update every row in one statement; return the rows changed."""
    connection.execute(f"update {table} set state = %s, updated_at = now()".encode(), [f"bulk {number}"])
    return ROWS


def measured(connection: Connection, run: Callable[[], int]) -> Cost:
    """Return what a workload cost for each row it changed."""
    wal, log, cpu = wal_position(connection), log_size(connection), cpu_time(connection)
    rows = run()
    cpu = cpu_time(connection) - cpu
    return Cost(cpu / 1000 / rows, (wal_position(connection) - wal) / rows, (log_size(connection) - log) / rows)


def wal_position(connection: Connection) -> int:
    return number_of(connection, "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


def log_size(connection: Connection) -> int:
    return number_of(connection, "select sum(pg_total_relation_size(partition_oid)) from audit.day_partition")


def number_of(connection: Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def print_table(version: int, costs: dict[tuple[str, str], list[Cost]]) -> None:
    """Print medians for each workload and table as Markdown, with what tracking adds and the ratio."""
    rounds = len(next(iter(costs.values())))
    print(f"PostgreSQL {version}, medians of {rounds} rounds, per changed row\n")
    print("| UPDATE of | figure | untracked | tracked | added | ratio |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for workload in dict.fromkeys(workload for workload, _ in costs):
        for position, name in enumerate(("backend CPU, µs", "WAL, bytes", "log, bytes")):
            plain, tracked = (median(cost[position] for cost in costs[workload, table]) for table in TABLES)
            ratio = f"{tracked / plain:.2f}" if plain else ""
            print(f"| {workload} | {name} | {plain:.1f} | {tracked:.1f} | {tracked - plain:.1f} | {ratio} |")


if __name__ == "__main__":
    main()
