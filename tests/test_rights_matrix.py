"""Who may do what with each object of schema audit: every role tries every verb; rights.txt says what must come of it.

It must not have a way to write rights.txt: a new object fails the test until somebody has decided who may do what
with it and has written its line by hand.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database
from tests.trail import Connection

EXPECTED = Path(__file__).with_name("rights.txt")

# The columns of the matrix: the login that tries, and the role that it takes first. No login is in audit_capture:
# maintainer may take that role because audit_owner, which it may take, is a member of it.
ROLES = {
    "app_user": ("app_user", "none"),
    "app_owner": ("app_owner", "none"),
    "reader": ("reader", "none"),
    "dba": ("dba", "none"),
    "maintainer": ("maintainer", "none"),
    "installer": ("installer", "none"),
    "audit_capture": ("maintainer", "audit_capture"),
    "audit_owner": ("maintainer", "audit_owner"),
}

RELATION_KINDS = {"r": "table", "p": "table", "f": "table", "v": "view", "m": "view"}

# What everybody is told of a view that cannot be written, before rights are looked at.
VIEW_CANNOT_BE_WRITTEN = ("55000", "0A000")


@dataclass(frozen=True)
class Attempt:
    """A verb's letter and the statement that tries it, or else those for single columns: then the letter is small."""

    letter: str
    statement: str
    on_parts: tuple[str, ...] = ()


# Functions that are made for a tracked table.
COMPILED = re.compile(r"^(capture|lookup)_[0-9]+(?:_[0-9a-f]{8})?$")


@dataclass(frozen=True)
class Item:
    """An object under the matrix's name for it, with what is tried; a function also under the name in refusals."""

    kind: str
    name: str
    attempts: tuple[Attempt, ...]
    function_name: str = ""


@pytest.fixture
def tracked(database: Database, db: Connection) -> Connection:
    """A log with rows in each partition that is tried, for a row trigger refuses nothing where there are none."""
    owner = database.connect("app_owner")
    owner.execute("create table folder (id integer primary key, title text); grant select on folder to audit_capture")
    owner.execute("create table document (id integer primary key, workspace_id text, folder integer references folder)")
    owner.execute("select audit.enable_tracking('document', resource_name_column => 'folder.title')")
    owner.execute("insert into document values (1, 'acme'), (2, 'acme')")
    for table in ("entry", "change"):
        row = """jsonb_populate_record(l, '{"created_at": "2100-01-01Z"}')"""
        db.execute(f"insert into audit.{table} select ({row}).* from audit.{table} l limit 1".encode())
    return db


def test_each_role_may_do_what_its_column_says_and_nothing_else(database: Database, tracked: Connection) -> None:
    expected = EXPECTED.read_text(encoding="utf-8").splitlines()
    found = header(expected) + matrix(database, items(tracked))
    assert found == expected, "\n" + "\n".join(
        difflib.unified_diff(expected, found, "tests/rights.txt", "what the logins could do", n=0, lineterm="")
    )


def test_all_days_have_the_owner_and_the_rights_of_the_one_in_the_matrix(tracked: Connection) -> None:
    found = tracked.execute(
        "select distinct relowner::regrole::text, relacl::text from pg_class"
        " join audit.day_partition on partition_oid = pg_class.oid"
    ).fetchall()
    assert [owner for owner, _ in found] == ["audit_owner"], found


def header(lines: list[str]) -> list[str]:
    """Return the lines that explain the letters: the matrix answers for all others."""
    return [line for line in lines if line.startswith("#")]


def matrix(database: Database, tried: list[Item]) -> list[str]:
    """Return the matrix as rights.txt holds it: what each role could do with each object, aligned."""
    logins = {login: database.connect(login, autocommit=False) for login in {login for login, _ in ROLES.values()}}
    columns = [
        [name, *cells_of(logins[login], role, tried)]  # one role after the other: none waits for another's locks
        for name, (login, role) in ROLES.items()
    ]
    objects = ["object", *(f"{item.kind} {item.name}" for item in tried)]
    return [
        "  ".join([*(cell.ljust(len(column[0])) for cell, column in zip(cells, columns, strict=True)), name])
        for cells, name in zip(zip(*columns, strict=True), objects, strict=True)
    ]


