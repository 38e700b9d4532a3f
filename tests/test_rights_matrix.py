"""Who may do what with every object of the log: each cell of tests/rights.txt is tried by a login of that role.

It must not write rights.txt: a line is decided by somebody who knows why, and written by hand.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from difflib import unified_diff
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection

EXPECTED = Path(__file__).with_name("rights.txt")

# The columns of rights.txt and who tries: the last two roles cannot log in, so each has a member that can.
LOGINS = {
    "app_user": "app_user",
    "app_owner": "app_owner",
    "reader": "reader",
    "dba": "dba",
    "maintainer": "maintainer",
    "installer": "installer",
    "capture": "matrix_capture",
    "owner": "matrix_owner",
}
# What cannot be done to such an object by anybody: no such command for a view, or a view of several tables.
IMPOSSIBLE = ("55000", "42809")


@dataclass(frozen=True)
class Object:
    """A line of the matrix: its name there, and by letter the statement that tries."""

    label: str
    attempts: dict[str, str]


# What there is


def relations(db: Connection) -> Iterator[Object]:
    """List tables, partitions, views and sequences, and the columns of what is no partition."""
    found = db.execute(
        "select c.relname, c.relkind, c.relispartition,"
        "   (select array_agg(quote_ident(a.attname) order by a.attnum) from pg_attribute a where a.attrelid = c.oid"
        "    and a.attnum > 0 and not a.attisdropped and a.attidentity = '' and a.attgenerated = ''),"
        "   (select format('%I %s references audit.%I (%I)', a.attname, format_type(a.atttypid, null), c.relname,"
        "    a.attname) from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]"
        "    where i.indrelid = c.oid and i.indisunique and i.indnkeyatts = 1 order by i.indexrelid limit 1)"
        " from pg_class c where c.relnamespace = 'audit'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')"
        " order by c.relkind = 'S', c.relkind = 'v', c.relname"
    ).fetchall()
    for name, kind, is_partition, columns, key in found:
        if kind == "S":
            yield Object(f"sequence {name}", sequence_attempts(name))
            continue
        label = f"{'view' if kind == 'v' else 'table'} {name}"
        yield Object(label, relation_attempts(name, columns[0], key))
        if not is_partition:
            yield from (Object(f"{label}.{column}", column_attempts(name, column)) for column in columns)


def sequence_attempts(name: str) -> dict[str, str]:
    return {
        "r": f"select last_value from audit.{name}",
        "w": f"select setval('audit.{name}', 1)",
        "U": f"select nextval('audit.{name}')",
    }


def relation_attempts(name: str, column: str, key: str | None) -> dict[str, str]:
    attempts = {
        "r": f"select * from audit.{name}",
        "a": f"insert into audit.{name} default values",
        "w": f"update audit.{name} set {column} = {column}",
        "d": f"delete from audit.{name}",
        "D": f"truncate audit.{name}",
        "t": f"create trigger t before insert on audit.{name} for each statement execute function attempts.nothing()",
    }
    return attempts | ({"x": f"create table attempts.refers ({key})"} if key else {})


def column_attempts(name: str, column: str) -> dict[str, str]:
    return {
        "r": f"select {column} from audit.{name}",
        "w": f"update audit.{name} set {column} = null",
    }


def functions(db: Connection) -> Iterator[Object]:
    """List functions by name, by their arguments too where several have one name; capture_1 is capture_N."""
    found = db.execute(
        "select p.proname, count(*) over (partition by p.proname) > 1, pg_get_function_identity_arguments(p.oid),"
        "   (select string_agg(format('null::%s', format_type(t.oid, null)), ', ' order by t.position)"
        "    from unnest(p.proargtypes::oid[]) with ordinality t(oid, position))"
        " from pg_proc p where p.pronamespace = 'audit'::regnamespace order by p.proname, 3"
    ).fetchall()
    for name, is_overloaded, arguments, nulls in found:
        label = re.sub(r"^capture_\d+$", "capture_N", name) + (f"({arguments})" if is_overloaded else "")
        yield Object(f"function {label}".replace(", ", ","), {"X": f"select audit.{name}({nulls or ''})"})


def others(db: Connection) -> Iterator[Object]:
    """List the schema, types of their own, event triggers and the roles that one could become."""
    yield Object("schema audit", {"U": "select 'audit.entry'::regclass", "C": "create table audit.attempt ()"})
    types = db.execute(
        "select t.typname from pg_type t left join pg_class c on c.oid = t.typrelid"
        " where t.typnamespace = 'audit'::regnamespace and t.typelem = 0"
        " and coalesce(c.relkind, 'c') = 'c' order by 1"
    )
    for (name,) in types.fetchall():
        yield Object(f"type {name}", {"U": f"create table attempts.uses (a audit.{name})"})
    event_triggers = db.execute("select evtname from pg_event_trigger where evtname like 'audit%' order by 1")
    for (name,) in event_triggers.fetchall():
        yield Object(f"event trigger {name}", {"o": f"alter event trigger {name} disable"})
    for (name,) in db.execute("select rolname from pg_roles where rolname like 'audit%' order by 1").fetchall():
        yield Object(f"role {name}", {"S": f"set local role {name}"})


# What happens


def is_allowed(connection: Connection, statement: str) -> bool:
    """Try a statement and take it back; whatever stops it but a missing right, it was allowed."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
    except psycopg.Error as error:
        if statement.startswith("select audit."):
            # What the function does when it runs, with its own rights or the caller's, is no longer the question.
            name = statement.removeprefix("select audit.").partition("(")[0]
            return error.diag.message_primary not in (
                "permission denied for schema audit",
                f"permission denied for function {name}",
            )
        return error.sqlstate not in ("42501", *IMPOSSIBLE)
    return True


