"""Addresses are the absolute URLs of the answers: the base that the client sees, and the links from page to page.

Nothing here reads the database or judges a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import parse_qsl, quote, urlencode

from .settings import Settings

Headers = Iterable[tuple[bytes, bytes]]
Pairs = tuple[tuple[str, str], ...]

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")


def parse_query(raw: bytes) -> Pairs:
    """Name and value of each parameter in their order; bytes that are no UTF-8 stay, as lone surrogates."""
    text = _BEYOND_ASCII.sub(lambda match: b"%%%02X" % match[0][0], raw).decode("ascii")
    return tuple(parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="surrogateescape"))


def write_query(pairs: Iterable[tuple[str, str]]) -> str:
    """The query string of these parameters, sorted by name; repeated ones keep their order."""
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return urlencode(ordered, encoding="utf-8", errors="surrogateescape")


def page_link(url: str, query: Pairs, page: int | None) -> str | None:
    """The URL of a page with every other parameter kept; page 1 is written without `page`. None for no page."""
    if page is None:
        return None
    pairs = [pair for pair in query if pair[0] != "page"] + ([("page", str(page))] if page > 1 else [])
    return url + ("?" + write_query(pairs) if pairs else "")


def with_parameter(query: Pairs, name: str, value: str) -> Pairs:
    """The parameters with this one given once, as `value`."""
    return (*(pair for pair in query if pair[0] != name), (name, value))


def encode_path(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text, safe="")


def base_url(settings: Settings, scheme: str, headers: Headers, client: str | None, server: str) -> str:
    """Scheme, host and port (and prefix) under which the client reaches the app, without a slash at its end.

    `DAYBOOK_PUBLIC_URL`, else what the nearest trusted proxy forwarded, else the request's own Host (RFC 9112, 3.2),
    else the address that was connected to. A Host of impossible form counts as missing.
    """
    if settings.public_url:
        return settings.public_url
    sent = {name.lower(): value for name, value in headers}
    host = _host(sent.get(b"host", b"")) or server
    if client is not None and _trusted(settings, client):
        # Each proxy appends: the last value is the one written by the proxy that we trust.
        forwarded_scheme = sent.get(b"x-forwarded-proto", b"").split(b",")[-1].strip().lower()
        if forwarded_scheme in (b"http", b"https"):
            scheme = forwarded_scheme.decode("ascii")
        host = _host(sent.get(b"x-forwarded-host", b"").split(b",")[-1].strip()) or host
    return f"{scheme}://{host}"


def client_address(settings: Settings, headers: Headers, client: str | None) -> str | None:
    """The address that a request was sent from: the connection's own, or what trusted proxies say in X-Forwarded-For.

    Each proxy appends the address that it was reached from, so the last one that is no trusted proxy counts. None when
    the connection has no address.
    """
    hops = [part.strip() for name, value in headers if name.lower() == b"x-forwarded-for" for part in value.split(b",")]
    address = client
    while address is not None and _trusted(settings, address) and hops:
        address = hops.pop().decode("latin-1")
    number = _address(address or "")
    return None if number is None else str(number)


def _host(value: bytes) -> str | None:
    text = value.decode("latin-1")
    return text if _HOST.fullmatch(text) else None


def _trusted(settings: Settings, client: str) -> bool:
    address = _address(client)
    return address is not None and any(address in network for network in settings.trusted_proxies)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text writes: of IPv4 also where a socket for both writes it as IPv6 (RFC 4291, 2.5.5.2)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
