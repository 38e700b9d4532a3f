"""What the log says of DDL: one entry a command, with columns, types, filled values and whether rows were rewritten.

A rewrite passes by every trigger of the table (trap 9), so this entry is all that tells of it.
"""

from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database
from tests.trail import Connection, own_events, trail


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer primary key, workspace_id text, title text, stars integer)")
    db.execute("select audit.enable_tracking('document', excluded_columns => '{title}')")
    db.execute("insert into document values (1, 'acme', 'T', 1), (2, 'acme', 'U', 2)")
    return db


def alterations(connection: Connection) -> list[dict[str, Any]]:
    """Return the details of every entry that the log wrote of itself since tracking was enabled, oldest first."""
    found = own_events(connection, "event, resource_id, context->'details'")[1:]
    assert {(event, table) for event, table, _ in found} <= {("table_altered", "public.document")}
    return [details for _, _, details in found]


def altered(**details: Any) -> dict[str, Any]:
    """Return the details of an alteration; keys that are not given are as where nothing of the kind happened."""
    return {
        "command": "ALTER TABLE",
        "added_columns": [],
        "dropped_columns": [],
        "renamed_columns": {},
        **details,
    }


@pytest.mark.parametrize(
    ("ddl", "details"),
    [
        (
            "alter table document alter stars type integer using stars + 1",
            altered(rewritten=True, rewritten_columns=["stars"]),
        ),
        (
            "alter table document alter stars type bigint",
            altered(
                rewritten=True,
                retyped_columns={"stars": {"from": "integer", "to": "bigint"}},
                rewritten_columns=["stars"],
            ),
        ),
        (
            "alter table document alter title type varchar(20)",
            altered(
                rewritten=True,
                retyped_columns={"title": {"from": "text", "to": "character varying(20)"}},
                rewritten_columns=["title"],
            ),
        ),
        # From here on no row is rewritten.
        (
            "alter table document alter title type varchar",
            altered(
                retyped_columns={"title": {"from": "text", "to": "character varying"}}, rewritten_columns=["title"]
            ),
        ),
        ("alter table document add rating integer", altered(added_columns=["rating"])),
        (
            "alter table document add rating integer default 5",
            altered(added_columns=["rating"], filled_columns={"rating": 5}),
        ),
        (
            (
                "alter table document add a timestamptz default '2020-01-01 12:00+02', add b integer[] default '{1,2}',"
                " add c box default '((1,1),(0,0))', add d text default '{\"a, b\"}', add e bytea default 'x',"
                " add f text, add g char(3) default 'ab', add h bit(3) default b'101'"
            ),
            altered(
                added_columns=["a", "b", "c", "d", "e", "f", "g", "h"],
                filled_columns={
                    "a": "2020-01-01T10:00:00+00:00",
                    "b": [1, 2],
                    "c": "(1,1),(0,0)",
                    "d": '{"a, b"}',
                    "e": "\\x78",
                    "g": "ab ",
                    "h": "101",
                },
            ),
        ),
        # A default that differs from row to row is written into them.
        (
            "alter table document add rank float default random()",
            altered(added_columns=["rank"], rewritten=True, rewritten_columns=["rank"]),
        ),
        (
            "alter table document add number integer generated always as identity",
            altered(added_columns=["number"], rewritten=True, rewritten_columns=["number"]),
        ),
        (
            "alter table document add twice integer generated always as (stars * 2) stored",
            altered(added_columns=["twice"], rewritten=True, rewritten_columns=["twice"]),
        ),
        (
            "alter table document add rating integer, drop column title, alter stars type text",
            altered(
                added_columns=["rating"],
                dropped_columns=["title"],
                retyped_columns={"stars": {"from": "integer", "to": "text"}},
                rewritten_columns=["stars"],
                rewritten=True,
            ),
        ),
        ("alter table document set unlogged", altered(rewritten=True)),
        (
            "alter table document rename stars to rating",
            altered(renamed_columns={"stars": "rating"}),
        ),
        ("alter table document drop constraint document_pkey", altered()),
    ],
)
def test_a_command_leaves_one_entry_that_tells_what_it_did(
    document: Connection, ddl: str, details: dict[str, Any]
) -> None:
    document.execute("set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set bytea_output = 'escape'")
    document.execute(ddl.encode())
    assert alterations(document) == [details]
    assert trail(document, "operation, row_count") == [("INSERT", 2)]


@pytest.mark.parametrize(
    "ddl",
    [
        "alter table document alter stars set statistics 100",
        "alter table document alter title set storage external",
        "alter table document alter stars set default 3",
        "alter table document alter stars set not null",
        "alter table document add constraint few_stars check (stars < 10)",
        "alter table document set (fillfactor = 50)",
        "alter table document cluster on document_pkey",
        "cluster document using document_pkey",
        "vacuum full document",
        "create index on document (stars)",
        "reindex table concurrently document",
        "comment on table document is 'x'",
        "grant select on document to app_user",
        "alter table document enable row level security",
        "alter table document replica identity full",
    ],
)
def test_what_changes_neither_columns_nor_values_leaves_no_entry(document: Connection, ddl: str) -> None:
    document.execute(ddl.encode())
    assert alterations(document) == []


