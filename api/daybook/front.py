"""Front is the one place where the app answers otherwise than Litestar would: method rule, HEAD, OPTIONS, error bodies.

It reads neither the database nor a request's body.
"""

import logging
from collections.abc import Callable
from typing import Any, cast

import msgspec
from litestar import Litestar, MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, ExceptionHandlersMap, HTTPScope, Message, Receive, Send

from .errors import NotFound, PermissionDenied, Refusal, TooLong, Unreadable

READ_ONLY = "/api/v1/notification"
READING_METHODS = "GET, HEAD, OPTIONS"
WRITING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
SCHEMA = "/schema/openapi.json"
LONGEST_ADDRESS = 32_768
# In the scope of a request whose answer's body nobody gets.
WITHOUT_BODY = "daybook.without_body"
# Among the extensions of a request: `now` ends its connection, so that its client sees an answer cut short.
CUT_SHORT = "daybook.cut_short"

# For every answer that does not say otherwise: what it holds is one reader's, and no document of its own.
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
)

# The framework's words for a client that ends its connection before the body that it announced.
GONE = "client disconnected prematurely"

logger = logging.getLogger("daybook")


class App(Litestar):
    """Litestar behind the front; `on_denied` is told of each refused write, after its answer."""

    on_denied: Callable[[HTTPScope], None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI: requests go through the front, everything else (lifespan) straight on."""
        if scope["type"] == "http":
            await _answered(super().__call__, scope, receive, send, self.on_denied)
        else:
            await super().__call__(scope, receive, send)


async def _answered(
    app: ASGIApp,
    scope: HTTPScope,
    receive: Receive,
    send: Send,
    on_denied: Callable[[HTTPScope], None] | None,
) -> None:
    """The front, and what is left to say when there was no memory even for the answer that there is none."""
    is_begun = False

    async def send_and_note(message: Message) -> None:
        nonlocal is_begun
        is_begun = True
        await send(message)

    try:
        await front(app, scope, receive, send_and_note, on_denied)
    except MemoryError:
        if is_begun:
            raise
        await _refuse(Unreadable(), send)


async def front(
    app: ASGIApp,
    scope: HTTPScope,
    receive: Receive,
    send: Send,
    on_denied: Callable[[HTTPScope], None] | None = None,
) -> None:
    """Answer what needs no route, and shape the rest: HEAD is GET without its body, OPTIONS is 200."""
    method: str = scope["method"]
    # Routes are found with doubled slashes too: what is refused must be recognised the same way.
    path = "/" + "/".join(part for part in scope["path"].split("/") if part)
    if method in WRITING_METHODS and (path == READ_ONLY or path.startswith(READ_ONLY + "/")):
        await _refuse(PermissionDenied(), send, allow=READING_METHODS)
        if on_denied is not None:
            on_denied(scope)
    elif len(scope["path"]) + len(scope["query_string"]) > LONGEST_ADDRESS:
        await _refuse(TooLong(), send)
    elif (path == "/schema" or path.startswith("/schema/")) and path != SCHEMA:
        # Litestar adds an HTML page for whatever else is asked for below /schema.
        await _refuse(NotFound(), send)
    elif method == "HEAD":
        got = cast("HTTPScope", {**scope, "method": "GET", WITHOUT_BODY: True})
        await app(got, receive, _without_body(_with_headers(send)))
    elif method == "OPTIONS":
        await app(scope, receive, _as_ok(_with_headers(send)))
    else:
        await app(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message["headers"])
            present = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in HEADERS if name not in present]
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers


def _without_body(send: Send) -> Send:
    async def send_without_body(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_without_body


def _as_ok(send: Send) -> Send:
    """Litestar answers OPTIONS itself, with 204 and the methods of its routes, which do not know HEAD."""

    async def send_as_ok(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 204:
            headers = {name.lower(): value for name, value in message["headers"]}
            headers[b"allow"] = _allowed(headers.get(b"allow", b"").decode()).encode()
            headers[b"content-length"] = b"0"
            message = {**message, "status": 200, "headers": list(headers.items())}
        await send(message)

    return send_as_ok


def _allowed(methods: str) -> str:
    """The methods of a route, HEAD beside each GET, in the order of their names."""
    known = {method.strip() for method in methods.split(",")} - {""}
    return ", ".join(sorted(known | {"OPTIONS"} | ({"HEAD"} if "GET" in known else set())))


async def _refuse(refusal: Refusal, send: Send, allow: str | None = None) -> None:
    body = msgspec.json.encode(refusal.body)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *([(b"allow", allow.encode())] if allow else []),
        *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    await _with_headers(send)({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def answer_refusal(_: Request[Any, Any, Any], refusal: Refusal) -> Response[Any]:
    """The body of a refusal, with its status and headers."""
    return Response(
        dict(refusal.body), status_code=refusal.status, headers=dict(refusal.headers), media_type=MediaType.JSON
    )


def answer_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """What the framework itself refuses: exactly `detail`, in the words of the contract."""
    details = {404: NotFound.detail, 405: f'Method "{request.scope["method"]}" not allowed.', 500: Refusal.detail}
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() != "allow"}
    if error.status_code == 405:
        headers["Allow"] = _allowed((error.headers or {}).get("allow", ""))
    if error.status_code >= 500 and error.detail != GONE:
        logger.error("the framework failed", exc_info=error)
    return Response(
        {"detail": details.get(error.status_code, error.detail)},
        status_code=error.status_code,
        headers=headers,
        media_type=MediaType.JSON,
    )


def answer_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Anything else: logged with its path but without its parameters, and answered without a trace of it."""
    logger.error("%s %s failed", request.scope["method"], request.scope["path"], exc_info=error)
    return answer_refusal(request, Refusal())


def answer_without_memory(request: Request[Any, Any, Any], _: MemoryError) -> Response[Any]:
    """Too little memory for this request beside others: it may do later. Its traceback would take more."""
    logger.error("%s %s failed: out of memory", request.scope["method"], request.scope["path"])
    return answer_refusal(request, Unreadable())


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    Refusal: answer_refusal,
    MemoryError: answer_without_memory,
    HTTPException: answer_http_exception,
    Exception: answer_unexpected,
}
