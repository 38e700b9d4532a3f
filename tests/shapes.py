"""The shapes of tables that every form of write is tried on.

Each gives its rows twice: as the SQL that writes them and as the JSON that the log must hold. What a server cannot make
(xml, ICU, an extension it lacks) is no shape there.
"""

import contextlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from tests.model import Row, Shape, Value

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


def _keys() -> Iterable[Shape]:
    uuids = [f"0b5f7e1c-0000-4000-8000-00000000000{n}" for n in range(1, 6)]
    yield shape("bigint", shift={"id": '"id" + 1'}, name_column="title", tracking="resource_name_column => 'title'")
    yield shape("uuid", frame=(column("id", "uuid", *uuids), WORKSPACE, TITLE))
    slugs = ("one", "two ü", "", "q\"uo'te", "five\\")
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


def _names() -> Iterable[Shape]:
    ids, workspaces, titles = ID.values, WORKSPACE.values, TITLE.values

    def named(name: str, schema: str, table: str, *columns: str, **more: Any) -> Shape:
        key, workspace, title, *others = columns
        frame = (Column(key, "bigint", ids), Column(workspace, "text", workspaces), Column(title, "text", titles))
        return shape(
            name,
            *(column(other, "text", "1", "2", None, "4", "5") for other in others),
            frame=frame,
            schema=schema,
            table=table,
            key=(key,),
            workspace=workspace,
            tracking=f"workspace_column => {_literal(workspace)}",
            **more,
        )

    yield named("mixed_case", "Work Place", "Document Store", "Id", "Workspace Id", "The Title", "ID", "id", "ÄÖ")
    yield named(
        "keywords", "select", "order", "user", "table", "end", "new", "old", "tg_op", "audit_o", "audit_n", "r", "event"
    )
    yield named("odd_names", "it's", 'a "b" %s', "%I", "$1", "a.b", "c'd", 'e"f', "g\\h", "{i}", ":1", "-- j", "/*")
    yield named(
        "long_names",
        *("s" * 63, "t" * 63),
        *(letter + "ü" * 30 + "ab" for letter in "kwcdef"),
    )
    yield named(
        "no_search_path", "work", "document", "id", "workspace_id", "title", "body", settings={"search_path": "''"}
    )
    yield named(
        "found_by_search_path",
        *("work", "document", "id", "workspace_id", "title", "body"),
        target='"document"',
        settings={"search_path": "work"},
    )
    hiding = (
        "document entry change tracked_table audit_new_rows audit_old_rows audit_row audit_group pg_class pg_trigger"
    )
    yield named(
        "hidden_by_temporary_tables",
        *("work", "document", "id", "workspace_id", "title", "body"),
        first="; ".join(f"create temporary table {name} (id integer)" for name in hiding.split()),
        settings={"search_path": "pg_temp, work, pg_catalog"},
    )


def _columns() -> Iterable[Shape]:
    yield shape(
        "generated",
        column("amount", "integer", 1, 2, None, 4, 5),
        column("doubled", "integer", 2, 4, None, 8, 10, more="generated always as (amount * 2) stored"),
        column("loud", "text", "A", "B", "C", "D", "E", more="generated always as (upper(title)) stored"),
        generated={"doubled": ("amount",), "loud": ("title",)},
    )
    yield shape(
        "virtual",
        column("amount", "integer", 1, 2, None, 4, 5),
        column("doubled", "integer", 2, 4, None, 8, 10, more="generated always as (amount * 2) virtual"),
        logged=lambda column: column.name != "doubled",
        minimum_version=18,
    )
    yield shape(
        "identity",
        column("number", "integer", 11, 12, 13, 14, 15, more="generated always as identity"),
        frame=(replace(ID, more="generated by default as identity"), WORKSPACE, TITLE),
        fixed=("number",),
        not_null=("number",),
        shift={"id": '"id" + 1'},
    )
    yield shape(
        "dropped_columns",
        column("gone", "integer", 1, 2, 3, 4, 5),
        column("stars", "numeric", *(("1", "1"), ("2", "2"), None, ("4", "4"), ("5", "5"))),
        column("gone too", "text", "a", "b", "c", "d", "e"),
        logged=lambda column: not column.name.startswith("gone"),
        last='alter table work.document drop column gone, drop column "gone too"',
    )
    yield shape("wide", *(column(f"c{n}", "integer", *range(n, n + 5)) for n in range(197)))


