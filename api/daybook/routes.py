"""Routes are the REST app's handlers: one expression each, and the dependencies that read the request for them.

They know no SQL; what a parameter means stands in parameters.py, what an answer looks like in answers.py.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from anyio import CancelScope
from litestar import Request, Router, get
from litestar.background_tasks import BackgroundTask
from litestar.di import NamedDependency, Provide
from litestar.params import Parameter, SkipValidation
from litestar.response import Stream
from litestar.types import HTTPScope

from . import answers, queries
from .addresses import Pairs, base_url, client_address, parse_query, with_parameter
from .answers import ENTRY_PATH, ChangePage, Entry, EntryPage, FacetPage, Health, IntegrityAnswer
from .authentication import Authentication
from .credentials import Reader, Visitor
from .database import Database, Row
from .errors import Refusal, Unreadable
from .exports import CSV_EXPANSIONS, Pieces, compress, takes_gzip, write_csv, write_ndjson
from .front import CUT_SHORT, WITHOUT_BODY
from .openapi import (
    HEALTH,
    HEALTH_REFUSALS,
    REFUSALS,
    SECURITY,
    ChangesOperation,
    CsvOperation,
    EntryOperation,
    FacetsOperation,
    NdjsonOperation,
    ResourceOperation,
    WorkspaceOperation,
)
from .parameters import Listing, given_filters, parse_expand, parse_facets, parse_listing, parse_page, parse_page_size
from .settings import Settings

WORKSPACE_PATH = "/api/v1/notification/workspace/"
RESOURCE_PATH = "/api/v1/notification/resource/"
FACETS_PATH = "/api/v1/notification/facets/"
INTEGRITY_PATH = "/api/v1/notification/integrity/"
EXPORT_PATH = "/api/v1/notification/export."
LONGEST_USER_AGENT = 250


class Asked(NamedTuple):
    """Where a request was sent: the base of absolute URLs, and its parameters."""

    base: str
    query: Pairs


AnyRequest = Request[Any, Any, Any]
Writer = Callable[[queries.Export], Pieces]
TheDatabase = NamedDependency[SkipValidation[Database]]
TheSettings = NamedDependency[SkipValidation[Settings]]
TheAuthentication = NamedDependency[SkipValidation[Authentication]]
TheReader = NamedDependency[SkipValidation[Reader]]
TheListing = NamedDependency[SkipValidation[Listing]]
TheRequest = NamedDependency[SkipValidation[Asked]]
TheEntry = NamedDependency[SkipValidation[Row]]
EntryId = Annotated[str, Parameter(description="An entry's id: a UUID, version 7.")]


async def provide_asked(request: AnyRequest, settings: TheSettings) -> Asked:
    """The base URL and the parameters of the request."""
    return asked_by(request, settings)


def asked_by(request: AnyRequest, settings: Settings) -> Asked:
    """The base URL and the parameters of a request."""
    scope = request.scope
    client, server = scope.get("client"), scope.get("server")
    listening = f"{server[0]}:{server[1]}" if server else "localhost"
    base = base_url(settings, scope["scheme"], scope["headers"], client[0] if client else None, listening)
    return Asked(base, parse_query(scope["query_string"]))


def visitor_of(scope: HTTPScope, settings: Settings) -> Visitor:
    """Where a request comes from; of the user agent what an entry keeps of it."""
    client = scope.get("client")
    agents = [value for name, value in scope["headers"] if name.lower() == b"user-agent"]
    # In ASCII, which every database's encoding holds: noting who reads must not fail by it.
    agent = agents[0][:LONGEST_USER_AGENT].decode("ascii", "backslashreplace") if agents else None
    return Visitor(client_address(settings, scope["headers"], client[0] if client else None), agent)


async def provide_reader(request: AnyRequest, authentication: TheAuthentication, settings: TheSettings) -> Reader:
    """The reader that the request comes from. Raises NotAuthenticated, then PermissionDenied."""
    return await authentication.reader(request.scope["headers"], visitor_of(request.scope, settings))


# The reader comes first in each of these, so that credentials are judged before parameters.
async def provide_workspace_listing(reader: TheReader, asked: TheRequest) -> Listing:
    """What the request asks of the workspace's list."""
    return parse_listing(asked.query, reader)


async def provide_resource_listing(reader: TheReader, asked: TheRequest) -> Listing:
    """What the request asks of a resource's list."""
    return parse_listing(asked.query, reader, resource_required=True)


async def provide_export_listing(reader: TheReader, asked: TheRequest) -> Listing:
    """What the request asks to have exported: all pages."""
    return parse_listing(asked.query, reader, paged=False)


