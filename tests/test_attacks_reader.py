"""The reader's login with any SQL it likes: of the log it sees the workspace named in its transaction.

What PostgreSQL tells every login of every table (how many rows it holds, how many a plan passed over) has tests that
say so.
"""

from typing import Any

import psycopg
import pytest

from tests.conftest import Database
from tests.trail import Connection, count


@pytest.fixture
def log(db: Connection) -> Connection:
    """Two workspaces, acme and other, with a bulk entry of two rows and a single one each; statistics are made."""
    db.execute("create table document (id integer primary key, workspace_id text, title text)")
    db.execute("select audit.enable_tracking('document', resource_name_column => 'title')")
    db.execute("insert into document values (1, 'acme', 'plan'), (2, 'acme', 'plan')")
    db.execute("update document set title = 'budget' where id = 1")
    db.execute("insert into document values (11, 'other', 'S3CRET'), (12, 'other', 'S3CRET')")
    db.execute("update document set title = 'S3CRET too' where id = 11")
    db.execute("select audit.record('server_started', 'server', resource_name => 'S3CRET')")
    db.execute("create statistics audit.together on event, resource_name, upper(resource_name) from audit.entry")
    db.execute("analyze audit.entry; analyze audit.change")
    return db


@pytest.fixture
def reader(database: Database, log: Connection) -> Connection:
    """The reader's login in a transaction of workspace acme."""
    connection = database.connect("reader", autocommit=False)
    connection.execute("select set_config('audit.reader_workspace', 'acme', true)")
    return connection


def notices(connection: Connection) -> list[str]:
    """Return a list to which what a connection is told goes from now on."""
    told: list[str] = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    return told


LEAK = (
    "create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0001 as"
    " $$ begin raise notice '%', $1; return true; end $$"
)


@pytest.mark.parametrize(
    "query",
    [
        "select count(*) from audit.timeline t where pg_temp.leak(t::text)",
        "select count(*) from audit.timeline_change t where pg_temp.leak(t::text)",
        "select count(*) from audit.entry t where pg_temp.leak(t::text)",
        "select count(*) from audit.change t where pg_temp.leak(t::text)",
        "select count(*) from audit.entry t where pg_temp.leak(t.resource_name) and resource_id >= ''",
        "select count(*) from audit.entry t where pg_temp.leak(t::text) or workspace_id = 'other'",
        "select count(*) from audit.entry t where operator(pg_temp.@@@) t::text",
        "select count(*) from (select * from audit.entry offset 0) t where pg_temp.leak(t::text)",
        "with t as not materialized (select * from audit.entry) select from t where pg_temp.leak(t::text)",
        "select from audit.entry e join audit.change t on pg_temp.leak(t::text) and pg_temp.leak(e::text)",
        "select from audit.entry e left join lateral (select * from audit.change) t on pg_temp.leak(t::text)",
        "select from (values (1)) v left join audit.entry t on pg_temp.leak(t::text)",
        "select from audit.entry t order by pg_temp.leak(t::text)",
        "select count(*) filter (where pg_temp.leak(t::text)) from audit.entry t",
        "select sum(1) over (order by pg_temp.leak(t::text)) from audit.entry t",
        "select from audit.entry t group by t.event having pg_temp.leak(max(t.resource_name))",
        "select from audit.entry t where exists (select from audit.change c where pg_temp.leak(c::text))",
        "create temporary view mine as select * from audit.entry; select from mine t where pg_temp.leak(t::text)",
        (
            "create temporary view mine with (security_barrier) as select * from audit.entry;"
            " select from mine t where pg_temp.leak(t::text)"
        ),
        (
            "set local enable_indexscan = off; set local enable_bitmapscan = off;"
            " select from audit.entry t where pg_temp.leak(t::text)"
        ),
        "set local enable_seqscan = off; select from audit.entry t where pg_temp.leak(t.workspace_id)",
        "set local debug_parallel_query = on; select from audit.entry t where pg_temp.leak(t::text)",
        "explain (analyze) select from audit.entry t where pg_temp.leak(t::text)",
    ],
)
def test_a_function_in_a_query_is_called_for_rows_of_the_workspace_only(
    reader: Connection, server_version: int, query: str
) -> None:
    reader.execute(LEAK.encode())
    reader.execute("create operator pg_temp.@@@ (rightarg = text, function = pg_temp.leak)")
    told = notices(reader)
    reader.execute(query.replace("debug_parallel_query", PARALLEL[server_version]).encode())
    assert [line for line in told if "S3CRET" in line or "other" in line] == []
    assert told != []


