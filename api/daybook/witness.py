"""The witness holds what PostgreSQL's WAL says of the tracked tables against the log, transaction by transaction.

It must not write to the log or to the tables, nor hold more than a bounded number of changed rows in memory.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection, sql

from .decoding import (
    UNCHANGED,
    Begin,
    Change,
    Commit,
    Relation,
    Truncate,
    Type,
    Value,
    Values,
    key_text,
    read_json,
    read_message,
    says,
)

# All operations are published by the first, insertions and TRUNCATE alone by the second.
PUBLICATION, INSERTS = "daybook_witness", "daybook_witness_inserts"
REDACTED = {"redacted": True}
# Changed rows of one transaction that are held at one time; of one with more, a part after the other is compared.
MOST_PENDING = 100_000
# Messages that the server decodes in one turn, at least: whole transactions.
BATCH = 20_000
FETCH = 2_000
LOCK_TIMEOUT, LOCK_ATTEMPTS = "200ms", 20
SESSION = (
    "set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set extra_float_digits = 1;"
    " set bytea_output = 'hex'; set search_path = pg_catalog, pg_temp; set statement_timeout = 0"
)


class WitnessError(Exception):
    """What hinders the witness, in a sentence."""


class Misfit(NamedTuple):
    """What does not fit in one transaction: kind is unlogged, invented, altered, miscounted, tampered or doubtful."""

    kind: str
    xid: int
    committed_at: datetime
    what: str

    def __str__(self) -> str:
        return f"{self.committed_at:%Y-%m-%d %H:%M:%S.%f} UTC, transaction {self.xid}: {self.kind}: {self.what}"


@dataclass(slots=True)
class Outcome:
    """What a run compared, and what it could not."""

    transactions: int = 0
    rows: int = 0
    entries: int = 0
    misfits: int = 0
    # Updates of rows whose old values the WAL does not hold, without an entry: they may have changed nothing.
    unproved: int = 0
    # Changed rows and entries of tables that are not tracked now, or not looked at, or were not yet.
    not_compared: int = 0
    position: str = ""


@dataclass(slots=True)
class Tracked:
    """A tracked table as its settings and the catalogue are now."""

    oid: int
    schema: str
    name: str
    keys: tuple[str, ...]
    excluded: frozenset[str]
    redacted: frozenset[str]
    columns: frozenset[str]
    generated: frozenset[str]
    # Whether its changes are published, those of insertions at least; whether updates and deletions are.
    published: bool
    in_full: bool
    # The first transaction id that was not yet given out when it was taken in.
    since: int

    def is_looked_at(self, operation: str, xid: int) -> bool:
        """Whether what such a transaction did to it is in the WAL that the witness gets."""
        # Ids of the WAL have 32 bits: those before `since` are the 2^31 behind it.
        is_early = (xid - self.since) & 0xFFFF_FFFF >= 2**31
        return self.published and not is_early and (self.in_full or operation in ("INSERT", "TRUNCATE"))


@dataclass(slots=True)
class Table:
    """A published table as it was at this place of the WAL."""

    name: str
    columns: dict[str, Type]
    # Positions of the key's columns; empty: it has none, or none by the names of today.
    keys: tuple[int, ...]
    tracked: Tracked


@dataclass(slots=True)
class LogRow:
    """A changed row as the log tells it."""

    entry_id: str
    oid: int
    operation: str
    key: str | None
    shown_key: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(slots=True)
class LogEntry:
    """An entry of several rows, while its rows are counted."""

    oid: int
    operation: str
    row_count: int
    # Else its rows are counted alone.
    is_compared: bool
    found: int = 0


class TooManyError(Exception):
    """More rows of one transaction wait for their counterpart than may be held."""


# Flow


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
    tables = _tables_to_publish(connection)
    if not tables:
        raise WitnessError("no table is tracked")
    _keep_whole_rows(connection, [table.name for table in tables if table.whole])
    published = [table.name for table in tables if not table.inserts_only]
    _publish(connection, PUBLICATION, ["audit.entry", "audit.change", *published])
    _publish(connection, INSERTS, [table.name for table in tables if table.inserts_only])
    _note_since(connection)
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


class _Published(NamedTuple):
    """A tracked table by its quoted name.

    inserts_only: updates and deletions are not published, because PostgreSQL would refuse them where there is no
    identity: in a partition without a key that comes later. whole: the WAL may keep its old rows whole; not those with
    a virtual generated column, whose updates PostgreSQL 18 would refuse.
    """

    name: str
    inserts_only: bool
    whole: bool


def _tables_to_publish(connection: Connection[Any]) -> list[_Published]:
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
    return [_Published(*row) for row in rows]


def _keep_whole_rows(connection: Connection[Any], tables: Sequence[str]) -> None:
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
    notes = _notes(connection)
    for name, identity, index in rows:
        notes["identities"].setdefault(name, [identity, index])
    _write_down(connection, notes)
    for name, _, _ in rows:
        _alter_briefly(connection, f"alter table only {name} replica identity full")


def _note_since(connection: Connection[Any]) -> None:
    """Write down since when each published table is looked at, for those of which that is not known yet."""
    rows = connection.execute(
        """
        select r.prrelid::text, pg_snapshot_xmax(pg_current_snapshot())::text::bigint
        from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname in (%s, %s)
        """,
        [PUBLICATION, INSERTS],
    ).fetchall()
    notes = _notes(connection)
    # One that left the publications, as audit.follow_identity has it, and came back begins anew.
    notes["since"] = {oid: notes["since"].get(oid, xid) for oid, xid in rows}
    _write_down(connection, notes)


def _notes(connection: Connection[Any]) -> dict[str, dict[str, Any]]:
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


def _alter_briefly(connection: Connection[Any], statement: str) -> None:
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


def _publish(connection: Connection[Any], publication: str, tables: Sequence[str]) -> None:
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


def stop(connection: Connection[Any], warn: Callable[[str], object]) -> str:
    """Drop slot and publications, and give tables their replica identity back. Returns a sentence."""
    connection.execute(SESSION)
    slot = slot_name(connection)
    if connection.execute("select from pg_catalog.pg_replication_slots where slot_name = %s", [slot]).rowcount:
        connection.execute("select pg_catalog.pg_drop_replication_slot(%s)", [slot])
    before = _notes(connection)["identities"]
    for publication in (PUBLICATION, INSERTS):
        connection.execute(f"drop publication if exists {publication}".encode())
    for name, (identity, index) in before.items():
        how = {"d": "default", "n": "nothing"}.get(str(identity)) or f'using index "{index}"'
        try:
            _alter_briefly(connection, f"alter table only {name} replica identity {how}")
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
    comparison = _Comparison(connection, outcome, tell, most_pending)
    while (end := _one_batch(connection, slot, row[1], comparison)) is not None:
        _advance(connection, slot, end)
    _advance(connection, slot, row[1])
    for tracked in comparison.tracked.values():
        if not tracked.published:
            table = f"{tracked.schema}.{tracked.name}"
            raise WitnessError(f"{table} is tracked and not looked at; run: daybook witness --start")
    return outcome


def _one_batch(connection: Connection[Any], slot: str, until: str, comparison: _Comparison) -> str | None:
    """Compare some transactions. Returns the position after the last one; None: there were none."""
    query = (
        "select data from pg_catalog.pg_logical_slot_peek_binary_changes(%s, %s, %s, 'proto_version', '1',"
        " 'publication_names', %s)"
    )
    end = None
    with connection.transaction(), connection.cursor("witness", scrollable=True) as cursor:
        cursor.execute(query, [slot, until, BATCH, f"{PUBLICATION},{INSERTS}"], binary=True)
        messages = _Messages(cursor)
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


class _Messages:
    """The rows of a scrollable cursor, each with its number, from any of them on."""

    def __init__(self, cursor: psycopg.ServerCursor[Any]) -> None:
        self._cursor = cursor
        self._held: list[Any] = []
        self._next = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while True:
            if not self._held:
                self._held = self._cursor.fetchmany(FETCH)[::-1]
                if not self._held:
                    return
            (data,) = self._held.pop()
            self._next += 1
            yield self._next - 1, data

    def rewind(self, number: int) -> None:
        """Go on with the row of this number."""
        self._cursor.scroll(number, mode="absolute")
        self._held, self._next = [], number

    @property
    def next(self) -> int:
        return self._next


class _Comparison:
    """What is known of tables and types during a run, and the comparison of one transaction after another."""

    def __init__(
        self, connection: Connection[Any], outcome: Outcome, tell: Callable[[Misfit], object], most_pending: int
    ) -> None:
        self.connection = connection
        self.outcome = outcome
        self.tell = tell
        self.most_pending = most_pending
        name = connection.info.parameter_status("server_encoding") or "UTF8"
        self.encoding = "utf-8" if name in ("UTF8", "SQL_ASCII") else name.replace("WIN", "cp").replace("EUC_", "euc_")
        self.tracked = {tracked.oid: tracked for tracked in _tracked(connection)}
        self.names = {(t.schema, t.name): t.oid for t in self.tracked.values()}
        self.tables: dict[int, Table | None] = {}
        self.log: dict[int, tuple[str, list[str]]] = {}
        self.types: dict[int, Type] = {}

    def meet(self, relation: Relation) -> None:
        """Note how a table looks from here on."""
        if relation.schema == "audit":
            self.log[relation.oid] = (relation.name, [column.name for column in relation.columns])
            return
        self.names[relation.schema, relation.name] = relation.oid
        tracked = self.tracked.get(relation.oid)
        if tracked is None:
            self.tables[relation.oid] = None
            return
        names = [column.name for column in relation.columns]
        keys = tuple(names.index(key) for key in tracked.keys if key in names)
        columns = {column.name: self.type(column.type_oid) for column in relation.columns}
        kinds = [columns[key] for key in tracked.keys if key in columns]
        # An array within a composite key is written as JSON; nobody has one.
        is_plain = len(keys) == len(tracked.keys) and (len(keys) == 1 or not any(kind.element for kind in kinds))
        known = keys if is_plain else ()
        self.tables[relation.oid] = Table(f"{relation.schema}.{relation.name}", columns, known, tracked)

    def type(self, oid: int) -> Type:
        """Return a type, with domains looked through; one that is gone is the application's: it is compared as text."""
        if oid not in self.types:
            row = self.connection.execute(
                "select typbasetype, case when typcategory = 'A' and typsubscript = 'array_subscript_handler'::regproc"
                " then typelem end from pg_catalog.pg_type where oid = %s",
                [oid],
            ).fetchone()
            if row is None:
                self.types[oid] = Type(2**31)
            elif row[0]:
                self.types[oid] = self.type(row[0])
            else:
                self.types[oid] = Type(oid, self.type(row[1]) if row[1] else None)
        return self.types[oid]

    def transaction(self, begin: Begin, messages: _Messages) -> int:
        """Compare one transaction, in parts when it is large. Returns the position after it."""
        first = messages.next
        parts = 1
        while True:
            left = _Left()
            try:
                for part in range(parts):
                    if part:
                        messages.rewind(first)
                    end = _Part(self, begin.xid, part, parts, left).compare(messages)
                break
            except TooManyError:
                parts *= 4
                messages.rewind(first)
        self.outcome.transactions += 1
        self.outcome.rows += left.rows
        self.outcome.entries += left.entries
        self.outcome.not_compared += left.not_compared
        for kind, what in _Verdict(self, begin.xid, left).misfits():
            self.outcome.misfits += 1
            self.tell(Misfit(kind, begin.xid, begin.committed_at, what))
        return end