async def provide_entry(reader: TheReader, database: TheDatabase, entry_id: EntryId) -> Row:
    """The entry that the path names. Raises NotFound."""
    return await queries.find_entry(database, reader, entry_id)


async def provide_facet_listing(reader: TheReader, asked: TheRequest) -> Listing:
    """What the request asks of the facets."""
    return parse_facets(asked.query, reader)


async def _entries(path: str, database: Database, reader: Reader, listing: Listing, asked: Asked) -> EntryPage:
    query = asked.query
    if listing.frozen:
        query = with_parameter(query, "as_of", listing.frozen.write(reader.workspace_id))
    if listing.cursor:
        step = await queries.find_step(database, reader, listing, listing.cursor)
        changes = await _first_changes(database, reader, step.rows, listing)
        return answers.entry_step(step, asked.base, path, query, listing.expand, changes)
    found = await queries.find_entries(database, reader, listing)
    changes = await _first_changes(database, reader, found.rows, listing)
    return answers.entry_page(found, asked.base, path, query, listing.expand, changes)


async def _first_changes(
    database: Database, reader: Reader, rows: Sequence[Row], listing: Listing
) -> Mapping[UUID, Sequence[Row]]:
    return await queries.first_changes(database, reader, rows) if "changes" in listing.expand else {}


@get(
    WORKSPACE_PATH,
    dependencies={"listing": Provide(provide_workspace_listing)},
    operation_class=WorkspaceOperation,
    responses=REFUSALS,
    security=SECURITY,
    summary="The workspace's entries",
)
async def list_workspace(database: TheDatabase, reader: TheReader, listing: TheListing, asked: TheRequest) -> EntryPage:
    """The entries of the key's workspace, newest first."""
    return await _entries(WORKSPACE_PATH, database, reader, listing, asked)


@get(
    RESOURCE_PATH,
    dependencies={"listing": Provide(provide_resource_listing)},
    operation_class=ResourceOperation,
    responses=REFUSALS,
    security=SECURITY,
    summary="A resource's entries",
)
async def list_resource(database: TheDatabase, reader: TheReader, listing: TheListing, asked: TheRequest) -> EntryPage:
    """Every entry that touched the resource, newest first: bulk entries and permission changes included."""
    return await _entries(RESOURCE_PATH, database, reader, listing, asked)


@get(
    ENTRY_PATH + "{entry_id:str}/",
    dependencies={"entry": Provide(provide_entry)},
    operation_class=EntryOperation,
    responses=REFUSALS,
    security=SECURITY,
    summary="One entry",
)
async def show_entry(database: TheDatabase, reader: TheReader, entry: TheEntry, asked: TheRequest) -> Entry:
    """One entry by its id; one that is unknown, malformed or of another workspace is not found."""
    expand = parse_expand(asked.query)
    changes = await queries.first_changes(database, reader, [entry])
    return answers.write_entry(entry, asked.base, expand, changes)


@get(
    ENTRY_PATH + "{entry_id:str}/changes/",
    dependencies={"entry": Provide(provide_entry)},
    operation_class=ChangesOperation,
    responses=REFUSALS,
    security=SECURITY,
    summary="All changed rows of an entry",
)
async def list_changes(database: TheDatabase, reader: TheReader, entry: TheEntry, asked: TheRequest) -> ChangePage:
    """All changed rows of an entry, by resource id (shorter ones first); events and TRUNCATE have none."""
    page, page_size = parse_page(asked.query), parse_page_size(asked.query)
    found = await queries.find_changes(database, reader, entry, page, page_size)
    return answers.change_page(found, asked.base, answers.changes_path(entry["id"]), asked.query)


@get(
    FACETS_PATH,
    dependencies={"listing": Provide(provide_facet_listing)},
    operation_class=FacetsOperation,
    responses=REFUSALS,
    security=SECURITY,
    summary="How many entries of each kind",
)
async def show_facets(database: TheDatabase, reader: TheReader, listing: TheListing) -> FacetPage:
    """How many entries there are by event, kind of resource, performer and day: what menus and a histogram show."""
    return answers.facet_page(await queries.find_facets(database, reader, listing))


@get(INTEGRITY_PATH, responses=REFUSALS, security=SECURITY, summary="How the log's seals stand")
async def show_integrity(database: TheDatabase, reader: TheReader) -> IntegrityAnswer:
    """Until when the log is sealed, and what the last verification found: of the whole log, and of this workspace."""
    return answers.integrity_answer(await queries.find_integrity(database, reader))