PARALLEL = {
    15: "force_parallel_mode",
    16: "debug_parallel_query",
    17: "debug_parallel_query",
    18: "debug_parallel_query",
}


@pytest.mark.parametrize(
    "expression",
    [
        "1 / (case when workspace_id = 'acme' then 1 else 0 end)",
        "(case when workspace_id = 'acme' then '1' else workspace_id end)::integer",
        "(case when workspace_id = 'acme' then 'a' else repeat('[', 100) end || '')::text::name::text::bytea",
        "(case when workspace_id = 'acme' then '{}' else resource_name end)::jsonb",
        "(case when workspace_id = 'acme' then '2026-01-01' else resource_name end)::date",
        "pg_catalog.set_config(case when workspace_id = 'acme' then 'a.b' else resource_name end, 'x', true)",
        "'a' ~ case when workspace_id = 'acme' then 'a' else '(' end",
    ],
)
@pytest.mark.parametrize(
    "query",
    [
        "select {expression} from audit.timeline",
        "select from audit.timeline where {expression} is not null",
        "select from audit.timeline order by {expression}",
        "select from audit.timeline group by {expression}",
        "select from audit.timeline where row_count >= 0 and not ({expression}) is null and event like '%'",
    ],
)
def test_no_error_tells_of_a_row_of_another_workspace(reader: Connection, query: str, expression: str) -> None:
    assert reader.execute(query.format(expression=expression).encode()).rowcount > 0


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("select count(*) from audit.timeline", 2),
        ("select count(*) from audit.timeline_change", 2),
        ("select count(*) from audit.timeline where workspace_id = 'other'", 0),
        ("select count(*) from audit.timeline where workspace_id is null", 0),
        ("select count(*) from audit.timeline where workspace_id <> 'acme'", 0),
        ("select count(*) from audit.timeline where resource_id = '11'", 0),
        ("select count(*) from audit.timeline_change where resource_id = '11'", 0),
        ("select count(distinct workspace_id) from audit.entry", 1),
        ("select sum(row_count) from audit.entry", 3),
        ("select count(*) from audit.timeline where after::text ~ 'S3CRET'", 0),
        ("select count(*) from audit.timeline where exists (select from audit.entry where workspace_id = 'other')", 0),
        ("select count(*) from audit.entry left join audit.timeline t on t.workspace_id = 'other' where t is null", 2),
        ("select count(*) from audit.entry e full join audit.change c on c.entry_id = e.id", 3),
        ("select count(*) from audit.entry tablesample system (100)", 2),
        ("select count(*) from only audit.entry", 0),
        ("select count(*) from (table audit.entry union all table audit.entry) t", 4),
        ("select count(*) from audit.find_key('guessed!', sha256('guess'))", 0),
        ("select count(*) from audit.find_key(null, null)", 0),
    ],
)
def test_no_count_tells_of_another_workspace(reader: Connection, query: str, answer: int) -> None:
    assert count(reader, query) == answer


