"""A row's history, and the row as it was at a moment, told from the log alone."""

from datetime import datetime
from typing import Any

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture
def document(db: Connection) -> Connection:
    """A tracked table with one row that is older than the log."""
    db.execute("create table document (id integer primary key, workspace_id text, title text, stars numeric)")
    db.execute("insert into document values (1, 'acme', 'Revenue', 1.0)")
    db.execute("select audit.enable_tracking('document')")
    return db


def history(db: Connection, key: str, table: str = "document") -> list[tuple[Any, ...]]:
    return db.execute(
        "select operation, key_before, key_after, before, after from audit.row_history(%s::regclass, %s)", [table, key]
    ).fetchall()


def now(db: Connection) -> datetime:
    row = db.execute("select clock_timestamp()").fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def as_of(db: Connection, key: str, moment: datetime, table: str = "document") -> Any:
    row = db.execute("select audit.row_as_of(%s::regclass, %s, %s)", [table, key, moment]).fetchone()
    assert row is not None
    return row[0]


def test_a_rows_life_is_told_from_its_insertion_to_its_deletion(document: Connection) -> None:
    before = now(document)
    document.execute("insert into document values (2, 'acme', 'Costs', 2), (3, 'acme', 'Other', 3)")
    made = now(document)
    document.execute("update document set stars = 2.50 where id = 2")
    changed = now(document)
    document.execute("delete from document where id in (2, 3)")
    row = {"id": 2, "workspace_id": "acme", "title": "Costs", "stars": 2}
    last = {**row, "stars": 2.5}
    assert history(document, "2") == [
        ("INSERT", None, "2", None, row),
        ("UPDATE", "2", "2", {"stars": 2}, {"stars": 2.5}),
        ("DELETE", "2", None, last, None),
    ]
    assert as_of(document, "2", before) is None
    assert as_of(document, "2", made) == row
    assert as_of(document, "2", changed) == last
    assert as_of(document, "2", now(document)) is None


def test_a_row_older_than_the_log_is_known_as_far_as_the_log_goes(document: Connection) -> None:
    before = now(document)
    assert as_of(document, "1", before) is None
    document.execute("update document set stars = 5")
    changed = now(document)
    assert as_of(document, "1", before) == {"stars": 1}
    document.execute("delete from document")
    assert as_of(document, "1", before) == {"id": 1, "workspace_id": "acme", "title": "Revenue", "stars": 1}
    assert as_of(document, "1", changed) == {"id": 1, "workspace_id": "acme", "title": "Revenue", "stars": 5}


def test_a_row_is_followed_through_changes_of_its_key(document: Connection) -> None:
    document.execute("insert into document values (2, 'acme', 'Costs', 2)")
    before = now(document)
    document.execute("alter table document drop constraint document_pkey")
    document.execute("alter table document add primary key (id) deferrable")
    document.execute("update document set id = id + 1")
    document.execute("update document set title = 'Third' where id = 3")
    assert [(change[0], *change[1:3]) for change in history(document, "2")] == [
        ("INSERT", None, "2"),
        ("UPDATE", "1", "2"),
        ("UPDATE", "2", "3"),
    ]
    assert as_of(document, "2", before) == {"id": 2, "workspace_id": "acme", "title": "Costs", "stars": 2}
    assert as_of(document, "3", now(document)) == {"id": 3, "workspace_id": "acme", "title": "Third", "stars": 2}
    assert as_of(document, "1", now(document)) is None


