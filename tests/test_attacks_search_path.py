"""What a caller puts before the catalogue on his search_path changes no entry and gains no rights.

The hostile schema holds the names that the log's own functions use: functions, operators, types, tables, views, a cast.
"""

import psycopg
import pytest

from tests.conftest import Database
from tests.loot import lay, stolen
from tests.trail import Connection, changes, count, own_events, trail

# Each function notes with whose rights it was run, then answers wrongly.
HOSTILE = """
create function {schema}.format(text, anyelement) returns text language plpgsql as
    $$ begin perform public.grab(); return 'select 1'; end $$;
create function {schema}.format(text, text, text) returns text language plpgsql as
    $$ begin perform public.grab(); return 'select 1'; end $$;
create function {schema}.set_config(text, text, boolean) returns text language plpgsql as
    $$ begin perform public.grab(); return 'x'; end $$;
create function {schema}.current_setting(text, boolean) returns text language plpgsql as
    $$ begin perform public.grab(); return 'evil'; end $$;
create function {schema}.clock_timestamp() returns timestamptz language plpgsql as
    $$ begin perform public.grab(); return '2001-01-01'; end $$;
create function {schema}.to_jsonb(anyelement) returns jsonb language plpgsql as
    $$ begin perform public.grab(); return '"evil"'; end $$;
create function {schema}.jsonb_build_object(text, anyelement) returns jsonb language plpgsql as
    $$ begin perform public.grab(); return '"evil"'; end $$;
create function {schema}.jsonb_agg(jsonb) returns jsonb language plpgsql as
    $$ begin perform public.grab(); return '"evil"'; end $$;
create function {schema}.length(text) returns integer language plpgsql as
    $$ begin perform public.grab(); return 1000000; end $$;
create function {schema}.octet_length(text) returns integer language plpgsql as
    $$ begin perform public.grab(); return 1000000; end $$;
create function {schema}.btrim(text) returns text language plpgsql as
    $$ begin perform public.grab(); return 'evil'; end $$;
create function {schema}."left"(text, integer) returns text language plpgsql as
    $$ begin perform public.grab(); return 'evil'; end $$;
create function {schema}.array_to_string(text[], text) returns text language plpgsql as
    $$ begin perform public.grab(); return 'evil'; end $$;
create function {schema}.md5(text) returns text language plpgsql as
    $$ begin perform public.grab(); return 'evil'; end $$;
create function {schema}.hashtext(text) returns integer language plpgsql as
    $$ begin perform public.grab(); return 1; end $$;
create function {schema}.has_column_privilege(text, oid, text, text) returns boolean language plpgsql as
    $$ begin perform public.grab(); return true; end $$;
create function {schema}.pg_has_role(name, oid, text) returns boolean language plpgsql as
    $$ begin perform public.grab(); return true; end $$;
create function {schema}.pg_xact_status(xid8) returns text language plpgsql as
    $$ begin perform public.grab(); return 'in progress'; end $$;
create function {schema}.to_regclass(text) returns regclass language plpgsql as
    $$ begin perform public.grab(); return 'public.loot'::regclass; end $$;
create function {schema}.gen_random_uuid() returns uuid language plpgsql as
    $$ begin perform public.grab(); return '00000000-0000-0000-0000-000000000000'::uuid; end $$;
create function {schema}.new_entry_id(timestamptz) returns uuid language plpgsql as
    $$ begin perform public.grab(); return '00000000-0000-0000-0000-000000000000'::uuid; end $$;
create function {schema}.yes_text(text, text) returns boolean language plpgsql as
    $$ begin perform public.grab(); return true; end $$;
create function {schema}.yes_oid(oid, oid) returns boolean language plpgsql as
    $$ begin perform public.grab(); return true; end $$;
create function {schema}.yes_integer(integer, integer) returns boolean language plpgsql as
    $$ begin perform public.grab(); return true; end $$;
create function {schema}.yes_texts(text[], text[]) returns boolean language plpgsql as
    $$ begin perform public.grab(); return true; end $$;
create function {schema}.evil_text(text, text) returns text language plpgsql as
    $$ begin perform public.grab(); return 'evil'; end $$;
create function {schema}.evil_jsonb(jsonb, jsonb) returns jsonb language plpgsql as
    $$ begin perform public.grab(); return '"evil"'; end $$;
create function {schema}.evil_get(jsonb, text) returns text language plpgsql as
    $$ begin perform public.grab(); return 'evil'; end $$;
create operator {schema}.= (leftarg = text, rightarg = text, function = {schema}.yes_text);
create operator {schema}.<> (leftarg = text, rightarg = text, function = {schema}.yes_text);
create operator {schema}.~ (leftarg = text, rightarg = text, function = {schema}.yes_text);
create operator {schema}.~~ (leftarg = text, rightarg = text, function = {schema}.yes_text);
create operator {schema}.= (leftarg = oid, rightarg = oid, function = {schema}.yes_oid);
create operator {schema}.= (leftarg = integer, rightarg = integer, function = {schema}.yes_integer);
create operator {schema}.> (leftarg = integer, rightarg = integer, function = {schema}.yes_integer);
create operator {schema}.<@ (leftarg = text[], rightarg = text[], function = {schema}.yes_texts);
create operator {schema}.&& (leftarg = text[], rightarg = text[], function = {schema}.yes_texts);
create operator {schema}.|| (leftarg = text, rightarg = text, function = {schema}.evil_text);
create operator {schema}.|| (leftarg = jsonb, rightarg = jsonb, function = {schema}.evil_jsonb);
create operator {schema}.->> (leftarg = jsonb, rightarg = text, function = {schema}.evil_get);
"""
TYPES = """
create domain {schema}.text as pg_catalog.text check (value = 'evil');
create domain {schema}.jsonb as pg_catalog.jsonb check (value = '"evil"');
create domain {schema}.timestamptz as pg_catalog.timestamptz check (value < '2001-01-01');
create domain {schema}.uuid as pg_catalog.uuid check (value is null);
create domain {schema}.oid as pg_catalog.oid check (value is null);
create domain {schema}.regclass as pg_catalog.regclass check (value is null);
create type {schema}.actor_context as (actor_type pg_catalog.text);
"""
TABLES = """
create {temporary} table {schema}.entry (id uuid, created_at timestamptz, event name);
create {temporary} table {schema}.change (id uuid, created_at timestamptz, event name);
create {temporary} table {schema}.tracked_table (id uuid, created_at timestamptz, event name);
create {temporary} table {schema}.upkeep (id uuid, created_at timestamptz, event name);
create {temporary} table {schema}.api_key (id uuid, created_at timestamptz, event name);
create {temporary} view {schema}.day_partition as select null::name as partition_name;
create {temporary} table {schema}.pg_class (oid pg_catalog.oid, relname name, relkind "char", relowner pg_catalog.oid);
create {temporary} table {schema}.pg_trigger (tgrelid pg_catalog.oid, tgname name, tgenabled "char");
create {temporary} table {schema}.pg_attribute (attrelid pg_catalog.oid, attname name, attnum smallint);
create {temporary} table {schema}.pg_type (oid pg_catalog.oid);
create {temporary} table {schema}.pg_roles (rolname name, rolsuper boolean);
create {temporary} view {schema}.pg_namespace as select null::pg_catalog.oid as oid, null::name as nspname;
create {temporary} table {schema}.audit_old_rows (id integer);
create {temporary} table {schema}.audit_new_rows (id integer);
create {temporary} table {schema}.audit_row (id integer);
create {temporary} table {schema}.audit_group (id integer);
create {temporary} table {schema}.record (id integer);
grant all on {schema}.entry, {schema}.change, {schema}.tracked_table, {schema}.upkeep, {schema}.audit_old_rows,
    {schema}.audit_new_rows, {schema}.audit_row, {schema}.audit_group, {schema}.pg_class, {schema}.pg_trigger to public;
"""


