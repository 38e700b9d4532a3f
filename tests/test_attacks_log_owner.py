"""The owner of the log as its attacker: whoever may become audit_owner (upkeep's login does) cannot alter an entry.

It must not hold what other roles try; test_rights.py and the other attacks do.
"""

import psycopg
import pytest

from daybook.upkeep import maintain
from tests.conftest import Database
from tests.trail import Connection, count
from tests.upkeep import pass_retention, put_entries


@pytest.fixture
def owner(database: Database, db: Connection) -> Connection:
    """Upkeep's login, become audit_owner; the log holds entries and changes of today."""
    db.execute("create table document (id integer primary key, workspace_id text)")
    db.execute("select audit.enable_tracking('document')")
    db.execute("insert into document values (1, 'acme'), (2, 'acme')")
    db.execute("update document set workspace_id = 'globex' where id = 1")
    connection = database.connect("maintainer")
    connection.execute("set role audit_owner")
    return connection


def written(statement: str) -> bytes:
    """The statement, with today's day partition in it as the session's date says."""
    return (
        "do $attack$ declare day text := to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD'); begin"
        f" execute replace($statement${statement}$statement$, 'TODAY', day); end $attack$"
    ).encode()


@pytest.mark.parametrize(
    "statement",
    [
        "update audit.entry set actor_id = 'x'",
        "update audit.entry_TODAY set actor_id = 'x'",
        "delete from audit.entry",
        "delete from audit.change_TODAY",
        "truncate audit.entry",
        "truncate audit.change_TODAY",
        "alter table audit.entry disable trigger all",
        "alter table audit.entry disable trigger entry_is_never_altered",
        "alter table audit.entry enable replica trigger entry_is_never_altered",
        "alter table audit.entry_TODAY disable trigger user",
        "alter table audit.entry_TODAY disable trigger entry_is_never_altered",
        "drop trigger entry_is_never_truncated on audit.entry",
        "drop trigger change_is_never_truncated on audit.change_TODAY",
        (
            "create or replace trigger entry_is_never_altered before update or delete on audit.entry for each row"
            " when (false) execute function audit.refuse_alteration()"
        ),
        (
            "create or replace trigger entry_is_never_truncated before truncate on audit.entry_TODAY for each statement"
            " when (false) execute function audit.refuse_alteration()"
        ),
        (
            "create trigger swallow before insert on audit.entry for each row"
            " execute function suppress_redundant_updates_trigger()"
        ),
        "create rule swallow as on insert to audit.entry do instead nothing",
        "create or replace function audit.refuse_alteration() returns trigger language plpgsql as 'begin end'",
        "alter function audit.refuse_alteration() security definer",
        "create or replace function audit.guard_drop() returns event_trigger language plpgsql as 'begin end'",
        "drop function audit.guard_drop() cascade",
        "alter event trigger audit_guard_drop disable",
        "drop event trigger audit_guard_alteration",
        "drop table audit.entry cascade",
        "drop table audit.entry_TODAY",
        "drop table audit.change_TODAY",
        "drop table audit.entry_beyond",
        "drop schema audit cascade",
        "drop owned by audit_owner cascade",
        "alter table audit.entry detach partition audit.entry_TODAY",
        "alter table audit.entry set schema public",
        "alter table audit.entry_TODAY set schema public",
        "alter table audit.entry rename to entry_of_old",
        "alter table audit.entry_TODAY rename to entry_20200101",
        "alter table audit.entry_beyond rename to entry_20200101",
        "alter table audit.entry detach partition audit.entry_beyond; drop table audit.entry_beyond",
        "alter schema audit rename to audit_of_old",
        "alter schema audit owner to audit_maintainer",
        "alter table audit.entry rename column before to once",
        "alter table audit.entry drop column before cascade",
        "drop view audit.timeline cascade; alter table audit.entry alter column actor_id type text using 'x'",
        "drop view audit.timeline_change cascade; alter table audit.change alter column before type jsonb using null",
        "alter table audit.entry rename column row_key to note",
        "alter table audit.entry disable row level security",
        "alter table audit.entry force row level security",
        "alter table audit.entry_TODAY enable row level security",
        "drop policy reader_sees_own_workspace on audit.entry",
        "alter policy reader_sees_own_workspace on audit.change using (true)",
        "create policy everybody on audit.entry for select to audit_reader using (true)",
        "set session_replication_role = replica",
        "update audit.change set after = null",
        "delete from audit.entry_TODAY",
        "truncate audit.entry_TODAY",
        "merge into audit.entry e using (values (1)) v on true when matched then delete",
        "insert into audit.entry select * from audit.entry on conflict do nothing; delete from audit.entry",
        "alter table audit.entry disable trigger user",
        "alter table audit.entry_TODAY disable trigger all",
        "alter table audit.entry_TODAY enable replica trigger entry_is_never_altered",
        "alter table audit.change disable trigger change_is_never_truncated",
        "drop trigger entry_is_never_altered on audit.entry",
        "drop trigger entry_is_never_truncated on audit.entry_TODAY",
        (
            "create or replace function audit.refuse_alteration() returns trigger language plpgsql as 'begin"
            " return new; end'"
        ),
        "alter function audit.refuse_alteration() set search_path = pg_temp",
        "drop function audit.refuse_alteration() cascade",
        "alter role audit_owner set session_replication_role = replica",
        "alter event trigger audit_follow_ddl disable",
        "drop event trigger audit_follow_drop",
        "alter table audit.change detach partition audit.change_TODAY",
        "alter table audit.entry owner to audit_capture",
        "create table audit.forged partition of audit.entry for values from ('2001-01-01') to ('2001-01-02')",
        "drop view audit.timeline; alter table audit.entry alter column actor_id type text using 'x'",
        "drop view audit.timeline; alter table audit.entry alter column row_count type integer using 0",
        "alter table audit.entry drop column after cascade",
        "alter table audit.entry rename column before to x",
        "create rule a as on insert to audit.entry do instead nothing",
        "create rule a as on insert to audit.change_TODAY do instead nothing",
        "create rule a as on delete to audit.entry do instead update audit.entry set after = null",
        "alter policy reader_sees_own_workspace on audit.entry using (true)",
        "create policy x on audit.entry using (true)",
        "create policy x on audit.entry as restrictive for insert to audit_capture with check (false)",
        "alter policy capture_inserts on audit.entry with check (false)",
        "alter view audit.timeline set (security_invoker = false)",
        "create view audit.leak as select * from audit.entry",
        "create or replace view audit.timeline as select * from audit.entry",
    ],
)
def test_the_owner_of_the_log_is_refused(owner: Connection, db: Connection, statement: str) -> None:
    before = db.execute("select * from audit.entry order by id").fetchall()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute(written(statement))
    assert db.execute("select * from audit.entry order by id").fetchall() == before


