"""Schema brings schema audit of a database to the version of this package.

It must not hold SQL of the log: that stands in sql/, its frozen copies in migrations/.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from .postgres import UNREACHABLE

OLDEST_SERVER = 150000


class SchemaError(Exception):
    """The schema cannot be brought to another version; the text is a sentence with the way out."""


def resource_folder(name: str) -> Path:
    """Return the folder `sql` or `migrations`: beside this module in a wheel, at the top of a checkout.

    An editable install leaves a copy in site-packages that goes stale, so the checkout is looked at from the module's
    own place and never from there.
    """
    beside = Path(__file__).resolve().parent / name
    return beside if beside.is_dir() else Path(__file__).resolve().parents[2] / name


def migrate(conninfo: str) -> str:
    """Bring the database to the newest version and return that version.

    Raises SchemaError when the login may not, when the server is too old or when schema audit is not ours, and
    psycopg.OperationalError when the database cannot be reached.
    """
    return _run(conninfo, lambda config: command.upgrade(config, "head"))


def downgrade(conninfo: str, destroy_log: bool = False) -> str:
    """Take the schema back to nothing but its version table and return ''.

    Raises SchemaError unless told to, and when the database holds no log.
    """
    if not destroy_log:
        raise SchemaError("A downgrade would destroy the log with all its entries; say --destroy-log if you mean it.")
    return _run(conninfo, _take_out, destroy_log=True)


def _take_out(config: Config) -> None:
    # Alembic would make its version table first, and schema audit with it.
    if config.attributes["connection"].execute(text("select to_regclass('audit.schema_version')")).scalar() is None:
        raise SchemaError("This database holds no log of pg_daybook: nothing was taken out.")
    command.downgrade(config, "base")


def _run(conninfo: str, action: Callable[[Config], None], destroy_log: bool = False) -> str:
    engine = _engine(conninfo)
    config = Config()
    config.set_main_option("script_location", str(resource_folder("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["destroy_log"] = destroy_log
    try:
        with engine.connect() as connection, connection.begin():
            # Two of these at once: the second waits, and finds nothing left to do.
            connection.execute(text("select pg_advisory_xact_lock(hashtext('pg_daybook'), hashtext('migrate'))"))
            version = connection.execute(text("select current_setting('server_version_num')::integer")).scalar_one()
            if version < OLDEST_SERVER:
                raise SchemaError(f"pg_daybook needs PostgreSQL 15 or newer; this server is {version // 10000}.")
            config.attributes["connection"] = connection
            action(config)
            rows = connection.execute(text("select version_num from audit.schema_version")).scalars().all()
            return rows[0] if rows else ""
    except DBAPIError as error:
        raise _explain(error) from error
    finally:
        engine.dispose()


def _engine(conninfo: str) -> Engine:
    # psycopg reads the connection string itself: SQLAlchemy would want a URL of its own form.
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=NullPool)


def _explain(error: DBAPIError) -> Exception:
    cause = error.orig
    if not isinstance(cause, psycopg.Error):
        return error
    if cause.sqlstate is None or cause.sqlstate.startswith(UNREACHABLE):
        return cause
    sentence = (cause.diag.message_primary or str(cause)).rstrip(".") + "."
    if cause.diag.message_hint:
        sentence += f" {cause.diag.message_hint.rstrip('.')}."
    elif isinstance(cause, psycopg.errors.InsufficientPrivilege):
        sentence += (
            " The first migration wants a superuser, or a login with CREATEROLE that may create schemas;"
            " later ones a member of audit_owner."
        )
    return SchemaError(sentence)