def _tracked(connection: Connection[Any]) -> Iterator[Tracked]:
    rows = connection.execute(
        """
        select c.oid::bigint, t.table_schema, t.table_name, coalesce(audit.primary_key_columns(c.oid), '{}'),
               t.excluded_columns, t.redacted_columns,
               array(select a.attname::text from pg_attribute a
                     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
               array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attgenerated <> ''),
               p.names is not null, coalesce(%s = any(p.names), false)
        from audit.tracked_table t
        join pg_namespace n on n.nspname = t.table_schema
        join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
        cross join lateral (
            select array_agg(p.pubname::text) as names
            from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
            where r.prrelid = c.oid and p.pubname in (%s, %s)) p
        """,
        [PUBLICATION, PUBLICATION, INSERTS],
    )
    since = _notes(connection)["since"]
    for oid, schema, name, keys, excluded, redacted, columns, generated, published, in_full in rows:
        yield Tracked(
            oid,
            schema,
            name,
            tuple(keys),
            frozenset(excluded),
            frozenset(redacted),
            frozenset(columns),
            frozenset(generated),
            published,
            in_full,
            since.get(str(oid), 0),
        )


@dataclass(slots=True)
class _Left:
    """What found no counterpart in a transaction, and what else was counted in it."""

    changes: list[tuple[str | None, Change]] = field(default_factory=list)
    told: list[LogRow] = field(default_factory=list)
    truncated: set[int] = field(default_factory=set)
    truncations_told: dict[int, bool] = field(default_factory=dict)
    tampered: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)
    rows: int = 0
    entries: int = 0
    not_compared: int = 0


