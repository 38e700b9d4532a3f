"""Databases that are not UTF-8: what a request holds beyond their encoding fails neither reading nor its record.

It must not repeat what the tests of each feature say of UTF-8.
"""

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, TestServer, execute_sql_folder
from tests.reading import AS_ADMIN, WORKSPACE, add_keys, opened

Connection = psycopg.Connection[Any]

EXPORT = "/api/v1/notification/export.ndjson"
EURO = {"performer_id": "€"}


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def encoded(server: TestServer, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh database in another encoding, with pg_daybook and the keys."""
    name = f"in_{request.param.lower()}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    maintenance = Database(server, server.maintenance_dbname).connect()
    maintenance.execute(
        sql.SQL("create database {} encoding {} locale 'C' template template0").format(
            sql.Identifier(name), sql.Literal(request.param)
        )
    )
    database = Database(server, name)
    try:
        with psycopg.connect(database.url()) as connection:
            execute_sql_folder(connection)
        add_keys(database.connect())
        yield database
    finally:
        database.close()
        maintenance.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
        maintenance.close()


def recorded(database: Database, event: str) -> list[Any]:
    """The details of the log's own entries of this event."""
    query = "select context ->> 'details' from audit.entry where event = %s"
    return database.connect().execute(query, [event]).fetchall()


def test_an_export_is_refused_or_recorded_by_its_filter_and_never_fails(encoded: Database) -> None:
    with opened(encoded) as api:
        listed = api.get(WORKSPACE, params=EURO, headers=AS_ADMIN)
        exported = api.get(EXPORT, params=EURO, headers=AS_ADMIN)
    assert (listed.status_code, len(recorded(encoded, "log_exported"))) in ((400, 0), (200, 1))
    assert exported.status_code == listed.status_code


def test_a_denied_write_is_recorded_whatever_its_path_holds(encoded: Database) -> None:
    with opened(encoded) as api:
        assert api.post(WORKSPACE + "€", headers=AS_ADMIN).status_code == 403
    [(details,)] = recorded(encoded, "log_write_denied")
    assert r"workspace/\\u20ac" in (details.decode("ascii") if isinstance(details, bytes) else details)
