"""Who acts and in what context: named in the transaction, gone with it, and never a reason for a write to fail."""

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Database
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


# How long an actor holds


def insert(db: Connection) -> None:
    db.execute("insert into document (workspace_id) values ('acme')")


@pytest.mark.parametrize(
    "statement",
    [
        "set local audit.actor_id = '42'",
        "select set_config('audit.actor_id', '42', true)",
        "select audit.set_actor('42')",
        "do $$ begin perform audit.set_actor('42'); end $$",
    ],
)
def test_an_actor_set_locally_outside_a_transaction_is_gone_before_the_next_statement(
    document: Connection, statement: str
) -> None:
    document.execute(statement.encode())
    insert(document)
    assert trail(document, ACTOR) == [("system", "system", "system")]


@pytest.mark.parametrize("statement", ["reset audit.actor_id", "reset all", "set audit.actor_id to default"])
def test_a_reset_takes_the_actor_of_the_transaction_too(document: Connection, statement: str) -> None:
    with document.transaction():
        document.execute("select audit.set_actor('42')")
        insert(document)
        document.execute(statement.encode())
        insert(document)
    assert trail(document, "actor_id") == [("42",), ("system",)]


@pytest.mark.parametrize("statement", ["discard all", "reset all", "reset audit.actor_id"])
def test_an_actor_of_the_session_holds_until_it_is_reset(document: Connection, statement: str) -> None:
    document.execute("set audit.actor_id = '42'")
    insert(document)
    write(document, "audit.set_actor('43')")
    insert(document)
    document.execute(statement.encode())
    insert(document)
    assert trail(document, "actor_id") == [("42",), ("43",), ("42",), ("system",)]


def test_an_actor_set_in_a_do_block_or_a_function_holds_until_the_transaction_ends(document: Connection) -> None:
    document.execute(
        "create function sign_in() returns void language plpgsql security definer"
        " as $$ begin perform audit.set_actor('42', 'Ada'); end $$"
    )
    with document.transaction():
        document.execute("do $$ begin perform audit.set_actor('41'); end $$")
        insert(document)
        document.execute("select sign_in()")
        insert(document)
    insert(document)
    assert trail(document, "actor_id") == [("41",), ("42",), ("system",)]


def test_an_actor_in_a_function_s_set_clause_holds_inside_it(document: Connection) -> None:
    document.execute(
        "create function import() returns void language sql set audit.actor_id = 'importer'"
        " set audit.actor_type = 'service' as $$ insert into document (workspace_id) values ('acme') $$"
    )
    with document.transaction():
        document.execute("select audit.set_actor('42')")
        document.execute("select import()")
        insert(document)
    document.execute("select import()")
    assert trail(document, "actor_type, actor_id") == [("service", "importer"), ("user", "42"), ("service", "importer")]


def test_an_actor_that_is_set_where_a_set_clause_holds_goes_with_it(document: Connection) -> None:
    document.execute(
        "create function import() returns void language plpgsql set audit.actor_id = 'importer' as $$ begin"
        " perform audit.set_actor('43'); insert into document (workspace_id) values ('acme'); end $$"
    )
    with document.transaction():
        document.execute("select audit.set_actor('42')")
        document.execute("select import()")
        insert(document)
    assert trail(document, "actor_id") == [("43",), ("42",)]


def test_a_procedure_that_commits_ends_the_actor(document: Connection) -> None:
    document.execute(
        "do $$ begin perform audit.set_actor('42'); insert into document (workspace_id) values ('acme'); commit;"
        " insert into document (workspace_id) values ('acme'); end $$"
    )
    assert trail(document, "actor_id") == [("42",), ("system",)]


def test_a_rolled_back_block_of_plpgsql_takes_its_actor_along(document: Connection) -> None:
    with document.transaction():
        document.execute("select audit.set_actor('42')")
        document.execute(
            "do $$ begin begin perform audit.set_actor('43'); insert into document (workspace_id) values ('acme');"
            " perform 1 / 0; exception when division_by_zero then null; end;"
            " insert into document (workspace_id) values ('acme'); end $$"
        )
    assert trail(document, "actor_id") == [("42",)]


def test_a_released_savepoint_leaves_its_actor(document: Connection) -> None:
    document.execute("begin; select audit.set_actor('42'); savepoint s; select audit.set_actor('43'); release s")
    insert(document)
    document.execute("commit")
    assert trail(document, "actor_id") == [("43",)]


