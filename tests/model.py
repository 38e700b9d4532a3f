"""What the log must hold, computed from the rows before and after a statement.

It must not ask the database, and not know how capture works: it is what the code under test is held against.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

REDACTED = '{"redacted": true}'
EVENTS = {
    "INSERT": "resource_created",
    "UPDATE": "resource_updated",
    "DELETE": "resource_deleted",
    "TRUNCATE": "resource_deleted",
}


@dataclass(frozen=True)
class Value:
    """A column's value: the SQL that writes it and the JSON that the log must hold.

    Two values are identical when their JSON is, save where `image` says that more than the JSON tells them apart.
    """

    sql: str = field(compare=False)
    json: str
    image: str = ""

    @property
    def text(self) -> str:
        """The value as a key: a JSON string without its quotes."""
        return str(json.loads(self.json)) if self.json.startswith('"') else self.json


Row = Mapping[str, Value]


@dataclass(frozen=True)
class Shape:
    """A table: how to make it, its rows, and what entries call it. Rows 0 to 2 are there, 3 and 4 are not."""

    name: str
    setup: str
    schema: str
    table: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    key: tuple[str, ...] = ("id",)
    # Where the key cannot tell: the columns by which a row is found.
    finder: tuple[str, ...] = ()
    # What INSERT does not write, and from which columns it follows.
    generated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # What UPDATE cannot write, and what cannot be null.
    fixed: tuple[str, ...] = ()
    not_null: tuple[str, ...] = ()
    workspace: str = "workspace_id"
    name_column: str | None = None
    subject_column: str | None = None
    resource: tuple[str, ...] = ()
    resource_type: str = ""
    events: Mapping[str, str] = field(default_factory=lambda: EVENTS)
    tracking: str = ""
    excluded: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()
    # The table that SQL names, quoted; the log calls it schema.table whatever that is.
    target: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    shift: Mapping[str, str] = field(default_factory=dict)
    # Another table that holds the last of the first rows.
    third_row_in: str = ""
    writer: str = ""
    owner: str = ""
    hidden: Sequence[Row] = ()
    # The table that a row stands in, where there are several.
    part_of: Callable[[Row], str] | None = None
    # Of a partitioned table: the partition of rows 0 and 1, below which table and with which bounds.
    first_partition: tuple[str, str, str] | None = None
    has_constraint_of_its_own: bool = True
    minimum_version: int = 15
    needs: tuple[str, ...] = ()

    @property
    def name_as_text(self) -> str:
        """The table's name as an SQL literal that regclass reads."""
        name = ".".join('"' + part.replace('"', '""') + '"' for part in (self.schema, self.table))
        return "'" + name.replace("'", "''") + "'"

    @property
    def arguments(self) -> str:
        """The arguments of audit.enable_tracking."""
        return ", ".join(filter(None, [self.name_as_text, self.tracking]))

    @property
    def finders(self) -> tuple[str, ...]:
        return self.finder or self.key

    @property
    def written(self) -> tuple[str, ...]:
        """The columns that INSERT names."""
        return tuple(name for name in self.columns if name not in self.generated)

    @property
    def settable(self) -> tuple[str, ...]:
        """The columns that UPDATE sets without touching the key, or what the row is found by."""
        return tuple(name for name in self.written if name not in (*self.key, *self.finder, *self.fixed))

    def assigned(self, row: Row, columns: Iterable[str], source: Row) -> Row:
        """Return the row with these columns as they are in another, and what is generated from them likewise."""
        names = set(columns)
        following = {name for name, sources in self.generated.items() if names & set(sources)}
        return {**row, **{name: source[name] for name in names | following}}

    def nulled(self, row: Row, columns: Iterable[str]) -> Row:
        """Return the row with these columns null."""
        nulls = {name: Value("null", "null") for name in self.columns}
        return self.assigned(row, columns, nulls)


class Change(NamedTuple):
    """A row of audit.change."""

    workspace: str | None
    resource_id: str | None
    resource_name: str | None
    row_key: str | None
    before: str | None
    after: str | None


class Entry(NamedTuple):
    """A row of audit.entry with its rows of audit.change."""

    event: str
    operation: str
    table: str
    resource_type: str
    resource_id: str | None
    resource_name: str | None
    row_key: str | None
    row_count: int
    before: str | None
    after: str | None
    workspace: str | None
    context: str | None
    changes: tuple[Change, ...]


