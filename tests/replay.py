"""The log read from nothing: the rows of one table, rebuilt from its entries alone.

It must not ask the table, and it must not know what the test did: only what the log says.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from tests.trail import Connection

# A row as the log tells it: each column with the JSON text of its value; None where the log says that it does not know.
Row = dict[str, str | None]

# Types between which ALTER … TYPE leaves the JSON of a value as it is, or makes a string of a number.
SAME_JSON = {("integer", "bigint"), ("integer", "numeric"), ("bigint", "numeric")}
NUMBER_TO_TEXT = {("integer", "text"), ("bigint", "text")}

CHANGES = """
select e.created_at, e.transaction_id::text as transaction, e.operation, e.row_count, e.workspace_id,
       coalesce(e.row_key, e.resource_id) as key,
       (select json_object_agg(b.key, b.value::text) from jsonb_each(e.before) b) as before,
       (select json_object_agg(a.key, a.value::text) from jsonb_each(e.after) a) as after, null::json as details
from audit.entry e
where e.created_at >= %(since)s and e.operation in ('INSERT', 'UPDATE', 'DELETE') and e.row_count = 1
union all
select e.created_at, e.transaction_id::text, e.operation, e.row_count, e.workspace_id,
       coalesce(c.row_key, c.resource_id),
       (select json_object_agg(b.key, b.value::text) from jsonb_each(c.before) b),
       (select json_object_agg(a.key, a.value::text) from jsonb_each(c.after) a), null
from audit.entry e
join audit.change c on c.entry_id = e.id and c.created_at = e.created_at
where e.created_at >= %(since)s and e.operation in ('INSERT', 'UPDATE', 'DELETE') and e.row_count > 1
union all
select e.created_at, e.transaction_id::text, e.operation, e.row_count, e.workspace_id, null, null, null,
       (e.context -> 'details')::json
from audit.entry e
where e.created_at >= %(since)s and e.operation = 'TRUNCATE'
union all
select e.created_at, e.transaction_id::text, e.event, 0, null, null, null,
       (select json_object_agg(f.key, f.value::text) from jsonb_each(e.context -> 'details' -> 'filled_columns') f),
       (e.context -> 'details')::json
from audit.entry e
where e.created_at >= %(since)s and e.event = 'table_altered'
order by 1
"""


@dataclass(frozen=True)
class Step:
    """One changed row, or one alteration of the table."""

    moment: datetime
    transaction: str
    operation: str
    row_count: int
    workspace: str | None
    key: str | None
    before: dict[str, str] | None
    after: dict[str, str] | None
    details: dict[str, Any] | None


class ReplayError(AssertionError):
    """The log tells something that cannot have happened."""


def replay(connection: Connection, since: datetime, key_columns: list[str]) -> list[Row]:
    """Rebuild the rows of the one table that the entries since that moment are about.

    `key_columns` are the primary key's as the table was made; a renamed one is followed. Empty: the table has none.
    """
    rows: list[Row] = []
    keys = list(key_columns)
    workspace_column = "workspace_id"
    steps = [Step(*line) for line in connection.execute(CHANGES, {"since": since})]
    for _, group in groupby(steps, key=_statement):
        together = list(group)
        if together[0].operation == "table_altered":
            for step in together:
                assert step.details is not None
                keys = [step.details["renamed_columns"].get(name, name) for name in keys]
                workspace_column = step.details["renamed_columns"].get(workspace_column, workspace_column)
                rows = [_altered(row, step.details, step.after or {}) for row in rows]
        elif together[0].operation == "TRUNCATE":
            rows = _without_truncated(rows, together, workspace_column)
        else:
            rows = _changed(rows, together, keys)
    return rows


def _statement(step: Step) -> tuple[str, str, datetime | None]:
    """Return what the steps of one statement have in common: they happened at once, at one moment.

    Each partition that TRUNCATE empties has a moment of its own.
    """
    return step.transaction, step.operation, None if step.operation == "TRUNCATE" else step.moment


def _changed(rows: list[Row], steps: list[Step], keys: list[str]) -> list[Row]:
    """Apply what one statement did: first find every old row, then put the new ones in their place."""
    waiting: dict[str | None, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        waiting[_key(row, keys)].append(number)
    gone: set[int] = set()
    added: list[Row] = []
    for step in steps:
        if step.before is None:
            assert step.after is not None
            added.append(dict(step.after))
            continue
        found = _find(rows, waiting[step.key if keys else None], gone, step.before)
        if found is None:
            raise ReplayError(f"{step} finds none of {[rows[number] for number in waiting[step.key]]}")
        gone.add(found)
        if step.after is not None:
            added.append({**rows[found], **step.after})
    return [row for number, row in enumerate(rows) if number not in gone] + added


def _find(rows: list[Row], candidates: list[int], gone: set[int], before: dict[str, str]) -> int | None:
    for number in candidates:
        if number not in gone and all(rows[number].get(name) in (value, None) for name, value in before.items()):
            return number
    return None


def _without_truncated(rows: list[Row], steps: list[Step], workspace_column: str) -> list[Row]:
    """Empty the table; how many rows there were, by workspace, must be what the log says."""
    if any(step.details and step.details.get("row_count_is_estimated") for step in steps):
        return []
    told: dict[str | None, int] = defaultdict(int)
    for step in steps:
        told[step.workspace] += step.row_count
    there: dict[str | None, int] = defaultdict(int)
    for row in rows:
        workspace = row.get(workspace_column)
        there[json.loads(workspace) if workspace is not None else None] += 1
    if told != there:
        raise ReplayError(f"TRUNCATE of {told}, but there were {dict(there)}")
    return []


def _key(row: Row, keys: list[str]) -> str | None:
    """Return a row's key as row_key and resource_id write it."""
    values = [json.loads(str(row[name]), parse_float=_Number, parse_int=_Number) for name in keys]
    if len(values) == 1:
        return str(values[0])
    return "[" + ", ".join(str(row[name]) for name in keys) + "]" if values else None


