"""The base of absolute links: the public URL, what a trusted proxy says, the request."""

import ipaddress
from typing import Any

import pytest

from daybook.addresses import base_url, client_address, page_link, parse_query
from daybook.settings import Settings

PROXY = "10.1.2.3"
FORWARDED = [(b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Host", b"audit.example")]


def base(headers: list[tuple[bytes, bytes]], client: str | None = PROXY, **settings: Any) -> str:
    """The base URL of a request over http to 127.0.0.1:8000."""
    return base_url(Settings(database_url="", **settings), "http", headers, client, "127.0.0.1:8000")


TRUSTING: dict[str, Any] = {"trusted_proxies": (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))}


def test_the_request_s_own_host_is_the_base() -> None:
    assert base([(b"host", b"log.example:8080")]) == "http://log.example:8080"


def test_the_public_url_goes_before_everything() -> None:
    assert base([(b"host", b"x"), *FORWARDED], public_url="https://log.example/audit", **TRUSTING) == (
        "https://log.example/audit"
    )


def test_a_trusted_proxy_s_word_goes_before_the_host() -> None:
    assert base([(b"host", b"inner"), *FORWARDED], **TRUSTING) == "https://audit.example"


@pytest.mark.parametrize("client", ["192.0.2.1", "::1", "", None, "unix"])
def test_forwarded_headers_of_others_are_ignored(client: str | None) -> None:
    assert base([(b"host", b"inner"), *FORWARDED], client, **TRUSTING) == "http://inner"


def test_no_proxy_is_trusted_unless_it_is_named() -> None:
    assert base([(b"host", b"inner"), *FORWARDED], "127.0.0.1") == "http://inner"


def test_a_trusted_proxy_may_come_over_ipv6() -> None:
    assert base([(b"host", b"inner"), *FORWARDED], "::ffff:10.1.2.3", **TRUSTING) == "https://audit.example"
    assert base([(b"host", b"inner"), *FORWARDED], "fd00::1", **TRUSTING) == "https://audit.example"


def test_of_several_values_the_nearest_proxy_s_counts() -> None:
    forwarded = [(b"X-Forwarded-Proto", b"http, https"), (b"X-Forwarded-Host", b"evil.example, audit.example")]
    assert base([(b"host", b"inner"), *forwarded], **TRUSTING) == "https://audit.example"


@pytest.mark.parametrize("host", [b"a b", b"a/b", b"<script>", b'"', b"a@b", b"\xff", b"x" * 300, b"a:port", b""])
def test_a_host_of_impossible_form_counts_as_missing(host: bytes) -> None:
    assert base([(b"host", host)]) == "http://127.0.0.1:8000"
    assert base([(b"host", b"inner"), (b"X-Forwarded-Host", host)], **TRUSTING) == "http://inner"


def test_a_forwarded_scheme_that_is_none_is_ignored() -> None:
    assert base([(b"host", b"inner"), (b"X-Forwarded-Proto", b"javascript")], **TRUSTING) == "http://inner"


def test_hosts_may_be_ipv6() -> None:
    assert base([(b"host", b"[::1]:8000")]) == "http://[::1]:8000"


def test_bytes_that_are_no_utf_8_go_through_a_link_unchanged() -> None:
    assert page_link("/", parse_query(b"b=\xff&a=%C3%28&page=1"), 2) == "/?a=%C3%28&b=%FF&page=2"


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["6.6.6.6", "192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["unknown"], None),
        ("10.0.0.1", ["192.0.2.7:4711"], None),
        ("192.0.2.9", ["6.6.6.6"], "192.0.2.9"),
        ("2001:DB8::1", [], "2001:db8::1"),
        ("::ffff:192.0.2.9", [], "192.0.2.9"),
        ("::ffff:10.0.0.1", ["::ffff:192.0.2.7"], "192.0.2.7"),
        ("testclient", ["6.6.6.6"], None),
        (None, ["6.6.6.6"], None),
    ],
)
def test_the_sender_is_the_last_address_that_is_no_trusted_proxy(
    client: str | None, forwarded: list[str], address: str | None
) -> None:
    settings = Settings(database_url="", trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"),))
    headers = [(b"X-Forwarded-For", value.encode()) for value in forwarded]
    assert client_address(settings, headers, client) == address