def test_a_day_that_was_detached_half_way_is_listed_as_missing_from_the_log(owner: Connection, db: Connection) -> None:
    day = db.execute("select 'entry_' || to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')").fetchone()
    assert day is not None
    db.execute(f"alter table audit.entry detach partition audit.{day[0]}".encode())
    found = db.execute(
        "select severity, problem, object_name from audit.check() where problem = 'day_detached'"
    ).fetchall()
    assert found == [("bypass", "day_detached", f"audit.{day[0]}")]


def test_a_day_that_the_owner_began_to_detach_concurrently_cannot_be_altered_and_is_listed(
    owner: Connection, db: Connection
) -> None:
    day = db.execute("select 'entry_' || to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')").fetchone()
    assert day is not None
    for end in ("concurrently", "finalize"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="the audit log is only ever added to"):
            owner.execute(f"alter table audit.entry detach partition audit.{day[0]} {end}".encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="the audit log is only ever added to"):
        owner.execute(f"update audit.{day[0]} set actor_id = 'x'".encode())
    assert count(db, "select count(*) from audit.check() where problem = 'day_detached'") == 1


def test_entries_past_the_prepared_days_cannot_be_altered_either(owner: Connection, db: Connection) -> None:
    db.execute(
        "insert into audit.entry (id, created_at, event, operation, resource_type, actor_type, actor_id, actor_name,"
        " row_count, database_user, transaction_id) select audit.new_entry_id(moment), moment, 'x_done', 'EVENT', 'x',"
        " 'system', 'system', 'system', 0, 'x', '1' from (select clock_timestamp() + interval '100 days') m (moment)"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="the audit log is only ever added to"):
        owner.execute("alter table audit.entry detach partition audit.entry_beyond")
    db.execute("update audit.upkeep set days_ahead = 200")
    assert owner.execute("select audit.prepare_days() > 0").fetchone() == (True,)
    assert count(db, "select count(*) from audit.entry where event = 'x_done'") == 1


