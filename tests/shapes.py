"""The shapes of tables that every form of write is tried on.

Each gives its rows twice: as the SQL that writes them and as the JSON that the log must hold. What a server cannot make
(xml, ICU, an extension it lacks) is no shape there.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from tests.model import Row, Shape, Value

LONG = "a name that is as long as PostgreSQL allows, sixty-three bytes "
Connection = psycopg.Connection[tuple[Any, ...]]
Literal = tuple[str, ...] | str | int | None


@dataclass(frozen=True)
class Column:
    """A column: its type, what follows it in CREATE TABLE, and its value in each of the five rows."""

    name: str
    type: str
    values: tuple[Value, ...]
    more: str = ""


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def column(name: str, type_name: str, *literals: Literal, more: str = "") -> Column:
    """Return a column of (SQL literal, JSON) for each row; a bare text is both, a bare number stands for itself."""
    return Column(name, type_name, tuple(_value(type_name, literal) for literal in literals), more)


def _value(type_name: str, literal: Literal) -> Value:
    if literal is None:
        return Value(f"null::{type_name}", "null")
    if isinstance(literal, int):
        return Value(f"({literal})::{type_name}", str(literal))
    if isinstance(literal, str):
        return Value(f"{_literal(literal)}::{type_name}", json.dumps(literal))
    return Value(f"{_literal(literal[0])}::{type_name}", *literal[1:])


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def numbers(name: str, type_name: str, *texts: str, more: str = "") -> Column:
    """Return a column whose literals are JSON numbers too."""
    return column(name, type_name, *((text, text) for text in texts), more=more)


ID = column("id", "bigint", 1, 2, 3, 4, 5)
WORKSPACE = column("workspace_id", "text", "acme", "acme", "other", "acme", "other")
TITLE = column("title", "text", "a", "b", "c", "d", "e")


def shape(
    name: str,
    *columns: Column,
    frame: tuple[Column, ...] = (ID, WORKSPACE, TITLE),
    schema: str = "work",
    table: str = "document",
    key: tuple[str, ...] = ("id",),
    first: str = "",
    last: str = "",
    constraint: str | None = None,
    creates: str = "create table",
    tail: str = "",
    logged: Callable[[Column], bool] = lambda column: True,
    **more: Any,
) -> Shape:
    """Return a shape whose table has these columns after the usual ones: id, workspace_id, title."""
    all_columns = (*frame, *columns)
    definitions = [f"{quoted(c.name)} {c.type} {c.more}" for c in all_columns]
    if constraint is None and key:
        constraint = f"primary key ({', '.join(map(quoted, key))})"
    body = ", ".join([*definitions, *([constraint] if constraint else [])])
    target = f"{quoted(schema)}.{quoted(table)}"
    rows: list[Row] = [{c.name: c.values[number] for c in all_columns if logged(c)} for number in range(5)]
    made = Shape(
        name=name,
        setup=f"{first}; {creates} {target} ({body}) {tail}; {last}",
        schema=schema,
        table=table,
        columns={c.name: c.type for c in all_columns if logged(c)},
        rows=rows,
        key=key,
        target=target,
    )
    return replace(made, **more)


def _names(**more: Any) -> Mapping[str, Any]:
    return more


def _keys() -> Iterable[Shape]:
    uuids = [f"0b5f7e1c-0000-4000-8000-00000000000{n}" for n in range(1, 6)]
    yield shape("bigint", shift={"id": '"id" + 1'}, name_column="title", tracking="resource_name_column => 'title'")
    yield shape("uuid", frame=(column("id", "uuid", *uuids), WORKSPACE, TITLE))
    slugs = ("one", "two ü", "", 'q"uo\'te', "five\\")
    yield shape("text_key", frame=(column("slug", "text", *slugs), WORKSPACE, TITLE), key=("slug",))
    team = column("team", "text", "x", "x", "y", "x", "z")
    number = column("number", "integer", 1, 2, 3, 4, 5)
    since = column("since", "date", *(f"2026-03-{day}" for day in range(11, 16)))
    yield shape("composite_key", frame=(team, number, since, WORKSPACE, TITLE), key=("team", "number", "since"))
    yield shape("no_key", number, frame=(WORKSPACE, TITLE), key=(), finder=("title",))


def _permissions() -> Iterable[Shape]:
    yield shape(
        "permission",
        column("document_id", "bigint", 70, 70, 71, 70, 71),
        column("member", "text", "ada", "grace", "ada", "alan", None),
        resource=("document_id",),
        resource_type="document",
        subject_column="member",
        events={
            "INSERT": "permission_granted",
            "UPDATE": "permission_changed",
            "DELETE": "permission_revoked",
            "TRUNCATE": "permission_revoked",
        },
        tracking="kind => 'permission', resource_type => 'document', resource_id_columns => '{document_id}',"
        " subject_column => 'member'",
    )
    yield shape(
        "secrets",
        column("token", "text", "p", "q", "r", "s", None),
        column("updated", "integer", 1, 2, 3, 4, 5),
        excluded=("updated",),
        redacted=("token",),
        tracking="excluded_columns => '{updated}', redacted_columns => '{token}'",
    )


ALL: list[Shape] = [*_keys(), *_permissions()]


def team(schema: str) -> Shape:
    """Return the small table that stands beside each shape: what rows of it may refer to, and what triggers write to."""
    return shape(
        "team",
        frame=(
            column("id", "text", "acme", "other", "third", "fourth", "fifth"),
            column("name", "text", "Acme", "Other", "Third", "Fourth", "Fifth"),
        ),
        schema=schema,
        table="team",
        workspace="id",
        tracking="workspace_column => 'id'",
    )


# The server


@dataclass(frozen=True)
class Features:
    """What the server that the tests run on can do."""

    version: int
    has: frozenset[str]

    def can_make(self, shape: Shape) -> bool:
        return shape.minimum_version <= self.version and self.has.issuperset(shape.needs)


def features(connection: Connection, version: int) -> Features:
    """Ask a server for what not every build has."""
    found = connection.execute(
        "select name from pg_available_extensions where name in ('hstore', 'citext')"
        " union select 'icu' where exists (select from pg_collation where collprovider = 'i')"
    ).fetchall()
    try:
        connection.execute("select '<a/>'::xml")
        found.append(("xml",))
    except psycopg.errors.FeatureNotSupported:
        pass
    return Features(version, frozenset(name for (name,) in found))
