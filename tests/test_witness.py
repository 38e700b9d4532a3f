"""The witness finds each row that was changed without its entry, and each entry of what did not happen, no more.

A cluster of its own: a slot waits for the transactions of all other tests.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg
import pytest
from psycopg import sql

from daybook import witness
from daybook.commands import main
from daybook.postgres import Cluster, find_server
from tests.conftest import execute_sql_folder, folder_in_memory
from tests.trail import Connection

TABLES = """
create type colour as enum ('red', 'green');
create domain short as text check (length(value) < 100);
create table document (
    id integer primary key, workspace_id text, title text, body text, secret text, hidden text, stars numeric,
    weight double precision, real4 real, done boolean, at timestamptz, day date, plain timestamp, span interval,
    data jsonb, raw bytea, tags text[], numbers integer[], colour colour, short short, doc json, ip inet,
    spans int4range, doubled integer generated always as (id * 2) stored);
alter table document alter body set storage external;
create table permission (id integer primary key, workspace_id text,
    document integer references document on delete cascade, who text);
create table measure (day integer, number bigint, workspace_id text, value text, primary key (day, number))
    partition by range (day);
create table measure_early partition of measure for values from (0) to (5);
create table measure_late partition of measure for values from (5) to (10);
create table memo (workspace_id text, text text);
create table event (at timestamptz primary key, workspace_id text);
create table code (code char(5), flag boolean, workspace_id text, primary key (code, flag));
create table address (ip inet primary key, workspace_id text);
select audit.enable_tracking('document', excluded_columns => '{hidden}', redacted_columns => '{secret}',
                             max_value_bytes => 1000),
       audit.enable_tracking('permission', 'permission', resource_id_columns => '{document}'),
       audit.enable_tracking('measure'), audit.enable_tracking('memo'), audit.enable_tracking('event'),
       audit.enable_tracking('code'), audit.enable_tracking('address');
"""
# One cluster, whatever the number of workers.
pytestmark = pytest.mark.xdist_group("witness")

ROW = """
insert into document values (%s, 'acme', E'\\u00fc "x"\\n\\t{}', repeat('long ', 1000), 's', 'h', 1.50, 1e20, 0.1, true,
    '2026-01-01 12:30:00.5+02', '2026-01-01', '0044-03-15 00:00:00 BC', '1 mon -3 days',
    '{"a": [1.0, "1", null, true]}', '\\x00ff',
    '{"a b",NULL,"{\\"x\\\\\\\\y"}', '{{1,2},{3,4}}', 'green', 'short', '{"b" : 1}', '10.0.0.1', '[1,5)')
"""


@pytest.fixture(scope="module")
def cluster(server_version: int) -> Iterator[Cluster]:
    folder = folder_in_memory()
    settings: dict[str, str | int] = {
        "fsync": "off",
        "synchronous_commit": "on",
        "autovacuum": "off",
        "wal_level": "logical",
        "max_prepared_transactions": 5,
        "log_min_messages": "fatal",
    }
    with Cluster(find_server(server_version), folder, settings=settings) as cluster:
        with psycopg.connect(cluster.url(), autocommit=True) as connection:
            connection.execute("create database installed")
        with psycopg.connect(cluster.url("installed"), autocommit=True) as connection:
            execute_sql_folder(connection)
            connection.execute(TABLES)
        yield cluster
    shutil.rmtree(folder, ignore_errors=True)


_numbers = count()


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """A database with tracked tables, at which the witness looks."""
    with _witnessed(cluster) as url:
        yield url


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[str]:
    """A database that tests share which leave the tables empty; each makes up for what it finds."""
    with _witnessed(cluster) as url:
        yield url


@contextmanager
def _witnessed(cluster: Cluster) -> Iterator[str]:
    name = f"witnessed_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        create = sql.SQL("create database {} template installed strategy file_copy")
        connection.execute(create.format(sql.Identifier(name)))
    with psycopg.connect(cluster.url(name), autocommit=True) as connection:
        witness.start(connection, print)
    try:
        yield cluster.url(name)
    finally:
        with psycopg.connect(cluster.url(name), autocommit=True) as connection:
            witness.stop(connection, print)


@pytest.fixture
def app(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def sharing(shared: str) -> Iterator[Connection]:
    with psycopg.connect(shared, autocommit=True) as connection:
        connection.execute("insert into document (id, workspace_id, title) values (1, 'acme', 'x'), (2, 'acme', 'x')")
        yield connection
        connection.execute("delete from document; delete from memo")
        look(shared)


def look(url: str, most_pending: int = witness.MOST_PENDING) -> tuple[list[str], witness.Outcome]:
    """A run's misfits, as kind and words, and what it compared."""
    found: list[str] = []
    with psycopg.connect(url, autocommit=True) as connection:
        outcome = witness.run(connection, lambda misfit: found.append(f"{misfit.kind}: {misfit.what}"), most_pending)
    return found, outcome


