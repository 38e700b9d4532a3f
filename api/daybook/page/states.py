"""States are the pages that show no entry: each says what is the matter and what to do about it.

They show nothing of the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from ..credentials import Reader
from ..errors import InvalidPage, NotAuthenticated, NotFound, PermissionDenied, Refusal, Unreadable
from ..front import answer_http_exception, answer_unexpected, answer_without_memory
from ..positions import Position
from ..settings import Settings
from .frame import PATH, Frame, redirect, render
from .signing import SentElsewhere, kept


class PastRetention(NotFound):
    """The entry that is asked for is older than what the log keeps."""


@dataclass(frozen=True, slots=True)
class State:
    """What is the matter, and what to do about it."""

    title: str
    text: str
    advice: str


STATES: Mapping[type[Refusal], State] = {
    SentElsewhere: State(
        "Not allowed",
        "This form was sent from another site, so nothing was done.",
        "Sign in or out on the audit log's own page. If this is that page, the app knows it by another address: set "
        "DAYBOOK_PUBLIC_URL.",
    ),
    PermissionDenied: State(
        "Not allowed",
        "This key's role may not read the audit log.",
        "Ask an administrator of the workspace for a key with the role admin or auditor, then sign out and in with it.",
    ),
    InvalidPage: State("No such page", "The list ends before this page.", "Go back to its first page."),
    PastRetention: State(
        "No longer kept",
        "This entry is older than what the log keeps.",
        "Days are dropped whole when their time is over. A database administrator may have a backup or a day on hold.",
    ),
    NotFound: State(
        "Not found",
        "There is no such entry in this workspace.",
        "Check the address. Entries of other workspaces are not shown, not even that they exist.",
    ),
    Unreadable: State(
        "Could not read",
        "The log cannot be read at the moment. Nothing in it is lost.",
        "Try again in a few seconds; a shorter time or fewer words are read faster. If it stays so, see daybook status "
        "and the app's log.",
    ),
}
UNEXPECTED = State(
    "Something went wrong",
    Refusal.detail,
    "Try again. If it stays so, whoever runs the app finds the error in its log.",
)


def require_kept(entry_id: str, reader: Reader) -> None:
    """Raise PastRetention for the id of an entry that is older than what is shown."""
    position = Position.of(entry_id)
    if position is not None and position.moment < reader.oldest:
        raise PastRetention


def answer_refusal(request: Request[Any, Any, Any], refusal: Refusal) -> Response[Any]:
    """A refusal as a page; who is not signed in is asked to."""
    settings: Settings = request.app.state.settings
    frame = Frame.of(request, settings)
    if isinstance(refusal, NotAuthenticated):
        back = kept(request) if request.scope["path"].rstrip("/") == PATH else ()
        return redirect(frame, settings, "/sign-in", back)
    state = STATES.get(type(refusal), UNEXPECTED)
    response = render("problem.html", frame, settings, refusal.status, state=state)
    response.headers.update({name: value for name, value in refusal.headers.items() if name == "Retry-After"})
    return response


def answer_unexpected_on_page(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Anything else as a page: logged, and shown without a trace of it."""
    answer_unexpected(request, error)
    return answer_refusal(request, Refusal())


def answer_without_memory_on_page(request: Request[Any, Any, Any], error: MemoryError) -> Response[Any]:
    """Too little memory for this page beside others."""
    answer_without_memory(request, error)
    return answer_refusal(request, Unreadable())


HANDLERS: Any = {
    Refusal: answer_refusal,
    MemoryError: answer_without_memory_on_page,
    HTTPException: answer_http_exception,
    Exception: answer_unexpected_on_page,
}
