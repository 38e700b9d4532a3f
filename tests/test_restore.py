"""A dump restored into another cluster is the same log, and goes on.

The programs are those of the newest server found, as the manual advises; the source runs on the test run's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daybook.postgres import Cluster, Server
from tests.conftest import execute_sql_folder
from tests.restoring import (
    CHANGED,
    COLUMNS,
    SCHEMA,
    WRITTEN,
    WRITTEN_CHANGES,
    Done,
    Programs,
    clusters,
    connect,
    fill,
    findings,
    portrait,
    rolled_back,
    write,
)
from tests.trail import Connection, changes, trail

pytestmark = pytest.mark.xdist_group("restore")


class Place:
    """The old cluster, the new one, and the programs that carry a dump from one to the other."""

    def __init__(self, folder: Path, old: Cluster, new: Cluster, programs: Programs) -> None:
        self.folder = folder
        self.old = old
        self.new = new
        self._programs = programs

    def dump(self, *arguments: str | Path, user: str = "postgres") -> str:
        """Run pg_dump on the old cluster, which must succeed; return what it wrote to standard output."""
        done = self._programs.run("pg_dump", self.old, *arguments, PGUSER=user)
        assert done.errors == ""
        return done.output

    def try_to_dump(self, *arguments: str | Path, user: str) -> Done:
        return self._programs.run("pg_dump", self.old, *arguments, PGUSER=user)

    def restore(self, *arguments: str | Path, **environment: str) -> list[str]:
        """Run pg_restore on the new cluster; return the errors that it met, the first line of each."""
        done = self._programs.run("pg_restore", self.new, *arguments, **environment)
        return [line for line in done.errors.splitlines() if line.startswith("pg_restore: error:")]

    def psql(self, *arguments: str | Path) -> list[str]:
        done = self._programs.run("psql", self.new, "-X", "--quiet", *arguments)
        return [line.partition("ERROR:  ")[2] for line in done.errors.splitlines() if "ERROR:" in line]

    def create_hstore(self, target: str) -> None:
        assert self.psql("-d", target, "-c", "create extension hstore") == []

    def globals(self) -> Path:
        """Dump the roles of the old cluster."""
        file = self.folder / "globals.sql"
        file.write_text(self._programs.run("pg_dumpall", self.old, "--globals-only").output)
        return file


@pytest.fixture(scope="module")
def place(pg_bin: Path, server_version: int) -> Iterator[Place]:
    with clusters(Server(server_version, pg_bin, "test")) as (folder, old, new), old, new:
        fill(old)
        place = Place(folder, old, new, Programs(new.server))
        assert place.psql("-f", place.globals()) == ['role "postgres" already exists']
        yield place


# The ways of a dump. Each gives the errors that it met, of which there should be none.


def custom_format(place: Place, target: str) -> list[str]:
    place.dump("-Fc", "-f", place.folder / target, "plain")
    return place.restore("-d", target, place.folder / target)


def plain_text(place: Place, target: str) -> list[str]:
    place.dump("-f", place.folder / target, "plain")
    return place.psql("-d", target, "-f", place.folder / target)


def in_parallel(place: Place, target: str) -> list[str]:
    place.dump("-Fd", "--jobs=2", "-f", place.folder / target, "plain")
    return place.restore("--jobs=2", "-d", target, place.folder / target)


def section_by_section(place: Place, target: str) -> list[str]:
    place.dump("-Fc", "-f", place.folder / target, "plain")
    return [
        error
        for section in ("pre-data", "data", "post-data")
        for error in place.restore(f"--section={section}", "-d", target, place.folder / target)
    ]


def schema_by_schema(place: Place, target: str) -> list[str]:
    # A dump of single schemas has neither extensions nor event triggers.
    place.create_hstore(target)
    errors = []
    for schema in ("audit", "public"):
        place.dump("-Fc", f"--schema={schema}", "-f", place.folder / f"{target}-{schema}", "plain")
        errors += place.restore("-d", target, place.folder / f"{target}-{schema}")
    assert errors == ['pg_restore: error: could not execute query: ERROR:  schema "public" already exists']
    return place.psql("-d", target, "-c", "select audit.create_event_triggers()")


def the_application_first(place: Place, target: str) -> list[str]:
    place.create_hstore(target)
    place.dump("-Fc", "-f", place.folder / target, "plain")
    place.dump("-Fc", "--schema=audit", "-f", place.folder / f"{target}-audit", "plain")
    public = ("--schema=public", "-d", target, place.folder / target)
    return [
        # --schema of pg_restore leaves out what was granted on the schema itself.
        *place.psql("-d", target, "-c", "grant create on schema public to app_owner"),
        *place.restore("--section=pre-data", "--section=data", *public),
        *place.restore("-d", target, place.folder / f"{target}-audit"),
        *place.restore("--section=post-data", *public),
        *place.psql("-d", target, "-c", "select audit.create_event_triggers()"),
    ]


def as_an_extension(place: Place, target: str) -> list[str]:
    place.dump("-Fc", "-f", place.folder / target, "extension")
    return place.restore("-d", target, place.folder / target)


def as_an_extension_in_parallel(place: Place, target: str) -> list[str]:
    place.dump("-Fd", "--jobs=2", "-f", place.folder / target, "extension")
    return place.restore("--jobs=4", "-d", target, place.folder / target)


@dataclass(frozen=True)
class Restored:
    """What a way of restoring left."""

    errors: list[str]
    source: dict[str, list[str]]
    target: dict[str, list[str]]
    connection: Connection
    cluster: Cluster
    database: str

    def differences(self, *names: str) -> dict[str, list[str]]:
        """Return the rows that stand on one side only, by the name of what they are."""
        different = {
            name: sorted(set(self.source[name]) ^ set(self.target[name])) for name in names or tuple(self.source)
        }
        return {name: rows for name, rows in different.items() if rows}


WAYS: list[tuple[str, Callable[[Place, str], list[str]]]] = [
    ("plain", custom_format),
    ("plain", plain_text),
    ("plain", in_parallel),
    ("plain", section_by_section),
    ("plain", schema_by_schema),
    ("plain", the_application_first),
    ("extension", as_an_extension),
    ("extension", as_an_extension_in_parallel),
]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way[1].__name__)
def restored(request: pytest.FixtureRequest, place: Place) -> Iterator[Restored]:
    source, way = request.param
    target = way.__name__
    with connect(place.old, source) as connection:
        before = portrait(connection)
    if source == "extension":
        before["sessions"] = []
    with connect(place.new) as connection:
        connection.execute(f"create database {target}".encode())
    errors = way(place, target)
    with connect(place.new, target) as connection:
        yield Restored(errors, before, portrait(connection), connection, place.new, target)


def test_a_restore_meets_no_error(restored: Restored) -> None:
    assert restored.errors == []


def test_everything_arrives_as_it_was_and_nothing_more(restored: Restored) -> None:
    assert restored.differences() == {}


def test_what_a_restore_leaves_to_do_is_upkeep_alone(restored: Restored) -> None:
    # Tables, types of the application and the functions of lookups have other OIDs.
    assert findings(restored.connection) == [
        ("function_stale", f"public.{table}", "select audit.maintain()")
        for table in ("diary", "document", "document_permission", "measurement")
    ]
    with rolled_back(restored.connection):
        upkeep(restored)
        assert findings(restored.connection) == []


def upkeep(restored: Restored) -> None:
    """Let upkeep run with the rights that its login has."""
    restored.connection.execute("set local session authorization maintainer")
    assert restored.connection.execute("select audit.maintain() -> 'problem'").fetchone() == (None,)
    restored.connection.execute("set local session authorization default")


def upkeep_where_tables_have_their_old_numbers(restored: Restored) -> None:
    # As it may happen: numbers of tables are given in order, from the same one on in each cluster.
    restored.connection.execute(
        "update audit.tracked_table set relation_oid = format('%I.%I', table_schema, table_name)::regclass"
    )
    upkeep(restored)


AFTERWARDS = [pytest.param(lambda restored: None, id="nothing"), upkeep, upkeep_where_tables_have_their_old_numbers]


@pytest.mark.parametrize("after", AFTERWARDS)
def test_tracking_goes_on(restored: Restored, after: Callable[[Restored], None]) -> None:
    db = restored.connection
    entries, rows = len(trail(db)), len(changes(db))
    with rolled_back(db):
        after(restored)
        write(db)
        assert trail(db, COLUMNS)[entries:] == WRITTEN
        assert changes(db, CHANGED)[rows:] == WRITTEN_CHANGES


def test_a_write_that_needs_an_actor_is_still_refused(restored: Restored) -> None:
    db = restored.connection
    with (
        rolled_back(db),
        pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"a write to public\.diary needs an actor"),
    ):
        db.execute("insert into diary values (2, 'acme', '')")


def test_the_log_of_the_source_cannot_be_altered_in_the_target(restored: Restored) -> None:
    with (
        rolled_back(restored.connection),
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="is only ever added to"),
    ):
        restored.connection.execute("delete from audit.entry")


# What is restored in another order, or in part.


@pytest.fixture
def target(place: Place, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """An empty database of the new cluster."""
    name = "".join(character for character in request.node.name if character.isalnum())[:60]
    with connect(place.new) as connection:
        connection.execute(f"create database {name}".encode())
    with connect(place.new, name) as connection:
        yield connection


@pytest.fixture
def installed(target: Connection) -> Connection:
    """A database of the new cluster where the log is installed and the tables are tracked, all of them empty."""
    execute_sql_folder(target)
    target.execute(SCHEMA.encode())
    return target


@pytest.fixture(scope="module")
def dumped(place: Place) -> Path:
    place.dump("-Fc", "-f", place.folder / "dumped", "plain")
    return place.folder / "dumped"


def test_tables_restored_before_their_log_are_found_and_mended(place: Place, dumped: Path, target: Connection) -> None:
    place.create_hstore(target.info.dbname)
    place.dump("-Fc", "--schema=audit", "-f", place.folder / "audit", "plain")
    errors = place.restore("--schema=public", "-d", target.info.dbname, dumped)
    assert set(errors) == {'pg_restore: error: could not execute query: ERROR:  schema "audit" does not exist'}
    assert place.restore("-d", target.info.dbname, place.folder / "audit") == []
    assert bypasses(target) == [
        ("partition_untracked", "public.measurement_high"),
        ("partition_untracked", "public.measurement_low"),
        ("trigger_missing", "public.diary"),
        ("trigger_missing", "public.document"),
        ("trigger_missing", "public.document_permission"),
        ("trigger_missing", "public.measurement"),
    ]
    mend(target)
    assert bypasses(target) == []
    entries = len(trail(target))
    write(target)
    assert trail(target, COLUMNS)[entries:] == WRITTEN


def bypasses(connection: Connection) -> list[tuple[Any, ...]]:
    query = "select distinct problem, object_name from audit.check() where severity = 'bypass' order by 1, 2"
    return connection.execute(query).fetchall()


def mend(connection: Connection) -> None:
    for (statement,) in connection.execute("select mend from audit.check() where severity = 'bypass'").fetchall():
        connection.execute(statement.encode())


@pytest.fixture(scope="module")
def data_alone(place: Place) -> Path:
    # Dumped so, the tables come in the order of their foreign keys.
    place.dump("-Fc", "--data-only", "--schema=public", "-f", place.folder / "data", "plain")
    return place.folder / "data"


RESTORED = "event, workspace_id, table_name, row_count, actor_type, actor_id"


def test_data_alone_is_a_write_like_any_other(place: Place, data_alone: Path, installed: Connection) -> None:
    errors = place.restore("-d", installed.info.dbname, data_alone)
    assert errors == [
        'pg_restore: error: COPY failed for table "diary": ERROR:  a write to public.diary needs an actor'
    ]
    assert trail(installed, RESTORED) == [
        ("resource_created", "acme", "document", 1, "system", "system"),
        ("resource_created", "globex", "document", 1, "system", "system"),
        ("permission_granted", "acme", "document_permission", 1, "system", "system"),
        ("resource_created", "acme", "measurement", 1, "system", "system"),
        ("resource_created", "acme", "measurement", 2, "system", "system"),
    ]


def test_who_restores_data_alone_can_be_named(place: Place, data_alone: Path, installed: Connection) -> None:
    options = "-c audit.actor_id=restore -c audit.actor_type=service -c audit.reason=drill"
    assert place.restore("-d", installed.info.dbname, data_alone, PGOPTIONS=options) == []
    assert trail(installed, RESTORED + ", context ->> 'reason'") == [
        ("resource_created", "acme", "diary", 1, "service", "restore", "drill"),
        ("resource_created", "acme", "document", 1, "service", "restore", "drill"),
        ("resource_created", "globex", "document", 1, "service", "restore", "drill"),
        ("permission_granted", "acme", "document_permission", 1, "service", "restore", "drill"),
        ("resource_created", "acme", "measurement", 1, "service", "restore", "drill"),
        ("resource_created", "acme", "measurement", 2, "service", "restore", "drill"),
    ]


def test_data_alone_with_triggers_off_leaves_no_entry_and_triggers_to_be_mended(
    place: Place, data_alone: Path, installed: Connection
) -> None:
    assert place.restore("--disable-triggers", "--data-only", "-d", installed.info.dbname, data_alone) == []
    assert trail(installed) == []
    assert bypasses(installed) == [
        ("trigger_not_always", "public.diary"),
        ("trigger_not_always", "public.document"),
        ("trigger_not_always", "public.document_permission"),
        ("trigger_not_always", "public.measurement_high"),
        ("trigger_not_always", "public.measurement_low"),
    ]
    mend(installed)
    assert findings(installed) == []
    write(installed)
    assert trail(installed, COLUMNS) == WRITTEN


def test_entries_alone_come_into_a_log_whose_days_were_made(place: Place, target: Connection) -> None:
    entries_and_changes = ("--table=audit.entry*", "--table=audit.change*")
    place.dump(
        "-Fc", "--data-only", "--load-via-partition-root", *entries_and_changes, "-f", place.folder / "entries", "plain"
    )
    execute_sql_folder(target)
    target.execute("select audit.create_day((now() at time zone 'UTC')::date - 5)")
    assert place.restore("-d", target.info.dbname, place.folder / "entries") == []
    with connect(place.old, "plain") as source:
        for rows in ("entries", "changes"):
            assert portrait(target, rows) == portrait(source, rows)


def test_a_restore_without_owners_is_found_out(place: Place, dumped: Path, target: Connection) -> None:
    assert place.restore("--no-owner", "-d", target.info.dbname, dumped) == []
    target.execute("select audit.maintain()")
    assert ("owners_lost", "schema audit", "restore again, without --no-owner") in findings(target)
    assert {problem for problem, _, _ in findings(target)} == {"owners_lost", "function_replaced", "owner_is_superuser"}


def test_after_a_restore_without_rights_no_write_passes_unlogged(
    place: Place, dumped: Path, target: Connection
) -> None:
    assert place.restore("--no-privileges", "-d", target.info.dbname, dumped) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for schema audit"):
        target.execute("insert into document (id) values (4)")


# Who may dump.


def test_a_login_that_reads_all_data_past_row_level_security_dumps_what_a_superuser_does(place: Place) -> None:
    with connect(place.old) as connection:
        connection.execute("create role backup login bypassrls in role pg_read_all_data")
    assert without_key(place.dump("plain", user="backup")) == without_key(place.dump("plain"))


def without_key(dump: str) -> list[str]:
    """Leave out the key that each dump for psql makes anew."""
    return [line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


@pytest.mark.parametrize(
    ("login", "reason"),
    [("dba", "permission denied for table actor_key"), ("app_owner", "permission denied for table")],
)
def test_a_login_with_less_is_told_what_it_may_not_dump(place: Place, login: str, reason: str) -> None:
    done = place.try_to_dump("plain", user=login)
    assert (done.code, reason in done.errors) == (1, True), done.errors


def test_the_roles_come_with_the_globals(place: Place) -> None:
    attributes = "rolname, rolcanlogin, rolinherit, rolsuper, rolcreaterole, rolbypassrls"
    memberships = "array(select roleid::regrole::text from pg_auth_members m where m.member = r.oid order by 1)"
    roles = f"select {attributes}, {memberships} from pg_roles r where rolname like 'audit%' order by 1".encode()
    with connect(place.old) as old, connect(place.new) as new:
        assert new.execute(roles).fetchall() == old.execute(roles).fetchall()
        # Not by inheritance: upkeep takes the owner's role where it needs it.
        query = "select pg_has_role('maintainer', 'audit_owner', r) from unnest('{usage,member}'::text[]) r"
        assert new.execute(query).fetchall() == [(False,), (True,)]