@pytest.mark.parametrize(
    ("key", "old", "new", "old_key", "new_key"),
    [
        ("a text", "'x'", "'y'", "x", "y"),
        (
            "a timestamptz",
            "'2026-03-14 12:00Z'",
            "'2026-03-15 12:00Z'",
            *(f"2026-03-{day}T12:00:00+00:00" for day in (14, 15)),
        ),
        ("a float", "1e20", "2.5", "100000000000000000000", "2.5"),
        ("a bytea", r"'\x01'", r"'\x02'", r"\x01", r"\x02"),
        ("a text", "repeat('x', 3000)", "repeat('y', 3000)", None, None),
    ],
)
def test_the_key_of_a_permission_is_told_by_its_columns(
    db: Connection, key: str, old: str, new: str, old_key: str | None, new_key: str | None
) -> None:
    db.execute(f"create table grants ({key} primary key, document_id integer, workspace_id text)".encode())
    db.execute("alter table grants alter a set storage plain" if "repeat" not in old else "select")
    db.execute("select audit.enable_tracking('grants', 'permission', resource_id_columns => '{document_id}')")
    db.execute(f"insert into grants values ({old}, 7, 'acme')".encode())
    db.execute(f"update grants set a = {new}".encode())
    keys = db.execute(
        "select coalesce(row_key, 'none') from audit.entry where operation in ('INSERT', 'UPDATE') order by created_at"
    ).fetchall()
    assert keys[0] == keys[1]
    if old_key:
        assert keys[0] == (old_key,)
    found = history(db, keys[0][0], "grants")
    assert [change[:2] for change in found] == [("INSERT", None), ("UPDATE", keys[0][0])]
    arrived = found[1][2]
    assert arrived == new_key if new_key else arrived.startswith("y" * 200 + "…")
    db.execute("delete from grants")
    assert [change[0] for change in history(db, arrived, "grants")] == ["UPDATE", "DELETE"]


def test_a_composite_key_is_told_by_the_column_that_changed(db: Connection) -> None:
    db.execute("create table grants (a integer, b text, note text, workspace_id text, primary key (a, b))")
    db.execute("select audit.enable_tracking('grants', 'permission', resource_id_columns => '{note}')")
    db.execute("insert into grants values (1, 'x', 'n', 'acme')")
    db.execute("update grants set b = 'y'")
    db.execute("delete from grants")
    assert [change[:3] for change in history(db, '[1, "y"]', "grants")] == [
        ("UPDATE", '[1, "x"]', '[1, "y"]'),
        ("DELETE", '[1, "y"]', None),
    ]


def test_a_truncate_ends_a_row(document: Connection) -> None:
    document.execute("insert into document values (2, 'acme', 'Costs', 2)")
    before = now(document)
    document.execute("truncate document")
    assert [change[:3] for change in history(document, "2")] == [("INSERT", None, "2"), ("TRUNCATE", "2", None)]
    assert as_of(document, "2", before) == {"id": 2, "workspace_id": "acme", "title": "Costs", "stars": 2}
    assert as_of(document, "2", now(document)) is None


def test_a_truncate_that_was_counted_by_an_estimate_of_none_ends_a_row_too(document: Connection) -> None:
    document.execute("select audit.enable_tracking('document', workspace => 'acme')")
    document.execute("insert into document values (2, 'acme', 'Costs', 2)")
    document.execute("begin isolation level repeatable read; truncate document; commit")
    counted = "select row_count from audit.entry where operation = 'TRUNCATE'"
    assert document.execute(counted).fetchall() == [(0,)]
    assert history(document, "2")[1] == ("TRUNCATE", "2", None, None, {"row_count_is_estimated": True})
    assert as_of(document, "2", now(document)) is None


def test_a_truncate_of_one_partition_ends_the_rows_that_no_later_change_finds(db: Connection) -> None:
    db.execute("create table m (id integer primary key, workspace_id text, title text) partition by range (id)")
    db.execute("create table low partition of m for values from (0) to (10)")
    db.execute("create table high partition of m for values from (10) to (20)")
    db.execute("select audit.enable_tracking('m')")
    db.execute("insert into m values (1, 'acme', 'One'), (11, 'acme', 'Eleven')")
    db.execute("truncate low")
    between = now(db)
    db.execute("update m set title = 'Twelve' where id = 11")
    assert as_of(db, "1", between, "m") is None
    assert as_of(db, "11", between, "m") == {"id": 11, "workspace_id": "acme", "title": "Eleven"}
    assert as_of(db, "11", now(db), "m") == {"id": 11, "workspace_id": "acme", "title": "Twelve"}
    assert history(db, "1", "m")[1] == ("TRUNCATE", "1", None, None, {"partition": "public.low"})


def test_a_merge_that_puts_a_new_row_in_an_old_ones_place_leaves_the_new_one(document: Connection) -> None:
    document.execute("insert into document values (2, 'acme', 'Old', 2)")
    document.execute(
        "merge into document d using (values (2, 2), (9, 2)) s (match, id) on d.id = s.match"
        " when matched then delete when not matched then insert values (s.id, 'acme', 'New', 9)"
    )
    assert document.execute("select title from document where id = 2").fetchall() == [("New",)]
    assert as_of(document, "2", now(document)) == {"id": 2, "workspace_id": "acme", "title": "New", "stars": 9}


