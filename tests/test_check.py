"""audit.check() lists what could slip past the log, each with the statement that mends it."""

import pytest

from tests.trail import Connection


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer, workspace_id text) partition by range (id)")
    db.execute("create table document_1 partition of document for values from (0) to (10)")
    db.execute("select audit.enable_tracking('document', resource_id_columns => '{id}')")
    return db


def bypasses(db: Connection) -> list[tuple[str, str]]:
    query = "select problem, object_name from audit.check() where severity = 'bypass' order by 1, 2"
    return db.execute(query).fetchall()


def mend(db: Connection) -> None:
    for (statement,) in db.execute("select mend from audit.check() where severity = 'bypass'").fetchall():
        db.execute(statement.encode())


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("alter table document disable trigger audit_update", [("trigger_disabled", "public.document")]),
        ("alter table document_1 enable trigger audit_delete", [("trigger_not_always", "public.document_1")]),
        ("alter table document enable replica trigger audit_insert", [("trigger_not_always", "public.document")]),
        ("drop trigger audit_insert on document", [("trigger_missing", "public.document")]),
        ("drop trigger audit_truncate on document_1", [("partition_untracked", "public.document_1")]),
    ],
)
def test_a_bypass_is_found_and_its_mend_mends_it(
    document: Connection, damage: str, found: list[tuple[str, str]]
) -> None:
    document.execute(damage.encode())
    assert bypasses(document) == found
    mend(document)
    assert bypasses(document) == []


def test_a_partition_that_came_while_event_triggers_were_off_is_found(document: Connection) -> None:
    document.execute("alter event trigger audit_follow_partitions disable")
    document.execute("create table document_2 partition of document for values from (10) to (20)")
    document.execute("alter event trigger audit_follow_partitions enable always")
    assert bypasses(document) == [("partition_untracked", "public.document_2")] * 4
    mend(document)
    assert bypasses(document) == []


def test_an_untracked_parent_through_which_one_can_write_is_found(document: Connection) -> None:
    document.execute("create table kid (id integer, workspace_id text)")
    document.execute("select audit.enable_tracking('kid', resource_id_columns => '{id}')")
    document.execute("create table base (id integer, workspace_id text)")
    document.execute("alter table kid inherit base")
    assert bypasses(document) == [("parent_untracked", "public.base")]


def test_event_triggers_that_are_gone_are_found_and_the_mend_makes_them_as_they_were(db: Connection) -> None:
    columns = "evtname, evtevent, evtowner, evtfoid, evtenabled, evttags, obj_description(oid, 'pg_event_trigger')"
    event_triggers = f"select {columns} from pg_event_trigger order by evtname".encode()
    made = db.execute(event_triggers).fetchall()
    db.execute("drop event trigger audit_follow_ddl; drop event trigger audit_guard_rewrite")
    db.execute("alter event trigger audit_guard_drop disable")
    assert db.execute("select problem, object_name, mend from audit.check() order by 2").fetchall() == [
        ("ddl_not_followed", "audit_follow_ddl", "select audit.create_event_triggers()"),
        ("log_not_guarded", "audit_guard_drop", "select audit.create_event_triggers()"),
        ("log_not_guarded", "audit_guard_rewrite", "select audit.create_event_triggers()"),
    ]
    db.execute("select audit.create_event_triggers()")
    assert db.execute(event_triggers).fetchall() == made
    assert db.execute("select * from audit.check()").fetchall() == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("alter event trigger audit_follow_ddl disable; alter table document add title text", "function_stale"),
        ("alter event trigger audit_follow_drop enable replica", "ddl_not_followed"),
        ("alter table document enable row level security", "truncate_not_counted"),
        ("alter table document owner to app_owner", "owner_can_log_in"),
        ("alter table document drop column workspace_id", "column_unreadable"),
    ],
)
def test_what_weakens_the_log_is_a_warning(document: Connection, damage: str, problem: str) -> None:
    document.execute(damage.encode())
    found = document.execute("select problem, severity from audit.check()").fetchall()
    assert (problem, "warning") in found
