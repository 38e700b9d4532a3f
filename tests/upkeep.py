"""What tests of upkeep share: a past to drop, entries past the prepared days, and time that passes.

It must not call upkeep itself.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg

from tests.trail import Connection

T = TypeVar("T")
TODAY = "audit.utc_day(clock_timestamp())"
AS_THE_LOG_WOULD = (
    "insert into audit.entry (id, created_at, workspace_id, event, operation, resource_type, actor_type, actor_id,"
    " actor_name, row_count, database_user, transaction_id)"
)


def make_past(db: Connection, first: int, last: int = 2) -> None:
    """Make days -first .. -last with one entry and two changes each, as the superuser."""
    db.execute(
        f"""do $$
        declare moment timestamptz; id uuid;
        begin
            for n in {last}..{first} loop
                perform audit.create_day({TODAY} - n);
                moment := audit.day_start({TODAY} - n) + interval '12 hours';
                id := audit.new_entry_id(moment);
                {AS_THE_LOG_WOULD}
                values (id, moment, 'acme', 'resource_updated', 'UPDATE', 'document', 'system', 'system', 'system', 2,
                        'x', '1');
                insert into audit.change (entry_id, created_at, workspace_id)
                values (id, moment, 'acme'), (id, moment, 'acme');
            end loop;
        end $$""".encode()
    )


def put_entries(db: Connection, moments: str) -> None:
    """An entry at each moment that the expression gives, as the superuser."""
    db.execute(
        f"{AS_THE_LOG_WOULD}"
        " select audit.new_entry_id(least(m, '9999-01-01')), m, 'acme', 'resource_updated', 'UPDATE', 'document',"
        f" 'system', 'system', 'system', 1, 'x', '1' from (select {moments}) s (m)".encode()
    )


def let_readers_finish(db: Connection) -> None:
    """Move the last move of the oldest day six minutes back: what lies below it may be dropped."""
    db.execute("update audit.upkeep set oldest_day_since = oldest_day_since - interval '6 minutes'")


def pass_retention(db: Connection) -> None:
    """As if a run of upkeep had come by a while ago: what is past retention now may be dropped."""
    db.execute("select audit.move_oldest_day()")
    let_readers_finish(db)


def be_dead(db: Connection, days: int) -> None:
    """As if upkeep had made its last days this many days before today: all that is written stands in ..._beyond."""
    db.execute(
        f"""do $$
        declare p text;
        begin
            alter table audit.entry detach partition audit.entry_beyond;
            alter table audit.change detach partition audit.change_beyond;
            for p in select partition_name from audit.day_partition
                     where upper_bound > audit.day_start({TODAY} - {days}) loop
                execute format('drop table audit.%I', p);
            end loop;
            foreach p in array array['entry', 'change'] loop
                execute format('alter table audit.%s attach partition audit.%s_beyond', p, p)
                    || format(' for values from (%L) to (maxvalue)', audit.day_start({TODAY} - {days}));
            end loop;
            update audit.upkeep set last_run_at = clock_timestamp() - {days + 30} * interval '1 day';
        end $$""".encode()
    )


def days(db: Connection, log_table: str = "entry") -> list[tuple[int, int | None]]:
    """The partitions as whole days from today: first day, and first day no longer in it (None: for ever)."""
    return db.execute(
        f"select audit.utc_day(lower_bound) - {TODAY}, case when not is_beyond then"
        f" audit.utc_day(upper_bound) - {TODAY} end"
        " from audit.day_partition where log_table = %s order by lower_bound".encode(),
        [log_table],
    ).fetchall()


def day_name(db: Connection, ago: int) -> str:
    """The name that the entries' partition of the day this many days ago has."""
    row = db.execute(f"select to_char({TODAY} - %s::integer, '\"entry_\"YYYYMMDD')".encode(), [ago]).fetchone()
    assert row is not None
    return str(row[0])


def waiting(db: Connection, event: str) -> int | None:
    """The backend of upkeep that waits for such an event, if one does."""
    row = db.execute(
        "select pid from pg_stat_activity where datname = current_database() and usename = 'maintainer'"
        " and state = 'active' and wait_event = %s",
        [event],
    ).fetchone()
    return int(row[0]) if row else None


def eventually(ask: Callable[[], T | None]) -> T:
    """Ask until there is an answer; a test that never gets one fails."""
    for _ in range(2000):
        answer = ask()
        if answer:
            return answer
        time.sleep(0.01)
    raise AssertionError("it never came about")


@contextmanager
def in_background(act: Callable[[], Any]) -> Iterator[list[Any]]:
    """Act in a thread; what it returned or raised is in the list once the block is left."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(act())
        except psycopg.Error as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield results
    finally:
        thread.join()


def settle(db: Connection) -> None:
    """Let the watermark and the counts pass everything that is committed now.

    Another test's transaction holds the watermark back for a while: it is the cluster's.
    """
    row = db.execute("select clock_timestamp()").fetchone()
    assert row is not None
    deadline = time.monotonic() + 60
    while True:
        moved = db.execute("select audit.advance_watermark()").fetchone()
        assert moved is not None
        if moved[0] is not None and moved[0] >= row[0]:
            break
        assert time.monotonic() < deadline, "something holds the watermark back"
    count_all(db)


def count_all(db: Connection) -> None:
    """Let the counts reach the watermark."""
    before = None
    while (counted := db.execute("select audit.advance_counts()").fetchone()) != before:
        before = counted


def close_days(db: Connection) -> list[str]:
    """Close all days that can be, each in one go; return their names, newest first."""
    days = [row[0] for row in db.execute("select day_name from audit.days_to_close()").fetchall()]
    for day in days:
        while db.execute("select audit.close_day(%s)", [day]).fetchone() != (None,):
            pass
    return days


def index_differs(db: Connection) -> int:
    """How many entries the index of the open days has and should not have, or should have and has not."""
    columns = "id, created_at, workspace_id"
    row = db.execute(
        f"""
        with wanted as (
            select {columns}, event, resource_type, actor_id, request_id from audit.entry
            where workspace_id is not null and created_at >= (select indexed_from from audit.watermark)
              and created_at < (select counted_until from audit.watermark)),
        found as (select {columns}, event, resource_type, actor_id, request_id from audit.open_entry),
        words as (select distinct {columns} from audit.open_words)
        select (select count(*) from (select * from wanted except all select * from found) x)
             + (select count(*) from (select * from found except all select * from wanted) x)
             + (select count(*) from (select {columns} from wanted except all select * from words) x)
             + (select count(*) from (select * from words except all select {columns} from wanted) x)""".encode()
    ).fetchone()
    assert row is not None
    return int(row[0])