def counts(outcome: witness.Outcome) -> tuple[int, int, int, int]:
    return outcome.rows, outcome.entries, outcome.unproved, outcome.not_compared


# What is as it should be


def test_values_of_every_kind_are_accounted_for(url: str, app: Connection) -> None:
    app.execute(ROW.replace("%s", "1"))
    app.execute("insert into document (id, workspace_id) values (2, 'acme')")
    app.execute(
        "update document set stars = 1.5, weight = 1e-7, real4 = 'NaN', at = 'infinity', data = 'null', tags = '{}',"
        " numbers = '[0:1]={1,2}', raw = decode(repeat('ff', 2000), 'hex'), done = false, colour = 'red', secret = 't'"
        " where id = 1"
    )
    app.execute("update document set weight = '-Infinity', stars = 'NaN', span = '24:00:00', doc = '[1,  2]'")
    app.execute("update document set body = null, title = 'other' where id = 1")
    app.execute("update document set data = '{\"a\": 1}', title = null")
    app.execute("delete from document")
    found, outcome = look(url)
    assert found == []
    assert counts(outcome) == (10, 7, 0, 0)


def test_keys_of_every_kind_are_found(url: str, app: Connection) -> None:
    app.execute("insert into event values ('2026-01-01 12:00:00.123+02', 'acme'), ('0044-03-15 00:00+00 BC', 'acme')")
    app.execute("update event set at = at + interval '1 day'")
    app.execute("insert into code values ('a\"b', true, 'acme'), ('c', false, 'acme')")
    app.execute("update code set flag = not flag")
    app.execute("insert into address values ('10.0.0.1', 'acme'), ('10.0.0.0/8', 'acme'), ('::1', 'acme')")
    app.execute("delete from code; delete from address; delete from event")
    found, outcome = look(url)
    assert (found, counts(outcome)) == ([], (18, 8, 0, 0))


def test_what_changes_nothing_needs_no_entry(url: str, app: Connection) -> None:
    app.execute(ROW.replace("%s", "1"))
    app.execute("update document set title = title; update document set hidden = 'other'")
    app.execute("insert into memo values ('acme', 'x')")
    app.execute("update memo set text = text")
    found, outcome = look(url)
    assert (found, counts(outcome)) == ([], (2, 2, 0, 0))


def test_cascades_conflicts_savepoints_and_prepared_transactions(url: str, app: Connection) -> None:
    app.execute("insert into document (id, workspace_id) select n, 'acme' from generate_series(1, 20) n")
    app.execute("insert into permission select n, 'acme', n, 'ada' from generate_series(1, 20) n")
    app.execute("delete from document where id <= 5")
    conflict = "on conflict (id) do update set title = excluded.title"
    app.execute(f"insert into document (id, workspace_id, title) values (6, 'acme', 'x'), (30, 'acme', 'x') {conflict}")
    with app.transaction():
        app.execute("update document set id = id + 100 where id = 30")
        with app.transaction(force_rollback=True):
            app.execute("delete from document where id = 130")
        app.execute("update document set title = 'once' where id = 130")
        app.execute("update document set title = 'twice' where id = 130")
    app.execute("begin; insert into memo values ('acme', 'p'); prepare transaction 'p'")
    app.execute("insert into memo values ('acme', 'q')")
    app.execute("commit prepared 'p'")
    found, outcome = look(url)
    assert (found, counts(outcome)) == ([], (57, 11, 0, 0))


