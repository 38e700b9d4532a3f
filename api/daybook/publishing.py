"""What the witness has the server publish: publications, replica identities, and what is noted of them.

It must not read the WAL. Which table is published since when stands in a publication's comment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection, sql

# All operations are published by the first, insertions and TRUNCATE alone by the second.
PUBLICATION, INSERTS = "daybook_witness", "daybook_witness_inserts"
LOCK_TIMEOUT, LOCK_ATTEMPTS = "200ms", 20


class WitnessError(Exception):
    """What hinders the witness, in a sentence."""


class Published(NamedTuple):
    """A tracked table by its quoted name.

    inserts_only: updates and deletions are not published, because PostgreSQL would refuse them where there is no
    identity: in a partition without a key that comes later. whole: the WAL may keep its old rows whole; not those with
    a virtual generated column, whose updates PostgreSQL 18 would refuse.
    """

    name: str
    inserts_only: bool
    whole: bool


def tables_to_publish(connection: Connection[Any]) -> list[Published]:
    rows = connection.execute(
        """
        select format('%I.%I', t.table_schema, t.table_name), not k.has_key and (c.relkind = 'p' or v.has_virtual),
               not v.has_virtual and (k.has_key or c.relkind <> 'p')
        from audit.tracked_table t
        join pg_namespace n on n.nspname = t.table_schema
        join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
        cross join lateral (select exists (select from pg_index i
                                           where i.indrelid = c.oid and i.indisprimary) as has_key) k
        cross join lateral (select exists (select from pg_attribute a
                                           where a.attrelid = c.oid and a.attgenerated = 'v') as has_virtual) v
        order by 1
        """
    )
    return [Published(*row) for row in rows]


def keep_whole_rows(connection: Connection[Any], tables: Sequence[str]) -> None:
    """Have the WAL keep old rows whole, and write down in the publication's comment what it kept before."""
    _ensure_publication(connection, PUBLICATION)
    rows = connection.execute(
        """
        select format('%%I.%%I', n.nspname, c.relname), c.relreplident,
               (select x.relname from pg_index i join pg_class x on x.oid = i.indexrelid
                where i.indrelid = c.oid and i.indisreplident)
        from unnest(%s::text[]) root(name)
        cross join lateral pg_partition_tree(root.name::regclass) p
        join pg_class c on c.oid = p.relid join pg_namespace n on n.oid = c.relnamespace
        where c.relkind = 'r' and c.relreplident <> 'f'
        union all
        select format('%%I.%%I', n.nspname, c.relname), c.relreplident,
               (select x.relname from pg_index i join pg_class x on x.oid = i.indexrelid
                where i.indrelid = c.oid and i.indisreplident)
        from unnest(%s::text[]) root(name)
        join pg_class c on c.oid = root.name::regclass join pg_namespace n on n.oid = c.relnamespace
        where c.relkind = 'r' and not c.relispartition and c.relreplident <> 'f'
          and not exists (select from pg_partition_tree(c.oid))
        """,
        [list(tables), list(tables)],
    ).fetchall()
    notes = read_notes(connection)
    for name, identity, index in rows:
        notes["identities"].setdefault(name, [identity, index])
    _write_down(connection, notes)
    for name, _, _ in rows:
        alter_briefly(connection, f"alter table only {name} replica identity full")


def note_since(connection: Connection[Any]) -> None:
    """Write down since when each published table is looked at, for those of which that is not known yet."""
    rows = connection.execute(
        """
        select r.prrelid::text, pg_snapshot_xmax(pg_current_snapshot())::text::bigint
        from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname in (%s, %s)
        """,
        [PUBLICATION, INSERTS],
    ).fetchall()
    notes = read_notes(connection)
    # One that left the publications, as audit.follow_identity has it, and came back begins anew.
    notes["since"] = {oid: notes["since"].get(oid, xid) for oid, xid in rows}
    _write_down(connection, notes)


def read_notes(connection: Connection[Any]) -> dict[str, dict[str, Any]]:
    """What stands in the publication's comment: `identities` by table, and `since`, transaction ids by its OID."""
    row = connection.execute(
        "select obj_description(oid, 'pg_publication') from pg_publication where pubname = %s", [PUBLICATION]
    ).fetchone()
    return dict(json.loads(row[0])) if row and row[0] else {"identities": {}, "since": {}}


def _write_down(connection: Connection[Any], notes: dict[str, dict[str, Any]]) -> None:
    comment = sql.SQL("comment on publication {} is {}").format(
        sql.Identifier(PUBLICATION), sql.Literal(json.dumps(notes, ensure_ascii=False))
    )
    connection.execute(comment)


def alter_briefly(connection: Connection[Any], statement: str) -> None:
    """Alter a table without holding up those who wait behind, though the table be busy."""
    for attempt in range(LOCK_ATTEMPTS):
        try:
            with connection.transaction():
                connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
                connection.execute(statement.encode())
            return
        except psycopg.errors.LockNotAvailable:
            if attempt == LOCK_ATTEMPTS - 1:
                raise WitnessError(f"the table is busy; try again when it is less so: {statement}") from None


def _ensure_publication(connection: Connection[Any], name: str) -> None:
    if connection.execute("select from pg_publication where pubname = %s", [name]).rowcount == 0:
        operations = "insert, update, delete, truncate" if name == PUBLICATION else "insert, truncate"
        # From 18 on updates of whole old rows are refused unless their generated columns are published too.
        generated = ", publish_generated_columns = stored" if connection.info.server_version >= 180000 else ""
        create = "create publication {} with (publish = {}, publish_via_partition_root = true" + generated + ")"
        connection.execute(sql.SQL(create).format(sql.Identifier(name), sql.Literal(operations)))


def publish(connection: Connection[Any], publication: str, tables: Sequence[str]) -> None:
    _ensure_publication(connection, publication)
    known = {
        name
        for (name,) in connection.execute(
            "select r.prrelid::regclass::text from pg_publication_rel r join pg_publication p on p.oid = r.prpubid"
            " where p.pubname = %s",
            [publication],
        )
    }
    for table in tables:
        if table not in known:
            connection.execute(f"alter publication {publication} add table {table}".encode())
