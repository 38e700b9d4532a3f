"""Every form of write on every shape of table leaves the trail that its rows before and after demand, and no more.

Each cell works in a transaction that is rolled back; a shape is made once, and a savepoint brings it back for the next.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from _pytest.mark import ParameterSet
from psycopg import sql
from psycopg.pq import TransactionStatus

from tests import forms, shapes
from tests.conftest import SERVER_VARIABLE, Database, TestServer, take_the_generic_way
from tests.forms import Cell, Connection, Form
from tests.model import Shape
from tests.shapes import Features
from tests.trail import changes, trail

WAYS = ("compiled", "fallback")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the cells: a form on a shape that it fits, both ways."""
    if "form" not in metafunc.fixturenames:
        return
    server = _features()
    cells = [
        _cell(way, shape, form)
        for way in WAYS
        if metafunc.config.option.way in (None, way)
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


# Faults of the product that are known and not mended, by shape and form.
FAULTS = {
    **{
        (
            shape,
            "merge_that_only_moves_a_row_to_another_partition",
        ): "PostgreSQL fires no trigger that is given the rows"
        for shape in ("partitioned", "partitioned_twice", "partitioned_without_key")
    },
    **{
        ("inheritance_parent", form): "rows of an untracked child are not counted"
        for form in ("truncate", "truncate_several", "truncate_restart_identity")
    },
}


def _cell(way: str, shape: Shape, form: Form) -> ParameterSet:
    marks = [pytest.mark.xdist_group(f"{shape.name}-{way}")]
    if (shape.name, form.name) in FAULTS:
        marks.append(pytest.mark.xfail(strict=True, reason=FAULTS[shape.name, form.name]))
    return pytest.param(way, shape, form, id=f"{shape.name}-{form.name}-{way}", marks=marks)


@dataclass
class Place:
    """A worker's database for one way, and the shape that stands in it."""

    connection: Connection
    way: str
    version: int
    shape: Shape | None = None
    beside: Shape | None = None
    made_at: str = "-infinity"
    is_written: bool = False

    def open(self, shape: Shape, form: Form) -> Cell:
        """Return a cell on the shape as it was made, in a transaction unless the form makes its own."""
        self._roll_back()
        if self.shape is not shape:
            self.close()
            self._make(shape)
        elif self.is_written:
            self._restore(shape)
        self.is_written = form.commits
        if not form.commits:
            self.connection.execute("begin")
        assert self.beside is not None
        return self._cell(shape, rows=list(shape.rows[:3]), teams=list(self.beside.rows[:3]))

    def close(self) -> None:
        """Take the shape away."""
        self._roll_back()
        self.connection.execute("reset all")
        if self.shape is not None and self.beside is not None:
            for tracked in (self.shape, self.beside):
                self.connection.execute(f"select audit.disable_tracking({tracked.name_as_text})".encode())
            self.connection.execute(f"drop schema {shapes.quoted(self.shape.schema)} cascade".encode())
            self.connection.execute("discard temp")
        self.shape = None

    def _roll_back(self) -> None:
        if self.connection.info.transaction_status != TransactionStatus.IDLE:
            self.connection.execute("rollback")

    def _cell(self, shape: Shape, **more: Any) -> Cell:
        return Cell(self.connection, shape, self.beside or shape, self.way, self.version, self.made_at, **more)

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
        self._fill(shape, beside)
        for tracked in (shape, beside):
            self.connection.execute(f"set role {tracked.owner or 'none'}".encode())
            self.connection.execute(f"select audit.enable_tracking({tracked.arguments})".encode())
        self.connection.execute("reset role")
        self.connection.execute("commit")
        self.shape, self.beside, self.is_written = shape, beside, False
        self._note_the_moment()

    def _fill(self, shape: Shape, beside: Shape) -> None:
        cell = self._cell(shape)
        self.connection.execute(cell.insert(*shape.rows[:2], *shape.hidden).encode())
        self.connection.execute(cell.insert(shape.rows[2], into=shape.third_row_in).encode())
        self.connection.execute(self._cell(beside).insert(*beside.rows[:3]).encode())
        if shape.writer:
            self.connection.execute(f"grant all on {beside.target} to {shape.writer}".encode())

    def _restore(self, shape: Shape) -> None:
        assert self.beside
        self.connection.execute(f"drop function if exists {shapes.quoted(shape.schema)}.work cascade".encode())
        self.connection.execute(f"delete from {shape.target}; delete from {self.beside.target}".encode())
        self._fill(shape, self.beside)
        self._note_the_moment()

    def _note_the_moment(self) -> None:
        moment = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')"
        row = self.connection.execute(moment.encode()).fetchone()
        assert row
        self.made_at = row[0]


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
def cell(places: dict[str, Place], way: str, shape: Shape, form: Form) -> Cell:
    """The form's cell on its shape."""
    return places[way].open(shape, form)


def test_the_log_holds_what_was_written(cell: Cell, form: Form) -> None:
    form.run(cell)
    assert cell.observed == cell.expected


def test_each_form_and_each_shape_is_tried_and_says_why_it_is_not() -> None:
    left_out = {form.name: [shape.name for shape in shapes.ALL if not form.fits(shape)] for form in forms.ALL}
    assert [form.name for form in forms.ALL if bool(form.because) != bool(left_out[form.name])] == []
    assert [name for name, without in left_out.items() if len(without) == len(shapes.ALL)] == []
    assert len({form.name for form in forms.ALL}) == len(forms.ALL)
    assert len({shape.name for shape in shapes.ALL}) == len(shapes.ALL)


@pytest.mark.usefixtures("way")
def test_a_truncate_of_a_tracked_parent_counts_a_tracked_child_as_its_own(db: Connection) -> None:
    db.execute("create table document (id integer, workspace_id text)")
    db.execute("create table special () inherits (document)")
    db.execute("insert into document values (1, 'acme')")
    db.execute("insert into special values (2, 'acme'), (3, 'acme')")
    db.execute("select audit.enable_tracking('document'), audit.enable_tracking('special')")
    db.execute("truncate document")
    assert sorted(trail(db, "table_name, operation, row_count")) == [
        ("document", "TRUNCATE", 1),
        ("special", "TRUNCATE", 2),
    ]


LARGE = 50 * 2**20


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("type_name", "literal", "make_content"),
    [
        ("text", f"repeat('ü', {LARGE // 2})", lambda: "ü".encode() * (LARGE // 2)),
        ("bytea", "%b", lambda: random.Random(1).randbytes(LARGE)),
        ("jsonb", f"to_jsonb(array[repeat('x', {LARGE})])", lambda: b'["' + b"x" * LARGE + b'"]'),
    ],
    ids=["text", "bytea", "jsonb"],
)
def test_a_value_of_fifty_megabytes_is_cut_with_its_size_and_digest(
    db: Connection, type_name: str, literal: str, make_content: Callable[[], bytes]
) -> None:
    """By statements on one row and on several."""
    content = make_content()
    cut = {"cut": True, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    db.execute(f"create table file (id integer primary key, workspace_id text, body {type_name})".encode())
    db.execute("select audit.enable_tracking('file')")
    db.execute(f"insert into file values (1, 'acme', {literal})".encode(), [content] if literal == "%b" else [])
    db.execute(
        "insert into file select id + n, workspace_id, case n when 1 then body end from file, generate_series(1, 2) n"
    )
    db.execute("update file set body = null where id = 1")
    db.execute("update file set body = null")
    assert trail(db, "operation, row_count, resource_id, before, after") == [
        ("INSERT", 1, "1", None, {"id": 1, "workspace_id": "acme", "body": cut}),
        ("INSERT", 2, None, None, None),
        ("UPDATE", 1, "1", {"body": cut}, {"body": None}),
        ("UPDATE", 1, "2", {"body": cut}, {"body": None}),
    ]
    assert changes(db) == [
        ("2", None, {"id": 2, "workspace_id": "acme", "body": cut}),
        ("3", None, {"id": 3, "workspace_id": "acme", "body": None}),
    ]