def test_the_entry_names_the_types_of_the_application(document: Connection) -> None:
    document.execute("create type mood as enum ('sad', 'glad'); create domain small as integer check (value < 10)")
    document.execute("alter table document add mood mood default 'glad'")
    document.execute("alter table document alter stars type small")
    document.execute("alter type mood rename to temper")
    document.execute("alter table document add last integer")
    assert alterations(document) == [
        altered(added_columns=["mood"], filled_columns={"mood": "glad"}),
        # A domain's constraint is proved row by row, which rewrites them.
        # The default, which was a note in the catalogue, is written into them too: the log names a column too many.
        altered(
            rewritten=True,
            retyped_columns={"stars": {"from": "integer", "to": "public.small"}},
            rewritten_columns=["mood", "stars"],
        ),
        altered(added_columns=["last"]),
    ]


def test_no_cast_of_the_application_writes_a_filled_value(document: Connection) -> None:
    document.execute("create type mood as enum ('sad', 'glad')")
    document.execute("create function leak(mood) returns text language sql as $$ select current_user::text $$")
    document.execute("create cast (mood as text) with function leak(mood) as implicit")
    document.execute("alter table document add mood mood default 'glad'")
    assert alterations(document) == [altered(added_columns=["mood"], filled_columns={"mood": "glad"})]


def test_a_constant_keeps_the_nulls_within_it(document: Connection) -> None:
    document.execute("""alter table document add details jsonb default '{"n": null}'""")
    assert alterations(document) == [altered(added_columns=["details"], filled_columns={"details": {"n": None}})]


def test_a_filled_value_is_kept_secret_like_any_other(db: Connection) -> None:
    db.execute("create table document (id integer primary key, workspace_id text, a text, b text, c text)")
    db.execute("select audit.enable_tracking('document', excluded_columns => '{a}', redacted_columns => '{b}')")
    db.execute("insert into document values (1, 'acme')")
    # The names are still known: a column that comes back is secret from its first value on.
    db.execute("alter table document drop column a, drop column b, drop column c")
    db.execute("alter table document add a text default 'hush', add b text default 'hush', add c text default 'heard'")
    assert alterations(db) == [
        altered(dropped_columns=["a", "b", "c"]),
        altered(added_columns=["a", "b", "c"], filled_columns={"c": "heard"}, rewritten_columns=["a", "b"]),
    ]


def test_a_filled_value_above_the_limit_is_cut(db: Connection) -> None:
    db.execute("create table document (id integer primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document', max_value_bytes => 64)")
    db.execute("insert into document values (1, 'acme')")
    db.execute(f"alter table document add a text default '{'x' * 64}', add b text default '{'x' * 65}'".encode())
    digest = "9537c5fdf120482f7d58d25e9ed583f52c02b4e304ea814db1633ad565aed7e9"
    assert alterations(db) == [
        altered(
            added_columns=["a", "b"],
            filled_columns={"a": "x" * 64, "b": {"cut": True, "bytes": 65, "sha256": digest}},
        )
    ]


def test_two_commands_in_one_statement_are_two_entries(document: Connection) -> None:
    # Inside a DO block the statement's timestamp stands still (trap 4).
    document.execute(
        "do $$ begin"
        " alter table document alter stars type integer using stars + 1;"
        " alter table document alter stars type integer using stars + 2;"
        " end $$"
    )
    assert alterations(document) == [altered(rewritten=True, rewritten_columns=["stars"])] * 2


def test_a_rewrite_that_is_rolled_back_leaves_no_entry(document: Connection) -> None:
    document.execute("begin; savepoint s; alter table document alter stars type bigint; rollback to s")
    document.execute("alter table document add rating integer; commit")
    assert alterations(document) == [altered(added_columns=["rating"])]


def test_an_entry_of_a_rewrite_names_the_actor(document: Connection) -> None:
    document.execute("begin; select audit.set_actor('7', 'Ada'); select audit.set_context(reason => 'release 2')")
    document.execute("alter table document alter stars type integer using 0; commit")
    assert own_events(document, "event, actor_id, actor_name, context->>'reason'")[1:] == [
        ("table_altered", "7", "Ada", "release 2")
    ]


def test_a_rewrite_of_partitions_is_one_entry_of_their_table(db: Connection) -> None:
    db.execute("create table document (id integer, workspace_id text, stars integer) partition by range (id)")
    db.execute("create table low partition of document for values from (0) to (10)")
    db.execute("create table high partition of document for values from (10) to (30) partition by range (id)")
    db.execute("create table high_1 partition of high for values from (10) to (20)")
    db.execute("create table high_2 partition of high for values from (20) to (30)")
    db.execute("select audit.enable_tracking('document', resource_id_columns => '{id}')")
    db.execute("insert into document values (1, 'acme', 1), (11, 'acme', 1), (21, 'acme', 1)")
    db.execute("alter table document alter stars type integer using stars + 1")
    db.execute("alter table high_2 set unlogged")
    db.execute("alter table document add rating integer default 5")
    assert alterations(db) == [
        altered(rewritten=True, rewritten_columns=["stars"]),
        altered(rewritten=True),
        altered(added_columns=["rating"], filled_columns={"rating": 5}),
    ]