def cells_of(connection: Connection, role: str, tried: list[Item]) -> list[str]:
    """Return what a login could do with each object after it took the role, in a transaction that leaves nothing."""
    with connection.transaction(force_rollback=True):
        connection.execute("select set_config('role', %s, true)", [role])
        connection.execute("set local statement_timeout = '5s'; set local lock_timeout = '1s'")
        return ["".join(letters_of(connection, item)) or "-" for item in tried]


def letters_of(connection: Connection, item: Item) -> Iterator[str]:
    """Yield the letters of what succeeds, or fails for another reason than missing rights."""
    for attempt in item.attempts:
        if is_allowed(connection, item, attempt.statement):
            yield attempt.letter
        elif any(is_allowed(connection, item, statement) for statement in attempt.on_parts):
            yield attempt.letter.lower()


def is_allowed(connection: Connection, item: Item, statement: str) -> bool:
    """Try a statement in a savepoint that is rolled back, and return whether the rights for it were there."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
    except psycopg.Error as error:
        return not is_refusal(item, error)
    return True


def is_refusal(item: Item, error: psycopg.Error) -> bool:
    """Tell the refusal of the attempt from what else goes wrong; the log's own triggers refuse with 42501 as well."""
    if item.kind == "function":
        # What its body may not do is another matter than who may call it.
        refusals = (f"permission denied for function {item.function_name}", "permission denied for schema audit")
        return error.diag.message_primary in refusals
    return error.sqlstate == "42501" or (item.kind == "view" and error.sqlstate in VIEW_CANNOT_BE_WRITTEN)


# The catalogue is asked what there is: a kind of object that nobody thought of shows a "?".


def items(db: Connection) -> list[Item]:
    """Return the objects of schema audit and the event triggers, by kind and name, each with its attempts."""
    found = [*event_triggers(db), *functions(db), *relations(db), *schema(), *sequences(db), *types(db), *others(db)]
    return sorted(found, key=lambda item: (item.kind, item.name))


def schema() -> Iterator[Item]:
    """Yield the schema: u is to find what is in it."""
    find = Attempt("u", "select 'audit.entry'::regclass")
    yield Item("schema", "audit", (find, Attempt("c", "create table audit.attempt ()")))


def relations(db: Connection) -> Iterator[Item]:
    """Yield tables and views; of the days the one that holds rows; columns where rights on columns were granted."""
    rows = db.execute(
        "select c.relkind::text, c.relname::text, array_agg(quote_ident(a.attname) order by a.attnum),"
        " bool_or(a.attacl is not null)"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " where c.relnamespace = 'audit'::regnamespace and c.relkind in ('r', 'p', 'f', 'v', 'm')"
        " and (c.oid not in (select partition_oid from audit.day_partition where not is_beyond)"
        "   or right(c.relname, 8) in (select right(tableoid::regclass::text, 8) from audit.change))"
        " group by c.oid"
    ).fetchall()
    for relkind, name, columns, has_rights_on_columns in rows:
        kind = RELATION_KINDS[relkind]
        shown = re.sub(r"^(entry|change)_\d{8}$", r"\1_DAY", name)
        yield Item(kind, shown, attempts_on_relation(kind, name, columns))
        for column in columns if has_rights_on_columns else ():
            yield Item("column", f"{shown}.{column}", tuple(attempts_on_columns(name, [column])))


def attempts_on_relation(kind: str, name: str, columns: list[str]) -> tuple[Attempt, ...]:
    """Return the attempts on a table or view: whole rows, else single columns."""
    by_column = [list(attempts_on_columns(name, [column])) for column in columns]
    rows = [
        Attempt(whole.letter, whole.statement, tuple(part.statement for part in parts))
        for whole, *parts in zip(attempts_on_columns(name, columns), *by_column, strict=True)
    ]
    delete = Attempt("D", f'delete from audit."{name}"')
    truncate = [Attempt("T", f'truncate audit."{name}"')] if kind == "table" else []
    return (*rows, delete, *truncate)


