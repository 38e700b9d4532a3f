"""The forms of write that every shape of table is tried with.

Each writes, and says by rows before and after what it wrote; what the log must hold of that is the model's to say.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.model import Change, Entry, Row, Shape, Value, canonical, truncated, written
from tests.shapes import quoted

Connection = psycopg.Connection[tuple[Any, ...]]

ENTRIES = """
select e.id::text, e.event, e.operation, e.table_schema || '.' || e.table_name, e.resource_type, e.resource_id,
       e.resource_name, e.row_key, e.row_count, e.before::text, e.after::text, e.workspace_id, e.context::text
from audit.entry e order by e.created_at, e.id"""
CHANGES = """
select c.entry_id::text, c.workspace_id, c.resource_id, c.resource_name, c.row_key, c.before::text, c.after::text
from audit.change c"""


@dataclass
class Cell:
    """One form on one shape: what it writes, what the log holds of it, and what it should hold."""

    connection: Connection
    shape: Shape
    beside: Shape
    way: str
    version: int
    rows: list[Row]
    teams: list[Row]
    known: set[str] = field(default_factory=set)
    expected: list[list[Entry]] = field(default_factory=list)
    observed: list[list[Entry]] = field(default_factory=list)
    _expecting: list[Entry] = field(default_factory=list)

    # SQL

    @property
    def table(self) -> str:
        return self.shape.target

    def find(self, row: Row, alias: str = "") -> str:
        """Return the condition that finds this row."""
        prefix = f"{alias}." if alias else ""
        return "(" + " and ".join(f"{prefix}{quoted(c)} = {row[c].sql}" for c in self.shape.finders) + ")"

    def assign(self, columns: Iterable[str], row: Row) -> str:
        """Return the SET list that gives these columns the values of a row."""
        return ", ".join(f"{quoted(c)} = {row[c].sql}" for c in columns)

    @property
    def column_list(self) -> str:
        return ", ".join(map(quoted, self.shape.written))

    def values(self, *rows: Row) -> str:
        """Return the VALUES list of whole rows."""
        return ", ".join("(" + ", ".join(row[c].sql for c in self.shape.written) + ")" for row in rows)

    def insert(self, *rows: Row, into: str = "") -> str:
        """Return the INSERT of whole rows."""
        return f"insert into {into or self.table} ({self.column_list}) overriding system value values {self.values(*rows)}"

    def update(self, row: Row, columns: Iterable[str], source: Row, table: str = "") -> str:
        """Return the UPDATE that gives one row these columns of another."""
        return f"update {table or self.table} set {self.assign(columns, source)} where {self.find(row)}"

    def delete(self, row: Row, table: str = "") -> str:
        """Return the DELETE of one row."""
        return f"delete from {table or self.table} where {self.find(row)}"

    # Acting

    def arrange(self, statement: str) -> None:
        """Make what a form needs; what the log says of that belongs to other tests."""
        self.connection.execute(statement.encode())
        if self.shape.writer:
            for schema in {self.shape.schema, self.beside.schema}:
                self.connection.execute(
                    f"grant all on all tables in schema {quoted(schema)} to {self.shape.writer}".encode()
                )
        self.known |= {row[0] for row in self._read(ENTRIES)}

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute a statement as the shape's writer, and return its rows."""
        with self.writing():
            cursor = self.connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def writing(self) -> "Writing":
        """Be the shape's writer for a while."""
        return Writing(self.connection, self.shape.writer)

    # Expecting

    def inserts(self, *rows: Row) -> None:
        self.rows += rows
        self._expecting += written(self.shape, "INSERT", [(None, row) for row in rows])

    def updates(self, *pairs: tuple[Row, Row]) -> None:
        for before, after in pairs:
            self.rows[self.rows.index(before)] = after
        self._expecting += written(self.shape, "UPDATE", pairs)

    def deletes(self, *rows: Row) -> None:
        for row in rows:
            self.rows.remove(row)
        self._expecting += written(self.shape, "DELETE", [(row, None) for row in rows])

    def truncates(self) -> None:
        self._expecting += truncated(self.shape, [*self.rows, *self.shape.hidden])
        self.rows = []

    def expects(self, entries: Sequence[Entry]) -> None:
        """Expect entries of another table."""
        self._expecting += entries

    def then(self) -> None:
        """End a statement: what it left in the log goes beside what it should have left. Its entries have no order."""
        changes: dict[str, list[Change]] = {}
        for entry_id, workspace, resource_id, name, row_key, before, after in self._read(CHANGES):
            if entry_id not in self.known:
                change = Change(workspace, resource_id, name, row_key, canonical(before), canonical(after))
                changes.setdefault(entry_id, []).append(change)
        found = []
        for entry_id, *columns in self._read(ENTRIES):
            if entry_id in self.known:
                continue
            *others, before, after, workspace, context = columns
            own = tuple(sorted(changes.pop(entry_id, []), key=repr))
            found.append(Entry(*others, canonical(before), canonical(after), workspace, canonical(context), own))
            self.known.add(entry_id)
        assert not changes, "rows of no entry"
        self.observed.append(sorted(found, key=repr))
        self.expected.append(sorted(self._expecting, key=repr))
        self._expecting = []

    def _read(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode()).fetchall()