def test_partitions_moves_and_truncations(url: str, app: Connection) -> None:
    app.execute("insert into measure select n % 10, n, 'acme', 'x' from generate_series(1, 40) n")
    app.execute("update measure set day = (day + 5) % 10 where number <= 20")
    app.execute("update measure set day = 9 - day, value = 'y' where number = 21")
    app.execute("insert into measure_early values (1, 100, 'acme', 'direct')")
    app.execute("create table measure_more partition of measure for values from (10) to (20)")
    app.execute("update measure set day = 12 where number = 100")
    app.execute("delete from measure where number > 30")
    app.execute("truncate measure_early")
    app.execute("truncate measure")
    found, outcome = look(url)
    assert found == []
    assert outcome.unproved == 0
    assert outcome.rows > 70


def test_ddl_under_way_disturbs_nothing(url: str, app: Connection) -> None:
    app.execute(ROW.replace("%s", "1"))
    app.execute("alter table document add extra integer default 7")
    app.execute("update document set title = 'a' where id = 1")
    app.execute("update document set extra = 8 where id = 1")
    app.execute("alter table document rename title to name")
    app.execute("alter table document alter stars type text")
    app.execute("update document set name = 'b', stars = 'many' where id = 1")
    app.execute("alter table document drop column name, drop column numbers")
    app.execute("alter table document rename to paper")
    with app.transaction():
        app.execute("alter table paper add more text; update paper set more = 'm'; alter table paper drop more")
    app.execute("delete from paper")
    found, outcome = look(url)
    assert (found, counts(outcome)) == ([], (6, 13, 0, 0))


def test_a_transaction_larger_than_what_may_be_held_is_compared_in_parts(url: str, app: Connection) -> None:
    app.execute("insert into document (id, workspace_id) select n, 'acme' from generate_series(1, 600) n")
    with app.transaction():
        app.execute("update document set title = 'x' where id <= 400")
        app.execute("set local session_replication_role = replica")
        app.execute("alter table document disable trigger audit_update")
        app.execute("update document set title = 'hidden' where id = 77")
        app.execute("alter table document enable always trigger audit_update")
    found, outcome = look(url, most_pending=100)
    assert found == ["unlogged: UPDATE of public.document 77 has no entry"]
    assert outcome.rows == 1001


def test_under_load_with_ddl_nothing_but_the_hidden_write_is_found(url: str, app: Connection) -> None:
    stop = threading.Event()

    def work(number: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for turn in count(number * 1_000_000, 10):
                if stop.is_set():
                    return
                with connection.transaction(force_rollback=turn % 40 == 30):
                    rows = f"select n, {turn} + n, 'acme', 'x' from generate_series(0, 9) n"
                    connection.execute(f"insert into measure {rows}".encode())
                    mine = f"number between {turn} and {turn + 9}"
                    connection.execute(f"update measure set day = 9 - day where {mine}".encode())
                    connection.execute(f"insert into memo values ('acme', 'of {number}')".encode())
                    connection.execute(f"update memo set text = '{turn}' where text ~ 'of {number}'".encode())
                    connection.execute(f"delete from measure where day < 4 and {mine}".encode())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for number in range(6):
        app.execute(f"alter table memo add extra_{number} integer default {number}".encode())
        app.execute(f"alter table measure add extra_{number} text".encode())
        app.execute(f"update memo set extra_{number} = extra_{number} + 1".encode())
        assert look(url)[0] == []
        app.execute(f"alter table memo drop extra_{number}".encode())
    without_triggers(app, "insert into document (id, workspace_id) values (1, 'acme')")
    stop.set()
    for thread in threads:
        thread.join()
    found, outcome = look(url)
    assert found == ["unlogged: INSERT of public.document 1 has no entry"]
    assert outcome.unproved == 0


# What does not fit


def without_triggers(app: Connection, statement: str) -> None:
    with app.transaction():
        app.execute("alter table document disable trigger user; alter table memo disable trigger user")
        app.execute(statement.encode())
        app.execute("alter table document enable trigger user; alter table memo enable trigger user")
        for trigger in ("insert", "update", "delete", "truncate"):
            app.execute(f"alter table document enable always trigger audit_{trigger}".encode())
            app.execute(f"alter table memo enable always trigger audit_{trigger}".encode())


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("insert into document values (9, 'acme')", "unlogged: INSERT of public.document 9 has no entry"),
        ("update document set title = 'y' where id = 1", "unlogged: UPDATE of public.document 1 has no entry"),
        ("update document set id = 5 where id = 1", "unlogged: UPDATE of public.document 1 has no entry"),
        ("delete from document where id = 1", "unlogged: DELETE of public.document 1 has no entry"),
        ("insert into memo values ('acme', 'x')", "unlogged: INSERT of a row of public.memo has no entry"),
        (
            "truncate document cascade",
            "doubtful: TRUNCATE of public.document has no entry: the table was empty, or its triggers were off",
        ),
    ],
)
def test_a_write_with_triggers_off_is_found(shared: str, sharing: Connection, statement: str, said: str) -> None:
    without_triggers(sharing, statement)
    sharing.execute("insert into memo values ('acme', 'after')")
    found, _ = look(shared)
    assert said in found
    assert all(line == said or "TRUNCATE of public.permission" in line for line in found)


