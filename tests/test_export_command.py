"""`daybook export`: the bytes of the REST app's exports, whole or not at all, recorded, under the name of who ran it.

It must not repeat what an export holds; test_export.py does.
"""

import csv
import gzip
import io
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psycopg
import pytest

from daybook.commands import EXPORT_HELP, main
from daybook.files import Progress
from daybook.parameters import FILTERS
from tests.conftest import REPOSITORY, Database
from tests.exporting import (
    CSV,
    NDJSON,
    exported,
    let_exports_sleep,
    wait_for_a_sleeping_export,
    wait_for_no_export,
)
from tests.reading import AS_ADMIN, add_changes, add_entry, add_keys, opened, today

Connection = psycopg.Connection[Any]

EXPORT = ["export", "--workspace", "acme"]


@pytest.fixture
def at(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The database that the command is told of."""
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", database.url("reader"))
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", "http://log.example")
    return database


@pytest.fixture
def log(db: Connection) -> Connection:
    """A log of two workspaces, one entry of 25 rows among its own."""
    add_keys(db)
    add_entry(db, today(hours=-1), event="role_assigned", after={"size": 1.50}, resource_name="=1+1")
    add_entry(db, today(hours=-2), request_id="r-1")
    add_changes(db, add_entry(db, today(hours=-3), row_count=25, resource_id=None), range(1, 26))
    add_entry(db, workspace_id="globex", resource_name="of another")
    return db


@contextmanager
def running(
    database: Database, *arguments: str, stdout: int | IO[str] = subprocess.PIPE, room: int = resource.RLIM_INFINITY
) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which ends with the block; no file it writes gets longer than `room`."""

    def prepare() -> None:
        # In the background a shell starts everything with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    environment = {"DAYBOOK_DATABASE_URL": database.url("reader"), "DAYBOOK_STATEMENT_TIMEOUT": "10min"}
    with subprocess.Popen(
        [sys.executable, "-m", "daybook", *EXPORT, *arguments],
        env={**environment, "PYTHONPATH": str(REPOSITORY / "api")},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# What it writes


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (NDJSON, []),
        (NDJSON + "?expand=changes,context", ["--expand", "changes,context"]),
        (NDJSON + "?event=role_*&days=7", ["--event", "role_*", "--days", "7"]),
        (CSV + "?request_id=r-1", ["--format", "csv", "--request-id", "r-1"]),
        (CSV, ["--format", "csv"]),
    ],
)
def test_the_file_holds_what_the_app_sends(
    at: Database, log: Connection, tmp_path: Path, path: str, options: list[str]
) -> None:
    with opened(at) as api:
        sent = api.get(path, headers=AS_ADMIN).content
    assert main([*EXPORT, *options, "--output", str(tmp_path / "log")]) == 0
    assert (tmp_path / "log").read_bytes() == sent
    assert len(sent) > 250


def test_a_compressed_file_holds_the_same(at: Database, log: Connection, tmp_path: Path) -> None:
    assert main([*EXPORT, "--output", str(tmp_path / "log")]) == 0
    assert main([*EXPORT, "--gzip", "--output", str(tmp_path / "log.gz")]) == 0
    assert gzip.decompress((tmp_path / "log.gz").read_bytes()) == (tmp_path / "log").read_bytes()


def test_an_export_stands_alone_on_standard_output(
    at: Database, log: Connection, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([*EXPORT, "--format", "csv"]) == 0
    printed = capfdbinary.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out.decode(), newline="")))
    assert [(row["event"], row["resource_name"], row["row_count"]) for row in rows] == [
        ("role_assigned", "'=1+1", "1"),
        ("resource_updated", "", "1"),
        ("resource_updated", "", "25"),
    ]
    assert printed.err == b"daybook: exported 3 entries of acme\n"


def test_where_an_export_went_is_said(
    at: Database, log: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*EXPORT, "--output", str(tmp_path / "log")])
    assert capsys.readouterr() == ("", f"daybook: exported 3 entries of acme to {tmp_path}/log\n")


# Who exports, and what is recorded


