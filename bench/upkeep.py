"""`python -m bench.upkeep`: how long writes wait while upkeep drops days, makes days and splits a filled `…_beyond`.

Eight processes write one row at a time to a tracked table. A window without upkeep and one for each of its acts take
turns; between windows the writers rest and the next act is set up: its days are filled by COPY. Windows are equally
long at least, since the longest of more writes is longer. It must not assert anything.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from statistics import median, quantiles

import psycopg

from daybook.upkeep import maintain

from .servers import Connection, processes, started

WRITERS = 8
TODAY = "audit.utc_day(clock_timestamp())"
SCHEMA = """
create table document (id bigint generated always as identity primary key, workspace_id text, title text);
select audit.enable_tracking('document', resource_name_column => 'title');
create role upkeep login in role audit_maintainer;
"""
ENTRIES = """
select audit.new_entry_id(moment), moment, case when mod(n, 10) < 6 then 'acme' else 'workspace ' || mod(n, 40) end,
       'resource_updated', 'UPDATE', 'public', 'document', 'document', mod(n, 5000)::text, 'Document ' || mod(n, 5000),
       null::text, 'user', mod(n, 50)::text, 'User ' || mod(n, 50), 1::bigint, '{{"state": "draft"}}'::jsonb,
       '{{"state": "final"}}'::jsonb, null::text, null::jsonb, 'app', '1'::xid8
from (select n, audit.day_start({day}) + n * (interval '23 hours' / {entries}) as moment
      from generate_series(1, {entries}) n) s
"""
# What stands past the prepared days, of upkeep that is dead: yesterday's entries, and all that is written now.
DIE = f"""
do $$
declare p text;
begin
    alter table audit.entry detach partition audit.entry_beyond;
    alter table audit.change detach partition audit.change_beyond;
    for p in select partition_name from audit.day_partition where upper_bound > audit.day_start({TODAY} - 1) loop
        execute format('drop table audit.%I', p);
    end loop;
    foreach p in array array['entry', 'change'] loop
        execute format('alter table audit.%s attach partition audit.%s_beyond', p, p)
            || format(' for values from (%L) to (maxvalue)', audit.day_start({TODAY} - 1));
    end loop;
end $$
"""


@dataclass
class Window:
    """What writers measured in one window, and how long upkeep took in it; milliseconds."""

    longest: float
    p99: float
    writes: int
    upkeep: float


@dataclass
class Act:
    """One of upkeep's acts: how its work is made, and what its windows showed."""

    name: str
    set_up: Callable[[Connection], None]
    windows: list[Window] = field(default_factory=list)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.upkeep", description=__doc__)
    parser.add_argument("--postgres", type=int, metavar="VERSION", help="major version of the server (newest)")
    parser.add_argument("--entries", type=int, default=200_000, help="entries of a day, up to 1,000,000 (200,000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not (5)")
    parser.add_argument("--seconds", type=float, default=4, help="least length of a window (4)")
    parser.add_argument("--function", action="store_true", help="audit.maintain() in place of daybook maintain")
    options = parser.parse_args()
    with started(options.postgres) as cluster, psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
        acts = [
            Act("none", lambda _: None),
            Act("a day is dropped", lambda db: fill_old_day(db, options.entries)),
            Act("a day is made", lambda db: want_another_day(db)),
            Act("a filled …_beyond is split, 30 days are made", lambda db: fill_beyond(db, options.entries)),
        ]
        upkeep = by_function if options.function else by_command
        with processes(write, cluster.url(), WRITERS) as pipes:
            for number in range(options.rounds + 1):
                for act in acts:
                    act.set_up(connection)
                    connection.execute("checkpoint")
                    run = (lambda: None) if act.name == "none" else lambda: upkeep(cluster.url(user="upkeep"))
                    window = measure(pipes, run, options.seconds)
                    if number:
                        act.windows.append(window)
        print(
            f"PostgreSQL {cluster.server.version}, {WRITERS} writers, days of {options.entries:,} entries,"
            f" {'audit.maintain()' if options.function else 'daybook maintain'}, medians of {options.rounds} rounds\n"
        )
    report(acts)


