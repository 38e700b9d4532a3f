"""Exports: all entries that meet the filters, in one snapshot, recorded before the first byte, known when cut short.

It must not repeat what the lists' filters do; test_notification.py does.
"""

import asyncio
import csv
import hashlib
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from daybook import database as databases
from daybook import queries
from daybook.errors import Unreadable
from tests.conftest import Database
from tests.reading import (
    AS_ADMIN,
    AS_MEMBER,
    AS_STRANGER,
    ENTRY,
    WORKSPACE,
    Client,
    add_changes,
    add_entry,
    add_keys,
    opened,
    today,
)
from tests.serving import AUTHORIZATION, head, opened_connection, served

Connection = psycopg.Connection[Any]

NDJSON = "/api/v1/notification/export.ndjson"
CSV = "/api/v1/notification/export.csv"
UNREADABLE = '{"detail":"The log cannot be read at the moment. Please try again."}'


@pytest.fixture
def api(database: Database, db: Connection) -> Iterator[Client]:
    add_keys(db)
    with opened(database) as client:
        yield client


def exported(db: Connection) -> list[Any]:
    """The details of the log_exported entries, with the workspace and the key of each."""
    query = "select workspace_id, actor_id, context -> 'details' from audit.entry where event = 'log_exported'"
    return db.execute(query).fetchall()


def add_entries(db: Connection, count: int) -> None:
    """Put many entries into the log, copies of one."""
    add_entry(db, after={"text": "x" * 300})
    columns = (
        "workspace_id, event, operation, resource_type, actor_type, actor_id, actor_name, row_count, database_user"
    )
    db.execute(
        f"""
        insert into audit.entry (id, created_at, transaction_id, after, {columns})
        select audit.new_entry_id(created_at), created_at, transaction_id, after, {columns}
        from audit.entry, generate_series(2, %s)""".encode(),
        [count],
    )


def wait_for_no_export(db: Connection) -> None:
    """Return once no connection of the app is in a transaction."""
    busy = """
        select from pg_stat_activity
        where datname = current_database() and application_name = 'daybook serve' and state <> 'idle'"""
    deadline = time.monotonic() + 10
    while db.execute(busy).rowcount:
        assert time.monotonic() < deadline, "an export goes on"
        time.sleep(0.01)


# NDJSON


def test_an_export_holds_every_entry_as_the_list_writes_it(api: Client, db: Connection) -> None:
    [add_entry(db, today(hours=-1, seconds=second), after={"size": 1.50}) for second in range(3)]
    listed = api.get(WORKSPACE, params={"expand": "changes,actor"}, headers=AS_ADMIN).json()["results"]
    answer = api.get(NDJSON, params={"expand": "changes,actor"}, headers=AS_ADMIN)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert (answer.status_code, lines[:-1]) == (200, listed)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="audit-log.ndjson"'
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_last_line_says_how_many_and_their_digest(api: Client, db: Connection) -> None:
    [add_entry(db) for _ in range(3)]
    *lines, manifest = api.get(NDJSON, headers=AS_ADMIN).content.splitlines(keepends=True)
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    assert json.loads(manifest) == {"manifest": {"entries": 3, "sha256": digest}}


def test_an_empty_export_is_a_manifest_alone(api: Client) -> None:
    empty = hashlib.sha256().hexdigest()
    assert api.get(NDJSON, headers=AS_ADMIN).json() == {"manifest": {"entries": 0, "sha256": empty}}


def test_an_export_of_several_batches_is_whole(api: Client, db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "EXPORTED_AT_ONCE", 2)
    entries = [add_entry(db, today(hours=-1, seconds=second)) for second in range(5)]
    add_changes(db, add_entry(db, today(hours=-2), row_count=2, resource_id=None), range(1, 3))
    lines = [json.loads(line) for line in api.get(NDJSON + "?expand=changes", headers=AS_ADMIN).text.splitlines()]
    assert [line["id"] for line in lines[:5]] == entries[::-1]
    assert [row["after"] for row in lines[5]["changes"]["rows"]] == [{"size": 2}, {"size": 3}]


# CSV


def test_a_csv_has_a_header_and_a_line_for_each_entry(api: Client, db: Connection) -> None:
    entry = add_entry(
        db,
        today(hours=-1),
        resource_name='He said "no",\nand left',
        before={"size": 1.50},
        after={"size": None},
        context={"reason": "as asked", "ip": "10.1.2.3"},
    )
    answer = api.get(CSV, headers=AS_ADMIN)
    assert answer.headers["Content-Type"] == "text/csv; header=present; charset=utf-8"
    assert answer.content.endswith(b"\r\n")
    [row] = csv.DictReader(io.StringIO(answer.text, newline=""))
    assert row == {
        "id": entry,
        "created_at": today(hours=-1).isoformat().replace("+00:00", "Z"),
        "event": "resource_updated",
        "operation": "UPDATE",
        "resource_type": "document",
        "resource_id": "1",
        "resource_name": 'He said "no",\nand left',
        "row_key": "",
        "row_count": "1",
        "before": '{"size": 1.5}',
        "after": '{"size": null}',
        "performer_id": "42",
        "performer_name": "Ada Lovelace",
        "actor_type": "user",
        "request_id": "",
        "reason": "as asked",
        "ip": "10.1.2.3",
        "subject": "",
        "database_user": "app",
        "table_schema": "public",
        "table_name": "document",
    }