def test_an_export_is_recorded_under_the_database_login(at: Database, log: Connection, tmp_path: Path) -> None:
    main([*EXPORT, "--event", "role_*", "--event", "x", "--days", "7", "--output", str(tmp_path / "log")])
    query = """
        select event, actor_type, actor_id, actor_name, database_user, context ->> 'user_agent'
        from audit.entry where event like 'log%' order by created_at"""
    reader = ("service", "reader", "reader", "reader", "daybook export")
    assert log.execute(query.encode()).fetchall() == [("log_viewed", *reader), ("log_exported", *reader)]
    details = {"filter": {"event": ["role_*", "x"], "days": ["7"]}, "row_count": 1}
    assert exported(log) == [("acme", "reader", details)]


def test_who_exports_may_be_named_beside_the_login(at: Database, log: Connection, tmp_path: Path) -> None:
    main([*EXPORT, "--as", "Ada Lovelace", "--output", str(tmp_path / "log")])
    query = "select actor_type, actor_id, actor_name from audit.entry where event = 'log_exported'"
    assert log.execute(query.encode()).fetchall() == [("service", "reader", "Ada Lovelace")]


@pytest.mark.parametrize("login", ["app_user", "dba", "maintainer"])
def test_a_login_that_is_no_reader_is_told_so(
    at: Database,
    log: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    login: str,
) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", at.url(login))
    assert main([*EXPORT, "--output", str(tmp_path / "log")]) == 2
    said = capsys.readouterr().err
    assert said.startswith('daybook: permission denied to set role "audit_reader". ')
    assert said.endswith(" serve and export one of audit_reader.\n")
    assert (list(tmp_path.iterdir()), exported(log)) == ([], [])


