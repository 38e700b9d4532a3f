"""Exports: all entries that meet the filters, in one snapshot, recorded before the first byte, known when cut short.

It must not repeat what the lists' filters do; test_notification.py does.
"""

import asyncio
import csv
import gzip
import hashlib
import io
import json
import signal
import socket
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daybook import database as databases
from daybook import queries
from daybook.errors import Unreadable
from daybook.exports import takes_gzip
from tests.conftest import Database, TestServer
from tests.exporting import (
    CSV,
    NDJSON,
    add_entries,
    add_entries_like,
    exported,
    let_exports_sleep,
    wait_for_a_sleeping_export,
    wait_for_no_export,
)
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
    shared_database,
    today,
)
from tests.serving import AUTHORIZATION, head, opened_connection, sent, served

Connection = psycopg.Connection[Any]

UNREADABLE = '{"detail":"The log cannot be read at the moment. Please try again."}'


@pytest.fixture
def api(database: Database, db: Connection) -> Iterator[Client]:
    add_keys(db)
    with opened(database) as client:
        yield client


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


LARGE = {"text": 'ä€😀 "quoted", \\ and\nbroken' * 9, "size": 1.50}


def add_large(db: Connection) -> None:
    """Put entries with values larger than a few bytes into the log: of one row, of several, some without a key."""
    add_entry(db, today(hours=-1), before=LARGE, after=LARGE | {"size": 2})
    add_entry(db, today(hours=-2), before=None, after=LARGE)
    add_entry(db, today(hours=-3), before={"a": 1}, after=LARGE)
    bulk = add_entry(db, today(hours=-4), row_count=5, resource_id=None)
    add_changes(db, bulk, range(1, 3))
    db.execute(
        """
        insert into audit.change (entry_id, created_at, workspace_id, before, after)
        select id, created_at, workspace_id, jsonb_build_object('n', n, 'text', repeat('é"', 50)), null
        from audit.entry, generate_series(1, 3) n where id = %s""",
        [bulk],
    )


