"""Page is the audit log as a web page under Settings: it works without JavaScript, over the same queries as the JSON.

It knows no SQL; every text of the log passes through sentences.show and the templates' escaping.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import jinja2
from litestar import Request, Response, Router, get, post
from litestar.datastructures import Cookie
from litestar.di import Provide
from litestar.enums import MediaType
from litestar.exceptions import HTTPException
from litestar.params import Parameter

from . import queries
from .addresses import Pairs, page_link, parse_query, write_query
from .answers import write_moment
from .credentials import Reader
from .errors import InvalidPage, NotAuthenticated, NotFound, PermissionDenied, Refusal, Unreadable, WrongParameters
from .filters import sentences
from .front import answer_http_exception, answer_unexpected
from .parameters import FILTERS, Form, Listing, event_filters, parse_filters, parse_page, parse_page_size, parse_window
from .routes import AnyRequest, TheAuthentication, TheDatabase, TheReader, TheSettings, asked_by, visitor_of
from .sentences import LOG_TYPES, by_day, show, write_line, write_row
from .settings import Settings

PATH = "/settings/audit-log"
SIGN_IN = PATH + "/sign-in"
SIGN_OUT = PATH + "/sign-out"
STYLE = PATH + "/daybook.css"
# A secret of its own, which opens nothing but the page; it is checked on each request, and ends with its key.
COOKIE = "daybook_session"
PERIODS = {"1": "Last 24 hours", "7": "Last 7 days", "30": "Last 30 days", "90": "Last 90 days"}
LONGEST_FORM = 4096

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Not no-referrer: browsers would then send `Origin: null` with the forms.
    "Referrer-Policy": "same-origin",
}

logger = logging.getLogger("daybook")
templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters["shown"] = show


class SentElsewhere(PermissionDenied):
    """A form of the page that another site sent."""


@cache
def _style() -> bytes:
    return (Path(__file__).parent / "static" / "daybook.css").read_bytes()


@cache
def _style_version() -> str:
    return hashlib.sha256(_style()).hexdigest()[:12]


def _prefix(settings: Settings) -> str:
    """The path below which a proxy serves the app: that of the public URL."""
    return urlsplit(settings.public_url or "").path


def _render(template: str, settings: Settings, status: int = 200, **values: Any) -> Response[bytes]:
    prefix = _prefix(settings)
    paths = {"path": prefix + PATH, "sign_in": prefix + SIGN_IN, "sign_out": prefix + SIGN_OUT}
    style = f"{prefix}{STYLE}?v={_style_version()}"
    text = templates.get_template(template).render(paths, style=style, **values)
    # What was asked for is shown in the form, and need not be UTF-8.
    return Response(text.encode("utf-8", "replace"), status_code=status, headers=HEADERS, media_type=MediaType.HTML)


def _redirect(settings: Settings, path: str, query: str = "") -> Response[bytes]:
    location = _prefix(settings) + path + ("?" + query if query else "")
    return Response(b"", status_code=303, headers={**HEADERS, "Location": location}, media_type=MediaType.HTML)


async def provide_page_reader(request: AnyRequest, authentication: TheAuthentication, settings: TheSettings) -> Reader:
    """The reader that a request of the page comes from. Raises NotAuthenticated, then PermissionDenied."""
    visitor = visitor_of(request.scope, settings)
    return await authentication.page_reader(request.scope["headers"], request.cookies.get(COOKIE, ""), visitor)


def parse_page_listing(query: Pairs, reader: Reader) -> Listing:
    """What the page's filters ask for, and those of the lists. Raises WrongParameters, then InvalidPage."""
    form = Form(query)
    listing = parse_window(form, reader)
    given = {
        "performer": form.take("user", str, None),
        "resource": form.take("resource", str, None),
    }
    events: tuple[str, ...] = form.take("type", _log_type, ())
    filters = parse_filters(form)
    if events:
        filters.pop("not_reading", None)
        filters |= event_filters(events)
    form.refuse_wrong()
    return replace(
        listing,
        page=parse_page(query),
        page_size=parse_page_size(query),
        filters=filters | {name: value for name, value in given.items() if value is not None},
    )


