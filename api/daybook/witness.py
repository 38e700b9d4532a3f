"""The witness holds what PostgreSQL's WAL says of the tracked tables against the log, transaction by transaction.

It must not write to the log or to the tables. publishing.py has what the server is to publish, comparing.py the
comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import Connection

from .comparing import Comparison, Messages, Misfit, Outcome
from .decoding import Begin, Relation, read_message
from .publishing import (
    INSERTS,
    PUBLICATION,
    WitnessError,
    alter_briefly,
    keep_whole_rows,
    note_since,
    publish,
    read_notes,
    tables_to_publish,
)

__all__ = ["Misfit", "Outcome", "WitnessError", "run", "slot_name", "start", "stop"]

# Changed rows of one transaction that are held at one time; of one with more, a part after the other is compared.
MOST_PENDING = 100_000
# Messages that the server decodes in one turn, at least: whole transactions.
BATCH = 20_000
SESSION = (
    "set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set extra_float_digits = 1;"
    " set bytea_output = 'hex'; set search_path = pg_catalog, pg_temp; set statement_timeout = 0"
)


def slot_name(connection: Connection[Any]) -> str:
    """Return the name of this database's slot: slots belong to the cluster."""
    row = connection.execute("select oid from pg_catalog.pg_database where datname = current_database()").fetchone()
    assert row is not None
    return f"daybook_witness_{row[0]}"


def start(connection: Connection[Any], warn: Callable[[str], object]) -> str:
    """Begin, or take in tables and partitions that came since. Returns a sentence. The connection is in autocommit.

    Needs a superuser, or a login with REPLICATION and CREATE on the database that is a member of audit_owner and of the
    owners of the tracked tables. Raises WitnessError.
    """
    connection.execute(SESSION)
    said = "select current_setting('wal_level'), current_setting('max_slot_wal_keep_size')"
    row = connection.execute(said).fetchone()
    assert row is not None
    if row[0] != "logical":
        raise WitnessError(f"wal_level is {row[0]}; set it to logical in postgresql.conf and restart the server")
    if row[1] == "-1":
        warn("max_slot_wal_keep_size is not set: the server keeps all WAL from here on until the witness has read it")
    tables = tables_to_publish(connection)
    if not tables:
        raise WitnessError("no table is tracked")
    keep_whole_rows(connection, [table.name for table in tables if table.whole])
    published = [table.name for table in tables if not table.inserts_only]
    publish(connection, PUBLICATION, ["audit.entry", "audit.change", *published])
    publish(connection, INSERTS, [table.name for table in tables if table.inserts_only])
    note_since(connection)
    for table in tables:
        if table.inserts_only:
            warn(f"of {table.name} insertions alone are compared: updates could fail for want of a key")
        elif not table.whole:
            warn(f"{table.name} has a virtual generated column: its old values are not compared")
    slot = slot_name(connection)
    if connection.execute("select from pg_catalog.pg_replication_slots where slot_name = %s", [slot]).rowcount == 0:
        connection.execute("select pg_catalog.pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        return f"the witness looks at {len(tables)} tables from now on; slot {slot}"
    return f"the witness looks at {len(tables)} tables"


def stop(connection: Connection[Any], warn: Callable[[str], object]) -> str:
    """Drop slot and publications, and give tables their replica identity back. Returns a sentence."""
    connection.execute(SESSION)
    slot = slot_name(connection)
    if connection.execute("select from pg_catalog.pg_replication_slots where slot_name = %s", [slot]).rowcount:
        connection.execute("select pg_catalog.pg_drop_replication_slot(%s)", [slot])
    before = read_notes(connection)["identities"]
    for publication in (PUBLICATION, INSERTS):
        connection.execute(f"drop publication if exists {publication}".encode())
    for name, (identity, index) in before.items():
        how = {"d": "default", "n": "nothing"}.get(str(identity)) or f'using index "{index}"'
        try:
            alter_briefly(connection, f"alter table only {name} replica identity {how}")
        except psycopg.errors.UndefinedTable:
            continue
        except (psycopg.Error, WitnessError) as error:
            warn(f"{name} keeps replica identity full: {str(error).splitlines()[0]}")
    return "the witness is gone: slot and publications are dropped"


# A run


def run(connection: Connection[Any], tell: Callable[[Misfit], object], most_pending: int = MOST_PENDING) -> Outcome:
    """Compare what was committed since the last run, and let the server forget it. The connection is in autocommit.

    Needs a login with REPLICATION that is a member of audit_dba. Raises WitnessError when it was not started, or when
    the server has thrown away WAL that was not compared.
    """
    connection.execute(SESSION)
    slot = slot_name(connection)
    row = connection.execute(
        "select wal_status, pg_current_wal_flush_lsn()::text from pg_replication_slots where slot_name = %s",
        [slot],
    ).fetchone()
    if row is None:
        raise WitnessError("the witness was not started; run: daybook witness --start")
    if row[0] == "lost":
        raise WitnessError(
            f"slot {slot} fell behind and its WAL is gone: what was written meanwhile can no longer be compared;"
            " run: daybook witness --stop, then --start"
        )
    outcome = Outcome(position=row[1])
    comparison = Comparison(connection, outcome, tell, most_pending)
    while (end := _one_batch(connection, slot, row[1], comparison)) is not None:
        _advance(connection, slot, end)
    _advance(connection, slot, row[1])
    for tracked in comparison.tracked.values():
        if not tracked.published:
            table = f"{tracked.schema}.{tracked.name}"
            raise WitnessError(f"{table} is tracked and not looked at; run: daybook witness --start")
    return outcome


def _one_batch(connection: Connection[Any], slot: str, until: str, comparison: Comparison) -> str | None:
    """Compare some transactions. Returns the position after the last one; None: there were none."""
    query = (
        "select data from pg_catalog.pg_logical_slot_peek_binary_changes(%s, %s, %s, 'proto_version', '1',"
        " 'publication_names', %s)"
    )
    end = None
    with connection.transaction(), connection.cursor("witness", scrollable=True) as cursor:
        cursor.execute(query, [slot, until, BATCH, f"{PUBLICATION},{INSERTS}"], binary=True)
        messages = Messages(cursor)
        for _, data in messages:
            message = read_message(data, comparison.encoding)
            if isinstance(message, Begin):
                end = comparison.transaction(message, messages)
            elif isinstance(message, Relation):
                comparison.meet(message)
    return None if end is None else f"{end >> 32:X}/{end & 0xFFFFFFFF:X}"


def _advance(connection: Connection[Any], slot: str, position: str) -> None:
    connection.execute(
        "select pg_catalog.pg_replication_slot_advance(slot_name, %s) from pg_catalog.pg_replication_slots"
        " where slot_name = %s and confirmed_flush_lsn < %s::pg_lsn",
        [position, slot, position],
    )