@pytest.mark.parametrize(
    "values",
    [
        "pg_stats where schemaname = 'audit' and most_common_vals is not null",
        "pg_stats where schemaname = 'audit' and n_distinct is not null",
        "pg_stats_ext where schemaname = 'audit' and n_distinct is not null",
        "pg_stats_ext where schemaname = 'audit' and most_common_vals is not null",
        "pg_stats_ext_exprs where schemaname = 'audit' and expr is not null",
    ],
)
def test_the_planners_statistics_are_hidden(reader: Connection, log: Connection, values: str) -> None:
    assert count(log, f"select count(*) from {values}") > 0
    assert count(reader, f"select count(*) from {values}") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "set role audit_dba",
        "set role audit_owner",
        "set role audit_capture",
        "set role audit_maintainer",
        "set role dba",
        "set role postgres",
        "select set_config('role', 'audit_dba', true)",
        "set session authorization dba",
        "set session authorization postgres",
        "grant audit_dba to reader",
        "alter role reader bypassrls",
        "alter role reader superuser",
        "alter table audit.entry disable row level security",
        "drop policy reader_sees_own_workspace on audit.entry",
        "alter policy reader_sees_own_workspace on audit.entry using (true)",
        "create policy mine on audit.entry using (true)",
        "alter view audit.timeline set (security_invoker = false)",
        "set local row_security = off; select from audit.timeline",
        "set local row_security = off; select from audit.change",
        "set local row_security = off; copy audit.entry to stdout",
        "select from audit.entry_beyond",
        "select from audit.change_beyond",
        "copy audit.entry_beyond to stdout",
        "select from audit.day_partition",
        "select from audit.tracked_table",
        "select from audit.upkeep",
        "select from audit.api_key",
        "select digest from audit.api_key",
        "select last_value from audit.floor",
        "select from pg_statistic",
        "select from pg_statistic_ext_data",
        "select from pg_largeobject",
        "select from pg_authid",
        "select lo_export(1, '/tmp/x')",
        "select lo_import('/etc/passwd')",
        "select pg_read_file('PG_VERSION')",
        "select pg_ls_dir('.')",
        "copy audit.timeline to '/tmp/x'",
        "copy (select 1) to program 'true'",
        "copy audit.entry from stdin",
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres'",
        "create extension pageinspect",
        "create extension pgstattuple",
        "create table audit.mine ()",
        "create table public.mine ()",
        "create materialized view audit.mine as select from audit.entry",
        "create statistics mine on event, operation from audit.entry",
        "analyze (verbose, skip_locked) audit.nothing",
        "lock table audit.entry in share mode",
        "create rule mine as on select to audit.timeline do instead select 1",
        "refresh materialized view audit.entry",
        "do language plpython3u 'pass'",
    ],
)
def test_a_reader_cannot_get_past_the_policies(reader: Connection, statement: str) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        reader.execute(statement.encode())
    assert refusal.value.sqlstate in ("42501", "42P01", "42704", "42809")


def test_a_reader_that_leaves_its_role_is_what_it_was(reader: Connection) -> None:
    reader.execute("set local role audit_reader")
    reader.execute("reset role; set local session authorization default")
    assert count(reader, "select count(*) from audit.timeline") == 2


def test_who_becomes_the_reader_is_a_reader_even_as_a_superuser(log: Connection) -> None:
    log.execute("set role audit_reader")
    assert count(log, "select count(*) from audit.timeline") == 0
    log.execute("select set_config('audit.reader_workspace', 'other', false)")
    assert count(log, "select count(*) from audit.timeline") == 2


@pytest.mark.parametrize("query", ["(table audit.entry)", "(select * from audit.timeline)", "(table audit.change)"])
def test_copy_shows_the_workspace_only(reader: Connection, query: str) -> None:
    with reader.cursor().copy(f"copy {query} to stdout".encode()) as copy:
        rows = b"".join(bytes(block) for block in copy).decode()
    assert "acme" in rows
    assert "other" not in rows
    assert "S3CRET" not in rows


@pytest.mark.parametrize("how", ["", "(analyze, verbose)", "(verbose, settings)", "(analyze, buffers, format json)"])
@pytest.mark.parametrize("table", ["audit.timeline", "audit.timeline_change", "audit.entry"])
def test_a_plan_tells_how_many_rows_it_passed_over_and_nothing_of_them(
    reader: Connection, table: str, how: str
) -> None:
    plan = str(reader.execute(f"explain {how} select * from {table} where resource_id > ''".encode()).fetchall())
    assert "S3CRET" not in plan
    assert "other" not in plan


def test_anybody_can_see_how_many_rows_a_day_holds_of_all_workspaces_together(
    reader: Connection, log: Connection
) -> None:
    log.execute("select pg_stat_force_next_flush()")
    log.execute("analyze audit.entry")
    today = "relname = to_char(now() at time zone 'UTC', '\"entry_\"YYYYMMDD')"
    assert count(reader, f"select n_live_tup from pg_stat_user_tables where schemaname = 'audit' and {today}") == 6


