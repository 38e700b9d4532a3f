"""The log as tests compare it: all of it, oldest first, in the columns a test names.

It must not filter: an entry too many has to show.
"""

from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]

# The log's own entries (tracking_enabled and the like) have tests of their own.
OF_TABLES = "operation <> 'EVENT'"


def trail(connection: Connection, columns: str = "event, resource_id, before, after") -> list[tuple[Any, ...]]:
    """Return the entries that tracked tables left, oldest first."""
    query = f"select {columns} from audit.entry where {OF_TABLES} order by created_at, workspace_id, event"
    return connection.execute(query.encode()).fetchall()


def changes(connection: Connection, columns: str = "resource_id, before, after") -> list[tuple[Any, ...]]:
    """Return the rows of bulk entries, oldest entry first."""
    query = f"select {columns} from audit.change order by created_at, workspace_id, resource_id, row_key, after::text"
    return connection.execute(query.encode()).fetchall()


def own_events(connection: Connection, columns: str = "event, resource_id") -> list[tuple[Any, ...]]:
    """Return the log's own entries, oldest first."""
    query = f"select {columns} from audit.entry where resource_type = 'audit_log' order by created_at"
    return connection.execute(query.encode()).fetchall()


def count(connection: Connection, query: str) -> int:
    """Return the one number that a query gives."""
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])
