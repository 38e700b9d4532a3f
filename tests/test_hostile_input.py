"""Hostile input over a real socket: bytes, sizes, speeds and headers that no honest client sends.

It must not ask what the log holds: every test ends with the server answering the next request well.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.conftest import TestServer
from tests.reading import ENTRY, PAGE, STRANGER, WORKSPACE, add_entry, add_keys, shared_database
from tests.serving import (
    AUTHORIZATION,
    head,
    head_that_stays,
    opened_connection,
    read_to_the_end,
    sent,
    served,
)

OK = '{"status":"ok"}'
FORBIDDEN = '{"detail":"You do not have permission to perform this action."}'
NO_CREDENTIALS = '{"detail":"Authentication credentials were not provided."}'
INVALID_TOKEN = '{"detail":"Invalid token."}'
NOT_HTTP = '{"detail":"Invalid HTTP request."}'
NOT_FOUND = '{"detail":"Not found."}'
TOO_SLOW = '{"detail":"The request did not arrive in time."}'
TOO_LONG = '{"detail":"The address is too long."}'
HEAD_TOO_LONG = '{"detail":"The header fields are too long."}'

HEALTH = head_that_stays("GET", "/healthz")
LAST_HEALTH = head("GET", "/healthz")
LARGE = f"Authorization: Bearer {STRANGER}"
# One second instead of twenty.
IMPATIENT = {"PATIENCE": 1.0, "READING_PATIENCE": 0.5}

HEADERS = [
    "Authorization", "Cookie", "Host", "Origin", "Sec-Fetch-Site", "X-Request-ID", "User-Agent", "Accept",
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Content-Type", "Expect",
]  # fmt: skip


@pytest.fixture(scope="module")
def port(server: TestServer) -> Iterator[int]:
    """The port of an impatient server over a log of two entries, and of one of 10 MB in another workspace."""
    with shared_database(server) as database:
        add_keys(database.connect())
        [add_entry(database.connect()) for _ in range(2)]
        add_entry(database.connect(), workspace_id="globex", before={}, after={"text": "x" * 10_000_000})
        with served(database, bounds=IMPATIENT) as (_, port):
            yield port


@pytest.fixture(autouse=True)
def answers_well(port: int) -> Iterator[None]:
    """After each test the next request is answered well."""
    yield
    assert answer_to(sent(port, LAST_HEALTH)) == (200, OK)


def answer_to(received: str) -> tuple[int, str]:
    """Status and body of the only answer."""
    assert received.count("HTTP/1.1 ") == 1
    top, _, body = received.partition("\r\n\r\n")
    return int(top.split(" ")[1]), body


def statuses(received: str) -> list[int]:
    """The status of each answer, in their order."""
    return [int(part[:3]) for part in received.split("HTTP/1.1 ")[1:]]


# Bytes


@pytest.mark.parametrize("byte", [b"\0", b"\x01", b"\x7f", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80"])
@pytest.mark.parametrize("address", [b"/healthz%b", b"/healthz?days=%b", b"/api/v1/notification/%b/"])
def test_an_address_has_visible_ascii_characters_only(port: int, address: bytes, byte: bytes) -> None:
    request = b"GET " + address % byte + b" HTTP/1.1\r\nHost: log.example\r\n\r\n"
    assert answer_to(sent(port, request)) == (400, NOT_HTTP)


@pytest.mark.parametrize("byte", [b"\0", b"\x01", b"\x1b", b"\x7f"])
@pytest.mark.parametrize("header", HEADERS)
def test_a_header_has_no_control_characters(port: int, header: str, byte: bytes) -> None:
    request = b"GET /healthz HTTP/1.1\r\n" + header.encode() + b": a" + byte + b"b\r\n\r\n"
    assert answer_to(sent(port, request)) == (400, NOT_HTTP)


@pytest.mark.parametrize("name", [b"A b", b"A\0", b"A\xff", b"", b" A", b"A\r", b"(A)"])
def test_a_header_s_name_is_a_token(port: int, name: bytes) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: log.example\r\n" + name + b": b\r\n\r\n"
    assert answer_to(sent(port, request)) == (400, NOT_HTTP)


@pytest.mark.parametrize("value", ["\xff\xfe", "\xc3\xa9", "\xed\xa0\x80", "%00", "%ff", '"', "\\", ";=,", "a" * 9000])
@pytest.mark.parametrize("header", [header for header in HEADERS if header not in ("Authorization", "Host")])
def test_a_header_of_strange_characters_changes_nothing(port: int, header: str, value: str) -> None:
    received = sent(port, head("GET", WORKSPACE + "?page_size=1", AUTHORIZATION, f"{header}: {value}"))
    assert received.startswith("HTTP/1.1 200 OK\r\n")
    assert f'"next":"http://log.example{WORKSPACE}?page=2&page_size=1"' in received


@pytest.mark.parametrize("key", ["\xff\xfe", "\xc3\xa9", "\xed\xa0\x80", "%00", "%ff", '"', "daybook_\xff", "a" * 9000])
def test_a_key_of_strange_characters_is_invalid(port: int, key: str) -> None:
    assert answer_to(sent(port, head("GET", WORKSPACE, f"Authorization: Bearer {key}"))) == (401, INVALID_TOKEN)


@pytest.mark.parametrize("cookie", ["\xff\xfe", "daybook_key=\xff", "daybook_key=%00", "daybook_key=%ff", "=;=;", ";"])
def test_a_cookie_of_strange_characters_asks_for_the_key(port: int, cookie: str) -> None:
    received = sent(port, head("GET", PAGE, f"Cookie: {cookie}"))
    assert received.startswith("HTTP/1.1 303 See Other\r\n")
    assert f"\r\nlocation: {PAGE}/sign-in\r\n" in received


@pytest.mark.parametrize(
    "form", ["\0", "key=\xff", "key=%00", "key=%ff", "key=%ed%a0%80", "&=&;", "back=%ff%0d%0aA: b"]
)
def test_a_form_of_strange_characters_is_no_key(port: int, form: str) -> None:
    received = sent(port, head("POST", f"{PAGE}/sign-in", f"Content-Length: {len(form)}") + form.encode("latin-1"))
    status, body = answer_to(received)
    assert status == 403
    assert "This key is not valid." in body


@pytest.mark.parametrize("entry_id", ["%00", "%ff", "%ed%a0%80", "%0d%0aA:%20b", "..%2f..", "%2e%2e", "%252e"])
def test_an_entry_of_strange_characters_is_not_found(port: int, entry_id: str) -> None:
    assert answer_to(sent(port, head("GET", f"{ENTRY}{entry_id}/", AUTHORIZATION))) == (404, NOT_FOUND)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("performer_id=a%00b", '{"performer_id":["Null characters are not allowed."]}'),
        ("event=a%00b", '{"event":["Null characters are not allowed."]}'),
        ("created_after=%00", '{"created_after":["Null characters are not allowed."]}'),
        ("request_id=%ff", '{"request_id":["This is not valid UTF-8."]}'),
        ("resource_type=%ed%a0%80", '{"resource_type":["This is not valid UTF-8."]}'),
    ],
)
def test_a_parameter_of_strange_characters_is_named(port: int, query: str, sentence: str) -> None:
    assert answer_to(sent(port, head("GET", f"{WORKSPACE}?{query}", AUTHORIZATION))) == (400, sentence)


def test_a_link_keeps_a_parameter_of_strange_characters_escaped(port: int) -> None:
    query = "?page_size=1&%ff=%00&a%0d%0aB:=%3Cscript%3E"
    kept = "?a%0D%0AB%3A=%3Cscript%3E&page=2&page_size=1&%FF=%00"
    received = sent(port, head("GET", WORKSPACE + query, AUTHORIZATION))
    assert f'"next":"http://log.example{WORKSPACE}{kept}"' in received


# Sizes


def test_an_address_of_8_kb_is_answered(port: int) -> None:
    received = sent(port, head("GET", f"{WORKSPACE}?s={'x' * 8000}", AUTHORIZATION))
    assert received.startswith("HTTP/1.1 200 OK\r\n")
    assert '"count":2,' in received


@pytest.mark.parametrize("length", [40_000, 65_530, 70_000, 98_000, 500_000])
@pytest.mark.parametrize("address", ["/healthz?q=", "/"])
def test_a_longer_address_is_too_long(port: int, address: str, length: int) -> None:
    assert answer_to(sent(port, head("GET", address + "x" * length))) == (414, TOO_LONG)


def test_a_write_to_a_long_address_is_a_write(port: int) -> None:
    assert answer_to(sent(port, head("POST", f"{WORKSPACE}?q={'x' * 40_000}"))) == (403, FORBIDDEN)


def test_thousands_of_headers_are_borne(port: int) -> None:
    assert answer_to(sent(port, head("GET", "/healthz", *["A: b"] * 5000))) == (200, OK)


@pytest.mark.parametrize("headers", [["A: b"] * 50_000, ["A: " + "b" * 100_000], ["A: " + "b" * 2_000_000]])
def test_more_headers_are_too_long(port: int, headers: list[str]) -> None:
    assert answer_to(sent(port, head("GET", "/healthz", *headers))) == (431, HEAD_TOO_LONG)


def test_headers_that_come_bit_by_bit_are_too_long_as_well(port: int) -> None:
    with opened_connection(port) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: log.example\r\n")
        connection.sendall(b"A: b\r\n" * 9000)
        time.sleep(0.1)
        connection.sendall(b"A: b\r\n" * 9000)
        assert answer_to(read_to_the_end(connection)) == (431, HEAD_TOO_LONG)


def test_a_large_body_does_not_hide_the_answer_to_a_write(port: int) -> None:
    request = head("POST", WORKSPACE, "Content-Length: 5000000") + b"x" * 5_000_000
    assert answer_to(sent(port, request)) == (403, FORBIDDEN)


def test_a_form_of_impossible_size_is_refused(port: int) -> None:
    request = head("POST", f"{PAGE}/sign-in", "Content-Length: 900000") + b"x" * 900_000
    assert answer_to(sent(port, request)) == (413, '{"detail":"Request Entity Too Large"}')


# Speeds


def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    assert sent(port, b"") == ""


def test_a_connection_that_says_nothing_more_is_closed(port: int) -> None:
    assert answer_to(sent(port, HEALTH)) == (200, OK)


@pytest.mark.parametrize("beginning", [b"G", b"GET /healthz HTTP/1.1", HEALTH[:-2]])
def test_a_head_that_does_not_come_whole_is_too_slow(port: int, beginning: bytes) -> None:
    assert answer_to(sent(port, beginning)) == (408, TOO_SLOW)


def test_a_dribbled_head_is_too_slow_and_holds_nobody_up(port: int) -> None:
    with opened_connection(port) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nA: ")
        others = [dribble(slow) and answer_to(sent(port, LAST_HEALTH)) for _ in range(5)]
        assert others == [(200, OK)] * 5
        assert answer_to(read_to_the_end(slow)) == (408, TOO_SLOW)


def dribble(slow: socket.socket) -> bool:
    """Send a byte and wait for a tenth of a second."""
    slow.sendall(b"b")
    time.sleep(0.1)
    return True


def test_empty_lines_are_no_request(port: int) -> None:
    with opened_connection(port) as connection:
        connection.sendall(b"\r\n\r\n")
        time.sleep(0.5)
        connection.sendall(b"\r\n")
        assert read_to_the_end(connection) == ""


def test_a_form_that_does_not_come_whole_is_too_slow(port: int) -> None:
    request = head_that_stays("POST", f"{PAGE}/sign-in", "Content-Length: 10") + b"key="
    assert answer_to(sent(port, request)) == (408, TOO_SLOW)


def test_a_write_whose_body_does_not_come_whole_is_refused_once(port: int) -> None:
    request = head_that_stays("POST", WORKSPACE, "Content-Length: 10") + b"abc"
    assert answer_to(sent(port, request)) == (403, FORBIDDEN)


def test_a_request_behind_another_has_its_own_time(port: int) -> None:
    assert statuses(sent(port, HEALTH + HEALTH[:9])) == [200, 408]


def test_who_takes_no_answers_gets_no_more_of_them(port: int) -> None:
    assert len(received_late(port, head_that_stays("GET", "/schema/openapi.json") * 2000)) < 30_000_000


@pytest.mark.parametrize("request_head", [head, head_that_stays])
def test_who_takes_nothing_of_an_answer_does_not_get_it(port: int, request_head: Callable[..., bytes]) -> None:
    assert len(received_late(port, request_head("GET", f"{WORKSPACE}?expand=changes", LARGE))) < 10_000_000


def received_late(port: int, request: bytes) -> bytes:
    """What a client that takes nothing for two seconds still gets."""
    with opened_connection(port) as connection:
        connection.sendall(request)
        time.sleep(2)
        return b"".join(pieces(connection, 1_000_000))


@pytest.mark.parametrize("request_head", [head, head_that_stays])
def test_who_takes_an_answer_slowly_gets_all_of_it(port: int, request_head: Callable[..., bytes]) -> None:
    with opened_connection(port) as connection:
        connection.sendall(request_head("GET", f"{WORKSPACE}?expand=changes", LARGE))
        started = time.monotonic()
        received = b"".join(pieces(connection, 100_000, pause=0.02))
        assert time.monotonic() - started > 1
    assert received.endswith(b'"total_pages":1}')
    assert len(received) > 10_000_000


def pieces(connection: socket.socket, length: int, pause: float = 0) -> Iterator[bytes]:
    """What is received piece by piece, until the connection ends or breaks."""
    with suppress(ConnectionResetError):
        while received := connection.recv(length):
            yield received
            time.sleep(pause)


# Connections of which the client closes its half


def half_closed(port: int, request: bytes) -> str:
    """The whole answer to a client that says at once that it will send nothing more."""
    with opened_connection(port) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return read_to_the_end(connection)


def test_a_half_closed_connection_is_answered(port: int) -> None:
    assert answer_to(half_closed(port, HEALTH)) == (200, OK)


def test_a_half_closed_connection_gets_all_its_answers(port: int) -> None:
    reading = head_that_stays("GET", WORKSPACE, AUTHORIZATION)
    assert statuses(half_closed(port, HEALTH + reading + HEALTH + reading)) == [200, 200, 200, 200]


def test_a_write_of_half_a_body_is_refused(port: int) -> None:
    request = head_that_stays("POST", WORKSPACE, "Content-Length: 10") + b"abc"
    assert answer_to(half_closed(port, request)) == (403, FORBIDDEN)


def test_half_a_form_is_not_taken_for_a_whole_one(port: int) -> None:
    request = head_that_stays("POST", f"{PAGE}/sign-in", "Content-Length: 10") + b"key=a"
    assert answer_to(half_closed(port, request)) == (408, TOO_SLOW)


def test_half_a_head_is_no_request(port: int) -> None:
    assert answer_to(half_closed(port, HEALTH[:-2])) == (400, NOT_HTTP)


def test_half_a_head_behind_a_request_waits_for_its_answer(port: int) -> None:
    assert statuses(half_closed(port, head_that_stays("GET", WORKSPACE, AUTHORIZATION) + HEALTH[:-2])) == [200, 400]


def test_a_write_of_half_a_body_behind_a_request_is_refused(port: int) -> None:
    write = head_that_stays("POST", WORKSPACE, "Content-Length: 10") + b"abc"
    assert statuses(half_closed(port, head_that_stays("GET", WORKSPACE, AUTHORIZATION) + write)) == [200, 403]


def test_nothing_at_all_is_answered_with_nothing(port: int) -> None:
    assert half_closed(port, b"") == ""


# Where one request ends and the next begins


def test_requests_that_come_together_are_answered_in_order(port: int) -> None:
    unauthorized = head_that_stays("GET", WORKSPACE)
    listing = head_that_stays("GET", WORKSPACE, AUTHORIZATION)
    unknown = head_that_stays("GET", "/nothing")
    received = sent(port, listing + HEALTH + unauthorized + unknown + listing + LAST_HEALTH)
    assert statuses(received) == [200, 200, 401, 404, 200, 200]
    assert received.endswith(OK)


def test_many_small_requests_are_not_taken_for_one_large_one(port: int) -> None:
    assert statuses(sent(port, HEALTH * 2500 + LAST_HEALTH)) == [200] * 2501


def test_nothing_is_answered_after_the_last_request_of_a_connection(port: int) -> None:
    assert answer_to(sent(port, LAST_HEALTH + HEALTH + b"nonsense\r\n\r\n")) == (200, OK)


def test_what_is_no_http_waits_for_the_answers_before_it(port: int) -> None:
    received = sent(port, head_that_stays("GET", WORKSPACE, AUTHORIZATION) + HEALTH + b"nonsense\r\n\r\n")
    assert statuses(received) == [200, 200, 400]
    assert received.endswith(NOT_HTTP)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_body_is_never_taken_for_a_request(port: int, method: str) -> None:
    body = head_that_stays("GET", WORKSPACE, AUTHORIZATION)
    write = head_that_stays(method, WORKSPACE, f"Content-Length: {len(body)}")
    received = sent(port, write + body + LAST_HEALTH)
    assert statuses(received) == [403, 200]
    assert received.endswith(OK)


def test_a_body_that_comes_late_is_never_taken_for_a_request(port: int) -> None:
    body = head_that_stays("GET", WORKSPACE, AUTHORIZATION)
    with opened_connection(port) as connection:
        connection.sendall(head_that_stays("POST", WORKSPACE, f"Content-Length: {len(body)}"))
        time.sleep(0.2)
        connection.sendall(body)
        connection.sendall(head("FOO", "/healthz"))
        assert statuses(read_to_the_end(connection)) == [403, 405]


def test_a_chunk_is_never_taken_for_a_request(port: int) -> None:
    body = head_that_stays("GET", WORKSPACE, AUTHORIZATION)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    received = sent(port, head_that_stays("POST", WORKSPACE, "Transfer-Encoding: chunked") + chunks + LAST_HEALTH)
    assert statuses(received) == [403, 200]


@pytest.mark.parametrize(
    "lengths",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 0"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: -5"],
        ["Content-Length: 0x5"],
        ["Content-Length:"],
        ["Content-Length: 99999999999999999999"],
        ["Transfer-Encoding: chunked, gzip"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: chunked\x0b"],
        ["Transfer-Encoding : chunked"],
        [" Transfer-Encoding: chunked"],
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_body_of_doubtful_length_is_no_http(port: int, method: str, lengths: list[str]) -> None:
    request = "\r\n".join([f"{method} {WORKSPACE} HTTP/1.1", *lengths, "Host: log.example", "", "0", "", ""])
    assert answer_to(sent(port, request.encode("latin-1") + HEALTH)) == (400, NOT_HTTP)


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n", b"-1\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"3\r\nabcXX0\r\n\r\n", b"3\nabc\n0\n\n", b"f" * 20 + b"\r\n",
     b"3\r\nabc\r\n0\r\nA b\r\n\r\n", b"\0\r\n", b" 3\r\n"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_malformed_chunks_are_no_http(port: int, method: str, chunks: bytes) -> None:
    request = head_that_stays(method, WORKSPACE, AUTHORIZATION, "Transfer-Encoding: chunked")
    assert answer_to(sent(port, request + chunks + HEALTH)) == (400, NOT_HTTP)


def test_malformed_chunks_behind_a_request_wait_for_its_answer(port: int) -> None:
    chunked = head_that_stays("POST", WORKSPACE, "Transfer-Encoding: chunked") + b"zz\r\n"
    received = sent(port, head_that_stays("GET", WORKSPACE, AUTHORIZATION) + HEALTH + chunked)
    assert statuses(received) == [200, 200, 400]


def test_malformed_chunks_after_the_answer_are_not_answered_again(port: int) -> None:
    with opened_connection(port) as connection:
        connection.sendall(head_that_stays("POST", WORKSPACE, "Transfer-Encoding: chunked"))
        time.sleep(0.2)
        connection.sendall(b"zz\r\n" + HEALTH)
        assert answer_to(read_to_the_end(connection)) == (403, FORBIDDEN)


def test_what_follows_on_a_body_is_no_header(port: int) -> None:
    chunked = head_that_stays("GET", WORKSPACE, "Transfer-Encoding: chunked", "Trailer: Authorization")
    received = sent(port, chunked + b"0\r\n" + AUTHORIZATION.encode() + b"\r\n\r\n" + LAST_HEALTH)
    assert statuses(received) == [401, 200]
    assert NO_CREDENTIALS in received


@pytest.mark.parametrize(
    "request_line",
    [b"", b"\0", b"\xff", b"GET", b"GET /healthz HTTP/9.9", b"GET /healthz HTTP/1.1 x", b"PRI * HTTP/2.0",
     b"GET ?x HTTP/1.1", b"GET http://log.example HTTP/1.1", b"CONNECT log.example:443 HTTP/1.1",
     b"\x16\x03\x01\x02\x00\x01"],
)  # fmt: skip
def test_what_is_no_request_line_is_no_http(port: int, request_line: bytes) -> None:
    assert answer_to(sent(port, request_line + b"\r\nHost: log.example:x\r\n\r\n")) == (400, NOT_HTTP)


@pytest.mark.parametrize(
    "path", ["*", "//", "//log.example/healthz", "/./healthz", "/../healthz", "/healthz;a", "/%2f"]
)
def test_a_path_of_another_form_is_not_found(port: int, path: str) -> None:
    assert answer_to(sent(port, head("GET", path))) == (404, NOT_FOUND)


# Other protocols


@pytest.mark.parametrize(
    "headers",
    [
        ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13"],
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"],
        ["Connection: upgrade", "Upgrade: TLS/1.0"],
    ],
)
def test_another_protocol_is_not_spoken(port: int, headers: list[str]) -> None:
    with opened_connection(port) as connection:
        connection.sendall(head_that_stays("GET", "/healthz", *headers) + b"\x81\x05hello" + HEALTH)
        assert answer_to(read_to_the_end(connection)) == (200, OK)


def test_a_write_that_asks_for_another_protocol_is_a_write(port: int) -> None:
    headers = ["Connection: Upgrade", "Upgrade: websocket", "Content-Length: 5"]
    assert answer_to(sent(port, head_that_stays("POST", WORKSPACE, *headers) + b"hello")) == (403, FORBIDDEN)


# What strangers say of a request


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https", "X-Forwarded-For: 127.0.0.1",
     "Forwarded: for=127.0.0.1;host=evil.example;proto=https", "X-Forwarded-Port: 444", "X-Forwarded-Prefix: /evil",
     "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz", "X-Host: evil.example", "X-Real-IP: 127.0.0.1",
     "Front-End-Https: on"],
)  # fmt: skip
def test_what_strangers_say_of_the_address_changes_no_link(port: int, header: str) -> None:
    received = sent(port, head("GET", WORKSPACE + "?page_size=1", AUTHORIZATION, header))
    assert f'"next":"http://log.example{WORKSPACE}?page=2&page_size=1"' in received


def test_a_host_in_the_request_line_changes_no_link(port: int) -> None:
    received = sent(port, head("GET", f"http://evil.example{WORKSPACE}?page_size=1", AUTHORIZATION))
    assert f'"next":"http://log.example{WORKSPACE}?page=2&page_size=1"' in received


@pytest.mark.parametrize("header", ["Host: evil.example", "host: log.example", "HOST:"])
def test_two_hosts_are_no_http(port: int, header: str) -> None:
    assert answer_to(sent(port, head("GET", WORKSPACE, AUTHORIZATION, header))) == (400, NOT_HTTP)


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "FOO"])
def test_a_get_stays_a_get(port: int, header: str, method: str) -> None:
    received = sent(port, head("GET", f"{WORKSPACE}?_method={method}", AUTHORIZATION, f"{header}: {method}"))
    assert received.startswith("HTTP/1.1 200 OK\r\n")
    assert '"count":2,' in received


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_write_stays_a_write(port: int, header: str, method: str) -> None:
    headers = [AUTHORIZATION, f"{header}: {method}", "Content-Type: application/x-www-form-urlencoded"]
    form = f"_method={method}"
    request = head("POST", f"{WORKSPACE}?_method={method}", *headers, f"Content-Length: {len(form)}") + form.encode()
    assert answer_to(sent(port, request)) == (403, FORBIDDEN)


def test_a_trusted_proxy_says_where_the_client_was(server: TestServer) -> None:
    with shared_database(server) as database:
        add_keys(database.connect())
        [add_entry(database.connect()) for _ in range(2)]
        with served(database, DAYBOOK_TRUSTED_PROXIES="127.0.0.1/32") as (_, port):
            forwarded = ["X-Forwarded-Host: evil.example, audit.example", "X-Forwarded-Proto: http, https"]
            received = sent(port, head("GET", WORKSPACE + "?page_size=1", AUTHORIZATION, *forwarded))
            smuggled = sent(port, trailing("X-Forwarded-Host: evil.example"))
    assert f'"next":"https://audit.example{WORKSPACE}?page=2&page_size=1"' in received
    assert f'"next":"http://log.example{WORKSPACE}?page=2&page_size=1"' in smuggled


def trailing(header: str) -> bytes:
    """A request with a header that follows on its body."""
    request = head("GET", WORKSPACE + "?page_size=1", AUTHORIZATION, "Transfer-Encoding: chunked")
    return request + b"0\r\n" + header.encode("latin-1") + b"\r\n\r\n"


# The log of the server


def test_strangers_cannot_fill_the_server_s_log(server: TestServer) -> None:
    with shared_database(server) as database, served(database, bounds=IMPATIENT) as (process, port):
        half_form = head_that_stays("POST", f"{PAGE}/sign-in", "Content-Length: 10") + b"key="
        with opened_connection(port) as leaving:
            leaving.sendall(half_form)
        requests = [b"nonsense\r\n\r\n", half_form, HEALTH[:9], head("GET", "/healthz", "Upgrade: h2c")]
        [sent(port, request) for request in requests]
        half_closed(port, half_form)
        process.terminate()
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() + process.stderr.read() == ""
