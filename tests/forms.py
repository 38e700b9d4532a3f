"""The forms of write that every shape of table is tried with.

Each writes, and says by rows before and after what it wrote; what the log must hold of that is the model's to say.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from tests.model import Change, Entry, Row, Shape, canonical, truncated, written
from tests.shapes import quoted

Connection = psycopg.Connection[tuple[Any, ...]]

# Bounded by time alone, so that the days that are yet to come need not be planned for.
ENTRIES = """
select e.id::text, e.created_at::text, e.event, e.operation, e.table_schema || '.' || e.table_name,
       e.resource_type, e.resource_id, e.resource_name, e.row_key, e.row_count, e.before::text, e.after::text,
       e.workspace_id, e.context::text
from audit.entry e where e.created_at > %s and e.created_at < %s::timestamptz + interval '1 day'
order by e.created_at, e.id"""
CHANGES = """
select c.entry_id::text, c.created_at::text, c.workspace_id, c.resource_id, c.resource_name, c.row_key,
       c.before::text, c.after::text
from audit.change c where c.created_at > %s and c.created_at < %s::timestamptz + interval '1 day'"""


@dataclass
class Cell:
    """One form on one shape: what it writes, what the log holds of it, and what it should hold."""

    connection: Connection
    shape: Shape
    beside: Shape
    way: str
    version: int
    # No entry of the cell is older, or a day younger: the log's clock is the server's.
    made_at: str
    rows: list[Row] = field(default_factory=list)
    teams: list[Row] = field(default_factory=list)
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
        return (
            f"insert into {into or self.table} ({self.column_list}) overriding system value values {self.values(*rows)}"
        )

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
            schema = quoted(self.shape.schema)
            self.connection.execute(f"grant all on all tables in schema {schema} to {self.shape.writer}".encode())
        self.known |= {row[0] for row in self._read(ENTRIES)}

    def run(self, statement: str) -> int:
        """Execute a statement as the shape's writer; return its number of rows (Python may lack their values)."""
        with self.writing():
            return self.connection.execute(statement.encode()).rowcount

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

    def updates_apart(self, *pairs: tuple[Row, Row]) -> None:
        """Expect the entries of another statement inside the same one."""
        self.updates(*pairs)

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
        changes: dict[tuple[str, str], list[Change]] = {}
        for entry_id, moment, *columns in self._read(CHANGES):
            if entry_id not in self.known:
                *others, before, after = columns
                change = Change._make([*others, canonical(before), canonical(after)])
                changes.setdefault((entry_id, moment), []).append(change)
        found = []
        for entry_id, moment, *columns in self._read(ENTRIES):
            if entry_id not in self.known:
                *others, before, after, workspace, context = columns
                own = tuple(sorted(changes.pop((entry_id, moment), []), key=repr))
                values = (canonical(before), canonical(after), workspace, canonical(context), own)
                found.append(Entry._make([*others, *values]))
                self.known.add(entry_id)
        assert not changes, "rows of no entry"
        self.observed.append(sorted(found, key=repr))
        self.expected.append(sorted(self._expecting, key=repr))
        self._expecting = []

    def _read(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode(), [self.made_at, self.made_at]).fetchall()


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

    name: str
    run: Callable[[Cell], None]
    fits: Callable[[Shape], bool]
    because: str
    minimum_version: int
    commits: bool


ALL: list[Form] = []


def form(
    fits: Callable[[Shape], bool] = lambda shape: True,
    because: str = "",
    minimum_version: int = 15,
    commits: bool = False,
) -> Callable[[Callable[[Cell], None]], Callable[[Cell], None]]:
    """Register a form; `because` says what the shapes lack that it is not for."""

    def register(run: Callable[[Cell], None]) -> Callable[[Cell], None]:
        ALL.append(Form(run.__name__, run, fits, because, minimum_version, commits))
        return run

    return register


def has_key(shape: Shape) -> bool:
    return bool(shape.key)


def is_partitioned(shape: Shape) -> bool:
    return shape.first_partition is not None


def workspace_may_change(shape: Shape) -> bool:
    return shape.workspace in shape.settable


# INSERT and COPY


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
def insert_select(cell: Cell) -> None:
    """A SELECT of two rows, then one of none."""
    head = f"insert into {cell.table} ({cell.column_list}) overriding system value"
    third, fourth = (", ".join(row[c].sql for c in cell.shape.written) for row in cell.shape.rows[3:])
    cell.run(f"{head} select {third} union all select {fourth}")
    cell.inserts(*cell.shape.rows[3:])
    cell.then()
    cell.run(f"{head} select {third} where false")
    cell.then()


@form()
def insert_returning(cell: Cell) -> None:
    assert cell.run(f"{cell.insert(*cell.shape.rows[3:])} returning *") == 2
    cell.inserts(*cell.shape.rows[3:])
    cell.then()


@form(has_key, "without a key nothing conflicts")
def insert_on_conflict_do_nothing(cell: Cell) -> None:
    cell.run(f"{cell.insert(cell.rows[0], cell.shape.rows[3])} on conflict do nothing")
    cell.inserts(cell.shape.rows[3])
    cell.then()
    cell.run(f"{cell.insert(cell.rows[0], cell.rows[1])} on conflict do nothing")
    cell.then()


@form(has_key, "without a key nothing conflicts")
def insert_on_conflict_do_update(cell: Cell) -> None:
    """One row conflicts and changes, one conflicts and stays as it is, one is new."""
    row, other, new = cell.rows[0], cell.rows[1], cell.shape.rows[3]
    changed = cell.shape.assigned(row, cell.shape.settable, other)
    conflict = f"on conflict ({', '.join(map(quoted, cell.shape.key))}) do update set " + ", ".join(
        f"{quoted(c)} = excluded.{quoted(c)}" for c in cell.shape.settable
    )
    cell.run(f"{cell.insert(changed, other, new)} {conflict}")
    cell.updates((row, changed))
    cell.inserts(new)
    cell.then()
    cell.run(f"{cell.insert(row, other)} {conflict} where false")
    cell.then()