def report(acts: list[Act]) -> None:
    """Print the table."""
    print("| upkeep | it took, ms | writes | p99, ms | longest, ms | longest of all rounds, ms | beyond none, ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    quiet = median(window.longest for window in acts[0].windows)
    for act in acts:
        longest = median(window.longest for window in act.windows)
        print(
            f"| {act.name} | {median(window.upkeep for window in act.windows):.0f}"
            f" | {median(window.writes for window in act.windows):.0f}"
            f" | {median(window.p99 for window in act.windows):.1f} | {longest:.1f}"
            f" | {max(window.longest for window in act.windows):.1f} | {longest - quiet:+.1f} |"
        )


# The acts


def fill_old_day(connection: Connection, entries: int) -> None:
    """A day past retention, announced long ago."""
    connection.execute(f"select audit.create_day({TODAY} - 100)".encode())
    copy(connection, f"{TODAY} - 100", entries)
    connection.execute("select audit.move_oldest_day()")
    connection.execute("update audit.upkeep set oldest_day_since = now() - interval '1 hour'")


def want_another_day(connection: Connection) -> None:
    """One day more than stand ready."""
    connection.execute("update audit.upkeep set days_ahead = days_ahead + 1")


def fill_beyond(connection: Connection, entries: int) -> None:
    """Upkeep was dead: a day's entries stand past the prepared days, and what is written stands there too."""
    connection.execute("update audit.upkeep set days_ahead = 30")
    connection.execute(DIE.encode())
    copy(connection, f"{TODAY} - 1", entries)


def copy(connection: Connection, day: str, entries: int) -> None:
    """Fill a day by COPY."""
    with psycopg.connect(connection.info.dsn, autocommit=True) as source:
        select = ENTRIES.format(day=day, entries=entries)
        with (
            source.cursor().copy(f"copy ({select}) to stdout (format binary)".encode()) as given,
            connection.cursor().copy("copy audit.entry from stdin (format binary)") as taken,
        ):
            for data in given:
                taken.write(data)


def by_command(url: str) -> None:
    """One run of `daybook maintain`."""
    tell(maintain(url).problem)


def by_function(url: str) -> None:
    """One run of `audit.maintain()`."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("select audit.maintain() ->> 'problem'").fetchone()
        assert row is not None
        tell(row[0])


def tell(problem: str | None) -> None:
    """A run that could not do all makes its window worth less: say so."""
    if problem:
        print(f"upkeep met a problem: {problem}")


# The writers


def measure(pipes: list[Pipe], run: Callable[[], None], seconds: float) -> Window:
    """Let the writers write for so long at least, and upkeep run after a quarter of it."""
    for pipe in pipes:
        pipe.send(True)
    end = time.monotonic() + seconds
    time.sleep(seconds / 4)
    begun = time.monotonic()
    run()
    took = time.monotonic() - begun
    time.sleep(max(end - time.monotonic(), seconds / 4))
    for pipe in pipes:
        pipe.send(False)
    waits = [1000 * wait for pipe in pipes for wait in pipe.recv()]
    return Window(max(waits), quantiles(waits, n=100)[98], len(waits), 1000 * took)


def write(url: str, pipe: Pipe) -> None:
    """Write one row after the other, with a breath between, from a True to the next False; None ends it."""
    with psycopg.connect(url, autocommit=True) as connection:
        pipe.send("ready")
        while pipe.recv():
            waits: list[float] = []
            while not pipe.poll():
                begun = time.perf_counter()
                connection.execute("insert into document (workspace_id, title) values ('acme', 'Plan')", prepare=True)
                waits.append(time.perf_counter() - begun)
                time.sleep(0.002)
            pipe.recv()
            pipe.send(waits)


if __name__ == "__main__":
    main()
