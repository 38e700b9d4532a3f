"""Signing in and out: a session of the page, in a cookie that no script reads, opened with a key.

It knows no query; whether a key or session holds is for authentication.py to say.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from litestar import Response, get, post
from litestar.datastructures import Cookie

from ..addresses import Pairs, parse_query, write_query
from ..credentials import Reader
from ..errors import NotAuthenticated, PermissionDenied
from ..routes import AnyRequest, TheAuthentication, TheSettings, asked_by, visitor_of
from ..settings import Settings
from .frame import FRAME, PATH, Frame, redirect, render

SIGN_IN = PATH + "/sign-in"
SIGN_OUT = PATH + "/sign-out"
# A secret of its own, which opens nothing but the page; it is checked on each request, and ends with its key.
COOKIE = "daybook_session"
LONGEST_FORM = 4096


class SentElsewhere(PermissionDenied):
    """A form of the page that another site sent."""


async def provide_page_reader(request: AnyRequest, authentication: TheAuthentication, settings: TheSettings) -> Reader:
    """The reader that a request of the page comes from. Raises NotAuthenticated, then PermissionDenied."""
    visitor = visitor_of(request.scope, settings)
    return await authentication.page_reader(request.scope["headers"], request.cookies.get(COOKIE, ""), visitor)


@get(SIGN_IN, include_in_schema=False)
async def show_sign_in(request: AnyRequest, settings: TheSettings) -> Response[bytes]:
    """The form that asks for a key; the page's own address is kept for afterwards."""
    frame = Frame.of(request, settings)
    return render("sign_in.html", frame, settings, problem=None, back=write_query(kept(request)))


@post(SIGN_IN, include_in_schema=False, request_max_body_size=LONGEST_FORM)
async def sign_in(request: AnyRequest, authentication: TheAuthentication, settings: TheSettings) -> Response[bytes]:
    """Open a session with the key and keep it in a cookie that no script reads and no other site sends."""
    _require_same_site(request, settings)
    frame = Frame.of(request, settings)
    form = dict(parse_query(await request.body()))
    key, back = form.get("key", "").strip(), form.get("back", "")
    try:
        session = await authentication.sign_in(key, visitor_of(request.scope, settings))
    except (NotAuthenticated, PermissionDenied) as refusal:
        problem = (
            "This key is not valid. Copy it whole, from daybook_ on; a key that was lost cannot be shown again, "
            "an administrator makes a new one."
            if isinstance(refusal, NotAuthenticated)
            else "This key's role may not read the audit log. Ask an administrator of the workspace."
        )
        return render("sign_in.html", frame, settings, 403, problem=problem, back=back)
    response = redirect(frame, settings, "", parse_query(back.encode("utf-8", "surrogateescape")))
    response.set_cookie(_cookie(request, settings, session))
    return response


@post(SIGN_OUT, include_in_schema=False, request_max_body_size=LONGEST_FORM)
async def sign_out(request: AnyRequest, authentication: TheAuthentication, settings: TheSettings) -> Response[bytes]:
    """End the session, here and in the browser."""
    _require_same_site(request, settings)
    await authentication.sign_out(request.cookies.get(COOKIE, ""))
    response = redirect(Frame.of(request, settings), settings, "/sign-in")
    response.set_cookie(replace(_cookie(request, settings, ""), max_age=0))
    return response


def kept(request: AnyRequest) -> Pairs:
    """The page's own parameters, among those that came with a redirection to the form."""
    return tuple(pair for pair in parse_query(request.scope["query_string"]) if pair[0] not in ("key", FRAME))


def _cookie(request: AnyRequest, settings: Settings, session: str) -> Cookie:
    https = asked_by(request, settings).base.startswith("https:")
    secure = https if settings.secure_cookie == "auto" else settings.secure_cookie == "always"
    return Cookie(
        key=COOKIE,
        value=session,
        path=urlsplit(settings.public_url or "").path + PATH,
        httponly=True,
        # As RFC 6265bis spells it; the framework passes it through.
        samesite="Strict",  # type: ignore[arg-type]
        secure=secure,
    )


def _require_same_site(request: AnyRequest, settings: Settings) -> None:
    """Refuse a form that another site sends (OWASP: verifying the origin). Raises SentElsewhere."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise SentElsewhere
    own = urlsplit(asked_by(request, settings).base).netloc
    if site is None and origin is not None and urlsplit(origin).netloc != own:
        raise SentElsewhere