@pytest.mark.parametrize("row_count", [1, 2])
def test_an_entry_of_what_did_not_happen_is_found(url: str, app: Connection, row_count: int) -> None:
    app.execute(f"insert into document select n, 'acme' from generate_series(1, {row_count}) n".encode())
    assert look(url)[0] == []
    app.execute("create temporary table old as select * from audit.entry where operation = 'INSERT'")
    app.execute("create temporary table rows as select * from audit.change")
    app.execute("with one as (insert into audit.entry table old returning id) insert into audit.change table rows")
    found, _ = look(url)
    assert len(found) == row_count
    assert found[0].startswith("invented: INSERT of public.document 1 did not happen in this transaction; entry ")


@pytest.mark.parametrize(
    ("alteration", "said"),
    [
        ('new.after := \'{"title": "harmless"}\'', "altered: UPDATE of public.document 1 differs in title"),
        ('new.before := \'{"title": "harmless"}\'', "altered: UPDATE of public.document 1 differs in title"),
        ("new.after := new.after || '{\"stars\": 1}'", "altered: UPDATE of public.document 1 differs in stars"),
        ("new.after := '{}'", "altered: UPDATE of public.document 1 differs in title"),
        ("new.resource_id := '2'", "invented: UPDATE of public.document 2 did not happen"),
        ("new.operation := 'DELETE'", "invented: DELETE of public.document 1 did not happen"),
        ("new.table_name := 'memo'", "invented: UPDATE of public.memo 1 did not happen"),
        ("return null", "unlogged: UPDATE of public.document 1 has no entry"),
    ],
)
def test_an_entry_altered_or_swallowed_at_its_insertion_is_found(
    shared: str, sharing: Connection, alteration: str, said: str
) -> None:
    app = sharing
    body = f"language plpgsql as $$ begin {alteration}; return new; end $$"
    app.execute(f"create or replace function meddle() returns trigger {body}".encode())
    app.execute("create trigger meddle before insert on audit.entry for each row execute function meddle()")
    app.execute("alter table audit.entry enable always trigger meddle")
    app.execute("update document set title = 'secret' where id = 1")
    app.execute("drop trigger meddle on audit.entry")
    app.execute("update document set title = 'y' where id = 1")
    found, _ = look(shared)
    assert any(line.startswith(said) for line in found), found
    assert len(found) <= 2


def test_rows_of_a_bulk_entry_that_are_too_many_or_too_few_are_found(url: str, app: Connection) -> None:
    app.execute(
        "create function drop_some() returns trigger language plpgsql as $$ begin"
        " if new.resource_id = '2' then return null; end if; return new; end $$"
    )
    app.execute("create trigger drop_some before insert on audit.change for each row execute function drop_some()")
    app.execute("alter table audit.change enable always trigger drop_some")
    app.execute("insert into document (id, workspace_id) select n, 'acme' from generate_series(1, 3) n")
    found, _ = look(url)
    assert found[0] == "unlogged: INSERT of public.document 2 has no entry"
    assert found[1].startswith("miscounted: entry ")
    assert found[1].endswith(" says 3 rows and has 2 in audit.change")
    assert len(found) == 2


