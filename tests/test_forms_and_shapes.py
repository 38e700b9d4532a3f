"""Every form of write on every shape of table leaves the trail that the rows before and after demand: this and no more.

Each cell works in a transaction of its own that is rolled back; a shape is made once and then a savepoint brings it back.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from tests import forms, shapes
from tests.conftest import SERVER_VARIABLE, Database, TestServer, take_the_generic_way
from tests.forms import Cell, Connection, Form
from tests.model import Shape
from tests.shapes import Features

WAYS = ("compiled", "fallback")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the cells: a form on a shape that it fits, both ways."""
    if "form" not in metafunc.fixturenames:
        return
    server = _features()
    cells = [
        pytest.param(
            way, shape, form, id=f"{shape.name}-{form.name}-{way}", marks=pytest.mark.xdist_group(f"{shape.name}-{way}")
        )
        for way in WAYS
        for shape in shapes.ALL
        for form in forms.ALL
        if server.can_make(shape) and form.minimum_version <= server.version and form.fits(shape)
    ]
    metafunc.parametrize(("way", "shape", "form"), cells)


def _features() -> Features:
    if SERVER_VARIABLE not in os.environ:  # the tests are only listed
        return Features(18, frozenset({"hstore", "citext", "icu", "xml"}))
    server = TestServer(**json.loads(os.environ[SERVER_VARIABLE]))
    with psycopg.connect(Database(server, "postgres").url(), autocommit=True) as connection:
        return shapes.features(connection, server.version)


@dataclass
class Place:
    """A worker's database for one way, and the shape that stands in it."""

    connection: Connection
    way: str
    version: int
    shape: Shape | None = None
    beside: Shape | None = None
    known: frozenset[str] = frozenset()
    commits: bool = False

    def open(self, shape: Shape, commits: bool) -> Cell:
        """Return a cell on the shape as it was made."""
        if (self.shape, self.commits) != (shape, commits):
            self.close()
            self._make(shape)
            if commits:
                self.connection.execute("commit")
            else:
                self.connection.execute("savepoint made")
            self.shape, self.commits = shape, commits
        elif not commits:
            self.connection.execute("rollback to made")
        assert self.beside is not None
        rows, teams = list(shape.rows[:3]), list(self.beside.rows[:3])
        return Cell(self.connection, shape, self.beside, self.way, self.version, rows, teams, set(self.known))

    def close(self) -> None:
        """Take the shape away."""
        self.connection.execute("rollback")
        self.connection.execute("reset all")
        self.shape = None

    def _make(self, shape: Shape) -> None:
        beside = shapes.team(shape.schema)
        statements = [
            "begin",
            *(f"set {setting} to {value}" for setting, value in shape.settings.items()),
            f"create schema {shapes.quoted(shape.schema)}",
            shape.setup,
            beside.setup,
        ]
        for statement in statements:
            self.connection.execute(statement.encode())
        cell = Cell(self.connection, shape, beside, self.way, self.version, [], [])
        self.connection.execute(cell.insert(*shape.rows[:2], *shape.hidden).encode())
        self.connection.execute(cell.insert(shape.rows[2], into=shape.third_row_in).encode())
        other = Cell(self.connection, beside, beside, self.way, self.version, [], [])
        self.connection.execute(other.insert(*beside.rows[:3]).encode())
        if shape.writer:
            self.connection.execute(f"grant all on {beside.target} to {shape.writer}".encode())
        for tracked in (shape, beside):
            self.connection.execute(f"set role {tracked.owner or 'none'}".encode())
            self.connection.execute(f"select audit.enable_tracking({tracked.arguments})".encode())
        self.connection.execute("reset role")
        entries = self.connection.execute("select id::text, event from audit.entry order by created_at").fetchall()
        assert [event for entry_id, event in entries if entry_id not in self.known] == ["tracking_enabled"] * 2
        self.known = frozenset(entry_id for entry_id, _ in entries)
        self.beside = beside


@pytest.fixture(scope="module")
def places(server: TestServer) -> Iterator[dict[str, Place]]:
    """A database for each way, made when it is first asked for."""
    found: dict[str, Place] = {}
    names = {way: f"forms_{way}_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}" for way in WAYS}
    with psycopg.connect(Database(server, "postgres").url(), autocommit=True) as administrator:
        for way, name in names.items():
            administrator.execute(
                sql.SQL("create database {} template {}").format(
                    sql.Identifier(name), sql.Identifier(server.template_dbname)
                )
            )
            connection = psycopg.connect(Database(server, name).url(), autocommit=True)
            if way == "fallback":
                take_the_generic_way(connection)
            found[way] = Place(connection, way, server.version)
        yield found
        for way, name in names.items():
            found[way].connection.close()
            administrator.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def cell(places: dict[str, Place], way: str, shape: Shape, form: Form) -> Iterator[Cell]:
    """The form's cell on its shape."""
    yield places[way].open(shape, form.commits)


def test_the_log_holds_what_was_written(cell: Cell, form: Form) -> None:
    form.run(cell)
    assert cell.observed == cell.expected
