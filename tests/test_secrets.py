"""Secrets: keys, sessions and passwords stand in no log, process list, address, error text, setting or file.

It must not weaken what it looks at: the server of these tests logs all that it can.
"""

import asyncio
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daybook.credentials import key_secret
from daybook.database import Database as AppDatabase
from daybook.settings import Settings
from tests.conftest import REPOSITORY, Database
from tests.reading import (
    ADMIN,
    AS_ADMIN,
    ENTRY,
    PAGE,
    RESOURCE,
    WORKSPACE,
    Client,
    add_entry,
    add_keys,
    key_for,
    opened,
    signed_in,
    wait_for_a_waiting_read,
)
from tests.serving import AUTHORIZATION, head, sent

Connection = psycopg.Connection[Any]

PASSWORD = "pass-word-of-the-database"
SOUGHT = "person-who-is-looked-for"
SESSION = "a" * 43
DIGEST = key_secret(ADMIN).digest.hex()
# Of the key and the session what is no prefix, and no other word would hold by chance.
SECRETS = re.compile(f"a{{20}}|u{{20}}|{PASSWORD}|{SOUGHT}|{DIGEST}", re.IGNORECASE)

TALKATIVE = """
import asyncio, logging, sys
logging.basicConfig(level=1, format="%(name)s %(levelname)s %(message)s %(pathname)s")
import uvicorn
configure = uvicorn.Config.__init__
def talk(self, *arguments, **options):
    configure(self, *arguments, **{**options, "log_level": "debug", "log_config": None})
uvicorn.Config.__init__ = talk
from daybook.app import serve
from daybook.settings import Settings
settings = Settings.from_environment()
print(repr(settings), file=sys.stderr)
serve(settings, "127.0.0.1", 0, lambda: print("ready", flush=True))
"""


@pytest.fixture
def api(database: Database, db: Connection) -> Iterator[Client]:
    add_keys(db)
    add_entry(db)
    with opened(database) as client:
        yield client