def _types() -> Iterable[Shape]:
    yield shape(
        "json",
        column(
            "j",
            "json",
            (r'{"a":  "\u0000"}', r'"{\"a\":  \"\\u0000\"}"'),
            (r'{"a": "\u0000"}', r'"{\"a\": \"\\u0000\"}"'),
            None,
            ("[1,\n2]", r'"[1,\n2]"'),
            ("null", '"null"'),
        ),
        column(
            "b",
            "jsonb",
            ('{"b": 1.0, "a": [null, true]}', '{"b": 1.0, "a": [null, true]}'),
            ('"x"', '"x"'),
            # The log cannot tell it from no value at all.
            ("null", "null", "the JSON null"),
            None,
            ("[]", "[]"),
        ),
        column(
            "js",
            "json[]",
            (r'{"{\"a\":  \"\\u0000\"}",NULL}', r'"{\"{\\\"a\\\":  \\\"\\\\u0000\\\"}\",NULL}"'),
            ("{}", '"{}"'),
            None,
            None,
            None,
        ),
    )
    xml = "<a/>", "<a></a>", "<a>ü &amp; <!-- x --></a>", "text", None
    yield shape("xml", column("x", "xml", *xml), needs=("xml",))
    yield shape(
        "geometry",
        column("p", "point", "(1,2)", "(-0.5,1e+300)", "(NaN,Infinity)", None, "(0,0)"),
        column("bx", "box", "(3,4),(1,2)", "(3,4),(0,0)", None, None, "(1,1),(1,1)"),
        column("pg", "polygon", "((0,0),(1,1),(2,0))", "((0,0))", None, None, None),
        column("l", "lseg", "[(1,2),(3,4)]", "[(3,4),(1,2)]", None, None, None),
        column("c", "circle", "<(1,2),3>", "<(1,2),0>", None, None, None),
    )
    yield shape("bytea", column("b", "bytea", r"\x00ff", r"\x", r"\x5c7800", None, r"\x27"))
    yield shape(
        "arrays",
        column(
            *("i", "integer[]"),
            *(
                ("{1,2}", "[1, 2]"),
                ("{NULL,1}", "[null, 1]"),
                ("{{1,2},{3,4}}", "[[1, 2], [3, 4]]"),
                ("{}", "[]"),
                None,
            ),
        ),
        column(
            "t",
            "text[]",
            ('{"a b",NULL,"NULL",""}', '["a b", null, "NULL", ""]'),
            (r'{"\"","\\","{}"}', r'["\"", "\\", "{}"]'),
            None,
            None,
            ("{}", "[]"),
        ),
        column(
            "n",
            "numeric[]",
            ("{NaN,1.0}", '["NaN", 1.0]'),
            ("{NaN,1.00}", '["NaN", 1.00]'),
            ("{-Infinity}", '["-Infinity"]'),
            None,
            None,
        ),
        # JSON arrays have no bounds: the log shows that the row changed, not from which number on it counts.
        column("b", "integer[]", ("{1,2}", "[1, 2]"), ("[0:1]={1,2}", "[1, 2]", "from 0"), None, None, None),
        column("d", "date[]", ("{2026-03-14}", '["2026-03-14"]'), ("{infinity}", '["infinity"]'), None, None, None),
    )
    yield shape(
        "ranges",
        column("i", "int4range", "[1,5)", "[1,6)", "empty", "(,)", None),
        column("n", "numrange", "[1.0,2]", "[1.00,2]", "(,0.5)", None, "empty"),
        column("d", "daterange", "[2026-03-14,2026-03-15)", "[2026-03-14,)", None, None, None),
        column(
            *("t", "tstzrange"),
            *('["2026-03-14 12:00:00+00","2026-03-14 13:00:00+00")', '["2026-03-14 12:00:00+00",infinity)', None),
            *(None, None),
        ),
        column("s", "work.span", "[1,2.5)", "[1,2.5]", "empty", None, None),
        first="create type work.span as range (subtype = float8)",
    )
    yield shape(
        "multiranges",
        column("i", "int4multirange", "{[1,3),[5,7)}", "{[1,3)}", "{}", None, "{(,)}"),
        column("n", "nummultirange", "{[1.0,2]}", "{[1.00,2]}", None, None, None),
        column("s", "work.spans", "{[1,2.5)}", "{[1,2.5],[3,4)}", "{}", None, None),
        first="create type work.span as range (subtype = float8, multirange_type_name = work.spans)",
    )
    yield shape(
        "enums",
        column("m", "work.mood", "fine", "so, so", "bad", None, "fine"),
        column("ms", "work.mood[]", '{fine,"so, so"}', "{}", "{NULL}", None, "{{fine,bad}}"),
        first="create type work.mood as enum ('fine', 'so, so', 'bad')",
    )
    yield shape(
        "domains",
        column("i", "work.positive", 1, 2, None, 4, 5),
        column("n", "work.price", *(("1.0", "1.0"), ("1.00", "1.00"), None, ("4", "4"), ("5", "5"))),
        column("t", "work.slug", "a", "b", None, "d", "e"),
        column("m", "work.feeling", "fine", "bad", None, "fine", "bad"),
        column("ms", "work.feelings", "{fine,bad}", "{}", None, None, None),
        column("a", "work.pair_of_numbers", ("{1,2}", "[1, 2]"), ("{3,4}", "[3, 4]"), None, None, None),
        column("j", "work.document_json", ('{"a":1}', r'"{\"a\":1}"'), ('{"a": 1}', r'"{\"a\": 1}"'), None, None, None),
        column("c", "work.place", "(1,x)", "(,)", None, "(2,)", '(3,"a b")'),
        first="create type work.mood as enum ('fine', 'bad');"
        " create domain work.whole as integer; create domain work.positive as work.whole check (value > 0);"
        " create domain work.price as numeric; create domain work.slug as varchar(20) check (value <> '');"
        " create domain work.feeling as work.mood; create domain work.feelings as work.mood[];"
        " create domain work.pair_of_numbers as integer[] check (cardinality(value) = 2);"
        " create domain work.document_json as json; create type work.spot as (x integer, y text);"
        " create domain work.place as work.spot",
    )
    yield shape(
        "composites",
        column("c", "work.pair", "(1,x,fine)", "(,,)", '(2,"a b",)', None, "(1,x,bad)"),
        column("cs", "work.pair[]", '{"(1,x,fine)"}', '{"(1,x,fine)",NULL}', "{}", None, None),
        column("n", "work.nested", '("(1,x,fine)",1.0)', '("(1,x,fine)",1.00)', "(,)", None, None),
        first="create type work.mood as enum ('fine', 'bad');"
        " create type work.pair as (a integer, b text, m work.mood);"
        " create type work.nested as (p work.pair, n numeric)",
    )
    yield shape(
        "hstore",
        column("h", "work.hstore", '"a"=>"1", "b"=>NULL', '"a"=>"1"', "", None, '"a b"=>"\\"\'"'),
        first="create extension hstore schema work",
        needs=("hstore",),
    )
    yield shape(
        "citext",
        column("c", "work.citext", "word", "Word", "WORD", None, ""),
        column("cs", "work.citext[]", "{word}", "{Word}", None, None, None),
        first="create extension citext schema work",
        needs=("citext",),
    )
    no_number = tuple((text, f'"{text}"') for text in ("NaN", "Infinity", "-Infinity"))
    no_moment = "infinity", "-infinity"
    yield shape(
        "no_numbers",
        column("n", "numeric", *no_number, ("0", "0"), None),
        column("f", "double precision", *no_number, ("0.1", "0.1"), None),
        column("r", "real", *no_number, ("0.1", "0.1"), None),
        column("d", "date", *no_moment, "2026-03-14", None, "0044-03-15 BC"),
        column("t", "timestamp", *no_moment, ("2026-03-14 12:00:00.5", '"2026-03-14T12:00:00.5"'), None, None),
        column(
            "z", "timestamptz", *no_moment, ("2026-03-14 12:00:00+02", '"2026-03-14T10:00:00+00:00"'), None, "infinity"
        ),
        settings={"timezone": "'Asia/Tokyo'", "datestyle": "'German'", "extra_float_digits": "-15"},
    )
    yield shape(
        "nulls",
        column("i", "integer", None, 2, None, None, 5),
        column("n", "numeric", None, ("2.0", "2.0"), None, None, None),
        column("t", "text", None, "", None, None, "null"),
        column("j", "json", None, ("null", '"null"'), None, None, None),
        column("b", "jsonb", None, ("null", "null", "the JSON null"), None, None, None),
        column("a", "text[]", None, ("{NULL}", "[null]"), None, None, ("{}", "[]")),
        column("c", "work.pair", None, "(,)", None, None, "(,)"),
        column("p", "point", None, "(0,0)", None, None, None),
        frame=(ID, column("workspace_id", "text", None, "acme", None, "acme", None), TITLE),
        first="create type work.pair as (a integer, b text)",
    )
    yield shape(
        "equal_but_not_identical",
        numbers("n", "numeric", "1.0", "1.00", "1.000", "1.0000", "1"),
        numbers("d", "work.price", "1.0", "1.00", "1.000", "1.0000", "1"),
        column("i", "interval", "1 mon", "30 days", "29 days 24:00:00", "720:00:00", "1 mon"),
        # jsonb knows no negative zero: the log shows that the row changed, not the sign.
        column("f", "double precision", ("-0.0", "0", "-0"), ("0.0", "0"), ("-0.0", "0", "-0"), ("0", "0"), ("0", "0")),
        column("b", "jsonb", *((text, text) for text in ("1.0", "1.00", '{"a": 1.0}', '{"a": 1.00}', "[1]"))),
        column(
            "a", "numeric[]", *((text, f"[{text[1:-1]}]") for text in ("{1.0}", "{1.00}", "{1.000}", "{1}", "{1.0}"))
        ),
        column("r", "numrange", "[1.0,2]", "[1.00,2]", "[1,2]", "[1,2.0]", "[1,2.00]"),
        column("c", "work.price_tag", "(1.0)", "(1.00)", "(1.000)", "(1)", "(1.0)"),
        column("z", "timetz", "12:00:00+00", "13:00:00+01", "12:00:00+00", "13:00:00+01", "12:00:00+00"),
        column("p", "bpchar", "a", "a ", "a  ", "a", "a "),
        column("dp", "work.blank", "a ", "a", "a  ", "a", "a "),
        first="create domain work.price as numeric; create domain work.blank as bpchar;"
        " create type work.price_tag as (price numeric)",
    )
    yield shape(
        "nondeterministic_collation",
        column("t", "text", "word", "Word", "WORD", None, "wOrd", more="collate work.loose"),
        column("v", "varchar(10)", "word", "Word", "WORD", None, "wOrd", more="collate work.loose"),
        column(
            "ts", "text[]", *((f"{{{t}}}", f'["{t}"]') for t in ("a", "A", "a", "A", "a")), more="collate work.loose"
        ),
        column("d", "work.word", "word", "Word", "WORD", None, "wOrd"),
        frame=(column("slug", "text", "a", "b", "c", "d", "e", more="collate work.loose"), WORKSPACE, TITLE),
        key=("slug",),
        first="create collation work.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        " create domain work.word as text collate work.loose",
        needs=("icu",),
    )

    def two(name: str, type_name: str, one: Literal, other: Literal) -> Column:
        return column(name, type_name, one, other, None, one, other)

    yield shape(
        "core_types",
        two("smallint", "smallint", 1, -2),
        two("real", "real", ("1.5", "1.5"), ("1e+30", "1000000000000000000000000000000")),
        two("boolean", "boolean", ("t", "true"), ("f", "false")),
        two("char", "char(5)", ("ab", '"ab   "'), ("ba", '"ba   "')),
        two("varchar", "varchar(5)", "ab", "ab "),
        two("one byte", '"char"', "a", "b"),
        two("name", "name", "a", "b"),
        two("date", "date", "2026-03-14", "2026-03-15"),
        two("time", "time", "12:00:00.5", "24:00:00"),
        two(
            "timestamp",
            "timestamp(0)",
            ("2026-03-14 12:00", '"2026-03-14T12:00:00"'),
            ("epoch", '"1970-01-01T00:00:00"'),
        ),
        two("interval", "interval", "1 year 2 mons -3 days +04:05:06.7", "-1 days"),
        two("inet", "inet", "10.0.0.1", "10.0.0.1/8"),
        two("cidr", "cidr", "10.0.0.0/8", "::/0"),
        two("macaddr", "macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:04"),
        two("bit", "bit(3)", "101", "110"),
        two("varbit", "varbit", "101", ""),
        two("tsvector", "tsvector", "'a':1 'b':2", "'a' 'b'"),
        two("tsquery", "tsquery", "'a' & 'b'", "'a' | 'b'"),
        two("pg_lsn", "pg_lsn", "0/16B3748", "1/0"),
        two("oid", "oid", "1", "4294967295"),
        two("regclass", "regclass", "pg_class", "audit.entry"),
        two("xid8", "xid8", "1", "18446744073709551615"),
        two("jsonpath", "jsonpath", '$."a"', '$."a"[0]'),
        settings={"search_path": "audit, work", "intervalstyle": "'sql_standard'", "bytea_output": "'escape'"},
    )


