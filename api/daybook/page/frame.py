"""Frame is what all pages have in common: templates, headers, addresses, the two files that come along.

It knows neither the log nor who reads it.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import jinja2
from litestar import Response
from litestar.enums import MediaType

from ..addresses import Pairs, page_link, parse_query, write_query
from ..exports import takes_gzip
from ..queries import Found
from ..routes import AnyRequest
from ..sentences import name_age, name_kind, show
from ..settings import Settings

PATH = "/settings/audit-log"
ASSETS = PATH + "/assets/"
FOLDER = Path(__file__).parent.parent
TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# Of the page's own parameters the one that says how it is framed, kept in every link: `none` leaves our header out.
FRAME = "frame"

templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters |= {"shown": show, "age": name_age, "kind": name_kind, "number": lambda number: f"{number:,}"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load, under a name that holds a digest of its content."""

    name: str
    content: bytes
    compressed: bytes
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """The files that pages load, by their name in the folder."""
    found = {}
    for path in sorted((FOLDER / "static").iterdir()):
        content, kind = path.read_bytes(), path.suffix[1:]
        digest = hashlib.sha256(content).hexdigest()[:16]
        found[path.name] = Asset(f"{path.stem}.{digest}.{kind}", content, gzip.compress(content), TYPES[kind])
    return found


def headers(settings: Settings) -> dict[str, str]:
    """The headers of every page."""
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        f"connect-src 'self'; form-action 'self'; frame-ancestors {settings.frame_ancestors}; base-uri 'none'",
        "Cross-Origin-Opener-Policy": "same-origin",
        # Not no-referrer: browsers would then send `Origin: null` with the forms.
        "Referrer-Policy": "same-origin",
    }


def prefix(settings: Settings) -> str:
    """The path below which a proxy serves the app: that of the public URL."""
    return urlsplit(settings.public_url or "").path


@dataclass(frozen=True, slots=True)
class Frame:
    """How the pages of one request are framed, and the addresses that links lead to."""

    root: str
    kind: str
    takes_gzip: bool = False

    @classmethod
    def of(cls, request: AnyRequest, settings: Settings) -> Frame:
        """The frame that a request asks for."""
        given = [value for name, value in parse_query(request.scope["query_string"]) if name == FRAME]
        kind = "none" if given and given[-1] == "none" else ""
        return cls(prefix(settings) + PATH, kind, takes_gzip(request.scope["headers"]))

    def link(self, path: str = "", pairs: Iterable[tuple[str, str]] = ()) -> str:
        """The address of a page with these parameters."""
        kept = [(name, value) for name, value in pairs if name != FRAME]
        query = write_query([*kept, (FRAME, self.kind)] if self.kind else kept)
        return self.root + path + ("?" + query if query else "")

    def entry(self, entry_id: str, rest: str = "") -> str:
        """The address of an entry's page."""
        return f"{self.root}/entry/{entry_id}{rest}" + (f"?{FRAME}={self.kind}" if self.kind else "")

    def filtered(self, **pairs: str) -> str:
        """The address of the timeline with these filters alone."""
        return self._written("", pairs.items())

    def _written(self, path: str, pairs: Iterable[tuple[str, str]]) -> str:
        """As `link`, at less cost: the parameters come in the order of their names, f before the others."""
        frame = f"{FRAME}={self.kind}&" if self.kind else ""
        return f"{self.root}{path}?{frame}" + "&".join(f"{name}={quote_plus(value)}" for name, value in pairs)

    def resource(self, resource_type: str, resource_id: str) -> str:
        """The address of a resource's page."""
        return self._written("/resource", (("id", resource_id), ("type", resource_type)))

    def asset(self, name: str) -> str:
        """The address of a file that pages load."""
        return f"{self.root}/assets/{assets()[name].name}"


@dataclass(frozen=True, slots=True)
class Paging:
    """Where a page of a list stands, and the addresses of its neighbours."""

    page: int
    total_pages: int
    newer: str | None
    older: str | None
    newest: str | None
    oldest: str | None

    @classmethod
    def of(cls, found: Found, address: str, query: Pairs) -> Paging:
        """The paging of a list at an address."""
        page, last = found.page, found.total_pages

        def to(number: int) -> str | None:
            return page_link(address, query, number) if 1 <= number <= last and number != page else None

        return cls(page, last, to(page - 1), to(page + 1), to(1), to(last))


def render(template: str, frame: Frame, settings: Settings, status: int = 200, **values: Any) -> Response[bytes]:
    """A page."""
    text = templates.get_template(template).render(frame=frame, **values)
    # What was asked for is shown in the form, and need not be UTF-8.
    content, sent = text.encode("utf-8", "replace"), {**headers(settings), "Vary": "Accept-Encoding"}
    if frame.takes_gzip:
        # Fast rather than small. Lengths tell strangers nothing: what another site asks for comes without the cookie.
        content, sent["Content-Encoding"] = gzip.compress(content, 1), "gzip"
    return Response(content, status_code=status, headers=sent, media_type=MediaType.HTML)


def redirect(frame: Frame, settings: Settings, path: str, pairs: Iterable[tuple[str, str]] = ()) -> Response[bytes]:
    """An answer that leads to a page."""
    return Response(
        b"",
        status_code=303,
        headers={**headers(settings), "Location": frame.link(path, pairs)},
        media_type=MediaType.HTML,
    )