def test_what_the_app_logs_at_its_most_talkative_holds_no_secret(database: Database, db: Connection) -> None:
    add_keys(db)
    add_entry(db)
    program = TALKATIVE.replace('"127.0.0.1", 0', '"127.0.0.1", int(sys.argv[1])')
    port = free_port()
    url = database.url("reader").replace("reader@", f"reader:{PASSWORD}@")
    environment = {"PYTHONPATH": "api", "PYTHONASYNCIODEBUG": "1", "DAYBOOK_DATABASE_URL": url}
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", program, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        cookie = f"Cookie: daybook_session={SESSION}"
        form = f"key={ADMIN}".encode()
        statuses = [
            sent(port, request)[9:12]
            for request in (
                head("GET", f"{WORKSPACE}?performer_id={SOUGHT}", AUTHORIZATION),
                head("GET", f"{WORKSPACE}?days={SOUGHT}", AUTHORIZATION),
                head("GET", WORKSPACE, f"Authorization: Bearer {key_for('u')}"),
                head("GET", WORKSPACE, f"Authorization: {key_for('u')}"),
                head("POST", WORKSPACE, AUTHORIZATION),
                head("GET", f"{RESOURCE}?resource_id={SOUGHT}", AUTHORIZATION),
                head("GET", f"/api/v1/notification/export.csv?request_id={SOUGHT}", AUTHORIZATION),
                head("GET", f"{PAGE}?user={SOUGHT}", cookie),
                head("POST", f"{PAGE}/sign-in", f"Content-Length: {len(form)}") + form,
                head("POST", f"{PAGE}/sign-out", cookie),
                head("GET", f"{ENTRY}{SOUGHT}/", AUTHORIZATION),
            )
        ]
        db.execute("alter view audit.timeline rename to timeline_of_old")
        statuses.append(sent(port, head("GET", f"{WORKSPACE}?performer_id={SOUGHT}", AUTHORIZATION))[9:12])
        db.execute("revoke audit_reader from reader")
        db.execute("revoke execute on function audit.find_key(text, bytea) from audit_reader")
        statuses.append(sent(port, head("GET", f"{WORKSPACE}?performer_id={SOUGHT}", AUTHORIZATION))[9:12])
        db.execute("grant audit_reader to reader")
        process.terminate()
        output, log = process.communicate(timeout=30)
    assert statuses == ["200", "400", "401", "401", "403", "200", "200", "200", "303", "303", "404", "500", "500"]
    # It did talk: of its own, and of the server's and the driver's doings.
    assert re.findall("^daybook ERROR", log, re.M) == ["daybook ERROR", "daybook ERROR"]
    assert {"uvicorn.error", "daybook"} <= set(re.findall("^([a-z.]+) [A-Z]+ ", log, re.M))
    assert SECRETS.findall(output + log) == []


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def command_line(process: int) -> bytes:
    """What the process list shows of a process, once it runs its program."""
    deadline = time.monotonic() + 10
    while b"daybook" not in (listed := Path(f"/proc/{process}/cmdline").read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return listed


def test_the_process_list_shows_neither_the_password_nor_the_database(database: Database) -> None:
    url = database.url("reader").replace("reader@", f"reader:{PASSWORD}@")
    command = [sys.executable, "-m", "daybook", "serve", "--port", str(free_port())]
    with subprocess.Popen(
        command, env={"PYTHONPATH": "api", "DAYBOOK_DATABASE_URL": url}, cwd=REPOSITORY, stderr=subprocess.DEVNULL
    ) as process:
        listed = command_line(process.pid)
        process.terminate()
    assert (b"daybook" in listed, PASSWORD.encode() in listed, database.name.encode() in listed) == (True, False, False)


@pytest.mark.parametrize("address", [f"{WORKSPACE}?performer_id={SOUGHT}", f"{PAGE}?user={SOUGHT}"])
def test_not_even_a_superuser_sees_in_the_server_s_activity_who_asks_for_what(
    database: Database, api: Client, db: Connection, address: str
) -> None:
    api.get(WORKSPACE, headers=AS_ADMIN)
    writer = database.connect(autocommit=False)
    writer.execute("lock table audit.entry in access exclusive mode")
    asking = threading.Thread(target=lambda: api.get(address, headers={**AS_ADMIN, **signed_in("a")}))
    asking.start()
    wait_for_a_waiting_read(db)
    activity = str(db.execute("select * from pg_stat_activity where application_name = 'daybook serve'").fetchall())
    writer.rollback()
    asking.join()
    assert "audit.timeline" in activity
    assert SECRETS.findall(activity) == []


def test_the_settings_of_a_reading_connection_hold_no_secret(database: Database, db: Connection) -> None:
    url = database.url("reader").replace("reader@", f"reader:{PASSWORD}@")

    async def settings() -> str:
        app = AppDatabase(url, pool_size=1, patience=5, statement_timeout=5)
        await app.open()
        async with app.reading("acme") as snapshot:
            shown, files = await snapshot.ask(
                ("select * from pg_settings", {}), ("select current_setting('audit.reader_workspace')", {})
            )
        await app.close()
        return str(shown) + str(files)

    found = asyncio.run(settings())
    assert "acme" in found
    assert SECRETS.findall(found) == []


@pytest.mark.parametrize(
    "address",
    [
        WORKSPACE,
        WORKSPACE + "?days=x",
        WORKSPACE + "?page=0",
        RESOURCE,
        ENTRY + "x/",
        "/nothing",
        PAGE,
        PAGE + "/sign-in",
        PAGE + "/entry/x",
        "/healthz",
        "/schema/openapi.json",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("key", [ADMIN, key_for("u"), "u" * 43, "daybook_" + "u" * 60])
def test_no_answer_repeats_a_key_or_a_session(api: Client, address: str, method: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}", "Cookie": f"daybook_session={key[-43:]}"}
    answer = api.request(method, address, headers=headers)
    assert SECRETS.findall(answer.text + str(answer.headers)) == []


def test_signing_in_puts_the_key_into_no_address_and_no_page(api: Client) -> None:
    form = {"key": ADMIN, "back": "days=7"}
    signed = api.post(PAGE + "/sign-in", data=form)
    refused = api.post(PAGE + "/sign-in", data={"key": key_for("u"), "back": "days=7"})
    asked = api.get(PAGE + "/sign-in?days=7&key=" + ADMIN)
    shown = signed.headers["Location"] + signed.text + refused.text + asked.text
    assert SECRETS.findall(shown) == []
    assert ADMIN[8:] not in signed.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://reader:{PASSWORD}@127.0.0.1:1/app",
        f"postgresql://reader:{PASSWORD}@[::1/app",
        f"host=127.0.0.1 port=x password={PASSWORD}",
        f"postgresql://reader:{PASSWORD}@127.0.0.1/app?sslmode={PASSWORD}",
    ],
)
@pytest.mark.parametrize("command", [["status"], ["serve"], ["key", "list"], ["migrate"], ["maintain"]])
def test_no_command_repeats_the_database_s_password(url: str, command: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "daybook", *command],
        env={"PYTHONPATH": "api", "DAYBOOK_DATABASE_URL": url},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode in (2, 3)
    assert PASSWORD not in run.stdout + run.stderr


def test_what_is_printed_of_the_settings_holds_no_password() -> None:
    assert PASSWORD not in repr(Settings(database_url=f"postgresql://a:{PASSWORD}@b/c", database_password=PASSWORD))


def test_no_file_of_the_repository_holds_a_key_or_a_private_key() -> None:
    paths = subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).splitlines()
    pattern = re.compile(rb"daybook_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])|-----BEGIN [A-Z ]*PRIVATE KEY")
    assert [path for path in paths if pattern.search((REPOSITORY / path).read_bytes())] == []