def test_a_value_of_any_size_is_exported_as_the_list_writes_it(
    api: Client, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_large(db)
    listed = api.get(WORKSPACE + "?expand=changes,context", headers=AS_ADMIN).json()["results"]
    monkeypatch.setattr(queries, "LARGEST_AT_ONCE", 20)
    monkeypatch.setattr(queries, "PIECE", 7)
    *lines, manifest = api.get(NDJSON + "?expand=changes,context", headers=AS_ADMIN).content.splitlines(keepends=True)
    assert [json.loads(line) for line in lines] == listed
    assert [len(line["changes"]["rows"]) for line in listed] == [1, 1, 1, 5]
    assert json.loads(manifest)["manifest"]["sha256"] == hashlib.sha256(b"".join(lines)).hexdigest()


def test_a_large_value_is_never_held_whole(api: Client, db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = queries._read_large

    async def measured(connection: Any, large: Any) -> Any:
        async for piece in whole(connection, large):
            read.append(len(piece))
            yield piece

    monkeypatch.setattr(queries, "_read_large", measured)
    entry = add_entry(db, after={"text": ""})
    db.execute("alter table audit.entry disable trigger user")
    db.execute("update audit.entry set after = jsonb_build_object('text', repeat('x', 1000000)) where id = %s", [entry])
    line = api.get(NDJSON + "?expand=changes", headers=AS_ADMIN).text.splitlines()[0]
    assert json.loads(line)["changes"]["rows"][0]["after"] == {"text": "x" * 1_000_000}
    assert read == [262_144, 262_144, 262_144, 213_580]


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


def test_a_csv_holds_values_of_any_size(api: Client, db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    add_large(db)
    at_once = api.get(CSV, headers=AS_ADMIN).content
    monkeypatch.setattr(queries, "LARGEST_AT_ONCE", 20)
    monkeypatch.setattr(queries, "PIECE", 7)
    in_pieces = api.get(CSV, headers=AS_ADMIN)
    rows = list(csv.DictReader(io.StringIO(in_pieces.text, newline="")))
    assert in_pieces.content == at_once
    assert [json.loads(row["after"] or "null") for row in rows] == [LARGE | {"size": 2}, LARGE, LARGE, None]


# gzip


@pytest.mark.parametrize("path", [NDJSON, CSV])
def test_an_export_is_compressed_when_asked(api: Client, db: Connection, path: str) -> None:
    add_entries(db, 300)
    plain = api.get(path, headers=AS_ADMIN | {"Accept-Encoding": "identity"})
    with api.stream("GET", path, headers=AS_ADMIN | {"Accept-Encoding": "gzip"}) as answer:
        compressed = b"".join(answer.iter_raw())
    assert gzip.decompress(compressed) == plain.content
    assert len(compressed) * 3 < len(plain.content)
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert ("Content-Encoding" in plain.headers, plain.headers["Vary"]) == (False, "Accept-Encoding")
    assert answer.headers["Content-Type"] == plain.headers["Content-Type"]


def test_a_head_says_that_an_export_would_be_compressed(api: Client) -> None:
    answer = api.head(NDJSON, headers=AS_ADMIN | {"Accept-Encoding": "gzip"})
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == ("gzip", "Accept-Encoding")


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ([], False),
        ([""], False),
        (["gzip"], True),
        (["GZip"], True),
        (["x-gzip"], True),
        (["deflate, br"], False),
        (["deflate, gzip;q=1.0, *;q=0.5"], True),
        (["br;q=1.0 , gzip ; q=0.2"], True),
        (["br", "gzip"], True),
        (["gzip;q=0"], False),
        (["gzip;q=0.000, *"], False),
        (["*"], True),
        (["*;q=0"], False),
        (["identity"], False),
        (["identity, gzip;q=0.5"], False),
        (["identity;q=0.5, gzip;q=0.5"], True),
        (["identity;q=0, *"], True),
        (["gzip;q=0.5, *"], False),
        (["gzip;q=x"], False),
        (["gzip;q=1.1"], False),
        (["gzip;level=9"], False),
        (["gzipped"], False),
        (["g\xff, gzip"], True),
    ],
)
def test_a_client_asks_for_gzip_by_weights(accepted: list[str], compressed: bool) -> None:
    headers = [(b"Accept-Encoding", value.encode("latin-1")) for value in accepted]
    assert takes_gzip([(b"accept", b"gzip"), *headers]) == compressed


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

    def breaking(*_: object) -> None:
        db.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where query like 'FETCH%'")

    monkeypatch.setattr(queries, "_mark_large", breaking)
    text = api.get(NDJSON + "?expand=changes", headers=AS_ADMIN).text
    assert "manifest" not in text
    assert exported(db) != []


@pytest.fixture(scope="module")
def long(server: TestServer) -> Iterator[tuple[Connection, subprocess.Popen[str], int]]:
    """A server over a log that no socket's buffers hold, even compressed: superuser's connection, process, port."""
    with shared_database(server) as database:
        db = database.connect()
        add_keys(db)
        # Half a megabyte that does not compress by what came before it.
        value = "select jsonb_build_object('text', string_agg(md5(n::text), '')) from generate_series(1, 16000) n"
        row = db.execute(value.encode()).fetchone()
        assert row is not None
        add_entry(db, after=row[0])
        add_entries_like(db, 60)
        with served(database) as (process, port):
            yield db, process, port


WAYS = [(NDJSON + "?expand=changes", ""), (CSV, ""), (NDJSON + "?expand=changes", "gzip")]


@pytest.mark.parametrize(("path", "coding"), WAYS)
def test_an_export_cut_short_lacks_the_last_chunk_and_what_a_whole_one_ends_with(
    long: tuple[Connection, subprocess.Popen[str], int], path: str, coding: str
) -> None:
    db, _, port = long
    with opened_connection(port) as client:
        client.sendall(head("GET", path, AUTHORIZATION, f"Accept-Encoding: {coding}"))
        with client.makefile("rb") as coming:
            answer = coming.read(1_000_000)
            db.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and application_name = 'daybook serve' and xact_start is not null"
            )
            answer += coming.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not answer.endswith(b"\r\n0\r\n\r\n")
    assert b'{"manifest":' not in answer
    stream = zlib.decompressobj(wbits=31)
    assert not coding or (stream.decompress(unchunked(answer)) and not stream.eof)