def canonical(text: str | None) -> str | None:
    """Return JSON in one form, whatever the order of its keys; numbers keep every digit that they were written with."""
    return None if text is None else json.dumps(_exact(text), sort_keys=True, ensure_ascii=False)


def _exact(text: str) -> Any:
    return json.loads(text, parse_int=_number, parse_float=_number)


def _number(digits: str) -> str:
    return f"<{digits}>"


def written(shape: Shape, operation: str, pairs: Iterable[tuple[Row | None, Row | None]]) -> list[Entry]:
    """Return the entries of one operation that made the second row of each pair of the first."""
    groups: dict[str | None, list[tuple[Change, str | None]]] = {}
    for before, after in pairs:
        change = _change(shape, before, after)
        if change is not None:
            row = after if after is not None else before
            assert row is not None
            subject = _text(row[shape.subject_column]) if shape.subject_column else None
            groups.setdefault(change.workspace, []).append((change, subject))
    return [
        _entry(shape, operation, workspace, [change for change, _ in found], [subject for _, subject in found])
        for workspace, found in groups.items()
    ]


def truncated(shape: Shape, rows: Iterable[Row]) -> list[Entry]:
    """Return the entries of a TRUNCATE: one for each workspace, and for each partition, which they name."""
    counts: dict[tuple[str, str | None], int] = {}
    for row in rows:
        part = shape.part_of(row) if shape.part_of else ""
        group = (part, _text(row[shape.workspace]))
        counts[group] = counts.get(group, 0) + 1
    return [
        Entry(
            shape.events["TRUNCATE"],
            "TRUNCATE",
            f"{shape.schema}.{shape.table}",
            shape.resource_type or shape.table,
            *(None, None, None),
            count,
            *(None, None),
            workspace,
            canonical(json.dumps({"details": {"partition": f"{shape.schema}.{part}"}})) if part else None,
            (),
        )
        for (part, workspace), count in counts.items()
    ]


def _change(shape: Shape, before: Row | None, after: Row | None) -> Change | None:
    names = [name for name in shape.columns if name not in shape.excluded]
    if before is not None and after is not None:
        changed = [name for name in names if before[name] != after[name]]
        if not changed:
            return None
        if shape.key:
            names = changed
    row = after if after is not None else before
    assert row is not None
    resource_id = _key(row, shape.resource or shape.key)
    own = _key(before if before is not None else row, shape.key)
    return Change(
        _text(row[shape.workspace]),
        resource_id,
        _text(row[shape.name_column]) if shape.name_column else None,
        None if own == resource_id else own,
        _object(shape, names, before),
        _object(shape, names, after),
    )


def _object(shape: Shape, names: Iterable[str], row: Row | None) -> str | None:
    if row is None:
        return None
    values = {name: REDACTED if name in shape.redacted else row[name].json for name in names}
    return canonical("{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in values.items()) + "}")


def _text(value: Value) -> str | None:
    return None if value.json == "null" else value.text


def _key(row: Row, columns: Sequence[str]) -> str | None:
    if not columns:
        return None
    if len(columns) == 1:
        return _text(row[columns[0]])
    return "[" + ", ".join(row[name].json for name in columns) + "]"


def _entry(
    shape: Shape, operation: str, workspace: str | None, changes: list[Change], subjects: list[str | None]
) -> Entry:
    is_single = len(changes) == 1
    ids = {change.resource_id for change in changes}
    is_one_resource = len(ids) == 1 and None not in ids
    names = [change.resource_name for change in changes if change.resource_name is not None]
    subject = subjects[0] if len(set(subjects)) == 1 else None
    return Entry(
        shape.events[operation],
        operation,
        f"{shape.schema}.{shape.table}",
        shape.resource_type or shape.table,
        changes[0].resource_id if is_one_resource else None,
        min(names) if names and (is_one_resource or is_single) else None,
        changes[0].row_key if is_single else None,
        len(changes),
        changes[0].before if is_single else None,
        changes[0].after if is_single else None,
        workspace,
        None if subject is None else canonical(json.dumps({"subject": {"id": subject, "name": None}})),
        () if is_single else tuple(sorted(changes, key=repr)),
    )
