"""How a database got here: the migrations build what sql/ says, and take it away again."""

import subprocess
from pathlib import Path

import psycopg
import pytest

from daybook.schema import SchemaError, downgrade, migrate
from migrations.freeze import LEFT_OUT, SQL, VERSIONS, digest, frozen_sql, released_files
from tests.conftest import Database, execute_sql_folder
from tests.trail import count


def dump(pg_bin: Path, database: Database) -> str:
    """The schema of the database as pg_dump writes it, and the version's row."""
    command = [str(pg_bin / "pg_dump"), "--schema-only", "--dbname", database.url()]
    schema = subprocess.check_output(command, text=True)
    version = database.connect().execute("select version_num from audit.schema_version").fetchall()
    lines = [line for line in schema.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
    return "\n".join([*lines, str(version)])


def test_the_migrations_and_sql_build_the_same_database(
    database: Database, empty_database: Database, pg_bin: Path
) -> None:
    database.connect().execute("revoke create on schema public from app_owner")
    empty_database.connect().execute("revoke create on schema public from app_owner")
    migrate(empty_database.url())
    assert dump(pg_bin, empty_database) == dump(pg_bin, database)


def test_up_down_up_is_clean(empty_database: Database, pg_bin: Path) -> None:
    migrate(empty_database.url())
    before = dump(pg_bin, empty_database)
    connection = empty_database.connect()
    connection.execute("create table document (id integer primary key, workspace_id text)")
    connection.execute("select audit.enable_tracking('document')")
    downgrade(empty_database.url(), destroy_log=True)
    connection.execute("insert into document values (1, 'acme')")
    connection.execute("drop table document")
    assert migrate(empty_database.url()) == "0001"
    assert dump(pg_bin, empty_database) == before


def test_a_second_migrate_changes_nothing(empty_database: Database, pg_bin: Path) -> None:
    migrate(empty_database.url())
    before = dump(pg_bin, empty_database)
    assert migrate(empty_database.url()) == "0001"
    assert dump(pg_bin, empty_database) == before


def test_migrate_goes_on_from_an_installation_by_psql(database: Database) -> None:
    assert migrate(database.url()) == "0001"


def test_sql_cannot_be_installed_twice(database: Database) -> None:
    with pytest.raises(psycopg.Error, match="pg_daybook is installed in this database already"):
        execute_sql_folder(database.connect(autocommit=False))


def test_psql_alone_installs_the_log(empty_database: Database, pg_bin: Path) -> None:
    files = [argument for file in sorted(SQL.glob("*.sql")) for argument in ("--file", str(file))]
    command = [str(pg_bin / "psql"), "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", empty_database.url(), *files]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert count(empty_database.connect(), "select count(*) from audit.upkeep") == 1


def test_an_installation_runs_no_function_that_lies_in_wait(empty_database: Database) -> None:
    connection = empty_database.connect()
    connection.execute("create table loot (who text)")
    connection.execute(
        "create function public.format(text, text) returns text language plpgsql as"
        " $$ begin insert into public.loot values (current_user); return pg_catalog.format($1, $2); end $$"
    )
    migrate(empty_database.url())
    connection.execute("create table document (id integer primary key, workspace_id text)")
    connection.execute("select audit.enable_tracking('document')")
    connection.execute("insert into document values (1, 'acme')")
    assert connection.execute("select who from loot").fetchall() == []


def test_a_schema_audit_that_is_not_ours_stops_the_installation(empty_database: Database) -> None:
    empty_database.connect().execute("create schema audit; create table audit.logged_actions (id integer)")
    with pytest.raises(SchemaError, match="a schema named audit exists already and is not pg_daybook's"):
        migrate(empty_database.url())
    assert count(empty_database.connect(), "select count(*) from pg_class where relname = 'schema_version'") == 0


def test_a_downgrade_refuses_to_destroy_the_log_unless_told_to(database: Database) -> None:
    with pytest.raises(SchemaError, match="would destroy the log"):
        downgrade(database.url())


@pytest.mark.parametrize("others", ["", "create schema audit; create table audit.logged_actions (id integer)"])
def test_a_database_without_a_log_has_none_to_take_out(empty_database: Database, others: str) -> None:
    connection = empty_database.connect()
    connection.execute(others.encode())
    before = connection.execute("select from pg_class").rowcount
    with pytest.raises(SchemaError, match="holds no log"):
        downgrade(empty_database.url(), destroy_log=True)
    assert connection.execute("select from pg_class").rowcount == before
    assert count(connection, "select count(*) from pg_namespace where nspname = 'audit'") == bool(others)


def test_roles_are_never_dropped(database: Database) -> None:
    downgrade(database.url(), destroy_log=True)
    assert count(database.connect(), "select count(*) from pg_roles where rolname like 'audit\\_%'") == 6


def test_a_login_with_createrole_installs_all_but_the_event_triggers(empty_database: Database) -> None:
    connection = empty_database.connect()
    # Elsewhere in the cluster the roles exist already; whoever made them would be a member.
    connection.execute("grant audit_owner, audit_capture to migrator")
    try:
        assert migrate(empty_database.url("migrator")) == "0001"
    finally:
        connection.execute("revoke audit_owner, audit_capture from migrator")
    connection.execute("create table document (id integer primary key, workspace_id text)")
    connection.execute("select audit.enable_tracking('document')")
    connection.execute("alter table document add title text")
    connection.execute("insert into document values (1, 'acme', 'T')")
    found = connection.execute("select after from audit.entry where operation = 'INSERT'").fetchall()
    assert found == [({"id": 1, "title": "T", "workspace_id": "acme"},)]
    assert count(connection, "select count(*) from audit.check() where problem = 'ddl_not_followed'") == 5


def test_the_unreleased_migration_is_frozen_from_sql() -> None:
    newest = max(VERSIONS.glob("*.up.sql"))
    assert newest.read_text(encoding="utf-8") == frozen_sql(), "run: make freeze"


def test_released_files_did_not_change() -> None:
    released = released_files()
    assert {name: digest(VERSIONS / name) for name in released} == released


def test_sql_holds_no_meta_command_and_no_transaction_control() -> None:
    lines = [
        line.strip().lower() for file in SQL.glob("*.sql") for line in file.read_text(encoding="utf-8").splitlines()
    ]
    control = ("\\", "commit", "rollback", "begin;", "start transaction", "savepoint")
    assert [line for line in lines if line.startswith(control)] == []


def test_the_version_that_sql_writes_is_the_head_of_the_migrations() -> None:
    head = max(VERSIONS.glob("[0-9]*.py")).name[:4]
    assert f"values ('{head}')" in (SQL / LEFT_OUT).read_text(encoding="utf-8")
