"""Many clients on few connections: every entry bears the actor of its own transaction, and none leaks.

The connections are shared by way of pgbouncer in transaction mode, psycopg_pool, and SQLAlchemy's pool.
"""

import os
import pwd
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Barrier

import psycopg
import pytest
import sqlalchemy
from psycopg_pool import ConnectionPool

from daybook import actor
from tests.conftest import Database, TestServer
from tests.trail import Connection, trail

CLIENTS = 8
ROUNDS = 10
SERVER_CONNECTIONS = 2

INSERT = "insert into note values (%s, pg_backend_pid())"

# One client's connection, out of a pool or through a pooler; given back at the end.
Pool = Callable[[], AbstractContextManager[Connection]]


@pytest.fixture
def note(db: Connection) -> Connection:
    db.execute("create table note (text text primary key, backend integer)")
    db.execute("select audit.enable_tracking('note', workspace => 'w')")
    return db


# The poolers


@contextmanager
def pgbouncer(server: TestServer, folder: Path, size: int = SERVER_CONNECTIONS, **settings: str | int) -> Iterator[str]:
    """Run pgbouncer in transaction mode in front of the test server; yield the folder of its socket."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer: Debian's package of that name has it")
    # Only the server's own OS user and root can reach its socket, and pgbouncer refuses to run as root.
    account = pwd.getpwuid(Path(server.host).stat().st_uid)
    is_other = account.pw_uid != os.geteuid()
    (folder / "socket").mkdir()
    os.chown(folder / "socket", account.pw_uid, account.pw_gid)
    (folder / "users.txt").write_text('"postgres" ""\n')
    values: dict[str, str | int] = {
        "unix_socket_dir": str(folder / "socket"),
        "listen_port": 6432,
        "auth_type": "trust",
        "auth_file": str(folder / "users.txt"),
        "pool_mode": "transaction",
        "default_pool_size": size,
        **settings,
    }
    lines = [f"{name} = {value}\n" for name, value in values.items()]
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\n{''.join(lines)}"
    )
    with open(folder / "pgbouncer.log", "wb") as log:
        process = subprocess.Popen(
            [program, "-q", folder / "pgbouncer.ini"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=account.pw_uid if is_other else None,
            group=account.pw_gid if is_other else None,
            extra_groups=[] if is_other else None,
        )
    try:
        while not (folder / "socket/.s.PGSQL.6432").exists():
            assert process.poll() is None, (folder / "pgbouncer.log").read_text()
            time.sleep(0.01)
        yield str(folder / "socket")
    finally:
        process.terminate()
        process.wait()


def through(pooler: str, database: Database, autocommit: bool = False) -> Connection:
    """Connect by way of pgbouncer. Prepared statements it cannot follow, so none are made."""
    return psycopg.connect(
        host=pooler, port=6432, user="postgres", dbname=database.name, autocommit=autocommit, prepare_threshold=None
    )


@contextmanager
def behind_pgbouncer(server: TestServer, database: Database, folder: Path) -> Iterator[Pool]:
    with pgbouncer(server, folder) as pooler:
        yield lambda: through(pooler, database)


@contextmanager
def psycopg_pool(server: TestServer, database: Database, folder: Path) -> Iterator[Pool]:
    with ConnectionPool(database.url(), min_size=SERVER_CONNECTIONS, max_size=SERVER_CONNECTIONS) as pool:
        yield pool.connection


@contextmanager
def sqlalchemy_pool(server: TestServer, database: Database, folder: Path) -> Iterator[Pool]:
    engine = sqlalchemy_engine(database)

    @contextmanager
    def connection() -> Iterator[Connection]:
        with engine.connect() as pooled:
            driver = pooled.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            yield driver

    yield connection
    engine.dispose()


def sqlalchemy_engine(database: Database) -> sqlalchemy.Engine:
    url = database.url().replace("postgresql:", "postgresql+psycopg:")
    return sqlalchemy.create_engine(url, pool_size=SERVER_CONNECTIONS, max_overflow=0)


# What each client does, again and again. The text of a note says who should be its actor.


def with_the_helper(connection: Connection, client: str, text: str) -> None:
    with connection.transaction(), actor(connection, client):
        connection.execute(INSERT, [f"{client} {text}"])


def with_set_actor(connection: Connection, client: str, text: str) -> None:
    with connection.transaction():
        connection.execute("select audit.set_actor(%s)", [client])
        connection.execute(INSERT, [f"{client} {text}"])


def without_an_actor(connection: Connection, client: str, text: str) -> None:
    with connection.transaction():
        connection.execute(INSERT, [f"system {client} {text}"])


def rolled_back(connection: Connection, client: str, text: str) -> None:
    with connection.transaction(force_rollback=True), actor(connection, client):
        connection.execute(INSERT, [f"nobody {client} {text}"])


def failed(connection: Connection, client: str, text: str) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction(), actor(connection, client):
        connection.execute("select 1 / 0")


def with_a_savepoint_rolled_back(connection: Connection, client: str, text: str) -> None:
    with connection.transaction():
        connection.execute("select audit.set_actor(%s)", [client])
        with connection.transaction(force_rollback=True):
            connection.execute("select audit.set_actor('nobody')")
            connection.execute(INSERT, [f"nobody {client} {text}"])
        connection.execute(INSERT, [f"{client} {text}"])


STEPS = [
    with_the_helper,
    without_an_actor,
    with_set_actor,
    rolled_back,
    without_an_actor,
    with_a_savepoint_rolled_back,
    failed,
    without_an_actor,
]
LEFT = ["{client} {n}.0", "system {client} {n}.1", "{client} {n}.2", "system {client} {n}.4", "{client} {n}.5",
        "system {client} {n}.7"]  # fmt: skip
WRITTEN = sorted(text.format(client=f"user-{c}", n=n) for c in range(CLIENTS) for n in range(ROUNDS) for text in LEFT)


def work(pool: Pool, client: str, start: Barrier) -> None:
    start.wait()
    for n in range(ROUNDS):
        with pool() as connection:
            for number, step in enumerate(STEPS):
                step(connection, client, f"{n}.{number}")


@pytest.mark.parametrize("pooler", [behind_pgbouncer, psycopg_pool, sqlalchemy_pool])
def test_each_entry_bears_the_actor_of_its_own_transaction(
    server: TestServer,
    database: Database,
    note: Connection,
    server_folder: Path,
    pooler: Callable[[TestServer, Database, Path], AbstractContextManager[Pool]],
) -> None:
    start = Barrier(CLIENTS, timeout=60)
    with pooler(server, database, server_folder) as pool, ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(lambda client: work(pool, f"user-{client}", start), range(CLIENTS)))
    entries = trail(note, "after ->> 'text', actor_id")
    assert sorted(text for text, _ in entries) == WRITTEN
    assert [(text, who) for text, who in entries if text.split()[0] != who] == []
    backends = defaultdict(set)
    for backend, client in note.execute("select backend, substring(text from 'user-.') from note").fetchall():
        backends[backend].add(client)
    assert len(backends) == SERVER_CONNECTIONS
    assert all(len(clients) > 1 for clients in backends.values())


def work_with_sqlalchemy(engine: sqlalchemy.Engine, client: str) -> None:
    for n in range(ROUNDS):
        with engine.connect() as connection:
            with actor(connection, client):
                connection.exec_driver_sql(INSERT, (f"{client} {n}.0",))
                connection.commit()
                with connection.begin_nested():
                    connection.exec_driver_sql(INSERT, (f"{client} {n}.1",))
            connection.exec_driver_sql(INSERT, (f"system {client} {n}.2",))
            connection.commit()
            # What is not committed goes when the connection goes back to its pool.
            with actor(connection, client):
                connection.exec_driver_sql(INSERT, (f"nobody {client} {n}.3",))
        with engine.begin() as connection:
            connection.exec_driver_sql(INSERT, (f"system {client} {n}.4",))


def test_each_connection_of_sqlalchemy_s_pool_has_the_actor_of_its_transaction(
    database: Database, note: Connection
) -> None:
    engine = sqlalchemy_engine(database)
    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(lambda client: work_with_sqlalchemy(engine, f"user-{client}"), range(CLIENTS)))
    engine.dispose()
    left = ["{client} {n}.0", "{client} {n}.1", "system {client} {n}.2", "system {client} {n}.4"]
    entries = trail(note, "after ->> 'text', actor_id")
    assert sorted(text for text, _ in entries) == sorted(
        text.format(client=f"user-{client}", n=n) for client in range(CLIENTS) for n in range(ROUNDS) for text in left
    )
    assert [(text, who) for text, who in entries if text.split()[0] != who] == []


# What is set for a session is the pooler's, not the client's.


def set_for_the_session_and_written_by_another(pooler: str, database: Database) -> None:
    with through(pooler, database, autocommit=True) as ada, through(pooler, database, autocommit=True) as other:
        ada.execute("set audit.actor_id = 'ada'")
        other.execute(INSERT, ["by another client, who named nobody"])
        other.execute("select audit.set_actor('grace')")
        other.execute(INSERT, ["by another client, whose set_actor ended with its own statement"])


def test_an_actor_set_for_a_session_becomes_the_next_clients(
    server: TestServer, database: Database, note: Connection, server_folder: Path
) -> None:
    with pgbouncer(server, server_folder, size=1) as pooler:
        set_for_the_session_and_written_by_another(pooler, database)
    assert trail(note, "actor_id, after ->> 'text'") == [
        ("ada", "by another client, who named nobody"),
        ("ada", "by another client, whose set_actor ended with its own statement"),
    ]


def test_a_pooler_that_resets_after_each_transaction_lets_no_session_s_actor_pass(
    server: TestServer, database: Database, note: Connection, server_folder: Path
) -> None:
    reset: dict[str, str | int] = {"server_reset_query": "RESET ALL", "server_reset_query_always": 1}
    with pgbouncer(server, server_folder, size=1, **reset) as pooler:
        set_for_the_session_and_written_by_another(pooler, database)
    assert trail(note, "actor_id, after ->> 'text'") == [
        ("system", "by another client, who named nobody"),
        ("system", "by another client, whose set_actor ended with its own statement"),
    ]


def test_an_actor_of_the_login_s_own_stands_in_every_pooled_session(
    server: TestServer, database: Database, note: Connection, server_folder: Path
) -> None:
    note.execute(f"alter role postgres in database {database.name} set audit.actor_id = 'importer'".encode())
    with pgbouncer(server, server_folder) as pooler, through(pooler, database) as client:
        with_set_actor(client, "ada", "1")
        client.execute(INSERT, ["2"])
    assert trail(note, "actor_id, after ->> 'text'") == [("ada", "ada 1"), ("importer", "2")]
