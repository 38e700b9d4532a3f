"""Filling makes the demo's database: the log, the sample application's tables, and its past.

It must not run against any cluster but the demo's own: its superuser moves entries in time, which nobody else can.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection, Cursor, sql
from psycopg.types.json import Jsonb

from ..postgres import Cluster
from ..schema import migrate
from ..upkeep import maintain
from .folder import State
from .progress import Progress
from .story import DAYS, Activity
from .story import tell as tell_story

DATABASE = "catalog"
OWNER = "catalog_app"
DBA = "catalog_dba"
READER = "daybook_reader"

BATCH = 200

# What an application does at the start of each transaction; the number tells which entries the transaction left.
NAME_ACTOR = """
select audit.set_actor(%s, %s, %s), audit.set_context(%s, %s, %s, %s, %s), pg_current_xact_id()::text
"""


def fill(cluster: Cluster, state: State) -> None:
    """Make database, logins, log and sample application with its past; the passwords go into `state`.

    The cluster runs and is empty.
    """
    progress = Progress(f"Filling with {DAYS} days of activity")
    progress.show(0)
    try:
        with without_warnings():
            _fill(cluster, state, progress)
    finally:
        progress.end()


@contextmanager
def without_warnings() -> Iterator[None]:
    """A fill that Ctrl-C ends leaves statements unsent: psycopg need not tell."""
    logger = logging.getLogger("psycopg")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fill(cluster: Cluster, state: State, progress: Progress) -> None:
    state.owner_password = secrets.token_urlsafe(18)
    state.dba_password = secrets.token_urlsafe(18)
    with psycopg.connect(cluster.url(), autocommit=True) as superuser:
        _make_logins(superuser, state)
    progress.show(0.03)
    migrate(cluster.url(DATABASE))
    progress.show(0.15)
    with psycopg.connect(cluster.url(DATABASE), autocommit=True) as superuser:
        _grant_roles(superuser)
        last = _now(superuser) - timedelta(minutes=3)
        _make_past_days(superuser, last)
        progress.show(0.3)
        with psycopg.connect(cluster.url(DATABASE, OWNER), autocommit=True) as application:
            application.execute(_read("sample.sql"))
            progress.show(0.35)
            moments = _write(application, last, progress)
        _move_back(superuser, moments)
        progress.show(0.9)
        # The past is counted and closed as it would have been day by day.
        maintain(cluster.url(DATABASE))
        superuser.execute("vacuum (analyze) audit.entry, audit.change")
        superuser.execute("checkpoint")
        progress.show(1)


def _make_logins(superuser: Connection[Any], state: State) -> None:
    # The superuser and the serving login get no password: they come in over the Unix socket alone.
    for login, password in ((OWNER, state.owner_password), (DBA, state.dba_password), (READER, None)):
        superuser.execute(
            sql.SQL("create role {} login password {}").format(sql.Identifier(login), sql.Literal(password))
        )
    superuser.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))


def _grant_roles(superuser: Connection[Any]) -> None:
    superuser.execute(f"""
        revoke all on database {DATABASE} from public;
        grant connect on database {DATABASE} to {OWNER}, {DBA}, {READER};
        grant create, temporary on database {DATABASE} to {OWNER};
        grant create on schema public to {OWNER};
        grant audit_writer to {OWNER};
        grant audit_dba to {DBA};
        grant audit_reader to {READER};
    """)


def _make_past_days(superuser: Connection[Any], last: datetime) -> None:
    """Make the day partitions that the past will need: the product itself makes them from yesterday on only."""
    superuser.execute(
        "select audit.create_day(day::date) from generate_series(%s::date,"
        " (select audit.utc_day(min(lower_bound)) from audit.day_partition) - 1, interval '1 day') day",
        [last.date() - timedelta(days=DAYS)],
    )


def _write(application: Connection[Any], last: datetime, progress: Progress) -> list[tuple[str, datetime]]:
    """Let the application write its story through the tracked tables; return each transaction with its moment."""
    # Losing the last transactions in a crash is no matter: a past that is not complete is made again.
    application.execute("set synchronous_commit = off")
    first = last - timedelta(days=DAYS)
    activities = tell_story(last)
    moments: list[tuple[str, datetime]] = []
    while batch := list(islice(activities, BATCH)):
        with application.pipeline():
            sent = [(_send(application, activity), activity.moment) for activity in batch]
        moments += [(_transaction_id(cursor), moment) for cursor, moment in sent]
        progress.show(0.35 + 0.5 * ((batch[-1].moment - first) / (last - first)))
    return moments


def _send(application: Connection[Any], activity: Activity) -> Cursor[Any]:
    actor = activity.actor
    application.execute("begin")
    named = application.execute(
        NAME_ACTOR,
        [
            *((actor.id, actor.name, actor.type) if actor else (None, None, None)),
            activity.request_id,
            activity.reason,
            actor.ip if actor else None,
            actor.user_agent if actor else None,
            Jsonb(activity.metadata) if activity.metadata else None,
        ],
    )
    for statement, values in activity.statements:
        application.execute(statement, values)
    application.execute("commit")
    return named


def _transaction_id(cursor: Cursor[Any]) -> str:
    row = cursor.fetchone()
    assert row is not None
    return str(row[2])


def _move_back(superuser: Connection[Any], moments: Iterable[tuple[str, datetime]]) -> None:
    """Move what was captured back in time, as past.sql says: the throw-away cluster's superuser alone can."""
    with superuser.transaction():
        superuser.execute(
            "create temporary table story (transaction_id xid8 primary key, moment timestamptz not null) on commit drop"
        )
        with superuser.cursor().copy("copy story (transaction_id, moment) from stdin") as copy:
            for row in moments:
                copy.write_row(row)
        superuser.execute("analyze story")
        superuser.execute(_read("past.sql"))


def _now(connection: Connection[Any]) -> datetime:
    row = connection.execute("select clock_timestamp()").fetchone()
    assert row is not None
    assert isinstance(row[0], datetime)
    return row[0].astimezone(UTC)


def _read(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()