def make_an_old_day(db: Connection) -> str:
    """A day partition 100 days back, with an entry."""
    db.execute("select audit.create_day(audit.utc_day(clock_timestamp()) - 100)")
    db.execute(
        "insert into audit.entry (id, created_at, event, operation, resource_type, actor_type, actor_id, actor_name,"
        " row_count, database_user, transaction_id) select audit.new_entry_id(moment), moment, 'x_done', 'EVENT', 'x',"
        " 'system', 'system', 'system', 0, 'x', '1' from (select clock_timestamp() - interval '100 days') m (moment)"
    )
    day = db.execute("select min(partition_name) from audit.day_partition where log_table = 'entry'").fetchone()
    assert day is not None
    return str(day[0])


def test_a_day_past_retention_is_dropped_through_upkeep_alone(
    database: Database, owner: Connection, db: Connection
) -> None:
    day = make_an_old_day(db)
    pass_retention(db)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="would drop table"):
        owner.execute(f"drop table audit.{day}".encode())
    assert maintain(database.url("maintainer")).days_dropped == [day]
    assert count(db, "select count(*) from audit.entry where event = 'day_dropped'") == 1


def test_a_day_past_retention_is_dropped_by_upkeep_in_the_database_too(
    database: Database, owner: Connection, db: Connection
) -> None:
    day = make_an_old_day(db)
    pass_retention(db)
    done = database.connect("maintainer").execute("select audit.maintain() -> 'days_dropped'").fetchone()
    assert done == ([day],)


def test_what_holds_a_day_back_from_being_dropped_is_named(
    database: Database, owner: Connection, db: Connection
) -> None:
    day = make_an_old_day(db)
    pass_retention(db)
    database.connect("app_owner").execute(f"create view public.squat as select id from audit.{day}".encode())
    run = maintain(database.url("maintainer"))
    assert run.days_dropped == []
    assert f"view public.squat depends on table audit.{day}" in (run.problem or "")
    told = database.connect("maintainer").execute("select audit.maintain() ->> 'problem'").fetchone()
    assert told is not None
    assert f"view public.squat depends on table audit.{day}" in told[0]


def test_the_owner_of_the_log_can_shorten_retention_and_the_days_that_go_leave_their_entries(
    database: Database, owner: Connection, db: Connection
) -> None:
    make_an_old_day(db)
    owner.execute("update audit.upkeep set retention_days = 1")
    pass_retention(db)
    dropped = maintain(database.url("maintainer")).days_dropped
    assert count(db, "select count(*) from audit.entry where event = 'day_dropped'") == len(dropped) > 0
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute("update audit.upkeep set retention_days = 0")