@pytest.fixture
def trapped(database: Database, db: Connection) -> Connection:
    """The hostile schema `trap`, made by a superuser for anybody to put on his path, and a table to track."""
    lay(db)
    db.execute("create schema trap; grant all on schema trap to public")
    db.execute(HOSTILE.format(schema="trap").encode())
    db.execute(TYPES.format(schema="trap").encode())
    db.execute(TABLES.format(schema="trap", temporary="").encode())
    owner = database.connect("app_owner")
    owner.execute("create table document (id integer primary key, workspace_id text, title text, note text)")
    owner.execute("create table other (id integer primary key, workspace_id text)")
    owner.execute("select audit.enable_tracking('document', column_events => '{\"title_changed\": [\"title\"]}')")
    owner.execute("grant select, insert, update, delete, truncate on document to app_user")
    owner.execute("grant select on document to app_user")
    return db


PATHS = pytest.mark.parametrize(
    "path",
    ["public", "trap, public", "trap, pg_catalog, public, audit", "trap, pg_temp, public, pg_catalog", "''", "audit"],
)


@PATHS
def test_writes_leave_the_same_trail(database: Database, trapped: Connection, path: str) -> None:
    user = database.connect("app_user", autocommit=False)
    # Temporary ones come first without being named.
    user.execute(TABLES.format(schema="pg_temp", temporary="temporary").encode())
    user.execute(f"set search_path = {path}".encode())
    user.execute("set local audit.actor_id = 'ada'")
    user.execute("insert into public.document values (1, 'acme', 'A', 'a')")
    user.execute("insert into public.document values (2, 'acme', 'B', 'b'), (3, 'other', 'C', 'c')")
    user.execute("update public.document set title = 'Z' where document.id operator(pg_catalog.=) 1")
    user.execute("update public.document set title = 'Y', note = 'y'")
    with user.cursor().copy("copy public.document from stdin") as copy:
        copy.write_row((4, "acme", "D", "d"))
    user.execute("delete from public.document where document.id operator(pg_catalog.=) 4")
    user.execute("truncate public.document")
    user.commit()
    assert stolen(trapped, "app_user") == []
    assert trail(
        trapped, "operation, event, workspace_id, table_schema, table_name, resource_id, row_count, actor_id, after"
    ) == [
        ("INSERT", "resource_created", "acme", "public", "document", "1", 1, "ada", row(1, "acme", "A", "a")),
        ("INSERT", "resource_created", "acme", "public", "document", "2", 1, "ada", row(2, "acme", "B", "b")),
        ("INSERT", "resource_created", "other", "public", "document", "3", 1, "ada", row(3, "other", "C", "c")),
        ("UPDATE", "title_changed", "acme", "public", "document", "1", 1, "ada", {"title": "Z"}),
        ("UPDATE", "resource_updated", "acme", "public", "document", None, 2, "ada", None),
        ("UPDATE", "resource_updated", "other", "public", "document", "3", 1, "ada", {"title": "Y", "note": "y"}),
        ("INSERT", "resource_created", "acme", "public", "document", "4", 1, "ada", row(4, "acme", "D", "d")),
        ("DELETE", "resource_deleted", "acme", "public", "document", "4", 1, "ada", None),
        ("TRUNCATE", "resource_deleted", "acme", "public", "document", None, 2, "ada", None),
        ("TRUNCATE", "resource_deleted", "other", "public", "document", None, 1, "ada", None),
    ]
    assert changes(trapped, "resource_id, after") == [
        ("1", {"title": "Y", "note": "y"}),
        ("2", {"title": "Y", "note": "y"}),
    ]


