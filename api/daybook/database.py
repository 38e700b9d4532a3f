"""Database is the app's pool and the ways to the log, all as audit_reader and bounded: reading, noting, exporting.

It holds no query on the log; those stand in queries.py.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection, IsolationLevel
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool

from .errors import Unreadable, Unspeakable

Row = dict[str, Any]
Connection = AsyncConnection[Row]
# A query and the values that it names.
Statement = tuple[str, Mapping[str, Any]]

logger = logging.getLogger("daybook")

# Exports at one time in one process, of all workspaces and of one: each has a connection of its own, so that they keep
# no reader waiting.
MOST_EXPORTS = 4
MOST_EXPORTS_OF_ONE = 2
# Seconds that an export waits for its client to take what was sent, before its snapshot is given up.
LONGEST_PAUSE = 60

# What a name means must not depend on who may create functions where the login looks for them. A generic plan locks and
# plans every day partition; a custom one the few that the time bound leaves. It runs once, and compiling it (JIT) would
# take longer.
BEGIN, COMMIT = "begin isolation level repeatable read read only", "commit"
_BEGIN = """
select set_config('role', 'audit_reader', true),
       set_config('search_path', 'pg_catalog, pg_temp', true),
       set_config('audit.reader_workspace', %(workspace_id)s, true),
       set_config('statement_timeout', %(milliseconds)s, true),
       set_config('plan_cache_mode', 'force_custom_plan', true),
       set_config('jit', 'off', true)
"""
_ALONE = f"{_BEGIN.rstrip()}, set_config('transaction_read_only', 'on', true)"


class Snapshot:
    """One snapshot of what a workspace's reader sees, from the first question to the last.

    `beginning` holds what the transaction is told first; without it the connection's own goes on.
    """

    def __init__(self, connection: Connection, beginning: Mapping[str, str] | None = None) -> None:
        self._connection = connection
        self._beginning = beginning

    async def ask(self, *statements: Statement, is_last: bool = False) -> list[list[Row]]:
        """The rows of each statement. All are sent before the first answer is waited for: one round trip.

        `is_last` ends the snapshot in the same one. Values stay parameters: the server shows the text of a statement
        to whoever may look, and nobody is to see there who asked for what.
        """
        beginning, self._beginning = self._beginning, None
        before: list[Statement] = [] if beginning is None else [(BEGIN, {}), (_BEGIN, beginning)]
        after: list[Statement] = [(COMMIT, {})] if is_last else []
        if beginning is not None and is_last and len(statements) == 1:
            # What goes in one message is one transaction, and one statement has one snapshot: two statements less.
            before, after = [(_ALONE, beginning)], []
        cursors = []
        async with self._connection.pipeline():
            for query, values in [*before, *statements, *after]:
                cursors.append(await self._connection.execute(query.encode(), values or None))
        return [await cursor.fetchall() for cursor in cursors[len(before) : len(before) + len(statements)]]


def connect(conninfo: str, *, autocommit: bool = False) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection for a command, in which a name means what it means to PostgreSQL, whoever may create functions.

    Raises psycopg.OperationalError when the database cannot be reached.
    """
    connection = psycopg.connect(conninfo, autocommit=autocommit)
    # For the transaction where there is one: a pooler would keep what holds for the session.
    connection.execute(
        "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', %s::pg_catalog.bool)", [not autocommit]
    )
    return connection