def copies_in(shape: Shape) -> bool:
    return not shape.writer


@form(copies_in, "PostgreSQL refuses COPY FROM under row-level security")
def copy_text(cell: Cell) -> None:
    _copy(cell, "text")


@form(copies_in, "PostgreSQL refuses COPY FROM under row-level security")
def copy_binary(cell: Cell) -> None:
    _copy(cell, "binary")


def _copy(cell: Cell, kind: str) -> None:
    # What is copied is what PostgreSQL itself writes for these rows.
    cell.connection.execute("savepoint copied")
    returning = f"copy ({cell.insert(*cell.shape.rows[3:])} returning {cell.column_list}) to stdout (format {kind})"
    with cell.connection.cursor().copy(returning.encode()) as copy:
        content = b"".join(bytes(block) for block in copy)
    cell.connection.execute("rollback to copied")
    copying = f"copy {cell.table} ({cell.column_list}) from stdin (format {kind})"
    with cell.connection.cursor().copy(copying.encode()) as copy:
        copy.write(content)
    cell.inserts(*cell.shape.rows[3:])
    cell.then()


# UPDATE


@form()
def update_one(cell: Cell) -> None:
    """All columns but the key: each becomes what it is in another row."""
    row, other = cell.rows[:2]
    cell.run(cell.update(row, cell.shape.settable, other))
    cell.updates((row, cell.shape.assigned(row, cell.shape.settable, other)))
    cell.then()


@form()
def update_a_column_of_each_type(cell: Cell) -> None:
    """A column of each type, one after the other, in one row and then in two."""
    for column in {cell.shape.columns[c]: c for c in cell.shape.settable}.values():
        row, other, third = cell.rows
        cell.run(cell.update(row, [column], third))
        cell.updates((row, cell.shape.assigned(row, [column], third)))
        cell.then()
        row = cell.rows[0]
        cell.run(f"update {cell.table} set {cell.assign([column], other)} where {cell.find(row)} or {cell.find(third)}")
        cell.updates(*((old, cell.shape.assigned(old, [column], other)) for old in (row, third)))
        cell.then()


@form()
def update_many(cell: Cell) -> None:
    """The row that is like this already is none of the statement's changed rows."""
    other = cell.rows[1]
    cell.run(f"update {cell.table} set {cell.assign(cell.shape.settable, other)}")
    cell.updates(*((row, cell.shape.assigned(row, cell.shape.settable, other)) for row in list(cell.rows)))
    cell.then()


