"""What tests of the app share: a client of the real application, keys, and entries put where a test wants them.

It must not hold an expectation.
"""

import hashlib
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
from litestar import Litestar
from litestar.testing import TestClient
from psycopg import sql
from psycopg.types.json import Jsonb

from daybook.app import create_app
from daybook.settings import Settings
from tests.conftest import Database, TestServer

WORKSPACE = "/api/v1/notification/workspace/"
RESOURCE = "/api/v1/notification/resource/"
ENTRY = "/api/v1/notification/entry/"
PAGE = "/settings/audit-log"

Client = TestClient[Litestar]


def key_for(letter: str) -> str:
    """A key of the right form made of one letter."""
    return "daybook_" + letter * 43


# The keys that `add_keys` stores: three of workspace acme, an administrator's of workspace globex.
ADMIN, AUDITOR, MEMBER, STRANGER = key_for("a"), key_for("b"), key_for("m"), key_for("s")
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
AS_AUDITOR = {"Authorization": f"Bearer {AUDITOR}"}
AS_MEMBER = {"Authorization": f"Bearer {MEMBER}"}
AS_STRANGER = {"Authorization": f"Bearer {STRANGER}"}


def add_key(
    db: psycopg.Connection[Any], key: str, workspace: str, role: str, expires_at: datetime | None = None
) -> None:
    """Store a key without an entry of its own, so that a workspace starts empty."""
    db.execute(
        "insert into audit.api_key (prefix, digest, workspace_id, name, role, expires_at)"
        " values (%s, %s, %s, %s, %s, %s)",
        [key[8:16], hashlib.sha256(key.encode()).digest(), workspace, f"{role}'s key", role, expires_at],
    )


def add_keys(db: psycopg.Connection[Any]) -> None:
    """Store the four keys, with a session of the page for each."""
    add_key(db, ADMIN, "acme", "admin")
    add_key(db, AUDITOR, "acme", "auditor")
    add_key(db, MEMBER, "acme", "member")
    add_key(db, STRANGER, "globex", "admin")
    for letter in "abms":
        add_session(db, letter)


def add_session(db: psycopg.Connection[Any], letter: str) -> None:
    """Sign somebody in with the key of this letter; the cookie is made of the letter too."""
    db.execute(
        "insert into audit.page_session (prefix, digest, key_prefix, ends_at) values (%s, %s, %s, now() + '1 hour')",
        [letter * 8, hashlib.sha256((letter * 43).encode()).digest(), letter * 8],
    )


def signed_in(letter: str) -> dict[str, str]:
    """The header by which a browser is signed in with the key of this letter."""
    return {"Cookie": f"daybook_session={letter * 43}"}


def today(hours: float = 0, **time: int) -> datetime:
    """A moment counted from the last midnight (UTC), which entries can be written at whatever the time is."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(hours=hours, **time)


def add_entry(db: psycopg.Connection[Any], moment: datetime | None = None, **columns: Any) -> str:
    """Put an entry of workspace acme into the log and return its id; the day is made when it is missing."""
    row: dict[str, Any] = {
        "created_at": moment or today(hours=-1),
        "workspace_id": "acme",
        "event": "resource_updated",
        "operation": "UPDATE",
        "table_schema": "public",
        "table_name": "document",
        "resource_type": "document",
        "resource_id": "1",
        "actor_type": "user",
        "actor_id": "42",
        "actor_name": "Ada Lovelace",
        "row_count": 1,
        "database_user": "app",
        **{name: Jsonb(value) if isinstance(value, dict) else value for name, value in columns.items()},
    }
    db.execute("select audit.create_day(audit.utc_day(%s))", [row["created_at"]])
    names = ", ".join(row)
    values = ", ".join(f"%({name})s" for name in row)
    added = db.execute(
        f"insert into audit.entry (id, transaction_id, {names})"
        f" values (audit.new_entry_id(%(created_at)s), '1234', {values}) returning id",
        row,
    )
    return str(added.fetchone()[0])  # type: ignore[index]


def add_changes(db: psycopg.Connection[Any], entry_id: str, numbers: range) -> None:
    """Put rows of a bulk entry into the log, one for each number."""
    db.execute(
        """
        insert into audit.change (entry_id, created_at, workspace_id, resource_id, resource_name, before, after)
        select e.id, e.created_at, e.workspace_id, n::text, 'Document ' || n,
               jsonb_build_object('size', n), jsonb_build_object('size', n + 1)
        from audit.entry e, generate_series(%s::integer, %s::integer) n
        where e.id = %s""",
        [numbers.start, numbers.stop - 1, entry_id],
    )


def settings_for(database: Database, user: str = "reader", **values: Any) -> Settings:
    """Settings for the app on a test's database."""
    return Settings(database_url=database.url(user), **{"pool_size": 2, "pool_timeout": 3.0, **values})


@contextmanager
def shared_database(server: TestServer) -> Iterator[Database]:
    """A database for many tests that only read it."""
    name = f"reading_{uuid.uuid4().hex}"
    database = Database(server, name)
    template = Database(server, server.maintenance_dbname).connect()
    template.execute(
        sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(server.template_dbname))
    )
    template.close()
    yield database
    database.close()


@contextmanager
def opened(database: Database, user: str = "reader", **values: Any) -> Iterator[Client]:
    """A client of the real application, which runs while the block does."""
    app = create_app(settings_for(database, user, **values))
    with TestClient(app, base_url="http://log.example", raise_server_exceptions=False) as client:
        client.follow_redirects = False
        yield client


def wait_for_a_waiting_read(db: psycopg.Connection[Any]) -> None:
    """Return once a read of the app waits for a lock."""
    waiting = """
        select from pg_stat_activity
        where datname = current_database() and application_name = 'daybook serve' and wait_event_type = 'Lock'"""
    deadline = time.monotonic() + 10
    while not db.execute(waiting).rowcount:
        assert time.monotonic() < deadline, "no read waits"
        time.sleep(0.01)


def wait_for_an_answer(client: Client, path: str, headers: dict[str, str]) -> httpx.Response:
    """The first answer that is not 503, for ten seconds."""
    deadline = time.monotonic() + 10
    while (answer := client.get(path, headers=headers)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer
