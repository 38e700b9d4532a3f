"""The application's user, who may write to tracked tables and nothing else, with hostile values: all of it is logged.

By design he names the actor, and the workspace where a setting holds it: he is the application. The login beside it is
not his to choose.
"""

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection, trail


@pytest.fixture
def user(database: Database, db: Connection) -> Connection:
    """The application's login, with a tracked table to write to."""
    db.execute("create table document (id text primary key, workspace_id text, title text, body jsonb)")
    db.execute("select audit.enable_tracking('document', resource_name_column => 'title')")
    db.execute("grant select, insert, update, delete, truncate on document to app_user")
    return database.connect("app_user", autocommit=False)


@pytest.mark.parametrize(
    ("named", "actor"),
    [
        ("system", ("system", "system", "system")),
        (" system ", ("system", "system", "system")),
        ("", ("system", "system", "system")),
        ("   ", ("system", "system", "system")),
        ("SYSTEM", ("user", "SYSTEM", "SYSTEM")),
        ("\tsystem", ("user", "\tsystem", "\tsystem")),
        ("\u0455ystem", ("user", "\u0455ystem", "\u0455ystem")),
        ("system\u200b", ("user", "system\u200b", "system\u200b")),
        ("'; drop table audit.entry; --", ("user", "'; drop table audit.entry; --", "'; drop table audit.entry; --")),
    ],
)
def test_nobody_who_names_himself_is_taken_for_the_system(
    db: Connection, user: Connection, named: str, actor: tuple[str, str, str]
) -> None:
    user.execute("select set_config('audit.actor_id', %s, true)", [named])
    user.execute("insert into document values ('1', 'acme')")
    user.commit()
    assert trail(db, "actor_type, actor_id, actor_name") == [actor]


@pytest.mark.parametrize("name", ["system", " system", "system  "])
def test_nobody_is_called_the_system(db: Connection, user: Connection, name: str) -> None:
    user.execute("select set_config('audit.actor_id', 'ada', true), set_config('audit.actor_name', %s, true)", [name])
    user.execute("insert into document values ('1', 'acme')")
    user.commit()
    assert trail(db, "actor_id, actor_name, context -> 'invalid' ->> 'actor_name'") == [("ada", "ada", name)]


@pytest.mark.parametrize(
    "metadata",
    [
        "[" * 60000,
        '{"a":' * 10000 + "1" + "}" * 10000,
        '{"a": "\\u0000"}',
        '{"a": 1e1000000}',
        "{",
        "\\",
        "x" * 1000000,
        "1" * 200000,
    ],
)
def test_no_metadata_fails_a_write(db: Connection, user: Connection, metadata: str) -> None:
    user.execute("select set_config('audit.metadata', %s, true)", [metadata])
    user.execute("insert into document values ('1', 'acme')")
    user.commit()
    assert trail(db, "resource_id, octet_length(context::text) <= 100000") == [("1", True)]


@pytest.mark.parametrize(
    "setting",
    [
        "actor_id",
        "actor_name",
        "actor_type",
        "request_id",
        "reason",
        "ip",
        "user_agent",
        "metadata",
    ],
)
@pytest.mark.parametrize(
    "value", ["\U0001f4a3" * 100000, "\u202e<img onerror=1>\x01\x7f", "%s%n\\x00\\", "x" * 3000000]
)
def test_no_value_of_a_setting_fails_a_write(db: Connection, user: Connection, setting: str, value: str) -> None:
    user.execute("select set_config(%s, %s, true)", [f"audit.{setting}", value])
    user.execute("insert into document values ('1', 'acme')")
    user.commit()
    assert trail(db, "resource_id, octet_length(entry::text) < 10000") == [("1", True)]


@pytest.mark.parametrize("column", ["id", "workspace_id", "title"])
@pytest.mark.parametrize("value", ["x" * 3000, "\U0001f4a3" * 1000, "a\\b'c\"d%s$1", " ", "\u202e\u0007"])
def test_no_value_of_a_column_fails_a_write(db: Connection, user: Connection, column: str, value: str) -> None:
    user.execute(b"insert into document (id, workspace_id) values ('1', 'acme'), ('2', 'acme')")
    user.execute(f"update document set {column} = %s where id = '1'".encode(), [value])
    user.execute(f"update document set {column} = {column} || 'y'".encode())
    user.execute("delete from document")
    user.commit()
    assert {operation for (operation,) in trail(db, "operation")} == {"INSERT", "UPDATE", "DELETE"}


