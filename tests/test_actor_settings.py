"""Who acts and in what context: named in the transaction, gone with it, and never a reason for a write to fail."""

import psycopg
import pytest

from tests.trail import Connection, trail

ACTOR = "actor_type, actor_id, actor_name"


@pytest.fixture
def document(db: Connection) -> Connection:
    db.execute("create table document (id integer generated always as identity primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    return db


def write(db: Connection, *settings: str) -> None:
    with db.transaction():
        for setting in settings:
            db.execute(f"select {setting}".encode())
        db.execute("insert into document (workspace_id) values ('acme')")


def test_the_actor_holds_for_its_transaction_only(document: Connection) -> None:
    write(document, "audit.set_actor('42', 'Ada Lovelace')")
    write(document)
    assert trail(document, ACTOR) == [("user", "42", "Ada Lovelace"), ("system", "system", "system")]


def test_a_service_can_act(document: Connection) -> None:
    write(document, "audit.set_actor('importer', type => 'service')")
    assert trail(document, ACTOR) == [("service", "importer", "importer")]


def test_no_id_is_the_system(document: Connection) -> None:
    write(document, "audit.set_actor('42')", "audit.set_actor(null)")
    assert trail(document, ACTOR) == [("system", "system", "system")]


def test_settings_of_ones_own_are_the_same(document: Connection) -> None:
    write(document, "set_config('audit.actor_id', '42', true), set_config('audit.actor_name', 'Ada', true)")
    assert trail(document, ACTOR) == [("user", "42", "Ada")]


def test_a_savepoint_rolled_back_takes_its_actor_along(document: Connection) -> None:
    document.execute("begin; select audit.set_actor('42'); savepoint s; select audit.set_actor('43'); rollback to s")
    document.execute("insert into document (workspace_id) values ('acme'); commit")
    assert trail(document, "actor_id") == [("42",)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("audit.set_actor('system')", '"system" is what no user did'),
        ("audit.set_actor('42', type => 'robot')", "an actor's type is user or service, not 'robot'"),
        ("audit.set_actor('42', type => 'system')", "an actor's type is user or service, not 'system'"),
    ],
)
def test_an_impossible_actor_is_refused(document: Connection, call: str, message: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
        document.execute(f"select {call}".encode())


def test_the_context_stands_with_the_entry(document: Connection) -> None:
    write(document, "audit.set_context('r-1', 'cleanup', '10.0.0.1', 'curl/8', '{\"ticket\": 7}')")
    assert trail(document, "request_id, context") == [
        ("r-1", {"reason": "cleanup", "ip": "10.0.0.1", "user_agent": "curl/8", "metadata": {"ticket": 7}})
    ]


@pytest.mark.parametrize(
    ("setting", "value", "kept"),
    [
        ("metadata", "{not json", "{not json"),
        ("metadata", '{"a": "\\u0000"}', '{"a": "\\u0000"}'),
        ("metadata", "[" * 20000, "[" * 1000),
        ("ip", "somewhere", "somewhere"),
        ("reason", "x" * 5000, "x" * 1000),
        ("user_agent", "x" * 5000, "x" * 1000),
        ("request_id", "x" * 5000, "x" * 1000),
        ("actor_type", "robot", "robot"),
        ("actor_name", "x" * 5000, "x" * 1000),
        ("actor_id", "x" * 5000, "x" * 1000),
    ],
)
def test_a_bad_value_fails_no_write_and_is_kept_aside(
    document: Connection, setting: str, value: str, kept: str
) -> None:
    with document.transaction():
        document.execute("select set_config('audit.actor_id', '42', true)")
        document.execute("select set_config('audit.' || %s, %s, true)", [setting, value])
        document.execute("insert into document (workspace_id) values ('acme')")
    assert trail(document, "actor_type, request_id, context") == [("user", None, {"invalid": {setting: kept}})]


def test_the_system_cannot_be_impersonated(document: Connection) -> None:
    write(document, "set_config('audit.actor_id', 'system', true), set_config('audit.actor_name', 'Ada', true)")
    assert trail(document, ACTOR + ", context") == [("system", "system", "system", {"invalid": {"actor_id": "system"}})]


def test_nobody_is_called_system_or_nothing(document: Connection) -> None:
    write(document, "audit.set_actor('42', 'system')")
    write(document, "audit.set_actor('42', '  ')")
    write(document, "set_config('audit.actor_id', '  ', true)")
    assert trail(document, ACTOR + ", context") == [
        ("user", "42", "42", {"invalid": {"actor_name": "system"}}),
        ("user", "42", "42", None),
        ("system", "system", "system", None),
    ]


def test_the_application_records_what_is_no_write(document: Connection) -> None:
    document.execute("begin; select audit.set_actor('42', 'Ada')")
    document.execute("select audit.record('dashboard_viewed', 'dashboard', '7', 'Sales', 'acme', '{\"seconds\": 3}')")
    document.execute("commit")
    columns = "event, operation, workspace_id, resource_type, resource_id, resource_name, actor_id, row_count, context"
    assert document.execute(
        f"select {columns} from audit.timeline where event = 'dashboard_viewed'".encode()
    ).fetchall() == [
        ("dashboard_viewed", "EVENT", "acme", "dashboard", "7", "Sales", "42", 0, {"details": {"seconds": 3}})
    ]


@pytest.mark.parametrize(
    "event", ["log_viewed", "day_dropped", "resource_updated", "permission_granted", "role_changed"]
)
def test_the_application_cannot_record_what_the_log_writes(document: Connection, event: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=event):
        document.execute("select audit.record(%s, 'x', '1')", [event])


@pytest.mark.parametrize("event", ["viewed", "Dashboard_viewed", "", None, "a_b; drop"])
def test_a_recorded_event_has_the_form_of_an_event(document: Connection, event: str | None) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="is not of the form noun_pastparticiple"):
        document.execute("select audit.record(%s, 'x', '1')", [event])


def test_an_event_of_a_tracked_table_cannot_be_recorded(db: Connection) -> None:
    db.execute("create table report (id integer primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('report', events => '{\"INSERT\": \"report_published\"}')")
    with pytest.raises(
        psycopg.errors.InsufficientPrivilege, match="report_published is written by tracked tables only"
    ):
        db.execute("select audit.record('report_published', 'report', '1')")