class _Number(str):
    """A number's own text, which no float may round."""


def _altered(row: Row, details: dict[str, Any], filled: dict[str, str]) -> Row:
    renamed: dict[str, str] = details["renamed_columns"]
    dropped = details["dropped_columns"]
    altered: Row = {renamed.get(name, name): value for name, value in row.items() if name not in dropped}
    for name in details["added_columns"]:
        altered[name] = filled.get(name, "null")
    for name in details.get("rewritten_columns", []):
        types = details.get("retyped_columns", {}).get(name)
        pair = (types["from"], types["to"]) if types else None
        value = altered.get(name)
        if pair in NUMBER_TO_TEXT and value not in (None, "null"):
            altered[name] = f'"{value}"'
        elif pair not in SAME_JSON | NUMBER_TO_TEXT:
            altered[name] = None
    return altered


def differences(connection: Connection, table: str, rebuilt: list[Row]) -> Iterator[str]:
    """Compare rebuilt rows with those of the real table, as PostgreSQL's own text of whole rows.

    Where the log says that it does not know a value, the real row's is left out on both sides.
    """
    columns = [
        name
        for (name,) in connection.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
            " order by attnum",
            [table],
        )
    ]
    unknown = sorted({name for row in rebuilt for name in columns if row.get(name, "null") is None})
    for row in rebuilt:
        if extra := row.keys() - set(columns):
            yield f"the log knows columns that the table has not: {extra}"
            return
    known = [name for name in columns if name not in unknown]
    shown = "row(" + ", ".join(f'r."{name}"' for name in known) + ")::text"
    real = connection.execute(f"select {shown} from {table} r order by 1".encode()).fetchall()
    documents = [
        "{" + ", ".join(f"{json.dumps(name)}: {row.get(name, 'null')}" for name in known) + "}" for row in rebuilt
    ]
    populated = f"unnest(%s::text[]) d, jsonb_populate_record(null::{table}, d::jsonb) r"
    ours = connection.execute(f"select {shown} from {populated} order by 1".encode(), [documents]).fetchall()
    if real != ours:
        yield f"only in the table: {[r for (r,) in real if (r,) not in ours]}"
        yield f"only in the log: {[r for (r,) in ours if (r,) not in real]}"
        yield f"{len(real)} rows in the table, {len(ours)} in the log"