async def export_entries(
    database: Database,
    reader: Reader,
    listing: Listing,
    given: Mapping[str, Sequence[str]],
    write: Writer,
    with_changes: bool,
) -> Pieces:
    """An export, piece by piece, recorded with the filters as they were `given`.

    The first piece is empty and comes when everything is ready and recorded.
    """
    async with (
        queries.exporting(database, reader, listing, given, with_changes=with_changes) as export,
        aclosing(write(export)) as pieces,
    ):
        yield b""
        async for piece in pieces:
            yield piece


async def stream_export(request: AnyRequest, export: Pieces, name: str) -> Stream:
    """The answer with an export whose refusals have been raised by now; a HEAD begins none."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Vary": "Accept-Encoding"}
    gzip = takes_gzip(request.scope["headers"])
    if gzip:
        headers["Content-Encoding"] = "gzip"
    if request.scope.get(WITHOUT_BODY):
        return Stream(_nothing(), headers=headers)
    await anext(export)
    pieces = compress(export) if gzip else export
    # Not left to the garbage collector: a client that goes away frees the connection at once.
    return Stream(_undisturbed(pieces, request.scope), headers=headers, background=BackgroundTask(_end, pieces, export))


async def _undisturbed(pieces: Pieces, scope: HTTPScope) -> Pieces:
    """The pieces of an export, each made by a task of its own, which is cancelled when the client goes away.

    Cancelled once, it has its query ended by the server and the connection closed; a cancel scope would interrupt that
    too. An export that cannot go on ends the client's connection before its last chunk (RFC 9112, 8).
    """
    cut_short: Any = (scope.get("extensions") or {}).get(CUT_SHORT)
    while True:
        making = asyncio.ensure_future(anext(pieces, None))
        try:
            piece = await asyncio.shield(making)
        except asyncio.CancelledError:
            making.cancel()
            with CancelScope(shield=True):
                await asyncio.wait([making])
            raise
        except Refusal:
            if cut_short is None:
                raise
            cut_short["now"]()
            # What follows on a lost connection cancels this.
            piece = await asyncio.get_running_loop().create_future()
        if piece is None:
            return
        yield piece


async def _end(*generators: Pieces) -> None:
    for generator in generators:
        await generator.aclose()


async def _nothing() -> Pieces:
    yield b""


@get(
    EXPORT_PATH + "ndjson",
    dependencies={"listing": Provide(provide_export_listing)},
    media_type="application/x-ndjson",
    operation_class=NdjsonOperation,
    responses=REFUSALS,
    security=SECURITY,
    summary="The workspace's entries, all of them, one JSON object a line",
)
async def export_ndjson(
    request: AnyRequest, database: TheDatabase, reader: TheReader, listing: TheListing, asked: TheRequest
) -> Stream:
    """All entries that meet the filters, newest first; the last line is a manifest, without which it was cut short."""
    write = partial(write_ndjson, base=asked.base, expand=listing.expand)
    export = export_entries(database, reader, listing, given_filters(asked.query), write, "changes" in listing.expand)
    return await stream_export(request, export, "audit-log.ndjson")


@get(
    EXPORT_PATH + "csv",
    dependencies={"listing": Provide(provide_export_listing)},
    media_type="text/csv; header=present",
    operation_class=CsvOperation,
    responses=REFUSALS,
    security=SECURITY,
    summary="The workspace's entries, all of them, as CSV",
)
async def export_csv(
    request: AnyRequest, database: TheDatabase, reader: TheReader, listing: TheListing, asked: TheRequest
) -> Stream:
    """All entries that meet the filters, newest first (RFC 4180); the rows of bulk entries are not in it."""
    whole = replace(listing, expand=CSV_EXPANSIONS)
    export = export_entries(database, reader, whole, given_filters(asked.query), write_csv, False)
    return await stream_export(request, export, "audit-log.csv")


@get(HEALTH, responses=HEALTH_REFUSALS, summary="Whether the log can be read")
async def show_health(database: TheDatabase) -> Health:
    """Whether the log can be read and is being looked after; needs no credentials."""
    if await queries.upkeep_is_late(database):
        raise Unreadable("The log's upkeep is late.")
    return Health("ok")


def make_router() -> Router:
    """All routes of the REST app; they need the dependencies `database`, `authentication` and `settings`."""
    return Router(
        "/",
        route_handlers=[
            list_workspace,
            list_resource,
            show_entry,
            list_changes,
            show_facets,
            show_integrity,
            export_ndjson,
            export_csv,
            show_health,
        ],
        dependencies={"asked": Provide(provide_asked), "reader": Provide(provide_reader)},
    )