def test_entries_that_are_altered_later_are_refused_or_found_while_the_witness_looks(url: str, app: Connection) -> None:
    app.execute("insert into document (id, workspace_id) values (1, 'acme')")
    app.execute("set session_replication_role = replica")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="does not have a replica identity"):
        app.execute("update audit.entry set actor_id = 'nobody'")
    assert look(url)[0] == []
    (day,) = app.execute("select tableoid::regclass::text from audit.entry limit 1").fetchone() or ("",)
    app.execute("alter event trigger audit_guard_alteration disable")
    app.execute(f"alter table {day} replica identity full; alter table {day} disable trigger all".encode())
    app.execute(f"update {day} set actor_id = 'nobody' where operation = 'INSERT'".encode())
    assert look(url)[0] == ["tampered: UPDATE on audit.entry"]


# Flow


def test_what_was_compared_is_not_compared_again(url: str, app: Connection) -> None:
    app.execute("insert into document (id, workspace_id) values (1, 'acme')")
    without_triggers(app, "delete from document")
    assert len(look(url)[0]) == 1
    found, outcome = look(url)
    assert (found, outcome.transactions) == ([], 0)
    app.execute("insert into document (id, workspace_id) values (1, 'acme')")
    assert look(url)[1].rows == 1


def test_the_application_s_writes_never_fail_for_want_of_an_identity(url: str, app: Connection) -> None:
    app.execute("alter table permission drop constraint permission_pkey")
    app.execute("insert into permission values (1, 'acme', null, 'ada')")
    app.execute("update permission set who = 'bob'; delete from permission; insert into memo values ('acme', 'x')")
    app.execute("update memo set text = 'y'; delete from memo")
    assert look(url)[0] == []
    app.execute("create table keyless (day integer, workspace_id text) partition by range (day)")
    app.execute("create table keyless_1 partition of keyless for values from (0) to (10)")
    app.execute("select audit.enable_tracking('keyless', resource_id_columns => '{day}')")
    with psycopg.connect(url, autocommit=True) as connection:
        warnings: list[str] = []
        witness.start(connection, warnings.append)
    assert warnings[-1] == "of public.keyless insertions alone are compared: updates could fail for want of a key"
    app.execute("create table keyless_2 partition of keyless for values from (10) to (20)")
    app.execute("insert into keyless values (1, 'acme'), (11, 'acme'), (9, 'acme')")
    app.execute("update keyless set day = day + 1; delete from keyless")
    assert look(url)[0] == []
    app.execute("alter table keyless disable trigger user; insert into keyless values (2, 'acme')")
    assert look(url)[0] == ["unlogged: INSERT of a row of public.keyless has no entry"]


def test_a_migration_that_adds_a_virtual_column_breaks_no_later_write(
    url: str, app: Connection, server_version: int
) -> None:
    if server_version < 18:
        pytest.skip("PostgreSQL has virtual generated columns from 18 on")
    app.execute("drop role if exists migrator; create role migrator; grant usage, create on schema public to migrator")
    for table in ("document", "measure", "measure_early", "measure_late", "memo"):
        app.execute(f"alter table {table} owner to migrator".encode())
    app.execute("set role migrator")
    for table in ("document", "measure", "memo"):
        app.execute(f"alter table {table} add twice text generated always as (workspace_id) virtual".encode())
    app.execute("create table measure_more partition of measure for values from (10) to (20)")
    app.execute("insert into document (id, workspace_id) values (1, 'acme'); insert into memo values ('acme', 'x')")
    app.execute("insert into measure values (1, 1, 'acme', 'x'), (7, 1, 'acme', 'x'), (11, 1, 'acme', 'x')")
    for table in ("document", "measure", "memo"):
        app.execute(f"update {table} set workspace_id = 'globex'; delete from {table}".encode())
    app.execute("reset role")
    # One without a key cannot be looked at without old values.
    with pytest.raises(witness.WitnessError, match="memo is tracked and not looked at"):
        look(url)
    with psycopg.connect(url, autocommit=True) as connection:
        witness.start(connection, print)
    app.execute("insert into memo values ('acme', 'x'); update memo set text = 'y'; delete from memo")
    app.execute("insert into measure values (12, 1, 'acme', 'x'); update measure set value = 'y'")
    assert look(url)[0] == []