def test_a_prepared_transaction_keeps_its_actor_whoever_commits_it(database: Database, document: Connection) -> None:
    other = database.connect("rival")
    document.execute("begin; select audit.set_actor('42', 'Ada'), audit.set_context(reason => 'two phases')")
    insert(document)
    document.execute("prepare transaction 'here'")
    insert(document)
    other.execute("set audit.actor_id = '43'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied to finish prepared transaction"):
        other.execute("commit prepared 'here'")
    second = database.connect()
    second.execute("set audit.actor_id = '44'")
    second.execute("commit prepared 'here'")
    second.execute("insert into document (workspace_id) values ('acme')")
    assert trail(document, "actor_id, actor_name, context, database_user") == [
        ("42", "Ada", {"reason": "two phases"}, "postgres"),
        ("system", "system", None, "postgres"),
        ("44", "44", None, "postgres"),
    ]


def test_a_parallel_query_s_workers_leave_the_actor_as_it_is(document: Connection, server_version: int) -> None:
    document.execute("select audit.enable_tracking('document', workspace_setting => 'app.workspace')")
    forced = {15: "force_parallel_mode"}.get(server_version, "debug_parallel_query")
    with document.transaction():
        document.execute(f"set local {forced} = on".encode())
        document.execute("select audit.set_actor('42'), set_config('app.workspace', 'globex', true)")
        seen = document.execute("select current_setting('audit.actor_id')").fetchone()
        document.execute(
            "insert into document (workspace_id)"
            " select current_setting('audit.actor_id') from pg_class where relname in ('pg_class', 'pg_proc')"
        )
    assert seen == ("42",)
    assert trail(document, "actor_id, workspace_id, row_count") == [("42", "globex", 2)]


# Who logged in


@pytest.fixture
def shared(database: Database, document: Connection) -> Connection:
    """A login that may become another role, on a table that both may write to."""
    document.execute("grant insert on document to app_user, app_owner; grant app_user to app_owner")
    return database.connect("app_owner")


def test_a_role_that_is_taken_changes_neither_actor_nor_login(document: Connection, shared: Connection) -> None:
    with shared.transaction():
        shared.execute("select audit.set_actor('42')")
        shared.execute("set local role app_user")
        insert(shared)
    document.execute("revoke app_user from app_owner")
    assert trail(document, "actor_id, database_user") == [("42", "app_owner")]


def test_a_session_that_a_superuser_gives_to_another_role_is_that_role_s(document: Connection) -> None:
    document.execute("grant insert on document to app_user")
    with document.transaction():
        document.execute("select audit.set_actor('42')")
        document.execute("set local session authorization app_user")
        insert(document)
    insert(document)
    assert trail(document, "actor_id, database_user") == [("42", "app_user"), ("system", "postgres")]


def test_a_write_by_a_function_that_runs_as_its_owner_is_its_caller_s(database: Database, document: Connection) -> None:
    document.execute(
        "create function add_document() returns void language sql security definer set search_path = public, pg_temp"
        " as $$ insert into document (workspace_id) values ('acme'), ('acme') $$"
    )
    caller = database.connect("app_user")
    with caller.transaction():
        caller.execute("select set_config('audit.actor_id', '42', true)")
        caller.execute("select add_document()")
    assert trail(document, "actor_id, database_user, row_count") == [("42", "app_user", 2)]


def test_a_login_can_have_an_actor_of_its_own(database: Database, document: Connection) -> None:
    document.execute("grant insert on document to app_user")
    document.execute(f"alter role app_user in database {database.name} set audit.actor_id = 'importer'".encode())
    service = database.connect("app_user")
    insert(service)
    with service.transaction():
        service.execute("select set_config('audit.actor_id', '42', true)")
        insert(service)
    insert(service)
    assert trail(document, "actor_id, database_user") == [
        ("importer", "app_user"),
        ("42", "app_user"),
        ("importer", "app_user"),
    ]


# missing_actor => 'refuse'


REFUSED = "needs an actor"


@pytest.fixture
def strict(db: Connection, way: str) -> Connection:
    """A partitioned table that no write without an actor reaches, in either way of capture, with two rows in it."""
    db.execute("create table page (id integer primary key, workspace_id text, body text) partition by range (id)")
    db.execute("create table page_low partition of page for values from (0) to (100)")
    db.execute("create table page_high partition of page for values from (100) to (200)")
    db.execute("select audit.enable_tracking('page', missing_actor => 'refuse', excluded_columns => '{body}')")
    with db.transaction():
        db.execute("select audit.set_actor('42')")
        db.execute("insert into page values (1, 'acme', ''), (2, 'acme', '')")
    return db