def test_rows_of_two_workspaces_that_shift_in_one_statement_are_told_apart(db: Connection) -> None:
    db.execute("create table document (id integer primary key deferrable, workspace_id text, title text)")
    db.execute("select audit.enable_tracking('document')")
    db.execute(
        "insert into document select n, case n % 2 when 0 then 'acme' else 'globex' end, n from generate_series(1, 8) n"
    )
    for _ in range(3):
        db.execute("update document set id = id + 1")
    moved = {4 + n: str(1 + n) for n in range(8)}
    assert {key: as_of(db, str(key), now(db))["title"] for key in moved} == moved
    assert as_of(db, "3", now(db)) is None


@pytest.fixture
def followed(way: str, document: Connection) -> Connection:
    """`document` where alterations are followed: what nobody told the log it cannot tell."""
    if way == "fallback":
        for trigger in ("audit_follow_ddl", "audit_follow_drop", "audit_follow_rewrite"):
            document.execute(f"alter event trigger {trigger} enable always".encode())
    return document


def test_a_row_is_told_by_the_names_of_the_moment(followed: Connection) -> None:
    followed.execute("insert into document values (2, 'acme', 'Costs', 2)")
    first = now(followed)
    followed.execute(
        "create schema library; alter table document rename title to name; alter table document rename to report"
    )
    followed.execute("update report set name = 'Prices' where id = 2")
    second = now(followed)
    followed.execute("alter table report set schema library; alter table library.report drop column stars")
    followed.execute("alter table library.report rename id to number")
    followed.execute("update library.report set number = 3 where number = 2")
    row = {"workspace_id": "acme", "name": "Prices"}
    table = "library.report"
    assert as_of(followed, "2", first, table) == {"id": 2, "workspace_id": "acme", "title": "Costs", "stars": 2}
    assert as_of(followed, "2", second, table) == {"id": 2, **row, "stars": 2}
    assert as_of(followed, "2", now(followed), table) is None
    assert as_of(followed, "3", now(followed), table) == {"number": 3, **row}
    assert [change[:3] for change in history(followed, "2", table)] == [
        ("INSERT", None, "2"),
        ("UPDATE", "2", "2"),
        ("UPDATE", "2", "3"),
    ]


def test_an_added_column_is_told_as_far_as_the_log_knows_it(followed: Connection) -> None:
    followed.execute("insert into document values (2, 'acme', 'Costs', 2)")
    followed.execute("alter table document add a integer, add b integer default 5")
    followed.execute("alter table document add c float default random()")
    followed.execute("alter table document alter stars type numeric using stars + 1")
    row = {"id": 2, "workspace_id": "acme", "title": "Costs", "a": None, "b": 5}
    assert as_of(followed, "2", now(followed)) == row
    between = now(followed)
    followed.execute("alter table document rename c to d; update document set d = 1, stars = 7 where id = 2")
    assert as_of(followed, "2", now(followed)) == {**row, "d": 1, "stars": 7}
    assert {**as_of(followed, "2", between), "c": None} == {**row, "c": None, "stars": 3}


def test_a_table_that_is_gone_still_has_its_history(followed: Connection) -> None:
    followed.execute("insert into document values (2, 'acme', 'Costs', 2)")
    first = now(followed)
    followed.execute("drop table document; create table document (id integer primary key, workspace_id text)")
    second = now(followed)
    named = "select audit.row_as_of('public', 'document', '2', %s) ->> 'title'"
    # Another table bears its name, and is not tracked.
    assert history(followed, "2") == []
    followed.execute("drop table document")
    assert [followed.execute(named, [moment]).fetchone() for moment in (first, second)] == [("Costs",), ("Costs",)]
    operations = "select operation from audit.row_history('public', 'document', '2')"
    assert followed.execute(operations).fetchall() == [("INSERT",)]


def test_history_is_for_those_who_may_read_the_whole_log(database: Database, document: Connection) -> None:
    document.execute("insert into document values (2, 'acme', 'Costs', 2)")
    assert [change[0] for change in history(database.connect("dba"), "2")] == ["INSERT"]
    for login in ("app_owner", "app_user", "reader", "maintainer"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.connect(login).execute("select * from audit.row_history('public', 'document', '2')")