def attempts_on_columns(name: str, columns: list[str]) -> Iterator[Attempt]:
    """Yield reading, inserting and updating just these columns; defaults need no right to read."""
    listed, defaults = ", ".join(columns), ", ".join("default" for _ in columns)
    yield Attempt("S", f'select {listed} from audit."{name}"')
    yield Attempt("I", f'insert into audit."{name}" ({listed}) values ({defaults})')
    yield Attempt("U", f'update audit."{name}" set ({listed}) = row({defaults})')


def sequences(db: Connection) -> Iterator[Item]:
    """Yield sequences; setval sets what stands already, for no rollback takes it back."""
    rows = db.execute(
        "select relname::text from pg_class where relnamespace = 'audit'::regnamespace and relkind = 'S'"
    ).fetchall()
    for (name,) in rows:
        state = db.execute(
            sql.SQL("select last_value, is_called from {}").format(sql.Identifier("audit", name))
        ).fetchone()
        assert state is not None
        yield Item(
            "sequence",
            name,
            (
                Attempt("r", f'select last_value from audit."{name}"'),
                Attempt("n", f"select nextval('audit.\"{name}\"')"),
                Attempt("s", f"select setval('audit.\"{name}\"', {state[0]}, {state[1]})"),
            ),
        )


def functions(db: Connection) -> Iterator[Item]:
    """Yield functions, called with nulls of their arguments' types."""
    rows = db.execute(
        "select p.oid::integer, p.proname::text, oidvectortypes(p.proargtypes),"
        " array(select format_type(t, null) from unnest(p.proargtypes) with ordinality a(t, n) order by n),"
        " p.prorettype in ('trigger'::regtype, 'event_trigger'::regtype)"
        " from pg_proc p where p.pronamespace = 'audit'::regnamespace"
    ).fetchall()
    for oid, name, signature, types_of_arguments, is_for_triggers in rows:
        shown = COMPILED.sub(r"\1_N", name) + f"({signature})"
        if is_for_triggers:
            # These cannot be called: the one place where the server is asked instead of tried.
            statement = (
                f"do $$ begin if not has_function_privilege({oid}, 'execute') then"
                f" raise 'permission denied for function {name}'; end if; end $$"
            )
        else:
            arguments = ", ".join(f"a{number}" for number in range(len(types_of_arguments)))
            nulls = ", ".join(f"null::{type_} as a{number}" for number, type_ in enumerate(types_of_arguments))
            # OFFSET 0: the planner would answer for a strict function of constant nulls before rights are looked at.
            statement = f'select audit."{name}"({arguments}) from (select {nulls} offset 0) nulls'
        yield Item("function", shown, (Attempt("x", statement),), name)


def types(db: Connection) -> Iterator[Item]:
    """Yield types made for themselves, not those that come with tables or as arrays."""
    rows = db.execute(
        "select t.typname::text from pg_type t left join pg_class c on c.oid = t.typrelid"
        " where t.typnamespace = 'audit'::regnamespace and coalesce(c.relkind, 'c') = 'c'"
        " and not exists (select from pg_type e where e.typarray = t.oid)"
    ).fetchall()
    for (name,) in rows:
        yield Item("type", name, (Attempt("u", f'create temporary table attempt (value audit."{name}")'),))


def event_triggers(db: Connection) -> Iterator[Item]:
    """Yield the database's event triggers."""
    for (name,) in db.execute("select evtname::text from pg_event_trigger").fetchall():
        yield Item("event trigger", name, (Attempt("d", f'alter event trigger "{name}" disable'),))


def others(db: Connection) -> Iterator[Item]:
    """Yield what else is in the schema, of a kind for which nobody has said yet what is to be tried."""
    rows = db.execute(
        "select pg_describe_object(classid, objid, objsubid) from pg_depend"
        " where refclassid = 'pg_namespace'::regclass and refobjid = 'audit'::regnamespace"
        " and classid not in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)"
    ).fetchall()
    for (description,) in rows:
        yield Item("other", description, (Attempt("?", "select"),))