class _Part:
    """One pass over a transaction, which looks at the rows whose keys fall into this part."""

    def __init__(self, comparison: _Comparison, xid: int, part: int, parts: int, left: _Left) -> None:
        self.comparison = comparison
        self.xid = xid
        self.part, self.parts = part, parts
        self.left = left
        self.pending: dict[tuple[int, str, str | None], list[Change]] = {}
        self.told: list[LogRow] = []
        self.entries: dict[str, LogEntry] = {}
        self.early: dict[str, list[tuple[dict[str, Value], int]]] = {}
        self.held = 0

    def compare(self, messages: _Messages) -> int:
        """Read the transaction to its end; what has no counterpart goes to `left`. Returns the position after it."""
        for _, data in messages:
            message = read_message(data, self.comparison.encoding)
            if isinstance(message, Change):
                if message.oid in self.comparison.log:
                    self._log_change(message)
                else:
                    self._change(message)
            elif isinstance(message, Relation):
                self.comparison.meet(message)
            elif isinstance(message, Truncate):
                self._truncate(message)
            elif isinstance(message, Commit):
                self._end()
                return message.end
        raise WitnessError("the server sent half of a transaction")

    def _is_mine(self, oid: int, key: str | None) -> bool:
        text = f"{oid} {key}".encode("utf-8", "surrogateescape")
        return self.parts == 1 or zlib.crc32(text) % self.parts == self.part

    def _hold(self, count: int) -> None:
        self.held += count
        # More parts than these would not make less of it: rows without a key.
        if self.held > self.comparison.most_pending and self.parts < 4096:
            raise TooManyError

    def _change(self, change: Change) -> None:
        table = self.comparison.tables.get(change.oid)
        if table is None or not table.tracked.is_looked_at(change.operation, self.xid):
            self.left.not_compared += self.part == 0
            return
        if change.operation == "UPDATE" and change.whole and not _changed(table, change):
            return
        key = _key(table, change.new if change.old is None else change.old, self.comparison)
        if not self._is_mine(change.oid, key):
            return
        self.left.rows += 1
        self.pending.setdefault((change.oid, change.operation, key), []).append(change)
        self._hold(1)

    def _log_change(self, change: Change) -> None:
        name, columns = self.comparison.log[change.oid]
        if change.operation != "INSERT" or change.new is None:
            if self.part == 0:
                self.left.tampered.append(f"{change.operation} on audit.{name}")
            return
        values = dict(zip(columns, change.new, strict=True))
        if name.startswith("entry"):
            self._entry(values)
        else:
            self._row_of_entry(values)

    def _entry(self, values: dict[str, Value]) -> None:
        self.left.entries += self.part == 0
        operation = str(values["operation"])
        if operation == "EVENT":
            return
        place = (str(values["table_schema"]), str(values["table_name"]))
        oid = self.comparison.names.get(place, 0)
        table = self.comparison.tracked.get(oid)
        # An update that moves rows to another partition inserts them: of that it is looked at.
        looked_at = "INSERT" if operation == "UPDATE" else operation
        is_compared = not oid or (table is not None and table.is_looked_at(looked_at, self.xid))
        self.left.not_compared += self.part == 0 and not is_compared
        count = int(str(values["row_count"]))
        if not is_compared and (operation == "TRUNCATE" or count == 1):
            return
        if operation == "TRUNCATE":
            partition = "partition" in ((_object(values["context"]) or {}).get("details") or {})
            self.left.truncations_told[oid] = self.left.truncations_told.get(oid, True) and partition
        elif count == 1:
            self._told(values, str(values["id"]), oid, operation)
        else:
            entry = self.entries[str(values["id"])] = LogEntry(oid, operation, count, is_compared)
            for row, _ in self.early.pop(str(values["id"]), []):
                self._told_of(entry, row)

    def _row_of_entry(self, values: dict[str, Value]) -> None:
        entry = self.entries.get(str(values["entry_id"]))
        if entry is None:
            self.early.setdefault(str(values["entry_id"]), []).append((values, 0))
            self._hold(1)
        else:
            self._told_of(entry, values)

    def _told_of(self, entry: LogEntry, values: dict[str, Value]) -> None:
        entry.found += 1
        if entry.is_compared:
            self._told(values, str(values["entry_id"]), entry.oid, entry.operation)

    def _told(self, values: dict[str, Value], entry_id: str, oid: int, operation: str) -> None:
        table = self.comparison.tables.get(oid)
        own = values["row_key"] if values["row_key"] is not None else values["resource_id"]
        shown = own if isinstance(own, str) else None
        key = shown if table is not None and table.keys else None
        if not self._is_mine(oid, key):
            return
        told = LogRow(entry_id, oid, operation, key, shown, _object(values["before"]), _object(values["after"]))
        candidates = self.pending.get((oid, operation, key), [])
        for number, change in enumerate(candidates):
            if table is not None and not _differences(self.comparison, table, change, told):
                del candidates[number]
                if not candidates:
                    del self.pending[oid, operation, key]
                self.held -= 1
                return
        self.told.append(told)
        self._hold(1)

    def _truncate(self, message: Truncate) -> None:
        for oid in message.oids:
            if oid in self.comparison.log:
                self.left.tampered.append(f"TRUNCATE on audit.{self.comparison.log[oid][0]}")
            elif self.comparison.tables.get(oid) is not None:
                self.left.truncated.add(oid)

    def _end(self) -> None:
        for (_, _, key), changes in self.pending.items():
            self.left.changes += [(key, change) for change in changes]
        self.left.told += self.told
        if self.part == 0:
            for entry_id, entry in self.entries.items():
                if entry.found != entry.row_count:
                    self.left.miscounted.append(
                        f"entry {entry_id} says {entry.row_count} rows and has {entry.found} in audit.change"
                    )
            for entry_id, rows in self.early.items():
                self.left.miscounted.append(f"{len(rows)} rows in audit.change, but no entry {entry_id}")