WRITES = [
    "insert into page values (3, 'acme')",
    "insert into page values (3, 'acme'), (103, 'acme')",
    "insert into page_low values (3, 'acme')",
    "insert into page values (1, 'globex') on conflict (id) do update set workspace_id = excluded.workspace_id",
    "update page set workspace_id = 'globex' where id = 1",
    "update page set workspace_id = 'globex'",
    "update page set id = 101 where id = 1",
    "update page_low set workspace_id = 'globex'",
    "delete from page where id = 1",
    "delete from page",
    "truncate page",
    "truncate page_low",
    "merge into page p using (values (1)) v(id) on p.id = v.id when matched then update set workspace_id = 'globex'",
    "merge into page p using (values (1)) v(id) on p.id = v.id when matched then delete",
    "merge into page p using (values (3)) v(id) on p.id = v.id when not matched then insert values (3, 'acme')",
    "with gone as (delete from page returning *) select count(*) from gone",
    "do $$ begin delete from page; end $$",
]
ROWS = [(1, "acme"), (2, "acme")]


@pytest.mark.parametrize("statement", WRITES)
def test_a_write_without_an_actor_is_refused_whole(strict: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=REFUSED):
        strict.execute(statement.encode())
    assert strict.execute("select id, workspace_id from page order by id").fetchall() == ROWS
    assert trail(strict, "operation, row_count, actor_id") == [("INSERT", 2, "42")]


@pytest.mark.parametrize("setting", ["''", "'   '", "'system'"])
def test_what_names_nobody_is_refused_too(strict: Connection, setting: str) -> None:
    strict.execute(f"set audit.actor_id = {setting}".encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=REFUSED):
        strict.execute("delete from page")
    assert trail(strict, "operation") == [("INSERT",)]


@pytest.mark.parametrize(
    "statement",
    [
        "update page set workspace_id = workspace_id",
        "update page set workspace_id = 'acme' where id = 1",
        "update page set body = 'excluded' where id = 1",
        "update page set body = 'excluded'",
        "update page set workspace_id = 'globex' where id = 99",
        "delete from page where id = 99",
        "insert into page select 3, 'acme' where false",
        "insert into page values (1, 'acme') on conflict do nothing",
        "merge into page p using (values (99)) v(id) on p.id = v.id when matched then delete",
        "select from page for update",
    ],
)
def test_what_changes_nothing_that_is_logged_needs_no_actor(strict: Connection, statement: str) -> None:
    strict.execute(statement.encode())
    assert trail(strict, "operation, row_count") == [("INSERT", 2)]


def test_a_refused_write_can_be_rolled_back_and_made_with_an_actor(strict: Connection) -> None:
    with strict.transaction():
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=REFUSED), strict.transaction():
            strict.execute("delete from page where id = 1")
        strict.execute("select audit.set_actor('43')")
        strict.execute("delete from page where id = 1")
    assert trail(strict, "operation, row_count, actor_id") == [("INSERT", 2, "42"), ("DELETE", 1, "43")]


# Whatever is set, the write succeeds, and the entry holds what the documentation says.


NAMES_OF_NOBODY = ["", " ", "   ", "system", " system ", "SYSTEM"]
SYNTAX = ["'", '"', "\\", "%s", "$1", "{}", "null", "\n", "\u202e"]
TEXTS = st.one_of(
    st.sampled_from(NAMES_OF_NOBODY + SYNTAX),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.integers(199, 1002).map(lambda length: "ä" * length),
)
TYPES = st.one_of(st.sampled_from(["user", "service", "system", ""]), TEXTS)


@given(actor_id=TEXTS, name=TEXTS, kind=TYPES, reason=TEXTS)
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_is_an_actor_or_is_kept_aside(
    document: Connection, actor_id: str, name: str, kind: str, reason: str
) -> None:
    with document.transaction(force_rollback=True):
        document.execute(
            "select set_config('audit.actor_id', %s, true), set_config('audit.actor_name', %s, true),"
            " set_config('audit.actor_type', %s, true), set_config('audit.reason', %s, true)",
            [actor_id, name, kind, reason],
        )
        insert(document)
        assert trail(document, "actor_type, actor_id, actor_name, context ->> 'reason'") == [
            (*expected_actor(actor_id.strip(" "), name, kind), reason if 0 < len(reason) <= 1000 else None)
        ]


def expected_actor(actor_id: str, name: str, kind: str) -> tuple[str, str, str]:
    """Say who acts, as the documentation has it; blanks around an id do not count."""
    if actor_id in ("", "system"):
        return "system", "system", "system"
    actor_id = actor_id[:200]
    if name.strip(" ") in ("", "system"):
        name = actor_id
    elif len(name) > 1000:
        name = name[:200]
    return kind if kind == "service" else "user", actor_id, name