def tried(connections: Iterable[Connection], item: Object) -> list[str]:
    """Return the cells of a line: the letters of what each login may do, - for nothing."""
    return [
        "".join(letter for letter, statement in item.attempts.items() if is_allowed(connection, statement)) or "-"
        for connection in connections
    ]


# How it is written


def matrix(db: Connection, connections: list[Connection]) -> list[str]:
    """Return the lines of the matrix; columns and days that are like their table, like today, are left out."""
    cells = {item.label: tried(connections, item) for item in [*others(db), *relations(db), *functions(db)]}
    today = datetime.now(UTC).date()
    lines = []
    for label, line in cells.items():
        table, _, column = label.partition(".")
        if column and [set(cell) & {"r", "w"} for cell in cells[table]] == [set(cell) - {"-"} for cell in line]:
            continue
        day = re.fullmatch(r"table (entry|change)_(\d{8})", label)
        if day and day[2] != f"{today:%Y%m%d}":
            if line == cells[f"table {day[1]}_{today:%Y%m%d}"]:
                continue
            distance = (date.fromisoformat(day[2]) - today).days
            label = f"table {day[1]}_DAY{distance:+d}"
        lines.append(f"{re.sub(rf'_{today:%Y%m%d}$', '_DAY', label)}: {' '.join(line)}")
    return lines


def expected() -> list[str]:
    """Return the lines of rights.txt in the form of `matrix`, whatever its columns' width."""
    lines = EXPECTED.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    width = len(LOGINS)
    return [f"{' '.join(row[:-width])}: {' '.join(row[-width:])}" for row in rows]


@pytest.fixture
def logins(database: Database, db: Connection) -> Iterator[list[Connection]]:
    """A connection for each column, in a database that has a tracked table, and an entry in each partition."""
    app_owner = database.connect("app_owner")
    app_owner.execute("create table document (id integer primary key, workspace_id text)")
    app_owner.execute("select audit.enable_tracking('document')")
    db.execute(
        "insert into audit.entry (id, created_at, event, operation, resource_type, actor_type, actor_id, actor_name,"
        " row_count, database_user, transaction_id)"
        " select gen_random_uuid(), lower_bound, 'day_begun', 'EVENT', 'day', 'system', 'system', 'system', 0, 'x', '1'"
        " from audit.day_partition where log_table = 'entry'"
    )
    db.execute(
        "insert into audit.change (entry_id, created_at) select gen_random_uuid(), lower_bound"
        " from audit.day_partition where log_table = 'change'"
    )
    db.execute("create schema attempts; grant all on schema attempts to public")
    db.execute("create function attempts.nothing() returns trigger language plpgsql as $$ begin return null; end $$")
    db.execute("create role matrix_capture login in role audit_capture")
    db.execute("create role matrix_owner login in role audit_owner")
    try:
        yield [database.connect(login) for login in LOGINS.values()]
    finally:
        database.close()
        with psycopg.connect(database.url(), autocommit=True) as connection:
            connection.execute("drop role matrix_capture, matrix_owner")


def test_every_role_may_do_with_every_object_what_is_written_down_and_nothing_else(
    db: Connection, logins: list[Connection]
) -> None:
    differences = list(unified_diff(expected(), matrix(db, logins), "rights.txt", "this database", lineterm="", n=0))
    assert not differences, "\n".join(["decide, and write it into tests/rights.txt by hand:", *differences])