def test_the_text_of_other_logins_queries_is_hidden(database: Database, reader: Connection) -> None:
    others = [database.connect("app_user"), database.connect("dba"), database.connect("maintainer")]
    for other in others:
        other.execute("select 'S3CRET'")
    seen = reader.execute(
        "select distinct query from pg_stat_activity where usename in ('app_user', 'dba', 'maintainer', 'postgres')"
        " and datname = current_database()"
    ).fetchall()
    assert seen == [("<insufficient privilege>",)]


def test_a_prepared_statement_follows_the_workspace_of_each_transaction(reader: Connection) -> None:
    reader.execute("set plan_cache_mode = force_generic_plan")
    reader.execute("prepare names as select distinct workspace_id from audit.timeline")
    assert reader.execute("execute names").fetchall() == [("acme",)]
    reader.commit()
    assert reader.execute("execute names").fetchall() == []
    reader.execute("select set_config('audit.reader_workspace', 'other', true)")
    assert reader.execute("execute names").fetchall() == [("other",)]
    reader.rollback()
    assert reader.execute("execute names").fetchall() == []


def test_a_workspace_that_was_rolled_back_with_a_savepoint_is_gone(reader: Connection) -> None:
    reader.execute("savepoint a; select set_config('audit.reader_workspace', 'other', true); rollback to savepoint a")
    assert reader.execute("select distinct workspace_id from audit.timeline").fetchall() == [("acme",)]


def test_a_cursor_that_outlives_its_transaction_holds_what_that_could_see(reader: Connection) -> None:
    reader.execute("declare c cursor with hold for select workspace_id from audit.timeline")
    reader.commit()
    reader.execute("select set_config('audit.reader_workspace', 'other', true)")
    assert reader.execute("fetch all from c").fetchall() == [("acme",), ("acme",)]


@pytest.mark.parametrize("workspace", ["", "%", "acme' or true --", "ACME", "acme ", "{acme,other}", "null"])
def test_a_workspace_that_is_none_shows_nothing(reader: Connection, workspace: str) -> None:
    reader.execute("select set_config('audit.reader_workspace', %s, true)", [workspace])
    assert count(reader, "select count(*) from audit.timeline") == 0
    assert count(reader, "select count(*) from audit.timeline_change") == 0


@pytest.mark.parametrize(
    "shadow",
    [
        "create temporary table entry as select 'other'::text as workspace_id",
        "create temporary table timeline as select 'other'::text as workspace_id",
        "create temporary view timeline as select 'other'::text as workspace_id",
        "create function pg_temp.current_setting(text, boolean) returns text language sql as 'select ''other''::text'",
        (
            "create function pg_temp.eq(text, text) returns boolean language sql as 'select true';"
            " create operator pg_temp.= (leftarg = text, rightarg = text, function = pg_temp.eq)"
        ),
    ],
)
def test_what_a_reader_puts_before_the_catalogue_changes_no_policy(reader: Connection, shadow: str) -> None:
    reader.execute(shadow.encode())
    reader.execute("set local search_path = pg_temp, audit, pg_catalog")
    assert reader.execute("select distinct workspace_id from audit.timeline").fetchall() == [("acme",)]
    assert count(reader, "select count(*) from audit.change") == 2


def test_locks_that_a_reader_may_take_hold_up_no_write(reader: Connection, log: Connection) -> None:
    reader.execute("lock table audit.entry in access share mode")
    reader.execute(
        "select pg_advisory_lock(hashtext('pg_daybook'), hashtext(k)) from unnest('{upkeep,days,tracking}'::text[]) k"
    )
    log.execute("set lock_timeout = '2s'")
    log.execute("insert into document values (3, 'acme', 'T')")
    assert count(reader, "select count(*) from audit.timeline") == 3


def test_a_reader_hears_of_nothing(reader: Connection, log: Connection) -> None:
    reader.execute("listen audit; listen entry; listen daybook; listen pg_daybook")
    reader.commit()
    log.execute("insert into document values (3, 'acme', 'T')")
    heard: list[Any] = list(reader.notifies(timeout=0.2))
    assert heard == []
