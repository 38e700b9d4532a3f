"""Errors are the refusals of the REST contract: each knows its status, its body and its headers.

Nothing here knows Litestar or SQL; front.py turns these, and everything unexpected, into answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

Body = Mapping[str, str | Sequence[str]]


class Refusal(Exception):  # noqa: N818 - no error of the program: an answer
    """A request that is answered with something else than what it asked for."""

    status: ClassVar[int] = 500
    headers: ClassVar[Mapping[str, str]] = {}
    detail: ClassVar[str] = "Something went wrong; it has been logged."

    def __init__(self, detail: str | None = None) -> None:
        self.body: Body = {"detail": detail or self.detail}
        super().__init__(str(self.body))


class NotAuthenticated(Refusal):
    """No credentials, or none that are valid (RFC 6750, section 3: every 401 carries the challenge)."""

    status = 401
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}
    detail = "Authentication credentials were not provided."


class PermissionDenied(Refusal):
    """The key's role does not read, or the request would write."""

    status = 403
    detail = "You do not have permission to perform this action."


class NotFound(Refusal):
    """Nothing is there, or nothing that this reader may know of."""

    status = 404
    detail = "Not found."


class InvalidPage(NotFound):
    """The page is no number, or past the end."""

    detail = "Invalid page."


class WrongParameters(Refusal):
    """Query parameters that cannot be read: every wrong one with its sentences, in one body."""

    status = 400

    def __init__(self, fields: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.body = dict(fields)


class Malformed(Refusal):
    """What was sent is no HTTP, or ends before the request does."""

    status = 400
    detail = "Invalid HTTP request."


class TooSlow(Refusal):
    """The request did not arrive whole in time (RFC 9110, 15.5.9)."""

    status = 408
    detail = "The request did not arrive in time."


class Unspeakable(Refusal):
    """A parameter holds a character that the database's encoding lacks."""

    status = 400
    detail = "A parameter holds a character that the database's encoding lacks."


class TooLong(Refusal):
    """The request's address is longer than any that makes sense (RFC 9110, 15.5.15)."""

    status = 414
    detail = "The address is too long."


class HeadTooLong(Refusal):
    """The request's header fields are longer than any that make sense (RFC 6585, 5)."""

    status = 431
    detail = "The header fields are too long."


class Unreadable(Refusal):
    """The log could not be read now: a time-out, no free connection, a lost database."""

    status = 503
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}
    detail = "The log cannot be read at the moment. Please try again."