def _object(value: Value) -> dict[str, Any] | None:
    if not isinstance(value, str):
        return None
    found = read_json(value)
    return found if isinstance(found, dict) else {}


def _key(table: Table, values: Values | None, comparison: _Comparison) -> str | None:
    if values is None or not table.keys:
        return None
    kinds = list(table.columns.values())
    parts = [(values[number], kinds[number]) for number in table.keys]
    texts = [(text, kind) for text, kind in parts if isinstance(text, str)]
    return key_text(texts, comparison.encoding) if len(texts) == len(parts) else None


def _changed(table: Table, change: Change) -> set[str]:
    """The columns that an update with its old row really changed, save those that are excluded."""
    assert change.old is not None
    assert change.new is not None
    names = zip(table.columns, change.old, change.new, strict=True)
    return {name for name, before, after in names if before != after} - table.tracked.excluded


def _differences(comparison: _Comparison, table: Table, change: Change, told: LogRow) -> list[str]:
    """Name the columns in which what the log tells is not what happened to the row."""
    wrong: list[str] = []
    if change.new is not None:
        wrong += _wrong(comparison, table, change.new, told.after)
    if change.old is not None and change.whole:
        wrong += _wrong(comparison, table, change.old, told.before)
    if (told.before is None, told.after is None) != (change.operation == "INSERT", change.operation == "DELETE"):
        return wrong or ["before, after"]
    if change.operation == "INSERT":
        must = set(table.columns)
    elif not change.whole:
        must = set()
    else:
        must = set(table.columns) if change.operation == "DELETE" else _changed(table, change)
    must = (must - table.tracked.excluded) & table.tracked.columns
    for side in (told.before, told.after):
        if side is not None:
            wrong += must - side.keys()
    return sorted(set(wrong))


