"""A dump restored into another cluster is the same log, and goes on.

The programs are those of the newest server found, as the manual advises; the source runs on the test run's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daybook.postgres import Cluster, Server, find_servers
from tests.conftest import LOGINS, _folder_in_memory, execute_sql_folder
from tests.restoring import DATA, SCHEMA, SETTINGS, Done, Programs, connect, copy_with_extension, portrait
from tests.trail import Connection, changes, count, own_events, trail

REDACTED = {"redacted": True}

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

    def globals(self) -> Path:
        """Dump the roles of the old cluster."""
        file = self.folder / "globals.sql"
        file.write_text(self._programs.run("pg_dumpall", self.old, "--globals-only").output)
        return file


@pytest.fixture(scope="module")
def place(pg_bin: Path, server_version: int) -> Iterator[Place]:
    folder = _folder_in_memory()
    newest = max(find_servers(), key=lambda server: server.version)
    old = Cluster(
        copy_with_extension(Server(server_version, pg_bin, "test"), folder / "old"), folder / "a", settings=SETTINGS
    )
    new = Cluster(copy_with_extension(newest, folder / "new"), folder / "b", settings=SETTINGS)
    try:
        with old, new:
            place = Place(folder, old, new, Programs(new.server))
            with connect(old) as connection:
                for login in LOGINS:
                    connection.execute(f"create role {login} login".encode())
                connection.execute("create database plain")
                connection.execute("create database extension")
            with connect(old, "plain") as connection:
                execute_sql_folder(connection)
                fill(connection)
            with connect(old, "extension") as connection:
                connection.execute("create extension pg_daybook")
                fill(connection)
            assert place.psql("-f", place.globals()) == ['role "postgres" already exists']
            yield place
    finally:
        new.remove()
        old.remove()


def fill(connection: Connection) -> None:
    connection.execute("grant audit_writer to app_owner; grant audit_maintainer to maintainer; grant audit_dba to dba")
    connection.execute(SCHEMA.encode())
    connection.execute(DATA.encode())


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


def as_an_extension(place: Place, target: str) -> list[str]:
    place.dump("-Fc", "-f", place.folder / target, "extension")
    return place.restore("-d", target, place.folder / target)


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
    ("extension", as_an_extension),
]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way[1].__name__)
def restored(request: pytest.FixtureRequest, place: Place) -> Iterator[Restored]:
    source, way = request.param
    target = way.__name__
    with connect(place.old, source) as connection:
        before = portrait(connection)
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
    # Types of the application have other OIDs, and so have the functions of lookups.
    assert findings(restored.connection) == [
        ("function_stale", "public.document", "select audit.maintain()"),
        ("function_stale", "public.document_permission", "select audit.maintain()"),
    ]
    with rolled_back(restored.connection):
        upkeep(restored)
        assert findings(restored.connection) == []


def findings(connection: Connection) -> list[tuple[Any, ...]]:
    """Return what audit.check() says, save that the tables' owner can log in, which is so on both sides."""
    query = "select problem, object_name, mend from audit.check() where problem <> 'owner_can_log_in'"
    return connection.execute(query.encode()).fetchall()


@contextmanager
def rolled_back(connection: Connection) -> Iterator[None]:
    """Leave the database as it was, for the test that comes after."""
    with connection.transaction(force_rollback=True):
        yield


def upkeep(restored: Restored) -> None:
    """Let upkeep run with the rights that its login has."""
    restored.connection.execute("set local session authorization maintainer")
    assert restored.connection.execute("select audit.maintain() -> 'problem'").fetchone() == (None,)
    restored.connection.execute("set local session authorization default")


def write(connection: Connection) -> None:
    """Write to each tracked table as its owner."""
    connection.execute("set local role app_owner")
    connection.execute("insert into document values (3, 'acme', 'Plan', 's3cret', 't0ken', 'calm', 'b=>1')")
    connection.execute("insert into document_permission values (2, 3, 2, 'view'), (3, 2, 1, 'view'), (4, 1, 2, 'view')")
    connection.execute("update document set token = 'n3w', secret = 'n3w' where id = 3")
    connection.execute("update document set secret = 's3cr3t'")
    connection.execute("update document set mood = 'calm' where id = 2")
    connection.execute("update measurement set id = 102 where id = 2")
    connection.execute("delete from measurement_high")
    connection.execute("delete from document_permission where id = 1")
    connection.execute("truncate document_permission")
    connection.execute("reset role")


COLUMNS = "event, workspace_id, resource_id, resource_name, row_count, before, after, context -> 'subject' ->> 'name'"
WRITTEN = [
    (
        "resource_created", "acme", "3", "Plan", 1, None,
        {"id": 3, "workspace_id": "acme", "title": "Plan", "token": REDACTED, "mood": "calm", "tags": '"b"=>"1"'}, None,
    ),
    ("permission_granted", "acme", None, None, 2, None, None, "Alan"),
    (
        "permission_granted", "globex", "2", "Costs", 1, None,
        {"id": 3, "document_id": 2, "member_id": 1, "level": "view"}, "Grace",
    ),
    ("resource_updated", "acme", "3", "Plan", 1, {"token": REDACTED}, {"token": REDACTED}, None),
    ("mood_changed", "globex", "2", "Costs", 1, {"mood": "cross"}, {"mood": "calm"}, None),
    ("resource_updated", "acme", "102", None, 1, {"id": 2}, {"id": 102}, None),
    ("resource_deleted", "acme", None, None, 2, None, None, None),
    (
        "permission_revoked", "acme", "1", "Revenue", 1,
        {"id": 1, "document_id": 1, "member_id": 1, "level": "edit"}, None, "Grace",
    ),
    ("permission_revoked", "acme", None, None, 2, None, None, None),
    ("permission_revoked", "globex", None, None, 1, None, None, None),
]  # fmt: skip
WRITTEN_CHANGES = [
    ("1", "Revenue", "4", None, {"id": 4, "document_id": 1, "member_id": 2, "level": "view"}),
    ("3", "Plan", "2", None, {"id": 2, "document_id": 3, "member_id": 2, "level": "view"}),
    ("101", None, None, {"id": 101, "workspace_id": "acme", "value": 2.5}, None),
    ("102", None, None, {"id": 102, "workspace_id": "acme", "value": 1.0}, None),
]


@pytest.mark.parametrize("after", [pytest.param(lambda restored: None, id="as restored"), upkeep])
def test_tracking_goes_on(restored: Restored, after: Callable[[Restored], None]) -> None:
    db = restored.connection
    entries, rows = len(trail(db)), len(changes(db))
    with rolled_back(db):
        after(restored)
        write(db)
        assert trail(db, COLUMNS)[entries:] == WRITTEN
        assert changes(db, "resource_id, resource_name, row_key, before, after")[rows:] == WRITTEN_CHANGES


def test_a_write_that_needs_an_actor_is_still_refused(restored: Restored) -> None:
    db = restored.connection
    with (
        rolled_back(db),
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="a write to public.diary needs an actor"),
    ):
        db.execute("insert into diary values (2, 'acme', '')")


def test_the_log_of_the_source_cannot_be_altered_in_the_target(restored: Restored) -> None:
    with (
        rolled_back(restored.connection),
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="is only ever added to"),
    ):
        restored.connection.execute("delete from audit.entry")
