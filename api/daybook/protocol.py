"""Protocol is HTTP/1.1 as strangers speak it: uvicorn's, with bounds in time and size, and JSON for what is no HTTP.

It must not know a route, a key or the database: what a whole request is answered, front.py and the routes say.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, cast

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from .errors import HeadTooLong, Malformed, Refusal, TooLong, TooSlow
from .front import CUT_SHORT, HEADERS, LONGEST_ADDRESS

# Seconds in which a request must have come whole, from the connection, its first byte or the answer before it on.
PATIENCE = 20.0
# Seconds in which a client must have taken some of what was written for it.
READING_PATIENCE = 20.0
# Seconds for which a client may go on sending what nobody will read, so that it sees the answer.
LINGERING = 2.0
# Seconds that a server which stops gives an answer to end: fewer than after which uvicorn cancels what is left.
LAST_PATIENCE = 8.0
# Bytes of a request line with its header fields.
LONGEST_HEAD = 65_536 + LONGEST_ADDRESS

# RFC 9112, 3: a method is a token.
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}) /[^ ]* HTTP/1\.[01]\r?\n")


class Protocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, with a refusal in JSON for whatever does not arrive as a whole request.

    A refusal takes its turn behind the answers to the requests before it, and ends the connection: nothing that
    follows on it is parsed. The parser ends at a method that is not on its list; a request that came with its request
    line whole and first in what was received is then parsed once more, as if it were a TRACE, and handed on with its
    own method.
    """

    # What part of a request is being received; nothing between two requests.
    arriving: Literal["", "head", "body"] = ""
    # How many requests began in the bytes that are being parsed, and the bytes of the head so far.
    begun = 0
    head_size = 0
    unknown_method = ""
    # The request that is being answered, or was last. `cycle` is the one that came last.
    answered: RequestResponseCycle | None = None
    # Nothing more is parsed; what is still to be written when all requests before are answered.
    ended = False
    last_words = b""
    deadline: asyncio.TimerHandle | None = None
    reading_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._forget_reading_deadline()
        self.pipeline.clear()
        if self.answered is not None:
            _leave(self.answered)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data and not self.ended:
            length = LONGEST_HEAD - (self.head_size if self.arriving == "head" else 0)
            self._parse(data[:length])
            data = data[length:]
        if self.deadline is None and not self.is_busy():
            self._expect_a_request()

    def _parse(self, data: bytes) -> None:
        before, self.begun = self.arriving, 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No other protocol is spoken: answered as what it is without the wish to change (RFC 9110, 7.8).
            self.cycle.keep_alive = False
            self.ended = True
        except httptools.HttpParserError as error:
            line = None if before else _REQUEST_LINE.match(data)
            if line and self.begun == 1 and self.arriving == "head" and _is_of_method(error):
                self.unknown_method, self.arriving = line[1].decode("ascii"), ""
                self.parser = httptools.HttpRequestParser(self)
                self._parse(b"TRACE" + data[line.end(1) :])
            else:
                self.refuse(TooLong() if self._has_a_long_address() else Malformed())
            return
        if self.arriving == "head":
            # Where a request began among others that came with it is not known: then its size counts from here.
            self.head_size += len(data) if (before, self.begun) in (("head", 0), ("", 1)) else 0
            if self.head_size >= LONGEST_HEAD:
                self.refuse(TooLong() if self._has_a_long_address() else HeadTooLong())

    def _has_a_long_address(self) -> bool:
        return self.arriving == "head" and len(self.url) > LONGEST_ADDRESS

    def on_message_begin(self) -> None:
        self.begun += 1
        self.arriving, self.head_size = "head", 0
        super().on_message_begin()
        self._expect_a_request()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Fields after a body are no part of the head, which a proxy has judged (RFC 9110, 6.5.1).
        if self.arriving == "head":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if sum(name == b"host" for name, _ in self.headers) > 1:
            # RFC 9112, 3.2: whoever stands between might have believed the other one.
            raise ValueError("more than one Host")
        self.scope["extensions"] = {CUT_SHORT: {"now": self.transport.close}}
        super().on_headers_complete()
        self.arriving = "body"
        if not self.pipeline:
            self.answered = self.cycle
        self.cycle.transport = cast(asyncio.Transport, _LingeringTransport(self, self.cycle))
        if self.unknown_method:
            # The request is answered from the event loop, later.
            self.scope["method"], self.unknown_method = self.unknown_method, ""

    def on_message_complete(self) -> None:
        self.arriving = ""
        self._forget_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.pipeline:
            self.answered = self.pipeline[-1][0]
        if self.last_words and not self.is_busy():
            self.end(self.last_words)
        else:
            super().on_response_complete()
        if self.arriving:
            self._expect_a_request()
        self._expect_reading()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open: until what came whole is answered."""
        if self.arriving == "body" and self.is_busy() and self.answered is self.cycle:
            # It may be answered without its body; what waits for the body ends at the deadline.
            self.cycle.keep_alive = False
        elif self.arriving and not self.ended:
            self.refuse(Malformed())
        elif self.cycle is not None:
            self.cycle.keep_alive = False
        return self.is_busy()

    def shutdown(self) -> None:
        """The server stops: nothing more is asked here, and what is being answered ends, or is cut short."""
        super().shutdown()
        self.loop.call_later(LAST_PATIENCE, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_reading_deadline()

    def is_busy(self) -> bool:
        """Whether a request is being answered, or waits for its turn."""
        answered = self.answered
        return bool(self.pipeline) or not (answered is None or answered.response_complete or answered.disconnected)

    def refuse(self, refusal: Refusal) -> None:
        """Answer the request that is arriving with a refusal, when it is its turn, and nothing after it."""
        arriving, self.arriving, self.ended = self.arriving, "", True
        self._forget_deadline()
        words = self._write_refusal(refusal)
        if arriving == "body" and self.answered is self.cycle:
            # What was answered without its body is not answered twice.
            words = b"" if self.cycle.response_started else words
            _leave(self.cycle)
            self.end(words)
            return
        if arriving == "body":
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else cast(RequestResponseCycle, self.answered)
        if self.is_busy():
            self.last_words = words
        else:
            self.end(words)

    def end(self, words: bytes = b"") -> None:
        """Write the last words and close, once the client has closed or had the time to read them.

        A connection that is closed with bytes unread takes back what was written before (RFC 9112, 9.6).
        """
        self.ended, self.last_words = True, b""
        self._unset_keepalive_if_required()
        self._forget_deadline()
        if self.transport.is_closing():
            return
        if words:
            self.transport.write(words)
        self.flow.resume_reading()
        self.deadline = self.loop.call_later(LINGERING, self.transport.close)
        # asyncio's own loop says so when the client is gone already.
        with suppress(OSError):
            self.transport.write_eof()
        self._expect_reading()

    def _write_refusal(self, refusal: Refusal) -> bytes:
        body = msgspec.json.encode(refusal.body)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"connection", b"close"),
            *HEADERS,
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        return b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", body])

    # Time

    def _expect_a_request(self) -> None:
        if not self.ended:
            self._forget_deadline()
            self.deadline = self.loop.call_later(PATIENCE, self._lose_patience)

    def _lose_patience(self) -> None:
        self.deadline = None
        if self.is_busy() and (self.arriving != "body" or self.answered is not self.cycle):
            # Its time starts when its turn comes.
            return
        if self.arriving:
            self.refuse(TooSlow())
        else:
            self.transport.close()

    def _expect_reading(self) -> None:
        self._forget_reading_deadline()
        size = self.transport.get_write_buffer_size()
        if size:
            self.reading_deadline = self.loop.call_later(READING_PATIENCE, self._require_reading, size)

    def _require_reading(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._expect_reading()
        else:
            self.transport.abort()

    def _forget_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _forget_reading_deadline(self) -> None:
        if self.reading_deadline is not None:
            self.reading_deadline.cancel()
            self.reading_deadline = None


class _LingeringTransport:
    """The transport as the answer to a request sees it: closing waits for the rest of the request's body."""

    def __init__(self, protocol: Protocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self.write: Callable[[bytes], None] = protocol.transport.write
        self.is_closing: Callable[[], bool] = protocol.transport.is_closing

    def close(self) -> None:
        if self._protocol.arriving and self._cycle.response_complete:
            self._protocol.end()
        else:
            self._protocol.transport.close()


def _leave(cycle: RequestResponseCycle) -> None:
    """Let the application finish for nobody."""
    cycle.disconnected = True
    cycle.message_event.set()


def _is_of_method(error: Any) -> bool:
    """Whether the parser stumbled over the method: one it does not know, or knows of another protocol (RTSP)."""
    return isinstance(error, httptools.HttpParserInvalidMethodError) or "Invalid method" in str(error)
