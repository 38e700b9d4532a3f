"""The test run's PostgreSQL server and the databases that each test gets of its own.

It must not hold anything that only one test file needs.
"""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pytest_postgresql import factories

from daybook.postgres import Cluster, PostgresError, find_server

REPOSITORY = Path(__file__).resolve().parents[1]
SERVER_VARIABLE = "TESTS_POSTGRES_SERVER"
# A million rows changed in one statement take 2 GB with their entry, its sorting and the WAL.
MEMORY_NEEDED = 4 << 30

# Logins of the cluster, each with the role of schema audit that it is a member of.
LOGINS = {
    "app_owner": "audit_writer",
    # The owner of another application's tables: what is app_owner's is not his.
    "rival": "audit_writer",
    "app_user": None,
    "reader": "audit_reader",
    "dba": "audit_dba",
    "maintainer": "audit_maintainer",
    "installer": None,
    # Given audit_owner for a moment by the one test that migrates without a superuser: no other test may look at it.
    "migrator": None,
}


@dataclass(frozen=True)
class TestServer:
    """The running server, as pytest-postgresql's `depends_on` wants it and as the workers of pytest-xdist get it."""

    __test__ = False

    version: int
    bin: str
    host: str
    port: int
    template_dbname: str
    installation_error: str | None
    user: str = "postgres"
    password: str | None = None
    options: str = ""
    maintenance_dbname: str = "postgres"


class Database:
    """A database of one test's own."""

    def __init__(self, server: TestServer, name: str) -> None:
        self.name = name
        self._server = server
        self._connections: list[psycopg.Connection[tuple[Any, ...]]] = []

    def url(self, user: str = "postgres") -> str:
        """Return the libpq URI of this database for one of the cluster's logins; none needs a password."""
        host = self._server.host.replace("/", "%2F")
        return f"postgresql://{user}@/{self.name}?host={host}&port={self._server.port}"

    def connect(self, user: str = "postgres", autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a connection that is closed with the test."""
        connection = psycopg.connect(self.url(user), autocommit=autocommit)
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


# The server: started once by the process that the user started, found by the others in the environment.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--allowed-skips",
        metavar="FILE",
        help="fail when a test is skipped that no line of this file names ('part of the test id: reason' each)",
    )

    parser.addoption(
        "--way",
        choices=("compiled", "fallback"),
        help="capture one way only, compiled or with stale functions: where both servers are tested, each takes one",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.way:
        asked = config.option.way
        ways = {item: getattr(item, "callspec", None) for item in items}
        left_out = [item for item, spec in ways.items() if spec and spec.params.get("way", asked) != asked]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("PG") and name != "PG"]:
        del os.environ[name]
    if SERVER_VARIABLE in os.environ or config.option.collectonly:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server is stopped then too
    try:
        _start_server(config)
    except PostgresError as error:
        raise pytest.UsageError(str(error)) from error


def _start_server(config: pytest.Config) -> None:
    wanted = os.environ.get("PG")
    server = find_server(int(wanted) if wanted else None)
    folder = folder_in_memory()
    settings: dict[str, str | int] = {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "max_connections": 200,
        "max_prepared_transactions": 10,
        "wal_level": "logical",
        "log_min_messages": "warning",
        "timezone": "UTC",
    }
    cluster = Cluster(server, folder, settings=settings)
    config.add_cleanup(lambda: _end_server(cluster))
    cluster.start()
    os.environ[SERVER_VARIABLE] = json.dumps(asdict(_prepare_server(cluster)))


def folder_in_memory() -> Path:
    memory = Path("/dev/shm")
    fits = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_NEEDED
    folder = Path(tempfile.mkdtemp(prefix="pg-daybook-", dir=memory if fits else "/tmp"))
    folder.chmod(0o755)
    return folder


def _end_server(cluster: Cluster) -> None:
    os.environ.pop(SERVER_VARIABLE, None)
    try:
        cluster.stop()
    finally:
        shutil.rmtree(cluster.folder, ignore_errors=True)


def _prepare_server(cluster: Cluster) -> TestServer:
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        for login in LOGINS:
            connection.execute(sql.SQL("create role {} login").format(sql.Identifier(login)))
        connection.execute("alter role installer createrole; alter role migrator createrole")
        connection.execute("create database daybook_template")
    try:
        with psycopg.connect(cluster.url("daybook_template")) as connection:
            execute_sql_folder(connection)
            _grant_to_logins(connection)
        error = None
    except psycopg.Error as failure:
        error = f"sql/ could not be installed: {failure}"
    return TestServer(
        version=cluster.server.version,
        bin=str(cluster.server.bin),
        host=str(cluster.socket_folder),
        port=cluster.port,
        template_dbname="daybook_template",
        installation_error=error,
    )


def execute_sql_folder(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Install pg_daybook as psql would: the files of sql/ in the order of their names."""
    for file in sorted((REPOSITORY / "sql").glob("*.sql")):
        try:
            connection.execute(file.read_bytes())
        except psycopg.Error as error:
            raise psycopg.Error(f"{file.name}: {_with_line(error, file)}") from error


def _with_line(error: psycopg.Error, file: Path) -> str:
    position = error.diag.statement_position
    line = file.read_text(encoding="utf-8")[: int(position)].count("\n") + 1 if position else None
    context = f"\n{error.diag.context}" if error.diag.context else ""
    return f"line {line}: {error}{context}" if line else f"{error}{context}"


def _grant_to_logins(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    connection.execute("grant create on schema public to app_owner")
    for login, role in LOGINS.items():
        if role and connection.execute("select from pg_roles where rolname = %s", [role]).rowcount:
            connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), sql.Identifier(login)))