@pytest.mark.parametrize("user", ["app_owner", "app_user"])
def test_an_application_s_own_tables_of_such_names_are_its_own(database: Database, db: Connection, user: str) -> None:
    db.execute("grant create on schema public to app_user")
    app = database.connect(user)
    app.execute("create table named (id integer); create function f() returns integer language sql return 1")
    app.execute(
        "create trigger t before update on named for each row execute function suppress_redundant_updates_trigger()"
    )
    app.execute("create policy p on named using (true); alter policy p on named using (false)")
    app.execute("alter trigger t on named rename to u; alter function f() security definer; drop table named")
    app.execute("create table entry_20260314 (id integer primary key, audit text)")
    app.execute("create table entry (id integer); create table change_20260314 (id integer)")
    app.execute("alter table entry_20260314 add title text default clock_timestamp()::text")
    app.execute("alter table entry_20260314 rename audit to note; alter table entry_20260314 drop column note")
    app.execute("create rule nothing as on insert to entry do instead nothing")
    app.execute("drop table entry, entry_20260314, change_20260314")
    assert count(db, "select count(*) from pg_class where relname = 'change_20260314'") == 0


def test_the_owner_of_the_log_cannot_hide_entries_by_the_check_that_upkeep_splits_by(
    owner: Connection, db: Connection
) -> None:
    put_entries(db, "clock_timestamp() + interval '100 days'")
    bounds = db.execute("select lower_bound, lower_bound + interval '1 day' from audit.day_partition where is_beyond")
    edges = dict(zip(("from", "to"), bounds.fetchall()[0], strict=True))
    owner.execute("alter table audit.entry_beyond validate constraint stands_before_new_beyond")
    owner.execute(
        "create trigger t before update or delete on audit.entry_beyond for each row"
        " execute function audit.refuse_alteration()"
    )
    for edge, moment in edges.items():
        owner.execute("select set_config(%s, %s, false)", [f"audit.split_{edge}", moment.isoformat()])
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="entries of entry_beyond within its bounds"):
        owner.execute(
            f"begin; alter table audit.entry detach partition audit.entry_beyond; alter table audit.entry attach"
            f" partition audit.entry_beyond for values from ('{edges['from']}') to ('{edges['to']}'); commit".encode()
        )
    owner.execute("rollback")
    assert count(db, "select count(*) from audit.entry where created_at > now() + interval '99 days'") == 1


def test_the_owner_of_the_log_cannot_put_a_check_of_his_own_function_on_a_day(owner: Connection) -> None:
    owner.execute(
        "create function audit.lie() returns timestamptz language plpgsql immutable as 'begin return now(); end'"
    )
    for table in ("entry_beyond", "entry_TODAY"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="free of checks that call functions"):
            owner.execute(written(f"alter table audit.{table} add check (created_at < audit.lie()) not valid"))


# What he can do all the same: docs/security.md says so


def test_the_owner_of_the_log_can_add_an_entry_that_nobody_made(owner: Connection, db: Connection) -> None:
    owner.execute("select audit.write_event('key_created', 'invented', 'acme', null)")
    assert count(db, "select count(*) from audit.entry where resource_id = 'invented'") == 1


def test_the_owner_of_the_log_can_run_code_as_whoever_calls_a_function_of_his(
    database: Database, owner: Connection, db: Connection
) -> None:
    db.execute("create table loot (who text); grant insert on loot to public")
    owner.execute(
        "create or replace function audit.set_actor(id text, name text default null, type text default 'user')"
        " returns void language sql security invoker as 'insert into public.loot values (current_user)'"
    )
    database.connect("app_owner").execute("select audit.set_actor('42')")
    assert db.execute("select who from loot").fetchall() == [("app_owner",)]


def test_a_superuser_can_alter_entries_after_switching_the_guards_off(owner: Connection, db: Connection) -> None:
    db.execute("set session_replication_role = replica")
    db.execute("update audit.entry set actor_id = 'somebody else'")
    assert count(db, "select count(*) from audit.entry where actor_id <> 'somebody else'") == 0