def test_a_value_that_looks_like_a_marker_is_told_from_one(db: Connection, user: Connection) -> None:
    user.execute("""insert into document values ('1', 'acme', '{"redacted": true}', '{"redacted": true}')""")
    user.commit()
    assert trail(db, "after ->> 'title', jsonb_typeof(after -> 'title')") == [('{"redacted": true}', "string")]


def test_where_a_setting_holds_the_workspace_the_application_chooses_it(
    database: Database, db: Connection, user: Connection
) -> None:
    db.execute("create table note (id integer primary key); grant insert on note to app_user")
    db.execute("select audit.enable_tracking('note', workspace_setting => 'app.workspace')")
    user.execute("set local app.workspace = 'other'; insert into note values (1)")
    user.execute("set local app.workspace = '''; drop table audit.entry; --'; insert into note values (2)")
    user.execute("set local app.workspace = ''; insert into note values (3)")
    user.commit()
    assert trail(db, "resource_id, workspace_id, database_user") == [
        ("1", "other", "app_user"),
        ("2", "'; drop table audit.entry; --", "app_user"),
        ("3", None, "app_user"),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "set session_replication_role = replica",
        "alter table document disable trigger audit_insert",
        "alter table document disable trigger all",
        "drop trigger audit_insert on document",
        "set local role audit_capture",
        "set event_triggers = off",
        "select audit.set_actor('ada')",
        "select audit.record('report_viewed', 'report')",
        "select audit.disable_tracking('document')",
        "create trigger t before update on document for each row execute function suppress_redundant_updates_trigger()",
        "alter role app_user set session_replication_role = replica",
        "alter function audit.capture_1() set search_path = pg_temp",
        "do $$ begin perform set_config('session_replication_role', 'replica', false); end $$",
    ],
)
def test_the_application_cannot_write_past_the_log(user: Connection, statement: str) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        user.execute(statement.encode())
    assert refusal.value.sqlstate in ("42501", "42704")


@pytest.mark.parametrize(
    "settings",
    [
        "set plpgsql.extra_errors = 'all'; set plpgsql.extra_warnings = 'all'",
        "set standard_conforming_strings = off; set escape_string_warning = off; set backslash_quote = on",
        "set quote_all_identifiers = on; set transform_null_equals = on; set array_nulls = off",
        "set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'; set timezone = 'Asia/Kolkata'",
        "set default_transaction_deferrable = on; set constraint_exclusion = on; set xmloption = document",
        "set plan_cache_mode = force_generic_plan; set enable_indexscan = off; set enable_seqscan = off",
        "set row_security = off; set check_function_bodies = off; set plpgsql.variable_conflict = use_column",
        "set bytea_output = escape; set extra_float_digits = -15; set client_encoding = 'LATIN1'",
    ],
)
def test_no_setting_of_the_session_changes_what_is_written(db: Connection, user: Connection, settings: str) -> None:
    user.execute(settings.encode())
    user.execute("insert into document values ('1', 'acme', 'it''s', '{\"a\": 1.50}')")
    user.execute("update document set title = 'T'")
    user.execute("insert into document values ('2', 'acme'), ('3', 'other')")
    user.execute("update document set title = 'U'")
    user.execute("truncate document")
    user.commit()
    assert trail(db, "operation, workspace_id, resource_id, row_count, after ->> 'title'") == [
        ("INSERT", "acme", "1", 1, "it's"),
        ("UPDATE", "acme", "1", 1, "T"),
        ("INSERT", "acme", "2", 1, None),
        ("INSERT", "other", "3", 1, None),
        ("UPDATE", "acme", None, 2, None),
        ("UPDATE", "other", "3", 1, "U"),
        ("TRUNCATE", "acme", None, 2, None),
        ("TRUNCATE", "other", None, 1, None),
    ]