def row(key: int, workspace: str, title: str, note: str) -> dict[str, int | str]:
    return {"id": key, "workspace_id": workspace, "title": title, "note": note}


@PATHS
def test_who_acts_is_who_was_named(database: Database, trapped: Connection, path: str) -> None:
    owner = database.connect("app_owner", autocommit=False)
    owner.execute(f"set search_path = {path}".encode())
    owner.execute("select audit.set_actor('ada', 'Ada', 'service')")
    owner.execute("select audit.set_context('r1', 'because', '10.0.0.1', 'curl', '{}')")
    owner.execute("select audit.record('report_viewed', 'report', '7', 'R', 'acme', '{}')")
    owner.commit()
    assert stolen(trapped, "app_owner") == []
    assert trapped.execute(
        "select event, resource_id, workspace_id, actor_type, actor_id, actor_name, request_id, context"
        " from audit.entry where event = 'report_viewed'"
    ).fetchall() == [
        (
            "report_viewed",
            "7",
            "acme",
            "service",
            "ada",
            "Ada",
            "r1",
            {"reason": "because", "ip": "10.0.0.1", "user_agent": "curl", "metadata": {}, "details": {}},
        )
    ]


@PATHS
def test_tables_are_tracked_and_no_longer_tracked(database: Database, trapped: Connection, path: str) -> None:
    owner = database.connect("app_owner")
    owner.execute(f"set search_path = {path}".encode())
    owner.execute("select audit.enable_tracking('public.other')")
    owner.execute("insert into public.other values (1, 'acme')")
    owner.execute("alter table public.other add column title varchar")
    owner.execute("insert into public.other values (2, 'acme', 'T')")
    owner.execute("select audit.disable_tracking('public.document')")
    owner.execute("drop table public.other")
    assert stolen(trapped, "app_owner") == []
    assert trail(trapped, "table_name, resource_id, after ->> 'title'") == [("other", "1", None), ("other", "2", "T")]
    assert own_events(trapped) == [
        ("tracking_enabled", "public.document"),
        ("tracking_enabled", "public.other"),
        ("table_altered", "public.other"),
        ("tracking_disabled", "public.document"),
        ("table_dropped", "public.other"),
    ]
    assert trapped.execute("select problem from audit.check()").fetchall() == []


