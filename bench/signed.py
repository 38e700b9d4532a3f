"""`python -m bench.signed`: what a signed actor costs a transaction that names its actor and writes one row.

Backend CPU (first field of /proc/<pid>/schedstat) of transactions on three tables that differ in what they demand and
in what is sent: no signature, a signature that nobody asks for, one that is checked. The client's share, one HMAC, is
timed apart. All take turns within a round, in one session. It must not assert anything.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import psycopg

from daybook.actors import setting_statement
from daybook.signatures import SIGNATURE, ActorKey

from .servers import Connection, cpu_time, started

TRANSACTIONS = 1000
CASES = ("unsigned", "signed, not demanded", "signed, demanded", "demanded, five writes", "unsigned, five writes")
NAMED = {"actor_type": "user", "actor_id": "42", "actor_name": "Ada Lovelace", "request_id": "0a1b2c3d-0001"}


def main() -> None:
    """Measure and print one line for each case."""
    parser = argparse.ArgumentParser(prog="python -m bench.signed", description=__doc__)
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the server (newest)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count, after one that does not (9)")
    options = parser.parse_args()
    with started(options.postgres) as cluster, psycopg.connect(cluster.url()) as connection:
        key = prepare(connection)
        costs: dict[str, list[float]] = {case: [] for case in CASES}
        for number in range(options.rounds + 1):
            for case in CASES:
                cost = measure(connection, case, key)
                if number:
                    costs[case].append(cost)
        print(f"PostgreSQL {cluster.server.version}, {TRANSACTIONS} transactions a round, {options.rounds} rounds")
        for case, found in costs.items():
            print(f"{case:<24} {median(found):7.1f} us of backend CPU a transaction")
        more = [b - a for a, b in zip(costs["unsigned"], costs["signed, demanded"], strict=True)]
        print(f"demanded against unsigned: {median(more):+.1f} us a transaction")
        each = [
            (b - a - one) / 4
            for a, b, one in zip(costs["unsigned, five writes"], costs["demanded, five writes"], more, strict=True)
        ]
        print(f"each further write:        {median(each):+.1f} us")
    begun = time.perf_counter()
    for _ in range(10_000):
        key.sign(NAMED)
    print(f"the client signs in        {(time.perf_counter() - begun) * 100:7.1f} us")


def prepare(connection: Connection) -> ActorKey:
    """Make a table for either demand, and a key."""
    for table in ("plain", "demanding"):
        connection.execute(
            f"create table {table} (id integer primary key, workspace_id text, title text);"
            f" select audit.enable_tracking('{table}');"
            f" insert into {table} select n, 'acme', 'x' from generate_series(1, 100) n".encode()
        )
    connection.execute("select audit.require_signed_actor('demanding')")
    row = connection.execute("select audit.add_actor_key('bench')").fetchone()
    connection.commit()
    assert row is not None
    return ActorKey(str(row[0]))


def measure(connection: Connection, case: str, key: ActorKey) -> float:
    """Return microseconds of backend CPU a transaction."""
    table = "demanding" if "demanded" in case and "not" not in case else "plain"
    settings = NAMED | ({SIGNATURE: key.sign(NAMED)} if "demanded" in case else {})
    statement, values = setting_statement(tuple(settings)), list(settings.values())
    update = f"update {table} set title = %s where id = %s".encode()
    before = cpu_time(connection)
    for number in range(TRANSACTIONS):
        connection.execute(statement, values)
        for write in range(5 if "five" in case else 1):
            connection.execute(update, [f"{case} {time.monotonic_ns()} {write}", number % 100 + 1])
        connection.commit()
    return (cpu_time(connection) - before) / 1000 / TRANSACTIONS


if __name__ == "__main__":
    main()
