"""Queries holds every SELECT that the app sends, on the reading views and functions of schema audit.

It knows nothing of HTTP; rows leave it as the database gave them, stored JSON unparsed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb

from .credentials import Reader, Secret, Visitor
from .database import Connection, Database, Row
from .errors import InvalidPage, NotFound
from .parameters import Listing, Page

if TYPE_CHECKING:
    from .authentication import Identity

SHOWN_CHANGES = 20
SHOWN_COLUMNS = 100
SHOWN_CHARACTERS = 500
# What bounds an export's memory, whatever entries hold: rows fetched at once, bytes of a value that comes with its row,
# and bytes of a piece of a larger one.
EXPORTED_AT_ONCE = 100
LARGEST_AT_ONCE = 32_768
PIECE = 262_144
# The columns that may hold values of any size.
LARGE = ("before", "after")

# Each filter's clause over audit.timeline; its value is bound under the same name. None names the workspace: that is
# row-level security's alone, from the transaction's own setting, and said twice it costs a test for each day.
CLAUSES = {
    "since": "created_at >= %(since)s",
    "created_after": "created_at >= %(created_after)s",
    "created_before": "created_at < %(created_before)s",
    "event": "(event = any(%(event)s) or event like any(%(event_beginnings)s))",
    "event_beginnings": "true",
    "not_reading": r"event not like 'log\_%%'",
    "performer_id": "actor_id = %(performer_id)s",
    "performer": "%(performer)s in (actor_id, actor_name)",
    "resource_type": "resource_type = %(resource_type)s",
    "request_id": "request_id = %(request_id)s",
    "id": "id = %(id)s and created_at = %(created_at)s",
    "created_at": "true",
}
# Filters that a bulk entry meets through its rows: the clause, the same of audit.timeline_change.
TOUCHING = {
    "resource_id": "resource_id = %(resource_id)s",
    "resource": "%(resource)s in (resource_id, resource_name)",
}
# The filters that audit.timeline_change shares, for the part of the log that an entry's rows can lie in.
BOUNDS = ("since", "created_after", "created_before")

COLUMNS = "id, created_at, event, resource_id, resource_type, actor_id, actor_name"
EXPANSIONS = {
    "changes": "row_count, operation, resource_name, row_key, before, after",
    "context": """
        request_id, context -> 'reason' as reason, context -> 'ip' as ip, context -> 'user_agent' as user_agent,
        context -> 'metadata' as metadata, context -> 'subject' as subject, context -> 'details' as details,
        context -> 'invalid' as invalid, database_user, transaction_id""",
    "actor": "actor_type",
    "resource": "resource_name, table_schema, table_name",
}
PAGE_COLUMNS = f"""
    {COLUMNS}, row_count, resource_name, row_key, operation,
    left(context ->> 'reason', {SHOWN_CHARACTERS + 1}) as reason,
    context -> 'subject' ->> 'id' as subject_id, context -> 'subject' ->> 'name' as subject_name"""
CHANGE_COLUMNS = "resource_id, resource_name, row_key, before, after"

# Before and after, side by side for each column and cut in the database: a page need not carry a megabyte.
VALUES = f"""(
    select json_agg(json_build_array(key, left(b #>> '{{}}', {SHOWN_CHARACTERS + 1}),
                                     left(a #>> '{{}}', {SHOWN_CHARACTERS + 1})) order by key)
    from (
        select key, b.value, a.value
        from jsonb_each(case jsonb_typeof(before) when 'object' then before end) as b
        full join jsonb_each(case jsonb_typeof(after) when 'object' then after end) as a using (key)
        order by key limit {SHOWN_COLUMNS + 1}) as shown (key, b, a)) as values"""

_KEY = """
    k.prefix as id, k.name, 'service' as type, k.workspace_id, k.role, k.is_noted,
    audit.retention_days() as retention_days, now() as moment"""
FIND_READER = f"select {_KEY} from audit.find_key(%(prefix)s, %(digest)s) as k"
FIND_READER_OF_SESSION = f"select {_KEY} from audit.find_session(%(prefix)s, %(digest)s) as k"
READ_READER = """
select audit.reading_is_noted(%(workspace_id)s, %(id)s) as is_noted,
       audit.retention_days() as retention_days, now() as moment"""
_READER = """
    row(%(workspace_id)s::text, %(id)s::text, %(name)s::text, %(type)s::text, %(ip)s::text,
        %(user_agent)s::text)::audit.reader"""


@dataclass(frozen=True, slots=True)
class Found:
    """One page of rows: `count` is how many there are on all pages, `page` the number of this one."""

    count: int
    page: int
    page_size: int
    rows: Sequence[Row]

    @property
    def total_pages(self) -> int:
        """How many pages there are: an empty list has one."""
        return max(1, -(-self.count // self.page_size))


async def find_reader(database: Database, secret: Secret, visitor: Visitor) -> Reader | None:
    """The reader whose valid key this is."""
    return await _find_reader(database, FIND_READER, secret, visitor)


async def find_reader_of_session(database: Database, secret: Secret, visitor: Visitor) -> Reader | None:
    """The reader whose valid key opened this session of the page."""
    return await _find_reader(database, FIND_READER_OF_SESSION, secret, visitor)


async def _find_reader(database: Database, query: str, secret: Secret, visitor: Visitor) -> Reader | None:
    async with database.reading() as connection:
        row = await (await connection.execute(query.encode(), secret._asdict())).fetchone()
    return Reader(**row, visitor=visitor) if row else None


async def read_reader(database: Database, identity: Identity, visitor: Visitor) -> Reader:
    """The reader that another authenticator named."""
    async with database.reading() as connection:
        row = await (await connection.execute(READ_READER, identity._asdict())).fetchone()
    assert row is not None
    return Reader(**identity._asdict(), **row, type="user", visitor=visitor)


async def open_session(database: Database, key: Secret, session: Secret) -> bool:
    """Open a session of the page for a key; False when the key is not valid."""
    values = {**session._asdict(), "key_prefix": key.prefix, "key_digest": key.digest}
    query = "select audit.open_session(%(key_prefix)s, %(key_digest)s, %(prefix)s, %(digest)s) as opened"
    async with database.noting() as connection:
        row = await (await connection.execute(query, values)).fetchone()
    return bool(row and row["opened"])


async def close_session(database: Database, session: Secret) -> None:
    """End a session of the page."""
    async with database.noting() as connection:
        await connection.execute("select audit.close_session(%(prefix)s, %(digest)s)", session._asdict())


async def _note_first(database: Database, reader: Reader) -> None:
    """Note that the reader reads, before anything is read. Raises Unreadable when it cannot be noted."""
    if reader.is_noted:
        return
    async with database.noting() as connection:
        await connection.execute(f"select audit.note_reading({_READER})".encode(), _reader_values(reader))
    reader.is_noted = True


async def note_denied_write(
    database: Database, reader: Reader | None, visitor: Visitor, method: str, path: str
) -> None:
    """Note that somebody tried to write; `reader` None: nobody knows who."""
    known = _reader_values(reader) if reader else dict.fromkeys(("workspace_id", "id", "name", "type"))
    # In ASCII, which every database's encoding holds: whoever tries to write chooses the path.
    shown = path.replace("\0", "").encode("ascii", "backslashreplace").decode("ascii")
    values = {**known, **_visitor_values(visitor), "method": method, "path": shown}
    query = f"select audit.note_denied_write({_READER}, %(method)s, %(path)s)"
    async with database.noting() as connection:
        await connection.execute(query.encode(), values)


def _reader_values(reader: Reader) -> dict[str, object]:
    named = {"workspace_id": reader.workspace_id, "id": reader.id, "name": reader.name, "type": reader.type}
    return {**named, **_visitor_values(reader.visitor)}


def _visitor_values(visitor: Visitor) -> dict[str, object]:
    return {"ip": visitor.address, "user_agent": visitor.user_agent}


@asynccontextmanager
async def _reading(database: Database, reader: Reader) -> AsyncIterator[Connection]:
    """What a workspace's reader sees: noted first, then read. Raises Unreadable when either fails."""
    await _note_first(database, reader)
    async with database.reading(reader.workspace_id) as connection:
        yield connection


class Large:
    """A value too large to come with its row: `before` or `after` of an entry, or of the row of it at `place`.

    No tuple and no dataclass, which msgspec would write as it is.
    """

    def __init__(self, column: str, entry_id: UUID, created_at: datetime, place: str | None) -> None:
        self.column = column
        self.entry_id = entry_id
        self.created_at = created_at
        self.place = place


# An entry, and the first rows of a bulk one.
Exported = tuple[Row, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Export:
    """All entries that meet the filters, in one snapshot: how many, and they themselves, newest first, in batches.

    Each entry comes with the first rows of a bulk one. Where a value is Large, `read` gives its JSON piece by piece.
    """

    count: int
    batches: AsyncIterator[Sequence[Exported]]
    read: Callable[[Large], AsyncGenerator[bytes, None]]


@asynccontextmanager
async def exporting(
    database: Database, reader: Reader, listing: Listing, given: Mapping[str, Sequence[str]], *, with_changes: bool
) -> AsyncIterator[Export]:
    """An export, recorded with the filter as it was `given` before its first entry is read.

    `with_changes` asks for the first rows of bulk entries too. Raises Unreadable when it cannot be read or recorded.
    """
    filters = _filters(listing)
    await _note_first(database, reader)
    async with database.exporting(reader.workspace_id) as connection:
        counting, _ = page_statements(filters)
        count = await _count(await connection.execute(counting.encode(), filters))
        noted = {**_reader_values(reader), "filter": Jsonb(given, msgspec.json.encode), "row_count": count}
        async with database.noting() as noting:
            await noting.execute(f"select audit.note_export({_READER}, %(filter)s, %(row_count)s)".encode(), noted)
        async with aclosing(_exported(connection, filters, listing.expand, with_changes)) as batches:
            yield Export(count, batches, lambda large: _read_large(connection, large))


async def _exported(
    connection: Connection, filters: Mapping[str, Any], expand: frozenset[str], with_changes: bool
) -> AsyncGenerator[Sequence[Exported], None]:
    columns = _columns(expand)
    names = [column.rpartition(" as ")[2] for column in columns.split(", ")]
    selecting = _without_large(f"{_entries(columns, filters)} order by created_at desc, id desc", names)
    async with connection.cursor(name="entries") as cursor:
        await cursor.execute(selecting.encode(), {**filters, "largest": LARGEST_AT_ONCE})
        while rows := await cursor.fetchmany(EXPORTED_AT_ONCE):
            _mark_large(rows, "id")
            bulk = [row for row in rows if row["row_count"] > 1] if with_changes else []
            if not bulk:
                yield [(row, ()) for row in rows]
                continue
            async with aclosing(_exported_changes(connection, bulk)) as changes:
                ahead = await anext(changes, None)
                for row in rows:
                    own = []
                    while ahead is not None and ahead["entry_id"] == row["id"]:
                        own.append(ahead)
                        ahead = await anext(changes, None)
                    yield [(row, own)]


async def _exported_changes(connection: Connection, bulk: Sequence[Row]) -> AsyncGenerator[Row, None]:
    """The first rows of these bulk entries, in their order, one more of each than are shown."""
    moments = [entry["created_at"] for entry in bulk]
    values = {
        "ids": [entry["id"] for entry in bulk],
        "moments": moments,
        "first": min(moments),
        "last": max(moments),
        "largest": LARGEST_AT_ONCE,
    }
    # Not the view: a row of a table without a key is known by its place alone.
    first = f"""
        select wanted.id as entry_id, wanted.moment as created_at, found.*
        from unnest(%(ids)s::uuid[], %(moments)s::timestamptz[]) with ordinality as wanted (id, moment, number)
        cross join lateral (
            select {CHANGE_COLUMNS}, ctid as place
            from audit.change
            where created_at between %(first)s and %(last)s
              and entry_id = wanted.id and created_at = wanted.moment
            limit {SHOWN_CHANGES + 1}) as found
        order by wanted.number, {_ORDER_OF_CHANGES}"""
    selecting = _without_large(first, ["entry_id", "created_at", "place", *CHANGE_COLUMNS.split(", ")])
    async with connection.cursor(name="changes") as cursor:
        await cursor.execute(selecting.encode(), values)
        while rows := await cursor.fetchmany(EXPORTED_AT_ONCE):
            _mark_large(rows, "entry_id")
            for row in rows:
                yield row


def _without_large(selecting: str, names: Sequence[str]) -> str:
    """The same rows in the same order, with what is `largest` in bytes, or less, of `before` and `after`.

    Whether one is larger is told by its size as it is stored where that is enough: most large ones are not read for it.
    """
    values = [name for name in LARGE if name in names]
    if not values:
        return selecting
    sizes = [f"pg_column_size({v}) > %(largest)s or octet_length({v}::text) > %(largest)s as large_{v}" for v in values]
    kept = [f"case when not large_{name} then {name} end as {name}" if name in values else name for name in names]
    large = " || ".join(f"case when large_{name} then '{name} ' else '' end" for name in values)
    # Each size is computed once, after the order: OFFSET 0 keeps the parts from becoming one.
    return f"""
        select {", ".join(kept)}, {large} as large
        from (select *, {", ".join(sizes)} from ({selecting}) as ordered offset 0) as sized"""


def _mark_large(rows: Sequence[Row], entry_id: str) -> None:
    for row in rows:
        for column in row.pop("large", "").split():
            row[column] = Large(column, row[entry_id], row["created_at"], row.get("place"))


async def _read_large(connection: Connection, large: Large) -> AsyncGenerator[bytes, None]:
    """The JSON of a value, piece by piece; where a piece ends a character may be cut."""
    own = "audit.timeline where id = %(entry_id)s"
    of_row = "audit.change where entry_id = %(entry_id)s and ctid = %(place)s::tid"
    # The value is made text once; the pieces come in the order of their numbers, of which each has one row to go by.
    selecting = f"""
        select substring(value from number * {PIECE} + 1 for {PIECE}) as piece
        from (select convert_to({large.column}::text, 'UTF8') as value
              from {own if large.place is None else of_row} and created_at = %(created_at)s offset 0) as held
        cross join lateral generate_series(0, (octet_length(value) - 1) / {PIECE}) as number"""
    async with connection.cursor(name="pieces", binary=True) as cursor:
        await cursor.execute(selecting.encode(), vars(large))
        while row := await cursor.fetchone():
            yield row["piece"]


async def find_entries(database: Database, reader: Reader, listing: Listing, *, for_page: bool = False) -> Found:
    """A page of entries, newest first. Raises InvalidPage past the end.

    `for_page` asks for what the web page shows instead of `listing.expand`.
    """
    filters = _filters(listing)
    counting, selecting = page_statements(filters, listing.expand, for_page=for_page)
    return await _find(database, reader, counting, selecting, filters, listing.page, listing.page_size)


def page_statements(
    filters: Mapping[str, Any], expand: frozenset[str] = frozenset(), *, for_page: bool = False
) -> tuple[str, str]:
    """The statements that count the entries that meet the filters, and that select a page of them.

    The page is bound as `limit` and `offset`.
    """
    columns = "*" if for_page else _columns(expand)
    counting = f"select count(*) as count from ({_entries('1', filters)}) as entry"
    selecting = f"""
        select {f"{PAGE_COLUMNS}, {VALUES}" if for_page else "*"}
        from ({_entries(columns, filters)}
              order by created_at desc, id desc
              limit %(limit)s offset %(offset)s) as entry
        order by created_at desc, id desc"""
    return counting, selecting


def _filters(listing: Listing) -> dict[str, Any]:
    return {**listing.filters, "since": listing.since}


async def find_changes(
    database: Database, reader: Reader, entry: Row, page: Page, page_size: int, *, for_page: bool = False
) -> Found:
    """A page of an entry's changed rows, by resource id. Raises InvalidPage past the end."""
    if entry["row_count"] <= 1:
        return _only_page(own_changes(entry), page, page_size)
    values = {"id": entry["id"], "created_at": entry["created_at"]}
    source = "audit.timeline_change where entry_id = %(id)s and created_at = %(created_at)s"
    columns = f"resource_id, resource_name, row_key, {VALUES}" if for_page else CHANGE_COLUMNS
    selecting = f"select {columns} from {source} order by {_ORDER_OF_CHANGES} limit %(limit)s offset %(offset)s"
    return await _find(database, reader, f"select count(*) as count from {source}", selecting, values, page, page_size)


def own_changes(entry: Row) -> list[Row]:
    """The changed row that stands in the entry itself: none for bulk entries, events and TRUNCATE."""
    return [entry] if entry["row_count"] == 1 and entry["operation"] not in ("EVENT", "TRUNCATE") else []


async def find_entry(database: Database, reader: Reader, entry_id: str, *, for_page: bool = False) -> Row:
    """The entry of this id with all that is known of it. Raises NotFound, whatever the reason."""
    filters = {"since": reader.oldest, **_moment_of(entry_id)}
    selecting = _entries(f"{PAGE_COLUMNS}, {VALUES}" if for_page else _columns(EXPANSIONS), filters)
    async with _reading(database, reader) as connection:
        row = await (await connection.execute(selecting.encode(), filters)).fetchone()
    if row is None:
        raise NotFound
    return row


async def first_changes(database: Database, reader: Reader, entries: Iterable[Row]) -> dict[UUID, list[Row]]:
    """For each bulk entry among these its first rows, one more than are shown, in one query."""
    async with _reading(database, reader) as connection:
        return await _first_changes(connection, entries)


async def _first_changes(connection: Connection, entries: Iterable[Row]) -> dict[UUID, list[Row]]:
    bulk = [(entry["id"], entry["created_at"]) for entry in entries if entry["row_count"] > 1]
    if not bulk:
        return {}
    values = {
        "ids": [entry_id for entry_id, _ in bulk],
        "moments": [moment for _, moment in bulk],
        "first": min(moment for _, moment in bulk),
        "last": max(moment for _, moment in bulk),
    }
    selecting = f"""
        select wanted.id as entry_id, found.*
        from unnest(%(ids)s::uuid[], %(moments)s::timestamptz[]) as wanted (id, moment)
        cross join lateral (
            select {CHANGE_COLUMNS}
            from audit.timeline_change
            where created_at between %(first)s and %(last)s
              and entry_id = wanted.id and created_at = wanted.moment
            limit {SHOWN_CHANGES + 1}) as found
        order by wanted.id, {_ORDER_OF_CHANGES}"""
    found: dict[UUID, list[Row]] = {entry_id: [] for entry_id, _ in bulk}
    for row in await (await connection.execute(selecting.encode(), values)).fetchall():
        found[row.pop("entry_id")].append(row)
    return found


async def upkeep_is_late(database: Database) -> bool:
    """Whether the log's upkeep has not run when it should have."""
    async with database.reading() as connection:
        row = await (await connection.execute("select audit.upkeep_is_late() as late")).fetchone()
    return bool(row and row["late"])


# By length first: numbers then stand in their own order, and keys of one length in the order of their bytes.
_ORDER_OF_CHANGES = (
    "length(resource_id), resource_id, length(coalesce(row_key, resource_id)), coalesce(row_key, resource_id)"
)


async def _find(
    database: Database,
    reader: Reader,
    counting: str,
    selecting: str,
    values: Mapping[str, Any],
    page: Page,
    page_size: int,
) -> Found:
    async with _reading(database, reader) as connection:
        counted = await connection.execute(counting.encode(), values)
        # Only the last page must know the count before its rows can be asked for.
        count = await _count(counted) if page == "last" else None
        number = max(1, -(-(count or 0) // page_size)) if page == "last" else page
        bounds = {"limit": page_size, "offset": (number - 1) * page_size}
        selected = await connection.execute(selecting.encode(), {**values, **bounds})
        count = await _count(counted) if count is None else count
        found = Found(count, number, page_size, await selected.fetchall())
    if found.page > found.total_pages:
        raise InvalidPage
    return found


def _only_page(rows: Sequence[Row], page: Page, page_size: int) -> Found:
    if page not in (1, "last"):
        raise InvalidPage
    return Found(len(rows), 1, page_size, rows)


def _entries(columns: str, filters: Mapping[str, Any]) -> str:
    """The SELECT of the entries that meet the filters, without order.

    An entry is touched through its own resource or through one of its rows; the two parts have no entry in common.
    """
    where = " and ".join(CLAUSES[name] for name in filters if name in CLAUSES)
    touching = [TOUCHING[name] for name in filters if name in TOUCHING]
    if not touching:
        return f"select {columns} from audit.timeline where {where}"
    own = " and ".join(touching)
    bounds = " and ".join(CLAUSES[name] for name in BOUNDS if name in filters)
    return f"""
        select {columns} from audit.timeline where {where} and ({own})
        union all
        select {columns} from audit.timeline where {where} and ({own}) is not true and row_count > 1
        and (id, created_at) in (select entry_id, created_at from audit.timeline_change where {bounds} and {own})"""


def _columns(expand: Iterable[str]) -> str:
    wanted = ", ".join([COLUMNS, *(EXPANSIONS[name] for name in EXPANSIONS if name in expand)])
    return ", ".join(dict.fromkeys(column.strip() for column in wanted.split(",")))


def _moment_of(entry_id: str) -> dict[str, object]:
    """The id and the moment that its first 60 bits carry (RFC 9562, 5.7). Raises NotFound for what is no such id."""
    try:
        found = UUID(entry_id)
    except ValueError:
        raise NotFound from None
    milliseconds, microseconds = found.int >> 80, found.int >> 64 & 0xFFF
    if found.version != 7 or str(found) != entry_id.lower():
        raise NotFound
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds, microseconds=microseconds)
    except OverflowError:
        raise NotFound from None
    return {"id": found, "created_at": moment}


async def _count(counted: Any) -> int:
    row = await counted.fetchone()
    return int(row["count"])