def test_a_table_tracked_since_is_named_until_it_is_taken_in(url: str, app: Connection) -> None:
    app.execute("create table later (id integer primary key, workspace_id text); select audit.enable_tracking('later')")
    app.execute("insert into later values (7, 'acme'); delete from later")
    with pytest.raises(witness.WitnessError, match="later is tracked and not looked at"):
        look(url)
    app.execute("insert into later values (8, 'acme'); delete from later")
    with psycopg.connect(url, autocommit=True) as connection:
        assert witness.start(connection, print) == "the witness looks at 8 tables"
    app.execute("insert into later values (1, 'acme'); update later set id = 2")
    found, outcome = look(url)
    assert (found, outcome.rows) == ([], 2)


def test_stopping_leaves_everything_as_it_was(url: str, app: Connection) -> None:
    in_public = "relnamespace = 'public'::regnamespace and relkind = 'r'"
    identities = f"select relname, relreplident from pg_class where {in_public}"
    app.execute("create unique index by_number on measure_late (day, number)")
    looked_at = app.execute(f"{identities} and relreplident <> 'f'").fetchall()
    with psycopg.connect(url, autocommit=True) as connection:
        witness.stop(connection, print)
        witness.stop(connection, print)
    assert looked_at == []
    assert {identity for _, identity in app.execute(identities).fetchall()} == {"d"}
    assert app.execute("select from pg_publication").fetchall() == []
    assert app.execute("select from pg_replication_slots where database = current_database()").fetchall() == []
    with pytest.raises(witness.WitnessError, match="daybook witness --start"):
        look(url)


def test_a_login_with_replication_that_is_a_dba_may_look(url: str, app: Connection) -> None:
    app.execute("drop role if exists auditor")
    app.execute("create role auditor login replication in role audit_dba")
    app.execute("insert into document (id, workspace_id) values (1, 'acme')")
    found, outcome = look(url.replace("postgres@", "auditor@"))
    assert (found, outcome.rows) == ([], 1)


def test_the_command_prints_what_does_not_fit(
    url: str, app: Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", url)
    assert main(["witness"]) == 0
    app.execute("insert into document (id, workspace_id) values (1, 'acme')")
    without_triggers(app, "delete from document")
    capsys.readouterr()
    assert main(["witness"]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith(": unlogged: DELETE of public.document 1 has no entry\n")
    assert "2 changed rows with 1 entries" in printed.err
    assert main(["witness", "--stop"]) == 0
    assert main(["witness"]) == 1
    assert "the witness was not started" in capsys.readouterr().err
    assert main(["witness", "--start"]) == 0


def test_a_table_with_a_virtual_column_is_looked_at_without_its_old_values(
    url: str, app: Connection, server_version: int
) -> None:
    if server_version < 18:
        pytest.skip("PostgreSQL has virtual generated columns from 18 on")
    app.execute("alter table event add twice text generated always as (workspace_id || workspace_id) virtual")
    app.execute("insert into event values ('2026-01-01', 'acme')")
    # As the server would have it without the event trigger.
    app.execute("alter event trigger audit_follow_identity disable; alter table event replica identity full")
    with pytest.raises(psycopg.errors.InvalidColumnReference, match="unpublished generated columns"):
        app.execute("update event set workspace_id = 'globex'")
    app.execute("alter event trigger audit_follow_identity enable always; alter table event replica identity default")
    warnings: list[str] = []
    with psycopg.connect(url, autocommit=True) as connection:
        witness.start(connection, warnings.append)
    assert warnings[-1] == "public.event has a virtual generated column: its old values are not compared"
    app.execute("update event set workspace_id = 'globex'; delete from event")
    found, outcome = look(url)
    assert (found, counts(outcome)) == ([], (3, 4, 0, 0))
