"""The floor: the least that a hand-written trigger could do. Changed columns only; no index, no actor, no context.

It is no log to use: it knows its tables by heart and notices nothing when they change.
"""

from __future__ import annotations

from .tables import DOCUMENT, DOCUMENT_COLUMNS, WIDE, WIDE_COLUMNS

LOG = """
create table change_log (
    happened_at timestamptz not null, table_name text not null, operation text not null, key integer not null,
    before jsonb, after jsonb)
"""


def installation() -> list[str]:
    """Return the statements that track both tables by hand."""
    return [
        LOG,
        *tracking(DOCUMENT, [column for column in DOCUMENT_COLUMNS if column != "updated_at"]),
        *tracking(WIDE, list(WIDE_COLUMNS)),
    ]


def tracking(table: str, columns: list[str]) -> list[str]:
    """A function and a trigger for each operation; an UPDATE stores those of the columns that changed, in both rows."""
    updated = f"""
        select clock_timestamp(), '{table}', 'UPDATE', n.id, {changed("o", columns)}, {changed("n", columns)}
        from old_rows o join new_rows n using (id)
        where ({", ".join(f"o.{column}" for column in columns)})
              is distinct from ({", ".join(f"n.{column}" for column in columns)})
    """
    inserted = f"select clock_timestamp(), '{table}', 'INSERT', n.id, null::jsonb, to_jsonb(n) from new_rows n"
    deleted = f"select clock_timestamp(), '{table}', 'DELETE', o.id, to_jsonb(o), null::jsonb from old_rows o"
    old, new = "old table as old_rows", "new table as new_rows"
    return [
        *trigger(table, "insert", new, inserted),
        *trigger(table, "update", f"{old} {new}", updated),
        *trigger(table, "delete", old, deleted),
    ]


def changed(row: str, columns: list[str]) -> str:
    """The changed columns of this row as jsonb: put together as text, for that is what costs least."""
    pairs = (
        f"""case when o.{column} is distinct from n.{column}
                 then '"{column}":' || coalesce(to_jsonb({row}.{column})::text, 'null') end"""
        for column in columns
    )
    return "('{' || concat_ws(',', " + ", ".join(pairs) + ") || '}')::jsonb"


def trigger(table: str, operation: str, tables: str, query: str) -> list[str]:
    # Planned each time: a plan made for one row would join 100,000 by nested loops.
    return [
        f"""
        create function log_{table}_{operation}() returns trigger language plpgsql as $function$
        begin
            insert into change_log {query};
            return null;
        end
        $function$
        """,
        f"alter function log_{table}_{operation}() set enable_nestloop = off",
        f"""
        create trigger log_{operation} after {operation} on {table} referencing {tables}
            for each statement execute function log_{table}_{operation}()
        """,
    ]
