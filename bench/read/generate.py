"""A log of so many entries over 90 days and the part of today so far, filled by COPY, and kept in a folder.

Only audit.entry and audit.change are filled, by a superuser, in days that audit.create_day() makes; what else the log
holds comes of the product's own upkeep. It must not know what the entries are: that is `contents.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg

from daybook import upkeep
from daybook.postgres import Cluster, find_server
from daybook.schema import migrate

from ..servers import Connection
from .contents import CHANGE_COLUMNS, COPY_HEADER, COPY_TRAILER, ENTRY_COLUMNS, Contents, Planted

DAYS = 90
# Days for which a log that was made before serves: later on too much of it is past retention.
SERVES_FOR = 3
SQL = Path(__file__).parents[2] / "sql"
# The disk is no part of what is measured, and nothing here outlives a crash. Without archiving, COPY into a day that
# the same transaction made writes no WAL. Autovacuum would work at times of its own.
SETTINGS: dict[str, str | int] = {
    "shared_buffers": "2GB",
    "effective_cache_size": "8GB",
    "maintenance_work_mem": "256MB",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "max_connections": 200,
}


@dataclass(frozen=True, slots=True)
class Log:
    """A log that is ready: its server runs. `planted` are the entries that the questions ask for."""

    cluster: Cluster
    entries: int
    planted: dict[str, Planted]

    @property
    def url(self) -> str:
        """Where a superuser reaches it."""
        return self.cluster.url()

    @property
    def reader_url(self) -> str:
        """Where a login reaches it that is only a member of audit_reader."""
        return self.cluster.url(user="bench_reader")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is kept beside a log: of which sql/ it is, when it was made, and what was planted in it."""

    sql: str
    day: str
    planted: dict[str, Planted]


@contextmanager
def ready(folder: Path, entries: int, version: int | None, *, as_it_is: bool = False) -> Iterator[Log]:
    """A log of so many entries in the folder: the one that is there when it still serves, else a new one.

    `as_it_is` takes the one that is there although it was made with another version of sql/.
    """
    server = find_server(version)
    home = folder / f"{entries}-on-{server.version}"
    facts = read_facts(home)
    if facts is None or (facts.sql != digest_of_sql() and not as_it_is) or days_since(facts) > SERVES_FOR:
        if facts is not None:
            print(f"{home}: of another version of sql/, or too old; made anew", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        facts = None
    with Cluster(server, home, settings=SETTINGS) as cluster:
        if facts is None:
            migrate(cluster.url())
            facts = fill(cluster.url(), entries)
            # Written before upkeep, which goes on where it was interrupted.
            (home / "facts.json").write_text(json.dumps(asdict(facts)))
        maintain(cluster.url())
        analyze(cluster.url())
        yield Log(cluster, entries, facts.planted)


def read_facts(home: Path) -> Facts | None:
    """What is kept beside a log; None when none was finished there."""
    try:
        kept = json.loads((home / "facts.json").read_text())
    except FileNotFoundError:
        return None
    return Facts(kept["sql"], kept["day"], {name: Planted(*values) for name, values in kept["planted"].items()})


def digest_of_sql() -> str:
    """Names the version of sql/."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SQL.glob("*.sql")))).hexdigest()


def days_since(facts: Facts) -> int:
    """Whole UTC days since the log was made."""
    return (datetime.now(UTC).date() - date.fromisoformat(facts.day)).days


def fill(url: str, entries: int) -> Facts:
    """Fill the days, each in a transaction of its own, and print at which rate."""
    now = datetime.now(UTC)
    contents = Contents(entries)
    begun = time.perf_counter()
    filled = 0
    with psycopg.connect(url) as connection:
        for start, end, count in days(now, entries):
            connection.execute("select audit.create_day(%s)", [start.date()])
            rows, changes = contents.day(filled, count, microseconds(start), microseconds(end))
            copy(connection, f"audit.entry ({ENTRY_COLUMNS})", rows)
            copy(connection, f"audit.change ({CHANGE_COLUMNS})", changes)
            connection.commit()
            filled += count
        connection.execute("create role bench_reader login in role audit_reader")
    seconds = time.perf_counter() - begun
    rate = (entries + contents.changes) / seconds
    print(
        f"{entries:,} entries and {contents.changes:,} changes copied in {seconds:,.0f} s: {rate:,.0f} rows/s",
        flush=True,
    )
    return Facts(digest_of_sql(), now.date().isoformat(), contents.planted)


def days(now: datetime, entries: int) -> list[tuple[datetime, datetime, int]]:
    """Start, end and number of entries of each day up to now; weekends have a third of a working day's."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [midnight - timedelta(days=back) for back in range(DAYS, -1, -1)]
    ends = [*starts[1:], now]
    weights = [
        (1 if start.weekday() < 5 else 1 / 3) * (end - start).total_seconds()
        for start, end in zip(starts, ends, strict=True)
    ]
    borders = [round(entries * sum(weights[:number]) / sum(weights)) for number in range(len(weights) + 1)]
    counts = [after - before for before, after in pairwise(borders)]
    return list(zip(starts, ends, counts, strict=True))


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def copy(connection: Connection, target: str, rows: Iterable[bytes]) -> None:
    """Copy rows in binary form."""
    with connection.cursor().copy(f"copy {target} from stdin (format binary)".encode()) as into:
        into.write(COPY_HEADER)
        for piece in rows:
            into.write(piece)
        into.write(COPY_TRAILER)


def maintain(url: str) -> None:
    """Run the product's upkeep until a run finds nothing to do, and print how long that took."""
    begun = time.perf_counter()
    done: dict[str, int] = {}
    runs = 0
    while runs < 1000:
        runs += 1
        run = upkeep.maintain(url)
        if run.problem:
            print(f"upkeep: {run.problem}", flush=True)
        work = work_of(run)
        for name, number in work.items():
            done[name] = done.get(name, 0) + number
        if not work:
            break
    seconds = time.perf_counter() - begun
    what = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in done.items()) or "nothing to do"
    print(f"upkeep: {what}; {runs} runs, {seconds:,.1f} s", flush=True)


def work_of(run: upkeep.Run) -> dict[str, int]:
    """How much of everything a run did, as far as it did anything."""
    fields: dict[str, Any] = asdict(run)
    # There is always some more to seal: the stretch since the last run.
    del fields["blocks_sealed"]
    sizes = {name: len(value) if isinstance(value, list) else value for name, value in fields.items()}
    return {name: size for name, size in sizes.items() if type(size) is int and size}


def analyze(url: str) -> None:
    """Do what autovacuum would have done by now, where upkeep did not: each day's statistics and visibility."""
    begun = time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        query = """
            select d.partition_name from audit.day_partition d join pg_class c on c.oid = d.partition_oid
            where d.lower_bound <= now() and c.reltuples < 0
            order by d.lower_bound"""
        for (name,) in connection.execute(query).fetchall():
            connection.execute(f"vacuum (analyze) audit.{name}".encode())
        connection.execute("checkpoint")
    print(f"vacuum and analyze: {time.perf_counter() - begun:,.1f} s", flush=True)


def prepare_folder(folder: Path) -> None:
    """Make the folder, outside the repository, such that the server's OS user may pass through."""
    folder.mkdir(parents=True, exist_ok=True)
    if SQL.parent in folder.resolve().parents:
        raise SystemExit(f"{folder} lies in the repository; choose a folder outside it.")
    if os.geteuid() == 0:
        folder.chmod(0o755)