@pytest.mark.parametrize("beginning", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_what_a_spreadsheet_would_compute_is_text(api: Client, db: Connection, beginning: str) -> None:
    add_entry(db, resource_name=f"{beginning}HYPERLINK(1)", context={"reason": f"{beginning}1"})
    [row] = csv.DictReader(io.StringIO(api.get(CSV, headers=AS_ADMIN).text, newline=""))
    assert (row["resource_name"], row["reason"]) == (f"'{beginning}HYPERLINK(1)", f"'{beginning}1")


# What is recorded


@pytest.mark.parametrize("path", [NDJSON, CSV])
def test_each_export_is_recorded_with_its_filter_and_count(api: Client, db: Connection, path: str) -> None:
    [add_entry(db, event=event) for event in ("role_assigned", "role_assigned", "resource_updated")]
    [api.get(path + "?event=role_*&days=7&page=2&secret=x&expand=actor", headers=AS_ADMIN) for _ in range(2)]
    details = {"filter": {"event": ["role_*"], "days": ["7"]}, "row_count": 2}
    assert exported(db) == [("acme", "aaaaaaaa", details)] * 2
    assert db.execute("select count(*) from audit.entry where event = 'log_viewed'").fetchone() == (1,)


@pytest.mark.parametrize("path", [NDJSON, CSV])
def test_an_export_that_cannot_be_recorded_is_refused(api: Client, db: Connection, path: str) -> None:
    add_entry(db)
    db.execute("revoke execute on function audit.note_export(audit.reader, jsonb, bigint) from audit_reader")
    answer = api.get(path, headers=AS_ADMIN)
    assert (answer.status_code, answer.text) == (503, UNREADABLE)


@pytest.mark.parametrize("path", [NDJSON, CSV])
@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [("", {}, 401), ("", AS_MEMBER, 403), ("?days=x", AS_ADMIN, 400), ("?event=!", AS_ADMIN, 400)],
)
def test_what_is_refused_is_no_export(
    api: Client, db: Connection, path: str, query: str, headers: dict[str, str], status: int
) -> None:
    assert (api.get(path + query, headers=headers).status_code, exported(db)) == (status, [])


def test_a_head_exports_nothing(api: Client, db: Connection) -> None:
    add_entry(db)
    answer = api.head(CSV, headers=AS_ADMIN)
    assert (answer.status_code, answer.content, exported(db)) == (200, b"", [])


@pytest.mark.parametrize("path", [NDJSON, CSV])
def test_a_write_to_an_export_is_refused(api: Client, path: str) -> None:
    assert api.post(path, headers=AS_ADMIN).status_code == 403


# What it is not


@pytest.mark.parametrize("path", [NDJSON, CSV])
def test_another_workspace_s_entries_are_not_exported(api: Client, db: Connection, path: str) -> None:
    entry = add_entry(db)
    text = api.get(path, headers=AS_STRANGER).text
    assert (entry in text, exported(db)[0][2]["row_count"]) == (False, 0)


def test_one_export_too_many_is_told_to_come_later(
    database: Database, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "MOST_EXPORTS", 0)
    add_keys(db)
    with opened(database) as api:
        answer = api.get(NDJSON, headers=AS_ADMIN)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.text == '{"detail":"Too many exports are running. Please try again later."}'


def test_one_workspace_cannot_take_all_exports(database: Database) -> None:
    app = databases.Database(database.url("reader"), pool_size=1, patience=5, statement_timeout=5)

    async def export() -> None:
        async with app.exporting("acme"), app.exporting("acme"), app.exporting("globex"):
            with pytest.raises(Unreadable, match="Too many exports are running"):
                await app.exporting("acme").__aenter__()
            async with app.exporting("globex"):
                pass

    asyncio.run(export())


def test_an_export_that_ended_counts_no_more(database: Database, db: Connection) -> None:
    add_keys(db)
    with opened(database) as api:
        answers = [api.get(NDJSON, headers=AS_ADMIN).status_code for _ in range(databases.MOST_EXPORTS + 1)]
    assert answers == [200] * (databases.MOST_EXPORTS + 1)


def test_an_export_takes_no_connection_from_other_readers(database: Database, db: Connection) -> None:
    add_keys(db)
    add_entry(db)
    with opened(database, pool_size=1) as api:
        answers = [api.get(path, headers=AS_ADMIN).status_code for path in (NDJSON, WORKSPACE, CSV, ENTRY + "x/")]
    assert answers == [200, 200, 200, 404]


def test_an_export_that_breaks_off_has_no_manifest(
    api: Client, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "EXPORTED_AT_ONCE", 1)
    [add_entry(db, today(hours=-1, seconds=second)) for second in range(2)]
    whole = queries._first_changes

    async def breaking(connection: Any, rows: Any) -> Any:
        db.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where query like 'FETCH%'")
        return await whole(connection, rows)

    monkeypatch.setattr(queries, "_first_changes", breaking)
    text = api.get(NDJSON + "?expand=changes", headers=AS_ADMIN).text
    assert "manifest" not in text
    assert exported(db) != []


def test_a_client_that_goes_away_frees_the_connection_and_is_not_worth_a_word(
    database: Database, db: Connection
) -> None:
    add_keys(db)
    add_entries(db, 20_000)
    with served(database) as (process, port):
        with opened_connection(port) as leaving:
            leaving.sendall(head("GET", NDJSON + "?expand=changes", AUTHORIZATION))
            assert leaving.recv(15) == b"HTTP/1.1 200 OK"
        wait_for_no_export(db)
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read() == ""