@pytest.hookimpl(trylast=True)
def pytest_report_header() -> str | None:
    if SERVER_VARIABLE not in os.environ:
        return None
    server = _running_server()
    return f"server: PostgreSQL {server.version} from {server.bin}"


def _running_server() -> TestServer:
    return TestServer(**json.loads(os.environ[SERVER_VARIABLE]))


# Skips: each is printed with its reason; with --allowed-skips one that the file does not name fails the run.


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.option.allowed_skips and _unexpected_skips(session.config) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in _unexpected_skips(config) if config.option.allowed_skips else []:
        terminalreporter.write_line(f"ERROR this skip is not in {config.option.allowed_skips}: {line}")


def _unexpected_skips(config: pytest.Config) -> list[str]:
    lines = Path(config.option.allowed_skips).read_text(encoding="utf-8").splitlines()
    allowed = [line.partition(": ")[0] for line in lines if line.strip() and not line.startswith("#")]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    return [
        f"{report.nodeid}: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
        for report in skipped
        if not any(part in report.nodeid for part in allowed)
    ]


# What tests ask for


@pytest.fixture(scope="session")
def bare_server() -> TestServer:
    """The server, with the empty template that PostgreSQL brings."""
    server = asdict(_running_server())
    return TestServer(**{**server, "template_dbname": "template0"})


@pytest.fixture(scope="session")
def server() -> TestServer:
    """The server, with a template database that has pg_daybook installed."""
    server = _running_server()
    if server.installation_error:
        pytest.fail(server.installation_error, pytrace=False)
    return server


@pytest.fixture(scope="session")
def server_version(bare_server: TestServer) -> int:
    """The server's major version."""
    return bare_server.version


@pytest.fixture(scope="session")
def pg_bin(bare_server: TestServer) -> Path:
    """The folder of the server's programs."""
    return Path(bare_server.bin)


_empty_template = factories.postgresql_noproc(dbname="empty", depends_on="bare_server")
_empty_clone = factories.postgresql("_empty_template")


# No two tests' databases have one name: what a test left running must not meet the next one.
_numbers = count()


@pytest.fixture(scope="session")
def _maintenance(server: TestServer) -> Iterator[psycopg.Connection[Any]]:
    """A connection from which databases are made and dropped."""
    maintenance = Database(server, "postgres")
    yield maintenance.connect()
    maintenance.close()


@pytest.fixture
def database(server: TestServer, _maintenance: psycopg.Connection[Any]) -> Iterator[Database]:
    """A fresh database with pg_daybook installed."""
    name = f"daybook_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{next(_numbers)}"
    names = [sql.Identifier(name), sql.Identifier(server.template_dbname)]
    # Not by pytest-postgresql: copied as files, making and dropping one takes 42 ms instead of 69, thousands of times.
    _maintenance.execute(sql.SQL("create database {} template {} strategy file_copy").format(*names))
    _grant_on_database(_maintenance, name)
    database = Database(server, name)
    yield database
    database.close()
    _maintenance.execute(sql.SQL("drop database {} with (force)").format(names[0]))


@pytest.fixture
def empty_database(bare_server: TestServer, _empty_clone: psycopg.Connection[Any]) -> Iterator[Database]:
    """A fresh database with nothing in it."""
    _empty_clone.execute("grant create on schema public to app_owner")
    name = _empty_clone.info.dbname
    _grant_on_database(_empty_clone, name)
    _empty_clone.commit()
    _empty_clone.close()
    database = Database(bare_server, name)
    yield database
    database.close()


def _grant_on_database(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute(sql.SQL("grant create on database {} to installer, migrator").format(sql.Identifier(name)))


@pytest.fixture
def db(database: Database) -> psycopg.Connection[tuple[Any, ...]]:
    """The superuser's connection to `database`, in autocommit."""
    return database.connect()


@pytest.fixture(params=["compiled", "fallback"])
def way(request: pytest.FixtureRequest, database: Database) -> str:
    """Runs a test twice: as compiled, and the generic way of a database where nothing follows DDL.

    A module of capture tests asks for it by `pytestmark = pytest.mark.usefixtures("way")`.
    """
    if request.param == "fallback":
        take_the_generic_way(database.connect())
    return str(request.param)


def take_the_generic_way(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Make every capture function of this database one whose table changed behind its back, for as long as it lives."""
    for trigger in ("audit_follow_ddl", "audit_follow_drop", "audit_follow_partitions"):
        connection.execute(f"alter event trigger {trigger} disable".encode())
    connection.execute(
        "create or replace function audit.table_shape(relation oid) returns text language sql stable"
        " set search_path = pg_catalog, pg_temp as $$ select 'of another table' $$"
    )
    connection.execute(
        "create or replace function audit.row_types(relation oid) returns oid[] language sql stable"
        " set search_path = pg_catalog, pg_temp as $$ select '{0}'::oid[] $$"
    )


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """An empty folder that the server's OS user can reach: as root it cannot reach pytest's own `tmp_path`."""
    folder = Path(tempfile.mkdtemp(prefix="pg-daybook-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