@form()
def update_many_differently(cell: Cell) -> None:
    """One statement that changes other columns in each row, and none in the third."""
    first, second, third = cell.rows
    columns = cell.shape.settable
    halves = (columns[: len(columns) // 2], columns[len(columns) // 2 :])
    assignments = [
        f"{quoted(c)} = case when {cell.find(first)} then {second[c].sql} else {quoted(c)} end" for c in halves[0]
    ]
    assignments += [
        f"{quoted(c)} = case when {cell.find(second)} then {third[c].sql} else {quoted(c)} end" for c in halves[1]
    ]
    cell.run(f"update {cell.table} set {', '.join(assignments)}")
    cell.updates(
        (first, cell.shape.assigned(first, halves[0], second)), (second, cell.shape.assigned(second, halves[1], third))
    )
    cell.then()


@form()
def update_to_null_and_back(cell: Cell) -> None:
    columns = [c for c in cell.shape.settable if c not in cell.shape.not_null]
    first, second, third = cell.rows
    cell.run(f"update {cell.table} set {', '.join(f'{quoted(c)} = null' for c in columns)}")
    cell.updates(*((row, cell.shape.nulled(row, columns)) for row in (first, second, third)))
    cell.then()
    row = cell.rows[0]
    cell.run(cell.update(row, columns, second))
    cell.updates((row, cell.shape.assigned(row, columns, second)))
    cell.then()


@form()
def update_of_no_row(cell: Cell) -> None:
    cell.run(f"update {cell.table} set {cell.assign(cell.shape.settable, cell.rows[1])} where false")
    cell.then()


@form()
def update_without_a_real_change(cell: Cell) -> None:
    """Columns set to themselves and to the same values anew, in one row and in all."""
    columns = [c for c in cell.shape.written if c not in cell.shape.fixed]
    to_themselves = ", ".join(f"{quoted(c)} = {quoted(c)}" for c in columns)
    cell.run(f"update {cell.table} set {to_themselves} where {cell.find(cell.rows[0])}")
    cell.run(f"update {cell.table} set {to_themselves}")
    cell.run(cell.update(cell.rows[0], columns, cell.rows[0]))
    cell.then()


@form()
def update_from(cell: Cell) -> None:
    row, other = cell.rows[:2]
    assignments = ", ".join(f"{quoted(c)} = source.{quoted(c)}" for c in cell.shape.settable)
    cell.run(
        f"update {cell.table} as target set {assignments} from {cell.table} as source"
        f" where {cell.find(row, 'target')} and {cell.find(other, 'source')}"
    )
    cell.updates((row, cell.shape.assigned(row, cell.shape.settable, other)))
    cell.then()


@form()
def update_returning(cell: Cell) -> None:
    row, other = cell.rows[:2]
    assert cell.run(f"{cell.update(row, cell.shape.settable, other)} returning *") == 1
    cell.updates((row, cell.shape.assigned(row, cell.shape.settable, other)))
    cell.then()


@form(workspace_may_change, "the workspace is part of the key")
def update_that_moves_to_another_workspace(cell: Cell) -> None:
    row, third = cell.rows[0], cell.shape.rows[2]
    cell.run(cell.update(row, [cell.shape.workspace], third))
    cell.updates((row, cell.shape.assigned(row, [cell.shape.workspace], third)))
    cell.then()


@form(has_key, "there is no key to change")
def update_of_the_key(cell: Cell) -> None:
    """Of one row, to a key that is free."""
    row, free = cell.rows[0], cell.shape.rows[3]
    cell.run(cell.update(row, cell.shape.key, free))
    cell.updates((row, cell.shape.assigned(row, cell.shape.key, free)))
    cell.then()


@form(lambda shape: has_key(shape) and shape.has_constraint_of_its_own, "no key, or one that is the parent's to defer")
def update_that_shifts_keys(cell: Cell) -> None:
    """Each row takes the key of the next: who pairs by key pairs strangers."""
    names = cell.connection.execute(
        "select conname from pg_constraint where conrelid = %s::regclass and contype = 'p'", [cell.table]
    ).fetchall()
    columns = ", ".join(map(quoted, cell.shape.key))
    cell.arrange(
        f"alter table {cell.table} drop constraint {quoted(names[0][0])};"
        f" alter table {cell.table} add primary key ({columns}) deferrable initially immediate"
    )
    rows = [*cell.rows, cell.shape.rows[3]]
    following = list(pairwise(rows))
    shifts = dict(cell.shape.shift) or {
        c: "case " + " ".join(f"when {cell.find(row)} then {after[c].sql}" for row, after in following) + " end"
        for c in cell.shape.key
    }
    cell.run(f"update {cell.table} set {', '.join(f'{quoted(c)} = {value}' for c, value in shifts.items())}")
    cell.updates(*((row, cell.shape.assigned(row, cell.shape.key, after)) for row, after in following))
    cell.then()


# DELETE and TRUNCATE


@form()
def delete_one(cell: Cell) -> None:
    row = cell.rows[0]
    cell.run(cell.delete(row))
    cell.deletes(row)
    cell.then()


@form()
def delete_many(cell: Cell) -> None:
    """All rows, and then none."""
    cell.run(f"delete from {cell.table}")
    cell.deletes(*cell.rows)
    cell.then()
    cell.run(f"delete from {cell.table}")
    cell.then()


@form()
def delete_using(cell: Cell) -> None:
    row, other = cell.rows[:2]
    cell.run(
        f"delete from {cell.table} as target using {cell.table} as source"
        f" where {cell.find(row, 'target')} and {cell.find(other, 'source')} returning target.*"
    )
    cell.deletes(row)
    cell.then()


@form()
def truncate(cell: Cell) -> None:
    cell.run(f"truncate {cell.table}")
    cell.truncates()
    cell.then()


@form()
def truncate_several(cell: Cell) -> None:
    cell.run(f"truncate {cell.table}, {cell.beside.target}")
    cell.truncates()
    cell.expects(truncated(cell.beside, cell.teams))
    cell.then()


@form()
def truncate_restart_identity(cell: Cell) -> None:
    cell.run(f"truncate {cell.table} restart identity")
    cell.truncates()
    cell.then()


def refers_whole(shape: Shape) -> bool:
    return not shape.third_row_in


@form(refers_whole, "a foreign key of an inheritance parent does not hold for its child")
def truncate_cascade(cell: Cell) -> None:
    _refer(cell, "")
    cell.run(f"truncate {cell.beside.target} cascade")
    cell.truncates()
    cell.expects(truncated(cell.beside, cell.teams))
    cell.then()


# MERGE


def _merge(
    cell: Cell,
    into: str,
    columns: Sequence[str],
    source: Row,
    made: Row,
    order: Sequence[str] = ("update", "delete", "keep", "insert"),
) -> str:
    """Return a MERGE that updates row 0, deletes row 1, leaves row 2 and inserts one."""
    first, second, third = cell.rows
    new = ", ".join(made[c].sql for c in cell.shape.written)
    values = ", ".join(f"('{what}')" for what in order)
    return (
        f"merge into {into} as target using (values {values}) as source (what) on"
        f" case source.what when 'update' then {cell.find(first, 'target')} when 'delete' then"
        f" {cell.find(second, 'target')} when 'keep' then {cell.find(third, 'target')} else false end"
        f" when matched and source.what = 'update' then update set {cell.assign(columns, source)}"
        " when matched and source.what = 'delete' then delete"
        " when matched then do nothing"
        f" when not matched then insert ({cell.column_list}) overriding system value values ({new})"
    )


@form()
def merge(cell: Cell) -> None:
    """All branches in one statement."""
    first, second = cell.rows[:2]
    cell.run(_merge(cell, cell.table, cell.shape.settable, second, cell.shape.rows[3]))
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.deletes(second)
    cell.inserts(cell.shape.rows[3])
    cell.then()


@form()
def merge_that_inserts_first(cell: Cell) -> None:
    """PostgreSQL would hand on the inserted row as the updated one where the table is partitioned."""
    first, second = cell.rows[:2]
    order = ("insert", "keep", "update", "delete")
    cell.run("set enable_hashjoin = off; set enable_mergejoin = off; set enable_sort = off")
    cell.run(_merge(cell, cell.table, cell.shape.settable, second, cell.shape.rows[3], order))
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.deletes(second)
    cell.inserts(cell.shape.rows[3])
    cell.then()


@form()
def merge_of_one_branch_each(cell: Cell) -> None:
    """One row each time: what a MERGE does not do leaves nothing."""
    first, second, third = cell.rows
    using = f"merge into {cell.table} as target using (values (1)) as source (n) on "
    cell.run(
        f"{using} {cell.find(first, 'target')} when matched then update set {cell.assign(cell.shape.settable, second)}"
    )
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.then()
    cell.run(f"{using} {cell.find(third, 'target')} when matched then delete")
    cell.deletes(third)
    cell.then()
    new = ", ".join(cell.shape.rows[3][c].sql for c in cell.shape.written)
    cell.run(f"{using} false when not matched then insert ({cell.column_list}) overriding system value values ({new})")
    cell.inserts(cell.shape.rows[3])
    cell.then()
    cell.run(f"{using} true when matched then do nothing")
    cell.then()


@form(minimum_version=17)
def merge_not_matched_by_source(cell: Cell) -> None:
    first, second, third = cell.rows
    cell.run(
        f"merge into {cell.table} as target using (values (1)) as source (n) on {cell.find(third, 'target')}"
        f" when not matched by source and {cell.find(first, 'target')} then update set"
        f" {cell.assign(cell.shape.settable, second)} when not matched by source then delete"
        " returning merge_action(), target.*"
    )
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.deletes(second)
    cell.then()


@form(is_partitioned, "only rows of partitions move")
def merge_that_moves_a_row_to_another_partition(cell: Cell) -> None:
    """PostgreSQL passes it as a deletion and an insertion."""
    first, second = cell.rows[:2]
    columns, source = _elsewhere(cell)
    cell.run(_merge(cell, cell.table, columns, source, cell.shape.rows[4]))
    cell.deletes(first, second)
    cell.inserts(cell.shape.assigned(first, columns, source), cell.shape.rows[4])
    cell.then()


@form(is_partitioned, "only rows of partitions move")
def merge_that_only_moves_a_row_to_another_partition(cell: Cell) -> None:
    """It neither deletes nor inserts by its text."""
    row = cell.rows[0]
    columns, source = _elsewhere(cell)
    cell.run(
        f"merge into {cell.table} as target using (values (1)) as source (n) on {cell.find(row, 'target')}"
        f" when matched then update set {cell.assign(columns, source)}"
    )
    cell.deletes(row)
    cell.inserts(cell.shape.assigned(row, columns, source))
    cell.then()


def _elsewhere(cell: Cell) -> tuple[Sequence[str], Row]:
    """Return the columns, and the row to take them from, that move the first row to another partition."""
    return (cell.shape.key, cell.shape.rows[3]) if cell.shape.key else ([cell.shape.workspace], cell.shape.rows[2])


# Partitions


def _leaf(cell: Cell, row: Row) -> str:
    assert cell.shape.part_of
    return f"{quoted(cell.shape.schema)}.{quoted(cell.shape.part_of(row))}"


@form(is_partitioned, "only partitioned tables have leaves")
def leaves_by_name(cell: Cell) -> None:
    """Statements that name a leaf are entries of the table."""
    first, second, third = cell.rows
    new = cell.shape.rows[3]
    columns = cell.shape.settable[-1:]
    cell.run(cell.insert(new, into=_leaf(cell, new)))
    cell.inserts(new)
    cell.then()
    cell.run(
        f"update {_leaf(cell, first)} set {cell.assign(columns, third)} where {cell.find(first)} or {cell.find(second)}"
    )
    cell.updates(*((row, cell.shape.assigned(row, columns, third)) for row in (first, second)))
    cell.then()
    cell.run(cell.update(third, columns, second, table=_leaf(cell, third)))
    cell.updates((third, cell.shape.assigned(third, columns, second)))
    cell.then()
    cell.run(cell.delete(new, table=_leaf(cell, new)))
    cell.deletes(new)
    cell.then()
    cell.run(f"truncate {_leaf(cell, first)}")
    cell.expects(truncated(cell.shape, [row for row in cell.rows if _leaf(cell, row) == _leaf(cell, first)]))
    cell.then()


def _partition(cell: Cell) -> tuple[str, str, str]:
    assert cell.shape.first_partition
    above, partition, bounds = cell.shape.first_partition
    schema = quoted(cell.shape.schema)
    return f"{schema}.{quoted(above)}", f"{schema}.{quoted(partition)}", bounds


@form(is_partitioned, "only partitioned tables have partitions")
def partition_detached_and_attached_again(cell: Cell) -> None:
    """What is written while it stands alone is no write of the table; what is written afterwards is."""
    first, second, third = cell.rows
    columns = cell.shape.settable[-1:]
    above, partition, bounds = _partition(cell)
    cell.arrange(f"alter table {above} detach partition {partition}")
    cell.run(f"update {cell.table} set {cell.assign(columns, first)}")
    cell.updates((third, cell.shape.assigned(third, columns, first)))
    cell.then()
    if cell.way == "compiled":  # else its triggers stay with it, and audit.check() says so
        cell.run(f"update {partition} set {cell.assign(columns, third)}")
        cell.run(cell.update(first, columns, first, table=partition))
        cell.run(cell.update(second, columns, second, table=partition))
        cell.then()
    cell.arrange(f"alter table {above} attach partition {partition} {bounds}")
    cell.run(cell.update(first, columns, second))
    cell.updates((first, cell.shape.assigned(first, columns, second)))
    cell.then()
    cell.run(cell.delete(second, table=partition))
    cell.deletes(second)
    cell.then()


@form(is_partitioned, "only partitioned tables have partitions")
def partition_attached_later(cell: Cell) -> None:
    """The rows that it brings are no write; its columns lie in an order of its own."""
    first, second = cell.rows[:2]
    columns = cell.shape.settable[-1:]
    above, partition, bounds = _partition(cell)
    fresh = f"{quoted(cell.shape.schema)}.fresh"
    cell.arrange(
        f"create table {fresh} as select {', '.join(map(quoted, reversed(cell.shape.written)))} from {partition};"
        + "".join(f" alter table {fresh} alter {quoted(c)} set not null;" for c in cell.shape.key)
        + f" alter table {above} detach partition {partition};"
        f" alter table {above} attach partition {fresh} {bounds}"
    )
    cell.run(cell.update(first, columns, second))
    cell.updates((first, cell.shape.assigned(first, columns, second)))
    cell.then()
    cell.run(f"update {cell.table} set {cell.assign(columns, cell.shape.rows[3])}")
    cell.updates(*((row, cell.shape.assigned(row, columns, cell.shape.rows[3])) for row in list(cell.rows)))
    cell.then()
    if cell.way == "compiled":  # else it has no triggers, and audit.check() says so
        cell.run(cell.delete(second, table=fresh))
        cell.deletes(cell.rows[1])
        cell.then()


# One statement that writes more than once


@form()
def cte_that_inserts_updates_and_deletes(cell: Cell) -> None:
    first, second = cell.rows[:2]
    cell.run(
        f"with made as ({cell.insert(cell.shape.rows[3])} returning 1),"
        f" changed as ({cell.update(first, cell.shape.settable, second)} returning 1),"
        f" gone as ({cell.delete(second)} returning 1) select from made, changed, gone"
    )
    cell.inserts(cell.shape.rows[3])
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.deletes(second)
    cell.then()


@form()
def cte_that_writes_twice_in_one_way(cell: Cell) -> None:
    """One statement, one entry for each operation, whatever number of times it writes."""
    first, second, third = cell.rows
    columns = cell.shape.settable
    cell.run(
        f"with made as ({cell.insert(cell.shape.rows[3])} returning 1),"
        f" made_too as ({cell.insert(cell.shape.rows[4])} returning 1),"
        f" changed as ({cell.update(first, columns, second)} returning 1) {cell.update(third, columns[:1], second)}"
    )
    cell.inserts(*cell.shape.rows[3:])
    cell.updates(
        (first, cell.shape.assigned(first, columns, second)), (third, cell.shape.assigned(third, columns[:1], second))
    )
    cell.then()


# Foreign keys: the table refers to teams by its workspace


def _refer(cell: Cell, action: str) -> None:
    workspace = quoted(cell.shape.workspace)
    cell.arrange(
        f"alter table {cell.table} alter column {workspace} set default 'third';"
        f" alter table {cell.table} add foreign key ({workspace}) references {cell.beside.target} {action}"
    )


def _rows_of(cell: Cell, team: Row) -> list[Row]:
    return [row for row in cell.rows if row[cell.shape.workspace] == team["id"]]


def refers_and_may_change(shape: Shape) -> bool:
    return refers_whole(shape) and shape.workspace not in shape.not_null


@form(refers_whole, "a foreign key of an inheritance parent does not hold for its child")
def foreign_key_on_delete_cascade(cell: Cell) -> None:
    """Of one row and then of two."""
    _refer(cell, "on delete cascade")
    for teams in (cell.teams[:1], cell.teams[1:]):
        cell.run(f"delete from {cell.beside.target} where id in ({', '.join(team['id'].sql for team in teams)})")
        cell.expects(written(cell.beside, "DELETE", [(team, None) for team in teams]))
        cell.deletes(*(row for team in teams for row in _rows_of(cell, team)))
        cell.then()


@form(refers_and_may_change, "a foreign key of an inheritance parent does not hold for its child, or part of a key")
def foreign_key_on_delete_set_null(cell: Cell) -> None:
    _refer(cell, "on delete set null")
    team = cell.teams[0]
    cell.run(f"delete from {cell.beside.target} where id = {team['id'].sql}")
    cell.expects(written(cell.beside, "DELETE", [(team, None)]))
    cell.updates(*((row, cell.shape.nulled(row, [cell.shape.workspace])) for row in _rows_of(cell, team)))
    cell.then()


@form(refers_whole, "a foreign key of an inheritance parent does not hold for its child")
def foreign_key_on_delete_set_default(cell: Cell) -> None:
    _refer(cell, "on delete set default")
    team, third = cell.teams[0], {cell.shape.workspace: cell.teams[2]["id"]}
    cell.run(f"delete from {cell.beside.target} where id = {team['id'].sql}")
    cell.expects(written(cell.beside, "DELETE", [(team, None)]))
    cell.updates(*((row, cell.shape.assigned(row, third, third)) for row in _rows_of(cell, team)))
    cell.then()


@form(refers_whole, "a foreign key of an inheritance parent does not hold for its child")
def foreign_key_on_update_cascade(cell: Cell) -> None:
    _refer(cell, "on update cascade")
    team, fourth = cell.teams[0], {cell.shape.workspace: cell.beside.rows[3]["id"]}
    cell.run(f"update {cell.beside.target} set id = 'fourth' where id = {team['id'].sql}")
    cell.expects(written(cell.beside, "UPDATE", [(team, cell.beside.assigned(team, ["id"], cell.beside.rows[3]))]))
    cell.updates(*((row, cell.shape.assigned(row, fourth, fourth)) for row in _rows_of(cell, team)))
    cell.then()


# Code in the database that writes


def _three_writes(cell: Cell) -> str:
    first, second = cell.rows[:2]
    return "; ".join(
        (cell.insert(cell.shape.rows[3]), cell.update(first, cell.shape.settable, second), cell.delete(second))
    )


def _expect_three_writes(cell: Cell) -> None:
    first, second = cell.rows[:2]
    cell.inserts(cell.shape.rows[3])
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.deletes(second)


def _function(cell: Cell, language: str, returns: str, body: str) -> str:
    """Make a function beside the table; return its name."""
    name = f"{quoted(cell.shape.schema)}.work"
    cell.arrange(f"create function {name}() returns {returns} language {language} as $body$ {body} $body$")
    return name


def _trigger_function(cell: Cell, body: str) -> str:
    return _function(cell, "plpgsql", "trigger", f"begin {body} end")


@form()
def function_in_plpgsql(cell: Cell) -> None:
    name = _function(cell, "plpgsql", "void", f"begin {_three_writes(cell)}; end")
    cell.run(f"select {name}()")
    _expect_three_writes(cell)
    cell.then()


@form()
def function_in_sql(cell: Cell) -> None:
    name = _function(cell, "sql", "void", _three_writes(cell))
    cell.run(f"select {name}()")
    _expect_three_writes(cell)
    cell.then()


@form()
def do_block(cell: Cell) -> None:
    """What a block takes back in its exception handler leaves nothing."""
    cell.run(
        f"do $body$ begin begin {cell.delete(cell.rows[2])}; raise 'no'; exception when others then null; end;"
        f" {_three_writes(cell)}; end $body$"
    )
    _expect_three_writes(cell)
    cell.then()


@form()
def trigger_for_each_row_that_writes_here_and_elsewhere(cell: Cell) -> None:
    first, second = cell.rows[:2]
    team = cell.beside.rows[3]
    name = _trigger_function(
        cell,
        f"insert into {cell.beside.target} values ({team['id'].sql}, {team['name'].sql});"
        f" {cell.update(first, cell.shape.settable, second)}; return null;",
    )
    cell.arrange(
        f"create trigger more after insert on {cell.table} for each row when (pg_trigger_depth() = 0)"
        f" execute function {name}()"
    )
    cell.run(cell.insert(cell.shape.rows[3]))
    cell.inserts(cell.shape.rows[3])
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.expects(written(cell.beside, "INSERT", [(None, team)]))
    cell.then()


@form()
def trigger_for_each_statement_that_writes_here_and_elsewhere(cell: Cell) -> None:
    """It comes before the log's own trigger, and writes to the same table in the same way."""
    first, second, third = cell.rows
    columns = cell.shape.settable
    name = _trigger_function(
        cell,
        f"{cell.update(third, columns, second)}; {cell.delete(second)};"
        f" delete from {cell.beside.target} where id = 'third'; return null;",
    )
    cell.arrange(
        f"create trigger aa_before_the_log after update on {cell.table} for each statement"
        f" when (pg_trigger_depth() = 0) execute function {name}()"
    )
    cell.run(cell.update(first, columns, second))
    cell.updates((first, cell.shape.assigned(first, columns, second)))
    cell.updates_apart((third, cell.shape.assigned(third, columns, second)))
    cell.deletes(second)
    cell.expects(written(cell.beside, "DELETE", [(cell.teams[2], None)]))
    cell.then()


@form()
def trigger_before_that_changes_the_row(cell: Cell) -> None:
    """The log holds what was stored, not what the statement said."""
    first, second, third = cell.rows
    column = cell.shape.settable[-1]
    name = _trigger_function(cell, f"new.{quoted(column)} := {third[column].sql}; return new;")
    cell.arrange(f"create trigger other before insert or update on {cell.table} for each row execute function {name}()")
    cell.run(cell.insert(*cell.shape.rows[3:]))
    cell.inserts(*(cell.shape.assigned(row, [column], third) for row in cell.shape.rows[3:]))
    cell.then()
    cell.run(cell.update(first, cell.shape.settable, second))
    changed = cell.shape.assigned(first, cell.shape.settable, second)
    cell.updates((first, cell.shape.assigned(changed, [column], third)))
    cell.then()


@form()
def trigger_before_that_suppresses_a_row(cell: Cell) -> None:
    """Of two rows one is written; of one row none."""
    first, second, third = cell.rows
    new, suppressed = cell.shape.rows[3:]
    name = _trigger_function(
        cell,
        f"if tg_op = 'INSERT' then if {cell.find(suppressed, 'new')} then return null; end if; return new;"
        f" elsif {cell.find(first, 'old')} then return null; elsif tg_op = 'DELETE' then return old; end if;"
        " return new;",
    )
    cell.arrange(
        f"create trigger several before insert or update or delete on {cell.table} for each row"
        f" execute function {name}()"
    )
    cell.run(cell.insert(suppressed, new))
    cell.inserts(new)
    cell.then()
    columns = cell.shape.settable
    cell.run(f"update {cell.table} set {cell.assign(columns, second)}")
    cell.updates(*((row, cell.shape.assigned(row, columns, second)) for row in (third, new)))
    cell.then()
    cell.run(cell.insert(suppressed))
    cell.run(cell.update(first, columns, second))
    cell.run(cell.delete(first))
    cell.then()
    cell.run(f"delete from {cell.table}")
    cell.deletes(*cell.rows[1:])
    cell.then()


@form(is_partitioned, "only rows of partitions move")
def trigger_before_that_suppresses_a_row_which_moves(cell: Cell) -> None:
    """It is gone; what else the statement changed is written as gone and come, because nothing pairs it any more."""
    first, second = cell.rows[:2]
    columns, source = _elsewhere(cell)
    name = _trigger_function(cell, "return null;")
    cell.arrange(f"create trigger none before insert on {cell.table} for each row execute function {name}()")
    column = cell.shape.settable[-1]
    cell.run(
        f"update {cell.table} set {quoted(column)} = {source[column].sql}, "
        + ", ".join(
            f"{quoted(c)} = case when {cell.find(first)} then {source[c].sql} else {quoted(c)} end" for c in columns
        )
        + f" where {cell.find(first)} or {cell.find(second)}"
    )
    cell.deletes(first, second)
    cell.inserts(cell.shape.assigned(second, [column], source))
    cell.then()


@form()
def deferred_constraint_trigger_that_writes(cell: Cell) -> None:
    """It writes when the constraints are made immediate."""
    _late_trigger(cell)
    first, second = cell.rows[:2]
    cell.run(cell.update(first, cell.shape.settable, second))
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.then()
    cell.run("set constraints all immediate")
    _expect_late_writes(cell)
    cell.then()


def _late_trigger(cell: Cell) -> None:
    name = _trigger_function(
        cell,
        f"{cell.insert(cell.shape.rows[3])}; {cell.update(cell.rows[2], cell.shape.settable[:1], cell.rows[1])};"
        f" delete from {cell.beside.target} where id = 'third'; return null;",
    )
    cell.arrange(
        f"create constraint trigger late after update on {cell.table} deferrable initially deferred for each row"
        f" when (pg_trigger_depth() = 0) execute function {name}()"
    )


def _expect_late_writes(cell: Cell) -> None:
    second, third = cell.rows[1:3]
    cell.inserts(cell.shape.rows[3])
    cell.updates((third, cell.shape.assigned(third, cell.shape.settable[:1], second)))
    cell.expects(written(cell.beside, "DELETE", [(cell.teams[2], None)]))


# Ways to send a statement


@form()
def prepared_statements(cell: Cell) -> None:
    """Each is executed so often that PostgreSQL takes a plan which knows no values."""
    _prefer_generic_plans(cell)
    columns, finders = cell.shape.settable, cell.shape.finders
    number = id(cell)
    assignments = ", ".join(f"{quoted(c)} = ${n}" for n, c in enumerate(columns, 1))
    found = " and ".join(f"{quoted(c)} = ${n}" for n, c in enumerate(finders, len(columns) + 1))
    cell.run(f"prepare change_{number} as update {cell.table} set {assignments} where {found}")
    sources = [cell.shape.rows[n] for n in (1, 2)] * 3
    for source in sources:
        row = cell.rows[0]
        given = [*(source[c].sql for c in columns), *(row[c].sql for c in finders)]
        cell.run(f"execute change_{number} ({', '.join(given)})")
        cell.updates((row, cell.shape.assigned(row, columns, source)))
        cell.then()
    assert _generic_plans(cell, f"change_{number}") > 0


def _prefer_generic_plans(cell: Cell) -> None:
    # Where partitions can be pruned the plan that knows its values stays the cheaper one.
    if is_partitioned(cell.shape):
        cell.connection.execute("set plan_cache_mode to force_generic_plan")


def _generic_plans(cell: Cell, name: str) -> int:
    query = "select generic_plans from pg_prepared_statements where name = %s"
    row = cell.connection.execute(query, [name]).fetchone()
    assert row is not None
    return int(row[0])


@form()
def prepared_inserts_and_deletes(cell: Cell) -> None:
    _prefer_generic_plans(cell)
    columns, finders = cell.shape.written, cell.shape.finders
    number = id(cell)
    head = f"insert into {cell.table} ({cell.column_list}) overriding system value"
    cell.run(f"prepare made_{number} as {head} values ({', '.join(f'${n + 1}' for n in range(len(columns)))})")
    found = " and ".join(f"{quoted(c)} = ${n}" for n, c in enumerate(finders, 1))
    cell.run(f"prepare gone_{number} as delete from {cell.table} where {found}")
    for row in [cell.shape.rows[3], cell.shape.rows[4]] * 3:
        cell.run(f"execute made_{number} ({', '.join(row[c].sql for c in columns)})")
        cell.inserts(row)
        cell.then()
        cell.run(f"execute gone_{number} ({', '.join(row[c].sql for c in finders)})")
        cell.deletes(row)
        cell.then()
    assert _generic_plans(cell, f"made_{number}") > 0
    assert _generic_plans(cell, f"gone_{number}") > 0


@form()
def pipeline(cell: Cell) -> None:
    first, second = cell.rows[:2]
    with cell.writing(), cell.connection.pipeline():
        cell.connection.execute(cell.insert(*cell.shape.rows[3:]).encode())
        cell.connection.execute(cell.update(first, cell.shape.settable, second).encode())
        cell.connection.execute(cell.delete(second).encode())
    cell.inserts(*cell.shape.rows[3:])
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.deletes(second)
    cell.then()


@form()
def where_current_of(cell: Cell) -> None:
    # A condition that excludes no partition: the cursor must read those that the statements on it do.
    first, second = cell.rows[:2]
    cell.run(f"declare here cursor for select * from {cell.table} where {cell.find(first)} is true for update")
    cell.run("fetch here")
    cell.run(f"update {cell.table} set {cell.assign(cell.shape.settable, second)} where current of here")
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.then()
    cell.run(f"declare there cursor for select * from {cell.table} where {cell.find(cell.rows[2])} is true for update")
    cell.run("fetch there")
    cell.run(f"delete from {cell.table} where current of there")
    cell.deletes(cell.rows[2])
    cell.then()


# Views and rules


def _view(cell: Cell) -> str:
    name = f"{quoted(cell.shape.schema)}.shown"
    cell.arrange(f"create view {name} with (security_invoker = true) as select {cell.column_list} from {cell.table}")
    return name


@form()
def view_that_is_updatable(cell: Cell) -> None:
    name = _view(cell)
    first, second = cell.rows[:2]
    cell.run(cell.insert(*cell.shape.rows[3:], into=name))
    cell.inserts(*cell.shape.rows[3:])
    cell.then()
    cell.run(cell.update(first, cell.shape.settable, second, table=name))
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.then()
    cell.run(cell.delete(second, table=name))
    cell.deletes(second)
    cell.then()


@form(minimum_version=17)
def view_that_is_merged_into(cell: Cell) -> None:
    name = _view(cell)
    first, second = cell.rows[:2]
    cell.run(_merge(cell, name, cell.shape.settable, second, cell.shape.rows[3]))
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.deletes(second)
    cell.inserts(cell.shape.rows[3])
    cell.then()


@form()
def view_with_an_instead_of_trigger(cell: Cell) -> None:
    """A statement on two rows of the view is as many statements on the table as its trigger makes of it."""
    view = _view(cell)
    first, _, third = cell.rows
    name = _trigger_function(cell, f"{_three_writes(cell)}; return new;")
    cell.arrange(f"create trigger instead instead of update on {view} for each row execute function {name}()")
    cell.run(cell.update(third, cell.shape.settable, first, table=view))
    _expect_three_writes(cell)
    cell.then()


@form()
def rule_that_does_something_else_too(cell: Cell) -> None:
    first, second = cell.rows[:2]
    team = cell.beside.rows[3]
    cell.arrange(
        f"create rule more as on update to {cell.table} do also"
        f" insert into {cell.beside.target} values ({team['id'].sql}, {team['name'].sql})"
    )
    cell.run(cell.update(first, cell.shape.settable, second))
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.expects(written(cell.beside, "INSERT", [(None, team)]))
    cell.then()


@form()
def rule_that_does_something_instead(cell: Cell) -> None:
    """A DELETE that a rule turns into an UPDATE is an UPDATE, an INSERT that it turns into nothing is nothing."""
    first, second = cell.rows[:2]
    column = cell.shape.settable[-1]
    same = " and ".join(f"target.{quoted(c)} = old.{quoted(c)}" for c in cell.shape.finders)
    cell.arrange(
        f"create rule soft as on delete to {cell.table} do instead"
        f" update {cell.table} as target set {cell.assign([column], second)} where {same};"
        f" create rule none as on insert to {cell.table} do instead nothing"
    )
    cell.run(cell.delete(first))
    cell.updates((first, cell.shape.assigned(first, [column], second)))
    cell.then()
    cell.run(cell.insert(cell.shape.rows[3]))
    cell.then()


# Transactions


@form()
def savepoint_rolled_back(cell: Cell) -> None:
    first, second, third = cell.rows
    cell.run(cell.update(first, cell.shape.settable, second))
    cell.connection.execute("savepoint attempt")
    cell.run(_three_writes_after(cell, third))
    cell.connection.execute("rollback to attempt")
    cell.run(cell.delete(second))
    cell.connection.execute("release attempt")
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    cell.deletes(second)
    cell.then()


def _three_writes_after(cell: Cell, third: Row) -> str:
    return f"{cell.insert(*cell.shape.rows[3:])}; {cell.delete(third)}; truncate {cell.table}"


def _commit(cell: Cell, statement: str) -> None:
    """Write in a transaction of its own."""
    cell.connection.execute("begin")
    cell.run(statement)
    cell.connection.execute("commit")


@form(commits=True)
def deferred_constraint_trigger_that_writes_at_commit(cell: Cell) -> None:
    _late_trigger(cell)
    first, second = cell.rows[:2]
    _commit(cell, cell.update(first, cell.shape.settable, second))
    cell.updates((first, cell.shape.assigned(first, cell.shape.settable, second)))
    _expect_late_writes(cell)
    cell.then()


@form(commits=True)
def transaction_rolled_back(cell: Cell) -> None:
    cell.connection.execute("begin")
    cell.run(_three_writes(cell))
    cell.connection.execute("rollback")
    cell.then()


@form(commits=True)
def two_phase_commit(cell: Cell) -> None:
    """The entries come with COMMIT PREPARED, and not before; after ROLLBACK PREPARED there are none."""
    for end in ("rollback", "commit"):
        cell.connection.execute("begin")
        cell.run(_three_writes(cell))
        transaction = f"{cell.connection.info.dbname} {end}"
        cell.connection.execute(f"prepare transaction '{transaction}'".encode())
        cell.then()
        cell.connection.execute(f"{end} prepared '{transaction}'".encode())
        if end == "commit":
            _expect_three_writes(cell)
        cell.then()


@form(commits=True)
def serialization_failure_that_is_retried(cell: Cell) -> None:
    """Both sessions read all and each writes another row: the second to commit fails and does it again."""
    first, second, third = cell.rows
    columns = cell.shape.settable
    reading = f"select count(*) from {cell.table}"
    with psycopg.connect(cell.connection.info.dsn, autocommit=True) as rival:
        other = replace(cell, connection=rival)
        for name, value in cell.shape.settings.items():
            rival.execute(f"set {name} to {value}".encode())
        for session in (cell, other):
            session.connection.execute("begin isolation level serializable")
            session.run(reading)
        cell.run(cell.update(first, columns, second))
        other.run(cell.update(third, columns, second))
        rival.execute("commit")
        with pytest.raises(psycopg.errors.SerializationFailure):
            cell.connection.execute("commit")
    cell.updates((third, cell.shape.assigned(third, columns, second)))
    cell.then()
    cell.connection.execute("begin isolation level serializable")
    cell.run(reading)
    cell.run(cell.update(first, columns, second))
    cell.connection.execute("commit")
    cell.updates((first, cell.shape.assigned(first, columns, second)))
    cell.then()