def _wrong(comparison: _Comparison, table: Table, values: Values, side: dict[str, Any] | None) -> list[str]:
    """The columns of one side of an entry whose values are not those of the row, or which the row has not."""
    row = dict(zip(table.columns, values, strict=True))
    return [name for name, stored in (side or {}).items() if not _is_right(comparison, table, row, name, stored)]


def _is_right(comparison: _Comparison, table: Table, row: dict[str, Value], name: str, stored: Any) -> bool:
    if name not in row:
        # What is generated is not in the WAL's rows; neither is what was dropped since known to have been.
        return name in table.tracked.generated or name not in table.tracked.columns
    if stored == REDACTED and name in table.tracked.redacted:
        return True
    value = row[name]
    if value is UNCHANGED:
        return True
    if not isinstance(value, str):
        return stored is None
    return says(stored, value, table.columns[name], comparison.encoding)


class _Verdict:
    """What of a transaction is left is paired as far as it belongs together, and the rest told."""

    def __init__(self, comparison: _Comparison, xid: int, left: _Left) -> None:
        self.comparison = comparison
        self.xid = xid
        self.left = left
        self.by_key: dict[tuple[int, str, str | None], list[Change]] = {}
        for key, change in left.changes:
            self.by_key.setdefault((change.oid, change.operation, key), []).append(change)

    def misfits(self) -> Iterator[tuple[str, str]]:
        told = [row for row in self.left.told if not self._is_move(row) and not self._is_late(row)]
        for row in told:
            tracked = self.comparison.tracked.get(row.oid)
            if tracked is not None and not tracked.is_looked_at(row.operation, self.xid):
                self._take_moved(row)
                self.comparison.outcome.not_compared += 1
            else:
                yield self._misfit_of(row)
        for (oid, operation, key), changes in self.by_key.items():
            table = self.comparison.tables[oid]
            assert table is not None
            for change in changes:
                if operation == "UPDATE" and not change.whole:
                    self.comparison.outcome.unproved += 1
                else:
                    yield "unlogged", f"{operation} of {_row_name(table.name, key)} has no entry"
        yield from (("miscounted", what) for what in self.left.miscounted)
        yield from (("tampered", what) for what in self.left.tampered)
        yield from self._truncations()

    def _is_late(self, told: LogRow) -> bool:
        """Whether the row's change came after what the log tells of it."""
        table = self.comparison.tables.get(told.oid)
        for number, change in enumerate(self.by_key.get((told.oid, told.operation, told.key), [])):
            if table is not None and not _differences(self.comparison, table, change, told):
                self._take((told.oid, told.operation, told.key), number)
                return True
        return False

    def _is_move(self, told: LogRow) -> bool:
        """Whether an update moved its row to another partition: the WAL has a deletion and an insertion."""
        table = self.comparison.tables.get(told.oid)
        if table is None or told.operation != "UPDATE" or told.after is None:
            return False
        for number, gone in enumerate(self.by_key.get((told.oid, "DELETE", told.key), [])):
            if gone.old is None or _wrong(self.comparison, table, gone.old, told.before):
                continue
            for place in self._places_of(told, table):
                for position, come in enumerate(self.by_key[place]):
                    moved = Change("UPDATE", told.oid, gone.old, come.new, gone.whole)
                    if not _differences(self.comparison, table, moved, told):
                        self._take((told.oid, "DELETE", told.key), number)
                        self._take(place, position)
                        return True
        return False

    def _take_moved(self, told: LogRow) -> None:
        """Where insertions alone are published: the one by which an update moved its row, if it did."""
        table = self.comparison.tables.get(told.oid)
        for number, come in enumerate(self.by_key.get((told.oid, "INSERT", told.key), [])):
            if table is not None and come.new is not None and not _wrong(self.comparison, table, come.new, told.after):
                self._take((told.oid, "INSERT", told.key), number)
                return

    def _places_of(self, told: LogRow, table: Table) -> list[tuple[int, str, str | None]]:
        """Where the row that came may stand: under the same key, or, when that changed, under any."""
        names = list(table.columns)
        if any(names[number] in (told.after or {}) for number in table.keys):
            return [place for place in self.by_key if place[:2] == (told.oid, "INSERT")]
        place = (told.oid, "INSERT", told.key)
        return [place] if place in self.by_key else []

    def _take(self, place: tuple[int, str, str | None], number: int) -> None:
        del self.by_key[place][number]
        if not self.by_key[place]:
            del self.by_key[place]

    def _misfit_of(self, told: LogRow) -> tuple[str, str]:
        table = self.comparison.tables.get(told.oid)
        changes = self.by_key.get((told.oid, told.operation, told.key), [])
        if table is not None and changes:
            columns = ", ".join(_differences(self.comparison, table, changes[0], told))
            self._take((told.oid, told.operation, told.key), 0)
            what = f"{told.operation} of {_row_name(table.name, told.shown_key)} differs in {columns}"
            return "altered", f"{what}; entry {told.entry_id}"
        name = table.name if table is not None else self._name(told.oid)
        what = f"{told.operation} of {_row_name(name, told.shown_key)} did not happen in this transaction"
        return "invented", f"{what}; entry {told.entry_id}"

    def _name(self, oid: int) -> str:
        tracked = self.comparison.tracked.get(oid)
        return f"{tracked.schema}.{tracked.name}" if tracked else "a table that is not there"

    def _truncations(self) -> Iterator[tuple[str, str]]:
        for oid in self.left.truncated - self.left.truncations_told.keys():
            what = f"TRUNCATE of {self._name(oid)} has no entry: the table was empty, or its triggers were off"
            yield "doubtful", what
        for oid, of_partitions in self.left.truncations_told.items():
            # A partition's own TRUNCATE is not published.
            if oid not in self.left.truncated and not of_partitions:
                yield "invented", f"TRUNCATE of {self._name(oid)} did not happen"


def _row_name(table: str, key: str | None) -> str:
    return f"a row of {table}" if key is None else f"{table} {key}"