class Writing:
    """The shape's writer, for the length of a block."""

    def __init__(self, connection: Connection, writer: str) -> None:
        self.connection = connection
        self.writer = writer

    def __enter__(self) -> None:
        if self.writer:
            self.connection.execute(f"set role {self.writer}".encode())

    def __exit__(self, kind: object, *_: object) -> None:
        # After an error the savepoint's end gives the role back.
        if self.writer and kind is None:
            self.connection.execute("reset role")


@dataclass(frozen=True)
class Form:
    """A form of write, the shapes that it can be tried on, and why not on others."""

    run: Callable[[Cell], None]
    fits: Callable[[Shape], bool]
    because: str
    minimum_version: int
    commits: bool

    @property
    def name(self) -> str:
        return getattr(self.run, "__name__")  # noqa: B009


ALL: list[Form] = []


def form(
    fits: Callable[[Shape], bool] = lambda shape: True,
    because: str = "",
    minimum_version: int = 15,
    commits: bool = False,
) -> Callable[[Callable[[Cell], None]], Callable[[Cell], None]]:
    """Register a form; `because` says what the shapes lack that it is not for."""

    def register(run: Callable[[Cell], None]) -> Callable[[Cell], None]:
        ALL.append(Form(run, fits, because, minimum_version, commits))
        return run

    return register


def has_key(shape: Shape) -> bool:
    return bool(shape.key)


# INSERT


@form()
def insert_one(cell: Cell) -> None:
    cell.run(cell.insert(cell.shape.rows[3]))
    cell.inserts(cell.shape.rows[3])
    cell.then()


@form()
def insert_many(cell: Cell) -> None:
    cell.run(cell.insert(*cell.shape.rows[3:]))
    cell.inserts(*cell.shape.rows[3:])
    cell.then()


@form()
def update_one(cell: Cell) -> None:
    """All columns but the key: each becomes what it is in another row."""
    row, other = cell.rows[:2]
    cell.run(cell.update(row, cell.shape.settable, other))
    cell.updates((row, cell.shape.assigned(row, cell.shape.settable, other)))
    cell.then()


@form()
def update_many(cell: Cell) -> None:
    """The row that is like this already is none of the statement's changed rows."""
    other = cell.rows[1]
    cell.run(f"update {cell.table} set {cell.assign(cell.shape.settable, other)}")
    cell.updates(*((row, cell.shape.assigned(row, cell.shape.settable, other)) for row in list(cell.rows)))
    cell.then()


@form()
def delete_one(cell: Cell) -> None:
    row = cell.rows[0]
    cell.run(cell.delete(row))
    cell.deletes(row)
    cell.then()


@form()
def truncate(cell: Cell) -> None:
    cell.run(f"truncate {cell.table}")
    cell.truncates()
    cell.then()