def _kinds() -> Iterable[Shape]:
    stars = column("stars", "numeric", *(("1.0", "1.0"), ("2", "2"), None, ("4", "4"), ("5", "5")))

    def by_id(row: Row) -> str:
        return {"1": "low", "2": "low", "3": "middle"}.get(row["id"].text, "high")

    leaves = (
        "create table work.low partition of work.document for values from (minvalue) to (3);"
        # Its columns lie in another order, beside one that was dropped.
        " create table work.middle (stars numeric, gone integer, title text, id bigint not null, workspace_id text);"
        " alter table work.middle drop column gone;"
        " alter table work.document attach partition work.middle for values from (3) to (4);"
        " create table work.high partition of work.document for values from (4) to (maxvalue)"
    )
    yield shape(
        "partitioned",
        stars,
        tail="partition by range (id)",
        last=leaves,
        part_of=by_id,
        first_partition=("document", "low", "for values from (minvalue) to (3)"),
        shift={"id": '"id" + 1'},
        tracking="resource_name_column => 'title'",
        name_column="title",
    )

    def by_id_and_workspace(row: Row) -> str:
        return by_id(row) if by_id(row) == "high" else "low_acme" if row["workspace_id"].text == "acme" else "low_rest"

    yield shape(
        "partitioned_twice",
        stars,
        key=("id", "workspace_id"),
        tail="partition by range (id)",
        last="create table work.low partition of work.document for values from (minvalue) to (4)"
        " partition by list (workspace_id);"
        " create table work.low_acme partition of work.low for values in ('acme');"
        " create table work.low_rest (stars numeric, gone integer, title text, workspace_id text not null,"
        " id bigint not null);"
        " alter table work.low_rest drop column gone;"
        " alter table work.low attach partition work.low_rest default;"
        " create table work.high partition of work.document for values from (4) to (maxvalue)",
        part_of=by_id_and_workspace,
        first_partition=("low", "low_acme", "for values in ('acme')"),
        not_null=("workspace_id",),
    )
    yield shape(
        "partitioned_without_key",
        stars,
        frame=(WORKSPACE, TITLE),
        key=(),
        finder=("title",),
        tail="partition by list (workspace_id)",
        last="create table work.acme partition of work.document for values in ('acme');"
        " create table work.rest partition of work.document default",
        part_of=lambda row: "acme" if row["workspace_id"].text == "acme" else "rest",
        first_partition=("document", "acme", "for values in ('acme')"),
    )
    yield shape(
        "leaf_by_name",
        stars,
        tail="partition by range (id)",
        last="create table work.low partition of work.document for values from (minvalue) to (9);"
        " create table work.high partition of work.document for values from (9) to (maxvalue)",
        target='"work"."low"',
        part_of=lambda row: "low",
        has_constraint_of_its_own=False,
    )
    child = "create table work.special (extra integer default 7) inherits (work.document)"
    yield shape("inheritance_parent", stars, last=child, third_row_in="work.special")
    yield shape(
        "inheritance_child",
        stars,
        first="create table work.base (id bigint, workspace_id text, title text)",
        tail="inherits (work.base)",
    )
    yield shape("unlogged", stars, creates="create unlogged table")

    hidden = {
        "id": Value("9", "9"),
        "workspace_id": Value("null", "null"),
        "title": Value("'hidden'", '"hidden"'),
        "stars": Value("null", "null"),
    }
    policy = (
        "alter table work.document enable row level security;"
        " create policy shown on work.document using (title <> 'hidden')"
    )
    yield shape(
        "row_level_security",
        stars,
        last=f"{policy}; grant usage on schema work to app_user; grant all on work.document to app_user",
        writer="app_user",
        hidden=(hidden,),
        not_null=("title",),
    )
    yield shape(
        "forced_row_level_security",
        stars,
        last=f"{policy}; alter table work.document force row level security;"
        " alter schema work owner to app_owner; alter table work.document owner to app_owner",
        writer="app_owner",
        owner="app_owner",
        hidden=(hidden,),
        not_null=("title",),
    )


ALL: list[Shape] = [*_keys(), *_permissions(), *_names(), *_columns(), *_types(), *_kinds()]


def team(schema: str) -> Shape:
    """Return the small table that stands beside each shape: its rows may refer to it, its triggers write to it."""
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
    found = connection.execute("select name from pg_available_extensions where name in ('hstore', 'citext')").fetchall()
    for feature, statement in (
        ("xml", "select '<a/>'::xml"),
        ("icu", "create collation loose (provider = icu, locale = 'und')"),
    ):
        with contextlib.suppress(psycopg.errors.FeatureNotSupported), connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
            found.append((feature,))
    return Features(version, frozenset(name for (name,) in found))