def test_a_login_that_the_log_takes_for_nobody_is_refused(
    at: Database, log: Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.execute("create role system login in role audit_reader")
    try:
        monkeypatch.setenv("DAYBOOK_DATABASE_URL", at.url("system"))
        assert main(EXPORT) == 2
    finally:
        log.execute("drop role system")
    assert capsys.readouterr().err == "daybook: the log cannot name the database login 'system'; use another\n"


# What is wrong


def test_each_filter_of_the_lists_is_an_option() -> None:
    assert set(EXPORT_HELP) == {*FILTERS, "expand"}


@pytest.mark.parametrize(
    ("options", "sentences"),
    [
        (["--days", "x"], ["--days: A valid integer is required."]),
        (["--days", "0"], ["--days: Ensure this value is greater than or equal to 1."]),
        (["--days", "7", "--days", "8"], ["--days: Give this parameter once."]),
        (
            ["--created-after", "soon", "--event", "!", "--resource-id", "\udcff"],
            [
                "--created-after: Give a date or time such as 2026-03-14 or 2026-03-14T09:30:00Z.",
                "--resource-id: This is not valid UTF-8.",
                "--event: Give names of events such as resource_updated, or their beginning such as resource_*.",
            ],
        ),
        (["--expand", "all"], ["--expand: Choose among changes, context, actor, resource."]),
    ],
)
def test_wrong_values_are_refused_in_the_app_s_words(
    at: Database,
    log: Connection,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    sentences: list[str],
) -> None:
    assert main([*EXPORT, *options, "--output", str(tmp_path / "log")]) == 2
    assert capsys.readouterr().err.splitlines() == [f"daybook: {sentence}" for sentence in sentences]
    assert (list(tmp_path.iterdir()), exported(log)) == ([], [])


def test_a_file_that_is_there_is_kept_unless_forced(
    at: Database, log: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log"
    file.write_text("mine")
    assert (main([*EXPORT, "--output", str(file)]), file.read_text(), exported(log)) == (2, "mine", [])
    assert capsys.readouterr().err == f"daybook: {file} is there already; --force replaces it\n"
    assert main([*EXPORT, "--force", "--output", str(file)]) == 0
    assert json.loads(file.read_text().splitlines()[-1])["manifest"]["entries"] == 3
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_came_meanwhile_is_kept(
    at: Database, log: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log"
    monkeypatch.setattr("os.fsync", lambda _: file.write_text("mine"))
    assert (main([*EXPORT, "--output", str(file)]), file.read_text()) == (2, "mine")
    assert capsys.readouterr().err == f"daybook: {file} is there already; --force replaces it\n"
    assert list(tmp_path.iterdir()) == [file]


def test_where_there_are_no_links_a_file_is_renamed(
    at: Database, log: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert main([*EXPORT, "--output", str(tmp_path / "log")]) == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("/dev/null", "/dev/null is no ordinary file; --output - writes to standard output"),
        ("/", "/ is no ordinary file; --output - writes to standard output"),
        ("/nowhere/log", "cannot write to /nowhere/log: No such file or directory"),
    ],
)
def test_what_is_no_place_for_a_file_is_refused(
    at: Database, log: Connection, capsys: pytest.CaptureFixture[str], output: str, sentence: str
) -> None:
    assert (main([*EXPORT, "--force", "--output", output]), exported(log)) == (2, [])
    assert capsys.readouterr().err == f"daybook: {sentence}\n"


def test_a_link_leads_to_the_file_that_is_replaced(at: Database, log: Connection, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "log").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "log")
    assert main([*EXPORT, "--force", "--output", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert "manifest" in (tmp_path / "there" / "log").read_text()


def test_a_database_without_the_log_is_named(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", empty_database.url("reader"))
    assert main(EXPORT) == 2
    assert capsys.readouterr().err == "daybook: pg_daybook is not installed in this database; run: daybook migrate\n"


def test_a_database_that_does_not_answer_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/d")
    assert main(EXPORT) == 3
    assert capsys.readouterr().err.startswith("daybook: the database cannot be reached: ")


def test_a_read_that_takes_too_long_is_said(
    at: Database, log: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_exports_sleep(log)
    monkeypatch.setenv("DAYBOOK_STATEMENT_TIMEOUT", "50ms")
    assert main([*EXPORT, "--output", str(tmp_path / "log")]) == 2
    assert capsys.readouterr().err == "daybook: a read took longer than DAYBOOK_STATEMENT_TIMEOUT allows\n"
    assert list(tmp_path.iterdir()) == []


# Cut short


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_export_leaves_no_file_and_no_query(
    database: Database, log: Connection, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    let_exports_sleep(log)
    with running(database, "--output", str(tmp_path / "log")) as process:
        wait_for_a_sleeping_export(log)
        [part] = tmp_path.iterdir()
        assert (part.name.startswith(".log."), part.suffix, part.stat().st_mode & 0o777) == (True, ".part", 0o600)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said, list(tmp_path.iterdir())) == (code, "", [])
    wait_for_no_export(log)


def test_an_export_that_breaks_off_leaves_no_file(database: Database, log: Connection, tmp_path: Path) -> None:
    let_exports_sleep(log)
    with running(database, "--output", str(tmp_path / "log")) as process:
        log.execute("select pg_terminate_backend(%s, 5000)", [wait_for_a_sleeping_export(log)])
        _, said = process.communicate(timeout=20)
    assert (process.returncode, list(tmp_path.iterdir())) == (3, [])
    assert said.startswith("daybook: the database cannot be reached: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("options", [[], ["--gzip"]])
def test_output_that_cannot_be_written_is_said(database: Database, log: Connection, options: list[str]) -> None:
    with open("/dev/full", "w") as full, running(database, *options, stdout=full) as process:
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (2, "daybook: cannot write to standard output: No space left on device\n")
    wait_for_no_export(log)


@pytest.mark.parametrize("room", [0, 100])
def test_a_file_that_finds_no_room_is_said_and_taken_away(
    database: Database, log: Connection, tmp_path: Path, room: int
) -> None:
    with running(database, "--output", str(tmp_path / "log"), room=room) as process:
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (2, f"daybook: cannot write to {tmp_path}/log: File too large\n")
    assert list(tmp_path.iterdir()) == []


# The progress bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_how_far_an_export_is() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress(0, 2000)
    # Too soon after the last look.
    progress(1, 2000)
    progress(2000, 2000)
    progress.clear()
    assert terminal.getvalue() == (
        "\r[..............................]   0%  0 of 2,000 entries"
        "\r[##############################] 100%  2,000 of 2,000 entries"
        "\r\x1b[K"
    )


def test_an_empty_export_is_done_from_the_start() -> None:
    terminal = Terminal()
    Progress(terminal)(0, 0)
    assert terminal.getvalue() == "\r[##############################] 100%  0 of 0 entries"


def test_what_is_no_terminal_shows_no_bar() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress(1, 1)
    progress.clear()
    assert stream.getvalue() == ""