def test_a_rewrite_that_comes_from_a_parent_or_a_type_is_recorded(db: Connection) -> None:
    db.execute("create table base (id integer primary key, workspace_id text, stars integer)")
    db.execute("create table between () inherits (base); create table kid () inherits (between)")
    db.execute("create type thing as (id integer, workspace_id text, stars integer)")
    db.execute("create table typed of thing")
    db.execute(
        "select audit.enable_tracking(t::regclass, resource_id_columns => '{id}') from unnest('{kid,typed}'::text[]) t"
    )
    db.execute("alter table base alter stars type integer using stars + 1")
    db.execute("alter type thing alter attribute stars type bigint cascade")
    assert own_events(db, "event, resource_id, context->'details'")[2:] == [
        ("table_altered", "public.kid", altered(rewritten=True, rewritten_columns=["stars"])),
        (
            "table_altered",
            "public.typed",
            altered(
                command="ALTER TYPE",
                rewritten=True,
                retyped_columns={"stars": {"from": "integer", "to": "bigint"}},
                rewritten_columns=["stars"],
            ),
        ),
    ]


@pytest.mark.parametrize(
    "ddl",
    [
        "alter table other alter stars type integer using stars + 1",
        "alter table passing alter stars type integer using stars + 1",
        "refresh materialized view seen",
    ],
)
def test_a_rewrite_of_other_tables_is_none_of_the_logs_business(document: Connection, ddl: str) -> None:
    document.execute("create table other (id integer primary key, stars integer)")
    document.execute("create temporary table passing (id integer primary key, stars integer)")
    document.execute("create materialized view seen as select id from other")
    document.execute(ddl.encode())
    assert alterations(document) == []


def test_a_rewrite_that_nobody_followed_is_recorded_by_upkeep(document: Connection) -> None:
    document.execute("alter event trigger audit_follow_ddl disable")
    document.execute("alter table document alter stars type integer using stars + 1")
    assert alterations(document) == []
    document.execute("select audit.maintain()")
    document.execute("select audit.maintain()")
    # Upkeep cannot tell any more which columns the command altered.
    assert alterations(document) == [
        altered(rewritten=True, rewritten_columns=["id", "stars", "title", "workspace_id"])
    ]


def test_a_rewrite_is_recorded_while_another_transaction_holds_the_settings(
    database: Database, document: Connection
) -> None:
    other = database.connect(autocommit=False)
    other.execute("select from audit.tracked_table for update")
    document.execute("set lock_timeout = '2s'")
    document.execute("alter table document alter stars type integer using stars + 1")
    other.commit()
    document.execute("select audit.maintain()")
    # Upkeep cannot tell any more which columns the command altered.
    assert alterations(document) == [
        altered(rewritten=True, rewritten_columns=["id", "stars", "title", "workspace_id"])
    ]


def test_a_rewrite_goes_on_with_a_warning_where_it_cannot_be_noted(database: Database, document: Connection) -> None:
    document.execute("alter table document owner to app_owner")
    document.execute("alter table audit.rewritten_table add constraint is_broken check (false)")
    owner = database.connect("app_owner")
    warnings: list[str | None] = []
    owner.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    owner.execute("alter table document alter stars type bigint")
    owner.execute("update document set stars = 5000000000 where id = 1")
    assert [warning[:75] for warning in warnings if warning] == [
        "pg_daybook could not record that ALTER TABLE rewrites public.document: new "
    ]
    assert trail(document, "after->'stars'")[1:] == [(5000000000,)]
    assert alterations(document) == [
        altered(retyped_columns={"stars": {"from": "integer", "to": "bigint"}}, rewritten_columns=["stars"])
    ]


def test_ddl_goes_on_with_a_warning_where_the_log_cannot_be_asked(document: Connection) -> None:
    warnings: list[str | None] = []
    document.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    document.execute("drop table audit.rewritten_table")
    document.execute("alter table document add rating integer")
    document.execute("update document set rating = 5 where id = 1")
    problem = 'relation "audit.rewritten_table" does not exist'
    assert warnings == [
        f"pg_daybook could not follow DROP TABLE: {problem}",
        f"pg_daybook could not follow ALTER TABLE: {problem}",
    ]
    assert trail(document, "after->'rating'")[1:] == [(5,)]


def test_a_check_lists_a_missing_record_of_rewrites(document: Connection) -> None:
    document.execute("drop event trigger audit_follow_rewrite")
    query = "select severity, problem, object_name from audit.check() where problem = 'ddl_not_followed'"
    assert document.execute(query).fetchall() == [("warning", "ddl_not_followed", "audit_follow_rewrite")]


def test_an_owner_cannot_reach_the_notes_of_rewrites(database: Database) -> None:
    owner = database.connect("app_owner")
    for statement in ("select from {}", "insert into {} values (1, 'x')", "delete from {}"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute(sql.SQL(statement).format(sql.SQL("audit.rewritten_table")))