class Database:
    """A pool of connections that only read.

    Times are in seconds: `patience` is the wait for a connection, `statement_timeout` the longest read.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        pool_size: int,
        patience: float,
        statement_timeout: float,
        application_name: str = "daybook serve",
    ) -> None:
        self.patience = patience
        self.statement_timeout = statement_timeout
        self._exports: Counter[str] = Counter()
        self._options: dict[str, Any] = {
            "autocommit": True,
            "row_factory": dict_row,
            # No prepared statements: poolers lose them, and their generic plans are of no use here.
            "prepare_threshold": None,
            "application_name": application_name,
            "client_encoding": "utf8",
            "connect_timeout": 10,
        }
        self._conninfo = conninfo
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            connection_class=AsyncConnection[Row],
            kwargs=self._options,
            min_size=1,
            max_size=pool_size,
            timeout=patience,
            # Short, so that attempts do not grow rare while the database is away: the next request begins new ones.
            reconnect_timeout=5,
            configure=_configure,
            check=_check_alive,
            open=False,
        )

    async def open(self) -> None:
        """Start connecting; a database that is not there yet is waited for in the background."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=5)

    @asynccontextmanager
    async def reading(self, workspace_id: str | None = None) -> AsyncIterator[Snapshot]:
        """One snapshot of what a workspace's reader sees (without a workspace: no entry at all).

        Raises Unreadable when there is no connection in time, the read takes too long, or the database is lost.
        """
        try:
            async with self._connection() as connection:
                try:
                    yield Snapshot(connection, self._values(workspace_id))
                finally:
                    # Also of a question that was the last: nothing is sent then.
                    await connection.rollback()
        except psycopg.errors.UntranslatableCharacter:
            raise Unspeakable from None
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
            raise _unreadable("reading", error) from error

    @asynccontextmanager
    async def noting(self) -> AsyncIterator[Connection]:
        """One transaction of its own in which the log's functions note something; committed when the block ends.

        Raises Unreadable when anything in it fails: what is not noted is not read.
        """
        try:
            async with self._connection() as connection, connection.pipeline():
                # Not connection.transaction(), whose characteristics are those of reading.
                await connection.execute("begin isolation level read committed read write")
                await connection.execute(_BEGIN, self._values(None))
                yield connection
                await connection.execute("commit")
        except (psycopg.Error, TimeoutError) as error:
            raise _unreadable("noting", error) from error

    @asynccontextmanager
    async def exporting(self, workspace_id: str) -> AsyncIterator[Connection]:
        """One snapshot, for as long as it takes, on a connection of its own; each statement is bounded as in reading.

        Raises Unreadable as `reading` does, and when too many exports run already.
        """
        if self._exports.total() >= MOST_EXPORTS or self._exports[workspace_id] >= MOST_EXPORTS_OF_ONE:
            raise Unreadable("Too many exports are running. Please try again later.")
        self._exports[workspace_id] += 1
        try:
            opening = AsyncConnection[Row].connect(self._conninfo, **self._options)
            async with await opening as connection:
                await _configure(connection)
                async with connection.transaction():
                    await connection.execute(_BEGIN, self._values(workspace_id))
                    await connection.execute(
                        "select set_config('idle_in_transaction_session_timeout', %s, true)", [f"{LONGEST_PAUSE}s"]
                    )
                    yield connection
        except psycopg.errors.UntranslatableCharacter:
            raise Unspeakable from None
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise _unreadable("exporting", error) from error
        finally:
            self._exports[workspace_id] -= 1
            # Counts of none would be kept for each workspace that ever exported.
            self._exports += Counter()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        # The server cancels a slow statement; the outer bound is for a server that does not answer at all.
        async with (
            asyncio.timeout(self.patience + self.statement_timeout + 5),
            self._pool.connection() as connection,
        ):
            yield connection

    def _values(self, workspace_id: str | None) -> dict[str, str]:
        return {"workspace_id": workspace_id or "", "milliseconds": str(round(self.statement_timeout * 1000))}


def _unreadable(what: str, error: Exception) -> Unreadable:
    # Never the error's own text: it may repeat a value.
    logger.warning("%s failed: %s %s", what, type(error).__name__, getattr(error, "sqlstate", None) or "")
    return Unreadable()


async def _configure(connection: Connection) -> None:
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    # Stored values pass through as they are: a Python float would change their numbers.
    set_json_loads(lambda text: msgspec.Raw(text.encode() if isinstance(text, str) else bytes(text)), connection)


async def _check_alive(connection: Connection) -> None:
    # An idle connection has nothing to read, unless the server spoke first: it closes, most likely. So a round trip is
    # spent on those alone.
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    if idle.poll(0):
        await AsyncConnectionPool.check_connection(connection)
