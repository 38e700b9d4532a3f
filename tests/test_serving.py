"""`daybook.app.serve`: what it needs to start, what it says when it cannot, and HTTP as it comes over a real socket.

It must not repeat what the application answers; test_answers.py holds that.
"""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from daybook.app import StartError, check_database, listen, serve
from daybook.settings import Settings
from tests.conftest import Database, TestServer
from tests.reading import WORKSPACE, add_entry, add_keys, settings_for, shared_database
from tests.serving import AUTHORIZATION, head, sent, served

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def port(server: TestServer) -> Iterator[int]:
    """The port of a server over a log of two entries."""
    with shared_database(server) as database:
        add_keys(database.connect())
        [add_entry(database.connect()) for _ in range(2)]
        with served(database) as (_, port):
            yield port


def test_a_get_is_answered_without_the_server_s_name(port: int) -> None:
    answer = sent(port, head("GET", WORKSPACE, AUTHORIZATION))
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert '"count":2,' in answer
    assert "\r\nserver:" not in answer


def test_a_head_is_answered_without_a_body(port: int) -> None:
    answer = sent(port, head("HEAD", WORKSPACE, AUTHORIZATION))
    body = sent(port, head("GET", WORKSPACE, AUTHORIZATION)).partition("\r\n\r\n")[2]
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert answer.endswith("\r\n\r\n")
    assert f"content-length: {len(body)}\r\n" in answer


@pytest.mark.parametrize("headers", [["Content-Length: 1000000"], ["Content-Length: 9", "Expect: 100-continue"]])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_write_is_refused_although_its_body_never_comes(port: int, method: str, headers: list[str]) -> None:
    answer = sent(port, head(method, WORKSPACE, *headers))
    assert answer.startswith("HTTP/1.1 403 Forbidden\r\n")
    assert answer.endswith('{"detail":"You do not have permission to perform this action."}')


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"FOO healthz HTTP/1.1\r\n\r\n",
        b"FOO /healthz HTTP/2.0\r\n\r\n",
        b"F(O /healthz HTTP/1.1\r\n\r\n",
        b"FOO /healthz HTTP/1.1\r\nHost\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_in_json(port: int, garbage: bytes) -> None:
    answer = sent(port, garbage)
    assert answer.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith('{"detail":"Invalid HTTP request."}')


@pytest.mark.parametrize("method", ["FOO", "get", "GETX", "BREW", "DESCRIBE", "X-!#$%&'*+.^_`|~", "TRACE", "CONNECT"])
@pytest.mark.parametrize("path", ["/healthz", WORKSPACE, WORKSPACE + "?days=x", "/settings/audit-log"])
def test_a_method_of_any_name_is_not_allowed(port: int, method: str, path: str) -> None:
    answer = sent(port, head(method, path))
    assert answer.startswith("HTTP/1.1 405 Method Not Allowed\r\n")
    assert "\r\nallow: GET, HEAD, OPTIONS\r\n" in answer
    assert answer.endswith(f'{{"detail":"Method \\"{method}\\" not allowed."}}')


def test_an_unknown_path_is_not_found_by_any_method(port: int) -> None:
    assert sent(port, head("FOO", "/nothing")).endswith('\r\n\r\n{"detail":"Not found."}')


def test_a_connection_goes_on_after_a_method_that_is_not_allowed(port: int) -> None:
    request = b"FOO /healthz HTTP/1.1\r\nHost: log.example\r\nContent-Length: 3\r\n\r\nabc"
    answer = sent(port, request + head("GET", "/healthz"))
    assert answer.count("HTTP/1.1 405 Method Not Allowed\r\n") == 1
    assert answer.endswith('{"status":"ok"}')


def test_what_follows_on_a_request_is_not_taken_for_its_method(port: int) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: log.example\r\n\r\nFOO /healthz HTTP/1.1\r\n\r\n"
    assert "not allowed" not in sent(port, request)


@pytest.mark.parametrize("host", ["log.example:http", "", "[::1", "log.example,evil.example"])
def test_links_do_not_repeat_a_host_of_impossible_form(port: int, host: str) -> None:
    request = f"GET {WORKSPACE}?page_size=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{AUTHORIZATION}\r\n\r\n"
    assert f'"next":"http://127.0.0.1:{port}{WORKSPACE}?page=2&page_size=1"' in sent(port, request.encode("latin-1"))


@pytest.mark.parametrize("host", ["a b", "evil.example/path", "<script>", "\xff"])
def test_a_host_of_characters_that_no_host_has_is_refused(port: int, host: str) -> None:
    request = f"GET {WORKSPACE} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{AUTHORIZATION}\r\n\r\n"
    assert sent(port, request.encode("latin-1")).endswith('{"detail":"Invalid host header"}')


def test_an_ended_server_finishes_with_exit_code_0(database: Database) -> None:
    with served(database) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_an_interrupted_server_finishes_with_exit_code_0(database: Database) -> None:
    with served(database) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_a_request_that_is_being_answered_is_finished(database: Database, db: Connection) -> None:
    add_keys(db)
    writer = database.connect(autocommit=False)
    writer.execute("lock table audit.entry in access exclusive mode")
    answers: list[str] = []
    with served(database) as (process, port):
        request = head("GET", WORKSPACE, AUTHORIZATION)
        asking = threading.Thread(target=lambda: answers.append(sent(port, request)))
        asking.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        writer.rollback()
        asking.join(10)
        assert process.wait(20) == 0
    assert answers[0].startswith("HTTP/1.1 200 OK\r\n")


def test_a_superuser_s_login_is_warned_of(database: Database) -> None:
    with served(database, user="postgres") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert process.stderr.read() == (
            "warning: the database login postgres is a superuser; use one that is only a member of audit_reader\n"
        )


def test_neither_keys_nor_what_is_looked_for_are_logged(database: Database, db: Connection) -> None:
    add_keys(db)
    with served(database) as (process, port):
        sent(port, head("GET", f"{WORKSPACE}?performer_id=secret-person", AUTHORIZATION))
        sent(port, head("GET", f"{WORKSPACE}?performer_id=secret-person", "Authorization: Bearer daybook_secret"))
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() + process.stderr.read() == ""


@pytest.mark.parametrize("user", ["app_user", "dba"])
def test_a_login_that_cannot_become_audit_reader_is_refused(database: Database, user: str) -> None:
    with pytest.raises(StartError, match="grant the role audit_reader to the login of DAYBOOK_DATABASE_URL"):
        check_database(settings_for(database, user))


def test_a_database_without_the_log_is_refused(empty_database: Database) -> None:
    with pytest.raises(StartError, match='run "daybook migrate" first'):
        check_database(settings_for(empty_database))


def test_a_database_that_does_not_answer_is_no_wrong_setting() -> None:
    with pytest.raises(psycopg.OperationalError):
        serve(Settings(database_url="postgresql://reader@127.0.0.1:1/app"), "127.0.0.1", 0)


def test_a_busy_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(
            StartError, match=f"^Cannot listen on 127.0.0.1, port {port}: Address already in use. Choose"
        ):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(StartError, match=f"^Cannot listen on {host}"):
        listen(host, 0)
