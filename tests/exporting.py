"""What tests of exports share: logs to export, and exports that take as long as a test wants.

It must not hold an expectation.
"""

import time
from typing import Any

import psycopg

from tests.reading import add_entry

Connection = psycopg.Connection[Any]

NDJSON = "/api/v1/notification/export.ndjson"
CSV = "/api/v1/notification/export.csv"


def exported(db: Connection) -> list[Any]:
    """The details of the log_exported entries, with the workspace and the key of each."""
    query = "select workspace_id, actor_id, context -> 'details' from audit.entry where event = 'log_exported'"
    return db.execute(query).fetchall()


def add_entries(db: Connection, count: int) -> None:
    """Put many entries into the log, copies of one."""
    add_entry(db, after={"text": "x" * 300})
    add_entries_like(db, count)


def add_entries_like(db: Connection, count: int) -> None:
    """Copy the one entry of the log until there are so many."""
    columns = (
        "workspace_id, event, operation, resource_type, actor_type, actor_id, actor_name, row_count, database_user"
    )
    db.execute(
        f"""
        insert into audit.entry (id, created_at, transaction_id, after, {columns})
        select audit.new_entry_id(created_at), created_at, transaction_id, after, {columns}
        from audit.entry, generate_series(2, %s)""".encode(),
        [count],
    )


def wait_for_no_export(db: Connection) -> None:
    """Return once no connection of ours is in a transaction."""
    busy = """
        select from pg_stat_activity
        where datname = current_database() and application_name like 'daybook %' and state <> 'idle'"""
    deadline = time.monotonic() + 20
    while db.execute(busy).rowcount:
        assert time.monotonic() < deadline, "an export goes on"
        time.sleep(0.01)


def wait_for_a_sleeping_export(db: Connection) -> int:
    """Return the process id of the backend that sleeps over an export's entries, once one does."""
    sleeping = """
        select pid from pg_stat_activity
        where datname = current_database() and wait_event = 'PgSleep' and query ilike 'fetch%'"""
    deadline = time.monotonic() + 20
    while not (found := db.execute(sleeping).fetchone()):
        assert time.monotonic() < deadline, "no export sleeps"
        time.sleep(0.01)
    return int(found[0])


def let_exports_sleep(db: Connection) -> None:
    """Make each entry of an export take an hour, by a policy; counting them does not."""
    db.execute(
        "create policy sleeping on audit.entry as restrictive for select to audit_reader"
        " using (case when current_query() ilike 'fetch%' then pg_sleep(3600) is not null else true end)"
    )
