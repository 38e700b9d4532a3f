"""`python -m bench.witness`: what the witness costs writers while it is on, and how fast it compares.

Backend CPU (first field of /proc/<pid>/schedstat) and WAL of one-row updates, with and without it, in turns; then rows
a second of one run over single-row transactions and one large one, and its memory. It must not assert anything.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from statistics import median

import psycopg

from daybook import witness
from daybook.postgres import Cluster, find_server
from daybook.schema import migrate

from .servers import Connection, cpu_time

UPDATES, LARGE = 2_000, 150_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.witness", description=__doc__)
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the server (newest)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not (5)")
    options = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="pg-daybook-bench-", dir=memory if memory.is_dir() else None) as folder:
        Path(folder).chmod(0o755)
        settings: dict[str, str | int] = {"wal_level": "logical", "autovacuum": "off", "max_wal_size": "8GB"}
        with Cluster(find_server(options.postgres), Path(folder) / "cluster", settings=settings) as cluster:
            migrate(cluster.url())
            with psycopg.connect(cluster.url(), autocommit=True) as connection:
                compare(connection, cluster.server.version, options.rounds)


def compare(connection: Connection, version: int, rounds: int) -> None:
    """Print what writers pay, then what a run does."""
    connection.execute(
        "create table document (id integer primary key, workspace_id text, title text, body text);"
        "select audit.enable_tracking('document');"
        f"insert into document select n, 'acme', 'x', repeat('y', 200) from generate_series(1, {LARGE}) n".encode()
    )
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for number in range(rounds + 1):
        for is_on in (False, True):
            (witness.start if is_on else witness.stop)(connection, lambda _: None)
            cost = update(connection)
            if number:
                found[is_on].append(cost)
    print(f"PostgreSQL {version}, {UPDATES} one-row updates a round, {rounds} rounds, medians")
    for is_on, costs in found.items():
        cpu, wal = median(c for c, _ in costs), median(w for _, w in costs)
        print(f"witness {'on ' if is_on else 'off'}  {cpu:7.1f} us of backend CPU, {wal:7.0f} bytes of WAL an update")
    witness.run(connection, print)
    for _ in range(5):
        update(connection)
    run(connection, f"{5 * UPDATES:,} transactions of one row")
    connection.execute("update public.document set title = title || '!'")
    run(connection, f"one transaction of {LARGE:,} rows")
    print(f"this process at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def update(connection: Connection) -> tuple[float, float]:
    """Return microseconds of backend CPU and bytes of WAL an update."""
    row = connection.execute("select pg_current_wal_insert_lsn()").fetchone()
    before = cpu_time(connection)
    for number in range(UPDATES):
        title = str(time.monotonic_ns())
        connection.execute("update public.document set title = %s where id = %s", [title, number + 1])
    cost = (cpu_time(connection) - before) / 1000 / UPDATES
    written = connection.execute("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)", row).fetchone()
    assert written is not None
    return cost, float(written[0]) / UPDATES


def run(connection: Connection, what: str) -> None:
    """Print how fast a run compares."""
    begun, server = time.perf_counter(), cpu_time(connection)
    outcome = witness.run(connection, print)
    seconds = time.perf_counter() - begun
    backend = (cpu_time(connection) - server) / 1e9
    print(f"{what}: {outcome.rows / seconds:,.0f} rows a second in {seconds:.1f} s, {backend:.1f} s of it the server's")


if __name__ == "__main__":
    main()
