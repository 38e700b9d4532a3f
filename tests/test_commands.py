"""The `daybook` command as a script uses it: its exit codes, what stands alone on standard output, and its sentences.

It must not look at what upkeep, the migrations, the app or the demo do; their own tests do.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import psycopg
import pytest

from daybook import keys, upkeep
from daybook.commands import main
from tests.conftest import REPOSITORY, Database
from tests.trail import count

Connection = psycopg.Connection[Any]
CREATE = ["key", "create", "--workspace", "acme", "--name", "Ada's key", "--role", "admin"]


@pytest.fixture
def at(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The database that the command is told of."""
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", database.url("maintainer"))
    return database


def process(
    url: str, *arguments: str | bytes, stdout: int | IO[str] = subprocess.PIPE, **environment: str
) -> tuple[int, str, str]:
    """Run the command in a process of its own; return its exit code, standard output and standard error."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DAYBOOK_", "PYTHON"))}
    run = subprocess.run(
        [sys.executable, "-m", "daybook", *arguments],
        env={**inherited, "PYTHONPATH": str(REPOSITORY / "api"), "DAYBOOK_DATABASE_URL": url, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return run.returncode, run.stdout or "", run.stderr


def valid_keys(db: Connection) -> int:
    return count(db, "select count(*) from audit.api_key where revoked_at is null")


# Keys


def test_a_key_stands_alone_on_standard_output(at: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(CREATE) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(r"daybook_[A-Za-z0-9_-]{43}\n", printed.out)
    assert printed.err == "daybook: this is the only time that the key is shown\n"


@pytest.mark.parametrize("beyond", ["10000-01-01 13:59:59+00", "infinity", "-infinity", "0044-03-15 BC"])
def test_keys_are_listed_whatever_their_moments(
    at: Database, db: Connection, capsys: pytest.CaptureFixture[str], beyond: str
) -> None:
    main(CREATE)
    db.execute("update audit.api_key set expires_at = %s::timestamptz", [beyond])
    capsys.readouterr()
    assert (main(["key", "list"]), main(["key", "list", "--json"])) == (0, 0)
    text, _, listed = capsys.readouterr().out.partition("\n")
    assert "Ada's key  (expire" in text
    assert json.loads(listed)[0]["name"] == "Ada's key"


def test_a_key_s_state_is_told(at: Database, db: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    [main([*CREATE[:-3], name, *CREATE[-2:]]) for name in ("a", "b", "c", "d")]
    db.execute("update audit.api_key set expires_at = '2020-01-31 12:00Z' where name = 'b'")
    db.execute("update audit.api_key set expires_at = '2999-01-31 12:00Z' where name = 'c'")
    db.execute("update audit.api_key set revoked_at = now() where name = 'd'")
    capsys.readouterr()
    main(["key", "list"])
    assert [line[10:] for line in capsys.readouterr().out.splitlines()] == [
        "admin    acme  a  (valid, never used)",
        "admin    acme  b  (expired 2020-01-31 12:00, never used)",
        "admin    acme  c  (expires 2999-01-31 12:00, never used)",
        "admin    acme  d  (revoked, never used)",
    ]


def test_control_characters_in_names_are_listed_escaped(at: Database, capsys: pytest.CaptureFixture[str]) -> None:
    main(["key", "create", "--workspace", "a\tb", "--name", "x\n\x1b[31m\u202ey ä", "--role", "member"])
    capsys.readouterr()
    main(["key", "list"])
    assert capsys.readouterr().out[10:] == "member   a\\tb  x\\n\\x1b[31m\\u202ey ä  (valid, never used)\n"


def test_no_keys_are_listed_as_nothing(at: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(["key", "list"]), capsys.readouterr().out) == (0, "")


@pytest.mark.parametrize("cut", [slice(8, 16), slice(0, 16), slice(0, 51)])
def test_a_key_is_revoked_by_its_prefix_or_as_a_whole(
    at: Database, db: Connection, capsys: pytest.CaptureFixture[str], cut: slice
) -> None:
    main(CREATE)
    key = capsys.readouterr().out.strip()
    assert (main(["key", "revoke", key[cut]]), valid_keys(db)) == (0, 0)
    assert capsys.readouterr().err == f"daybook: key {key[8:16]} is revoked\n"
    assert (main(["key", "revoke", key[cut]]), capsys.readouterr().err) == (
        2,
        f"daybook: there is no valid key {key[8:16]}; daybook key list shows them\n",
    )


@pytest.mark.parametrize("cut", [slice(8, 15), slice(8, 17), slice(8, 51), slice(0, 50), slice(0, 15), slice(0, 8)])
def test_anything_else_than_a_prefix_or_a_whole_key_revokes_nothing_and_is_not_repeated(
    at: Database, db: Connection, capsys: pytest.CaptureFixture[str], cut: slice
) -> None:
    main(CREATE)
    key = capsys.readouterr().out.strip()
    assert (main(["key", "revoke", key[cut]]), valid_keys(db)) == (2, 1)
    assert key[10:15] not in capsys.readouterr().err


def test_a_key_never_begins_like_an_option(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter(["-" + "a" * 42, "b" * 43])
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: next(made))
    assert keys.create_key(db, "acme", "Ada's key", "admin") == "daybook_" + "b" * 43


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2020-01-01", "soon", "10000-01-01", "0d"]
)
def test_an_expiry_that_no_calendar_holds_or_that_is_past_is_refused(moment: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(moment))):
        keys.parse_expiry(moment)


@pytest.mark.parametrize(
    ("option", "text", "problem"),
    [
        ("--workspace", "ä" * 1001, "longer than 2000 bytes"),
        ("--name", "ä" * 501, "longer than 500 characters"),
        ("--name", "a\udcff", "not UTF-8"),
        ("--name", " ", "empty"),
    ],
)
def test_a_workspace_or_name_that_cannot_be_is_refused(
    at: Database, db: Connection, capsys: pytest.CaptureFixture[str], option: str, text: str, problem: str
) -> None:
    assert (main([*CREATE, option, text]), valid_keys(db)) == (2, 0)
    assert re.search(rf"argument {option}: it is {problem}\n$", capsys.readouterr().err)


def test_the_longest_workspace_and_name_are_taken(at: Database) -> None:
    assert main([*CREATE, "--workspace", "ä" * 1000, "--name", "ä" * 500]) == 0


# Standard output and standard error


@pytest.mark.parametrize("arguments", [["status"], ["key", "list"], ["key", "list", "--json"], ["--help"]])
def test_output_that_cannot_be_written_is_said(database: Database, db: Connection, arguments: list[str]) -> None:
    keys.create_key(db, "acme", "Ada's key", "admin")
    with open("/dev/full", "w") as full:
        code, _, said = process(database.url(), *arguments, stdout=full)
    assert (code, said) == (2, "daybook: cannot write to standard output: No space left on device\n")


def test_a_reader_that_has_gone_is_said(database: Database, db: Connection) -> None:
    keys.create_key(db, "acme", "Ada's key", "admin")
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone:
        code, _, said = process(database.url(), "key", "list", stdout=gone)
    assert (code, said) == (2, "daybook: cannot write to standard output: Broken pipe\n")


def test_a_key_that_could_not_be_printed_is_not_made(database: Database, db: Connection) -> None:
    with open("/dev/full", "w") as full:
        code, _, said = process(database.url(), *CREATE, stdout=full)
    assert (code, valid_keys(db)) == (2, 0)
    assert said == "daybook: cannot write to standard output: No space left on device\n"


def test_a_name_that_the_terminal_cannot_show_is_printed_escaped(database: Database, db: Connection) -> None:
    keys.create_key(db, "acme", "Ådas Schlüssel", "admin")
    code, printed, said = process(database.url(), "key", "list", PYTHONIOENCODING="ascii:strict")
    assert (code, printed[10:], said) == (0, "admin    acme  \\xc5das Schl\\xfcssel  (valid, never used)\n", "")


# Wrong use and wrong settings: 2 and a sentence


@pytest.mark.parametrize(
    "arguments",
    [
        ["key", "revoke", b"\xff"],
        ["key", "create", "--workspace", b"\xff", "--name", "n", "--role", "admin"],
    ],
)
def test_arguments_that_cannot_be_used_are_refused_without_a_traceback(arguments: list[str | bytes]) -> None:
    code, printed, said = process("postgresql:///nowhere", *arguments)
    assert (code, printed, "Traceback" in said) == (2, "", False)
    assert "daybook" in said


@pytest.mark.parametrize("arguments", [["status"], ["migrate"], ["serve"], ["key", "list"], ["maintain"]])
@pytest.mark.parametrize(
    "url",
    [
        "host=127.0.0.1 connect_timeout=abc",
        "postgresql://u:secret@127.0.0.1:port/d",
        "postgresql://u:secret@127.0.0.1/d?sslmode=foo",
        "postgresql://u:secret@127.0.0.1/\udcff",
    ],
)
def test_a_wrong_database_url_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], url: str
) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", url)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("daybook: DAYBOOK_DATABASE_URL ")
    assert (said.count("\n"), "secret" in said) == (1, False)


@pytest.mark.parametrize("arguments", [["status"], ["migrate"], ["serve"], ["key", "list"], ["maintain"]])
def test_a_database_that_does_not_answer_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/d")
    assert main(arguments) == 3
    said = capsys.readouterr().err
    assert said.startswith("daybook: the database cannot be reached: ")
    assert "secret" not in said


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (psycopg.errors.lookup("08006")("lost"), 3, "the database cannot be reached: lost"),
        (psycopg.errors.lookup("57P01")("ended"), 3, "the database cannot be reached: ended"),
        (psycopg.errors.lookup("53300")("too many"), 3, "the database cannot be reached: too many"),
        (psycopg.errors.lookup("28P01")("unknown"), 3, "the database cannot be reached: unknown"),
        (psycopg.errors.lookup("3D000")("nowhere"), 3, "the database cannot be reached: nowhere"),
        (psycopg.errors.lookup("55P03")("locked"), 2, "locked"),
        (psycopg.DataError("odd"), 2, "odd"),
        (psycopg.ProgrammingError("bad value"), 2, "bad value"),
        (MemoryError(), 2, "there is not enough memory"),
        (TypeError("?"), 2, r"something unexpected went wrong: TypeError: \? \(.*, line \d+\)"),
    ],
)
def test_no_error_is_taken_for_a_finding(
    at: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    sentence: str,
) -> None:
    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr(upkeep, "status", fail)
    assert main(["status"]) == code
    assert re.fullmatch(f"daybook: {sentence}\n", capsys.readouterr().err)


def test_a_busy_port_is_named_with_its_setting(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", database.url("reader"))
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        monkeypatch.setenv("DAYBOOK_PORT", port)
        codes = main(["serve"]), main(["serve", "--port", port])
    assert codes == (2, 2)
    sentence = f"daybook: Cannot listen on 127.0.0.1, port {port}: Address already in use. Choose another with"
    assert capsys.readouterr().err == f"{sentence} DAYBOOK_PORT.\n{sentence} --port.\n"


@pytest.mark.parametrize("host", ["x" * 300, "192.0.2.1", "a..b"])
def test_a_wrong_host_is_named_with_its_setting(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", database.url("reader"))
    monkeypatch.setenv("DAYBOOK_HOST", host)
    assert (main(["serve"]), main(["serve", "--host", host])) == (2, 2)
    by_setting, by_option = capsys.readouterr().err.splitlines()
    assert by_setting.startswith(f"daybook: Cannot listen on {host}")
    assert by_setting.endswith("Choose another with DAYBOOK_HOST.")
    assert by_option.endswith("Choose another with --host.")


@pytest.mark.parametrize("arguments", [["status"], ["serve"]])
def test_a_misspelt_setting_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", "postgresql://127.0.0.1:1/d")
    monkeypatch.setenv("DAYBOOK_PROT", "8001")
    main(arguments)
    assert capsys.readouterr().err.count("DAYBOOK_PROT") == 1


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        (b"~nosuchuser/x", "~nosuchuser/x names the home folder of nobody here; name another folder with --data."),
        (b"/tmp/\xff", "/tmp/\\udcff is not written in UTF-8; name another folder with --data."),
    ],
)
def test_a_demo_s_folder_that_cannot_be_named_is_refused(folder: bytes, sentence: str, pg_bin: Path) -> None:
    code, _, said = process("", "demo", "--port", "0", "--data", folder, DAYBOOK_POSTGRES_BIN=str(pg_bin))
    assert (code, said) == (2, f"daybook: {sentence}\n")