def _log_type(text: str) -> tuple[str, ...]:
    if text not in LOG_TYPES:
        raise ValueError("There is no such log type.")
    return LOG_TYPES[text][1]


def _said(query: Pairs, listing: Listing) -> list[str]:
    """The sentences of the filters that the form has no field for: those of the lists, from links."""
    given = {name for name, value in query if value}
    said = [sentence for name, sentence in sentences(listing.filters) if name in given]
    if "created_after" in given:
        said.append(f"not before {write_moment(listing.lower)}")
    if "created_before" in given:
        said.append(f"before {write_moment(listing.upper)}")
    return said


def _filters(query: Pairs) -> dict[str, str]:
    """What stands in the form: the last value of each filter."""
    return {"user": "", "resource": "", "type": "", "days": "90"} | {name: value for name, value in query if value}


@get(PATH, include_in_schema=False)
async def show_timeline(
    request: AnyRequest, reader: TheReader, database: TheDatabase, settings: TheSettings
) -> Response[bytes]:
    """The timeline, filtered and paged by its address."""
    query = parse_query(request.scope["query_string"])
    shown: dict[str, Any] = {
        "reader": reader,
        "filters": _filters(query),
        "types": {name: label for name, (label, _) in LOG_TYPES.items()},
        "periods": PERIODS,
        "narrowed": any(name in ("user", "resource", "type", *FILTERS) and value for name, value in query),
    }
    try:
        listing = parse_page_listing(query, reader)
        found = await queries.find_entries(database, reader, listing, for_page=True)
    except WrongParameters as refusal:
        wrong = [f"{name}: {' '.join(sentences)}" for name, sentences in refusal.body.items()]
        return _render("timeline.html", settings, refusal.status, **shown, wrong=wrong, said=[], days=[], found=None)
    path = _prefix(settings) + PATH
    return _render(
        "timeline.html",
        settings,
        **shown,
        wrong=[],
        said=_said(query, listing),
        days=by_day(found.rows),
        found=found,
        newer=page_link(path, query, found.page - 1 or None),
        older=page_link(path, query, found.page + 1 if found.page < found.total_pages else None),
    )


@get(PATH + "/entry/{entry_id:str}", include_in_schema=False)
async def show_entry(
    request: AnyRequest,
    reader: TheReader,
    database: TheDatabase,
    settings: TheSettings,
    entry_id: Annotated[str, Parameter()],
) -> Response[bytes]:
    """One entry with a page of its rows."""
    query = parse_query(request.scope["query_string"])
    entry = await queries.find_entry(database, reader, entry_id, for_page=True)
    page, page_size = parse_page(query), parse_page_size(query)
    found = await queries.find_changes(database, reader, entry, page, page_size, for_page=True)
    path = f"{_prefix(settings)}{PATH}/entry/{entry['id']}"
    return _render(
        "entry.html",
        settings,
        reader=reader,
        line=write_line(entry),
        rows=[write_row(row) for row in found.rows],
        found=found,
        newer=page_link(path, query, found.page - 1 or None),
        older=page_link(path, query, found.page + 1 if found.page < found.total_pages else None),
    )


@get(SIGN_IN, include_in_schema=False)
async def show_sign_in(request: AnyRequest, settings: TheSettings) -> Response[bytes]:
    """The form that asks for a key; the page's own address is kept for afterwards."""
    return _render("sign_in.html", settings, problem=None, back=write_query(_kept(request)))


@post(SIGN_IN, include_in_schema=False, request_max_body_size=LONGEST_FORM)
async def sign_in(request: AnyRequest, authentication: TheAuthentication, settings: TheSettings) -> Response[bytes]:
    """Open a session with the key and keep it in a cookie that no script reads and no other site sends."""
    _require_same_site(request, settings)
    form = dict(parse_query(await request.body()))
    key, back = form.get("key", "").strip(), form.get("back", "")
    try:
        session = await authentication.sign_in(key, visitor_of(request.scope, settings))
    except (NotAuthenticated, PermissionDenied) as refusal:
        problem = (
            "This key is not valid."
            if isinstance(refusal, NotAuthenticated)
            else "This key's role may not read the audit log. Ask an administrator of the workspace."
        )
        return _render("sign_in.html", settings, 403, problem=problem, back=back)
    response = _redirect(settings, PATH, write_query(parse_query(back.encode("utf-8", "surrogateescape"))))
    response.set_cookie(_cookie(request, settings, session))
    return response