@pytest.mark.parametrize(("path", "coding"), WAYS)
def test_a_whole_export_ends_with_the_last_chunk(
    long: tuple[Connection, subprocess.Popen[str], int], path: str, coding: str
) -> None:
    _, _, port = long
    with opened_connection(port) as client:
        client.sendall(head("GET", path, AUTHORIZATION, f"Accept-Encoding: {coding}"))
        with client.makefile("rb") as rest:
            answer = rest.read()
    stream = zlib.decompressobj(wbits=31)
    body = stream.decompress(unchunked(answer)) if coding else unchunked(answer)
    assert answer.endswith(b"\r\n0\r\n\r\n")
    assert stream.eof == bool(coding)
    assert len(body) > 30_000_000


def test_values_of_fifty_megabytes_take_a_server_less_than_a_hundred(database: Database, db: Connection) -> None:
    add_keys(db)
    add_entry(db)
    bulk = add_entry(db, row_count=2, resource_id=None)
    db.execute(
        """
        insert into audit.change (entry_id, created_at, workspace_id, resource_id, after)
        select id, created_at, workspace_id, '1', jsonb_build_object('text', repeat('x', 50000000))
        from audit.entry where id = %s""",
        [bulk],
    )
    with db.transaction():
        db.execute("set local session_replication_role = replica")
        large = "jsonb_build_object('text', repeat('x', 50000000))"
        db.execute(f"update audit.entry set after = {large} where row_count = 1".encode())
    with served(database) as (process, port):
        sent(port, head("GET", WORKSPACE, AUTHORIZATION))
        before = peak_memory(process)
        assert count_bytes(port, NDJSON + "?expand=changes") > 100_000_000
        assert peak_memory(process) - before < 100 * 1024 * 1024


def peak_memory(process: subprocess.Popen[str]) -> int:
    """The most bytes that a process has held in memory (proc(5), VmHWM)."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


def count_bytes(port: int, path: str) -> int:
    """The length of an answer that need not fit into memory."""
    length = 0
    with opened_connection(port) as client:
        client.sendall(head("GET", path, AUTHORIZATION))
        while piece := client.recv(1_000_000):
            length += len(piece)
    return length


def unchunked(answer: bytes) -> bytes:
    """The body of an answer as far as it came (RFC 9112, 7.1)."""
    rest = answer.partition(b"\r\n\r\n")[2]
    body = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(body)


def test_an_export_that_broke_off_is_one_line_in_the_server_s_log(database: Database, db: Connection) -> None:
    add_keys(db)
    add_entry(db)
    let_exports_sleep(db)
    with served(database, DAYBOOK_STATEMENT_TIMEOUT="10min") as (process, port):
        with opened_connection(port) as client:
            client.sendall(head("GET", NDJSON, AUTHORIZATION))
            backend = wait_for_a_sleeping_export(db)
            db.execute("select pg_terminate_backend(%s, 5000)", [backend])
            client.makefile("rb").read()
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read() == "exporting failed: AdminShutdown 57P01\n"


def test_a_server_that_stops_ends_its_exports_without_a_word(database: Database, db: Connection) -> None:
    add_keys(db)
    add_entry(db)
    let_exports_sleep(db)
    with served(database, bounds={"LAST_PATIENCE": 0.2}, DAYBOOK_STATEMENT_TIMEOUT="10min") as (process, port):
        with opened_connection(port) as client:
            client.sendall(head("GET", NDJSON, AUTHORIZATION))
            wait_for_a_sleeping_export(db)
            process.send_signal(signal.SIGTERM)
            # Nothing follows on the head: the connection was reset, or ended, without a last chunk.
            assert not answer_until_lost(client).endswith(b"0\r\n\r\n")
        assert process.wait(20) == 0
        wait_for_no_export(db)
        assert process.stderr is not None
        assert process.stderr.read() == ""


def answer_until_lost(client: socket.socket) -> bytes:
    """What comes until the connection ends, in whatever way."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(65_536):
            answer += piece
    return answer


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_client_that_goes_away_ends_the_query_and_is_not_worth_a_word(
    database: Database, db: Connection, coding: str
) -> None:
    add_keys(db)
    add_entry(db)
    let_exports_sleep(db)
    # So that no time-out ends it.
    with served(database, DAYBOOK_STATEMENT_TIMEOUT="10min") as (process, port):
        with opened_connection(port) as leaving:
            leaving.sendall(head("GET", NDJSON + "?expand=changes", AUTHORIZATION, f"Accept-Encoding: {coding}"))
            backend = wait_for_a_sleeping_export(db)
        wait_for_no_export(db)
        assert db.execute("select from pg_stat_activity where pid = %s", [backend]).rowcount == 0
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read() == ""
