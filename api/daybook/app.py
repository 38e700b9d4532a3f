"""App puts the parts together and serves them: the Litestar application, and `daybook serve`.

It holds no route, no query and no rule of the contract.
"""

import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import uvicorn
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from . import page, routes
from .authentication import Authentication, Authenticator
from .database import Database
from .denials import Denials
from .front import EXCEPTION_HANDLERS, App
from .openapi import complete, describe
from .protocol import Protocol
from .settings import Settings

logger = logging.getLogger("daybook")


class StartError(Exception):
    """The app cannot start as it is set up; the text is a sentence."""


def create_app(settings: Settings, authenticator: Authenticator | None = None) -> Litestar:
    """The application; it connects when it starts, and answers 503 while the database is not there.

    `authenticator` is a host application's own word on who asks, heard before the log's keys; None takes that of the
    settings.
    """
    database = Database(
        settings.conninfo,
        pool_size=settings.pool_size,
        patience=settings.pool_timeout,
        statement_timeout=settings.statement_timeout,
    )

    authentication = Authentication(database, authenticator or settings.authenticator)
    denials = Denials(database, authentication, lambda scope: routes.visitor_of(scope, settings))

    @asynccontextmanager
    async def connected(_: Litestar) -> AsyncIterator[None]:
        await database.open()
        try:
            yield
        finally:
            await denials.close()
            await database.close()

    app = App(
        [routes.make_router(), page.make_router()],
        dependencies={
            "database": Provide(lambda: database, sync_to_thread=False),
            "authentication": Provide(lambda: authentication, sync_to_thread=False),
            "settings": Provide(lambda: settings, sync_to_thread=False),
        },
        lifespan=[connected],
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=describe(),
        state=State({"settings": settings, "watch": page.Watch(database)}),
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    app.on_denied = denials.note
    complete(app.openapi_schema)
    return app


def serve(
    settings: Settings,
    host: str | None = None,
    port: int | None = None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve until a signal to stop, then finish what is being answered.

    `host` and `port` were given by option; None takes the setting. `on_ready` is called once the server answers.
    Raises StartError with a sentence when it cannot start as it is set up, psycopg.Error when the database cannot be
    reached or read.
    """
    check_database(settings)
    listening = listen(
        settings.host if host is None else host,
        settings.port if port is None else port,
        host_by="DAYBOOK_HOST" if host is None else "--host",
        port_by="DAYBOOK_PORT" if port is None else "--port",
    )
    config = uvicorn.Config(
        create_app(settings),
        http=Protocol,
        loop="auto",
        ws="none",
        lifespan="on",
        # Addresses hold what readers look for: they are not logged.
        access_log=False,
        log_level="warning",
        # Which proxies are believed is a setting of ours (addresses.py), not of the server.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    try:
        with _signals_end_here():
            Server(config, on_ready).run(sockets=[listening])
    finally:
        listening.close()


def check_database(settings: Settings) -> None:
    """Make sure that the login reads as audit_reader; warn when it is a superuser. Raises as `serve` does."""
    try:
        with psycopg.connect(settings.conninfo, connect_timeout=10, application_name="daybook serve") as connection:
            login = connection.info.user
            superuser = connection.info.parameter_status("is_superuser")
            connection.execute("set local role audit_reader")
            connection.execute("select from audit.find_key('', ''), audit.retention_days()")
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue) as error:
        raise StartError(
            f'The database login cannot read the log: {error.diag.message_primary}. Run "daybook migrate" if the '
            "database has no log yet; else grant the role audit_reader to the login of DAYBOOK_DATABASE_URL."
        ) from error
    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedFunction) as error:
        raise StartError('This database holds no log of this version: run "daybook migrate" first.') from error
    if superuser == "on":
        print(
            f"warning: the database login {login} is a superuser; use one that is only a member of audit_reader",
            file=sys.stderr,
        )


def listen(host: str, port: int, *, host_by: str = "--host", port_by: str = "--port") -> socket.socket:
    """A socket that listens there (port 0: any free one).

    Raises StartError when it is taken or no address of ours; the sentence names `host_by` or `port_by`, the option or
    setting that said so.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"Cannot listen on {host}: {error.strerror}. Choose another with {host_by}.") from error
    except UnicodeError as error:
        raise StartError(f"Cannot listen on {host}: it is no host's name. Choose another with {host_by}.") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        # The system's own words, without the address that uvloop or socket may add to them.
        wrong = host_by if error.errno == errno.EADDRNOTAVAIL else port_by
        raise StartError(
            f"Cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}. Choose another with {wrong}."
        ) from error
    return listening


@contextmanager
def _signals_end_here() -> Iterator[None]:
    """The server hands a signal on once it has shut down; by then there is nothing left to interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Server(uvicorn.Server):
    """A server that says when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self.on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.on_ready is not None:
            self.on_ready()