@post(SIGN_OUT, include_in_schema=False, request_max_body_size=LONGEST_FORM)
async def sign_out(request: AnyRequest, authentication: TheAuthentication, settings: TheSettings) -> Response[bytes]:
    """End the session, here and in the browser."""
    _require_same_site(request, settings)
    await authentication.sign_out(request.cookies.get(COOKIE, ""))
    response = _redirect(settings, SIGN_IN)
    response.set_cookie(replace(_cookie(request, settings, ""), max_age=0))
    return response


@get(STYLE, include_in_schema=False)
async def show_style() -> Response[bytes]:
    """The page's style sheet."""
    return Response(_style(), media_type=MediaType.CSS, headers={"Cache-Control": "public, max-age=86400"})


def _cookie(request: AnyRequest, settings: Settings, session: str) -> Cookie:
    https = asked_by(request, settings).base.startswith("https:")
    secure = https if settings.secure_cookie == "auto" else settings.secure_cookie == "always"
    return Cookie(
        key=COOKIE,
        value=session,
        path=_prefix(settings) + PATH,
        httponly=True,
        # As RFC 6265bis spells it; the framework passes it through.
        samesite="Strict",  # type: ignore[arg-type]
        secure=secure,
    )


def _kept(request: AnyRequest) -> Pairs:
    """The page's own parameters, among those that came with a redirection to the form."""
    return tuple(pair for pair in parse_query(request.scope["query_string"]) if pair[0] != "key")


def _require_same_site(request: AnyRequest, settings: Settings) -> None:
    """Refuse a form that another site sends (OWASP: verifying the origin). Raises SentElsewhere."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise SentElsewhere
    own = urlsplit(asked_by(request, settings).base).netloc
    if site is None and origin is not None and urlsplit(origin).netloc != own:
        raise SentElsewhere


def answer_refusal(request: Request[Any, Any, Any], refusal: Refusal) -> Response[Any]:
    """A refusal as a page; who is not signed in is asked to."""
    settings: Settings = request.app.state.settings
    if isinstance(refusal, NotAuthenticated):
        kept = write_query(_kept(request)) if request.scope["path"].rstrip("/") == PATH else ""
        return _redirect(settings, SIGN_IN, kept)
    response = _render("problem.html", settings, refusal.status, **_problem(refusal))
    response.headers.update({name: value for name, value in refusal.headers.items() if name == "Retry-After"})
    return response


def answer_unexpected_on_page(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Anything else as a page: logged, and shown without a trace of it."""
    answer_unexpected(request, error)
    return answer_refusal(request, Refusal())


def _problem(refusal: Refusal) -> Mapping[str, str]:
    texts = {
        SentElsewhere: (
            "Not allowed",
            "This form was sent from another site, so nothing was done. Sign in or out on the audit log's own page.",
        ),
        PermissionDenied: ("Not allowed", "This key's role may not read the audit log."),
        InvalidPage: ("No such page", "The list ends before this page."),
        NotFound: ("Not found", "There is no such entry, or it is no longer kept."),
        Unreadable: (
            "Could not read",
            "The log cannot be read at the moment. Nothing in it is lost; please try again.",
        ),
    }
    title, text = texts.get(type(refusal), ("Something went wrong", Refusal.detail))
    return {"title": title, "text": text}


def make_router() -> Router:
    """All routes of the page; they need the dependencies `database`, `authentication` and `settings`."""
    return Router(
        "/",
        route_handlers=[show_timeline, show_entry, show_sign_in, sign_in, sign_out, show_style],
        dependencies={"reader": Provide(provide_page_reader)},
        exception_handlers={
            Refusal: answer_refusal,
            HTTPException: answer_http_exception,
            Exception: answer_unexpected_on_page,
        },
    )
