"""Whatever happens to a table in several sessions, the log read from nothing tells its rows, one for one.

Hypothesis makes the tables and what happens to them; `make soak` does so for an hour with fresh seeds. Left out is what
JSON cannot tell: a jsonb that is `null` from a null, -0.0 from 0.0, the lower bounds of arrays.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.conftest import Database, TestServer, take_the_generic_way
from tests.replay import differences, replay
from tests.trail import Connection

# Each type with values as SQL literals, among them some that are equal and not identical.
VALUES = {
    "integer": ["0", "1", "-5", "2147483647", "null"],
    "bigint": ["0", "9007199254740993", "-1", "null"],
    "numeric": ["1", "1.0", "1.00", "0", "-3.14", "'NaN'", "1e30", "1e-20", "null"],
    "text": ["''", "'a'", "'null'", "'é\"\\{}'", "'0'", "repeat('long ', 100)", "E'line\\nbreak'", "null"],
    "boolean": ["true", "false", "null"],
    "double precision": ["0", "1.5", "1e300", "0.1", "'NaN'", "'-infinity'", "null"],
    "timestamptz": ["'2026-03-14 09:26:53.589793+05'", "'infinity'", "'0044-03-15 BC'", "'2026-07-01'", "null"],
    "interval": ["'1 mon'", "'30 days'", "'-1 day 02:03'", "null"],
    "date": ["'2026-03-14'", "'-infinity'", "null"],
    "jsonb": ["'{\"a\": 1.0}'", "'{\"a\": 1.00}'", "'[]'", "'\"x\"'", "'{\"n\": null}'", "'7'", "null"],
    "text[]": ["'{}'", "'{a,NULL}'", "'{{a,b},{c,d}}'", '\'{"null",""}\'', "null"],
    "bytea": ["''", "'\\x00ff'", "null"],
    "mood": ["'sad'", "'glad'", "null"],
    "int4range": ["'[1,5)'", "'empty'", "'(,)'", "null"],
    "char(3)": ["'a'", "'abc'", "null"],
}
TYPES = list(VALUES)
# What may go wrong in an application's statement; anything else is the log's fault.
EXPECTED_ERRORS = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.UniqueViolation,
    psycopg.errors.NotNullViolation,
    psycopg.errors.CheckViolation,
    psycopg.errors.NumericValueOutOfRange,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.ObjectInUse,
    # REPEATABLE READ, and the table was altered since its snapshot.
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
    psycopg.errors.DatatypeMismatch,
    psycopg.errors.InvalidTextRepresentation,
    # Names that were dropped come again, and some are there still.
    psycopg.errors.DuplicateColumn,
    psycopg.errors.DuplicateTable,
    psycopg.errors.UndefinedFunction,
)


@dataclass(frozen=True)
class Plan:
    """A table and what happens to it. Its numbers choose among what is there when they come to be used."""

    key: str
    shape: str
    kind: str
    follows: bool
    columns: list[str]
    steps: list[tuple[Any, ...]]


_number = st.integers(0, 1_000_000)
_numbers = st.lists(_number, min_size=1, max_size=6)
_session = st.integers(0, 2)
_write = st.tuples(
    st.sampled_from(
        [
            "insert",
            "insert",
            "insert",
            "update",
            "update",
            "update all",
            "shift",
            "delete",
            "upsert",
            "merge",
            "truncate",
            "nothing",
            "chain",
            "rekey",
        ]
    ),
    _session,
    _numbers,
)
_control = st.tuples(
    st.sampled_from(["commit", "commit", "rollback", "savepoint", "rollback to", "level", "commit all"]),
    _session,
    _numbers,
)
_ddl = st.tuples(
    st.sampled_from(
        [
            "add",
            "add filled",
            "add random",
            "drop",
            "rename",
            "retype",
            "rewrite",
            "rename table",
            "move table",
            "again",
            "swap",
        ]
    ),
    _session,
    _numbers,
)
plans = st.builds(
    Plan,
    key=st.sampled_from(["one", "one", "two", "text", "none"]),
    shape=st.sampled_from(["plain", "plain", "partitioned"]),
    kind=st.sampled_from(["resource", "resource", "permission"]),
    follows=st.sampled_from([True, True, False]),
    columns=st.lists(st.sampled_from(TYPES), min_size=1, max_size=5),
    steps=st.lists(st.one_of(_write, _write, _write, _control, _ddl), min_size=3, max_size=40),
)


@dataclass
class World:
    """The databases of this worker: DDL is followed in one, in the other every capture function is stale."""

    databases: dict[bool, Database]
    connections: dict[bool, list[Connection]] = field(default_factory=dict)
    tables: int = 0

    def sessions(self, follows: bool) -> list[Connection]:
        if follows not in self.connections:
            opened = [self.databases[follows].connect(autocommit=False) for _ in range(3)]
            for connection in opened:
                connection.execute(
                    "set lock_timeout = '20ms'; set deadlock_timeout = '10ms'; set client_min_messages = warning"
                )
                connection.commit()
            admin = self.databases[follows].connect()
            admin.execute("set lock_timeout = '5s'")
            self.connections[follows] = [*opened, admin]
        return self.connections[follows]


@pytest.fixture(scope="module")
def world(server: TestServer) -> Iterator[World]:
    databases = {follows: Database(server, f"replay_{os.getpid()}_{follows}".lower()) for follows in (True, False)}
    maintenance = Database(server, "postgres")
    for follows, database in databases.items():
        names = [sql.Identifier(name) for name in (database.name, server.template_dbname)]
        maintenance.connect().execute(sql.SQL("create database {} template {}").format(*names))
        admin = database.connect()
        admin.execute("create type mood as enum ('sad', 'glad'); create schema elsewhere")
        if not follows:
            take_the_generic_way(admin)
    yield World(databases)
    for database in databases.values():
        database.close()
        maintenance.connect().execute(sql.SQL("drop database {}").format(sql.Identifier(database.name)))
    maintenance.close()


class Run:
    """One plan, carried out in three sessions on one table."""

    def __init__(self, world: World, plan: Plan) -> None:
        *self.sessions, self.admin = world.sessions(plan.follows)
        self.plan = plan
        self.is_deferrable = len(plan.columns) % 2 == 0
        self.savepoints = [0, 0, 0]
        self.is_altered = False
        self.may_not_know = False
        self.snapshots: list[tuple[datetime, dict[str, str]]] = []
        self.warnings: list[str] = []
        for connection in self.sessions:
            connection.add_notice_handler(self._heard)
        self._make_table(world)

    def _heard(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.message_primary and "pg_daybook" in notice.message_primary:
            self.warnings.append(notice.message_primary)

    def _make_table(self, world: World) -> None:
        world.tables += 1
        name = f"thing_{world.tables}"
        plan = self.plan
        keys = {"one": ["id"], "text": ["id"], "two": ["id", "part"], "none": []}[plan.key]
        whole = " not null" if keys else ""
        columns = [
            f"id {'text' if plan.key == 'text' else 'integer'}{whole}",
            "workspace_id text",
            f"part text default 'p'{whole}",
        ]
        columns += [f"c{number} {kind}" for number, kind in enumerate(plan.columns)]
        if keys:
            columns.append(f"primary key ({', '.join(keys)}){' deferrable' if self.is_deferrable else ''}")
        partition = " partition by range (id)" if plan.shape == "partitioned" else ""
        middle = "'k5'" if plan.key == "text" else "50"
        self.key_columns = keys
        row = self.admin.execute("select clock_timestamp()").fetchone()
        assert row is not None
        self.since: datetime = row[0]
        self.admin.execute(f"create table {name} ({', '.join(columns)}){partition}".encode())
        if partition:
            # The second has its columns in another order.
            self.admin.execute(
                f"create table {name}_low partition of {name} for values from (minvalue) to ({middle})".encode()
            )
            high = [columns[2], *columns[3:], *columns[:2]]
            high = [column for column in high if not column.startswith("primary")]
            self.admin.execute(f"create table {name}_high ({', '.join(high)})".encode())
            self.admin.execute(
                f"alter table {name} attach partition {name}_high for values from ({middle}) to (maxvalue)".encode()
            )
        row = self.admin.execute("select %s::regclass::oid", [name]).fetchone()
        assert row is not None
        self.table_oid: int = row[0]
        self.tracking = (
            ", kind => 'permission', resource_id_columns => '{workspace_id}'" if plan.kind == "permission" else ""
        )
        self.admin.execute(f"select audit.enable_tracking('{name}'{self.tracking})".encode())

    def end(self) -> None:
        for number in range(3):
            self._commit(number)
        for connection in self.sessions:
            connection.remove_notice_handler(self._heard)
        if self.plan.follows:
            # What an event trigger left out, so as not to wait for another session, upkeep follows.
            self.admin.execute("select audit.follow_table(id, 'audit.maintain') from audit.tracked_table")

    def drop(self) -> None:
        for connection in self.sessions:
            connection.rollback()
        self.admin.execute(f"drop table {self._name(self.admin)}".encode())
        self.admin.execute("delete from audit.tracked_table")

    # What is there, as the session sees it

    def _name(self, connection: Connection) -> str:
        row = connection.execute(
            "select format('%%I.%%I', n.nspname, c.relname)"
            " from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = %s",
            [self.table_oid],
        ).fetchone()
        return str(row[0]) if row else "gone"

    def _columns(self, connection: Connection) -> list[tuple[int, str, str]]:
        """Return number, name and type of each column; 1 is the key's first, 2 the workspace, 3 the key's second."""
        return connection.execute(
            "select attnum, attname, replace(replace(format_type(atttypid, atttypmod),"
            " 'timestamp with time zone', 'timestamptz'), 'character', 'char')"
            " from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped order by attnum",
            [self.table_oid],
        ).fetchall()

    # Steps

    def take(self, step: tuple[Any, ...]) -> None:
        what, number, numbers = step
        connection = self.sessions[number]
        try:
            if what in ("commit", "rollback", "savepoint", "rollback to", "level", "commit all"):
                self._control(what, number, numbers)
                return
            statement = self._statement(what, connection, numbers)
            if statement:
                note(f"{number}: {statement}")
                connection.execute(statement.encode())
        except psycopg.Error as error:
            note(f"{number}: {type(error).__name__}: {error}")
            is_ours = "audit." in (error.diag.context or "") and what != "again"
            if is_ours or not isinstance(error, EXPECTED_ERRORS):
                raise AssertionError(f"{what} failed: {error} {error.diag.context}") from error
            connection.rollback()
            self.savepoints[number] = 0

    def _control(self, what: str, number: int, numbers: list[int]) -> None:
        connection = self.sessions[number]
        note(f"{number}: {what}")
        if what == "commit":
            self._commit(number)
        elif what == "rollback":
            connection.rollback()
            self.savepoints[number] = 0
        elif what == "savepoint":
            self.savepoints[number] += 1
            connection.execute(f"savepoint s{self.savepoints[number]}".encode())
        elif what == "rollback to" and self.savepoints[number]:
            wanted = numbers[0] % self.savepoints[number] + 1
            connection.execute(f"rollback to s{wanted}".encode())
            self.savepoints[number] = wanted
        elif what == "level":
            self._commit(number)
            level = ["read committed", "repeatable read", "serializable"][numbers[0] % 3]
            connection.execute(f"set transaction isolation level {level}".encode())
            connection.execute("select")
        elif what == "commit all":
            for other in range(3):
                self._commit(other)
            self._remember()

    def _commit(self, number: int) -> None:
        try:
            self.sessions[number].commit()
        except psycopg.errors.SerializationFailure:
            self.sessions[number].rollback()
        self.savepoints[number] = 0

    def _remember(self) -> None:
        """Keep the rows as they are now, as JSON and by key, to be asked for later."""
        if len(self.snapshots) >= 3 or not self.key_columns:
            return
        names = {number: name for number, name, _ in self._columns(self.admin)}
        key = f"to_jsonb(r.\"{names[1]}\") #>> '{{}}'"
        if self.plan.key == "two":
            key = f'jsonb_build_array(r."{names[1]}", r."{names[3]}")::text'
        rows = self.admin.execute(
            f"select {key}, to_jsonb(r)::text from {self._name(self.admin)} r".encode()
        ).fetchall()
        moment = self.admin.execute("select clock_timestamp()").fetchone()
        assert moment is not None
        self.snapshots.append((moment[0], dict(rows)))

    def _statement(self, what: str, connection: Connection, numbers: list[int]) -> str | None:
        table = self._name(connection)
        columns = self._columns(connection)
        names = {number: name for number, name, _ in columns}
        others = [(f'"{name}"', kind) for number, name, kind in columns if number > 3]
        if table == "gone" or not {1, 2, 3} <= names.keys():
            return None
        key, workspace, part = (f'"{names[number]}"' for number in (1, 2, 3))
        first = numbers[0]
        if what in DDL:
            return self._alteration(what, table, columns, numbers)
        return DML[what](self, Words(table, key, workspace, part, others, first, numbers))

    def _alteration(self, what: str, table: str, columns: list[tuple[int, str, str]], numbers: list[int]) -> str | None:
        follows = self.plan.follows
        if not follows and what not in ("add", "drop", "rename table", "move table", "again"):
            return None
        first, last = numbers[0], numbers[-1]
        others = [(name, kind) for number, name, kind in columns if number > 3]
        picked = columns[first % len(columns)]
        kind = TYPES[first % len(TYPES)]
        self.is_altered = self.is_altered or what != "again"
        if what == "add" and len(columns) < 12:
            return f"alter table {table} add x{first % 5} {kind}"
        if what == "add filled" and len(columns) < 12:
            return f"alter table {table} add x{first % 5} {kind} default {literal(kind, last)}"
        if what == "add random" and len(columns) < 12:
            self.may_not_know = True
            return f"alter table {table} add x{first % 5} double precision default random()"
        if what == "drop" and len(others) > 1:
            return f'alter table {table} drop "{others[first % len(others)][0]}"'
        if what == "rename":
            return f'alter table {table} rename "{picked[1]}" to r{last % 5}'
        if what == "swap" and len(others) > 1:
            one, two = others[first % len(others)][0], others[(first + 1) % len(others)][0]
            pairs = [(one, "between"), (two, one), ("between", two)]
            return (
                "do $$ begin "
                + " ".join(f'alter table {table} rename "{old}" to "{new}";' for old, new in pairs)
                + " end $$"
            )
        if what == "retype":
            self.may_not_know = True
            wider = [
                (name, new)
                for _, name, old in columns
                for new in ("bigint", "numeric", "text")
                if (old, new)
                in (("integer", "bigint"), ("integer", "numeric"), ("bigint", "numeric"), ("integer", "text"))
            ]
            name, new = wider[first % len(wider)] if wider else ("", "")
            return f'alter table {table} alter "{name}" type {new}' if wider and self.plan.shape == "plain" else None
        if what == "rewrite" and others:
            self.may_not_know = True
            name, old = others[first % len(others)]
            value = f"case when random() < 0.5 then {literal(old, last)} end"
            return f'alter table {table} alter "{name}" type {old} using {value}'
        schema, name = table.split(".")
        if what == "rename table":
            return f"alter table {table} rename to thing_{name.split('_')[1]}_{first % 3}"
        if what == "move table":
            return f"alter table {table} set schema {'elsewhere' if schema == 'public' else 'public'}"
        if what == "again":
            return f"select audit.enable_tracking('{table}'{self.tracking})"
        return None


@dataclass(frozen=True)
class Words:
    """What a statement is made of: the table's names of now and the plan's numbers."""

    table: str
    key: str
    workspace: str
    part: str
    others: list[tuple[str, str]]
    first: int
    numbers: list[int]

    def some(self, offset: int = 0) -> str:
        """Return a condition that about a third of the rows fulfil."""
        return f"abs(hashtext({self.key}::text)) % 3 = {(self.first + offset) % 3}"

    def row(self, run: Run, number: int) -> str:
        key = f"'k{number % 97}'" if run.plan.key == "text" else str(number % 97)
        values = [key, WORKSPACES[number % 5], f"'{'pq'[number % 2]}'"]
        return ", ".join(
            [*values, *(literal(kind, number // 97 + place) for place, (_, kind) in enumerate(self.others))]
        )

    def names(self) -> str:
        return ", ".join([self.key, self.workspace, self.part, *(name for name, _ in self.others)])

    def assignments(self) -> str:
        """Set one or two columns, or the workspace."""
        if not self.others:
            return f"{self.workspace} = {WORKSPACES[self.first % 5]}"
        chosen = {place % len(self.others) for place in self.numbers[:2]}
        return ", ".join(
            f"{name} = {literal(kind, self.first)}" for place, (name, kind) in enumerate(self.others) if place in chosen
        )


WORKSPACES = ["'acme'", "'acme'", "'globex'", "'acme'", "null"]


def literal(kind: str, number: int) -> str:
    values = VALUES.get(kind)
    return f"{values[number % len(values)]}::{kind}" if values else "null"


def _insert(run: Run, w: Words) -> str:
    rows = {n % 97: n for n in w.numbers}.values()
    return f"insert into {w.table} ({w.names()}) values " + ", ".join(f"({w.row(run, n)})" for n in rows)


def _upsert(run: Run, w: Words) -> str | None:
    if not run.key_columns or run.is_deferrable:
        return None
    keys = w.key if run.plan.key != "two" else f"{w.key}, {w.part}"
    rows = {n % 97: n for n in w.numbers}.values()
    inserted = f"insert into {w.table} ({w.names()}) values " + ", ".join(f"({w.row(run, n)})" for n in rows)
    action = "do nothing" if w.first % 4 == 0 else f"do update set {w.assignments()}"
    return f"{inserted} on conflict ({keys}) {action}"


def _shifted(run: Run, w: Words) -> str:
    if run.plan.key == "text":
        return f"{w.key} || 'x'"
    return f"{w.key} + {1 if run.is_deferrable or not run.key_columns else 100}"


def _merge(run: Run, w: Words) -> str:
    rows = {n % 97: n for n in w.numbers}.values()
    given = ", ".join("s." + name for name in w.names().split(", "))
    same = f"t.{w.key} = s.{w.key}" + (f" and t.{w.part} = s.{w.part}" if run.plan.key == "two" else "")
    return (
        f"merge into {w.table} t using (select {w.names()} from {w.table} where false union all values "
        + ", ".join(f"({w.row(run, n)})" for n in rows)
        + f") s on {same} when matched and abs(hashtext(t.{w.key}::text)) % 2 = 0 then delete"
        f" when matched then update set {w.assignments()}"
        f" when not matched then insert ({w.names()}) values ({given})"
    )


def _chain(run: Run, w: Words) -> str:
    return (
        f"with gone as (delete from {w.table} where {w.some()} returning *),"
        f" changed as (update {w.table} set {w.assignments()} where {w.some(1)} returning 1)"
        f" insert into {w.table} select * from gone where {w.some(w.first % 2)}"
    )


DML: dict[str, Callable[[Run, Words], str | None]] = {
    "insert": _insert,
    "upsert": _upsert,
    "merge": _merge,
    "chain": _chain,
    "update": lambda run, w: f"update {w.table} set {w.assignments()} where {w.some()}",
    "update all": lambda run, w: f"update {w.table} set {w.assignments()}",
    "nothing": lambda run, w: f"update {w.table} set {w.workspace} = {w.workspace}, {w.part} = {w.part}",
    "shift": lambda run, w: f"update {w.table} set {w.key} = {_shifted(run, w)}",
    "rekey": lambda run, w: f"update {w.table} set {w.key} = {_shifted(run, w)}, {w.part} = 'r' where {w.some()}",
    "delete": lambda run, w: f"delete from {w.table} where {w.some()}",
    "truncate": lambda run, w: f"truncate {w.table}",
}
DDL = {
    "add",
    "add filled",
    "add random",
    "drop",
    "rename",
    "retype",
    "rewrite",
    "rename table",
    "move table",
    "again",
    "swap",
}


EXAMPLES = os.environ.get("TESTS_REPLAY_EXAMPLES")


@settings(
    max_examples=int(EXAMPLES or 60),
    # The same ones each time, so that main stays what it was; `make soak` draws others.
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    phases=[Phase.generate, *([Phase.shrink] if "TESTS_REPLAY_SHRINK" in os.environ else [])],
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(plan=plans)
def test_the_log_read_from_nothing_tells_the_tables_rows(world: World, plan: Plan) -> None:
    run = Run(world, plan)
    try:
        for step in plan.steps:
            run.take(step)
        run.end()
        assert run.warnings == []
        rebuilt = replay(run.admin, run.since, run.key_columns)
        if not plan.follows:
            there = {name for _, name, _ in run._columns(run.admin)}
            rebuilt = [{name: value for name, value in row.items() if name in there} for row in rebuilt]
        assert "\n".join(differences(run.admin, run._name(run.admin), rebuilt)) == ""
        assert "\n".join(wrong_moments(run)) == ""
    finally:
        run.drop()


def wrong_moments(run: Run) -> Iterator[str]:
    """Ask for rows as they were at the moments that were kept, by the table's name of now."""
    if run.is_altered and not run.plan.follows:
        return
    table = run._name(run.admin)
    for moment, rows in run.snapshots:
        for key in list(rows)[:4]:
            told = run.admin.execute(
                "select key, (a -> key)::text from audit.row_as_of(%s::regclass, %s, %s) a, jsonb_object_keys(a) key",
                [table, key, moment],
            ).fetchall()
            real: dict[str, str] = dict(
                run.admin.execute("select key, value::text from jsonb_each(%s::jsonb)", [rows[key]]).fetchall()
            )
            if not dict(told).items() <= real.items() or (dict(told) != real and not run.may_not_know):
                yield f"{key} at {moment}: told {dict(told)}, was {real}"
        absent = run.admin.execute("select audit.row_as_of(%s::regclass, '96', %s)", [table, moment]).fetchone()
        if absent != (None,) and "96" not in rows:
            yield f"96 at {moment}: {absent}"