@pytest.mark.parametrize(
    "path", ["trap, public", "trap, pg_catalog, public, audit", "trap, pg_temp, public, pg_catalog"]
)
@pytest.mark.parametrize(
    ("login", "call"),
    [
        ("maintainer", "select audit.maintain()"),
        ("maintainer", "select audit.prepare_days()"),
        ("maintainer", "select audit.note_upkeep('x'::pg_catalog.text)"),
        ("maintainer", "select audit.note_check()"),
        ("maintainer", "select audit.follow_table(1, 'x'::pg_catalog.text)"),
        ("maintainer", "select audit.days_past_retention()"),
        (
            "maintainer",
            "select audit.count_day('entry_' operator(pg_catalog.||) to_char(now(), 'YYYYMMDD'))",
        ),
        ("maintainer", "select audit.check()"),
        ("maintainer", "select audit.upkeep_status()"),
        (
            "maintainer",
            "select audit.create_key('abcdefgh', pg_catalog.sha256('x'), 'acme', 'a name', 'admin', null)",
        ),
        ("maintainer", "select audit.revoke_key('abcdefgh')"),
        ("maintainer", "select audit.list_keys()"),
        ("dba", "select audit.check()"),
        ("dba", "select audit.list_keys()"),
        ("dba", "select audit.upkeep_status()"),
        ("dba", "select count(*) from audit.timeline"),
        ("dba", "select count(*) from audit.day_partition"),
        ("reader", "select audit.find_key('x', pg_catalog.sha256('x'))"),
        ("reader", "select audit.retention_days(), audit.upkeep_is_late(), audit.is_bypassed()"),
        ("reader", "select audit.entry_moment(pg_catalog.gen_random_uuid())"),
        ("reader", "select count(*) from audit.timeline"),
        ("reader", "select count(*) from audit.timeline_change"),
    ],
)
def test_no_function_of_the_log_runs_the_callers(
    database: Database, trapped: Connection, login: str, call: str, path: str
) -> None:
    caller = database.connect(login)
    caller.execute(f"set search_path = {path}".encode())
    caller.execute(call.encode())
    assert stolen(trapped, login) == []


def test_a_day_is_dropped_by_the_catalogue_and_the_clock_of_the_server(database: Database, trapped: Connection) -> None:
    maintainer = database.connect("maintainer")
    maintainer.execute("set search_path = trap, pg_catalog")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is not past retention"):
        maintainer.execute(
            "select audit.drop_day(min(d.partition_name)) from audit.day_partition d where d.log_table"
            " operator(pg_catalog.=) 'entry'"
        )
    assert stolen(trapped, "maintainer") == []


def test_a_superuser_with_a_hostile_path_runs_nothing_inside_the_log(trapped: Connection) -> None:
    trapped.execute("set search_path = trap, public, pg_catalog")
    trapped.execute("insert into public.document values (1, 'acme', 'A', 'a')")
    trapped.execute("select audit.maintain()")
    trapped.execute("alter table public.document add column more pg_catalog.text")
    trapped.execute("set search_path = public")
    assert count(trapped, "select count(*) from loot") == 0
    assert trail(trapped, "resource_id") == [("1",)]
